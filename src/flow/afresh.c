/*-------------------------------------------------------------------------
 *
 * afresh.c
 *	  What becomes of the steps that saga runs when their saga goes back, and
 *	  when it goes forward again.
 *
 * Nothing is read or written here.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "flow/afresh.h"
#include "flow/next.h"
#include "flow/outcome.h"

/* A task that was claimed may have had an effect, so the attempt is recorded. */
static void
interrupt_task(SagaChange *change, SagaStep *step, const char *why)
{
	SagaAttemptEnd end;

	saga_outcome_interrupt_claim(step, why, &end);
	saga_change_attempt(change, step, &end);
	saga_change_step(change, step);
}

/* The saga does not go forward: no service may claim a task of it any more, and claims end. */
static void
end_tasks(SagaChange *change)
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
	end_tasks(change);
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

static void
roll_back(SagaChange *change, SagaStep *step)
{
	step->rolled_back_at = change->now;
	saga_change_step(change, step);
}

/*
 * A step that did not complete waits again, as if it had just been recorded.  One
 * with rounds that committed goes on with the next, at its time.
 */
static void
begin_afresh(SagaChange *change, SagaStep *step)
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
		step->forward.retry_at = Max(due, change->now);
	}
	else
	{
		step->status = SAGA_STEP_WAITING;
		step->opened_at = step->ready_at = 0;
		/* After a rollback, what let it through is asked again. */
		if (change->saga->undo == SAGA_UNDO_PARTIAL)
		{
			step->approved = false;
			step->signal = NULL;
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
 * The saga runs again.
 *
 * After a rollback, or reopened after a failure: of the steps that were recorded from
 * outside, those that were undone wait as a new run, in the place of the old one;
 * those that had been given up, or had never begun, wait afresh.  Steps that a
 * rolled-back action recorded go with it; the action records them anew.
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

	if (change->saga->runs == SAGA_RUNS_NONE)
		return;
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
			roll_back(change, step);
		else if (unseen && saga_rows_work_due(step) != 0)
			continue;
		else if (step->status == SAGA_STEP_FAILED ||
				 (step->status == SAGA_STEP_STARTED &&
				  (step->rounds > 0 || step->task != NULL)) ||
				 (step->status == SAGA_STEP_WAITING && step->opened_at != 0))
			begin_afresh(change, step);
	}
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

	if (saga_rows_task_claimed(step))
		interrupt_task(change, step, "the step was undone while it was claimed");
	roll_back(change, step);
	for (int i = 0; i < steps->count; i++)
		if (steps->step[i].recorded_by == step->seq &&
			steps->step[i].rolled_back_at == 0 &&
			saga_rows_never_began(&steps->step[i]))
			roll_back(change, &steps->step[i]);
	if (!saga_rows_is_run(step) || recorder_rolled_back_at(steps, step) != 0)
		return;
	saga_change_new_run(change, step);
	saga_change_look(change, PG_INT64_MIN);
}
