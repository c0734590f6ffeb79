/*-------------------------------------------------------------------------
 *
 * outcome.c
 *	  How an attempt of an action, a task or a compensation ended, and what that
 *	  means for its step.  A round of an action is entered here, too.
 *
 * What is charged, what is free, when it is tried again, and when it is given
 * up for a person to settle: see the table in doc/reference.md.  Only the
 * step's row in memory is changed; change.c writes it.
 *
 * Errors of SQL.  An SQLSTATE says what happened, not who did it: SQL can raise
 * any of them, and hand on those of other servers.  So an error is judged by
 * what is known of its cause, then by where it came from, and only what came
 * from the SQL by its code.  (Cursors WITH HOLD run at commit, so that what is
 * raised there may be the SQL's.  Settings that were kept with the step and
 * cannot be set again count as its SQL: a person must know.)
 *
 *						preparing		the SQL			marking			commit
 *	saga changed		-				-				interrupted		-
 *	timeout				timed out		timed out		timed out		timed out
 *	another's cancel	interrupted		interrupted		interrupted		interrupted
 *	its own cancel		-				failed			failed			failed
 *	SG006				interrupted		given up		interrupted		given up
 *	SG007				interrupted		deferred		interrupted		deferred
 *	40001 40P01 55P03	interrupted		conflict		conflict		conflict
 *	53xxx 58xxx XXxxx	waits			failed			interrupted		interrupted
 *	25006				waits			failed			interrupted		failed
 *	any other			interrupted		failed			interrupted		failed
 *
 *	own end of process	-				failed			failed			failed
 *	another's SIGTERM	interrupted		interrupted		interrupted		interrupted
 *	FATAL of no SIGTERM	interrupted		failed			interrupted		interrupted
 *
 * "Failed" and "timed out" are charged.  A conflict is one of the transaction
 * as a whole, wherever it is raised and noticed, and asks for another attempt.
 * Conflicts have a budget of free attempts, and so have interruptions; beyond it
 * they are charged, since the SQL may be the cause even where that cannot be
 * known: it holds all the server's locks, has filled the disk, or ends its
 * process by way of another session.  Only "waits" has no limit: none of the
 * SQL has run when the server cannot record that it is about to, or when the
 * session is read-only before it begins.
 *
 * The table is for actions, too.  But an error of class 42, 3F000, 0A000 or SG009
 * parks an action at once, whatever its policy: most likely a deployment is at fault,
 * which a person mends, and nothing is to be undone for that.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "base/errors.h"
#include "base/guc.h"
#include "base/words.h"
#include "common/pg_prng.h"
#include "flow/outcome.h"
#include "utils/builtins.h"

/*
 * Attempts lost to deadlocks, serialization failures and lock timeouts have a
 * budget of their own: this many are free, with short growing delays, before
 * they are charged like other failures.
 */
#define FREE_CONFLICTS			20
#define CONFLICT_DELAY_MS		10
#define CONFLICT_MAX_DELAY_MS	1000

/* Crashes with nothing else running after which SQL is not run again */
#define MAX_CRASHES_ALONE		3

/*
 * Attempts cut short by no fault of their own are free too, with growing
 * delays; but SQL that ends its own process every time must not go on
 * forever.
 */
#define FREE_INTERRUPTIONS		50
#define INTERRUPTED_DELAY_MS	100
#define INTERRUPTED_MAX_DELAY_MS	60000
/* Number of interruptions from which on the delay does not grow any more */
#define INTERRUPTED_MAX_DELAY_AT	11

static TimestampTz
after_ms(TimestampTz now, int64 ms)
{
	return now + ms * 1000;
}

/* A policy as it is stored */
void
saga_outcome_decode_policy(const text *encoded, SagaPolicy *policy)
{
	if (!saga_policy_decode(text_to_cstring(encoded), policy))
		elog(ERROR, "could not read the retry policy of a step");
}

/* The policy of a step's compensation. */
void
saga_outcome_policy(const SagaStep *step, SagaPolicy *policy)
{
	saga_outcome_decode_policy(step->compensation_retry, policy);
}

/* The policy of a step's work. */
void
saga_outcome_forward_policy(const SagaStep *step, SagaPolicy *policy)
{
	saga_outcome_decode_policy(step->retry ? step->retry : step->compensation_retry, policy);
}

static TimestampTz
retry_at(const SagaPolicy *policy, int count, TimestampTz now)
{
	return after_ms(now,
					saga_policy_retry_delay(policy, count,
											pg_prng_double(&pg_global_prng_state)));
}

/*
 * An attempt that did not succeed: sets when the next is made.  If there is to
 * be none, returns why, in words.
 */
static const char *
charge_attempt(SagaWork *work, const SagaPolicy *policy, const SagaAttemptEnd *end,
			   TimestampTz now)
{
	work->retry_at = 0;
	if (end->sqlstate != NULL)
		work->sqlstate = cstring_to_text(end->sqlstate);
	if (end->error != NULL)
		work->error = cstring_to_text(end->error);

	if (end->park != NULL)
		return end->park;
	/* A person mends it, and then it is tried as often as ever. */
	if (end->forward && end->mend)
		return NULL;
	if (end->suspect)
	{
		work->crashes = Max(work->crashes, 0) + (end->alone ? 1 : 0);
		if (work->crashes >= MAX_CRASHES_ALONE)
			return psprintf("the server crashed %d times while nothing but this %s ran",
							work->crashes, end->forward ? "action" : "compensation");
	}
	if (end->outcome == SAGA_OUTCOME_DEFERRED)
	{
		work->deferrals++;
		if (work->deferrals > saga_guc_max_deferrals)
			return psprintf("it asked to be called later %d times",
							work->deferrals);
		work->retry_at = retry_at(policy, work->deferrals, now);
		return NULL;
	}
	if (end->conflict)
	{
		work->conflicts++;
		if (work->conflicts <= FREE_CONFLICTS)
		{
			double		delay = CONFLICT_DELAY_MS;

			delay *= (double) (1 << Min(work->conflicts - 1, 10));
			delay = Min(delay, CONFLICT_MAX_DELAY_MS);
			delay *= 0.5 + pg_prng_double(&pg_global_prng_state);
			work->retry_at = after_ms(now, (int64) delay);
			return NULL;
		}
	}
	if (!end->charged && !end->conflict)
	{
		/* Waiting makes the delays longer; it takes no more of the budget. */
		if (!end->waits || work->interruptions < INTERRUPTED_MAX_DELAY_AT)
			work->interruptions++;
		if (end->suspect)
		{
			work->retry_at = now;
			return NULL;
		}
		if (end->waits || work->interruptions <= FREE_INTERRUPTIONS)
		{
			double		delay = INTERRUPTED_DELAY_MS;

			delay *= (double) (1 << Min(work->interruptions - 1, 10));
			delay = Min(delay, INTERRUPTED_MAX_DELAY_MS);
			work->retry_at = after_ms(now, (int64) delay);
			return NULL;
		}
	}

	work->charged++;
	if (work->charged >= policy->max_attempts)
		return psprintf("retries exhausted after %d attempt%s: %s",
						work->charged, work->charged == 1 ? "" : "s",
						end->error ? end->error : "timed out");
	if (end->retry_after > 0)
		work->retry_at = after_ms(now, end->retry_after);
	else
		work->retry_at = retry_at(policy, work->charged, now);
	return NULL;
}

/* An attempt of a compensation that did not succeed. */
static void
take_failure(SagaStep *step, const SagaAttemptEnd *end, TimestampTz now)
{
	SagaPolicy	policy;
	const char *why;

	saga_outcome_policy(step, &policy);
	why = charge_attempt(&step->undo, &policy, end, now);
	step->comp_status = why != NULL ? SAGA_COMP_FAILED : SAGA_COMP_PENDING;
	/* What a late result asks a person stays asked. */
	if (why != NULL && !step->late)
		step->parked = cstring_to_text(why);
}

/* Gives a work all its attempts again. */
static void
forgive(SagaWork *work)
{
	work->retry_at = 0;
	work->charged = 0;
	work->deferrals = 0;
	work->conflicts = 0;
	work->interruptions = 0;
	work->crashes = -1;
}

/*
 * A round of a step's action succeeded, and asked for another.  The attempt goes on
 * with it, and has all its budget again.  The next round is due when this one was,
 * unless it is to be later: then the row of the due work stays as it is.
 */
static void
take_round(SagaStep *step, const SagaAttemptEnd *end, TimestampTz now)
{
	TimestampTz due = saga_rows_work_due(step);

	step->status = SAGA_STEP_STARTED;
	step->rounds++;
	step->state = end->state;
	step->attempt_at = end->started_at;
	forgive(&step->forward);
	step->forward.retry_at = end->again_at > now || due == 0 ? end->again_at : due;
}

/*
 * Enters the end of an attempt of a step's work into the step's row.  What follows
 * for the saga is look.c's to say.  The row of a task that is done keeps its consumer.
 */
void
saga_outcome_take_forward(SagaStep *step, const SagaAttemptEnd *end,
						  TimestampTz now)
{
	SagaPolicy	policy;
	const char *why;

	Assert(end->attempt == step->forward.attempts + 1);
	if (end->outcome == SAGA_OUTCOME_SUCCEEDED && end->again)
	{
		take_round(step, end, now);
		return;
	}
	step->forward.attempts = end->attempt;
	step->attempt_at = end->started_at;
	step->claimed_at = 0;
	step->lease_until = 0;
	if (end->outcome == SAGA_OUTCOME_SUCCEEDED)
	{
		if (step->action != NULL)
			step->rounds++;
		step->status = SAGA_STEP_COMPLETED;
		step->completed_at = now;
		step->forward.retry_at = 0;
		step->forward.crashes = -1;
		return;
	}
	step->consumer = NULL;

	saga_outcome_forward_policy(step, &policy);
	step->status = SAGA_STEP_FAILED;
	why = charge_attempt(&step->forward, &policy, end, now);
	if (end->mend || step->forward.crashes >= MAX_CRASHES_ALONE)
	{
		/* No failure of the operation: somebody has to mend something. */
		step->forward.retry_at = 0;
		step->parked = cstring_to_text(end->mend ? end->error : why);
	}
	else if (why != NULL)
		saga_outcome_give_up(step, end->error != NULL &&
							 end->outcome != SAGA_OUTCOME_DEFERRED ?
							 end->error : why, why);
}

/*
 * Gives up the work of a step: it has failed or, if the step says so, a person is
 * asked, and shown why.
 */
void
saga_outcome_give_up(SagaStep *step, const char *error, const char *why)
{
	step->status = SAGA_STEP_FAILED;
	step->forward.retry_at = 0;
	step->forward.error = cstring_to_text(error);
	step->parked = NULL;
	if (step->give_up == SAGA_GIVE_UP_REVIEW)
		step->parked = cstring_to_text(why);
}

/* Gives a step's action or task all its attempts again. */
void
saga_outcome_forgive_forward(SagaStep *step)
{
	forgive(&step->forward);
}

/* Gives a step's compensation all its attempts again. */
void
saga_outcome_forgive(SagaStep *step)
{
	forgive(&step->undo);
}

/* Nobody holds the step any more. */
static void
forget_holder(SagaStep *step)
{
	step->claimed_at = 0;
	step->lease_until = 0;
	step->consumer = NULL;
}

/*
 * Enters the end of an attempt of a compensation into the step's row, which is yet to
 * be written.
 */
void
saga_outcome_take(const SagaRow *saga, SagaStep *step,
				  const SagaAttemptEnd *end, TimestampTz now)
{
	Assert(end->attempt == step->undo.attempts + 1);
	step->undo.attempts = end->attempt;
	forget_holder(step);
	if (end->outcome == SAGA_OUTCOME_SUCCEEDED)
	{
		step->comp_status = SAGA_COMP_COMPENSATED;
		step->compensated_at = now;
		step->undo.retry_at = 0;
		step->undo.crashes = -1;
		if (!step->late)
			step->parked = NULL;
	}

	/*
	 * Meanwhile it was settled otherwise, or its saga went forward again: the
	 * attempt only has its number.
	 */
	else if (step->comp_status != SAGA_COMP_COMPENSATED &&
			 step->comp_status != SAGA_COMP_SKIPPED &&
			 saga->state != SAGA_RUNNING && saga->state != SAGA_COMPLETED)
		take_failure(step, end, now);
}

/* Is it an error that the server, or the machine, has with whatever is done? */
static bool
is_trouble(int code)
{
	switch (ERRCODE_TO_CATEGORY(code))
	{
		case ERRCODE_INSUFFICIENT_RESOURCES:
		case ERRCODE_SYSTEM_ERROR:
		case ERRCODE_INTERNAL_ERROR:
			return true;
		default:
			return false;
	}
}

/* What an error means that, as far as is known, the SQL has caused. */
static void
judge_code(SagaAttemptPhase phase, int code, SagaAttemptEnd *end)
{
	bool		of_sql = phase == SAGA_ATTEMPT_SQL ||
		phase == SAGA_ATTEMPT_COMMITTING;

	/* Most likely a deployment's fault: undoing would not mend it. */
	end->mend = of_sql &&
		(ERRCODE_TO_CATEGORY(code) == ERRCODE_SYNTAX_ERROR_OR_ACCESS_RULE_VIOLATION ||
		 code == ERRCODE_INVALID_SCHEMA_NAME ||
		 code == ERRCODE_FEATURE_NOT_SUPPORTED ||
		 code == ERRCODE_SAGA_LIMIT_EXCEEDED);
	if (phase != SAGA_ATTEMPT_PREPARING &&
		(code == ERRCODE_T_R_SERIALIZATION_FAILURE ||
		 code == ERRCODE_T_R_DEADLOCK_DETECTED ||
		 code == ERRCODE_LOCK_NOT_AVAILABLE))
	{
		end->conflict = true;
		end->charged = false;
	}
	else if (of_sql && code == ERRCODE_SAGA_DO_NOT_RETRY)
		end->park = end->error;
	else if (of_sql && code == ERRCODE_SAGA_RETRY_LATER)
	{
		end->outcome = SAGA_OUTCOME_DEFERRED;
		end->charged = false;
	}
	else if (!of_sql ||
			 (phase == SAGA_ATTEMPT_COMMITTING && is_trouble(code)))
	{
		end->outcome = SAGA_OUTCOME_INTERRUPTED;
		end->charged = false;
		end->trouble = is_trouble(code);
		end->waits = phase == SAGA_ATTEMPT_PREPARING &&
			(end->trouble || code == ERRCODE_READ_ONLY_SQL_TRANSACTION);
	}
}

/*
 * The end of an attempt by an error, from where it came and why; the table at
 * the top.  Its number and times are the caller's.
 */
void
saga_outcome_of_error(SagaAttemptPhase phase, SagaAttemptCause cause, int code,
					  const char *message, SagaAttemptEnd *end)
{
	Assert(phase != SAGA_ATTEMPT_LOOKING);
	end->outcome = SAGA_OUTCOME_FAILED;
	end->rows = -1;
	end->sqlstate = pstrdup(unpack_sql_state(code));
	end->error = message != NULL ? saga_words_cut_string(message) : "";
	end->charged = true;
	end->conflict = false;
	end->trouble = false;
	end->waits = false;
	end->mend = false;
	end->park = NULL;

	switch (cause)
	{
		case SAGA_CAUSE_NONE:
			judge_code(phase, code, end);
			break;
		case SAGA_CAUSE_CHANGED:
			end->outcome = SAGA_OUTCOME_INTERRUPTED;
			end->charged = false;
			end->sqlstate = NULL;
			break;
		case SAGA_CAUSE_TIMEOUT:
			end->outcome = SAGA_OUTCOME_TIMED_OUT;
			break;
		case SAGA_CAUSE_CANCELED:
			end->outcome = SAGA_OUTCOME_INTERRUPTED;
			end->charged = false;
			break;
		case SAGA_CAUSE_ITSELF:
			break;
	}
}

/* The end of an attempt whose SQL ended its own process. */
void
saga_outcome_of_own_exit(SagaAttemptEnd *end)
{
	end->outcome = SAGA_OUTCOME_FAILED;
	end->rows = -1;
	end->sqlstate = NULL;
	end->error = "it ended its own process";
	end->charged = true;
	end->conflict = false;
	end->waits = false;
	end->park = NULL;
}

/* The end of the attempt that a listener's claim began. */
void
saga_outcome_of_claim(const SagaStep *step, SagaOutcome outcome,
					  const char *error, SagaAttemptEnd *end)
{
	memset(end, 0, sizeof(SagaAttemptEnd));
	end->outcome = outcome;
	end->attempt = step->undo.attempts + 1;
	end->started_at = step->claimed_at;
	end->rows = -1;
	end->error = error;
	end->consumer = step->consumer ? text_to_cstring(step->consumer) : NULL;
	end->charged = outcome != SAGA_OUTCOME_SUCCEEDED;
}

/* The same of a task, which goes forward. */
void
saga_outcome_of_task(const SagaStep *step, SagaOutcome outcome,
					 const char *error, SagaAttemptEnd *end)
{
	saga_outcome_of_claim(step, outcome, error, end);
	end->forward = true;
	end->attempt = step->forward.attempts + 1;
}

/*
 * The claim of a step, of its task or its compensation, ends through no fault of
 * the one that holds it: it is not charged, and keeps its number.
 */
void
saga_outcome_interrupt_claim(SagaStep *step, const char *why,
							 SagaAttemptEnd *end)
{
	if (saga_rows_task_claimed(step))
	{
		saga_outcome_of_task(step, SAGA_OUTCOME_INTERRUPTED, why, end);
		step->forward.attempts = end->attempt;
		step->attempt_at = end->started_at;
	}
	else
	{
		saga_outcome_of_claim(step, SAGA_OUTCOME_INTERRUPTED, why, end);
		step->undo.attempts = end->attempt;
	}
	forget_holder(step);
}
