/*-------------------------------------------------------------------------
 *
 * step_rows.c
 *	  Rows of ledger_step.
 *
 * Steps of a saga that is being undone are written together with the saga's row, so
 * whoever has that row has them, too.  Steps of a running saga are written without
 * it, under the saga's lock (saga_rows.c): reading all of them then takes a snapshot
 * (saga_ledger_get_steps_now), unless the lock is held exclusively.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/genam.h"
#include "access/htup_details.h"
#include "access/table.h"
#include "access/xact.h"
#include "base/compat.h"
#include "common/hashfn.h"
#include "ledger/hints.h"
#include "ledger/keys.h"
#include "ledger/ledger.h"
#include "ledger/oids.h"
#include "ledger/table.h"
#include "shared/stat.h"
#include "shared/step_writes.h"
#include "shared/wakeup.h"
#include "utils/builtins.h"
#include "utils/fmgroids.h"
#include "utils/memutils.h"
#include "utils/rel.h"
#include "utils/snapmgr.h"

/* Where this process saw steps. */
static SagaHints seen_steps;

/*
 * The descriptor of rows that end before the columns that only steps run by saga
 * have.  A row may have fewer columns than its table, like rows from before ALTER
 * TABLE ADD COLUMN; those missing read as NULL.  So steps that saga does not run, as
 * most are, pay nothing for these columns.
 */
static TupleDesc
short_desc(Relation heap)
{
	static TupleDesc desc = NULL;
	static uint64 desc_generation;

	if (desc == NULL || desc_generation != saga_oids_generation())
	{
		MemoryContext caller = MemoryContextSwitchTo(CacheMemoryContext);
		TupleDesc	old = desc;
		TupleDesc	new = CreateTemplateTupleDesc(Step_short_natts);

		for (int i = 1; i <= Step_short_natts; i++)
			TupleDescCopyEntry(new, i, RelationGetDescr(heap), i);
		saga_compat_desc_finalize(new);
		MemoryContextSwitchTo(caller);
		desc = new;
		desc_generation = saga_oids_generation();
		if (old != NULL)
			FreeTupleDesc(old);
	}
	return desc;
}

/* The descriptor of rows that have this number of columns */
static inline TupleDesc
desc_of(Relation heap, int natts)
{
	return natts <= Step_short_natts ? short_desc(heap) : RelationGetDescr(heap);
}

static void
unpack(Relation heap, const SagaTuple *version, SagaStep *step)
{
	saga_rows_unpack_step(desc_of(heap, HeapTupleHeaderGetNatts(version->tuple->t_data)),
						  version, step);
}

static uint64
step_bits(const pg_uuid_t *id, const text *key)
{
	return saga_hints_of_id(id) ^
		hash_bytes_extended((const unsigned char *) VARDATA_ANY(key),
							VARSIZE_ANY_EXHDR(key), 0);
}

/*
 * Is the newest run of a step where it was seen before, with nobody writing
 * it?  One that was not rolled back is the newest.
 */
static bool
step_where_seen(Relation heap, const pg_uuid_t *id, const text *key,
				SagaStep *step)
{
	ItemPointerData root;
	SagaTuple	version;

	if (!saga_hints_get(&seen_steps, step_bits(id, key), &root) ||
		!saga_table_find_at(heap, &root, &version) ||
		TransactionIdIsValid(version.writer))
		return false;
	unpack(heap, &version, step);
	return memcmp(&step->saga, id, UUID_LEN) == 0 &&
		saga_rows_same_text(step->key, key) && step->rolled_back_at == 0;
}

/*
 * Finds the newest run of a step.  Does not wait: "writer" of its version is a
 * transaction that is inserting or changing it.  "sure": SAGA_MISSING is certain; a
 * caller that would insert the step need not pay for that.
 */
SagaFound
saga_ledger_get_step(const pg_uuid_t *id, text *key, bool sure, SagaStep *step)
{
	Relation	heap;
	Relation	index;
	ScanKeyData keys[2];
	SagaTuple	version;
	SagaFound	found;

	heap = table_open(saga_oids_get()->step, RowExclusiveLock);
	if (step_where_seen(heap, id, key, step))
	{
		table_close(heap, NoLock);
		return SAGA_FOUND;
	}
	index = index_open(saga_oids_get()->step_pkey, AccessShareLock);
	saga_keys_uuid(&keys[0], 1, id);
	saga_keys_text(&keys[1], 2, key);
	found = saga_table_find_newest(heap, index, keys, 2, sure, &version);
	if (found == SAGA_FOUND)
	{
		unpack(heap, &version, step);
		saga_hints_note(&seen_steps, step_bits(id, key), version.tuple);
	}
	else
		step->version = version;
	index_close(index, NoLock);
	table_close(heap, NoLock);
	return found;
}

/*
 * Finds a step by an index, without reading the others of its saga.  Does not wait:
 * "writer" of its version is a transaction that is replacing it.
 */
static SagaFound
find_step_row(Oid index_relid, ScanKey keys, int nkeys, SagaStep *step)
{
	Relation	heap = table_open(saga_oids_get()->step, RowExclusiveLock);
	Relation	index = index_open(index_relid, AccessShareLock);
	SagaTuple	version;
	SagaFound	found = saga_table_find_newest(heap, index, keys, nkeys, true, &version);

	if (found == SAGA_FOUND)
		unpack(heap, &version, step);
	index_close(index, NoLock);
	table_close(heap, NoLock);
	return found;
}

/* A run of a step, or the newest (run 0). */
static SagaFound
get_run(const pg_uuid_t *id, const text *key, int run, SagaStep *step)
{
	ScanKeyData keys[3];

	saga_keys_uuid(&keys[0], 1, id);
	saga_keys_text(&keys[1], 2, key);
	ScanKeyInit(&keys[2], 3, BTEqualStrategyNumber, F_INT4EQ,
				Int32GetDatum(run));
	return find_step_row(saga_oids_get()->step_pkey, keys, run != 0 ? 3 : 2, step);
}

/* The step that a row of the queue names. */
SagaFound
saga_ledger_get_queued_step(const SagaQueued *queued, SagaStep *step)
{
	return get_run(&queued->saga, queued->key, queued->run, step);
}

/* The run of a step with that seq, if it has a task. */
SagaFound
saga_ledger_get_task(const pg_uuid_t *id, int64 seq, SagaStep *step)
{
	ScanKeyData keys[2];

	saga_keys_uuid(&keys[0], 1, id);
	ScanKeyInit(&keys[1], 2, BTEqualStrategyNumber, F_INT8EQ,
				Int64GetDatum(seq));
	return find_step_row(saga_oids_get()->step_by_task, keys, 2, step);
}

/* The step that a row of the due work names. */
SagaFound
saga_ledger_get_due_step(const SagaDue *due, SagaStep *step)
{
	return get_run(&due->saga, due->key, due->run, step);
}

/* A run of a step. */
SagaFound
saga_ledger_get_run(const pg_uuid_t *id, const char *key, int run,
					SagaStep *step)
{
	return get_run(id, cstring_to_text(key), run, step);
}

/* The newest run of a step, as it is committed or own. */
SagaFound
saga_ledger_get_newest_run(const pg_uuid_t *id, const char *key, SagaStep *step)
{
	return get_run(id, cstring_to_text(key), 0, step);
}

/*
 * Keeps others from writing a step until the end of the transaction.
 */
SagaWritten
saga_ledger_lock_step(SagaStep *step, SagaPatience patience)
{
	Relation	heap = table_open(saga_oids_get()->step, RowExclusiveLock);
	SagaWritten locked = saga_table_lock(heap, &step->version, patience);

	table_close(heap, NoLock);
	step->locked = locked == SAGA_WRITTEN;
	return locked;
}

/* A step in the start order, for sorting */
typedef struct Place
{
	int64		order;
	int			index;
} Place;

static int
by_order(const void *a, const void *b)
{
	int64		left = ((const Place *) a)->order;
	int64		right = ((const Place *) b)->order;

	return left < right ? -1 : left > right ? 1 : 0;
}

/* Sorts steps by start order.  They are large, and each is moved only once. */
static void
sort_steps(SagaSteps *steps)
{
	int			count = steps->count;
	Place	   *places;
	SagaStep   *sorted;
	bool		in_order = true;

	for (int i = 1; i < count && in_order; i++)
		in_order = saga_rows_order(&steps->step[i - 1]) <
			saga_rows_order(&steps->step[i]);
	if (in_order)
		return;
	places = palloc_extended(count * sizeof(Place), MCXT_ALLOC_HUGE);
	sorted = palloc_extended(count * sizeof(SagaStep), MCXT_ALLOC_HUGE);
	for (int i = 0; i < count; i++)
	{
		places[i].order = saga_rows_order(&steps->step[i]);
		places[i].index = i;
	}
	qsort(places, count, sizeof(Place), by_order);
	for (int i = 0; i < count; i++)
		sorted[i] = steps->step[places[i].index];
	pfree(places);
	pfree(steps->step);
	steps->step = sorted;
}

/*
 * Is the step a part of the action that recorded it?  Not one that the application has
 * started again, in the place of such a step.
 */
static bool
is_part(const SagaStep *step)
{
	return step->recorded_by != 0 && step->place == 0 && !saga_rows_is_run(step);
}

/* Finds the actions that steps are a part of. */
static void
find_recorders(SagaSteps *steps)
{
	int			count = steps->count;
	Place	   *by_seq = palloc_extended(count * sizeof(Place), MCXT_ALLOC_HUGE);

	for (int i = 0; i < count; i++)
	{
		by_seq[i].order = steps->step[i].seq;
		by_seq[i].index = i;
	}
	qsort(by_seq, count, sizeof(Place), by_order);
	for (int i = 0; i < count; i++)
	{
		SagaStep   *step = &steps->step[i];
		Place		key = {.order = step->recorded_by};
		const Place *found;
		const SagaStep *recorder;

		if (!is_part(step))
			continue;
		found = bsearch(&key, by_seq, count, sizeof(Place), by_order);
		if (found == NULL)
			continue;
		recorder = &steps->step[found->index];
		step->part_of = recorder->kind == SAGA_KIND_RETRIABLE ? -1 :
			saga_rows_order(recorder);
	}
	pfree(by_seq);
}

/* All steps of a saga are in memory: sets what follows from their rows. */
static void
finish_steps(SagaSteps *steps)
{
	bool		parts = false;

	steps->to_walk = steps->count;
	steps->claimed = false;
	for (int i = 0; i < steps->count; i++)
	{
		const SagaStep *step = &steps->step[i];

		steps->claimed |= saga_rows_undo_claimed(step);
		parts |= is_part(step);
	}
	if (parts)
		find_recorders(steps);
	sort_steps(steps);
}

/* Reads the steps of a saga; false, with none read, if there are more than "limit". */
static bool
read_steps(const pg_uuid_t *id, int limit, SagaSteps *steps)
{
	Relation	heap;
	Relation	index;
	ScanKeyData key;
	SagaTuple  *found;
	int			count;

	heap = table_open(saga_oids_get()->step, RowExclusiveLock);
	index = index_open(saga_oids_get()->step_pkey, AccessShareLock);
	saga_keys_uuid(&key, 1, id);
	count = saga_table_find_some(heap, index, &key, 1, false,
								 limit < INT_MAX ? limit + 1 : limit, &found);
	if (count <= limit)
	{
		steps->count = count;
		steps->step = palloc_extended(steps->count * sizeof(SagaStep),
									  MCXT_ALLOC_HUGE);
		for (int i = 0; i < steps->count; i++)
			unpack(heap, &found[i], &steps->step[i]);
		finish_steps(steps);
	}
	pfree(found);
	index_close(index, NoLock);
	table_close(heap, NoLock);
	return count <= limit;
}

/*
 * Reads every run of every step of a saga, in start order.  For a saga that is not
 * running, where whoever changes a step replaces the saga's row, too; or with the
 * saga's lock held exclusively.  Otherwise use saga_ledger_get_steps_now.
 */
void
saga_ledger_get_steps(const pg_uuid_t *id, SagaSteps *steps)
{
	(void) read_steps(id, INT_MAX, steps);
}

/* The same, if there are at most "limit"; false otherwise. */
bool
saga_ledger_get_few_steps(const pg_uuid_t *id, int limit, SagaSteps *steps)
{
	return read_steps(id, limit, steps);
}

/* The same for a snapshot; false if there are more than "limit". */
static bool
read_steps_at(const pg_uuid_t *id, Snapshot snapshot, int limit, SagaSteps *steps)
{
	Relation	heap = table_open(saga_oids_get()->step, AccessShareLock);
	Relation	index = index_open(saga_oids_get()->step_pkey, AccessShareLock);
	ScanKeyData key;
	SysScanDesc scan;
	HeapTuple	tuple = NULL;
	int			size = 16;

	steps->count = 0;
	steps->step = palloc(size * sizeof(SagaStep));
	saga_keys_uuid(&key, 1, id);
	scan = systable_beginscan_ordered(heap, index, snapshot, 1, &key);
	while (steps->count <= limit &&
		   HeapTupleIsValid(tuple = systable_getnext_ordered(scan, ForwardScanDirection)))
	{
		SagaTuple	version;

		if (steps->count == size)
		{
			size *= 2;
			steps->step = repalloc_huge(steps->step, size * sizeof(SagaStep));
		}
		version.tuple = heap_copytuple(tuple);
		version.own =
			TransactionIdIsCurrentTransactionId(HeapTupleHeaderGetXmin(tuple->t_data));
		version.writer = InvalidTransactionId;
		unpack(heap, &version, &steps->step[steps->count++]);
	}
	systable_endscan_ordered(scan);
	if (steps->count <= limit)
		finish_steps(steps);
	index_close(index, AccessShareLock);
	table_close(heap, AccessShareLock);
	return steps->count <= limit;
}

/*
 * The same as a query sees them, for the functions behind the views: in a
 * parallel plan a newer snapshot than that of the query cannot be had.
 */
void
saga_ledger_get_steps_at(const pg_uuid_t *id, Snapshot snapshot, SagaSteps *steps)
{
	(void) read_steps_at(id, snapshot, INT_MAX - 1, steps);
}

/*
 * The same as they are at this moment, own changes included, if there are at most
 * "limit".  Steps of a running saga are replaced without its row, by several
 * transactions that hold its lock shared: saga_ledger_get_steps might miss one that
 * is replaced while it reads, or find it twice.
 */
bool
saga_ledger_get_few_steps_now(const pg_uuid_t *id, int limit, SagaSteps *steps)
{
	Snapshot	snapshot = saga_table_snapshot();
	bool		few;

	few = read_steps_at(id, snapshot, limit, steps);
	UnregisterSnapshot(snapshot);
	return few;
}

/* The same without a limit. */
void
saga_ledger_get_steps_now(const pg_uuid_t *id, SagaSteps *steps)
{
	(void) saga_ledger_get_few_steps_now(id, INT_MAX - 1, steps);
}

/* Is there a run of a step with that seq? */
bool
saga_ledger_has_step(const pg_uuid_t *id, int64 seq)
{
	SagaSteps	steps;
	bool		found = false;

	saga_ledger_get_steps_now(id, &steps);
	for (int i = 0; i < steps.count && !found; i++)
		found = steps.step[i].seq == seq;
	return found;
}

/* The largest number in a saga's steps, those of open transactions included. */
int64
saga_ledger_largest_seq(const pg_uuid_t *id)
{
	Relation	heap = table_open(saga_oids_get()->step, RowExclusiveLock);
	Relation	index = index_open(saga_oids_get()->step_pkey, AccessShareLock);
	ScanKeyData key;
	SagaTuple  *found;
	int			count;
	int64		largest = 0;

	saga_keys_uuid(&key, 1, id);
	count = saga_table_find_all(heap, index, &key, 1, true, &found);
	for (int i = 0; i < count; i++)
	{
		bool		isnull;
		Datum		number = heap_getattr(found[i].tuple, Step_seq,
										  RelationGetDescr(heap), &isnull);

		largest = Max(largest, DatumGetInt64(number));
		number = heap_getattr(found[i].tuple, Step_begun,
							  RelationGetDescr(heap), &isnull);
		if (!isnull)
			largest = Max(largest, DatumGetInt64(number));
		heap_freetuple(found[i].tuple);
	}
	pfree(found);
	index_close(index, NoLock);
	table_close(heap, NoLock);
	return largest;
}

/* Counts that a step has completed: its row alone records that attempt. */
static void
count_completed(const SagaStep *step)
{
	saga_stat_attempt(SAGA_PHASE_FORWARD, SAGA_OUTCOME_SUCCEEDED,
					  step->completed_at -
					  (step->attempt_at != 0 ? step->attempt_at : step->started_at));
}

/*
 * Inserts a new run of a step.  Returns false if another session may have
 * inserted it: the caller looks again.
 */
bool
saga_ledger_insert_step(const SagaRow *saga, SagaStep *step)
{
	SagaSparseIndex by_task = {saga_oids_get()->step_by_task, Step_task, false};
	Relation	heap;
	Datum		values[Step_natts];
	bool		nulls[Step_natts];
	bool		inserted;
	int			natts;

	step->stored_comp_status = 0;
	step->stored_queued = 0;
	step->stored_queue_phase = SAGA_PHASE_FORWARD;
	step->stored_work_due = step->stored_gate_due = step->stored_timeout_at = 0;
	step->stored_held = false;
	natts = saga_rows_pack_step(step, values, nulls);
	saga_step_writes_note(&step->saga);
	heap = table_open(saga_oids_get()->step, RowExclusiveLock);
	inserted = saga_table_insert(heap, desc_of(heap, natts), values, nulls,
								 saga_oids_get()->step_pkey, &by_task,
								 &step->version);
	step->stored_comp_status = step->comp_status;
	step->stored_status = step->status;
	if (inserted)
	{
		if (step->status == SAGA_STEP_COMPLETED)
			count_completed(step);
		saga_hints_note(&seen_steps, step_bits(&step->saga, step->key),
						step->version.tuple);
		if (saga_rows_is_run(step))
		{
			saga_ledger_follow_queue(saga, step);
			saga_ledger_follow_step(step);
		}
	}
	table_close(heap, NoLock);
	return inserted;
}

/*
 * A started step whose row this transaction has written without beginning the
 * attempt.  Of such steps, that the row is its own does not say that the attempt is.
 */
typedef struct OthersAttempt
{
	pg_uuid_t	saga;
	int64		seq;
	int			attempt;
} OthersAttempt;

static List *others_attempts = NIL; /* in TopTransactionContext ... */
static TransactionId others_attempts_of = InvalidTransactionId; /* of that one */

static void
note_others_attempt(const SagaStep *step)
{
	MemoryContext caller = MemoryContextSwitchTo(TopTransactionContext);
	OthersAttempt *others = palloc(sizeof(OthersAttempt));

	if (others_attempts_of != GetTopTransactionId())
		others_attempts = NIL;
	others_attempts_of = GetTopTransactionId();
	others->saga = step->saga;
	others->seq = step->seq;
	others->attempt = step->forward.attempts;
	others_attempts = lappend(others_attempts, others);
	MemoryContextSwitchTo(caller);
}

/* Did this transaction begin the attempt of a step that is started? */
bool
saga_ledger_is_own_attempt(const SagaStep *step)
{
	ListCell   *lc;

	if (!step->version.own)
		return false;
	if (others_attempts_of != GetTopTransactionIdIfAny())
		return true;
	foreach(lc, others_attempts)
	{
		const OthersAttempt *others = lfirst(lc);

		if (others->seq == step->seq && others->attempt == step->forward.attempts &&
			memcmp(&others->saga, &step->saga, UUID_LEN) == 0)
			return false;
	}
	return true;
}

/*
 * Writes a step's row back.  Once the undo has begun, its saga's row has been
 * replaced before.
 */
SagaWritten
saga_ledger_update_step(const SagaRow *saga, SagaStep *step,
						SagaPatience patience)
{
	SagaSparseIndex by_task = {saga_oids_get()->step_by_task, Step_task, false};
	Relation	heap;
	Datum		values[Step_natts];
	bool		nulls[Step_natts];
	bool		others = !step->version.own &&
		step->status == SAGA_STEP_STARTED &&
		step->forward.attempts == step->stored_attempts;
	SagaWritten written;
	int			natts = saga_rows_pack_step(step, values, nulls);

	saga_step_writes_note(&step->saga);
	heap = table_open(saga_oids_get()->step, RowExclusiveLock);
	written = saga_table_update(heap, desc_of(heap, natts), &step->version,
								values, nulls, saga_oids_get()->step_pkey,
								&by_task,
	/* There is nobody to wait for. */
								step->locked ? SAGA_WAIT : patience);
	if (written == SAGA_WRITTEN)
	{
		step->locked = false;
		step->stored_comp_status = step->comp_status;
		if (step->status == SAGA_STEP_COMPLETED &&
			step->stored_status != SAGA_STEP_COMPLETED)
			count_completed(step);
		/* Waiting for an approval is part of the plan. */
		if (saga->state == SAGA_RUNNING && step->status != SAGA_STEP_WAITING &&
			saga_rows_step_held(step) && !step->stored_held)
			saga_stat_saga(saga->owner, saga->name, SAGA_STAT_PARKED);
		step->stored_status = step->status;
		saga_hints_note(&seen_steps, step_bits(&step->saga, step->key),
						step->version.tuple);
		if (others)
			note_others_attempt(step);
		step->stored_attempts = step->forward.attempts;
		saga_wakeup_state(&step->saga);
		saga_ledger_follow_queue(saga, step);
		if (saga_rows_is_run(step))
			saga_ledger_follow_step(step);
	}
	table_close(heap, NoLock);
	return written;
}

/*
 * How many steps a saga has, if not more than a limit; with those that others
 * are recording.
 */
int
saga_ledger_count_steps(const pg_uuid_t *id, int limit)
{
	ScanKeyData key;

	saga_keys_uuid(&key, 1, id);
	return saga_table_count(saga_oids_get()->step, saga_oids_get()->step_pkey,
							&key, Step_seq, limit);
}
