// The errors: a class for each SQLSTATE of saga's, and what an error means for the call
// that met it.
//
// Constraint.  An error that a caller's function threw is told from ours by how it came
// (Thrown), not by what it is: both may be errors of PostgreSQL, or of saga.
'use strict';

/** What saga raises.  `code` is the SQLSTATE; `detail` and `hint` are the server's, `cause` is the driver's error. */
class SagaError extends Error {
  constructor(message, properties = {}) {
    super(message);
    Object.assign(this, properties).name = new.target.name;
  }
}
class SagaNotFound extends SagaError { }
class InvalidSagaState extends SagaError { }
class IdempotencyConflict extends SagaError { }
class StepNotFound extends SagaError { }
/** The saga has failed, and is being undone or was: `saga_id`, `state`, `reason`. */
class SagaFailing extends SagaError { }
/** To throw: there is no point in trying again. */
class DoNotRetry extends SagaError { }
/** To throw in a handler of serve(): later, after '30 seconds', or so many. */
class RetryLater extends SagaError {
  constructor(message, retry_after, properties) { super(message, { ...properties, retry_after }); }
}
class SagaUnavailable extends SagaError { }
class LimitExceeded extends SagaError { }
class PermissionDenied extends SagaError { }
/** Nobody knows how far this came; the saga is left as it is, and running it again goes on. */
class Interrupted extends SagaError { }
/** A fault of the program that would do harm one day. */
class UsageError extends SagaError { }

const BY_CODE = {
  SG001: SagaNotFound, SG002: InvalidSagaState, SG003: IdempotencyConflict, SG004: StepNotFound, SG005: SagaFailing,
  SG006: DoNotRetry, SG007: RetryLater, SG008: SagaUnavailable, SG009: LimitExceeded, SG010: PermissionDenied,
};

/** The error of the driver, in the class of its SQLSTATE. */
function classify(e) {
  const Class = BY_CODE[e?.code];
  if (!Class || e instanceof SagaError) return e;
  const properties = { code: e.code, detail: e.detail, hint: e.hint, cause: e };
  return Class === RetryLater ? new Class(e.message, undefined, properties) : new Class(e.message, properties);
}

/** An error of a caller's function, on its way through ours. */
class Thrown {
  constructor(error) { this.error = error; }
}
/** The end of a transaction whose connection was lost: perhaps it is committed. */
class Lost extends Thrown { }

const theirs = async (work) => { try { return await work(); } catch (e) { throw new Thrown(e); } };
const unwrap = (e) => (e instanceof Thrown ? e.error : e);
const words = (e) => String(e?.message || e).replaceAll('\0', '');

// A connection that is lost or refused; a server that starts, stops, is full or a
// standby.  And another transaction that was in the way.
const GONE = /^(08...|57P0[1235]|53300|25006|EAI_AGAIN|E[A-Z]+)$/;
const CONFLICT = /^(40001|40P01|55P03)$/;

/** May the same call succeed in a moment? */
function passes(e) {
  if (e instanceof Thrown) return e instanceof Lost || CONFLICT.test(e.error?.code);
  if (e?.code) return GONE.test(e.code) || CONFLICT.test(e.code);
  return /^(Connection terminated|timeout ex|Client (has|was) )/.test(e?.message);
}

/** Is it the value that the server refuses, or its size?  It always will. */
const refuses = (e) => /^(22...|54...|SG009)$/.test(e?.code);

module.exports = {
  SagaError, SagaNotFound, InvalidSagaState, IdempotencyConflict, StepNotFound, SagaFailing, DoNotRetry, RetryLater,
  SagaUnavailable, LimitExceeded, PermissionDenied, Interrupted, UsageError, classify, theirs, unwrap, words, passes, refuses, Thrown, Lost,
};
