/*-------------------------------------------------------------------------
 *
 * events.c
 *	  Events in a saga's life: terminal failure, a pass by the worker, the end of
 *	  an attempt, a late result.
 *
 * Each function takes a change that has just begun, and puts into it what the
 * event means for the saga and its steps; the caller writes the change.  The
 * caller holds no lock but the saga's own where the saga is still running
 * (saga_events_fail).
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "base/guc.h"
#include "base/json.h"
#include "base/rights.h"
#include "flow/afresh.h"
#include "flow/events.h"
#include "flow/follow.h"
#include "flow/next.h"
#include "ledger/start_order.h"
#include "shared/wakeup.h"
#include "utils/builtins.h"

/* Maximum number of unfinished steps named in the reason */
#define MAX_UNFINISHED		10

/* The unfinished steps of a saga that cannot be undone, in words; NULL: none. */
static char *
unfinished(const SagaSteps *steps)
{
	StringInfoData buf;
	int			count = 0;

	initStringInfo(&buf);
	for (int i = 0; i < steps->count; i++)
	{
		const SagaStep *step = &steps->step[i];

		if (step->status == SAGA_STEP_COMPLETED ||
			step->status == SAGA_STEP_SKIPPED || step->rolled_back_at != 0)
			continue;
		if (count++ < MAX_UNFINISHED)
			appendStringInfo(&buf, "%s\"%s\"", count > 1 ? ", " : "",
							 text_to_cstring(step->key));
	}
	if (count > MAX_UNFINISHED)
		appendStringInfo(&buf, " and %d more", count - MAX_UNFINISHED);
	return count > 0 ? buf.data : NULL;
}

/* Why a person must decide about a saga that failed after its pivot. */
static char *
why_after_pivot(const SagaSteps *steps, const SagaStep *pivot)
{
	const char *rest = unfinished(steps);

	return psprintf("it failed after its pivot \"%s\" had completed: it can only be finished, not undone%s%s",
					text_to_cstring(pivot->key),
					rest ? "; unfinished: " : "", rest ? rest : "");
}

/* It can only be finished: a person decides how. */
static void
park_after_pivot(SagaChange *change, const SagaStep *pivot)
{
	SagaRow    *saga = change->saga;
	const char *why = why_after_pivot(change->steps, pivot);

	if (saga->state != SAGA_NEEDS_REVIEW)
		saga_change_state(change, SAGA_NEEDS_REVIEW);
	saga_change_undo(change, SAGA_UNDO_NONE, 0);
	saga->parked = cstring_to_text(why);
	saga_follow_rest(change);
	saga_follow_withdraw(change);
	saga_change_event(change, "parked", pivot->seq, saga_json_pair("why", why));
}

/* The terminal failure of a saga, at a step; 0: the rows say which. */
static void
fail(SagaChange *change, SagaFailureKind kind, text *reason, Jsonb *details,
	 int64 failed_seq)
{
	SagaRow    *saga = change->saga;
	SagaSteps  *steps = saga_change_steps(change);
	const SagaStep *pivot = saga_next_completed_pivot(steps);
	int			to_undo = 0;
	SagaJson	json;

	saga->failure_kind = kind;
	saga->reason = reason;
	saga->details = details;
	saga->failed_seq = failed_seq != 0 ? failed_seq :
		saga_next_failed_step(steps);
	saga_afresh_withdraw(change, PG_INT64_MIN);
	saga_change_undo(change, SAGA_UNDO_FULL, 0);
	/* The worker ends the actions that run: they cannot commit any more. */
	if (saga->runs != SAGA_RUNS_NONE)
		saga_wakeup_due(change->now);
	if (pivot != NULL)
		park_after_pivot(change, pivot);
	else
	{
		to_undo = saga_next_count_to_undo(saga, steps);
		/* A person was asked, and still is, unless it goes on without that. */
		if (saga->state != SAGA_NEEDS_REVIEW ||
			saga->on_failure != SAGA_ON_FAILURE_HALT)
			saga_follow_walk(change);
	}

	saga_json_begin(&json);
	saga_json_string(&json, "kind", saga_state_failure_kind_name(kind));
	saga_json_text(&json, "reason", reason);
	saga_json_int(&json, "to_undo", to_undo);
	saga_change_event(change, "failing", saga->failed_seq,
					  saga_json_end(&json));
}

/*
 * The terminal failure of a saga that is running, or in a partial undo, which
 * becomes a full one.
 */
void
saga_events_fail(SagaChange *change, SagaFailureKind kind, text *reason,
				 Jsonb *details)
{
	fail(change, kind, reason, details, 0);
}

/* The same, because of a step that saga gave up. */
void
saga_events_fail_at(SagaChange *change, SagaStep *step)
{
	fail(change, SAGA_FAILURE_FAILED, step->forward.error, NULL, step->seq);
	saga_change_count_step_failed(change);
}

/*
 * Counts how long the undo waited for the first attempt of all: from when it was
 * due, or dispatched to listeners.  What has been attempted comes later in the
 * start order.
 */
static void
count_first_undo(SagaChange *change, const SagaStep *step,
				 const SagaAttemptEnd *end)
{
	const SagaSteps *steps = change->steps;
	TimestampTz since = step->claimed_at != 0 ? step->dispatched_at :
		change->saga->due;

	if (end->attempt != 1 || since == 0)
		return;
	for (int i = step - steps->step + 1; i < steps->count; i++)
		if (saga_next_in_range(change->saga, &steps->step[i]) &&
			steps->step[i].undo.attempts > 0)
			return;
	saga_change_count_wait(change, SAGA_STAT_TIME_FIRST_UNDO,
						   end->started_at - since);
}

/*
 * An attempt of the compensation of a step has ended.  For a success this is
 * the mark: it belongs in the transaction that did the work.
 *
 * The undo may have been parked or abandoned while the attempt was under way;
 * what it did is recorded, and nothing follows from it.
 */
void
saga_events_attempt(SagaChange *change, SagaStep *step,
					const SagaAttemptEnd *end)
{
	count_first_undo(change, step, end);
	saga_outcome_take(change->saga, step, end, change->now);
	saga_change_step(change, step);
	saga_follow(change);
	saga_change_attempt(change, step, end);
}

/* No listener acknowledges the step: sending the notification is all. */
static void
fire_and_forget(SagaChange *change, SagaStep *step)
{
	TimestampTz dispatched_before = step->dispatched_at;
	SagaAttemptEnd end;

	saga_outcome_of_claim(step, SAGA_OUTCOME_SUCCEEDED, NULL, &end);
	end.started_at = change->now;
	step->dispatched_at = change->now;

	/* What comes next is another pass's. */
	change->may &= ~SAGA_MAY_NOTIFY;
	saga_events_attempt(change, step, &end);
	saga_follow_keep_dispatch(change, step, step->channel, dispatched_before);
	saga_change_notify(change, step);
	saga_change_count_channel(change, step->channel, SAGA_STAT_DISPATCHED);
}

/* Is it time to fail the saga by its deadline? */
static bool
is_late(const SagaRow *saga, TimestampTz now)
{
	return (saga->state == SAGA_RUNNING || saga->state == SAGA_COMPENSATING) &&
		saga_follow_is_late(saga, now);
}

/*
 * No process may run the compensation of a step, or no role may claim it: a
 * person must mend that first.
 */
void
saga_events_park(SagaChange *change, SagaStep *step, const char *why)
{
	SagaAttemptEnd end;

	saga_outcome_of_claim(step, SAGA_OUTCOME_FAILED, why, &end);
	end.started_at = change->now;
	end.park = why;
	change->may &= ~SAGA_MAY_NOTIFY;
	saga_events_attempt(change, step, &end);
}

/* What is due of a saga that is being undone. */
static void
pass_undo(SagaChange *change)
{
	SagaRow    *saga = change->saga;
	SagaTask	task;
	SagaStep   *step;
	const char *why;

	saga_next(saga, change->steps, &task);
	step = &change->steps->step[Max(task.index, 0)];
	if (!(change->may & SAGA_MAY_NOTIFY) || task.kind != SAGA_TASK_LISTENER ||
		saga->paused || step->claimed_at != 0 ||
		step->undo.retry_at > change->now)
		saga_follow_walk(change);
	else if (!step->acknowledge)
		fire_and_forget(change, step);
	else if ((why = saga_rights_why_gone(saga->owner, saga->owner_name)) != NULL)
		saga_events_park(change, step, why);
	else
		saga_follow_walk(change);
}

/* What is due of a saga, apart from announcing it. */
static void
pass(SagaChange *change)
{
	SagaRow    *saga = change->saga;
	SagaStep   *claimed = saga_next_claimed(change->steps);

	/*
	 * What came first, first: the due time that remains must not be the one
	 * at which the saga was found, or the worker would not look again.
	 */
	if (claimed != NULL && claimed->lease_until <= change->now &&
		!(is_late(saga, change->now) && saga->deadline < claimed->lease_until))
	{
		SagaAttemptEnd end;

		saga_outcome_of_claim(claimed, SAGA_OUTCOME_TIMED_OUT,
							  "its claim ended without an acknowledgement",
							  &end);
		saga_change_count_channel(change, claimed->channel, SAGA_STAT_LEASES_ENDED);
		saga_events_attempt(change, claimed, &end);
	}
	else if (is_late(saga, change->now))
	{
		if (change->may & SAGA_MAY_FAIL)
			saga_events_fail(change, SAGA_FAILURE_TIMED_OUT,
							 cstring_to_text("the deadline passed"), NULL);
		else
			saga_change_due(change, change->now, InvalidOid);
	}
	else if (saga->state == SAGA_COMPENSATING)
		pass_undo(change);
	else
		saga_follow_rest(change);
}

/*
 * Does what is due of a saga and needs no executor: announcing it, its
 * deadline, a claim that ended, dispatching to listeners, parking it, sending
 * it to the right lane.  What only the worker may do, an executor leaves.
 */
void
saga_events_pass(SagaChange *change)
{
	SagaRow    *saga = change->saga;
	const char *announce = "";

	(void) saga_change_steps(change);
	if ((change->may & SAGA_MAY_NOTIFY) && saga->to_announce != NULL)
	{
		announce = text_to_cstring(saga->to_announce);
		saga->to_announce = NULL;
		/* What there is for listeners comes later, in another pass. */
		change->may &= ~SAGA_MAY_NOTIFY;
	}
	pass(change);
	for (; *announce != '\0'; announce++)
	{
		SagaState	state = (SagaState) *announce;

		if (saga->announce != NULL)
			saga_change_announce(change, text_to_cstring(saga->announce), state);
		if (state == SAGA_NEEDS_REVIEW && saga_guc_review_channel[0] != '\0')
			saga_change_announce(change, saga_guc_review_channel, state);
	}
}

/* Would the worker's pass over a saga notify anybody? */
bool
saga_events_notifies(const SagaRow *saga, SagaSteps *steps)
{
	SagaTask	task;

	if (saga->to_announce != NULL)
		return true;
	if (saga->state != SAGA_COMPENSATING)
		return false;
	saga_next(saga, steps, &task);
	return task.kind == SAGA_TASK_LISTENER &&
		steps->step[task.index].comp_status != SAGA_COMP_DISPATCHED;
}

/*
 * Will the compensation of a step get a result that comes in now?  It will, as
 * long as no attempt of it was ever made and the walk has not passed it by.
 */
static bool
comes_in_time(const SagaRow *saga, const SagaStep *step)
{
	return (saga->state == SAGA_COMPENSATING || saga->state == SAGA_NEEDS_REVIEW) &&
		(step->comp_status == SAGA_COMP_REGISTERED ||
		 step->comp_status == SAGA_COMP_PENDING ||
		 step->comp_status == SAGA_COMP_DISPATCHED) &&
		step->undo.attempts == 0 && step->claimed_at == 0 &&
		step->rolled_back_at == 0;
}

/* Why a person must look at a result that came too late. */
static const char *
why_too_late(const SagaRow *saga, const SagaStep *step)
{
	if (saga->state == SAGA_ABANDONED)
		return "its result came after the saga had been abandoned";
	if (step->rolled_back_at != 0)
		return "its result came after it had been rolled back";
	if (step->comp_status == SAGA_COMP_SKIPPED)
		return "its result came after the undo had passed it by";
	return "its result came after its compensation had been tried without it";
}

/* The effect may stand where everybody believes it undone. */
static void
park_late(SagaChange *change, SagaStep *step, const char *why)
{
	SagaRow    *saga = change->saga;
	TimestampTz compensated_at = saga->state == SAGA_COMPENSATED ?
		saga->finished_at : 0;

	step->parked = cstring_to_text(why);
	step->late = true;
	/* Of a saga that is running, nothing else is to be undone. */
	if (saga->state == SAGA_RUNNING)
		saga_change_undo(change, SAGA_UNDO_LATE, 0);
	if (saga->state != SAGA_NEEDS_REVIEW && saga->state != SAGA_ABANDONED)
		saga_change_state(change, SAGA_NEEDS_REVIEW);
	saga_follow_rest(change);
	saga_follow_withdraw(change);
	/* The saga's row no longer says that it was. */
	if (compensated_at != 0)
		saga_change_past_event(change, saga_state_name(SAGA_COMPENSATED), 0,
							   NULL, compensated_at);
}

/*
 * A result that came in after the undo had begun, of an effect outside the
 * database that did happen.  If it comes in time, the step's compensation gets
 * it, and all is well.  Otherwise a person must look.
 */
void
saga_events_late(SagaChange *change, SagaStep *step, Jsonb *output)
{
	SagaRow    *saga = change->saga;
	bool		to_undo = step->comp_status != SAGA_COMP_NONE &&
		step->kind != SAGA_KIND_RETRIABLE;
	bool		in_time = !to_undo ||
		(!saga_rows_never_began(step) && comes_in_time(saga, step));
	SagaJson	json;

	if (step->status == SAGA_STEP_FAILED || step->task != NULL)
	{
		/* The history holds what was attempted; this is one more. */
		step->forward.attempts++;
		step->attempt_at = change->now;
	}
	step->status = SAGA_STEP_COMPLETED;
	step->completed_at = change->now;
	step->forward.retry_at = 0;
	step->forward.output = output;

	/*
	 * A webhook may report a task that nobody claimed: the undo went on
	 * without it.
	 */
	if (saga_rows_never_began(step))
	{
		step->begun = saga_start_order_next(&step->saga);
		if (to_undo && step->comp_status == SAGA_COMP_REGISTERED)
			step->comp_status = SAGA_COMP_SKIPPED;
	}
	saga_change_step(change, step);
	if (!in_time)
		park_late(change, step, why_too_late(saga, step));
	else if (saga->state == SAGA_NEEDS_REVIEW && saga->undo == SAGA_UNDO_NONE)
	{
		/* It was one of those to be finished. */
		const SagaStep *pivot = saga_next_completed_pivot(change->steps);

		if (pivot != NULL)
			saga->parked = cstring_to_text(why_after_pivot(change->steps, pivot));
	}

	saga_json_begin(&json);
	saga_json_string(&json, "compensation_gets_output",
					 in_time && to_undo ? "yes" : "no");
	saga_change_event(change, "late result", step->seq, saga_json_end(&json));
	if (!in_time && saga->state == SAGA_NEEDS_REVIEW)
		saga_change_event(change, "parked", step->seq,
						  saga_json_pair("why", text_to_cstring(step->parked)));
}
