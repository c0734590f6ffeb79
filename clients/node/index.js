// pg-saga: sagas of PostgreSQL from Node, without any magic over their SQL.  run() goes
// through the steps that this program does; serve() does what the server hands out.
//
// Constraint.  Nothing is remembered here.  What a program that starts again must know is
// in the database, and a repetition is recognized by the keys of sagas and steps.
'use strict';

const { randomUUID } = require('node:crypto');
const { Database, call } = require('./lib/database');
const { run } = require('./lib/run');
const { Service } = require('./lib/serve');
const {
  SagaError, SagaNotFound, InvalidSagaState, IdempotencyConflict, StepNotFound, SagaFailing, DoNotRetry, RetryLater,
  SagaUnavailable, LimitExceeded, PermissionDenied, Interrupted, UsageError, classify,
} = require('./lib/errors');

class Saga {
  /** @param connection a pg.Pool, or what makes one; without it, PG* of the environment */
  constructor(connection) { this.db = new Database(connection); }

  /** Runs the saga of that name and key, or goes on with it.  Returns its result. */
  async run(name, key, input, options, work) {
    return typeof options === 'function' ? run(this.db, name, key, input, {}, options) : run(this.db, name, key, input, options, work);
  }

  /** Does what waits on a channel, until its stop() is called. */
  serve(channel, handler, options = {}) { return new Service(this.db, channel, handler, options); }

  /** The rows of any function of the schema saga, by named arguments; of a value, in a column of its name.  Made once. */
  async sql(name, args = {}) {
    try { return await this.db.query(call(name, args)); } catch (e) { throw classify(e); }
  }

  /** Waits until a saga rests, or for the state `until`; a minute, or `timeout`.  Returns its state. */
  async wait(saga_id, { timeout, until } = {}) { return (await this.db.waiting('wait', { saga_id, timeout, until }))[0].wait; }

  /** Sends a signal, once.  Returns the state of the saga. */
  async signal(saga_id, signal, payload, { idempotency_key = randomUUID(), late } = {}) {
    return (await this.db.sql('signal', { saga_id, signal, payload, idempotency_key, late }))[0].signal;
  }

  /** Ends the pool, if it was made here. */
  async close() { if (this.db.mine) await this.db.pool.end(); }
}

module.exports = {
  Saga, SagaError, SagaNotFound, InvalidSagaState, IdempotencyConflict, StepNotFound, SagaFailing, DoNotRetry, RetryLater,
  SagaUnavailable, LimitExceeded, PermissionDenied, Interrupted, UsageError,
};
