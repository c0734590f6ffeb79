/*-------------------------------------------------------------------------
 *
 * gates.c
 *	  Which steps of a running saga are done, and which may begin.
 *
 * A step that saga runs has up to four gates: other steps, time, a signal, a
 * person.  This file has the first, which follows from the other steps' rows alone;
 * look.c has the others.
 *
 * A step is done when it is completed or skipped, or given up where that skips
 * it, and everything that its action recorded is done.  Without the second half
 * a join would open before the branches that one of its predecessors recorded.
 *
 * Gate 1 of a step with a list ("after") is open when the steps of the list are
 * done; of one without, when all its siblings recorded before it are: those that
 * came from outside, or from the same action.  A list names steps recorded
 * earlier; how there may be circles nevertheless, circles.c says.  A step does not
 * wait for the step whose action recorded it: both commit together.
 *
 * "Before" goes by the first run of a key (saga_rows_place): a step that runs
 * again after a rollback keeps its place.  Runs that were rolled back no longer
 * count.  But a step of the application that was rolled back, and that it has not
 * started again, is not done: what comes after it waits for that.
 *
 * Nothing is read or written here.  Time grows with the number of steps and the
 * length of their lists.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "base/calendar.h"
#include "base/names.h"
#include "catalog/pg_type_d.h"
#include "flow/gates.h"
#include "nodes/pg_list.h"
#include "utils/builtins.h"
#include "utils/memutils.h"

/* Where to find the present run of a key */
typedef struct KeyEntry
{
	char	   *key;			/* hash key */
	int			index;
} KeyEntry;

/* The keys of a list of steps or signals, as C strings. */
List *
saga_gates_keys(const ArrayType *keys)
{
	List	   *list = NIL;
	Datum	   *values;
	int			count;

	deconstruct_array(DatumGetArrayTypeP(PointerGetDatum(keys)), TEXTOID, -1,
					  false, TYPALIGN_INT, &values, NULL, &count);
	for (int i = 0; i < count; i++)
		list = lappend(list, TextDatumGetCString(values[i]));
	return list;
}

/* Is the step given up: failed, with no other attempt and no decision to come? */
bool
saga_gates_given_up(const SagaStep *step)
{
	return saga_rows_is_run(step) && step->status == SAGA_STEP_FAILED &&
		step->forward.retry_at == 0 && step->parked == NULL;
}

/* Does the saga fail because of the step? */
bool
saga_gates_failed(const SagaStep *step)
{
	return saga_gates_given_up(step) && step->give_up == SAGA_GIVE_UP_FAIL &&
		step->rolled_back_at == 0;
}

/* Is the work of the step itself done? */
bool
saga_gates_work_done(const SagaStep *step)
{
	switch (step->status)
	{
		case SAGA_STEP_COMPLETED:
		case SAGA_STEP_SKIPPED:
			return true;
		case SAGA_STEP_FAILED:
			return saga_gates_given_up(step) &&
				step->give_up == SAGA_GIVE_UP_SKIP;
		case SAGA_STEP_WAITING:
		case SAGA_STEP_STARTED:
			break;
	}
	return false;
}

/* The steps that the two comparisons below look into, while qsort runs. */
static const SagaSteps *sorted = NULL;

static int
by_place(const void *a, const void *b)
{
	int64		left = saga_rows_place(&sorted->step[*(const int *) a]);
	int64		right = saga_rows_place(&sorted->step[*(const int *) b]);

	return left < right ? -1 : left > right ? 1 : 0;
}

static int
by_seq(const void *a, const void *b)
{
	int64		left = sorted->step[*(const int *) a].seq;
	int64		right = sorted->step[*(const int *) b].seq;

	return left < right ? -1 : left > right ? 1 : 0;
}

/* The index of the step with a seq, by the array sorted by seq; -1: none. */
static int
find_seq(const SagaSteps *steps, const int *indexes, int count, int64 seq)
{
	int			low = 0;
	int			high = count - 1;

	while (low <= high)
	{
		int			middle = (low + high) / 2;
		int64		found = steps->step[indexes[middle]].seq;

		if (found == seq)
			return indexes[middle];
		if (found < seq)
			low = middle + 1;
		else
			high = middle - 1;
	}
	return -1;
}

/* Finds the present runs by their keys, in saga_gates_find_key. */
HTAB *
saga_gates_index_keys(const SagaGates *gates)
{
	HTAB	   *keys = saga_names_table("saga keys of steps", Max(gates->count, 1),
										sizeof(KeyEntry));

	for (int i = 0; i < gates->count; i++)
	{
		char	   *key = text_to_cstring(gates->steps->step[gates->order[i]].key);
		KeyEntry   *entry = hash_search(keys, &key, HASH_ENTER, NULL);

		entry->index = gates->order[i];
	}
	return keys;
}

/* The index of the step; -1: there is none. */
int
saga_gates_find_key(HTAB *keys, const char *key)
{
	KeyEntry   *entry = hash_search(keys, &key, HASH_FIND, NULL);

	return entry != NULL ? entry->index : -1;
}

/*
 * Adds the steps that the application is to start again: the newest runs of keys
 * that have no present run.  Not those that an action recorded which was itself
 * rolled back: they are gone with it.
 */
static void
add_rolled_back(SagaGates *gates, const int *by_number)
{
	const SagaSteps *steps = gates->steps;
	int			present = gates->count;
	HTAB	   *keys = saga_gates_index_keys(gates);

	for (int i = 0; i < steps->count; i++)
	{
		const SagaStep *step = &steps->step[i];
		char	   *key;
		KeyEntry   *entry;
		bool		found;

		if (step->rolled_back_at == 0 || saga_rows_is_run(step) ||
			(step->recorded_by != 0 &&
			 find_seq(steps, by_number, present, step->recorded_by) < 0))
			continue;
		key = text_to_cstring(step->key);
		entry = hash_search(keys, &key, HASH_ENTER, &found);
		if (!found)
			gates->order[gates->count++] = i;
		else if (steps->step[entry->index].rolled_back_at == 0 ||
				 steps->step[entry->index].run > step->run)
			continue;
		else
		{
			for (int j = present; j < gates->count; j++)
				if (gates->order[j] == entry->index)
					gates->order[j] = i;
		}
		entry->index = i;
	}
	hash_destroy(keys);
}

/*
 * The first step of a list that is not done; -1: they all are; -2: it has no present
 * run.
 */
static int
first_of_list(const SagaGates *gates, HTAB *keys, const SagaStep *step)
{
	ListCell   *lc;

	foreach(lc, saga_gates_keys(step->after))
	{
		char	   *key = lfirst(lc);
		KeyEntry   *entry = hash_search(keys, &key, HASH_FIND, NULL);

		/* Rolled back, and not recorded again yet: it is waited for. */
		if (entry == NULL)
			return -2;
		if (!gates->done[entry->index] &&
			gates->steps->step[entry->index].seq != step->recorded_by)
			return entry->index;
	}
	return -1;
}

/*
 * Evaluates gate 1 of the steps of a saga.  The result is in the current memory
 * context, and points to the steps.
 */
void
saga_gates_read(SagaGates *gates, const SagaSteps *steps)
{
	int			count = steps->count;
	int		   *recorder;
	int		   *first = palloc((count + 1) * sizeof(int));
	int		   *last_barrier = palloc((count + 1) * sizeof(int));
	int		   *by_number = palloc(Max(count, 1) * sizeof(int));
	bool		rolled_back = false;
	bool	   *open_child = palloc0(Max(count, 1) * sizeof(bool));
	HTAB	   *keys = NULL;

	gates->steps = steps;
	gates->count = 0;
	gates->order = palloc(Max(count, 1) * sizeof(int));
	gates->done = palloc0(Max(count, 1) * sizeof(bool));
	gates->before = palloc(Max(count, 1) * sizeof(int));
	gates->barrier = palloc(Max(count, 1) * sizeof(int));
	gates->recorder = recorder = palloc(Max(count, 1) * sizeof(int));
	for (int i = 0; i < count; i++)
	{
		gates->before[i] = gates->barrier[i] = -1;
		if (steps->step[i].rolled_back_at == 0)
			gates->order[gates->count++] = i;
		else if (!saga_rows_is_run(&steps->step[i]))
			rolled_back = true;
	}
	sorted = steps;
	memcpy(by_number, gates->order, gates->count * sizeof(int));
	qsort(by_number, gates->count, sizeof(int), by_seq);
	if (rolled_back)
	{
		add_rolled_back(gates, by_number);
		memcpy(by_number, gates->order, gates->count * sizeof(int));
		qsort(by_number, gates->count, sizeof(int), by_seq);
	}
	qsort(gates->order, gates->count, sizeof(int), by_place);

	/* What an action records is recorded later than the step itself. */
	for (int i = gates->count - 1; i >= 0; i--)
	{
		int			at = by_number[i];
		const SagaStep *step = &steps->step[at];

		gates->done[at] = saga_gates_work_done(step) && !open_child[at] &&
			step->rolled_back_at == 0;
		recorder[at] = step->recorded_by == 0 ? -1 :
			find_seq(steps, by_number, gates->count, step->recorded_by);
		if (!gates->done[at] && recorder[at] >= 0)
			open_child[recorder[at]] = true;
	}

	/* One entry for each recorder; the last is for the outside. */
	for (int i = 0; i <= count; i++)
		first[i] = last_barrier[i] = -1;
	for (int i = 0; i < gates->count; i++)
	{
		int			at = gates->order[i];
		int			by = recorder[at] >= 0 ? recorder[at] : count;
		const SagaStep *step = &steps->step[at];

		if (saga_rows_is_run(step) && step->after == NULL)
		{
			gates->before[at] = first[by];
			gates->barrier[at] = last_barrier[by];
			last_barrier[by] = at;
		}
		else if (step->status == SAGA_STEP_WAITING && step->opened_at == 0)
		{
			if (keys == NULL)
				keys = saga_gates_index_keys(gates);
			gates->before[at] = first_of_list(gates, keys, step);
		}
		if (!gates->done[at] && first[by] < 0)
			first[by] = at;
	}
	if (keys != NULL)
		hash_destroy(keys);
	pfree(first);
	pfree(last_barrier);
	pfree(by_number);
	pfree(open_child);
}

/* Gate 1 of a step opens now.  Sets the time at which gate 2 opens. */
void
saga_gates_open_first(SagaStep *step, TimestampTz now)
{
	TimestampTz ready = now;

	if (step->delay != NULL)
		ready = saga_calendar_add(now, step->delay, step->settings);
	step->opened_at = now;
	step->ready_at = Max(ready, step->not_before);
}

/* Is nothing left to do in the saga, going forward? */
bool
saga_gates_all_done(const SagaGates *gates)
{
	for (int i = 0; i < gates->count; i++)
		if (!gates->done[gates->order[i]])
			return false;
	return true;
}

/*
 * The steps whose outputs a step without a list gets, by index: its siblings from
 * the last barrier on.
 */
List *
saga_gates_inputs(const SagaGates *gates, int index)
{
	const SagaSteps *steps = gates->steps;
	const SagaStep *step = &steps->step[index];
	List	   *inputs = NIL;

	Assert(step->after == NULL);
	for (int i = 0; i < gates->count; i++)
	{
		int			at = gates->order[i];
		const SagaStep *other = &steps->step[at];

		if (saga_rows_place(other) >= saga_rows_place(step))
			break;
		if (other->recorded_by == step->recorded_by &&
			(gates->barrier[index] < 0 ||
			 saga_rows_place(other) >=
			 saga_rows_place(&steps->step[gates->barrier[index]])))
			inputs = lappend_int(inputs, at);
	}
	return inputs;
}
