/*-------------------------------------------------------------------------
 *
 * change.c
 *	  Writing down what follows from a saga's steps.
 *
 * What is next is next.c's to say; here it is written: the saga's state, when
 * it must be looked at and by whom, and the steps that changed by that.
 *
 * The saga's row is written first: that row is where two writers meet (see
 * saga_rows.c), and when it says SAGA_CHANGED or SAGA_WRITE_BUSY nothing else has
 * been written yet, and the caller begins anew from fresh rows.  The caller
 * has made sure that nobody was writing the saga's row when it read the rows.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "base/json.h"
#include "flow/change.h"
#include "flow/next.h"
#include "flow/notify.h"
#include "utils/builtins.h"

/* Our own processes do not wait for others; a caller does. */
static SagaPatience
patience_of(SagaHand hand)
{
	return hand == SAGA_HAND_CALLER ? SAGA_WAIT : SAGA_NOWAIT;
}

/* Writes a step behind its saga's row, which this transaction has replaced. */
void
saga_change_write_step(const SagaRow *saga, SagaStep *step)
{
	if (saga_ledger_update_step(saga, step, SAGA_NOWAIT) != SAGA_WRITTEN)
		elog(ERROR, "a step changed without its saga");
}

/*
 * Writes the rows of a saga whose walk stands as it stood: the saga's, and
 * that of a step, or NULL.
 */
SagaWritten
saga_change_stand(SagaRow *saga, SagaStep *step, SagaHand hand,
				  TimestampTz now)
{
	SagaWritten written;

	saga->updated_at = now;
	written = saga_ledger_update_saga(saga, patience_of(hand));
	if (written == SAGA_WRITTEN && step != NULL)
		saga_change_write_step(saga, step);
	return written;
}

/*
 * What waits for a listener waits no longer, since the walk stands still; the
 * saga's row has been replaced.
 */
void
saga_change_withdraw(const SagaRow *saga, SagaSteps *steps)
{
	for (int i = 0; i < steps->count; i++)
	{
		if (saga_rows_queued(&steps->step[i]) == 0)
			continue;
		steps->step[i].comp_status = SAGA_COMP_PENDING;
		saga_change_write_step(saga, &steps->step[i]);
	}
}

/*
 * Has a saga that has not failed a deadline, which has passed and counts?  In a
 * partial undo that makes a full one of it.
 */
bool
saga_change_is_late(const SagaRow *saga, TimestampTz now)
{
	return saga->deadline != 0 && saga->deadline <= now && !saga->paused &&
		saga->failure_kind == SAGA_FAILURE_NONE;
}

/*
 * When a saga that is being undone, and waits for something, must be looked
 * at: then (0: it is told); at its deadline, which makes of a partial undo a
 * full one; or at the end of a claim, which need not be of the step that is
 * next.
 */
void
saga_change_wait_until(SagaRow *saga, const SagaSteps *steps,
					   TimestampTz when, Oid lane)
{
	const SagaStep *claimed = saga_next_claimed(steps);

	if (claimed != NULL && (when == 0 || claimed->lease_until < when))
	{
		when = claimed->lease_until;
		lane = InvalidOid;
	}
	if (saga->deadline != 0 && saga->failure_kind == SAGA_FAILURE_NONE &&
		!saga->paused && (when == 0 || saga->deadline < when))
		saga_ledger_set_due(saga, saga->deadline, InvalidOid);
	else
		saga_ledger_set_due(saga, when, lane);
}

/*
 * When a saga that is not being undone must be looked at: at its deadline, or
 * at the end of a claim that goes on.
 */
void
saga_change_rest(SagaRow *saga, const SagaSteps *steps)
{
	const SagaStep *claimed = saga_next_claimed(steps);

	if (claimed != NULL)
		saga_ledger_set_due(saga, claimed->lease_until, InvalidOid);
	else if (saga->state == SAGA_RUNNING && !saga->paused)
		saga_ledger_set_due(saga, saga->deadline, InvalidOid);
	else
		saga_ledger_set_due(saga, 0, InvalidOid);
}

/*
 * Due at once in the lane of a role, unless it is so already: an executor that
 * walks on need not be told.
 */
static void
due_for_executor(SagaRow *saga, TimestampTz now, Oid lane)
{
	if (saga->due == 0 || saga->due > now || saga->lane != lane ||
		saga->to_announce != NULL)
		saga_ledger_set_due(saga, now, lane);
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

		if (!saga_next_in_range(saga, step) ||
			!saga_next_passes_over(saga, step))
			continue;
		step->comp_status = SAGA_COMP_SKIPPED;
		saga_change_write_step(saga, step);
	}
}

/* What the walk comes to is SQL, or a listener's: is it due, and for whom? */
static void
go_on(SagaRow *saga, const SagaSteps *steps, SagaStep *step, SagaTaskKind kind,
	  SagaHand hand, TimestampTz now)
{
	bool		sql = kind == SAGA_TASK_SQL;

	if (saga->state != SAGA_COMPENSATING)
		saga_ledger_enter_state(saga, SAGA_COMPENSATING, now);
	if (step->claimed_at != 0)
		saga_change_wait_until(saga, steps, 0, InvalidOid);
	else if (saga->paused)
	{
		if (step->comp_status == SAGA_COMP_DISPATCHED)
			step->comp_status = SAGA_COMP_PENDING;
		saga_change_wait_until(saga, steps, 0, InvalidOid);
	}
	else if (step->comp_status == SAGA_COMP_DISPATCHED)
		saga_change_wait_until(saga, steps, 0, InvalidOid);
	else if (step->next_attempt_at > now)
		saga_change_wait_until(saga, steps, step->next_attempt_at,
							   sql ? step->run_as : InvalidOid);
	else if (sql)
		due_for_executor(saga, now, step->run_as);
	else if (hand != SAGA_HAND_WORKER || saga->to_announce != NULL ||
			 !step->acknowledge)
		saga_ledger_set_due(saga, now, InvalidOid);
	else
	{
		step->comp_status = SAGA_COMP_DISPATCHED;
		step->dispatched_at = now;
		step->next_attempt_at = 0;
		saga_change_wait_until(saga, steps, 0, InvalidOid);
	}
}

/*
 * The walk is over.  Returns why the saga is parked, or NULL: it is
 * compensated or, after a partial undo, running again, with the runs of steps
 * that this undid rolled back.
 */
static const char *
end_walk(SagaRow *saga, SagaSteps *steps, TimestampTz now)
{
	int			given_up = saga_next_count_given_up(saga, steps);

	if (given_up > 0)
	{
		const char *why = psprintf("%d of its compensations failed, the others are done",
								   given_up);

		if (saga->state != SAGA_NEEDS_REVIEW)
			saga_ledger_enter_state(saga, SAGA_NEEDS_REVIEW, now);
		saga->parked = cstring_to_text(why);
		saga_ledger_set_due(saga, 0, InvalidOid);
		return why;
	}
	/* A full undo is one that has a reason; a partial one has a savepoint. */
	if (saga->failure_kind != SAGA_FAILURE_NONE)
	{
		saga_ledger_enter_state(saga, SAGA_COMPENSATED, now);
		saga_ledger_set_due(saga, 0, InvalidOid);
		return NULL;
	}
	for (int i = 0; i < steps->count; i++)
	{
		SagaStep   *step = &steps->step[i];

		if (step->rolled_back_at != 0 || step->seq <= saga->undo_target)
			continue;
		/* What is never undone is not to be done again either. */
		if (step->kind == SAGA_KIND_RETRIABLE)
		{
			if (step->comp_status == SAGA_COMP_SKIPPED)
				step->comp_status = SAGA_COMP_REGISTERED;
			continue;
		}
		if (saga_next_passes_over(saga, step))
			step->comp_status = SAGA_COMP_SKIPPED;
		step->rolled_back_at = now;
	}
	if (saga->state != SAGA_RUNNING)
		saga_ledger_enter_state(saga, SAGA_RUNNING, now);
	saga->reason = NULL;
	saga_ledger_set_due(saga, saga->paused ? 0 : saga->deadline, InvalidOid);
	return NULL;
}

/* Writes what the end of a partial undo made of the steps behind its savepoint. */
static void
write_rolled_back(SagaRow *saga, SagaSteps *steps, SagaStep *written,
				  TimestampTz now)
{
	for (int i = 0; i < steps->count; i++)
	{
		SagaStep   *step = &steps->step[i];

		if (step != written &&
			(step->rolled_back_at == now ||
			 step->comp_status != step->stored_comp_status))
			saga_change_write_step(saga, step);
	}
}

/*
 * Sets the saga's row to what follows from its steps, and writes everything:
 * the saga's row, the one step whose row "changed" points to (or NULL), and
 * what the walk passed over or rolled back.
 *
 * Only the worker dispatches to listeners; whoever else comes to such a step
 * ("hand" tells who it is) leaves the saga to it.  So does the worker with one
 * that nobody acknowledges: sending and marking that are a turn of their own.
 */
SagaWritten
saga_change_walk(SagaRow *saga, SagaSteps *steps, SagaStep *changed,
				 SagaHand hand, TimestampTz now)
{
	bool		was_parked = saga->state == SAGA_NEEDS_REVIEW;
	const char *parked = NULL;
	SagaStep   *step = NULL;
	bool		touched = false;	/* that step's row is to be written */
	bool		dispatched = false;
	TimestampTz dispatched_before = 0;
	bool		over = false;
	SagaTask	task;
	SagaWritten written;

	Assert(saga->undo_target >= 0);
	saga->updated_at = now;
	saga_next(saga, steps, &task);

	/*
	 * An executor goes from step to step without waiting for anything.  If
	 * the deadline passed meanwhile, what comes next is the full undo, which
	 * the worker begins.
	 */
	if (hand == SAGA_HAND_EXECUTOR && saga->state == SAGA_COMPENSATING &&
		saga_change_is_late(saga, now))
	{
		saga_ledger_set_due(saga, now, InvalidOid);
		return saga_change_stand(saga, changed, hand, now);
	}
	if (task.index >= 0)
		step = &steps->step[task.index];
	switch (task.kind)
	{
		case SAGA_TASK_SQL:
		case SAGA_TASK_LISTENER:
			{
				SagaCompStatus before = step->comp_status;

				dispatched_before = step->dispatched_at;
				go_on(saga, steps, step, task.kind, hand, now);
				touched = step->comp_status != before;
				dispatched = touched && step->comp_status == SAGA_COMP_DISPATCHED;
				break;
			}
		case SAGA_TASK_PERSON:

			/*
			 * The application that fails a saga sees it compensating first,
			 * whatever its last step wants.
			 */
			if (saga->state == SAGA_RUNNING)
			{
				saga_ledger_enter_state(saga, SAGA_COMPENSATING, now);
				saga_ledger_set_due(saga, now, InvalidOid);
				break;
			}
			if (!was_parked)
				saga_ledger_enter_state(saga, SAGA_NEEDS_REVIEW, now);
			saga->parked = NULL;
			saga_change_rest(saga, steps);
			if (!was_parked || step->parked == NULL)
				parked = task.why;
			if (step->parked == NULL)
			{
				step->parked = cstring_to_text(task.why);
				touched = true;
			}
			break;
		case SAGA_TASK_NONE:
			parked = end_walk(saga, steps, now);
			over = saga->state == SAGA_RUNNING;
			break;
	}

	written = saga_ledger_update_saga(saga, patience_of(hand));
	if (written != SAGA_WRITTEN)
		return written;

	if (changed != NULL)
		saga_change_write_step(saga, changed);
	if (touched && step != changed)
		saga_change_write_step(saga, step);
	if (over)
		write_rolled_back(saga, steps, changed, now);
	else
		skip_passed_over(saga, steps, task.index);

	if (parked != NULL)
		saga_ledger_insert_event(&saga->id, "parked", step ? step->seq : 0,
								 saga_json_pair("why", parked), now);
	if (over)
		saga_ledger_insert_event(&saga->id,
								 saga->undo_target == SAGA_NOTHING_TO_UNDO ?
								 "running again" : "rolled back", 0, NULL, now);
	if (dispatched)
	{
		saga_change_keep_dispatch(step, dispatched_before);
		saga_notify_compensate(text_to_cstring(step->channel), &saga->id,
							   step->seq);
	}
	return SAGA_WRITTEN;
}

/*
 * Settles an attempt of the compensation of the step at "index", and goes on
 * with the walk.  For a success this is the mark: it belongs into the
 * transaction that did the work.
 *
 * The undo may have been parked or abandoned while the attempt was under way;
 * what it did is written down, and nothing follows from it.
 */
SagaWritten
saga_change_settle(SagaRow *saga, SagaSteps *steps, int index,
				   const SagaAttemptEnd *end, SagaHand hand, TimestampTz now)
{
	SagaStep   *step = &steps->step[index];
	SagaWritten written;

	saga_outcome_take(saga, step, end, now);
	if (saga->state == SAGA_COMPENSATING)
		written = saga_change_walk(saga, steps, step, hand, now);
	else
	{
		saga_change_rest(saga, steps);
		written = saga_change_stand(saga, step, hand, now);
	}
	if (written == SAGA_WRITTEN)
		saga_change_write_attempt(step, end, now);
	return written;
}

/*
 * The row of a step tells of the last time that it was dispatched only; "before"
 * is the one before that, or 0.
 */
void
saga_change_keep_dispatch(const SagaStep *step, TimestampTz before)
{
	if (before != 0)
		saga_ledger_insert_event(&step->saga, "compensation dispatched",
								 step->seq,
								 saga_json_pair("channel", text_to_cstring(step->channel)),
								 before);
}

/* Writes down an attempt of a compensation that is over. */
void
saga_change_write_attempt(const SagaStep *step, const SagaAttemptEnd *end,
						  TimestampTz now)
{
	SagaAttempt attempt;

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
	attempt.consumer = end->consumer;
	saga_ledger_insert_attempt(&attempt);
}
