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

/* The saga goes forward no more: nobody is asked about it any longer. */
void
saga_afresh_withdraw(SagaChange *change)
{
	SagaSteps  *steps = change->steps;

	if (change->saga->runs == SAGA_RUNS_NONE)
		return;
	for (int i = 0; i < steps->count; i++)
	{
		SagaStep   *step = &steps->step[i];

		if (!saga_rows_step_held(step) || step->late ||
			step->status == SAGA_STEP_COMPLETED ||
			step->comp_status == SAGA_COMP_FAILED)
			continue;
		step->parked = NULL;
		saga_change_step(change, step);
	}
}

/* A step that did not complete waits again, as if it had just been recorded. */
void
saga_afresh_begin(SagaChange *change, SagaStep *step)
{
	step->status = SAGA_STEP_WAITING;
	step->parked = NULL;
	step->opened_at = step->ready_at = 0;
	step->approved = false;
	step->signal = NULL;
	saga_outcome_forgive_forward(step);
	saga_change_step(change, step);
}

/*
 * After a rollback the saga runs again.  Of the steps that were recorded from
 * outside, those that were undone wait as a new run, in the place of the old one;
 * those that had been given up, or had never begun, wait afresh.  What an action
 * recorded that was rolled back goes with it, and is recorded anew.
 */
void
saga_afresh_restart(SagaChange *change)
{
	SagaSteps  *steps = change->steps;

	if (change->saga->runs == SAGA_RUNS_NONE)
		return;
	for (int i = 0; i < steps->count; i++)
	{
		SagaStep   *step = &steps->step[i];
		int			by;

		if (!saga_rows_is_run(step) ||
			(step->rolled_back_at != 0 && step->rolled_back_at != change->now))
			continue;
		by = step->recorded_by != 0 ? saga_next_find(steps, step->recorded_by) : -1;
		if (by >= 0 && steps->step[by].rolled_back_at != 0)
		{
			if (step->rolled_back_at == 0)
			{
				step->rolled_back_at = change->now;
				saga_change_step(change, step);
			}
		}
		else if (step->rolled_back_at == change->now)
			saga_change_new_run(change, step);
		else if (step->status == SAGA_STEP_FAILED ||
				 (step->status == SAGA_STEP_WAITING && step->opened_at != 0))
			saga_afresh_begin(change, step);
	}
	saga_change_look(change, PG_INT64_MIN);
}
