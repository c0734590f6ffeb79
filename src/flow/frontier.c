/*-------------------------------------------------------------------------
 *
 * frontier.c
 *	  Which first gates open when one more step of a saga is done.
 *
 * gates.c says which gates are open, from all steps of the saga.  Here the same
 * is kept in memory and brought forward step by step.  Each step costs its share of
 * the lists and of what was recorded, so that a whole saga takes time in proportion
 * to its size, and a chain of thousands of steps is not read anew for each of them.
 *
 * What is kept:
 *
 * - of each step, whether it is done, and how many of the steps that its action
 *	 recorded are not;
 * - of each recorder, which of its steps is the first that is not done: a step
 *	 without a list may begin when it is that one;
 * - of each step with a list, how many of its entries are not done.
 *
 * A step that is done stays so while the saga goes forward.  Whatever else may
 * happen (steps recorded, completed by the application, given up, decided upon,
 * rolled back) makes this out of date; the caller must notice (following.c).
 *
 * Nothing is read or written here.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "flow/frontier.h"
#include "flow/gates.h"
#include "utils/builtins.h"
#include "utils/hsearch.h"
#include "utils/memutils.h"

/* A step.  Others are named by their number in the order of recording. */
typedef struct FrontierNode
{
	SagaFrontierStep step;
	int64		seq;
	int			recorder;		/* -1: the outside */
	int			previous;		/* of the same recorder; -1: none */
	int			next;			/* likewise */
	int			open_children;	/* recorded by its action, and not done */
	int			missing;		/* entries of its list that are not done */
	List	   *dependents;		/* those in whose lists it is, once for each
								 * entry */
	bool		recorded;		/* its action has recorded steps */
	bool		work_done;		/* its own work */
	bool		done;			/* that, and all that its action recorded */
	bool		waiting;		/* its first gate was closed */
	bool		barrier;		/* saga runs it, and it has no list */
} FrontierNode;

/* Where to find a step by its seq */
typedef struct Numbered
{
	int64		seq;
	int			number;
} Numbered;

struct SagaFrontier
{
	MemoryContext context;		/* that it is in */
	int			count;
	int			open;			/* steps that are not done */
	FrontierNode *node;
	Numbered   *by_seq;			/* sorted */
	int		   *first_open;		/* by recorder, the last is the outside: the
								 * first of its steps that is not done; -1:
								 * none */
};

static int
compare_seqs(const void *a, const void *b)
{
	int64		left = ((const Numbered *) a)->seq;
	int64		right = ((const Numbered *) b)->seq;

	return left < right ? -1 : left > right ? 1 : 0;
}

/* The number of the step with a seq; -1: there is none. */
static int
find_number(const SagaFrontier *frontier, int64 seq)
{
	Numbered	wanted = {seq, 0};
	Numbered   *found = bsearch(&wanted, frontier->by_seq, frontier->count,
								sizeof(Numbered), compare_seqs);

	return found != NULL ? found->number : -1;
}

/* The recorder of a step, as first_open numbers recorders */
static int
group_of(const SagaFrontier *frontier, const FrontierNode *node)
{
	return node->recorder >= 0 ? node->recorder : frontier->count;
}

/* Counts the entries of a step's list that are not done, and notes it with them. */
static void
read_list(SagaFrontier *frontier, HTAB *keys, const int *numbers, int number,
		  const SagaStep *step)
{
	FrontierNode *node = &frontier->node[number];
	List	   *list = saga_gates_keys(step->after);
	ListCell   *lc;

	foreach(lc, list)
	{
		int			index = saga_gates_find_key(keys, lfirst(lc));
		int			of = index >= 0 ? numbers[index] : -1;

		/* The step waits for one that is not there, too. */
		if (of < 0)
			node->missing++;
		else if (of != node->recorder && !frontier->node[of].done)
		{
			MemoryContext caller = MemoryContextSwitchTo(frontier->context);

			node->missing++;
			frontier->node[of].dependents = lappend_int(frontier->node[of].dependents,
														number);
			MemoryContextSwitchTo(caller);
		}
	}
	list_free_deep(list);
}

/*
 * Builds it from the steps of a saga, in a memory context that holds nothing else.
 * NULL if some steps were rolled back: for those it is not kept.
 */
SagaFrontier *
saga_frontier_make(const SagaSteps *steps, MemoryContext context)
{
	SagaFrontier *frontier;
	SagaGates	gates;
	int			count = steps->count;
	int		   *number;
	int		   *last;
	HTAB	   *keys;
	MemoryContext caller;

	for (int i = 0; i < count; i++)
		if (steps->step[i].rolled_back_at != 0)
			return NULL;
	saga_gates_read(&gates, steps);
	Assert(gates.count == count);

	caller = MemoryContextSwitchTo(context);
	frontier = palloc0(sizeof(SagaFrontier));
	frontier->context = context;
	frontier->count = frontier->open = count;
	frontier->node = palloc_extended(Max(count, 1) * sizeof(FrontierNode),
									 MCXT_ALLOC_HUGE | MCXT_ALLOC_ZERO);
	frontier->by_seq = palloc_extended(Max(count, 1) * sizeof(Numbered),
									   MCXT_ALLOC_HUGE);
	frontier->first_open = palloc((count + 1) * sizeof(int));
	for (int i = 0; i < count; i++)
		frontier->node[i].step.key = text_to_cstring(steps->step[gates.order[i]].key);
	MemoryContextSwitchTo(caller);
	number = palloc(Max(count, 1) * sizeof(int));
	last = palloc((count + 1) * sizeof(int));
	for (int i = 0; i <= count; i++)
		frontier->first_open[i] = last[i] = -1;
	for (int i = 0; i < count; i++)
		number[gates.order[i]] = i;

	for (int i = 0; i < count; i++)
	{
		const SagaStep *step = &steps->step[gates.order[i]];
		FrontierNode *node = &frontier->node[i];
		int			recorder = gates.recorder[gates.order[i]];
		int			group;

		node->step.run = step->run;
		node->seq = step->seq;
		node->recorder = recorder >= 0 ? number[recorder] : -1;
		node->work_done = saga_gates_work_done(step);
		node->done = gates.done[gates.order[i]];
		node->barrier = saga_rows_is_run(step) && step->after == NULL;
		node->waiting = saga_rows_is_run(step) &&
			step->status == SAGA_STEP_WAITING && step->ready_at == 0;
		frontier->by_seq[i].seq = step->seq;
		frontier->by_seq[i].number = i;

		group = group_of(frontier, node);
		node->next = -1;
		node->previous = last[group];
		if (node->previous >= 0)
			frontier->node[node->previous].next = i;
		last[group] = i;
		if (node->done)
			frontier->open--;
		else if (frontier->first_open[group] < 0)
			frontier->first_open[group] = i;
	}
	qsort(frontier->by_seq, count, sizeof(Numbered), compare_seqs);

	keys = saga_gates_index_keys(&gates);
	for (int i = 0; i < count; i++)
	{
		const SagaStep *step = &steps->step[gates.order[i]];
		FrontierNode *node = &frontier->node[i];

		if (node->recorder >= 0)
		{
			frontier->node[node->recorder].recorded = true;
			if (!node->done)
				frontier->node[node->recorder].open_children++;
		}
		if (node->waiting && !node->barrier)
			read_list(frontier, keys, number, i, step);
	}
	hash_destroy(keys);
	return frontier;
}

/* The first gate of a step opens. */
static void
open_gate(FrontierNode *node, List **opened)
{
	if (!node->waiting)
		return;
	node->waiting = false;
	*opened = lappend(*opened, &node->step);
}

/*
 * Marks a step as done, if it is, and then the one whose action recorded it, if
 * that was the last thing missing, and so on.
 */
static void
frontier_settle(SagaFrontier *frontier, int number, List **opened)
{
	while (number >= 0)
	{
		FrontierNode *node = &frontier->node[number];
		int		   *first = &frontier->first_open[group_of(frontier, node)];
		ListCell   *lc;

		if (node->done || !node->work_done || node->open_children > 0)
			return;
		node->done = true;
		frontier->open--;
		foreach(lc, node->dependents)
		{
			FrontierNode *dependent = &frontier->node[lfirst_int(lc)];

			if (--dependent->missing == 0)
				open_gate(dependent, opened);
		}
		if (*first == number)
		{
			while (*first >= 0 && frontier->node[*first].done)
				*first = frontier->node[*first].next;
			if (*first >= 0 && frontier->node[*first].barrier)
				open_gate(&frontier->node[*first], opened);
		}
		number = node->recorder;
		if (number >= 0)
			frontier->node[number].open_children--;
	}
}

/*
 * The work of a step is completed.  Sets "opened" to the steps whose first gate opens
 * because of that (SagaFrontierStep *), a list in the current memory context.  False:
 * the step is not known.
 */
bool
saga_frontier_completed(SagaFrontier *frontier, int64 seq, List **opened)
{
	int			number = find_number(frontier, seq);

	*opened = NIL;
	if (number < 0)
		return false;
	frontier->node[number].work_done = true;
	frontier_settle(frontier, number, opened);
	return true;
}

/*
 * Has the action of the step recorded steps?  Some of them may be open from the
 * beginning, which does not follow from the end of any step.
 */
bool
saga_frontier_recorded(const SagaFrontier *frontier, int64 seq)
{
	int			number = find_number(frontier, seq);

	return number >= 0 && frontier->node[number].recorded;
}

/*
 * The steps whose outputs a step without a list gets, as in saga_gates_inputs
 * (SagaFrontierStep *).  False: the step is not known.
 */
bool
saga_frontier_inputs(const SagaFrontier *frontier, int64 seq, List **inputs)
{
	int			number = find_number(frontier, seq);

	*inputs = NIL;
	if (number < 0)
		return false;
	for (int i = frontier->node[number].previous; i >= 0; i = frontier->node[i].previous)
	{
		*inputs = lcons(&frontier->node[i].step, *inputs);
		if (frontier->node[i].barrier)
			break;
	}
	return true;
}

/* Is nothing left to do in the saga, going forward? */
bool
saga_frontier_all_done(const SagaFrontier *frontier)
{
	return frontier->open == 0;
}
