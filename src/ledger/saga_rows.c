/*-------------------------------------------------------------------------
 *
 * saga_rows.c
 *	  Rows of ledger_saga, and the lock of a saga.
 *
 * table.c moves single rows, rows.c says what their fields are and refuses what
 * breaks their rules.  Here, and in the other rooms that share ledger.h, is which
 * table, which index and which lock.
 *
 * Locks.  A saga's lock is a heavyweight lock on its id.  It is taken in share mode
 * to write the steps of a running saga, until the end of the transaction, and
 * exclusively to end the forward phase (fail, cancel, complete, a deadline).
 * So when an exclusive caller has it, no step is on its way in.  That caller
 * releases it as soon as the saga's row has been replaced: from then on the row
 * itself, with its writer in progress, holds back every later writer, and
 * 100,000 sagas can be failed in one transaction without filling the lock
 * table.  A call that writes nothing releases whatever it took.  A row that the
 * current transaction wrote itself needs no lock against those that come later, for
 * the same reason.
 *
 * An action records steps without the lock: nobody sees them before its mark, which
 * takes the lock.  An executor that marks a step holds the lock exclusively to the end
 * of the transaction if it also writes what follows from the mark (action.c).
 *
 * Who waits for whom.  A transaction holds the lock, as above, the rows that it wrote,
 * and the keys that it used (of a saga, a step, a signal, a limit) to its end.  A call
 * that waits for another transaction keeps what earlier calls of its own left to it,
 * and gives back what it took itself (access.c; of limits, limit_rows.c).  So nobody
 * waits for a call that waits, and a deadlock takes two transactions of two calls
 * each, where each second call must wait for what the other transaction did first, in
 * whatever order locks are taken: both end a saga in which both have recorded, or both
 * report what the other has reported.  (saga.purge and saga.adopt, which write many
 * rows, keep what they have written while they wait for the next.)  Our processes wait
 * for no lock and no row.
 *
 * Once the undo has begun, a transaction that writes a step's row replaces the
 * saga's row, too; so an executor that finds the saga's row as it left it need
 * not read the steps again, and two writers meet on that row.
 *
 *	step, complete_step, fail_step		share, to the end of the transaction
 *	claiming and reporting a task, deciding about a step, amending one
 *										the same, if the saga is running
 *	complete, fail, cancel				exclusive, until the row is written
 *	the worker, for a deadline			the same, but never waiting
 *	a look, an action's mark			share or exclusive, to the end of the
 *										transaction, never waiting
 *	a call after it wrote the row, attempts and claims of compensations, signals
 *										none
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/genam.h"
#include "access/htup_details.h"
#include "access/table.h"
#include "base/errors.h"
#include "base/guc.h"
#include "common/hashfn.h"
#include "ledger/hints.h"
#include "ledger/keys.h"
#include "ledger/ledger.h"
#include "ledger/oids.h"
#include "miscadmin.h"
#include "shared/stat.h"
#include "shared/tally.h"
#include "shared/wakeup.h"
#include "storage/lmgr.h"
#include "utils/builtins.h"
#include "utils/fmgroids.h"
#include "utils/rel.h"
#include "utils/snapmgr.h"

/* ------------------------------------------------------------------------
 * Locks
 * ------------------------------------------------------------------------ */

static uint64
hash_id(const pg_uuid_t *id)
{
	return hash_bytes_extended(id->data, UUID_LEN, 0);
}

/*
 * The lock of a saga: an advisory lock in a corner of its own (the last field
 * is 1 or 2 for those of users), which the deadlock detector, lock_timeout,
 * pg_locks and prepared transactions all know how to treat.
 */
void
saga_ledger_locktag(const pg_uuid_t *id, LOCKTAG *tag)
{
	uint64		hash = hash_id(id);

	SET_LOCKTAG_ADVISORY(*tag, MyDatabaseId, (uint32) (hash >> 32),
						 (uint32) hash, 0x5A6A);
}

/* Takes a saga's lock, once more if it is held. */
SagaLocked
saga_ledger_lock(const pg_uuid_t *id, LOCKMODE mode, SagaPatience patience)
{
	LOCKTAG		tag;

	saga_ledger_locktag(id, &tag);
	switch (LockAcquire(&tag, mode, false, patience == SAGA_NOWAIT))
	{
		case LOCKACQUIRE_NOT_AVAIL:
			return SAGA_NOT_LOCKED;
		case LOCKACQUIRE_OK:
			return SAGA_LOCKED;
		case LOCKACQUIRE_ALREADY_HELD:
		case LOCKACQUIRE_ALREADY_CLEAR:
			return SAGA_LOCKED_BEFORE;
	}
	return SAGA_NOT_LOCKED;		/* keep the compiler quiet */
}

void
saga_ledger_unlock(const pg_uuid_t *id, LOCKMODE mode)
{
	LOCKTAG		tag;

	saga_ledger_locktag(id, &tag);
	LockRelease(&tag, mode, false);
}

/*
 * Makes a shared lock of the exclusive one that the caller holds: others may have a
 * part in the saga then, but not end it.  False: it stays exclusive, because another
 * transaction waits to end the saga.  The shared lock cannot be had before that one,
 * not even by the holder of the exclusive one, without which the saga could end before
 * the caller commits.
 */
bool
saga_ledger_let_others_in(const pg_uuid_t *id)
{
	if (!saga_ledger_lock(id, ShareLock, SAGA_NOWAIT))
		return false;
	saga_ledger_unlock(id, ExclusiveLock);
	return true;
}

/* ------------------------------------------------------------------------
 * Rows
 * ------------------------------------------------------------------------ */

/* Where this process saw sagas. */
static SagaHints seen_sagas;

/* Is the saga where it was seen before? */
static bool
saga_where_seen(Relation heap, const pg_uuid_t *id, SagaRow *row)
{
	ItemPointerData root;
	SagaTuple	version;

	if (!saga_hints_get(&seen_sagas, saga_hints_of_id(id), &root) ||
		!saga_table_find_at(heap, &root, &version))
		return false;
	saga_rows_unpack_saga(RelationGetDescr(heap), &version, row);
	return memcmp(&row->id, id, UUID_LEN) == 0;
}

/*
 * Finds a saga by its id, without waiting for anybody.  SAGA_BUSY cannot come
 * of it: a saga that is only being begun is not there yet.
 */
SagaFound
saga_ledger_get_saga(const pg_uuid_t *id, SagaRow *row)
{
	Relation	heap;
	Relation	index;
	ScanKeyData key;
	SagaTuple	version;
	SagaFound	found;

	heap = table_open(saga_oids_get()->saga, RowExclusiveLock);
	if (saga_where_seen(heap, id, row))
	{
		table_close(heap, NoLock);
		return SAGA_FOUND;
	}
	index = index_open(saga_oids_get()->saga_pkey, AccessShareLock);
	saga_keys_uuid(&key, 1, id);
	found = saga_table_find_newest(heap, index, &key, 1, true, &version);
	if (found == SAGA_FOUND)
	{
		saga_rows_unpack_saga(RelationGetDescr(heap), &version, row);
		saga_hints_note(&seen_sagas, saga_hints_of_id(id), version.tuple);
	}
	index_close(index, NoLock);
	table_close(heap, NoLock);
	return found == SAGA_FOUND ? SAGA_FOUND : SAGA_MISSING;
}

/*
 * Makes sure that the row is the newest version and nobody is writing it,
 * reading it again if it is not.  SAGA_BUSY only with SAGA_NOWAIT.
 */
SagaFound
saga_ledger_reread_saga(SagaRow *row, SagaPatience patience)
{
	Relation	heap;
	SagaFound	found;

	heap = table_open(saga_oids_get()->saga, RowExclusiveLock);
	for (;;)
	{
		found = saga_table_recheck(heap, &row->version);
		if (found == SAGA_FOUND)
			break;
		if (found == SAGA_BUSY)
		{
			if (patience == SAGA_NOWAIT)
				break;
			saga_table_wait(row->version.writer);
		}
		else
		{
			pg_uuid_t	id = row->id;

			if (saga_ledger_get_saga(&id, row) == SAGA_MISSING)
				break;
		}
		CHECK_FOR_INTERRUPTS();
	}
	table_close(heap, NoLock);
	return found;
}

/*
 * Finds the saga that an owner began under a key.  Waits for a transaction
 * that is beginning it.  "sure": SAGA_MISSING is certain; a caller that would insert
 * the saga need not pay for that.
 */
SagaFound
saga_ledger_get_saga_by_key(Oid owner, text *name, text *key, bool sure,
							SagaRow *row)
{
	Relation	heap;
	Relation	index;
	ScanKeyData keys[3];
	SagaTuple	version;
	SagaFound	found;

	heap = table_open(saga_oids_get()->saga, RowExclusiveLock);
	index = index_open(saga_oids_get()->saga_by_key, AccessShareLock);
	saga_keys_text(&keys[0], 1, key);
	saga_keys_text(&keys[1], 2, name);
	ScanKeyInit(&keys[2], 3, BTEqualStrategyNumber, F_OIDEQ,
				ObjectIdGetDatum(owner));
	found = saga_table_find_settled(heap, index, keys, 3, sure, &version);
	if (found == SAGA_FOUND)
		saga_rows_unpack_saga(RelationGetDescr(heap), &version, row);
	index_close(index, NoLock);
	table_close(heap, NoLock);
	return found;
}

/*
 * The same by the owner's name, whatever OID it had where the saga was begun.
 * Reads the whole table: for a copy that is not adopted yet, whose roles have
 * not been brought in line.
 */
SagaFound
saga_ledger_get_saga_by_owner_name(text *owner_name, text *name, text *key,
								   SagaRow *row)
{
	Relation	heap = table_open(saga_oids_get()->saga, RowExclusiveLock);
	Snapshot	snapshot = saga_table_snapshot();
	ScanKeyData keys[3];
	SysScanDesc scan;
	HeapTuple	tuple;

	saga_keys_text(&keys[0], Saga_owner_name, owner_name);
	saga_keys_text(&keys[1], Saga_name, name);
	saga_keys_text(&keys[2], Saga_key, key);
	scan = systable_beginscan(heap, InvalidOid, false, snapshot, 3, keys);
	tuple = systable_getnext(scan);
	if (HeapTupleIsValid(tuple))
		saga_rows_unpack_seen(RelationGetDescr(heap), tuple, row);
	systable_endscan(scan);
	UnregisterSnapshot(snapshot);
	table_close(heap, NoLock);
	return HeapTupleIsValid(tuple) ? SAGA_FOUND : SAGA_MISSING;
}

/*
 * Inserts a new saga.  Returns false if another may have been begun under its
 * key: the caller looks again.
 */
bool
saga_ledger_insert_saga(SagaRow *row)
{
	Relation	heap;
	Datum		values[Saga_natts];
	bool		nulls[Saga_natts];
	SagaSparseIndex by_subject;
	bool		inserted;

	row->stored_state = 0;
	row->stored_due = 0;
	row->stored_lane = InvalidOid;
	row->stored_held = false;
	row->stored_failure_kind = SAGA_FAILURE_NONE;
	saga_rows_pack_saga(row, values, nulls);
	heap = table_open(saga_oids_get()->saga, RowExclusiveLock);
	by_subject.index = saga_oids_get()->saga_by_subject;
	by_subject.column = Saga_subject;
	by_subject.of_nulls = false;
	inserted = saga_table_insert(heap, NULL, values, nulls, saga_oids_get()->saga_by_key,
								 &by_subject, &row->version);
	row->stored_state = row->state;
	if (inserted)
	{
		saga_hints_note(&seen_sagas, saga_hints_of_id(&row->id), row->version.tuple);
		saga_ledger_follow_saga(row, false);
		saga_tally_add(row->owner, 1);
		saga_stat_saga(row->owner, row->name, SAGA_STAT_BEGUN);
	}
	table_close(heap, NoLock);
	return inserted;
}

/* Was the saga begun by this transaction, and not written again since? */
bool
saga_ledger_begun_here(const SagaRow *row)
{
	return row->version.own &&
		!(row->version.tuple->t_data->t_infomask & HEAP_UPDATED);
}

/*
 * Is the saga running to all other transactions, whatever this one has made of it?
 * The row is the newest, so no other transaction is writing it.
 */
bool
saga_ledger_runs_to_others(const SagaRow *row)
{
	Snapshot	snapshot;
	ScanKeyData key;
	Datum		values[Saga_natts];
	bool		nulls[Saga_natts];
	bool		found;

	if (!row->version.own)
		return row->state == SAGA_RUNNING;
	snapshot = saga_table_snapshot();
	/* What this transaction wrote is not there before its first command. */
	snapshot->curcid = FirstCommandId;
	saga_keys_uuid(&key, Saga_id, &row->id);
	found = saga_table_first(saga_oids_get()->saga, saga_oids_get()->saga_pkey,
							 snapshot, &key, 1, values, nulls);
	UnregisterSnapshot(snapshot);
	return found &&
		(SagaState) DatumGetChar(values[Saga_state - 1]) == SAGA_RUNNING;
}

/* Counts that a saga has failed, by what. */
static void
count_failure(const SagaRow *row)
{
	switch (row->failure_kind)
	{
		case SAGA_FAILURE_FAILED:
			saga_stat_saga(row->owner, row->name, SAGA_STAT_FAILED);
			break;
		case SAGA_FAILURE_CANCELLED:
			saga_stat_saga(row->owner, row->name, SAGA_STAT_CANCELED);
			break;
		case SAGA_FAILURE_TIMED_OUT:
			saga_stat_saga(row->owner, row->name, SAGA_STAT_TIMED_OUT);
			break;
		case SAGA_FAILURE_NONE:
			break;
	}
}

/* Counts that a saga has entered a state. */
static void
count_state(const SagaRow *row)
{
	switch (row->state)
	{
		case SAGA_COMPLETED:
			saga_stat_saga(row->owner, row->name, SAGA_STAT_COMPLETED);
			break;
		case SAGA_COMPENSATED:
			saga_stat_saga(row->owner, row->name, SAGA_STAT_COMPENSATED);
			break;
		case SAGA_ABANDONED:
			saga_stat_saga(row->owner, row->name, SAGA_STAT_ABANDONED);
			break;
		case SAGA_NEEDS_REVIEW:
			saga_stat_saga(row->owner, row->name, SAGA_STAT_PARKED);
			break;
		case SAGA_RUNNING:
		case SAGA_COMPENSATING:
			break;
	}
	if (row->finished_at != 0)
		saga_stat_time(SAGA_STAT_TIME_SAGA, row->finished_at - row->started_at);
}

/* Writes a saga's row back. */
SagaWritten
saga_ledger_update_saga(SagaRow *row, SagaPatience patience)
{
	Relation	heap;
	Datum		values[Saga_natts];
	bool		nulls[Saga_natts];
	SagaSparseIndex by_subject;
	SagaWritten written;

	saga_rows_pack_saga(row, values, nulls);
	heap = table_open(saga_oids_get()->saga, RowExclusiveLock);
	by_subject.index = saga_oids_get()->saga_by_subject;
	by_subject.column = Saga_subject;
	by_subject.of_nulls = false;
	written = saga_table_update(heap, NULL, &row->version, values, nulls,
								saga_oids_get()->saga_by_key, &by_subject,
								patience);
	if (written == SAGA_WRITTEN)
	{
		bool		failed = row->stored_state == SAGA_RUNNING &&
			row->state == SAGA_COMPENSATING;

		saga_hints_note(&seen_sagas, saga_hints_of_id(&row->id), row->version.tuple);
		if (row->state != row->stored_state)
		{
			int			was_over = saga_state_is_final(row->stored_state);

			saga_wakeup_state(&row->id);
			if (was_over != saga_state_is_final(row->state))
				saga_tally_add(row->owner, was_over ? 1 : -1);
			count_state(row);
		}
		if (row->stored_failure_kind == SAGA_FAILURE_NONE)
			count_failure(row);
		row->stored_state = row->state;
		row->stored_failure_kind = row->failure_kind;
		saga_ledger_follow_saga(row, failed);
	}
	table_close(heap, NoLock);
	return written;
}

/*
 * Whose saga is it, to the query that asks?  For the functions behind the
 * views, which may be called while a parallel plan runs: a newer snapshot than
 * that of the query cannot be had then, and would not fit its rows.  False:
 * there is none.
 */
bool
saga_ledger_owner_of(const pg_uuid_t *id, Oid *owner, text **owner_name)
{
	ScanKeyData key;
	Datum		values[Saga_natts];
	bool		nulls[Saga_natts];

	saga_keys_uuid(&key, Saga_id, id);
	if (!saga_table_first(saga_oids_get()->saga, saga_oids_get()->saga_pkey,
						  GetActiveSnapshot(), &key, 1, values, nulls))
		return false;
	*owner = DatumGetObjectId(values[Saga_owner - 1]);
	*owner_name = DatumGetTextPP(values[Saga_owner_name - 1]);
	return true;
}

/*
 * The transaction that is writing a saga's row at this moment, for the same
 * functions; invalid if there is none.  That one of a row which moves meanwhile
 * is not seen does no harm: what they show was true a moment ago.
 */
TransactionId
saga_ledger_writer_of(const pg_uuid_t *id)
{
	Relation	heap = table_open(saga_oids_get()->saga, AccessShareLock);
	Relation	index = index_open(saga_oids_get()->saga_pkey, AccessShareLock);
	ScanKeyData key;
	SagaTuple	version;

	saga_keys_uuid(&key, Saga_id, id);
	(void) saga_table_find(heap, index, &key, 1, BackwardScanDirection,
						   &version);
	index_close(index, NoLock);
	table_close(heap, NoLock);
	return version.writer;
}

/*
 * How many unfinished sagas an owner has, what this transaction did included;
 * reads the whole table.
 */
int64
saga_ledger_count_open(Oid owner)
{
	Relation	heap = table_open(saga_oids_get()->saga, AccessShareLock);
	Snapshot	snapshot = saga_table_snapshot();
	ScanKeyData key;
	SysScanDesc scan;
	HeapTuple	tuple;
	int64		count = 0;

	ScanKeyInit(&key, Saga_owner, BTEqualStrategyNumber, F_OIDEQ,
				ObjectIdGetDatum(owner));
	scan = systable_beginscan(heap, InvalidOid, false, snapshot, 1, &key);
	while (HeapTupleIsValid(tuple = systable_getnext(scan)))
	{
		bool		isnull;
		Datum		state = heap_getattr(tuple, Saga_state,
										 RelationGetDescr(heap), &isnull);

		CHECK_FOR_INTERRUPTS();
		if (!saga_state_is_final((SagaState) DatumGetChar(state)))
			count++;
	}
	systable_endscan(scan);
	UnregisterSnapshot(snapshot);
	table_close(heap, NoLock);
	return count;
}
