/*-------------------------------------------------------------------------
 *
 * following.c
 *	  Going on along a saga with many steps without reading them all.
 *
 * An executor that runs one step of a saga after the other would read all of
 * them for each: to see which gates the end of a step opens, and whose outputs
 * the next one gets.  So it keeps in memory what there is to know of the saga it
 * goes along (flow/frontier.c), and brings that forward with each mark.
 *
 * What is kept is right only if no change was missed.  It is used only while this
 * process holds the saga's lock exclusively until its commit, and only if
 *
 * - the saga's row is the very version that it was, so that nothing was rolled
 *	 back, and no step is written without the lock;
 * - nobody else has written a step of the saga since (shared/step_writes.c),
 *	 which is certain under that lock;
 * - the transaction that brought it forward last has committed.
 *
 * Otherwise it is made anew, or, if that has taken much of the time lately, the
 * mark asks for a look, as the mark of any step does (process/action.c).  What is
 * kept only says which rows to read: that a step waits, and what for, is taken from
 * its row.
 *
 * Making it takes long.  Meanwhile the saga's lock is held shared, so that others
 * go on; then it is used only if they did not.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/htup_details.h"
#include "base/clock.h"
#include "base/ids.h"
#include "flow/frontier.h"
#include "flow/gates.h"
#include "flow/next.h"
#include "ledger/ledger.h"
#include "ledger/table.h"
#include "process/following.h"
#include "shared/step_writes.h"
#include "utils/builtins.h"
#include "utils/memutils.h"
#include "utils/snapmgr.h"

/* Most steps whose gates are opened with one mark; more are the worker's. */
#define FOLLOW_STEPS	64
/* Pause before it is made anew, as a multiple of the time that making it took */
#define FOLLOW_PAUSE	3
/* Largest number of steps of a saga of which assertions read all */
#define FOLLOW_CHECKED	500

static MemoryContext context = NULL;	/* of what is kept */
static SagaFrontier *frontier = NULL;	/* NULL: nothing is */
static pg_uuid_t followed;		/* of that saga ... */
static ItemPointerData row_at;	/* ... with this version of its row ... */
static TransactionId row_by;
static uint32 writes;			/* ... and this count of its steps' writes */
static bool uncommitted = false;	/* brought forward in a transaction of
									 * which nobody knows yet whether it
									 * commits */

/* By the steady clock: not to be made again before that */
static int64 make_again = 0;

static void
following_forget(void)
{
	frontier = NULL;
	uncommitted = false;
	if (context != NULL)
		MemoryContextReset(context);
}

/* A transaction that runs an action begins. */
void
saga_following_begin(void)
{
	if (uncommitted)
		following_forget();
}

/* It has committed. */
void
saga_following_committed(void)
{
	uncommitted = false;
}

static bool
same_row(const SagaRow *saga)
{
	HeapTuple	tuple = saga->version.tuple;

	return ItemPointerEquals(&tuple->t_self, &row_at) &&
		HeapTupleHeaderGetRawXmin(tuple->t_data) == row_by;
}

/*
 * Makes what is kept.  The caller holds the saga's lock exclusively.  Others are let
 * in meanwhile; "alone": whether the lock could be had exclusively again after that,
 * and the saga's row is as it was.  If not, it is held shared.  Nothing is made, and
 * the lock stays exclusive, if somebody waits to end the saga.
 */
static void
make(SagaRow *saga, bool *alone)
{
	int64		begun = saga_clock_steady();
	MemoryContext scratch;
	MemoryContext caller;
	Snapshot	snapshot;
	SagaSteps	steps;

	following_forget();
	/* While nobody else has a part in the saga. */
	writes = saga_step_writes_get(&saga->id);
	snapshot = saga_table_snapshot();
	if (!saga_ledger_let_others_in(&saga->id))
	{
		UnregisterSnapshot(snapshot);
		return;
	}
	*alone = false;
	scratch = AllocSetContextCreate(CurrentMemoryContext, "saga steps to follow",
									ALLOCSET_DEFAULT_SIZES);
	caller = MemoryContextSwitchTo(scratch);
	if (context == NULL)
		context = AllocSetContextCreate(TopMemoryContext, "saga frontier",
										ALLOCSET_DEFAULT_SIZES);
	followed = saga->id;
	row_at = saga->version.tuple->t_self;
	row_by = HeapTupleHeaderGetRawXmin(saga->version.tuple->t_data);
	saga_ledger_get_steps_at(&saga->id, snapshot, &steps);
	UnregisterSnapshot(snapshot);
	frontier = saga_frontier_make(&steps, context);
	MemoryContextSwitchTo(caller);
	MemoryContextDelete(scratch);
	make_again = saga_clock_steady();
	make_again += FOLLOW_PAUSE * (make_again - begun);

	if (!saga_ledger_lock(&saga->id, ExclusiveLock, SAGA_NOWAIT))
		return;
	*alone = saga_ledger_reread_saga(saga, SAGA_NOWAIT) == SAGA_FOUND &&
		same_row(saga);
	if (!*alone)
		saga_ledger_unlock(&saga->id, ExclusiveLock);
}

/* Is another step of the saga due for this role, after the one of "due"? */
static bool
more_is_due(const SagaDue *due)
{
	SagaDue		next;

	return saga_ledger_next_due(due, true, &next) &&
		saga_ids_equal(&next.saga, &due->saga) && next.due <= saga_clock_now();
}

/*
 * Is it known what the end of a step of the saga opens?  The caller holds the lock of
 * the saga, which is running, exclusively.  "alone" becomes false if it is held only
 * shared afterward.  "due": the row of the step's due work.
 */
bool
saga_following_ready(SagaRow *saga, const SagaDue *due, bool *alone)
{
	if (saga->paused)
		return false;
	if (frontier == NULL || !saga_ids_equal(&followed, &saga->id) ||
		!same_row(saga) || saga_step_writes_get(&saga->id) != writes)
	{
		/* If more is due, it is no chain: a look of the worker serves all. */
		if (saga_clock_steady() < make_again || more_is_due(due))
			return false;
		make(saga, alone);
	}
	return *alone && frontier != NULL &&
		saga_step_writes_get(&saga->id) == writes;
}

#ifdef USE_ASSERT_CHECKING
/* Says of each step whether it waits while its first gate is open. */
static void
read_open(const SagaSteps *steps, bool *open)
{
	SagaGates	gates;

	saga_gates_read(&gates, steps);
	for (int i = 0; i < steps->count; i++)
		open[i] = saga_rows_is_run(&steps->step[i]) &&
			steps->step[i].status == SAGA_STEP_WAITING &&
			steps->step[i].ready_at == 0 && gates.before[i] == -1;
}

/*
 * Does gates.c, which reads all steps of the saga, find the same steps opened by the
 * end of that one?  Not asked of sagas with very many steps, where it would take as
 * long as what this room saves.
 */
static bool
are_right(const SagaStep *step, const List *opened)
{
	SagaSteps	steps;
	bool	   *before;
	bool	   *after;
	int			count = 0;
	ListCell   *lc;

	if (!saga_ledger_get_few_steps(&step->saga, FOLLOW_CHECKED, &steps))
		return true;
	before = palloc0(steps.count * sizeof(bool));
	after = palloc0(steps.count * sizeof(bool));
	read_open(&steps, before);
	steps.step[saga_next_find(&steps, step->seq)].status = SAGA_STEP_COMPLETED;
	read_open(&steps, after);
	for (int i = 0; i < steps.count; i++)
		count += after[i] && !before[i];
	foreach(lc, opened)
	{
		const SagaFrontierStep *found = lfirst(lc);
		int			i = saga_next_find_key(&steps, cstring_to_text(found->key));

		if (i < 0 || steps.step[i].run != found->run || !after[i] || before[i])
			return false;
	}
	return count == list_length(opened);
}
#endif

/*
 * The work of a step is completed.  Reads the steps whose first gate opens because of
 * that, and that have no other gate than time (SagaStep *).  "all": those are all that
 * follows, and no look is needed.  False: what is kept is of no use.
 */
bool
saga_following_opens(const SagaRow *saga, const SagaStep *step, List **opens,
					 bool *all)
{
	List	   *opened;
	ListCell   *lc;

	*opens = NIL;
	uncommitted = true;
	if (!saga_frontier_completed(frontier, step->seq, &opened))
	{
		following_forget();
		return false;
	}
	Assert(are_right(step, opened));
	*all = list_length(opened) <= FOLLOW_STEPS &&
		!saga_frontier_recorded(frontier, step->seq) &&
		!(saga->runs == SAGA_RUNS_SEALED && saga_frontier_all_done(frontier));
	if (list_length(opened) > FOLLOW_STEPS)
		return true;
	foreach(lc, opened)
	{
		const SagaFrontierStep *found = lfirst(lc);
		SagaStep   *next = palloc(sizeof(SagaStep));

		if (saga_ledger_get_run(&saga->id, found->key, found->run, next) != SAGA_FOUND ||
			TransactionIdIsValid(next->version.writer))
		{
			following_forget();
			return false;
		}
		if (next->action == NULL || next->signals != NULL ||
			next->approval != NULL || next->parked != NULL ||
			next->status != SAGA_STEP_WAITING || next->ready_at != 0)
			*all = false;
		else
			*opens = lappend(*opens, next);
	}
	return true;
}

/* The change is written: counts what this process wrote itself as known. */
void
saga_following_written(const pg_uuid_t *saga)
{
	writes = saga_step_writes_get(saga);
}

#ifdef USE_ASSERT_CHECKING
/* Does gates.c, which reads all steps of the saga, find the same keys? */
static bool
are_inputs(const pg_uuid_t *saga, int64 seq, const List *keys)
{
	SagaSteps	steps;
	SagaGates	gates;
	List	   *indexes;
	int			index;

	if (!saga_ledger_get_few_steps_now(saga, FOLLOW_CHECKED, &steps))
		return true;
	/* No lock is held: the saga may be going back by now. */
	for (int i = 0; i < steps.count; i++)
		if (steps.step[i].rolled_back_at != 0)
			return true;
	index = saga_next_find(&steps, seq);
	if (index < 0)
		return false;
	saga_gates_read(&gates, &steps);
	indexes = saga_gates_inputs(&gates, index);
	if (list_length(indexes) != list_length(keys))
		return false;
	for (int i = 0; i < list_length(keys); i++)
		if (strcmp(text_to_cstring(steps.step[list_nth_int(indexes, i)].key),
				   list_nth(keys, i)) != 0)
			return false;
	return true;
}
#endif

/*
 * The keys of the steps whose outputs a step without a list gets.  False: they are
 * not known.
 *
 * Whoever records a step draws its number under the saga's lock, or, from inside an
 * action, is alone in recording for that action.  So the steps before one that is
 * known were all there when what is kept was made, and it does not matter what was
 * written since; but if some were rolled back, the saga's row is another.
 */
bool
saga_following_inputs(const SagaRow *saga, int64 seq, List **keys)
{
	List	   *inputs;
	ListCell   *lc;

	if (frontier == NULL || !saga_ids_equal(&followed, &saga->id) ||
		!same_row(saga) || !saga_frontier_inputs(frontier, seq, &inputs))
		return false;
	*keys = NIL;
	foreach(lc, inputs)
		* keys = lappend(*keys, ((SagaFrontierStep *) lfirst(lc))->key);
	Assert(are_inputs(&saga->id, seq, *keys));
	return true;
}
