/*-------------------------------------------------------------------------
 *
 * saga_rows.c
 *	  The ledger: typed rows in, typed rows out.
 *
 * The only room that knows the tables.  table.c moves single rows, rows.c says
 * what their fields are and refuses what breaks their rules; here is which
 * table, which index and which lock.  saga_ledger_enter_state is the one
 * function through which a saga's state changes.
 *
 * Locks.  A saga's lock is a heavyweight lock on its id, taken shared by
 * whoever starts or completes a step, until the end of the transaction, and
 * exclusively by whoever ends the forward phase (fail, cancel, complete, a
 * deadline).  So when an exclusive caller has it, no step is on its way in.
 * It is given back as soon as the saga's row has been replaced: from then on
 * the row itself, with its writer in progress, holds back whoever comes later,
 * and 100,000 sagas can be failed in one transaction without filling the lock
 * table.  A row that the current transaction wrote itself needs no lock at
 * all, for the same reason.
 *
 * Once the undo has begun, whoever writes a step's row replaces the saga's row
 * too, in the same transaction; so an executor that finds the saga's row as it
 * left it need not read the steps again, and two writers meet on that row.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/genam.h"
#include "access/htup_details.h"
#include "access/table.h"
#include "access/xact.h"
#include "base/clock.h"
#include "base/errors.h"
#include "base/fault.h"
#include "base/guc.h"
#include "catalog/pg_collation_d.h"
#include "common/hashfn.h"
#include "ledger/hints.h"
#include "ledger/ledger.h"
#include "ledger/oids.h"
#include "ledger/queue_front.h"
#include "miscadmin.h"
#include "shared/tally.h"
#include "shared/wakeup.h"
#include "storage/lmgr.h"
#include "utils/builtins.h"
#include "utils/fmgroids.h"
#include "utils/fmgrprotos.h"
#include "utils/memutils.h"
#include "utils/rel.h"
#include "utils/snapmgr.h"

static uint64
hash_id(const pg_uuid_t *id)
{
	return hash_bytes_extended(id->data, UUID_LEN, 0);
}

/*
 * The relations that every process of ours opens, for the one that must not
 * wait for them; returns how many.
 */
int
saga_ledger_relations(Oid *relids)
{
	int			n = 0;

	relids[n++] = saga_oids_get()->saga;
	relids[n++] = saga_oids_get()->step;
	relids[n++] = saga_oids_get()->attempt;
	relids[n++] = saga_oids_get()->event;
	relids[n++] = saga_oids_get()->due;
	relids[n++] = saga_oids_get()->queue;
	relids[n++] = saga_oids_get()->held;
	return n;
}

/* ------------------------------------------------------------------------
 * Locks
 * ------------------------------------------------------------------------ */

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

/* Returns false if it cannot be had at once and the caller does not wait. */
bool
saga_ledger_lock(const pg_uuid_t *id, LOCKMODE mode, SagaPatience patience)
{
	LOCKTAG		tag;

	saga_ledger_locktag(id, &tag);
	return LockAcquire(&tag, mode, false, patience == SAGA_NOWAIT) !=
		LOCKACQUIRE_NOT_AVAIL;
}

void
saga_ledger_unlock(const pg_uuid_t *id, LOCKMODE mode)
{
	LOCKTAG		tag;

	saga_ledger_locktag(id, &tag);
	LockRelease(&tag, mode, false);
}

/* ------------------------------------------------------------------------
 * Sagas
 * ------------------------------------------------------------------------ */

static void
key_uuid(ScanKey key, AttrNumber att, const pg_uuid_t *id)
{
	ScanKeyInit(key, att, BTEqualStrategyNumber, F_UUID_EQ, UUIDPGetDatum(id));
}

static void
key_text(ScanKey key, AttrNumber att, const text *value)
{
	ScanKeyEntryInitialize(key, 0, att, BTEqualStrategyNumber, InvalidOid,
						   C_COLLATION_OID, F_TEXTEQ, PointerGetDatum(value));
}

/* Where this process saw sagas, and steps. */
static SagaPlaces saga_hints;
static SagaPlaces step_places;

/* For a place: ids end in random bits. */
static uint64
id_bits(const pg_uuid_t *id)
{
	uint64		bits;

	memcpy(&bits, id->data + UUID_LEN - sizeof(bits), sizeof(bits));
	return bits;
}

static uint64
step_bits(const pg_uuid_t *id, const text *key)
{
	return id_bits(id) ^
		hash_bytes_extended((const unsigned char *) VARDATA_ANY(key),
							VARSIZE_ANY_EXHDR(key), 0);
}

/* Is the saga where it was seen before? */
static bool
saga_in_place(Relation heap, const pg_uuid_t *id, SagaRow *row)
{
	ItemPointerData root;
	SagaTuple	version;

	if (!saga_hints_get(&saga_hints, id_bits(id), &root) ||
		!saga_table_find_at(heap, &root, &version))
		return false;
	saga_rows_unpack_saga(RelationGetDescr(heap), &version, row);
	return memcmp(&row->id, id, UUID_LEN) == 0;
}

/*
 * Is the newest run of a step where it was seen before, with nobody writing
 * it?  One that was not rolled back is the newest.
 */
static bool
step_in_place(Relation heap, const pg_uuid_t *id, const text *key,
			  SagaStep *step)
{
	ItemPointerData root;
	SagaTuple	version;

	if (!saga_hints_get(&step_places, step_bits(id, key), &root) ||
		!saga_table_find_at(heap, &root, &version) ||
		TransactionIdIsValid(version.writer))
		return false;
	saga_rows_unpack_step(RelationGetDescr(heap), &version, step);
	return memcmp(&step->saga, id, UUID_LEN) == 0 &&
		saga_rows_same_text(step->key, key) && step->rolled_back_at == 0;
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
	if (saga_in_place(heap, id, row))
	{
		table_close(heap, NoLock);
		return SAGA_FOUND;
	}
	index = index_open(saga_oids_get()->saga_pkey, AccessShareLock);
	key_uuid(&key, 1, id);
	found = saga_table_find_sure(heap, index, &key, 1, &version);
	if (found == SAGA_FOUND)
	{
		saga_rows_unpack_saga(RelationGetDescr(heap), &version, row);
		saga_hints_note(&saga_hints, id_bits(id), version.tuple);
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
			saga_table_wait(heap, row->version.writer);
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
 * Finds the saga that an owner began under a key.  Waits for whoever is
 * beginning it at this moment.
 */
SagaFound
saga_ledger_get_saga_by_key(Oid owner, text *name, text *key, SagaRow *row)
{
	Relation	heap;
	Relation	index;
	ScanKeyData keys[3];
	SagaTuple	version;
	SagaFound	found;

	heap = table_open(saga_oids_get()->saga, RowExclusiveLock);
	index = index_open(saga_oids_get()->saga_by_key, AccessShareLock);
	key_text(&keys[0], 1, key);
	key_text(&keys[1], 2, name);
	ScanKeyInit(&keys[2], 3, BTEqualStrategyNumber, F_OIDEQ,
				ObjectIdGetDatum(owner));
	for (;;)
	{
		found = saga_table_find(heap, index, keys, 3, ForwardScanDirection,
								&version);
		if (found != SAGA_BUSY)
			break;
		saga_table_wait(heap, version.writer);
	}
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

	key_text(&keys[0], Saga_owner_name, owner_name);
	key_text(&keys[1], Saga_name, name);
	key_text(&keys[2], Saga_key, key);
	scan = systable_beginscan(heap, InvalidOid, false, snapshot, 3, keys);
	tuple = systable_getnext(scan);
	if (HeapTupleIsValid(tuple))
	{
		SagaTuple	version;

		version.tuple = heap_copytuple(tuple);
		version.own = false;
		version.writer = InvalidTransactionId;
		saga_rows_unpack_saga(RelationGetDescr(heap), &version, row);
	}
	systable_endscan(scan);
	UnregisterSnapshot(snapshot);
	table_close(heap, NoLock);
	return HeapTupleIsValid(tuple) ? SAGA_FOUND : SAGA_MISSING;
}

/*
 * Brings a saga's row of ledger_due in line with what its own row, just
 * written, says.  "failed": the saga was running, and is to be undone now.
 *
 * At most one row of ledger_due belongs to a saga, and only whoever replaces
 * the saga's row replaces it; so it is simply there, and nobody is writing it.
 */
static void
follow_due(SagaRow *row, bool failed)
{
	Relation	heap;

	if (row->due == row->stored_due && row->lane == row->stored_lane)
		return;
	if (row->due != 0)
		saga_wakeup_due(row->due);
	if (failed && OidIsValid(row->lane))
		saga_wakeup_failed(&row->id, row->lane);

	heap = table_open(saga_oids_get()->due, RowExclusiveLock);
	if (row->stored_due != 0)
	{
		Relation	index = index_open(saga_oids_get()->due_pkey, AccessShareLock);
		ScanKeyData keys[3];
		SagaTuple	version;

		ScanKeyInit(&keys[0], Due_lane, BTEqualStrategyNumber, F_OIDEQ,
					ObjectIdGetDatum(row->stored_lane));
		ScanKeyInit(&keys[1], Due_due, BTEqualStrategyNumber,
					F_TIMESTAMPTZ_EQ, TimestampTzGetDatum(row->stored_due));
		key_uuid(&keys[2], Due_saga, &row->id);
		if (saga_table_find(heap, index, keys, 3, ForwardScanDirection,
							&version) == SAGA_FOUND)
			saga_table_delete(heap, version.tuple, version.own);
		index_close(index, NoLock);
	}
	if (row->due != 0)
	{
		Datum		values[Due_natts];
		bool		nulls[Due_natts] = {false};

		values[Due_lane - 1] = ObjectIdGetDatum(row->lane);
		values[Due_due - 1] = TimestampTzGetDatum(row->due);
		values[Due_saga - 1] = UUIDPGetDatum(&row->id);
		saga_table_insert(heap, values, nulls, InvalidOid, NULL, NULL);
	}
	table_close(heap, NoLock);
	row->stored_due = row->due;
	row->stored_lane = row->lane;
}

/*
 * The same of its row of ledger_held, which is there while a person holds it.
 * The views find there what no machine will look at again.
 */
static void
follow_held(SagaRow *row)
{
	bool		held = saga_rows_held(row);
	Relation	heap;

	if (held == row->stored_held)
		return;
	heap = table_open(saga_oids_get()->held, RowExclusiveLock);
	if (held)
	{
		Datum		values[Held_natts];
		bool		nulls[Held_natts] = {false};

		values[Held_saga - 1] = UUIDPGetDatum(&row->id);
		saga_table_insert(heap, values, nulls, InvalidOid, NULL, NULL);
	}
	else
	{
		Relation	index = index_open(saga_oids_get()->held_pkey, AccessShareLock);
		ScanKeyData key;
		SagaTuple	version;

		key_uuid(&key, Held_saga, &row->id);
		if (saga_table_find(heap, index, &key, 1, ForwardScanDirection,
							&version) == SAGA_FOUND)
			saga_table_delete(heap, version.tuple, version.own);
		index_close(index, NoLock);
	}
	table_close(heap, NoLock);
	row->stored_held = held;
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
	saga_rows_pack_saga(row, values, nulls);
	heap = table_open(saga_oids_get()->saga, RowExclusiveLock);
	by_subject.index = saga_oids_get()->saga_by_subject;
	by_subject.column = Saga_subject;
	inserted = saga_table_insert(heap, values, nulls, saga_oids_get()->saga_by_key,
								 &by_subject, &row->version.tuple);
	row->version.own = true;
	row->version.writer = InvalidTransactionId;
	row->stored_state = row->state;
	if (inserted)
	{
		saga_hints_note(&saga_hints, id_bits(&row->id), row->version.tuple);
		follow_due(row, false);
		saga_tally_add(row->owner, 1);
	}
	table_close(heap, NoLock);
	return inserted;
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
	written = saga_table_update(heap, row->version.tuple, row->version.own,
								values, nulls, saga_oids_get()->saga_by_key,
								&by_subject, patience,
								&row->version.tuple);
	if (written == SAGA_WRITTEN)
	{
		bool		failed = row->stored_state == SAGA_RUNNING &&
			row->state == SAGA_COMPENSATING;

		row->version.own = true;
		row->version.writer = InvalidTransactionId;
		saga_hints_note(&saga_hints, id_bits(&row->id), row->version.tuple);
		if (row->state != row->stored_state)
		{
			int			was_over = saga_state_is_final(row->stored_state);

			saga_wakeup_state(&row->id);
			if (was_over != saga_state_is_final(row->state))
				saga_tally_add(row->owner, was_over ? 1 : -1);
		}
		row->stored_state = row->state;
		follow_due(row, failed);
		follow_held(row);
	}
	table_close(heap, NoLock);
	return written;
}

/*
 * The one function through which a saga's state changes; the row is yet to be
 * written.  A transition that does not exist is an error.
 */
void
saga_ledger_enter_state(SagaRow *row, SagaState state, TimestampTz now)
{
	if (!saga_state_can(row->state, state))
		ereport(ERROR,
				(errcode(ERRCODE_SAGA_INVALID_STATE),
				 errmsg("a saga cannot go from \"%s\" to \"%s\"",
						saga_state_name(row->state), saga_state_name(state))));
	row->state = state;
	row->updated_at = now;
	row->finished_at = saga_state_is_final(state) ? now : 0;
	row->parked = NULL;
	if (row->announce != NULL ||
		(state == SAGA_NEEDS_REVIEW && saga_guc_review_channel[0] != '\0'))
	{
		const char *before = row->to_announce ?
			text_to_cstring(row->to_announce) : "";

		row->to_announce = cstring_to_text(psprintf("%s%c", before, state));
	}
}

/*
 * Sets when a saga must be looked at next, and by whom; 0: never.  The row is
 * yet to be written.  While there is something to announce, that comes first,
 * and is the worker's.
 */
void
saga_ledger_set_due(SagaRow *row, TimestampTz due, Oid lane)
{
	if (row->to_announce != NULL)
	{
		due = row->updated_at;
		lane = InvalidOid;
	}
	row->due = due;
	row->lane = due != 0 ? lane : InvalidOid;
}

/* One member of a row comparison: the three-way comparison, not an operator. */
static void
member_key(ScanKey key, int att, StrategyNumber strategy, RegProcedure compare,
		   Datum value, bool last)
{
	ScanKeyEntryInitialize(key, SK_ROW_MEMBER | (last ? SK_ROW_END : 0), att,
						   strategy, InvalidOid, InvalidOid, compare, value);
}

/* The row comparison of its members. */
static void
row_key(ScanKey key, ScanKey members, StrategyNumber strategy)
{
	MemSet(key, 0, sizeof(ScanKeyData));
	key->sk_flags = SK_ROW_HEADER;
	key->sk_attno = members[0].sk_attno;
	key->sk_strategy = strategy;
	key->sk_argument = PointerGetDatum(members);
}

/*
 * The first row of an index, in its order, that fulfils the keys, which are
 * ordered by attribute.  False if there is none.
 */
static bool
first_row(Oid relid, Oid index_relid, Snapshot snapshot, ScanKey keys,
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

	key_uuid(&key, Saga_id, id);
	if (!first_row(saga_oids_get()->saga, saga_oids_get()->saga_pkey,
				   GetActiveSnapshot(), &key, 1, values, nulls))
		return false;
	*owner = DatumGetObjectId(values[Saga_owner - 1]);
	*owner_name = DatumGetTextPP(values[Saga_owner_name - 1]);
	return true;
}

/*
 * The transaction that is writing a saga's row at this moment, for the same
 * functions; invalid if there is none.  That one of a row which moves meanwhile
 * is not seen does no harm: what they tell was true a moment ago.
 */
TransactionId
saga_ledger_writer_of(const pg_uuid_t *id)
{
	Relation	heap = table_open(saga_oids_get()->saga, AccessShareLock);
	Relation	index = index_open(saga_oids_get()->saga_pkey, AccessShareLock);
	ScanKeyData key;
	SagaTuple	version;

	key_uuid(&key, Saga_id, id);
	(void) saga_table_find(heap, index, &key, 1, BackwardScanDirection,
						   &version);
	index_close(index, NoLock);
	table_close(heap, NoLock);
	return version.writer;
}

/*
 * The first row of the due work after the one given, by lane, time and saga,
 * for the caller's snapshot; false if there is none.  "in_lane" keeps to the
 * lane of the one given: a look beyond its end would have to step over all
 * that is dead in the next.
 */
bool
saga_ledger_next_due(const SagaDue *after, bool in_lane, SagaDue *found)
{
	ScanKeyData members[3];
	ScanKeyData keys[2];
	int			nkeys = 0;
	Datum		values[Due_natts];
	bool		nulls[Due_natts];

	if (in_lane)
		ScanKeyInit(&keys[nkeys++], Due_lane, BTLessEqualStrategyNumber,
					F_OIDLE, ObjectIdGetDatum(after->lane));
	member_key(&members[0], Due_lane, BTGreaterStrategyNumber, F_BTOIDCMP,
			   ObjectIdGetDatum(after->lane), false);
	member_key(&members[1], Due_due, BTGreaterStrategyNumber,
			   F_TIMESTAMPTZ_CMP, TimestampTzGetDatum(after->due), false);
	member_key(&members[2], Due_saga, BTGreaterStrategyNumber, F_UUID_CMP,
			   UUIDPGetDatum(&after->saga), true);
	row_key(&keys[nkeys++], members, BTGreaterStrategyNumber);
	if (!first_row(saga_oids_get()->due, saga_oids_get()->due_pkey,
				   GetActiveSnapshot(), keys, nkeys, values, nulls))
		return false;
	found->lane = DatumGetObjectId(values[Due_lane - 1]);
	found->due = DatumGetTimestampTz(values[Due_due - 1]);
	found->saga = *DatumGetUUIDP(values[Due_saga - 1]);
	return true;
}

/* ------------------------------------------------------------------------
 * What waits for listeners
 * ------------------------------------------------------------------------ */

/*
 * The first rows of ledger_queue, in the order of its index, that fulfil the
 * keys; returns how many.
 */
static int
read_queue(Snapshot snapshot, ScanKey keys, int nkeys, SagaQueued *rows, int max)
{
	Relation	heap = table_open(saga_oids_get()->queue, AccessShareLock);
	Relation	index = index_open(saga_oids_get()->queue_pkey, AccessShareLock);
	SysScanDesc scan;
	HeapTuple	tuple;
	int			count = 0;

	scan = systable_beginscan_ordered(heap, index, snapshot, nkeys, keys);
	while (count < max &&
		   HeapTupleIsValid(tuple = systable_getnext_ordered(scan, ForwardScanDirection)))
	{
		SagaQueued *row = &rows[count++];
		Datum		values[Queue_natts];
		bool		nulls[Queue_natts];

		heap_deform_tuple(tuple, RelationGetDescr(heap), values, nulls);
		text_to_cstring_buffer(DatumGetTextPP(values[Queue_channel - 1]),
							   row->channel, sizeof(row->channel));
		row->owner = DatumGetObjectId(values[Queue_owner - 1]);
		row->since = DatumGetTimestampTz(values[Queue_since - 1]);
		row->saga = *DatumGetUUIDP(values[Queue_saga - 1]);
		row->seq = DatumGetInt64(values[Queue_seq - 1]);
	}
	systable_endscan_ordered(scan);
	index_close(index, NoLock);
	table_close(heap, NoLock);
	return count;
}

/*
 * The channel after the one that is named, on which something waits, or did
 * not long ago; false if there is none.  What is dead is not passed by, because
 * there may be any amount of it.
 */
bool
saga_ledger_next_channel(SagaQueued *queue)
{
	text	   *channel = cstring_to_text(queue->channel);
	ScanKeyData key;

	ScanKeyEntryInitialize(&key, 0, Queue_channel, BTGreaterStrategyNumber,
						   InvalidOid, C_COLLATION_OID, F_TEXT_GT,
						   PointerGetDatum(channel));
	return read_queue(SnapshotAny, &key, 1, queue, 1) > 0;
}

/*
 * Likewise the owner after the one that is named, on the same channel.
 *
 * An index scan reads whatever fulfils its keys on the whole page.  Where an
 * owner is known, only what comes before is asked for: mostly nothing.
 */
bool
saga_ledger_next_owner(SagaQueued *queue)
{
	text	   *channel = cstring_to_text(queue->channel);
	Oid			known = saga_queue_front_next_owner(queue);
	ScanKeyData keys[3];

	key_text(&keys[0], Queue_channel, channel);
	ScanKeyInit(&keys[1], Queue_owner, BTGreaterStrategyNumber, F_OIDGT,
				ObjectIdGetDatum(queue->owner));
	ScanKeyInit(&keys[2], Queue_owner, BTLessStrategyNumber, F_OIDLT,
				ObjectIdGetDatum(known));
	if (read_queue(SnapshotAny, keys, OidIsValid(known) ? 3 : 2, queue, 1) > 0)
		return true;
	queue->owner = known;
	return OidIsValid(known);
}

/* The first rows of the queue from its place on, or behind that. */
static int
read_from(const SagaQueued *queue, StrategyNumber strategy, Snapshot snapshot,
		  SagaQueued *rows, int max)
{
	text	   *channel = cstring_to_text(queue->channel);
	pg_uuid_t	saga = queue->saga;
	ScanKeyData members[2];
	ScanKeyData keys[3];

	key_text(&keys[0], Queue_channel, channel);
	ScanKeyInit(&keys[1], Queue_owner, BTEqualStrategyNumber, F_OIDEQ,
				ObjectIdGetDatum(queue->owner));
	member_key(&members[0], Queue_since, strategy, F_TIMESTAMPTZ_CMP,
			   TimestampTzGetDatum(queue->since), false);
	member_key(&members[1], Queue_saga, strategy, F_UUID_CMP,
			   UUIDPGetDatum(&saga), true);
	row_key(&keys[2], members, strategy);
	return read_queue(snapshot, keys, 3, rows, max);
}

/*
 * The first that wait in the queue of an owner on a channel, by time and saga;
 * returns how many.  "look" is from before the snapshot (queue_front.c).
 */
int
saga_ledger_first_queued(const SagaQueued *queue, uint64 look,
						 Snapshot snapshot, SagaQueued *rows, int max)
{
	SagaQueued	front = *queue;
	bool		whole = !saga_queue_front_get(&front);
	int			count = read_from(&front, BTGreaterEqualStrategyNumber,
								  snapshot, rows, max);

	SAGA_FAULT("ledger.before_front");
	if (count > 0 &&
		(whole || rows[0].since != front.since ||
		 memcmp(&rows[0].saga, &front.saga, sizeof(pg_uuid_t)) != 0))
		saga_queue_front_set(&rows[0], whole, look);
	return count;
}

/* The next ones behind one of them. */
int
saga_ledger_next_queued(const SagaQueued *after, Snapshot snapshot,
						SagaQueued *rows, int max)
{
	return read_from(after, BTGreaterStrategyNumber, snapshot, rows, max);
}

/* ------------------------------------------------------------------------
 * Steps
 * ------------------------------------------------------------------------ */

/*
 * Finds the newest run of a step.  Waits for whoever is inserting it at this
 * moment, and for whoever is changing it.  "sure": missing is the last word;
 * who would insert it need not pay for that.
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
	if (step_in_place(heap, id, key, step))
	{
		table_close(heap, NoLock);
		return SAGA_FOUND;
	}
	index = index_open(saga_oids_get()->step_pkey, AccessShareLock);
	key_uuid(&keys[0], 1, id);
	key_text(&keys[1], 2, key);
	for (;;)
	{
		found = sure ?
			saga_table_find_sure(heap, index, keys, 2, &version) :
			saga_table_find(heap, index, keys, 2, BackwardScanDirection,
							&version);
		if (!TransactionIdIsValid(version.writer))
			break;
		saga_table_wait(heap, version.writer);
	}
	if (found == SAGA_FOUND)
	{
		saga_rows_unpack_step(RelationGetDescr(heap), &version, step);
		saga_hints_note(&step_places, step_bits(id, key), version.tuple);
	}
	index_close(index, NoLock);
	table_close(heap, NoLock);
	return found;
}

static int
by_seq(const void *a, const void *b)
{
	int64		left = ((const SagaStep *) a)->seq;
	int64		right = ((const SagaStep *) b)->seq;

	return left < right ? -1 : left > right ? 1 : 0;
}

/* Every run of every step of a saga, in start order. */
void
saga_ledger_get_steps(const pg_uuid_t *id, SagaSteps *steps)
{
	Relation	heap;
	Relation	index;
	ScanKeyData key;
	SagaTuple  *found;

	heap = table_open(saga_oids_get()->step, RowExclusiveLock);
	index = index_open(saga_oids_get()->step_pkey, AccessShareLock);
	key_uuid(&key, 1, id);
	steps->count = saga_table_find_all(heap, index, &key, 1, false, &found);
	steps->frontier = steps->count;
	steps->step = palloc_extended(steps->count * sizeof(SagaStep),
								  MCXT_ALLOC_HUGE);
	steps->claimed = false;
	for (int i = 0; i < steps->count; i++)
	{
		saga_rows_unpack_step(RelationGetDescr(heap), &found[i],
							  &steps->step[i]);
		steps->claimed |= steps->step[i].claimed_at != 0;
	}
	pfree(found);
	qsort(steps->step, steps->count, sizeof(SagaStep), by_seq);
	index_close(index, NoLock);
	table_close(heap, NoLock);
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

	key_uuid(&key, 1, id);
	count = saga_table_find_all(heap, index, &key, 1, true, &found);
	for (int i = 0; i < count; i++)
	{
		bool		isnull;
		Datum		seq = heap_getattr(found[i].tuple, Step_seq,
									   RelationGetDescr(heap), &isnull);

		largest = Max(largest, DatumGetInt64(seq));
		heap_freetuple(found[i].tuple);
	}
	pfree(found);
	index_close(index, NoLock);
	table_close(heap, NoLock);
	return largest;
}

/*
 * Inserts a new run of a step.  Returns false if another session may have
 * inserted it: the caller looks again.
 */
bool
saga_ledger_insert_step(SagaStep *step)
{
	Relation	heap;
	Datum		values[Step_natts];
	bool		nulls[Step_natts];
	bool		inserted;

	step->stored_comp_status = 0;
	step->stored_queued = 0;
	saga_rows_pack_step(step, values, nulls);
	heap = table_open(saga_oids_get()->step, RowExclusiveLock);
	inserted = saga_table_insert(heap, values, nulls, saga_oids_get()->step_pkey,
								 NULL, &step->version.tuple);
	step->version.own = true;
	step->version.writer = InvalidTransactionId;
	step->stored_comp_status = step->comp_status;
	if (inserted)
		saga_hints_note(&step_places, step_bits(&step->saga, step->key),
						step->version.tuple);
	table_close(heap, NoLock);
	return inserted;
}

/*
 * Brings a step's row of ledger_queue in line with what its own row, just
 * written, says; as follow_due does.
 */
static void
follow_queue(const SagaRow *saga, SagaStep *step)
{
	TimestampTz queued = saga_rows_queued(step);
	Relation	heap;

	if (queued == step->stored_queued)
		return;
	heap = table_open(saga_oids_get()->queue, RowExclusiveLock);
	if (step->stored_queued != 0)
	{
		Relation	index = index_open(saga_oids_get()->queue_pkey, AccessShareLock);
		ScanKeyData keys[4];
		SagaTuple	version;

		key_text(&keys[0], Queue_channel, step->stored_channel);
		ScanKeyInit(&keys[1], Queue_owner, BTEqualStrategyNumber, F_OIDEQ,
					ObjectIdGetDatum(saga->owner));
		ScanKeyInit(&keys[2], Queue_since, BTEqualStrategyNumber,
					F_TIMESTAMPTZ_EQ, TimestampTzGetDatum(step->stored_queued));
		key_uuid(&keys[3], Queue_saga, &step->saga);
		if (saga_table_find(heap, index, keys, 4, ForwardScanDirection,
							&version) == SAGA_FOUND)
			saga_table_delete(heap, version.tuple, version.own);
		saga_queue_front_taken(step->stored_queued);
		index_close(index, NoLock);
	}
	if (queued != 0)
	{
		Datum		values[Queue_natts];
		bool		nulls[Queue_natts] = {false};

		values[Queue_channel - 1] = PointerGetDatum(step->channel);
		values[Queue_owner - 1] = ObjectIdGetDatum(saga->owner);
		values[Queue_since - 1] = TimestampTzGetDatum(queued);
		values[Queue_saga - 1] = UUIDPGetDatum(&step->saga);
		values[Queue_seq - 1] = Int64GetDatum(step->seq);
		saga_table_insert(heap, values, nulls, InvalidOid, NULL, NULL);
		saga_queue_front_queued(queued);
	}
	table_close(heap, NoLock);
	step->stored_queued = queued;
	step->stored_channel = step->channel;
}

/*
 * The started steps whose row this transaction has written without making their
 * attempt, so that a row of its own does not mean an attempt of its own.
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
	others->attempt = step->attempts;
	others_attempts = lappend(others_attempts, others);
	MemoryContextSwitchTo(caller);
}

/* Did this transaction make the attempt of a step that is started? */
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

		if (others->seq == step->seq && others->attempt == step->attempts &&
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
	Relation	heap;
	Datum		values[Step_natts];
	bool		nulls[Step_natts];
	bool		others = !step->version.own &&
		step->status == SAGA_STEP_STARTED &&
		step->attempts == step->stored_attempts;
	SagaWritten written;

	saga_rows_pack_step(step, values, nulls);
	heap = table_open(saga_oids_get()->step, RowExclusiveLock);
	written = saga_table_update(heap, step->version.tuple, step->version.own,
								values, nulls, saga_oids_get()->step_pkey,
								NULL, patience, &step->version.tuple);
	if (written == SAGA_WRITTEN)
	{
		step->version.own = true;
		step->version.writer = InvalidTransactionId;
		step->stored_comp_status = step->comp_status;
		saga_hints_note(&step_places, step_bits(&step->saga, step->key),
						step->version.tuple);
		if (others)
			note_others_attempt(step);
		step->stored_attempts = step->attempts;
		follow_queue(saga, step);
	}
	table_close(heap, NoLock);
	return written;
}

/* ------------------------------------------------------------------------
 * History
 * ------------------------------------------------------------------------ */

void
saga_ledger_insert_attempt(SagaAttempt *attempt)
{
	Relation	heap;
	Datum		values[Attempt_natts];
	bool		nulls[Attempt_natts];

	saga_rows_pack_attempt(attempt, values, nulls);
	heap = table_open(saga_oids_get()->attempt, RowExclusiveLock);
	saga_table_insert(heap, values, nulls, InvalidOid, NULL, NULL);
	table_close(heap, NoLock);
}

/* What events are about that are about no saga (any more). */
static const pg_uuid_t none;

/*
 * Writes down something that the rows themselves will not tell; id NULL: it is
 * not about a saga, seq 0: it is not about a step.
 */
void
saga_ledger_insert_event(const pg_uuid_t *id, const char *event, int64 seq,
						 Jsonb *detail, TimestampTz now)
{
	Relation	heap;
	Datum		values[Event_natts];
	bool		nulls[Event_natts] = {false};
	const char *actor = GetUserNameFromId(GetUserId(), true);

	values[Event_saga - 1] = UUIDPGetDatum(id ? id : &none);
	values[Event_at - 1] = TimestampTzGetDatum(now);
	values[Event_seq - 1] = Int64GetDatum(seq);
	nulls[Event_seq - 1] = (seq == 0);
	values[Event_event - 1] = CStringGetTextDatum(event);
	/* The role of an executor may have been dropped under it. */
	if (actor == NULL)
		actor = psprintf("%u", GetUserId());
	values[Event_actor - 1] = CStringGetTextDatum(actor);
	values[Event_detail - 1] = PointerGetDatum(detail);
	nulls[Event_detail - 1] = (detail == NULL);
	heap = table_open(saga_oids_get()->event, RowExclusiveLock);
	saga_table_insert(heap, values, nulls, InvalidOid, NULL, NULL);
	table_close(heap, NoLock);
}

/*
 * Deletes what was told of no saga before an instant, by a role or (NULL) by
 * anybody; but not what somebody else is deleting.
 */
void
saga_ledger_delete_events_of_none(TimestampTz before, const char *actor)
{
	Relation	heap = table_open(saga_oids_get()->event, RowExclusiveLock);
	Relation	index = index_open(saga_oids_get()->event_by_saga, AccessShareLock);
	ScanKeyData keys[2];
	SagaTuple  *found;
	int			count;

	key_uuid(&keys[0], 1, &none);
	ScanKeyInit(&keys[1], 2, BTLessStrategyNumber, F_TIMESTAMPTZ_LT,
				TimestampTzGetDatum(before));
	count = saga_table_find_all(heap, index, keys, 2, false, &found);
	for (int i = 0; i < count; i++)
	{
		Datum		values[Event_natts];
		bool		nulls[Event_natts];

		heap_deform_tuple(found[i].tuple, RelationGetDescr(heap), values, nulls);
		if (actor != NULL &&
			strcmp(actor, TextDatumGetCString(values[Event_actor - 1])) != 0)
			continue;
		if (saga_table_lock(heap, found[i].tuple, found[i].own,
							SAGA_NOWAIT) == SAGA_WRITTEN)
			saga_table_delete(heap, found[i].tuple, found[i].own);
	}
	index_close(index, NoLock);
	table_close(heap, NoLock);
}

/* The events that tell of a person's decision. */
static bool
is_decision(const char *event)
{
	static const char *const decisions[] = {
		"resolved", "abandoned", "reopened", "rolling back"
	};

	for (size_t i = 0; i < lengthof(decisions); i++)
		if (strcmp(event, decisions[i]) == 0)
			return true;
	return false;
}

/*
 * The last decision that a person took about a saga, or (seq other than 0)
 * about one of its steps.  False if there is none.
 */
bool
saga_ledger_last_decision(const pg_uuid_t *id, int64 seq, SagaEvent *found)
{
	Relation	heap = table_open(saga_oids_get()->event, AccessShareLock);
	Relation	index = index_open(saga_oids_get()->event_by_saga, AccessShareLock);
	Snapshot	snapshot = saga_table_snapshot();
	ScanKeyData key;
	SysScanDesc scan;
	HeapTuple	tuple;
	bool		any = false;

	key_uuid(&key, 1, id);
	scan = systable_beginscan_ordered(heap, index, snapshot, 1, &key);
	while (!any &&
		   HeapTupleIsValid(tuple = systable_getnext_ordered(scan, BackwardScanDirection)))
	{
		Datum		values[Event_natts];
		bool		nulls[Event_natts];

		heap_deform_tuple(tuple, RelationGetDescr(heap), values, nulls);
		found->event = TextDatumGetCString(values[Event_event - 1]);
		if (!is_decision(found->event) ||
			(seq != 0 && (nulls[Event_seq - 1] ||
						  DatumGetInt64(values[Event_seq - 1]) != seq)))
			continue;
		found->actor = TextDatumGetCString(values[Event_actor - 1]);
		found->at = DatumGetTimestampTz(values[Event_at - 1]);
		found->detail = nulls[Event_detail - 1] ? NULL :
			DatumGetCString(DirectFunctionCall1(jsonb_out,
												values[Event_detail - 1]));
		any = true;
	}
	systable_endscan_ordered(scan);
	UnregisterSnapshot(snapshot);
	index_close(index, NoLock);
	table_close(heap, NoLock);
	return any;
}

/* Has something happened to a step, of what is written down as events? */
bool
saga_ledger_has_event(const pg_uuid_t *id, int64 seq, const char *event)
{
	Relation	heap = table_open(saga_oids_get()->event, AccessShareLock);
	Relation	index = index_open(saga_oids_get()->event_by_saga, AccessShareLock);
	ScanKeyData key;
	SagaTuple  *found;
	int			count;
	bool		any = false;

	key_uuid(&key, 1, id);
	count = saga_table_find_all(heap, index, &key, 1, false, &found);
	for (int i = 0; i < count && !any; i++)
	{
		Datum		values[Event_natts];
		bool		nulls[Event_natts];

		heap_deform_tuple(found[i].tuple, RelationGetDescr(heap), values, nulls);
		any = !nulls[Event_seq - 1] &&
			DatumGetInt64(values[Event_seq - 1]) == seq &&
			strcmp(TextDatumGetCString(values[Event_event - 1]), event) == 0;
	}
	index_close(index, NoLock);
	table_close(heap, NoLock);
	return any;
}

/* ------------------------------------------------------------------------
 * Counting
 * ------------------------------------------------------------------------ */

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

/*
 * How many steps a saga has, if not more than a limit; with those that others
 * are recording.  Of one that somebody is changing there are two versions, side
 * by side.
 */
int
saga_ledger_count_steps(const pg_uuid_t *id, int limit)
{
	Relation	heap = table_open(saga_oids_get()->step, RowExclusiveLock);
	Relation	index = index_open(saga_oids_get()->step_pkey, AccessShareLock);
	SnapshotData dirty;
	ScanKeyData key;
	SysScanDesc scan;
	HeapTuple	tuple;
	int64		last = 0;
	int			count = 0;

	InitDirtySnapshot(dirty);
	key_uuid(&key, 1, id);
	scan = systable_beginscan_ordered(heap, index, &dirty, 1, &key);
	while (count < limit &&
		   HeapTupleIsValid(tuple = systable_getnext_ordered(scan, ForwardScanDirection)))
	{
		bool		isnull;
		int64		seq = DatumGetInt64(heap_getattr(tuple, Step_seq,
													 RelationGetDescr(heap),
													 &isnull));

		if (seq != last)
			count++;
		last = seq;
	}
	systable_endscan_ordered(scan);
	index_close(index, NoLock);
	table_close(heap, NoLock);
	return count;
}

/* ------------------------------------------------------------------------
 * Forgetting
 * ------------------------------------------------------------------------ */

/*
 * The first saga behind an id, in the order of ids, that a snapshot sees.
 * False if there is none.
 */
bool
saga_ledger_next_saga(const pg_uuid_t *after, Snapshot snapshot, SagaRow *row)
{
	Relation	heap = table_open(saga_oids_get()->saga, RowExclusiveLock);
	Relation	index = index_open(saga_oids_get()->saga_pkey, AccessShareLock);
	ScanKeyData key;
	SysScanDesc scan;
	HeapTuple	tuple;

	ScanKeyInit(&key, 1, BTGreaterStrategyNumber, F_UUID_GT,
				UUIDPGetDatum(after));
	scan = systable_beginscan_ordered(heap, index, snapshot, 1, &key);
	tuple = systable_getnext_ordered(scan, ForwardScanDirection);
	if (HeapTupleIsValid(tuple))
	{
		SagaTuple	version;

		version.tuple = heap_copytuple(tuple);
		version.own = false;
		version.writer = InvalidTransactionId;
		saga_rows_unpack_saga(RelationGetDescr(heap), &version, row);
	}
	systable_endscan_ordered(scan);
	index_close(index, NoLock);
	table_close(heap, NoLock);
	return HeapTupleIsValid(tuple);
}

/* Deletes what an index of a table knows of a saga. */
static void
delete_rows(Oid relid, Oid index_relid, const pg_uuid_t *id)
{
	Relation	heap = table_open(relid, RowExclusiveLock);
	Relation	index = index_open(index_relid, AccessShareLock);
	ScanKeyData key;
	SagaTuple  *found;
	int			count;

	key_uuid(&key, 1, id);
	count = saga_table_find_all(heap, index, &key, 1, false, &found);
	for (int i = 0; i < count; i++)
		saga_table_delete(heap, found[i].tuple, found[i].own);
	index_close(index, NoLock);
	table_close(heap, NoLock);
}

/*
 * Deletes a saga that is at rest, and all that is known of it.  Its row comes
 * first: whoever has that, nobody else writes the others.
 */
SagaWritten
saga_ledger_delete_saga(SagaRow *row, SagaPatience patience)
{
	Relation	heap = table_open(saga_oids_get()->saga, RowExclusiveLock);
	SagaWritten written;

	Assert(row->due == 0);
	written = saga_table_lock(heap, row->version.tuple, row->version.own,
							  patience);
	if (written == SAGA_WRITTEN)
	{
		saga_table_delete(heap, row->version.tuple, row->version.own);
		delete_rows(saga_oids_get()->step, saga_oids_get()->step_pkey,
					&row->id);
		delete_rows(saga_oids_get()->attempt, saga_oids_get()->attempt_pkey,
					&row->id);
		delete_rows(saga_oids_get()->event, saga_oids_get()->event_by_saga,
					&row->id);
	}
	table_close(heap, NoLock);
	return written;
}

/*
 * Sets a column of those rows of a table about a saga that are chosen to NULL;
 * "chosen" is asked with the values of each.
 */
static void
forget_column(Oid relid, Oid index_relid, const pg_uuid_t *id, int natts,
			  int att, bool (*chosen) (const Datum *values))
{
	Relation	heap = table_open(relid, RowExclusiveLock);
	Relation	index = index_open(index_relid, AccessShareLock);
	Datum	   *values = palloc(natts * sizeof(Datum));
	bool	   *nulls = palloc(natts * sizeof(bool));
	ScanKeyData key;
	SagaTuple  *found;
	int			count;

	key_uuid(&key, 1, id);
	count = saga_table_find_all(heap, index, &key, 1, false, &found);
	for (int i = 0; i < count; i++)
	{
		HeapTuple	stored;

		heap_deform_tuple(found[i].tuple, RelationGetDescr(heap), values,
						  nulls);
		if (nulls[att - 1] || !chosen(values))
			continue;
		nulls[att - 1] = true;
		if (saga_table_update(heap, found[i].tuple, found[i].own, values,
							  nulls, InvalidOid, NULL, SAGA_WAIT,
							  &stored) != SAGA_WRITTEN)
			elog(ERROR, "a row of the history changed without its saga");
	}
	index_close(index, NoLock);
	table_close(heap, NoLock);
}

static bool
is_any(const Datum *values)
{
	return true;
}

static bool
is_parked(const Datum *values)
{
	return strcmp(TextDatumGetCString(values[Event_event - 1]), "parked") == 0;
}

/*
 * Forgets what the errors of a saga's attempts say, which may quote anything,
 * also where they tell why it was parked.
 */
void
saga_ledger_forget_errors(const pg_uuid_t *id)
{
	forget_column(saga_oids_get()->attempt, saga_oids_get()->attempt_pkey, id,
				  Attempt_natts, Attempt_error, is_any);
	forget_column(saga_oids_get()->event, saga_oids_get()->event_by_saga, id,
				  Event_natts, Event_detail, is_parked);
}
