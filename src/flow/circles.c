/*-------------------------------------------------------------------------
 *
 * circles.c
 *	  Steps of a saga that wait for each other, so that none of them ever begins.
 *
 * A list ("after") names steps that were recorded before, so mostly there is no circle.
 * But a step also waits for what the actions of others record, and a step that is
 * recorded again after a rollback keeps its place, while those that name it in their
 * lists stay.  Whoever records a step that closes a circle gets an error: the
 * application at once (calls/run_steps.c), an action before its mark
 * (process/action.c).  That cannot see what others record at the same time, nor that a
 * compensation is reported done later; so whoever asks what a saga waits for is told of
 * circles, too (calls/waits.c).
 *
 * A step that is not done waits
 *
 * - for the steps of its list, or for all its siblings before it, as long as its first
 *	 gate has not opened;
 * - for what its action recorded.
 *
 * Steps that are done wait for nothing.  The siblings up to one of them are a node of
 * their own, which waits for that one and for the siblings up to the one before, so
 * that there are few edges.  Steps in a circle are found as strongly connected parts,
 * by Tarjan's algorithm, in a time that grows with the number of steps and the length
 * of their lists.
 *
 * Nothing is read or written here.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "base/errors.h"
#include "flow/circles.h"
#include "lib/stringinfo.h"
#include "utils/builtins.h"
#include "utils/hsearch.h"
#include "utils/memutils.h"

/* Largest number of steps that are named */
#define CIRCLE_NAMES	10

/*
 * What waits for what.  Nodes are steps, by index; and from "count" on, the siblings up
 * to that step.
 */
typedef struct Waiting
{
	int			count;			/* steps, of all runs */
	int		   *first;			/* by node: its first edge; -1: none */
	int			edges;
	int			size;
	int		   *to;				/* by edge: the node waited for ... */
	int		   *next;			/* ... and the next edge of the same node */
} Waiting;

static int *
make_array(int count, int value)
{
	int		   *array = palloc_extended(Max(count, 1) * sizeof(int), MCXT_ALLOC_HUGE);

	for (int i = 0; i < count; i++)
		array[i] = value;
	return array;
}

static void
add_edge(Waiting *waiting, int from, int to)
{
	if (waiting->edges == waiting->size)
	{
		waiting->size *= 2;
		waiting->to = repalloc_huge(waiting->to, waiting->size * sizeof(int));
		waiting->next = repalloc_huge(waiting->next, waiting->size * sizeof(int));
	}
	waiting->to[waiting->edges] = to;
	waiting->next[waiting->edges] = waiting->first[from];
	waiting->first[from] = waiting->edges++;
}

/* A step waits for those of its list. */
static void
add_list(Waiting *waiting, const SagaGates *gates, HTAB *keys, int at)
{
	const SagaStep *step = &gates->steps->step[at];
	List	   *list = saga_gates_keys(step->after);
	ListCell   *lc;

	foreach(lc, list)
	{
		int			of = saga_gates_find_key(keys, lfirst(lc));

		if (of >= 0 && !gates->done[of] && of != gates->recorder[at])
			add_edge(waiting, at, of);
	}
	list_free_deep(list);
}

static void
read_waiting(Waiting *waiting, const SagaGates *gates)
{
	int			count = gates->steps->count;
	HTAB	   *keys = saga_gates_index_keys(gates);
	int		   *last = make_array(count + 1, -1);	/* by recorder: its last
													 * step so far */

	waiting->count = count;
	waiting->first = make_array(2 * count, -1);
	waiting->edges = 0;
	waiting->size = Max(4 * count, 16);
	waiting->to = make_array(waiting->size, 0);
	waiting->next = make_array(waiting->size, 0);
	for (int i = 0; i < gates->count; i++)
	{
		int			at = gates->order[i];
		const SagaStep *step = &gates->steps->step[at];
		int			recorder = gates->recorder[at];
		int			group = recorder >= 0 ? recorder : count;

		if (saga_rows_is_run(step) && step->rolled_back_at == 0 &&
			step->status == SAGA_STEP_WAITING && step->opened_at == 0)
		{
			if (step->after != NULL)
				add_list(waiting, gates, keys, at);
			else if (last[group] >= 0)
				add_edge(waiting, at, count + last[group]);
		}
		if (last[group] >= 0)
			add_edge(waiting, count + at, count + last[group]);
		last[group] = at;
		if (gates->done[at])
			continue;
		add_edge(waiting, count + at, at);
		if (recorder >= 0)
			add_edge(waiting, recorder, at);
	}
	hash_destroy(keys);
	pfree(last);
}

/*
 * Finds the circles.  The result is in the current memory context.
 */
SagaCircles
saga_circles_find(const SagaGates *gates)
{
	Waiting		waiting;
	SagaCircles circles;
	int			nodes = 2 * gates->steps->count;
	int		   *met;			/* by node: when it was met; 0: not yet */
	int		   *low;			/* the earliest that leads to it and that it
								 * leads to; 0: its part is complete */
	int		   *edge;			/* the next of its edges to follow */
	int		   *path;			/* from the start to the node in hand */
	int		   *open;			/* met, and their part is not complete */
	int			time = 0;
	int			depth;
	int			opens = 0;
	int			number = 0;

	read_waiting(&waiting, gates);
	circles = make_array(waiting.count, 0);
	met = make_array(nodes, 0);
	low = make_array(nodes, 0);
	path = make_array(nodes, 0);
	open = make_array(nodes, 0);
	edge = waiting.first;
	for (int start = 0; start < waiting.count; start++)
	{
		if (met[start] != 0)
			continue;
		depth = 0;
		path[depth] = open[opens++] = start;
		met[start] = low[start] = ++time;
		while (depth >= 0)
		{
			int			node = path[depth];

			if (edge[node] >= 0)
			{
				int			to = waiting.to[edge[node]];

				edge[node] = waiting.next[edge[node]];
				if (met[to] == 0)
				{
					path[++depth] = open[opens++] = to;
					met[to] = low[to] = ++time;
				}
				else if (low[to] != 0)
					low[node] = Min(low[node], met[to]);
				continue;
			}
			if (depth > 0)
				low[path[depth - 1]] = Min(low[path[depth - 1]], low[node]);
			depth--;
			if (low[node] == met[node])
			{
				bool		several = open[opens - 1] != node;
				int			member;

				number += several ? 1 : 0;
				do
				{
					member = open[--opens];
					low[member] = 0;
					if (several && member < waiting.count)
						circles[member] = number;
				} while (member != node);
			}
		}
	}
	return circles;
}

/* The steps of a circle, in the order of recording, as messages name them. */
char *
saga_circles_words(const SagaGates *gates, SagaCircles circles, int number)
{
	StringInfoData buf;
	int			size = 0;
	int			named = 0;

	for (int i = 0; i < gates->count; i++)
		size += circles[gates->order[i]] == number ? 1 : 0;
	initStringInfo(&buf);
	for (int i = 0; i < gates->count && named < CIRCLE_NAMES; i++)
	{
		int			at = gates->order[i];

		if (circles[at] != number)
			continue;
		named++;
		appendStringInfo(&buf, "%s\"%s\"",
						 named == 1 ? "" : named == size ? " and " : ", ",
						 text_to_cstring(gates->steps->step[at].key));
	}
	if (size > named)
		appendStringInfo(&buf, " and %d more", size - named);
	return buf.data;
}

/* Refuses to record a step that is in a circle; nothing otherwise. */
void
saga_circles_refuse(const SagaGates *gates, SagaCircles circles, int index)
{
	if (circles[index] == 0)
		return;
	ereport(ERROR,
			(errcode(ERRCODE_SAGA_INVALID_STATE),
			 errmsg("step \"%s\" would wait for itself",
					text_to_cstring(gates->steps->step[index].key)),
			 errdetail("Steps %s would wait for each other.",
					   saga_circles_words(gates, circles, circles[index])),
			 errhint("A step waits for those of its list, or else for its siblings before it, and for all that their actions record. Name others in its list.")));
}
