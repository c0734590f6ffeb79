/*-------------------------------------------------------------------------
 *
 * next.c
 *	  The order of the undo: given a saga and its steps, what is undone next.
 *
 * The steps come sorted in the start order (saga_rows_order).  The walk goes from
 * the step that started last to the one that started first (or to the savepoint),
 * and never passes a step that is not settled.  It has no cursor: what is next
 * follows from the steps' own rows, each time anew, so there is nothing that could
 * be out of step with them.
 *
 * Nothing is read or written here: the caller has the rows, and makes sure that
 * they are what the ledger says.
 *
 * From the step that started last to the first:
 *
 * - settled (nothing to undo, compensated, skipped): go on;
 * - passed over (retriable; or compensate_on completed and it did not): go on,
 *   and write "skipped" in its row, so that a late result finds it is too late;
 * - given up: stop and park under "halt"; go on under "continue";
 * - needs a person: park;
 * - SQL: due in the lane of its role;
 * - needs a listener: due in the worker's own lane, which dispatches it.
 *
 * While a listener holds a step, nothing else is run or dispatched.  That step
 * can only be one that started later, was settled, and was opened again by a late
 * result; or any, if the listener holds an old run's and a failure turns a
 * partial undo into a full one.
 *
 * A full undo and a partial one are the same walk; the partial one stops at its
 * target.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "flow/next.h"
#include "utils/builtins.h"

/* What the reverse walk finds when it comes to a step. */
typedef enum StepView
{
	STEP_SETTLED,				/* nothing to do */
	STEP_PASSED_OVER,			/* has a compensation, but is not to be undone */
	STEP_GIVEN_UP,				/* failed; the walk goes on without it */
	STEP_SQL,
	STEP_LISTENER,
	STEP_PERSON
} StepView;

/*
 * Is it one of the steps that this undo is about?  A run that an earlier undo
 * rolled back is in range only if a late result opened it again.
 */
bool
saga_next_in_range(const SagaRow *saga, const SagaStep *step)
{
	if (step->rolled_back_at != 0)
		return step->parked != NULL ||
			step->comp_status == SAGA_COMP_PENDING ||
			step->comp_status == SAGA_COMP_DISPATCHED;
	switch (saga->undo)
	{
		case SAGA_UNDO_NONE:
		case SAGA_UNDO_LATE:
			break;
		case SAGA_UNDO_PARTIAL:
			return saga_rows_goes_back(step, saga->savepoint);
		case SAGA_UNDO_FULL:
			return true;
	}
	return false;
}

static StepView
view_step(const SagaRow *saga, const SagaStep *step, const char **why)
{
	/* It waited, and reads as skipped: that needs no write. */
	if (saga_rows_never_began(step))
		return STEP_SETTLED;
	if (step->comp_status == SAGA_COMP_FAILED && !step->late &&
		saga->on_failure == SAGA_ON_FAILURE_CONTINUE)
		return STEP_GIVEN_UP;
	/* Whatever its status: a person must decide about it first. */
	if (step->parked != NULL)
	{
		*why = text_to_cstring(step->parked);
		return STEP_PERSON;
	}
	switch (step->comp_status)
	{
		case SAGA_COMP_NONE:
		case SAGA_COMP_COMPENSATED:
		case SAGA_COMP_SKIPPED:
			return STEP_SETTLED;
		case SAGA_COMP_FAILED:
			*why = "its compensation failed";
			return STEP_PERSON;
		case SAGA_COMP_REGISTERED:
		case SAGA_COMP_PENDING:
		case SAGA_COMP_DISPATCHED:
			break;
	}
	if (saga_next_passes_over(saga, step))
		return STEP_PASSED_OVER;
	if (step->review != NULL && !step->released)
	{
		*why = psprintf("review asked for: %s", text_to_cstring(step->review));
		return STEP_PERSON;
	}
	if (step->compensation != NULL)
		return STEP_SQL;
	if (step->channel != NULL)
		return STEP_LISTENER;

	/* Released, but there is nothing that a machine could do. */
	*why = psprintf("a person is to undo it: %s",
					step->review ? text_to_cstring(step->review) : "");
	return STEP_PERSON;
}

/*
 * Is it a step that is not undone, whatever its compensation?  A round that
 * committed is something to undo, even if no later one completed the step.
 */
bool
saga_next_spares(const SagaStep *step)
{
	return step->kind == SAGA_KIND_RETRIABLE ||
		(step->compensate_on == SAGA_COMPENSATE_ON_COMPLETED &&
		 step->status != SAGA_STEP_COMPLETED && step->rounds == 0);
}

/*
 * Does the walk leave the step as it is, although its compensation has not run?
 */
bool
saga_next_passes_over(const SagaRow *saga, const SagaStep *step)
{
	if (step->comp_status != SAGA_COMP_REGISTERED &&
		step->comp_status != SAGA_COMP_PENDING &&
		step->comp_status != SAGA_COMP_DISPATCHED)
		return false;
	return !saga_rows_never_began(step) && saga_next_spares(step);
}

/*
 * Compensations of one saga run one after another.  While a listener holds one,
 * a late result may open one again that started after it, and a failure make the
 * undo of an old run a full one.  What is next then is the end of the claim.
 */
static void
wait_for_claim(SagaSteps *steps, SagaTask *task)
{
	const SagaStep *claimed = steps->claimed ? saga_next_claimed(steps) : NULL;

	if (claimed == NULL)
		return;
	task->kind = SAGA_TASK_LISTENER;
	task->index = claimed - steps->step;
}

/*
 * What is next in a saga that is being undone?
 *
 * Remembers how far the steps are settled, so that a walk over all of them
 * takes time that grows with their number, not with its square.
 */
void
saga_next(const SagaRow *saga, SagaSteps *steps, SagaTask *task)
{
	task->kind = SAGA_TASK_NONE;
	task->index = -1;
	task->why = NULL;
	for (int i = steps->to_walk - 1; i >= 0; i--)
	{
		const SagaStep *step = &steps->step[i];
		StepView	view = saga_next_in_range(saga, step) ?
			view_step(saga, step, &task->why) : STEP_SETTLED;

		switch (view)
		{
			case STEP_SETTLED:
			case STEP_GIVEN_UP:
				if (i == steps->to_walk - 1)
					steps->to_walk = i;
				continue;
			case STEP_PASSED_OVER:
				continue;
			case STEP_SQL:
				task->kind = SAGA_TASK_SQL;
				break;
			case STEP_LISTENER:
				task->kind = SAGA_TASK_LISTENER;
				break;
			case STEP_PERSON:
				task->kind = SAGA_TASK_PERSON;
				break;
		}
		task->index = i;
		if (task->kind != SAGA_TASK_PERSON)
			wait_for_claim(steps, task);
		return;
	}
}

int
saga_next_count_given_up(const SagaRow *saga, const SagaSteps *steps)
{
	int			n = 0;

	for (int i = 0; i < steps->count; i++)
		if (saga_next_in_range(saga, &steps->step[i]) &&
			steps->step[i].comp_status == SAGA_COMP_FAILED)
			n++;
	return n;
}

/* How many steps the walk is to do something about, or stop at. */
int
saga_next_count_to_undo(const SagaRow *saga, const SagaSteps *steps)
{
	int			n = 0;

	for (int i = 0; i < steps->count; i++)
	{
		const char *why;

		if (!saga_next_in_range(saga, &steps->step[i]))
			continue;
		switch (view_step(saga, &steps->step[i], &why))
		{
			case STEP_SQL:
			case STEP_LISTENER:
			case STEP_PERSON:
				n++;
				break;
			case STEP_SETTLED:
			case STEP_PASSED_OVER:
			case STEP_GIVEN_UP:
				break;
		}
	}
	return n;
}

/* The step of that number; -1: there is none. */
int
saga_next_find(const SagaSteps *steps, int64 seq)
{
	for (int i = steps->count - 1; i >= 0; i--)
		if (steps->step[i].seq == seq)
			return i;
	return -1;
}

/*
 * Is it a newer run of the step with that key than the newest so far (-1: none)?  The
 * newest need not be the one that started last: an old run's task may be reported when
 * a new one waits.
 */
static bool
is_newer(const SagaSteps *steps, int index, const text *key, int newest)
{
	return saga_rows_same_text(steps->step[index].key, key) &&
		(newest < 0 || steps->step[index].run > steps->step[newest].run);
}

/* The newest run of the step with a key; -1: there is none. */
int
saga_next_find_key(const SagaSteps *steps, const text *key)
{
	int			newest = -1;

	for (int i = 0; i < steps->count; i++)
		if (is_newer(steps, i, key, newest))
			newest = i;
	return newest;
}

/*
 * The run of a step that a person is asked about; -1: there is none.  If a late
 * result of an old run makes that several, the newest.
 */
int
saga_next_find_asked(const SagaRow *saga, const SagaSteps *steps,
					 const text *key)
{
	int			newest = -1;

	for (int i = 0; i < steps->count; i++)
		if (steps->step[i].parked != NULL &&
			saga_next_in_range(saga, &steps->step[i]) &&
			is_newer(steps, i, key, newest))
			newest = i;
	return newest;
}

/*
 * The step that a listener compensates and whose claim ends first, or NULL.  There
 * are two only where a late result opened a step again while a listener held another.
 */
SagaStep *
saga_next_claimed(const SagaSteps *steps)
{
	SagaStep   *first = NULL;

	for (int i = steps->count - 1; i >= 0; i--)
	{
		SagaStep   *step = &steps->step[i];

		if (saga_rows_undo_claimed(step) &&
			(first == NULL || step->lease_until < first->lease_until))
			first = step;
	}
	return first;
}

/* The completed pivot of the forward run, or NULL. */
const SagaStep *
saga_next_completed_pivot(const SagaSteps *steps)
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
int64
saga_next_failed_step(const SagaSteps *steps)
{
	int64		open = 0;

	for (int i = steps->count - 1; i >= 0; i--)
	{
		const SagaStep *step = &steps->step[i];

		if (step->rolled_back_at != 0)
			continue;
		if (step->status == SAGA_STEP_FAILED &&
			(!saga_rows_is_run(step) || step->give_up != SAGA_GIVE_UP_SKIP))
			return step->seq;
		if (step->status == SAGA_STEP_STARTED && open == 0)
			open = step->seq;
	}
	return open;
}
