/*-------------------------------------------------------------------------
 *
 * dispatch.c
 *	  The reverse walk: given a saga, what is next, and what follows from an
 *	  outcome.
 *
 * The walk goes from the step that started last to the one that started first
 * (or to the savepoint), and never passes a step that is not settled.  It has
 * no cursor: what is next follows from the steps' own rows, each time anew, so
 * there is nothing that could be out of step with them.
 *
 * Each function here takes the rows as they were read, changes them, and
 * writes them, the saga's row first: that row is where two writers meet (see
 * ledger.c), and when it says SAGA_CHANGED or SAGA_WRITE_BUSY nothing else has
 * been written yet, and the caller begins anew from fresh rows.
 *
 * The caller holds no lock but the saga's own where the saga is still running
 * (saga_dispatch_fail), and has made sure that nobody is writing the saga's
 * row.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "common/pg_prng.h"
#include "dispatch.h"
#include "guc.h"
#include "json.h"
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

/* What the reverse walk finds when it comes to a step. */
typedef enum StepView
{
	STEP_SETTLED,				/* nothing to do */
	STEP_PASSED_OVER,			/* has a compensation, but is not to be undone */
	STEP_GIVEN_UP,				/* failed, and the saga goes on without it */
	STEP_SQL,
	STEP_PERSON
} StepView;

static bool
in_range(const SagaRow *saga, const SagaStep *step)
{
	return step->seq > saga->undo_target && step->rolled_back_at == 0;
}

static StepView
view_step(const SagaRow *saga, const SagaStep *step, const char **why)
{
	switch (step->comp_status)
	{
		case SAGA_COMP_NONE:
		case SAGA_COMP_COMPENSATED:
		case SAGA_COMP_SKIPPED:
			return STEP_SETTLED;
		case SAGA_COMP_FAILED:
			if (saga->on_failure == SAGA_ON_FAILURE_CONTINUE)
				return STEP_GIVEN_UP;
			*why = step->parked ? text_to_cstring(step->parked) : "its compensation failed";
			return STEP_PERSON;
		case SAGA_COMP_REGISTERED:
		case SAGA_COMP_PENDING:
		case SAGA_COMP_DISPATCHED:
			break;
	}
	if (step->kind == SAGA_KIND_RETRIABLE)
		return STEP_PASSED_OVER;
	if (step->compensate_on == SAGA_COMPENSATE_ON_COMPLETED &&
		step->status != SAGA_STEP_COMPLETED)
		return STEP_PASSED_OVER;
	if (step->review != NULL && !step->released)
	{
		*why = psprintf("review asked for: %s", text_to_cstring(step->review));
		return STEP_PERSON;
	}
	if (step->channel != NULL)
	{
		*why = psprintf("listeners on channel \"%s\" are to compensate it, and this version dispatches none",
						text_to_cstring(step->channel));
		return STEP_PERSON;
	}
	Assert(step->compensation != NULL);
	return STEP_SQL;
}

/*
 * What is next in a saga that is being undone?
 *
 * Remembers how far the steps are settled, so that a walk over all of them
 * takes time that grows with their number, not with its square.
 */
void
saga_dispatch_next(const SagaRow *saga, SagaSteps *steps, SagaTask *task)
{
	task->kind = SAGA_TASK_NONE;
	task->index = -1;
	task->why = NULL;
	for (int i = steps->frontier - 1; i >= 0; i--)
	{
		const SagaStep *step = &steps->step[i];
		StepView	view = in_range(saga, step) ?
			view_step(saga, step, &task->why) : STEP_SETTLED;

		switch (view)
		{
			case STEP_SETTLED:
			case STEP_GIVEN_UP:
				if (i == steps->frontier - 1)
					steps->frontier = i;
				continue;
			case STEP_PASSED_OVER:
				continue;
			case STEP_SQL:
				task->kind = SAGA_TASK_SQL;
				break;
			case STEP_PERSON:
				task->kind = SAGA_TASK_PERSON;
				break;
		}
		task->index = i;
		return;
	}
}

/*
 * Steps later than the one at "index" that the walk passes over are settled
 * by that; says so in their rows.  A result of theirs that comes in later then
 * finds that it is too late.
 */
static void
skip_passed_over(const SagaRow *saga, SagaSteps *steps, int index)
{
	for (int i = steps->frontier - 1; i > index; i--)
	{
		SagaStep   *step = &steps->step[i];
		const char *why;

		if (!in_range(saga, step) ||
			view_step(saga, step, &why) != STEP_PASSED_OVER)
			continue;
		step->comp_status = SAGA_COMP_SKIPPED;
		if (saga_ledger_update_step(step, SAGA_NOWAIT) != SAGA_WRITTEN)
			elog(ERROR, "a step changed without its saga");
	}
}

static int
count_given_up(const SagaRow *saga, const SagaSteps *steps)
{
	int			n = 0;

	for (int i = 0; i < steps->count; i++)
		if (in_range(saga, &steps->step[i]) &&
			steps->step[i].comp_status == SAGA_COMP_FAILED)
			n++;
	return n;
}

static Jsonb *
detail_of(const char *key, const char *value)
{
	SagaJson	json;

	saga_json_begin(&json);
	saga_json_string(&json, key, value);
	return saga_json_end(&json);
}

/*
 * Sets the saga's row to what follows from its steps, and writes everything:
 * the saga's row, the one step whose row "changed" points to (or NULL), and
 * what the walk passed over or rolled back.
 */
static SagaWritten
advance(SagaRow *saga, SagaSteps *steps, SagaStep *changed,
		SagaPatience patience, TimestampTz now)
{
	/* A full undo is one that has a reason; a partial one has a savepoint. */
	bool		full = saga->failure_kind != SAGA_FAILURE_NONE;
	bool		rolled_back = false;
	bool		parks = false;
	SagaTask	task;
	SagaWritten written;

	saga->updated_at = now;
	saga_dispatch_next(saga, steps, &task);
	switch (task.kind)
	{
		case SAGA_TASK_SQL:
			{
				SagaStep   *step = &steps->step[task.index];

				if (saga->state != SAGA_COMPENSATING)
					saga_ledger_enter_state(saga, SAGA_COMPENSATING, now);
				if (saga->paused)
					saga_ledger_set_due(saga, 0, InvalidOid);
				else if (step->next_attempt_at > now)
					saga_ledger_set_due(saga, step->next_attempt_at,
										step->run_as);

				/*
				 * An executor that walks on need not be told that the saga is
				 * due: it stays due, and the worker sleeps.
				 */
				else if (saga->due == 0 || saga->due > now ||
						 saga->lane != step->run_as)
					saga_ledger_set_due(saga, now, step->run_as);
				break;
			}
		case SAGA_TASK_PERSON:

			/*
			 * Parking is the worker's: the application that fails a saga sees
			 * it compensating first, whatever its last step wants.
			 */
			if (saga->state == SAGA_RUNNING)
			{
				saga_ledger_enter_state(saga, SAGA_COMPENSATING, now);
				saga_ledger_set_due(saga, now, InvalidOid);
				break;
			}
			if (saga->state != SAGA_NEEDS_REVIEW)
				saga_ledger_enter_state(saga, SAGA_NEEDS_REVIEW, now);
			saga_ledger_set_due(saga, 0, InvalidOid);
			parks = true;
			break;
		case SAGA_TASK_NONE:
			if (!full)
			{
				saga_ledger_enter_state(saga, SAGA_RUNNING, now);
				saga_ledger_set_due(saga, saga->deadline, InvalidOid);
				rolled_back = true;
			}
			else
			{
				int			given_up = count_given_up(saga, steps);

				saga_ledger_enter_state(saga, given_up > 0 ?
										SAGA_NEEDS_REVIEW : SAGA_COMPENSATED,
										now);
				if (given_up > 0)
					saga->parked = cstring_to_text(psprintf("%d of its compensations failed, the others are done",
															given_up));
				saga_ledger_set_due(saga, 0, InvalidOid);
			}
			break;
	}

	written = saga_ledger_update_saga(saga, patience);
	if (written != SAGA_WRITTEN)
		return written;

	if (parks && steps->step[task.index].parked == NULL)
	{
		SagaStep   *step = &steps->step[task.index];

		step->parked = cstring_to_text(task.why);
		if (changed == NULL)
			changed = step;
		else if (changed != step &&
				 saga_ledger_update_step(step, SAGA_NOWAIT) != SAGA_WRITTEN)
			elog(ERROR, "a step changed without its saga");
	}
	if (changed != NULL &&
		saga_ledger_update_step(changed, SAGA_NOWAIT) != SAGA_WRITTEN)
		elog(ERROR, "a step changed without its saga");
	skip_passed_over(saga, steps, task.index);

	if (parks)
		saga_ledger_insert_event(&saga->id, "parked",
								 steps->step[task.index].seq,
								 detail_of("why", task.why), now);
	else if (saga->state == SAGA_NEEDS_REVIEW)
		saga_ledger_insert_event(&saga->id, "parked", 0,
								 detail_of("why", text_to_cstring(saga->parked)),
								 now);
	if (rolled_back)
	{
		for (int i = 0; i < steps->count; i++)
		{
			SagaStep   *step = &steps->step[i];

			if (!in_range(saga, step))
				continue;
			step->rolled_back_at = now;
			if (saga_ledger_update_step(step, SAGA_NOWAIT) != SAGA_WRITTEN)
				elog(ERROR, "a step changed without its saga");
		}
		saga_ledger_insert_event(&saga->id, "rolled back", 0, NULL, now);
	}
	return SAGA_WRITTEN;
}

/* The completed pivot of the forward run, or NULL. */
static const SagaStep *
completed_pivot(const SagaSteps *steps)
{
	for (int i = 0; i < steps->count; i++)
	{
		const SagaStep *step = &steps->step[i];

		if (step->kind == SAGA_KIND_PIVOT &&
			step->status == SAGA_STEP_COMPLETED && step->rolled_back_at == 0)
			return step;
	}
	return NULL;
}

/* The step at which a saga failed: its last failed one, else its last open. */
static int64
failed_step(const SagaSteps *steps)
{
	int64		open = 0;

	for (int i = steps->count - 1; i >= 0; i--)
	{
		const SagaStep *step = &steps->step[i];

		if (step->rolled_back_at != 0)
			continue;
		if (step->status == SAGA_STEP_FAILED)
			return step->seq;
		if (step->status == SAGA_STEP_STARTED && open == 0)
			open = step->seq;
	}
	return open;
}

/*
 * The terminal failure of a saga that is running, or in a partial undo, which
 * becomes a full one.
 */
SagaWritten
saga_dispatch_fail(SagaRow *saga, SagaFailureKind kind, text *reason,
				   Jsonb *details, SagaPatience patience, TimestampTz now)
{
	SagaSteps	steps;
	const SagaStep *pivot;
	SagaWritten written;
	SagaJson	json;

	saga_ledger_get_steps(&saga->id, &steps);
	saga->failure_kind = kind;
	saga->reason = reason;
	saga->details = details;
	saga->failed_seq = failed_step(&steps);
	pivot = completed_pivot(&steps);
	saga->undo_target = pivot != NULL ? -1 : 0;
	if (pivot != NULL)
	{
		saga_ledger_enter_state(saga, SAGA_NEEDS_REVIEW, now);
		saga_ledger_set_due(saga, 0, InvalidOid);
		saga->parked = cstring_to_text(psprintf("it failed after its pivot \"%s\" had completed: it can only be finished, not undone",
												text_to_cstring(pivot->key)));
		written = saga_ledger_update_saga(saga, patience);
	}
	else
		written = advance(saga, &steps, NULL, patience, now);
	if (written != SAGA_WRITTEN)
		return written;

	saga_json_begin(&json);
	saga_json_string(&json, "kind", saga_state_failure_kind_name(kind));
	saga_json_text(&json, "reason", reason);
	saga_ledger_insert_event(&saga->id, "failing", saga->failed_seq,
							 saga_json_end(&json), now);
	if (pivot != NULL)
		saga_ledger_insert_event(&saga->id, "parked", pivot->seq,
								 detail_of("why", text_to_cstring(saga->parked)),
								 now);
	return SAGA_WRITTEN;
}

static TimestampTz
after_ms(TimestampTz now, int64 ms)
{
	return now + ms * 1000;
}

static TimestampTz
retry_at(const SagaStep *step, int count, TimestampTz now)
{
	SagaPolicy	policy;

	if (!saga_state_policy_decode(text_to_cstring(step->compensation_retry),
								  &policy))
		elog(ERROR, "could not read the retry policy of a step");
	return after_ms(now,
					saga_state_retry_delay(&policy, count,
										   pg_prng_double(&pg_global_prng_state)));
}

static int
max_attempts(const SagaStep *step)
{
	SagaPolicy	policy;

	if (!saga_state_policy_decode(text_to_cstring(step->compensation_retry),
								  &policy))
		elog(ERROR, "could not read the retry policy of a step");
	return policy.max_attempts;
}

/* Gives a compensation up, for a person to settle. */
static void
give_up(SagaStep *step, const char *why)
{
	step->comp_status = SAGA_COMP_FAILED;
	step->next_attempt_at = 0;
	step->parked = cstring_to_text(why);
}

/* Enters an attempt that did not succeed into the step's row. */
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
		/* Conflicts beyond the free ones were charged, too. */
		int			interruptions = step->comp_attempts - step->comp_charged -
			step->comp_deferrals - Min(step->comp_conflicts, FREE_CONFLICTS);

		if (end->suspect)
		{
			step->next_attempt_at = now;
			return;
		}
		if (interruptions <= FREE_INTERRUPTIONS)
		{
			double		delay = INTERRUPTED_DELAY_MS;

			delay *= (double) (1 << Min(interruptions - 1, 10));
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
	else
		step->next_attempt_at = retry_at(step, step->comp_charged, now);
}

/*
 * Settles an attempt of the compensation of the step at "index", and goes on
 * with the walk.  For a success this is the mark: it belongs into the
 * transaction that did the work.
 */
SagaWritten
saga_dispatch_settle(SagaRow *saga, SagaSteps *steps, int index,
					 const SagaAttemptEnd *end, TimestampTz now)
{
	SagaStep   *step = &steps->step[index];
	SagaAttempt attempt;
	SagaWritten written;

	Assert(end->attempt == step->comp_attempts + 1);
	step->comp_attempts = end->attempt;
	if (end->outcome == SAGA_OUTCOME_SUCCEEDED)
	{
		step->comp_status = SAGA_COMP_COMPENSATED;
		step->compensated_at = now;
		step->next_attempt_at = 0;
		step->comp_crashes = -1;
		step->parked = NULL;
	}
	else
		take_failure(step, end, now);

	/*
	 * The undo may have been parked or abandoned while the attempt was under
	 * way; what it did is written down, and nothing follows from it.
	 */
	if (saga->state == SAGA_COMPENSATING)
		written = advance(saga, steps, step, SAGA_NOWAIT, now);
	else
	{
		saga->updated_at = now;
		written = saga_ledger_update_saga(saga, SAGA_NOWAIT);
		if (written == SAGA_WRITTEN &&
			saga_ledger_update_step(step, SAGA_NOWAIT) != SAGA_WRITTEN)
			elog(ERROR, "a step changed without its saga");
	}
	if (written != SAGA_WRITTEN)
		return written;

	attempt.saga = step->saga;
	attempt.seq = step->seq;
	attempt.started_at = end->started_at;
	attempt.finished_at = now;
	attempt.rows = end->rows;
	attempt.attempt = end->attempt;
	attempt.phase = SAGA_PHASE_COMPENSATION;
	attempt.outcome = end->outcome;
	attempt.sqlstate = end->sqlstate;
	attempt.error = end->error;
	attempt.consumer = NULL;
	saga_ledger_insert_attempt(&attempt);
	return SAGA_WRITTEN;
}

/*
 * Does what is due of a saga and needs no executor: its deadline, parking it,
 * sending it to the right lane.
 */
SagaWritten
saga_dispatch_turn(SagaRow *saga, SagaSteps *steps, TimestampTz now)
{
	bool		late = saga->deadline != 0 && saga->deadline <= now &&
		!saga->paused && saga->failure_kind == SAGA_FAILURE_NONE;

	switch (saga->state)
	{
		case SAGA_RUNNING:
			if (late)
				return saga_dispatch_fail(saga, SAGA_FAILURE_TIMED_OUT,
										  cstring_to_text("the deadline passed"),
										  NULL, SAGA_NOWAIT, now);
			saga_ledger_set_due(saga, saga->paused ? 0 : saga->deadline,
								InvalidOid);
			return saga_ledger_update_saga(saga, SAGA_NOWAIT);
		case SAGA_COMPENSATING:
			if (late)
				return saga_dispatch_fail(saga, SAGA_FAILURE_TIMED_OUT,
										  cstring_to_text("the deadline passed"),
										  NULL, SAGA_NOWAIT, now);
			return advance(saga, steps, NULL, SAGA_NOWAIT, now);
		case SAGA_COMPLETED:
		case SAGA_COMPENSATED:
		case SAGA_NEEDS_REVIEW:
		case SAGA_ABANDONED:
			saga_ledger_set_due(saga, 0, InvalidOid);
			return saga_ledger_update_saga(saga, SAGA_NOWAIT);
	}
	return SAGA_WRITTEN;
}

/*
 * A result that came in after the undo had begun, of an effect outside the
 * database that did happen.
 *
 * As long as no attempt of the step's compensation was ever made, it will be
 * made with this output, and all is well.  Otherwise, and where the walk has
 * already passed the step by, the effect may stand where everybody believes it
 * undone: a person must look.
 */
SagaWritten
saga_dispatch_late(SagaRow *saga, SagaStep *step, Jsonb *output,
				   TimestampTz now)
{
	bool		in_time;
	bool		to_undo = step->comp_status != SAGA_COMP_NONE &&
		step->kind != SAGA_KIND_RETRIABLE;
	const char *why;
	TimestampTz compensated_at = saga->state == SAGA_COMPENSATED ?
		saga->finished_at : 0;
	SagaJson	json;
	SagaWritten written;

	in_time = !to_undo ||
		(saga->state == SAGA_COMPENSATING && step->comp_attempts == 0 &&
		 step->dispatched_at == 0 && step->rolled_back_at == 0 &&
		 (step->comp_status == SAGA_COMP_REGISTERED ||
		  step->comp_status == SAGA_COMP_PENDING)) ||
		(saga->state == SAGA_NEEDS_REVIEW && step->comp_attempts == 0 &&
		 step->comp_status == SAGA_COMP_REGISTERED);

	if (step->status == SAGA_STEP_FAILED)
	{
		/* The history holds that attempt as failed; this is one more. */
		step->attempts++;
		step->attempt_at = now;
	}
	step->status = SAGA_STEP_COMPLETED;
	step->completed_at = now;
	step->retry_at = 0;
	step->output = output;
	saga->updated_at = now;
	if (!in_time)
	{
		if (saga->state == SAGA_ABANDONED)
			why = "its result came after the saga had been abandoned";
		else if (step->comp_status == SAGA_COMP_SKIPPED)
			why = "its result came after the undo had passed it by";
		else
			why = "its result came after its compensation had been tried without it";
		step->parked = cstring_to_text(why);
		if (saga->state == SAGA_COMPENSATING || saga->state == SAGA_COMPENSATED)
			saga_ledger_enter_state(saga, SAGA_NEEDS_REVIEW, now);
		saga_ledger_set_due(saga, 0, InvalidOid);
	}

	written = saga_ledger_update_saga(saga, SAGA_WAIT);
	if (written != SAGA_WRITTEN)
		return written;
	if (saga_ledger_update_step(step, SAGA_WAIT) != SAGA_WRITTEN)
		elog(ERROR, "a step changed without its saga");

	/* Its row no longer says that it was. */
	if (compensated_at != 0 && saga->state != SAGA_COMPENSATED)
		saga_ledger_insert_event(&saga->id, saga_state_name(SAGA_COMPENSATED),
								 0, NULL, compensated_at);
	saga_json_begin(&json);
	saga_json_string(&json, "compensation_gets_output",
					 in_time && to_undo ? "yes" : "no");
	saga_ledger_insert_event(&saga->id, "late result", step->seq,
							 saga_json_end(&json), now);
	if (!in_time && saga->state == SAGA_NEEDS_REVIEW)
		saga_ledger_insert_event(&saga->id, "parked", step->seq,
								 detail_of("why", text_to_cstring(step->parked)),
								 now);
	return SAGA_WRITTEN;
}
