/*-------------------------------------------------------------------------
 *
 * follow.c
 *	  What follows for a saga from the state of its steps.
 *
 * After anything has changed in a saga, these functions set its state, when it
 * is due and in which lane, and what becomes of the steps that the walk passed
 * over, dispatched, or rolled back.  next.c says which step is next.  Nothing is
 * read or written here; change.c writes.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "base/json.h"
#include "flow/afresh.h"
#include "flow/follow.h"
#include "flow/next.h"
#include "utils/builtins.h"

/*
 * Takes compensations that wait for a listener back from it, since the walk stands
 * still.
 */
void
saga_follow_withdraw(SagaChange *change)
{
	SagaSteps  *steps = change->steps;

	for (int i = 0; i < steps->count; i++)
	{
		if (saga_rows_undo_queued(&steps->step[i]) == 0)
			continue;
		steps->step[i].comp_status = SAGA_COMP_PENDING;
		saga_change_step(change, &steps->step[i]);
	}
}

/*
 * Has the deadline of a saga that has not failed passed, and does it count?  A
 * partial undo becomes a full one by that.
 */
bool
saga_follow_is_late(const SagaRow *saga, TimestampTz now)
{
	return saga->deadline != 0 && saga->deadline <= now && !saga->paused &&
		saga->failure_kind == SAGA_FAILURE_NONE;
}

/*
 * The saga is being undone and waits.  It is due at "when" (0: once something
 * happens to it); at its deadline, which makes a full undo of a partial one; or at
 * the end of a claim, which need not be that of the step that is next.
 */
void
saga_follow_wait(SagaChange *change, TimestampTz when, Oid lane)
{
	const SagaRow *saga = change->saga;
	const SagaStep *claimed = saga_next_claimed(change->steps);

	if (claimed != NULL && (when == 0 || claimed->lease_until < when))
	{
		when = claimed->lease_until;
		lane = InvalidOid;
	}
	if (saga->deadline != 0 && saga->failure_kind == SAGA_FAILURE_NONE &&
		!saga->paused && (when == 0 || saga->deadline < when))
		saga_change_due(change, saga->deadline, InvalidOid);
	else
		saga_change_due(change, when, lane);
}

/*
 * The saga is not being undone: it is due at its deadline, or at the end of a
 * claim that goes on.
 */
void
saga_follow_rest(SagaChange *change)
{
	const SagaRow *saga = change->saga;
	const SagaStep *claimed = change->steps != NULL ?
		saga_next_claimed(change->steps) : NULL;

	if (claimed != NULL)
		saga_change_due(change, claimed->lease_until, InvalidOid);
	else if (saga->state == SAGA_RUNNING && !saga->paused)
		saga_change_due(change, saga->deadline, InvalidOid);
	else
		saga_change_due(change, 0, InvalidOid);
}

/*
 * Due at once in the lane of a role, unless it is so already: an executor that
 * goes on along the walk needs no waking.
 */
static void
due_for_executor(SagaChange *change, Oid lane)
{
	const SagaRow *saga = change->saga;

	if (saga->due == 0 || saga->due > change->now || saga->lane != lane ||
		saga->to_announce != NULL)
		saga_change_due(change, change->now, lane);
}

/*
 * The walk settles the steps that it passes over, later than the one at
 * "index".  A result of theirs that comes in after that is a late one.
 */
static void
skip_passed_over(SagaChange *change, int index)
{
	SagaSteps  *steps = change->steps;

	for (int i = steps->to_walk - 1; i > index; i--)
	{
		SagaStep   *step = &steps->step[i];

		if (!saga_next_in_range(change->saga, step) ||
			!saga_next_passes_over(change->saga, step))
			continue;
		step->comp_status = SAGA_COMP_SKIPPED;
		saga_change_step(change, step);
	}
}

/*
 * A step was dispatched on "channel" at "before" (0: it was not).  Its row shows
 * the last dispatch on its own channel only, and is about to show another.
 */
void
saga_follow_keep_dispatch(SagaChange *change, const SagaStep *step,
						  const text *channel, TimestampTz before)
{
	if (before != 0)
		saga_change_past_event(change, "compensation dispatched", step->seq,
							   saga_json_pair("channel", text_to_cstring(channel)),
							   before);
}

static void
dispatch(SagaChange *change, SagaStep *step)
{
	TimestampTz before = step->dispatched_at;

	step->comp_status = SAGA_COMP_DISPATCHED;
	step->dispatched_at = change->now;
	step->undo.retry_at = 0;
	saga_change_step(change, step);
	saga_follow_keep_dispatch(change, step, step->channel, before);
	saga_change_notify(change, step);
}

/*
 * The next step is compensated by SQL or by a listener: is it due, and in which
 * lane?  Only the worker dispatches to listeners; every other process that
 * comes to such a step leaves the saga to it.  So does the worker with a step
 * that no listener acknowledges: sending and marking that take a pass of their
 * own.
 */
static void
go_on(SagaChange *change, SagaStep *step, SagaTaskKind kind)
{
	SagaRow    *saga = change->saga;
	bool		sql = kind == SAGA_TASK_SQL;

	if (saga->state != SAGA_COMPENSATING)
		saga_change_state(change, SAGA_COMPENSATING);
	if (step->claimed_at != 0)
		saga_follow_wait(change, 0, InvalidOid);
	else if (saga->paused)
	{
		if (step->comp_status == SAGA_COMP_DISPATCHED)
		{
			step->comp_status = SAGA_COMP_PENDING;
			saga_change_step(change, step);
		}
		saga_follow_wait(change, 0, InvalidOid);
	}
	else if (step->comp_status == SAGA_COMP_DISPATCHED)
		saga_follow_wait(change, 0, InvalidOid);
	else if (step->undo.retry_at > change->now)
		saga_follow_wait(change, step->undo.retry_at,
						 sql ? step->run_as : InvalidOid);
	else if (sql)
		due_for_executor(change, step->run_as);
	else if (!(change->may & SAGA_MAY_NOTIFY) || saga->to_announce != NULL ||
			 !step->acknowledge)
		saga_change_due(change, change->now, InvalidOid);
	else
	{
		dispatch(change, step);
		saga_follow_wait(change, 0, InvalidOid);
	}
}

/*
 * May an executor be running one of the actions, before what is decided here is written?
 * The row shows only when it is due, and that time may come before the commit.  What an
 * attempt has changed is seen only when it has ended.
 */
static bool
may_run(const SagaChange *change)
{
	if (change->saga->runs == SAGA_RUNS_NONE)
		return false;
	for (int i = 0; i < change->steps->count; i++)
		if (saga_rows_work_due(&change->steps->step[i]) != 0)
			return true;
	return false;
}

/* What comes next is the worker's. */
void
saga_follow_leave_to_worker(SagaChange *change)
{
	if (change->saga->state != SAGA_COMPENSATING)
		saga_change_state(change, SAGA_COMPENSATING);
	saga_change_due(change, change->now, InvalidOid);
}

/* The next step is one that a person must decide about. */
static void
ask_person(SagaChange *change, SagaStep *step, const char *why)
{
	SagaRow    *saga = change->saga;
	bool		asked = saga->state == SAGA_NEEDS_REVIEW && step->parked != NULL;

	/*
	 * The application that fails a saga sees it compensating first, whatever
	 * its last step wants.
	 */
	if (saga->state == SAGA_RUNNING)
	{
		saga_follow_leave_to_worker(change);
		return;
	}
	if (saga->state != SAGA_NEEDS_REVIEW)
		saga_change_state(change, SAGA_NEEDS_REVIEW);
	saga->parked = NULL;
	saga_follow_rest(change);
	if (step->parked == NULL)
	{
		step->parked = cstring_to_text(why);
		saga_change_step(change, step);
	}
	if (!asked)
		saga_change_event(change, "parked", step->seq,
						  saga_json_pair("why", why));
}

/* The walk is over, but compensations failed that it went on without. */
static void
ask_about_failed(SagaChange *change, int failed)
{
	const char *why = psprintf("%d of its compensations failed, the others are done",
							   failed);

	if (change->saga->state != SAGA_NEEDS_REVIEW)
		saga_change_state(change, SAGA_NEEDS_REVIEW);
	change->saga->parked = cstring_to_text(why);
	saga_change_due(change, 0, InvalidOid);
	saga_change_event(change, "parked", 0, saga_json_pair("why", why));
}

/* Of the steps that a partial undo was about, the runs are rolled back. */
static void
roll_back_runs(SagaChange *change)
{
	SagaSteps  *steps = change->steps;

	for (int i = 0; i < steps->count; i++)
	{
		SagaStep   *step = &steps->step[i];

		if (step->rolled_back_at != 0 || change->saga->undo != SAGA_UNDO_PARTIAL ||
			!saga_rows_goes_back(step, change->saga->savepoint) ||
			saga_rows_never_began(step))
			continue;
		/* A retriable step is never undone, so it keeps its result. */
		if (step->kind == SAGA_KIND_RETRIABLE)
		{
			if (step->comp_status == SAGA_COMP_SKIPPED)
			{
				step->comp_status = SAGA_COMP_REGISTERED;
				saga_change_step(change, step);
			}
			continue;
		}
		if (saga_next_passes_over(change->saga, step))
			step->comp_status = SAGA_COMP_SKIPPED;
		step->rolled_back_at = change->now;
		saga_change_step(change, step);
	}
}

/* The walk is over: the saga is compensated or, after a partial undo, runs. */
static void
end_walk(SagaChange *change)
{
	SagaRow    *saga = change->saga;
	int			failed = saga_next_count_given_up(saga, change->steps);

	/*
	 * Beside a late result, a step may have been reported by a transaction
	 * that is still open: only under the saga's lock is none.
	 */
	if (saga->undo == SAGA_UNDO_LATE && saga->runs != SAGA_RUNS_NONE &&
		!(change->may & SAGA_MAY_FAIL))
	{
		saga_follow_leave_to_worker(change);
		return;
	}

	if (failed > 0)
	{
		skip_passed_over(change, -1);
		ask_about_failed(change, failed);
	}
	else if (saga->undo == SAGA_UNDO_FULL)
	{
		skip_passed_over(change, -1);
		saga_change_state(change, SAGA_COMPENSATED);
		saga_change_due(change, 0, InvalidOid);
	}
	else
	{
		roll_back_runs(change);
		saga_afresh_restart(change, false);
		if (saga->state != SAGA_RUNNING)
			saga_change_state(change, SAGA_RUNNING);
		saga_change_event(change, saga->undo == SAGA_UNDO_LATE ?
						  "running again" : "rolled back", 0, NULL);
		saga_change_undo(change, SAGA_UNDO_NONE, 0);
		saga->reason = NULL;
		saga_change_due(change, saga->paused ? 0 : saga->deadline, InvalidOid);
	}
}

/* The undo begins, or goes on, from where the steps say that it is. */
void
saga_follow_walk(SagaChange *change)
{
	SagaRow    *saga = change->saga;
	SagaSteps  *steps = change->steps;
	SagaTask	task;

	Assert(saga->undo != SAGA_UNDO_NONE);

	/*
	 * An action that runs can no longer commit, but how it ended may make its
	 * step one to be undone first, and until then its process holds the
	 * step's row.  The worker ends it and waits for that (own_lane.c), so
	 * that a call need not.  Once the worker has gone on, none can begin.
	 */
	if ((saga->state == SAGA_RUNNING || (change->may & SAGA_MAY_WAIT)) &&
		may_run(change))
	{
		saga_follow_leave_to_worker(change);
		return;
	}

	/*
	 * A process of ours may go from step to step for long.  If the deadline
	 * passed meanwhile, what comes next is the full undo, and that is begun
	 * by the worker.
	 */
	if (!(change->may & SAGA_MAY_WAIT) && saga->state == SAGA_COMPENSATING &&
		saga_follow_is_late(saga, change->now))
	{
		saga_follow_leave_to_worker(change);
		return;
	}
	saga_next(saga, steps, &task);
	switch (task.kind)
	{
		case SAGA_TASK_SQL:
		case SAGA_TASK_LISTENER:
			go_on(change, &steps->step[task.index], task.kind);
			skip_passed_over(change, task.index);
			break;
		case SAGA_TASK_PERSON:
			ask_person(change, &steps->step[task.index], task.why);
			skip_passed_over(change, task.index);
			break;
		case SAGA_TASK_NONE:
			end_walk(change);
			break;
	}
}

/* Something has changed in a saga: the walk goes on, if there is one. */
void
saga_follow(SagaChange *change)
{
	if (change->saga->state == SAGA_COMPENSATING)
		saga_follow_walk(change);
	else
		saga_follow_rest(change);
}
