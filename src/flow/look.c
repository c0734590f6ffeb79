/*-------------------------------------------------------------------------
 *
 * look.c
 *	  A look at a running saga: which steps may begin, and is it over?
 *
 * What may open a gate (a step is done or recorded, time passes, a person
 * decides) is committed with a row of its own in ledger_due.  Whoever finds such
 * a row looks at the saga: reads its steps, evaluates the gates, and writes what
 * follows.  State is derived from the rows each time; there is no message that
 * could be lost, and one look serves any number of changes.
 *
 * The caller holds the saga's lock at least shared, so that it neither fails nor
 * ends meanwhile, and has the newest rows.  Another look at the same saga may be
 * under way: both write the same steps, and the second finds them changed, writes
 * nothing, and looks again.  Where a saga ends or fails, or the look itself completes
 * or gives up a step, the caller must hold the lock exclusively (SAGA_MAY_FAIL): no
 * row asks for another look because of such a step, so no look that does not see it
 * may be under way, and this one must see what others have done meanwhile.
 *
 * A step whose action runs is not written here: its process holds its row, and
 * writes how that ended, with a row that asks for another look.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "base/json.h"
#include "flow/events.h"
#include "flow/gates.h"
#include "flow/inbox.h"
#include "flow/look.h"
#include "flow/next.h"
#include "ledger/start_order.h"
#include "utils/builtins.h"

/* Enters the end of an attempt into the step's row and the history. */
static void
enter_attempt(SagaChange *change, SagaStep *step, const SagaAttemptEnd *end)
{
	TimestampTz timeout_at = saga_rows_timeout_at(step);

	if (step->action != NULL && end->attempt == 1 && step->rounds == 0)
		saga_change_count_wait(change, SAGA_STAT_TIME_FIRST_ACTION,
							   end->started_at - step->ready_at);
	saga_outcome_take_forward(step, end, change->now);
	if (end->outcome != SAGA_OUTCOME_SUCCEEDED && timeout_at != 0 &&
		timeout_at <= change->now && step->parked == NULL)
		saga_outcome_give_up(step, "timed out", "timed out");
	saga_change_only_step(change, step);
	if (step->parked != NULL)
		saga_change_event(change, "step parked", step->seq,
						  saga_json_pair("why", text_to_cstring(step->parked)));
	/* One that succeeded is recorded in the step's own row. */
	if (end->outcome != SAGA_OUTCOME_SUCCEEDED)
		saga_change_attempt(change, step, end);
}

/* The service that holds a task has not reported in time. */
static void
end_claim_of_task(SagaChange *change, SagaStep *step, const char *why)
{
	SagaAttemptEnd end;

	saga_outcome_of_task(step, SAGA_OUTCOME_TIMED_OUT, why, &end);
	saga_change_count_channel(change, step->task, SAGA_STAT_LEASES_ENDED);
	enter_attempt(change, step, &end);
}

/* The time of a step that no process runs is over. */
void
saga_look_time_out(SagaChange *change, SagaStep *step)
{
	if (saga_rows_task_claimed(step))
		end_claim_of_task(change, step, "timed out");
	else
		saga_outcome_give_up(step, "timed out", "timed out");
	saga_change_only_step(change, step);
	saga_change_event(change, "step timed out", step->seq, NULL);
}

/*
 * The same, unless somebody holds the step's row: the process that runs its action,
 * which ends the action at that time, too; or a transaction that may yet be rolled
 * back.  Returns false then.
 */
static bool
time_out_unless_running(SagaChange *change, SagaStep *step)
{
	if (step->action != NULL &&
		saga_ledger_lock_step(step, SAGA_NOWAIT) != SAGA_WRITTEN)
	{
		change->busy = true;
		return false;
	}
	saga_look_time_out(change, step);
	return true;
}

/* A person is asked; only the worker notifies. */
static void
ask_for_approval(SagaChange *change, SagaStep *step)
{
	const char *why = psprintf("approval: %s", text_to_cstring(step->approval));

	if (!(change->may & SAGA_MAY_NOTIFY))
	{
		saga_change_look(change, -step->seq);
		return;
	}
	step->parked = cstring_to_text(why);
	saga_change_step(change, step);
	saga_change_ask(change, step);
	saga_change_event(change, "step parked", step->seq, saga_json_pair("why", why));
}

/*
 * Opens the gates of a waiting step, as far as they may open now.  Returns true if
 * the step is done by that, so that gates of others may be open now.
 */
static bool
open_gates(SagaChange *change, const SagaGates *gates, SagaStep *step)
{
	if (step->ready_at == 0)
	{
		if (gates->before[step - change->steps->step] != -1)
			return false;
		saga_gates_open_first(step, change->now);
		saga_change_step(change, step);
	}
	if (step->ready_at > change->now)
		return false;
	if (step->signals != NULL && step->signal == NULL &&
		!saga_inbox_take(change, step))
		return false;
	/* Asked last, so that nobody approves a step that may never run. */
	if (step->approval != NULL && !step->approved)
	{
		ask_for_approval(change, step);
		return false;
	}
	if (step->action != NULL || step->task != NULL)
		return false;

	/* It has no work: it is completed as soon as its gates are open. */
	step->begun = saga_start_order_next(&step->saga);
	step->status = SAGA_STEP_COMPLETED;
	step->completed_at = change->now;
	step->forward.output = step->signal;
	step->forward.attempts = 1;
	step->attempt_at = change->now;
	saga_change_step(change, step);
	return true;
}

/*
 * Opens the gates that may open, and ends what has run out of time.  Returns the
 * first step that fails the saga, or NULL.  "done": whether steps were completed or
 * given up by that, or a claim ended.
 */
static SagaStep *
move_steps(SagaChange *change, SagaGates *gates, bool *done)
{
	SagaSteps  *steps = change->steps;
	SagaStep   *failed = NULL;
	bool		again = true;

	*done = false;
	while (again)
	{
		again = false;
		saga_gates_read(gates, steps);
		for (int i = 0; i < gates->count; i++)
		{
			SagaStep   *step = &steps->step[gates->order[i]];
			TimestampTz timeout_at = saga_rows_timeout_at(step);

			if (!saga_rows_is_run(step))
				continue;
			if (timeout_at != 0 && timeout_at <= change->now)
				again |= time_out_unless_running(change, step);
			else if (saga_rows_task_claimed(step) &&
					 step->lease_until <= change->now)
			{
				end_claim_of_task(change, step,
								  "its claim ended without an acknowledgement");
				again = true;
			}
			else if (step->status == SAGA_STEP_WAITING && step->parked == NULL)
				again |= open_gates(change, gates, step);
			if (failed == NULL && saga_gates_failed(step))
				failed = step;
		}
		*done |= again;
	}
	return failed;
}

/*
 * Notifies services of tasks that have become claimable, and those who watch for
 * decisions of steps that a person must decide about.  Only the worker notifies;
 * others ask it for a look.  A task that the worker cannot announce now can be claimed
 * nevertheless, and its channel is notified again (channels.c).
 */
static void
announce(SagaChange *change)
{
	bool		may = (change->may & SAGA_MAY_NOTIFY) != 0;
	ListCell   *lc;

	foreach(lc, change->changed)
	{
		SagaStep   *step = lfirst(lc);

		if (saga_rows_may_be_claimed(step, change->now) &&
			(saga_rows_task_due(step) != step->stored_queued || step->stored_queue_phase != SAGA_PHASE_FORWARD))
		{
			if (may)
				saga_change_notify_task(change, step);
			else if (!(change->may & SAGA_IS_WORKER))
				saga_change_look(change, PG_INT64_MIN);
		}
		if (saga_rows_step_held(step) && !step->stored_held &&
			step->status != SAGA_STEP_WAITING)
		{
			if (may)
				saga_change_ask(change, step);
			else
				saga_change_look(change, -step->seq);
		}
	}
}

/* The result of a sealed saga to which none was given. */
Jsonb *
saga_look_result(const SagaSteps *steps)
{
	const SagaStep *last = NULL;

	for (int i = 0; i < steps->count; i++)
	{
		const SagaStep *step = &steps->step[i];

		if (step->rolled_back_at == 0 && step->recorded_by == 0 &&
			(last == NULL || saga_rows_place(step) > saga_rows_place(last)))
			last = step;
	}
	return last != NULL ? last->forward.output : NULL;
}

/* Looks at a saga; the change has just begun. */
SagaLookResult
saga_look(SagaChange *change)
{
	SagaRow    *saga = change->saga;
	SagaSteps  *steps = saga_change_steps(change);
	SagaGates	gates;
	SagaStep   *failed;
	bool		done;

	Assert(saga->state == SAGA_RUNNING);
	change->steps_only = true;
	if (saga->paused)
		return SAGA_LOOK_NOTHING;
	failed = move_steps(change, &gates, &done);
	if (done && !(change->may & SAGA_MAY_FAIL))
		return SAGA_LOOK_ENDS;
	announce(change);
	if (failed != NULL)
	{
		if (change->may & SAGA_MAY_FAIL)
		{
			change->steps_only = false;
			saga_inbox_give_back(change);
			saga_events_fail_at(change, failed);
		}
		return SAGA_LOOK_ENDS;
	}
	if (saga->runs == SAGA_RUNS_SEALED && saga_gates_all_done(&gates))
	{
		if (change->may & SAGA_MAY_FAIL)
		{
			change->steps_only = false;
			saga_change_state(change, SAGA_COMPLETED);
			if (saga->result == NULL)
				saga->result = saga_look_result(steps);
			saga_change_due(change, 0, InvalidOid);
		}
		return SAGA_LOOK_ENDS;
	}
	return change->changed != NIL || change->looks != NIL ? SAGA_LOOK_STEPS : SAGA_LOOK_NOTHING;
}

/*
 * An attempt of a step's work has ended, or a round of it.  For a success this is
 * the mark: it belongs in the transaction that did the work.
 */
void
saga_look_attempt(SagaChange *change, SagaStep *step, const SagaAttemptEnd *end)
{
	enter_attempt(change, step, end);
	/* Gates may open because of it; or a person must be notified. */
	if (step->forward.retry_at == 0)
		saga_change_look(change, -step->seq);
}

/*
 * No process may run the action of a step, or no role may claim its task: a person
 * must mend that first.
 */
void
saga_look_park(SagaChange *change, SagaStep *step, const char *why)
{
	SagaAttemptEnd end;

	memset(&end, 0, sizeof(end));
	end.outcome = SAGA_OUTCOME_FAILED;
	end.forward = true;
	end.attempt = step->forward.attempts + 1;
	end.started_at = change->now;
	end.rows = -1;
	end.error = why;
	end.charged = true;
	end.park = why;
	end.mend = true;
	saga_look_attempt(change, step, &end);
}
