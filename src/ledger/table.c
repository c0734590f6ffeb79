/*-------------------------------------------------------------------------
 *
 * table.c
 *	  Single rows through the table and index access methods.
 *
 * The ledger is read and written as the server does with its catalogs: no
 * SQL, no plans, no triggers, no permission checks.  This room knows how that
 * is done and nothing of what the rows mean; rows.c knows what they mean.
 *
 * Reading.  Calls use the newest committed state, whatever snapshot their
 * caller holds, so rows are looked up with a dirty snapshot, which also shows
 * which transaction is writing a row.  A dirty scan sees every row that stays
 * where it is or is updated in place (HOT).  A row that moves to another page
 * while the scan is between the old place and the new can be missed; so
 * "missing" is said only after a look with a fresh MVCC snapshot, unless the
 * caller goes on to insert, where the unique index decides.  A scan of many
 * rows takes such a snapshot, too, by saga_table_snapshot.
 *
 * Writing.  A unique index is asked with UNIQUE_CHECK_PARTIAL, which makes the
 * index entry and reports a possible conflict instead of raising an error or
 * waiting: the loser takes its row back and looks again.  Entering and looking
 * are one under the index page's lock, so of two inserters only the second can
 * lose, and both never do.  (Of an index that is being rebuilt there are two:
 * see insert_into_indexes.)  Waiting then happens in saga_table_wait, outside of
 * any page lock, under the caller's lock_timeout, and in sight of the deadlock
 * detector.
 *
 * Indexes that a DBA added to our tables are kept up, with their expressions
 * and predicates; direct writes that forgot them would corrupt them.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/genam.h"
#include "access/heapam.h"
#include "access/heaptoast.h"
#include "access/table.h"
#include "access/tableam.h"
#include "access/xact.h"
#include "base/compat.h"
#include "base/errors.h"
#include "base/fault.h"
#include "catalog/index.h"
#include "catalog/pg_am_d.h"
#include "commands/trigger.h"
#include "common/hashfn.h"
#include "executor/executor.h"
#include "ledger/table.h"
#include "miscadmin.h"
#include "storage/bufmgr.h"
#include "storage/freespace.h"
#include "storage/lmgr.h"
#include "storage/procarray.h"
#include "utils/datum.h"
#include "utils/rel.h"
#include "utils/snapmgr.h"

/*
 * The class of the advisory locks of keys; those of users have 1 or 2, those of
 * sagas (saga_rows.c) and of limits (limit_rows.c) others.
 */
#define KEY_LOCK	0x5A6B

static void
fill_found(SagaTuple *found, HeapTuple tuple, TransactionId writer)
{
	found->tuple = tuple;
	found->own = TransactionIdIsCurrentTransactionId(HeapTupleHeaderGetXmin(tuple->t_data));
	found->writer = writer;
}

/* A version that the current transaction has just written. */
static void
fill_own(SagaTuple *version, HeapTuple tuple)
{
	version->tuple = tuple;
	version->own = true;
	version->writer = InvalidTransactionId;
}

/*
 * A registered snapshot of what is committed now, and of all that this
 * transaction did.  Like a dirty snapshot, it sees what the current command
 * has written and deleted: several calls in one statement must see each
 * other's effects, and two reads of a row must agree.
 *
 * So its command id is set by hand.  The server offers two ways to see the
 * effects of a command, and neither fits a function that a query calls:
 * CommandCounterIncrement() would use up a command id for each read, and let
 * the volatile functions of the caller's query see what they must not see yet;
 * UpdateActiveSnapshotCommandId() changes the active snapshot, which is the
 * query's own.  The snapshot changed here is nobody else's: RegisterSnapshot()
 * has copied it from the one that GetLatestSnapshot() keeps.
 */
Snapshot
saga_table_snapshot(void)
{
	Snapshot	snapshot = RegisterSnapshot(GetLatestSnapshot());

	snapshot->curcid = GetCurrentCommandId(false) + 1;
	return snapshot;
}

/* Is there no row for a fresh MVCC snapshot? */
static bool
really_missing(Relation heap, Relation index, ScanKey keys, int nkeys)
{
	Snapshot	snapshot = saga_table_snapshot();
	TupleTableSlot *slot = table_slot_create(heap, NULL);
	IndexScanDesc scan;
	bool		missing;

	scan = saga_compat_index_beginscan(heap, index, snapshot, nkeys);
	index_rescan(scan, keys, nkeys, NULL, 0);
	missing = !index_getnext_slot(scan, ForwardScanDirection, slot);
	index_endscan(scan);
	ExecDropSingleTupleTableSlot(slot);
	UnregisterSnapshot(snapshot);
	return missing;
}

/*
 * Looks at the row whose versions begin at "root", where some row was seen
 * before.  False says nothing: ask an index.  True says that there is a row;
 * the caller checks whether it is the one it wants.
 */
bool
saga_table_find_at(Relation heap, const ItemPointerData *root,
				   SagaTuple *found)
{
	SnapshotData dirty;
	ItemPointerData tid = *root;
	IndexFetchTableData *fetch;
	TupleTableSlot *slot;
	bool		more = false;

	found->tuple = NULL;
	/* The table may have been truncated since. */
	if (ItemPointerGetBlockNumber(root) >= RelationGetNumberOfBlocks(heap))
		return false;

	/* What an index scan does with the place that an entry points to. */
	InitDirtySnapshot(dirty);
	slot = table_slot_create(heap, NULL);
	fetch = saga_compat_index_fetch_begin(heap);
	while (table_index_fetch_tuple(fetch, &tid, &dirty, slot, &more, NULL))
	{
		if (!TransactionIdIsValid(dirty.xmin))
		{
			fill_found(found, ExecCopySlotHeapTuple(slot), dirty.xmax);
			break;
		}
		if (!more)
			break;
	}
	table_index_fetch_end(fetch);
	ExecDropSingleTupleTableSlot(slot);
	return found->tuple != NULL;
}

/*
 * Finds the first row that the keys lead to, in the direction given.
 *
 * SAGA_MISSING may be said of a row that moved just now; see
 * saga_table_find_newest.  SAGA_BUSY: there is none, but found->writer is about
 * to insert one.
 */
SagaFound
saga_table_find(Relation heap, Relation index, ScanKey keys, int nkeys,
				ScanDirection direction, SagaTuple *found)
{
	SnapshotData dirty;
	TupleTableSlot *slot = table_slot_create(heap, NULL);
	IndexScanDesc scan;

	InitDirtySnapshot(dirty);
	found->tuple = NULL;
	found->own = false;
	found->writer = InvalidTransactionId;

	scan = saga_compat_index_beginscan(heap, index, &dirty, nkeys);
	index_rescan(scan, keys, nkeys, NULL, 0);
	while (index_getnext_slot(scan, direction, slot))
	{
		/*
		 * Somebody's uncommitted new version: if there is an older one, it is
		 * the one that counts, and the scan will come to it.
		 */
		if (TransactionIdIsValid(dirty.xmin))
		{
			found->writer = dirty.xmin;
			continue;
		}
		fill_found(found, ExecCopySlotHeapTuple(slot),
				   TransactionIdIsValid(dirty.xmax) ? dirty.xmax :
				   found->writer);
		break;
	}
	index_endscan(scan);
	ExecDropSingleTupleTableSlot(slot);

	if (found->tuple != NULL)
		return SAGA_FOUND;
	return TransactionIdIsValid(found->writer) ? SAGA_BUSY : SAGA_MISSING;
}

/*
 * The same for the newest of several, backward.  "sure": SAGA_MISSING is the last word,
 * and so is SAGA_BUSY: of a row that moved, the new version may have been seen while its
 * writer was at work, and the old one after it had committed.  A caller that would
 * insert the row need not pay for that.
 */
SagaFound
saga_table_find_newest(Relation heap, Relation index, ScanKey keys, int nkeys,
					   bool sure, SagaTuple *found)
{
	for (;;)
	{
		SagaFound	result;

		result = saga_table_find(heap, index, keys, nkeys,
								 BackwardScanDirection, found);
		if (result == SAGA_FOUND || !sure ||
			really_missing(heap, index, keys, nkeys))
			return result;
		CHECK_FOR_INTERRUPTS();
	}
}

/*
 * Finds every row that the keys lead to, but at most "limit"; returns how many.  Rows
 * that others are only about to insert count when "uncommitted" is set, and have those
 * as their writers: they may be gone at any moment.
 */
int
saga_table_find_some(Relation heap, Relation index, ScanKey keys, int nkeys,
					 bool uncommitted, int limit, SagaTuple **found)
{
	SnapshotData dirty;
	TupleTableSlot *slot = table_slot_create(heap, NULL);
	IndexScanDesc scan;
	int			size = 8;
	int			count = 0;

	InitDirtySnapshot(dirty);
	*found = palloc(size * sizeof(SagaTuple));

	scan = saga_compat_index_beginscan(heap, index, &dirty, nkeys);
	index_rescan(scan, keys, nkeys, NULL, 0);
	while (count < limit &&
		   index_getnext_slot(scan, ForwardScanDirection, slot))
	{
		if (TransactionIdIsValid(dirty.xmin) && !uncommitted)
			continue;
		if (count == size)
		{
			size *= 2;
			*found = repalloc(*found, size * sizeof(SagaTuple));
		}
		fill_found(&(*found)[count++], ExecCopySlotHeapTuple(slot),
				   TransactionIdIsValid(dirty.xmin) ? dirty.xmin : dirty.xmax);
		if ((count & 255) == 0)
			CHECK_FOR_INTERRUPTS();
	}
	index_endscan(scan);
	ExecDropSingleTupleTableSlot(slot);
	return count;
}

/* Finds every row that the keys lead to. */
int
saga_table_find_all(Relation heap, Relation index, ScanKey keys, int nkeys,
					bool uncommitted, SagaTuple **found)
{
	return saga_table_find_some(heap, index, keys, nkeys, uncommitted, INT_MAX,
								found);
}

/*
 * The first row of an index, in its order, that matches the keys, which are
 * ordered by attribute.  False if there is none.
 */
bool
saga_table_first(Oid relid, Oid index_relid, Snapshot snapshot, ScanKey keys,
				 int nkeys, Datum *values, bool *nulls)
{
	Relation	heap = table_open(relid, AccessShareLock);
	Relation	index = index_open(index_relid, AccessShareLock);
	SysScanDesc scan;
	HeapTuple	tuple;

	scan = systable_beginscan_ordered(heap, index, snapshot, nkeys, keys);
	tuple = systable_getnext_ordered(scan, ForwardScanDirection);
	if (HeapTupleIsValid(tuple))
		heap_deform_tuple(heap_copytuple(tuple), RelationGetDescr(heap),
						  values, nulls);
	systable_endscan_ordered(scan);
	index_close(index, NoLock);
	table_close(heap, NoLock);
	return HeapTupleIsValid(tuple);
}

/*
 * Is the version found before still the newest?  Cheaper than finding it
 * again.  SAGA_FOUND: it is, and nobody is writing it.  SAGA_BUSY: it is, but
 * found->writer is replacing it.  SAGA_MISSING: it is not; find it again.
 *
 * The version was alive when it was found, and the snapshot that every caller
 * holds keeps its place from being reused since.
 */
SagaFound
saga_table_recheck(Relation heap, SagaTuple *found)
{
	SnapshotData dirty;
	HeapTupleData tuple;
	Buffer		buffer;
	bool		alive;

	InitDirtySnapshot(dirty);
	tuple.t_self = found->tuple->t_self;
	alive = heap_fetch(heap, &dirty, &tuple, &buffer, false);
	if (!alive)
		return SAGA_MISSING;
	if (HeapTupleHeaderGetRawXmin(tuple.t_data) !=
		HeapTupleHeaderGetRawXmin(found->tuple->t_data))
	{
		ReleaseBuffer(buffer);
		return SAGA_MISSING;
	}
	ReleaseBuffer(buffer);
	found->writer = dirty.xmax;
	return TransactionIdIsValid(found->writer) ? SAGA_BUSY : SAGA_FOUND;
}

/*
 * The first trigger on a table that is none of ours; NULL if there is none.
 * Ours are the guards of writes by SQL.
 */
const Trigger *
saga_table_foreign_trigger(Relation heap)
{
	TriggerDesc *desc = heap->trigdesc;

	for (int i = 0; desc != NULL && i < desc->numtriggers; i++)
	{
		const Trigger *trigger = &desc->triggers[i];

		if (strcmp(trigger->tgname, "guard") != 0 &&
			strcmp(trigger->tgname, "guard_truncate") != 0)
			return trigger;
	}
	return NULL;
}

/*
 * Refuses to write a table on which there is a trigger, rule or foreign key
 * that would miss what is written; see ddl.c, which keeps them away where it
 * can.
 */
static void
refuse_followers(Relation heap)
{
	const Trigger *trigger = saga_table_foreign_trigger(heap);
	const char *name = RelationGetRelationName(heap);

	if (trigger == NULL && heap->rd_rules == NULL)
		return;
	ereport(ERROR,
			(errcode(ERRCODE_SAGA_UNAVAILABLE),
			 trigger == NULL ?
			 errmsg("table \"%s\" has a rule, which saga does not apply", name) :
			 trigger->tgisinternal ?
			 errmsg("table \"%s\" has a foreign key, which saga does not check", name) :
			 errmsg("table \"%s\" has trigger \"%s\", which saga does not fire",
					name, trigger->tgname),
			 errdetail("Saga writes the ledger directly, and whatever relies on that would miss what is written."),
			 errhint("Drop it, or let the tool that created it do so.")));
}

/* Is there nothing on the table but the two guards?  The usual case, quickly. */
static inline void
check_followers(Relation heap)
{
	TriggerDesc *triggers = heap->trigdesc;

	if (triggers == NULL || triggers->numtriggers != 2 ||
		triggers->triggers[0].tgfoid != triggers->triggers[1].tgfoid ||
		heap->rd_rules != NULL)
		refuse_followers(heap);
}

/* Waits for the end of a transaction that is writing a row. */
void
saga_table_wait(TransactionId writer)
{
	XactLockTableWait(writer, NULL, NULL, XLTW_None);
}

/*
 * Finds the first row that the keys lead to, forward, once no other transaction is
 * inserting one.  "sure": SAGA_MISSING is the last word.
 */
SagaFound
saga_table_find_settled(Relation heap, Relation index, ScanKey keys, int nkeys,
						bool sure, SagaTuple *found)
{
	for (;;)
	{
		SagaFound	result = saga_table_find(heap, index, keys, nkeys,
											 ForwardScanDirection, found);

		if (result == SAGA_BUSY)
			saga_table_wait(found->writer);
		else if (result == SAGA_FOUND || !sure ||
				 really_missing(heap, index, keys, nkeys))
			return result;
		CHECK_FOR_INTERRUPTS();
	}
}

/*
 * How many rows a key leads to, if not more than a limit; with those that others
 * are inserting.  Of one that somebody is changing there are two versions, side by
 * side in the order of the index: "number" is a column that tells rows apart.
 */
int
saga_table_count(Oid table, Oid table_index, ScanKey key, AttrNumber number,
				 int limit)
{
	Relation	heap = table_open(table, RowExclusiveLock);
	Relation	index = index_open(table_index, AccessShareLock);
	SnapshotData dirty;
	SysScanDesc scan;
	HeapTuple	tuple;
	int64		last = 0;
	int			count = 0;

	InitDirtySnapshot(dirty);
	scan = systable_beginscan_ordered(heap, index, &dirty, 1, key);
	while (count < limit &&
		   HeapTupleIsValid(tuple = systable_getnext_ordered(scan, ForwardScanDirection)))
	{
		bool		isnull;
		int64		found = DatumGetInt64(heap_getattr(tuple, number,
													   RelationGetDescr(heap),
													   &isnull));

		if (found != last)
			count++;
		last = found;
	}
	systable_endscan_ordered(scan);
	index_close(index, NoLock);
	table_close(heap, NoLock);
	return count;
}

#ifdef USE_ASSERT_CHECKING
/*
 * Direct writes skip NOT NULL and CHECK constraints: the caller verified them
 * by itself.  Here the server verifies that it did.
 */
static void
assert_constraints(Relation heap, HeapTuple tuple)
{
	EState	   *estate = CreateExecutorState();
	ResultRelInfo *info = makeNode(ResultRelInfo);
	TupleTableSlot *slot = MakeSingleTupleTableSlot(RelationGetDescr(heap),
													&TTSOpsHeapTuple);

	InitResultRelInfo(info, heap, 0, NULL, 0);
	ExecStoreHeapTuple(tuple, slot, false);
	if (RelationGetDescr(heap)->constr)
		ExecConstraints(info, slot, estate);
	ExecDropSingleTupleTableSlot(slot);
	FreeExecutorState(estate);
}
#endif

/*
 * Forms the entry of an index for a row.  Returns false if its predicate
 * leaves the row out.
 */
static bool
form_entry(IndexInfo *info, EState *estate, TupleTableSlot *slot,
		   HeapTuple tuple, Datum *values, bool *nulls)
{
	ExprContext *econtext = GetPerTupleExprContext(estate);

	ExecStoreHeapTuple(tuple, slot, false);
	econtext->ecxt_scantuple = slot;
	if (info->ii_Predicate != NIL &&
		!ExecQual(ExecPrepareQual(info->ii_Predicate, estate), econtext))
		return false;
	FormIndexDatum(info, slot, estate, values, nulls);
	return true;
}

/* Are two entries of an index the same? */
static bool
same_entry(Relation index, Datum *values, bool *nulls, Datum *others,
		   bool *other_nulls)
{
	for (int i = 0; i < index->rd_index->indnatts; i++)
	{
		Form_pg_attribute att = TupleDescAttr(RelationGetDescr(index), i);

		if (nulls[i] != other_nulls[i] ||
			(!nulls[i] && !datum_image_eq(values[i], others[i], att->attbyval,
										  att->attlen)))
			return false;
	}
	return true;
}

/*
 * Makes the entry of an index that is not plain columns of a btree.  "lost":
 * the row will be taken back, so nobody is asked.  Nor is anybody where a row
 * is replaced under the same keys; see insert_into_indexes.
 */
static void
insert_into_foreign_index(Relation heap, Relation index, HeapTuple tuple,
						  HeapTuple old, bool lost)
{
	IndexInfo  *info = BuildIndexInfo(index);
	EState	   *estate = CreateExecutorState();
	TupleTableSlot *slot = MakeSingleTupleTableSlot(RelationGetDescr(heap),
													&TTSOpsHeapTuple);
	Datum		values[INDEX_MAX_KEYS];
	bool		nulls[INDEX_MAX_KEYS];

	if (form_entry(info, estate, slot, tuple, values, nulls))
	{
		bool		ask = info->ii_Unique && !lost;

		if (ask && old != NULL)
		{
			TupleTableSlot *old_slot = MakeSingleTupleTableSlot(RelationGetDescr(heap),
																&TTSOpsHeapTuple);
			Datum		old_values[INDEX_MAX_KEYS];
			bool		old_nulls[INDEX_MAX_KEYS];

			ask = !form_entry(info, estate, old_slot, old, old_values,
							  old_nulls) ||
				!same_entry(index, values, nulls, old_values, old_nulls);
			ExecDropSingleTupleTableSlot(old_slot);
		}
		index_insert(index, values, nulls, &tuple->t_self, heap,
					 ask ? UNIQUE_CHECK_YES : UNIQUE_CHECK_NO, false, info);
		saga_compat_index_insert_cleanup(index, info);
	}
	ExecDropSingleTupleTableSlot(slot);
	FreeExecutorState(estate);
}

/* Are the columns of an index the same in a row and in what replaces it? */
static bool
same_keys(Relation heap, Relation index, HeapTuple old, Datum *values,
		  bool *nulls)
{
	for (int i = 0; i < index->rd_index->indnatts; i++)
	{
		AttrNumber	number = index->rd_index->indkey.values[i];
		Form_pg_attribute att = TupleDescAttr(RelationGetDescr(heap), number - 1);
		bool		isnull;
		Datum		value = heap_getattr(old, number, RelationGetDescr(heap),
										 &isnull);

		if (isnull != nulls[number - 1] ||
			(!isnull && !datum_image_eq(value, values[number - 1],
										att->attbyval, att->attlen)))
			return false;
	}
	return true;
}

/*
 * Can two rows have the same key in a unique index only if they have the same
 * in the arbiter, too?  So it is with the twin that REINDEX CONCURRENTLY builds
 * beside it, and with the index that was the arbiter until a moment ago.
 */
static bool
follows_from(Relation index, Relation arbiter)
{
	Form_pg_index form = index->rd_index;
	Form_pg_index of_arbiter = arbiter->rd_index;

	if (form->indnullsnotdistinct || index->rd_rel->relam != BTREE_AM_OID)
		return false;
	for (int i = 0; i < of_arbiter->indnkeyatts; i++)
	{
		int			j = 0;

		while (j < form->indnkeyatts &&
			   (form->indkey.values[j] != of_arbiter->indkey.values[i] ||
				index->rd_opfamily[j] != arbiter->rd_opfamily[i] ||
				index->rd_indcollation[j] != arbiter->rd_indcollation[i]))
			j++;
		if (j == form->indnkeyatts)
			return false;
	}
	return RelationGetIndexExpressions(index) == NIL &&
		(RelationGetIndexPredicate(index) == NIL ||
		 equal(RelationGetIndexPredicate(index),
			   RelationGetIndexPredicate(arbiter)));
}

/* Locks the key of a new row in the arbiter; see insert_into_indexes. */
static void
lock_key(Relation heap, Relation arbiter, Datum *values, LOCKTAG *tag)
{
	uint32		hash = 0;

	for (int i = 0; i < arbiter->rd_index->indnkeyatts; i++)
	{
		AttrNumber	number = arbiter->rd_index->indkey.values[i];
		Form_pg_attribute att = TupleDescAttr(RelationGetDescr(heap), number - 1);

		hash = hash_combine(hash, datum_image_hash(values[number - 1],
												   att->attbyval, att->attlen));
	}
	SET_LOCKTAG_ADVISORY(*tag, MyDatabaseId, RelationGetRelid(heap), hash,
						 KEY_LOCK);
	(void) LockAcquire(tag, ExclusiveLock, false, false);
}

#ifdef USE_ASSERT_CHECKING
/*
 * Has an index no predicate but that this column is not null (or is)?  A row that
 * it is not for would be found by a scan of the index that does not check again.
 */
static bool
leaves_out(Relation index, AttrNumber column, NullTestType type)
{
	List	   *predicate = RelationGetIndexPredicate(index);
	NullTest   *test;

	if (predicate == NIL)
		return true;
	test = linitial(predicate);
	return list_length(predicate) == 1 && IsA(test, NullTest) &&
		test->nulltesttype == type && IsA(test->arg, Var) &&
		((Var *) test->arg)->varattno == column;
}
#endif

/*
 * Makes the index entries of a stored row.  Returns false if the arbiter, a
 * unique index of ours, or one that follows from it reports a possible
 * conflict.
 *
 * A row that replaces "old" under the same keys is as unique as that was, and
 * asks nobody: it would wait for a transaction that came second with those
 * keys and is about to take its row back, while that waits for us.  For the
 * same reason, a row that has lost asks nobody any more.
 *
 * While an index is rebuilt (REINDEX CONCURRENTLY) there are two of it, both
 * kept up and both asked: which of them is the arbiter depends on the moment at
 * which a session looks, and only what both sessions ask can decide between
 * them.  Of two rows under one key, each could then be second in one index, and
 * both would lose, each waiting for the other.  So where there is more than one
 * unique index, the entries of a new row are made under a lock of its key.
 * Primary keys that are not the arbiter do not count, being made of our ids.
 *
 * Our own indexes are btrees over plain columns.  Two of sagas, one of steps and
 * two of signals have a predicate: that of the arbiter is that its first column is
 * not null, and that of the one that the caller names as sparse, that some column
 * is not null, or is.  That one is not even opened for a row without an entry.
 */
static bool
insert_into_indexes(Relation heap, HeapTuple tuple, Datum *values, bool *nulls,
					Oid arbiter_id, const SagaSparseIndex *sparse, HeapTuple old,
					bool only_summarizing)
{
	List	   *ids = RelationGetIndexList(heap);
	int			count = 0;
	Oid			sparse_id = sparse != NULL ? sparse->index : InvalidOid;
	Relation	few[4];
	Relation   *indexes = few;
	IndexInfo  *info = NULL;
	Relation	arbiter = NULL;
	bool		rivals = false;
	bool		left_out = false;
	bool		lost = false;
	LOCKTAG		tag;

	if (list_length(ids) > (int) lengthof(few))
		indexes = palloc(list_length(ids) * sizeof(Relation));
	for (int i = 0; i < list_length(ids); i++)
	{
		Oid			id = list_nth_oid(ids, i);
		Relation	index;

		if (id == sparse_id && nulls[sparse->column - 1] != sparse->of_nulls)
			continue;
		index = indexes[count++] = index_open(id, RowExclusiveLock);
		Assert(id != sparse_id ||
			   leaves_out(index, sparse->column,
						  sparse->of_nulls ? IS_NULL : IS_NOT_NULL));
		if (id == arbiter_id)
			arbiter = index;
		else if (index->rd_index->indisunique &&
				 !index->rd_index->indisprimary)
			rivals = true;
	}
	if (OidIsValid(arbiter_id))
	{
		Form_pg_index form;

		if (arbiter == NULL)
			elog(ERROR, "index %u of table \"%s\" is gone", arbiter_id,
				 RelationGetRelationName(heap));
		form = arbiter->rd_index;
		left_out = nulls[form->indkey.values[0] - 1];
		Assert(leaves_out(arbiter, form->indkey.values[0], IS_NOT_NULL));
	}
	rivals = rivals && arbiter != NULL && old == NULL && !left_out;
	if (rivals)
		lock_key(heap, arbiter, values, &tag);

	for (int i = 0; i < count; i++)
	{
		Relation	index = indexes[i];
		Form_pg_index form = index->rd_index;
		bool		decides = index == arbiter ||
			(form->indisunique && arbiter != NULL &&
			 follows_from(index, arbiter));

		/* CREATE INDEX CONCURRENTLY may not have come to its second half. */
		if (!form->indisready ||
			(only_summarizing && !saga_compat_is_summarizing(index)))
			continue;
		if (index->rd_rel->relam != BTREE_AM_OID ||
			RelationGetIndexExpressions(index) != NIL ||
			(!decides && RelationGetRelid(index) != sparse_id &&
			 RelationGetIndexPredicate(index) != NIL))
			insert_into_foreign_index(heap, index, tuple, old, lost);
		else if (!decides || !left_out || (index != arbiter &&
										   RelationGetIndexPredicate(index) == NIL))
		{
			Datum		keys[INDEX_MAX_KEYS];
			bool		key_nulls[INDEX_MAX_KEYS];
			IndexUniqueCheck check;

			if (info == NULL)
				info = makeNode(IndexInfo);
			for (int j = 0; j < form->indnatts; j++)
			{
				AttrNumber	att = form->indkey.values[j];

				keys[j] = values[att - 1];
				key_nulls[j] = nulls[att - 1];
			}
			if (!form->indisunique || lost ||
				(old != NULL && same_keys(heap, index, old, values, nulls)))
				check = UNIQUE_CHECK_NO;
			else if (old == NULL && decides)
				check = UNIQUE_CHECK_PARTIAL;
			else
				check = UNIQUE_CHECK_YES;

			if (!index_insert(index, keys, key_nulls, &tuple->t_self, heap,
							  check, false, info) &&
				check == UNIQUE_CHECK_PARTIAL)
				lost = true;
		}
		if (rivals && decides)
			SAGA_FAULT("table.index_entry");
	}
	if (rivals)
		(void) LockRelease(&tag, ExclusiveLock, false);

	for (int i = 0; i < count; i++)
		index_close(indexes[i], NoLock);
	if (indexes != few)
		pfree(indexes);
	if (info != NULL)
		pfree(info);
	list_free(ids);
	return !lost;
}

/*
 * Prunes a page to which new rows go, and which has no room for this one.
 *
 * The server prunes a page on access once its free space drops below the
 * fillfactor reserve, and stops inserting into it once a new row would leave
 * less than that reserve.  A page that fills up to a point between the two,
 * as nearly half of them do, is never pruned, and stays half full of what
 * completing their steps has replaced.  So the page is marked full, as an
 * update that finds no room does: with that hint, the server prunes a page
 * whatever is free on it.  As always, it does so without waiting for anybody.
 */
static void
prune_page(Relation heap, Buffer buffer)
{
	Page		page = BufferGetPage(buffer);

	if (!TransactionIdIsValid(((PageHeader) page)->pd_prune_xid) ||
		!ConditionalLockBuffer(buffer))
		return;
	PageSetFull(page);
	MarkBufferDirtyHint(buffer, true);
	LockBuffer(buffer, BUFFER_LOCK_UNLOCK);
	saga_compat_heap_page_prune_opt(heap, buffer);
}

/*
 * Chooses the page for a new row; returns options for heap_insert.
 *
 * The page at hand is filled up, and then follows one that is half empty, as a
 * purge leaves them, or else a new one at the end of the table.  The server by
 * itself would come back to every page of the history on which VACUUM found
 * room for a row: with a history of a million sagas each new row would go to
 * another old page, which is read for that, and logged whole after each
 * checkpoint.
 */
static int
choose_page(Relation heap, HeapTuple tuple)
{
	BlockNumber target = RelationGetTargetBlock(heap);

	/* Without a fillfactor, it is a table whose rows are not replaced. */
	if (heap->rd_options == NULL)
		return 0;
	if (target != InvalidBlockNumber)
	{
		Buffer		buffer = ReadBuffer(heap, target);
		Page		page = BufferGetPage(buffer);
		bool		room;

		/* Longer values go out of line. */
		Size		needed = MAXALIGN(Min(tuple->t_len, TOAST_TUPLE_THRESHOLD)) +
			RelationGetTargetPageFreeSpace(heap, HEAP_DEFAULT_FILLFACTOR);

		if (PageGetHeapFreeSpace(page) < needed)
			prune_page(heap, buffer);
		room = PageGetHeapFreeSpace(page) >= needed;
		ReleaseBuffer(buffer);
		if (room)
			return 0;
	}
	target = GetPageWithFreeSpace(heap, BLCKSZ / 2);
	if (target == InvalidBlockNumber)
		return HEAP_INSERT_SKIP_FSM;
	RelationSetTargetBlock(heap, target);
	return 0;
}

/*
 * Inserts a row; returns it as stored, in the caller's context.  "desc": the
 * table's, or one that ends before its last columns, all NULL in this row; NULL
 * is the table's.  "sparse" and "stored" may be NULL.
 *
 * Returns false, and leaves nothing behind that anybody could see, if the
 * arbiter (a unique index, or InvalidOid for none) may already hold its key:
 * the caller looks again.  Every other unique index raises an error.
 */
bool
saga_table_insert(Relation heap, TupleDesc desc, Datum *values, bool *nulls,
				  Oid arbiter, const SagaSparseIndex *sparse, SagaTuple *stored)
{
	HeapTuple	tuple = heap_form_tuple(desc ? desc : RelationGetDescr(heap),
										values, nulls);
	SagaTuple	lost;

	check_followers(heap);
#ifdef USE_ASSERT_CHECKING
	assert_constraints(heap, tuple);
#endif
	heap_insert(heap, tuple, GetCurrentCommandId(true),
				choose_page(heap, tuple), NULL);
	if (insert_into_indexes(heap, tuple, values, nulls, arbiter, sparse, NULL,
							false))
	{
		if (stored != NULL)
			fill_own(stored, tuple);
		SAGA_FAULT_WRITE();
		return true;
	}

	fill_own(&lost, tuple);
	saga_table_delete(heap, &lost);
	return false;
}

/* What the server says of a version that could not be written or deleted */
static SagaWritten
why_not_written(Relation heap, TM_Result result, const char *what)
{
	switch (result)
	{
		case TM_Updated:
		case TM_Deleted:
			return SAGA_CHANGED;
		case TM_BeingModified:
		case TM_WouldBlock:
			return SAGA_WRITE_BUSY;
		default:
			elog(ERROR, "unexpected result %d of %s in \"%s\"",
				 (int) result, what, RelationGetRelationName(heap));
	}
	return SAGA_CHANGED;		/* keep the compiler quiet */
}

/*
 * The transaction that replaces, deletes or locks a version; invalid if there is none,
 * or if several lock it, as only SQL does.
 */
static TransactionId
who_has(Relation heap, const SagaTuple *version)
{
	TransactionId xid = InvalidTransactionId;
	HeapTupleData tuple;
	Buffer		buffer;
	uint16		infomask;

	tuple.t_self = version->tuple->t_self;
	if (!heap_fetch(heap, SnapshotAny, &tuple, &buffer, false))
		return xid;
	LockBuffer(buffer, BUFFER_LOCK_SHARE);
	infomask = tuple.t_data->t_infomask;
	if ((infomask & HEAP_XMAX_INVALID) == 0 &&
		!((infomask & HEAP_XMAX_IS_MULTI) && HEAP_XMAX_IS_LOCKED_ONLY(infomask)))
		xid = HeapTupleHeaderGetUpdateXid(tuple.t_data);
	UnlockReleaseBuffer(buffer);
	return xid;
}

/*
 * Replaces a version found before by new values.  If that succeeds, "version"
 * is the new one; the old one is not freed.  If not, its "writer" is the
 * transaction that was first, if it is known.
 *
 * An own version may have been written by the very command that is running,
 * which the server would not let us touch again without a new command number.
 */
SagaWritten
saga_table_update(Relation heap, TupleDesc desc, SagaTuple *version,
				  Datum *values, bool *nulls, Oid arbiter,
				  const SagaSparseIndex *sparse, SagaPatience patience)
{
	HeapTuple	tuple = heap_form_tuple(desc ? desc : RelationGetDescr(heap),
										values, nulls);
	TM_FailureData failure;
	LockTupleMode lockmode;
	SagaCompatUpdateIndexes indexes;
	TM_Result	result;

	check_followers(heap);
#ifdef USE_ASSERT_CHECKING
	assert_constraints(heap, tuple);
#endif
	if (version->own)
		CommandCounterIncrement();
	result = saga_compat_heap_update(heap, &version->tuple->t_self, tuple,
									 GetCurrentCommandId(true),
									 patience == SAGA_WAIT, &failure,
									 &lockmode, &indexes);
	if (result != TM_Ok)
	{
		version->writer = who_has(heap, version);
		return why_not_written(heap, result, "an update");
	}
	if (indexes != SAGA_COMPAT_UPDATE_NONE)
		(void) insert_into_indexes(heap, tuple, values, nulls, arbiter,
								   sparse, version->tuple,
								   indexes == SAGA_COMPAT_UPDATE_SUMMARIZING);
	fill_own(version, tuple);
	SAGA_FAULT_WRITE();
	return SAGA_WRITTEN;
}

/*
 * Keeps a version found before from being replaced by others until the end of the
 * transaction, for a caller that is going to replace or delete it.
 */
SagaWritten
saga_table_lock(Relation heap, const SagaTuple *version,
				SagaPatience patience)
{
	HeapTupleData tuple;
	TM_FailureData failure;
	Buffer		buffer;
	TM_Result	result;

	if (version->own)
		CommandCounterIncrement();
	tuple.t_self = version->tuple->t_self;
	result = heap_lock_tuple(heap, &tuple, GetCurrentCommandId(true),
							 LockTupleExclusive, patience == SAGA_WAIT ?
							 LockWaitBlock : LockWaitSkip,
							 false, &buffer, &failure);
	ReleaseBuffer(buffer);
	switch (result)
	{
		case TM_Ok:
			return SAGA_WRITTEN;
		case TM_BeingModified:
		case TM_WouldBlock:
			return SAGA_WRITE_BUSY;
		default:
			return SAGA_CHANGED;
	}
}

/* Deletes a version that nobody else can be writing. */
void
saga_table_delete(Relation heap, const SagaTuple *version)
{
	check_followers(heap);
	if (version->own)
		CommandCounterIncrement();
	simple_heap_delete(heap, &version->tuple->t_self);
	SAGA_FAULT_WRITE();
}

/* Deletes a version found before, and does not wait for another transaction. */
SagaWritten
saga_table_try_delete(Relation heap, const SagaTuple *version)
{
	TM_FailureData failure;
	TM_Result	result;

	check_followers(heap);
	if (version->own)
		CommandCounterIncrement();
	result = saga_compat_heap_delete(heap, &version->tuple->t_self,
									 GetCurrentCommandId(true), false,
									 &failure);
	if (result != TM_Ok)
		return why_not_written(heap, result, "a deletion");
	SAGA_FAULT_WRITE();
	return SAGA_WRITTEN;
}
