/*-------------------------------------------------------------------------
 *
 * afresh.c
 *	  What becomes of the steps that saga runs when their saga goes back, and
 *	  when it goes forward again.
 *
 * When it goes back to a savepoint, a step that started no later, and is not done, goes
 * on where it is: its run keeps the signal and the approval that let it through.  But
 * if it never began, and something that it waits for is undone, it waits as if it had
 * just been recorded, like the steps after the savepoint that never began: a person is
 * asked again, and a signal that it had used is unused again (inbox.c).
 *
 * Nothing is written here; only signals are read.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "flow/afresh.h"
#include "flow/gates.h"
#include "flow/inbox.h"
#include "flow/next.h"
#include "flow/outcome.h"
#include "utils/memutils.h"

/* A task that was claimed may have had an effect, so the attempt is recorded. */
static void
interrupt_task(SagaChange *change, SagaStep *step, const char *why)
{
	SagaAttemptEnd end;

	saga_outcome_interrupt_claim(step, why, &end);
	saga_change_attempt(change, step, &end);
	saga_change_step(change, step);
}

/*
 * The saga does not go forward: no service may claim a task of it any more, and claims
 * end.  A step that goes on after that, since it started no later than the savepoint,
 * keeps the time of its next attempt.
 */
static void
end_tasks(SagaChange *change, int64 savepoint)
{
	SagaSteps  *steps = change->steps;

	for (int i = 0; i < steps->count; i++)
	{
		SagaStep   *step = &steps->step[i];

		if (saga_rows_task_claimed(step))
			interrupt_task(change, step, change->saga->state == SAGA_ABANDONED ?
						   "the saga was abandoned while it was claimed" :
						   "the saga went back while it was claimed");
		else if (saga_rows_task_due(step) != 0)
		{
			if (step->status == SAGA_STEP_WAITING)
				step->ready_at = 0;
			else if (savepoint != PG_INT64_MAX && !saga_rows_goes_back(step, savepoint))
			{
				step->status = SAGA_STEP_STARTED;
				step->ready_at = step->forward.retry_at;
			}
			step->forward.retry_at = 0;
			saga_change_step(change, step);
		}
	}
}

/*
 * The undo is about to begin, or to go further back; or the saga was abandoned.  The
 * steps that come into its range, those that started after "savepoint", no longer wait
 * for a decision on how to go forward.  What the undo so far has asked a person stays
 * asked.
 */
void
saga_afresh_withdraw(SagaChange *change, int64 savepoint)
{
	SagaSteps  *steps = change->steps;

	if (change->saga->runs == SAGA_RUNS_NONE)
		return;
	end_tasks(change, savepoint);
	for (int i = 0; i < steps->count; i++)
	{
		SagaStep   *step = &steps->step[i];

		if (!saga_rows_step_held(step) || step->late ||
			saga_next_in_range(change->saga, step) ||
			!saga_rows_goes_back(step, savepoint) ||
			step->status == SAGA_STEP_COMPLETED ||
			step->comp_status == SAGA_COMP_FAILED)
			continue;
		step->parked = NULL;
		saga_change_step(change, step);
	}
}

/* When the step whose action recorded a step was rolled back; 0: not, or there is none. */
static TimestampTz
recorder_rolled_back_at(const SagaSteps *steps, const SagaStep *step)
{
	int			by = step->recorded_by != 0 ? saga_next_find(steps, step->recorded_by) : -1;

	return by >= 0 ? steps->step[by].rolled_back_at : 0;
}

/*
 * The step has not used its signal: it never began.  "signals" collects such steps
 * (SagaStep *).
 */
static void
give_back_signal(SagaStep *step, List **signals)
{
	if (step->signal == NULL)
		return;
	step->signal = NULL;
	*signals = lappend(*signals, step);
}

static void
roll_back(SagaChange *change, SagaStep *step, List **signals)
{
	if (saga_rows_never_began(step))
		give_back_signal(step, signals);
	step->rolled_back_at = change->now;
	saga_change_step(change, step);
}

/* Did the saga come to the step, and has left it before it was done? */
static bool
was_under_way(const SagaStep *step)
{
	switch (step->status)
	{
		case SAGA_STEP_WAITING:
			return step->opened_at != 0;
		case SAGA_STEP_STARTED:
			return step->rounds > 0 || step->task != NULL;
		case SAGA_STEP_FAILED:
			return true;
		case SAGA_STEP_COMPLETED:
		case SAGA_STEP_SKIPPED:
			break;
	}
	return false;
}

/*
 * Says of each step whether its first gate is open, once all that is under way is
 * waiting again, and the steps that were rolled back wait as new runs.
 */
static bool *
read_first_gates(const SagaChange *change)
{
	const SagaSteps *steps = change->steps;
	bool	   *open = palloc(steps->count * sizeof(bool));
	SagaSteps	then;
	SagaGates	gates;
	ListCell   *lc;

	then.count = 0;
	then.step = palloc_extended((steps->count + list_length(change->new_runs)) *
								sizeof(SagaStep), MCXT_ALLOC_HUGE);
	for (int i = 0; i < steps->count; i++)
	{
		SagaStep   *step = &then.step[then.count++];

		*step = steps->step[i];
		if (!saga_rows_is_run(step) || !was_under_way(step))
			continue;
		step->status = SAGA_STEP_WAITING;
		step->opened_at = 0;
	}
	foreach(lc, change->new_runs)
	{
		SagaStep   *step = &then.step[then.count++];

		*step = *(SagaStep *) lfirst(lc);
		/* It gets its number when it is written. */
		step->seq = PG_INT64_MAX;
	}
	saga_gates_read(&gates, &then);
	for (int i = 0; i < steps->count; i++)
		open[i] = gates.before[i] == -1;
	pfree(then.step);
	return open;
}

/*
 * The time at which the work of a step is due, once its saga goes on.  Never the same as
 * before: executors have dropped its row of the due work, if they came to it.
 */
static TimestampTz
due_anew(const SagaChange *change, TimestampTz due)
{
	return Max(due + 1, change->now);
}

/*
 * A step goes on where it was.  One that was given up has its attempts, and its time,
 * again; so has one whose time ended while it could not go on.
 */
static void
go_on_from_there(SagaChange *change, SagaStep *step)
{
	bool		given_up = step->status == SAGA_STEP_FAILED &&
		step->forward.retry_at == 0;
	TimestampTz timeout_at = saga_rows_timeout_at(step);

	/* It is a task that could be claimed, and that end_tasks has withdrawn. */
	if (step->status == SAGA_STEP_WAITING && step->ready_at == 0)
		saga_gates_open_first(step, step->opened_at);
	if (given_up || (timeout_at != 0 && timeout_at <= change->now))
		step->opened_at = change->now;
	if (given_up)
	{
		step->parked = NULL;
		saga_outcome_forgive_forward(step);
		step->status = step->rounds > 0 ? SAGA_STEP_STARTED : SAGA_STEP_WAITING;
		step->ready_at = Max(step->ready_at, change->now);
		if (step->rounds > 0)
			step->forward.retry_at = step->ready_at;
	}
	else if (step->status != SAGA_STEP_WAITING && step->task != NULL)
	{
		/* Claims of a task that failed begin again at the time that was set. */
		if (step->ready_at > change->now)
			step->status = SAGA_STEP_FAILED;
		step->forward.retry_at = Max(step->ready_at, change->now);
	}
	else if (step->status != SAGA_STEP_WAITING)
		step->forward.retry_at = due_anew(change, step->forward.retry_at);
	else if (saga_rows_work_due(step) != 0)
		step->ready_at = due_anew(change, step->ready_at);
	saga_change_step(change, step);
}

/*
 * A step that did not complete waits again, as if it had just been recorded.  One
 * with rounds that committed goes on with the next, at its time.
 */
static void
begin_afresh(SagaChange *change, SagaStep *step, List **signals)
{
	TimestampTz due = step->forward.retry_at;

	step->parked = NULL;
	saga_outcome_forgive_forward(step);
	if (step->rounds > 0)
	{
		/* Given up, it has all its time again. */
		if (due == 0)
		{
			step->opened_at = change->now;
			step->ready_at = Max(step->ready_at, change->now);
		}
		step->status = SAGA_STEP_STARTED;
		step->forward.retry_at = due_anew(change, due);
	}
	else
	{
		step->status = SAGA_STEP_WAITING;
		step->opened_at = step->ready_at = 0;

		/*
		 * After a rollback, what let it through is asked again, unless it
		 * began.
		 */
		if (change->saga->undo == SAGA_UNDO_PARTIAL && step->begun == 0)
		{
			step->approved = false;
			give_back_signal(step, signals);
		}
	}
	saga_change_step(change, step);
}

/*
 * A step stands while its saga waits because of a late result of an old run, and goes
 * on after that.  But executors have dropped its row of the due work, if they came to
 * it; and since it could not go on, its time begins anew.  Whoever is to decide about it
 * may not have been notified: looks have passed the saga by.
 */
static void
continue_step(SagaChange *change, SagaStep *step)
{
	TimestampTz due = saga_rows_work_due(step);
	bool		dropped = due != 0 && due <= change->now;
	bool		timed = saga_rows_timeout_at(step) != 0;

	if (saga_rows_step_held(step) && step->status != SAGA_STEP_WAITING)
		saga_change_look(change, -step->seq);
	if (!dropped && !timed)
		return;
	if (timed)
		step->opened_at = change->now;
	if (dropped && step->status == SAGA_STEP_WAITING)
		step->ready_at = change->now;
	else if (dropped)
		step->forward.retry_at = change->now;
	saga_change_step(change, step);
}

/*
 * Does a step that is under way go on from there?  Not when its saga was reopened.
 * "open" is NULL, or says which first gates are open.
 */
static bool
stands(SagaChange *change, int index, bool **open)
{
	const SagaStep *step = &change->steps->step[index];

	if (change->saga->undo != SAGA_UNDO_PARTIAL ||
		saga_rows_goes_back(step, change->saga->savepoint))
		return false;
	if (step->begun != 0)
		return true;
	if (*open == NULL)
		*open = read_first_gates(change);
	return (*open)[index];
}

/*
 * The saga runs again.
 *
 * After a rollback, or reopened after a failure: of the steps that were recorded from
 * outside, those that were undone wait as a new run, in the place of the old one;
 * those that had been given up, or had never begun, wait afresh, or, if they started
 * before the savepoint, go on.  Steps that a rolled-back action recorded go with it;
 * the action records them anew.
 *
 * After a late result was settled: all go on where they are.
 *
 * "unseen": to all others, it has been running all the time.  Then an executor may be
 * running an action, and goes on: it holds the step's row, and nobody would end it for
 * a caller that waited for that.
 */
void
saga_afresh_restart(SagaChange *change, bool unseen)
{
	SagaSteps  *steps = change->steps;
	List	   *signals = NIL;
	bool	   *open = NULL;
	bool	   *on;

	if (change->saga->runs == SAGA_RUNS_NONE)
		return;
	on = palloc0(Max(steps->count, 1) * sizeof(bool));
	for (int i = 0; i < steps->count; i++)
	{
		SagaStep   *step = &steps->step[i];
		TimestampTz recorder;

		if (!saga_rows_is_run(step) ||
			(step->rolled_back_at != 0 && step->rolled_back_at != change->now))
			continue;
		if (change->saga->undo == SAGA_UNDO_LATE)
		{
			continue_step(change, step);
			continue;
		}
		recorder = recorder_rolled_back_at(steps, step);
		if (step->rolled_back_at != 0)
		{
			if (recorder == 0)
				saga_change_new_run(change, step);
		}
		else if (recorder == change->now)
			roll_back(change, step, &signals);
		else if (!unseen || saga_rows_work_due(step) == 0)
			on[i] = was_under_way(step);
	}
	/* Only now it is known what they have to wait for. */
	for (int i = 0; i < steps->count; i++)
		if (on[i] && stands(change, i, &open))
			go_on_from_there(change, &steps->step[i]);
		else if (on[i])
			begin_afresh(change, &steps->step[i], &signals);
	saga_inbox_return(change, signals);
	saga_change_look(change, PG_INT64_MIN);
}

/*
 * A step is undone in a saga that goes forward: the run is rolled back, and a step that
 * saga runs waits as a new one, in its place.  What its action recorded goes with it, if
 * it never began; the rest stands.
 */
void
saga_afresh_roll_back(SagaChange *change, SagaStep *step)
{
	SagaSteps  *steps = change->steps;
	List	   *signals = NIL;

	if (saga_rows_task_claimed(step))
		interrupt_task(change, step, "the step was undone while it was claimed");
	roll_back(change, step, &signals);
	for (int i = 0; i < steps->count; i++)
		if (steps->step[i].recorded_by == step->seq &&
			steps->step[i].rolled_back_at == 0 &&
			saga_rows_never_began(&steps->step[i]))
			roll_back(change, &steps->step[i], &signals);
	saga_inbox_return(change, signals);
	if (!saga_rows_is_run(step) || recorder_rolled_back_at(steps, step) != 0)
		return;
	saga_change_new_run(change, step);
	saga_change_look(change, PG_INT64_MIN);
}
