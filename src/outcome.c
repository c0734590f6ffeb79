/*-------------------------------------------------------------------------
 *
 * outcome.c
 *	  How an attempt of a compensation ended, and what that means for its step.
 *
 * What is charged, what is free, when it is tried again, and when it is given
 * up for a person to settle: doc/reference.md tells it as a table.  Only the
 * step's row in memory is changed; writing it is dispatch.c's.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "common/pg_prng.h"
#include "guc.h"
#include "outcome.h"
#include "utils/builtins.h"

/*
 * Attempts lost to deadlocks, serialization failures and lock timeouts have a
 * budget of their own: so many are free, with short growing delays, before
 * they are charged like other failures.
 */
#define FREE_CONFLICTS			20
#define CONFLICT_DELAY_MS		10
#define CONFLICT_MAX_DELAY_MS	1000

/* A compensation that was alone at so many crashes is not run again. */
#define MAX_CRASHES_ALONE		3

/*
 * Attempts cut short by no fault of their own are free too, with growing
 * delays; but SQL that ends its own process every time must not go on for
 * ever.
 */
#define FREE_INTERRUPTIONS		50
#define INTERRUPTED_DELAY_MS	100
#define INTERRUPTED_MAX_DELAY_MS	60000

static TimestampTz
after_ms(TimestampTz now, int64 ms)
{
	return now + ms * 1000;
}

/* The policy of a step's compensation. */
void
saga_outcome_policy(const SagaStep *step, SagaPolicy *policy)
{
	if (!saga_state_policy_decode(text_to_cstring(step->compensation_retry),
								  policy))
		elog(ERROR, "could not read the retry policy of a step");
}

static TimestampTz
retry_at(const SagaStep *step, int count, TimestampTz now)
{
	SagaPolicy	policy;

	saga_outcome_policy(step, &policy);
	return after_ms(now,
					saga_state_retry_delay(&policy, count,
										   pg_prng_double(&pg_global_prng_state)));
}

static int
max_attempts(const SagaStep *step)
{
	SagaPolicy	policy;

	saga_outcome_policy(step, &policy);
	return policy.max_attempts;
}

/* Gives a compensation up, for a person to settle. */
static void
give_up(SagaStep *step, const char *why)
{
	step->comp_status = SAGA_COMP_FAILED;
	step->next_attempt_at = 0;
	/* What a late result asks a person stays asked. */
	if (!step->late)
		step->parked = cstring_to_text(why);
}

/* An attempt that did not succeed. */
static void
take_failure(SagaStep *step, const SagaAttemptEnd *end, TimestampTz now)
{
	step->comp_status = SAGA_COMP_PENDING;
	if (end->sqlstate != NULL)
		step->last_sqlstate = cstring_to_text(end->sqlstate);
	if (end->error != NULL)
		step->last_error = cstring_to_text(end->error);

	if (end->park != NULL)
	{
		give_up(step, end->park);
		return;
	}
	if (end->suspect)
	{
		step->comp_crashes = Max(step->comp_crashes, 0) + (end->alone ? 1 : 0);
		if (step->comp_crashes >= MAX_CRASHES_ALONE)
		{
			give_up(step, psprintf("the server crashed %d times while nothing but this compensation ran",
								   step->comp_crashes));
			return;
		}
	}
	if (end->outcome == SAGA_OUTCOME_DEFERRED)
	{
		step->comp_deferrals++;
		if (step->comp_deferrals > saga_guc_max_deferrals)
			give_up(step, psprintf("it asked to be called later %d times",
								   step->comp_deferrals));
		else
			step->next_attempt_at = retry_at(step, step->comp_deferrals, now);
		return;
	}
	if (end->conflict)
	{
		step->comp_conflicts++;
		if (step->comp_conflicts <= FREE_CONFLICTS)
		{
			double		delay = CONFLICT_DELAY_MS;

			delay *= (double) (1 << Min(step->comp_conflicts - 1, 10));
			delay = Min(delay, CONFLICT_MAX_DELAY_MS);
			delay *= 0.5 + pg_prng_double(&pg_global_prng_state);
			step->next_attempt_at = after_ms(now, (int64) delay);
			return;
		}
	}
	if (!end->charged && !end->conflict)
	{
		step->comp_interruptions++;
		if (end->suspect)
		{
			step->next_attempt_at = now;
			return;
		}
		if (step->comp_interruptions <= FREE_INTERRUPTIONS)
		{
			double		delay = INTERRUPTED_DELAY_MS;

			delay *= (double) (1 << Min(step->comp_interruptions - 1, 10));
			delay = Min(delay, INTERRUPTED_MAX_DELAY_MS);
			step->next_attempt_at = after_ms(now, (int64) delay);
			return;
		}
	}

	step->comp_charged++;
	if (step->comp_charged >= max_attempts(step))
		give_up(step, psprintf("retries exhausted after %d attempt%s: %s",
							   step->comp_charged,
							   step->comp_charged == 1 ? "" : "s",
							   end->error ? end->error : "timed out"));
	else if (end->retry_after > 0)
		step->next_attempt_at = after_ms(now, end->retry_after);
	else
		step->next_attempt_at = retry_at(step, step->comp_charged, now);
}

/* A compensation that has all its attempts before it again. */
void
saga_outcome_forgive(SagaStep *step)
{
	step->next_attempt_at = 0;
	step->comp_charged = 0;
	step->comp_deferrals = 0;
	step->comp_conflicts = 0;
	step->comp_interruptions = 0;
	step->comp_crashes = -1;
}

/* Enters the end of an attempt into the step's row, which is yet to be written. */
void
saga_outcome_take(const SagaRow *saga, SagaStep *step,
				  const SagaAttemptEnd *end, TimestampTz now)
{
	Assert(end->attempt == step->comp_attempts + 1);
	step->comp_attempts = end->attempt;
	step->claimed_at = 0;
	step->lease_until = 0;
	step->consumer = NULL;
	if (end->outcome == SAGA_OUTCOME_SUCCEEDED)
	{
		step->comp_status = SAGA_COMP_COMPENSATED;
		step->compensated_at = now;
		step->next_attempt_at = 0;
		step->comp_crashes = -1;
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

/* The end of the attempt that a listener's claim began. */
void
saga_outcome_of_claim(const SagaStep *step, SagaOutcome outcome,
						const char *error, SagaAttemptEnd *end)
{
	memset(end, 0, sizeof(SagaAttemptEnd));
	end->outcome = outcome;
	end->attempt = step->comp_attempts + 1;
	end->started_at = step->claimed_at;
	end->rows = -1;
	end->error = error;
	end->consumer = step->consumer ? text_to_cstring(step->consumer) : NULL;
	end->charged = outcome != SAGA_OUTCOME_SUCCEEDED;
}
