/*-------------------------------------------------------------------------
 *
 * events.c
 *	  What befalls a saga: its failure, its turn with the worker, late results.
 *
 * Each function takes the rows as they were read, changes them, and writes
 * them by change.c, whose rules hold here too.  The caller holds no lock but
 * the saga's own where the saga is still running (saga_events_fail).
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "base/guc.h"
#include "base/json.h"
#include "base/rights.h"
#include "flow/events.h"
#include "flow/next.h"
#include "flow/notify.h"
#include "utils/builtins.h"

/* So many unfinished steps are named to whoever is to finish them. */
#define MAX_UNFINISHED_TOLD		10

/* The steps that a saga which cannot be undone is still to finish, in words. */
static char *
unfinished(const SagaSteps *steps)
{
	StringInfoData buf;
	int			count = 0;

	initStringInfo(&buf);
	for (int i = 0; i < steps->count; i++)
	{
		const SagaStep *step = &steps->step[i];

		if (step->status == SAGA_STEP_COMPLETED || step->rolled_back_at != 0)
			continue;
		if (count++ < MAX_UNFINISHED_TOLD)
			appendStringInfo(&buf, "%s\"%s\"", count > 1 ? ", " : "",
							 text_to_cstring(step->key));
	}
	if (count > MAX_UNFINISHED_TOLD)
		appendStringInfo(&buf, " and %d more", count - MAX_UNFINISHED_TOLD);
	return count > 0 ? buf.data : NULL;
}

/* What a person is told of a saga that failed behind its pivot. */
static char *
why_behind_pivot(const SagaSteps *steps, const SagaStep *pivot)
{
	const char *rest = unfinished(steps);

	return psprintf("it failed after its pivot \"%s\" had completed: it can only be finished, not undone%s%s",
					text_to_cstring(pivot->key),
					rest ? "; unfinished: " : "", rest ? rest : "");
}

/* It can only be finished: a person decides how. */
static SagaWritten
park_behind_pivot(SagaRow *saga, SagaSteps *steps, const SagaStep *pivot,
				  SagaHand hand, TimestampTz now)
{
	const char *why = why_behind_pivot(steps, pivot);
	SagaWritten written;

	if (saga->state != SAGA_NEEDS_REVIEW)
		saga_ledger_enter_state(saga, SAGA_NEEDS_REVIEW, now);
	saga->undo_target = -1;
	saga->parked = cstring_to_text(why);
	saga_change_rest(saga, steps);
	written = saga_change_stand(saga, NULL, hand, now);
	if (written != SAGA_WRITTEN)
		return written;
	saga_change_withdraw(saga, steps);
	saga_ledger_insert_event(&saga->id, "parked", pivot->seq,
							 saga_json_pair("why", why), now);
	return SAGA_WRITTEN;
}

/*
 * The terminal failure of a saga that is running, or in a partial undo, which
 * becomes a full one.
 */
SagaWritten
saga_events_fail(SagaRow *saga, SagaFailureKind kind, text *reason,
				 Jsonb *details, SagaHand hand, TimestampTz now)
{
	SagaSteps	steps;
	const SagaStep *pivot;
	int			to_undo = 0;
	SagaWritten written;
	SagaJson	json;

	saga_ledger_get_steps(&saga->id, &steps);
	saga->failure_kind = kind;
	saga->reason = reason;
	saga->details = details;
	saga->failed_seq = saga_next_failed_step(&steps);
	saga->undo_target = 0;
	pivot = saga_next_completed_pivot(&steps);
	if (pivot != NULL)
		written = park_behind_pivot(saga, &steps, pivot, hand, now);
	else
	{
		to_undo = saga_next_count_to_undo(saga, &steps);
		/* A person was asked, and still is, unless it goes on without that. */
		if (saga->state == SAGA_NEEDS_REVIEW &&
			saga->on_failure == SAGA_ON_FAILURE_HALT)
			written = saga_change_stand(saga, NULL, hand, now);
		else
			written = saga_change_walk(saga, &steps, NULL, hand, now);
	}
	if (written != SAGA_WRITTEN)
		return written;

	saga_json_begin(&json);
	saga_json_string(&json, "kind", saga_state_failure_kind_name(kind));
	saga_json_text(&json, "reason", reason);
	saga_json_int(&json, "to_undo", to_undo);
	saga_ledger_insert_event(&saga->id, "failing", saga->failed_seq,
							 saga_json_end(&json), now);
	return SAGA_WRITTEN;
}

/* Nobody answers for the notification of a step: sending it is all. */
static SagaWritten
fire_and_forget(SagaRow *saga, SagaSteps *steps, int index, TimestampTz now)
{
	SagaStep   *step = &steps->step[index];
	TimestampTz dispatched_before = step->dispatched_at;
	SagaAttemptEnd end;
	SagaWritten written;

	saga_outcome_of_claim(step, SAGA_OUTCOME_SUCCEEDED, NULL, &end);
	end.started_at = now;
	step->dispatched_at = now;

	/* What comes next is another turn's. */
	written = saga_change_settle(saga, steps, index, &end,
								 SAGA_HAND_EXECUTOR, now);
	if (written == SAGA_WRITTEN)
	{
		saga_change_keep_dispatch(step, dispatched_before);
		saga_notify_compensate(text_to_cstring(step->channel), &saga->id,
							   step->seq);
	}
	return written;
}

/* Is it time to fail the saga by its deadline? */
static bool
is_late(const SagaRow *saga, TimestampTz now)
{
	return (saga->state == SAGA_RUNNING || saga->state == SAGA_COMPENSATING) &&
		saga_change_is_late(saga, now);
}

/* Nobody may claim it: a person must give the saga another owner first. */
static SagaWritten
park_unclaimable(SagaRow *saga, SagaSteps *steps, int index, const char *why,
				 TimestampTz now)
{
	SagaAttemptEnd end;

	saga_outcome_of_claim(&steps->step[index], SAGA_OUTCOME_FAILED, why, &end);
	end.started_at = now;
	end.park = why;
	return saga_change_settle(saga, steps, index, &end, SAGA_HAND_EXECUTOR,
							  now);
}

/* What is due of a saga that is being undone. */
static SagaWritten
turn_undo(SagaRow *saga, SagaSteps *steps, SagaHand hand, TimestampTz now)
{
	SagaTask	task;

	saga_next(saga, steps, &task);
	if (hand == SAGA_HAND_WORKER && task.kind == SAGA_TASK_LISTENER &&
		!saga->paused)
	{
		const SagaStep *step = &steps->step[task.index];
		const char *why;

		if (step->claimed_at == 0 && step->next_attempt_at <= now)
		{
			if (!step->acknowledge)
				return fire_and_forget(saga, steps, task.index, now);
			why = saga_rights_why_gone(saga->owner, saga->owner_name);
			if (why != NULL)
				return park_unclaimable(saga, steps, task.index, why, now);
		}
	}
	return saga_change_walk(saga, steps, NULL, hand, now);
}

/* What is due of a saga, apart from announcing it. */
static SagaWritten
turn(SagaRow *saga, SagaSteps *steps, SagaHand hand, TimestampTz now)
{
	SagaStep   *claimed = saga_next_claimed(steps);

	/*
	 * What came first, first: the due time that is left behind must not be
	 * the one at which the saga was found, or nobody would look again.
	 */
	if (claimed != NULL && claimed->lease_until <= now &&
		!(is_late(saga, now) && saga->deadline < claimed->lease_until))
	{
		SagaAttemptEnd end;

		saga_outcome_of_claim(claimed, SAGA_OUTCOME_TIMED_OUT,
							  "its claim ended without an acknowledgement",
							  &end);
		return saga_change_settle(saga, steps, claimed - steps->step, &end,
								  hand, now);
	}
	if (is_late(saga, now))
		return saga_events_fail(saga, SAGA_FAILURE_TIMED_OUT,
								cstring_to_text("the deadline passed"),
								NULL, hand, now);
	if (saga->state == SAGA_COMPENSATING)
		return turn_undo(saga, steps, hand, now);
	saga_change_rest(saga, steps);
	return saga_change_stand(saga, NULL, hand, now);
}

/*
 * Does what is due of a saga and needs no executor: announcing it, its
 * deadline, a claim that ended, dispatching to listeners, parking it, sending
 * it to the right lane.  What only the worker may do, an executor leaves.
 */
SagaWritten
saga_events_turn(SagaRow *saga, SagaSteps *steps, SagaHand hand,
				 TimestampTz now)
{
	const char *announce = NULL;
	SagaWritten written;

	if (hand == SAGA_HAND_WORKER && saga->to_announce != NULL)
	{
		announce = text_to_cstring(saga->to_announce);
		saga->to_announce = NULL;
	}
	/* What there is to tell listeners comes later, and is another turn's. */
	written = turn(saga, steps, announce ? SAGA_HAND_EXECUTOR : hand, now);
	if (written != SAGA_WRITTEN || announce == NULL)
		return written;
	for (; *announce != '\0'; announce++)
	{
		SagaState	state = (SagaState) *announce;

		if (saga->announce != NULL)
			saga_notify_state(text_to_cstring(saga->announce), &saga->id, state);
		if (state == SAGA_NEEDS_REVIEW && saga_guc_review_channel[0] != '\0')
			saga_notify_state(saga_guc_review_channel, &saga->id, state);
	}
	return SAGA_WRITTEN;
}

/* Would the worker's turn on a saga notify anybody? */
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
 * A result that came in after the undo had begun, of an effect outside the
 * database that did happen; "index" is its step.
 *
 * As long as no attempt of the step's compensation was ever made, it will be
 * made with this output, and all is well.  Otherwise, and where the walk has
 * already passed the step by, the effect may stand where everybody believes it
 * undone: a person must look.
 */
SagaWritten
saga_events_late(SagaRow *saga, SagaSteps *steps, int index, Jsonb *output,
				 TimestampTz now)
{
	SagaStep   *step = &steps->step[index];
	bool		to_undo = step->comp_status != SAGA_COMP_NONE &&
		step->kind != SAGA_KIND_RETRIABLE;
	bool		in_time;
	TimestampTz compensated_at = saga->state == SAGA_COMPENSATED ?
		saga->finished_at : 0;
	SagaJson	json;
	SagaWritten written;

	in_time = !to_undo ||
		((saga->state == SAGA_COMPENSATING || saga->state == SAGA_NEEDS_REVIEW) &&
		 (step->comp_status == SAGA_COMP_REGISTERED ||
		  step->comp_status == SAGA_COMP_PENDING ||
		  step->comp_status == SAGA_COMP_DISPATCHED) &&
		 step->comp_attempts == 0 && step->claimed_at == 0 &&
		 step->rolled_back_at == 0);

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
	if (!in_time)
	{
		const char *why;

		if (saga->state == SAGA_ABANDONED)
			why = "its result came after the saga had been abandoned";
		else if (step->rolled_back_at != 0)
			why = "its result came after it had been rolled back";
		else if (step->comp_status == SAGA_COMP_SKIPPED)
			why = "its result came after the undo had passed it by";
		else
			why = "its result came after its compensation had been tried without it";
		step->parked = cstring_to_text(why);
		step->late = true;
		/* Of a saga that is running, nothing else is to be undone. */
		if (saga->state == SAGA_RUNNING)
			saga->undo_target = SAGA_NOTHING_TO_UNDO;
		if (saga->state != SAGA_NEEDS_REVIEW && saga->state != SAGA_ABANDONED)
			saga_ledger_enter_state(saga, SAGA_NEEDS_REVIEW, now);
		saga_change_rest(saga, steps);
	}
	else if (saga->state == SAGA_NEEDS_REVIEW && saga->undo_target < 0)
	{
		/* It was one of those to be finished. */
		const SagaStep *pivot = saga_next_completed_pivot(steps);

		if (pivot != NULL)
			saga->parked = cstring_to_text(why_behind_pivot(steps, pivot));
	}

	written = saga_change_stand(saga, step, SAGA_HAND_CALLER, now);
	if (written != SAGA_WRITTEN)
		return written;
	if (!in_time)
		saga_change_withdraw(saga, steps);

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
								 saga_json_pair("why", text_to_cstring(step->parked)),
								 now);
	return SAGA_WRITTEN;
}
