/*-------------------------------------------------------------------------
 *
 * queue.c
 *	  What waits for services.
 *
 * ledger_queue has a row for each step whose task, or whose compensation, waits for
 * a service to claim it.  It repeats what the step's row says: a transaction that
 * replaces that row brings the queue in line, in the same transaction.  There is a
 * queue for each owner, channel and phase; queue_front.c remembers where it begins.
 *
 * A compensation is queued when it is dispatched.  A task is queued for the time
 * at which it may begin, which may lie in the future: then no write is needed when
 * that time comes.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/genam.h"
#include "access/htup_details.h"
#include "access/table.h"
#include "base/fault.h"
#include "base/ids.h"
#include "catalog/pg_collation_d.h"
#include "ledger/keys.h"
#include "ledger/ledger.h"
#include "ledger/oids.h"
#include "shared/queue_front.h"
#include "shared/stat.h"
#include "utils/builtins.h"
#include "utils/fmgroids.h"
#include "utils/rel.h"
#include "utils/snapmgr.h"
#include "utils/timestamp.h"

/* The keys for one queue */
static void
init_keys(ScanKey keys, text *channel, SagaPhase phase, Oid owner,
		  StrategyNumber owners)
{
	saga_keys_text(&keys[0], Queue_channel, channel);
	ScanKeyInit(&keys[1], Queue_phase, BTEqualStrategyNumber, F_CHAREQ,
				CharGetDatum((char) phase));
	ScanKeyInit(&keys[2], Queue_owner, owners,
				owners == BTEqualStrategyNumber ? F_OIDEQ : F_OIDGT,
				ObjectIdGetDatum(owner));
}

/*
 * Brings a step's row of ledger_queue in line with what its own row, just
 * written, says; as saga_ledger_follow_step does.
 */
void
saga_ledger_follow_queue(const SagaRow *saga, SagaStep *step)
{
	SagaPhase	phase;
	TimestampTz queued = saga_rows_queued(step, &phase);
	Relation	heap;

	if (queued == step->stored_queued && phase == step->stored_queue_phase)
		return;
	if (queued == 0 && step->stored_queued == 0)
		return;
	heap = table_open(saga_oids_get()->queue, RowExclusiveLock);
	if (step->stored_queued != 0)
	{
		Relation	index = index_open(saga_oids_get()->queue_pkey, AccessShareLock);
		ScanKeyData keys[6];
		SagaTuple	version;

		init_keys(keys, step->stored_channel, step->stored_queue_phase,
				  saga->owner, BTEqualStrategyNumber);
		ScanKeyInit(&keys[3], Queue_since, BTEqualStrategyNumber,
					F_TIMESTAMPTZ_EQ, TimestampTzGetDatum(step->stored_queued));
		saga_keys_uuid(&keys[4], Queue_saga, &step->saga);
		ScanKeyInit(&keys[5], Queue_seq, BTEqualStrategyNumber, F_INT8EQ,
					Int64GetDatum(step->seq));
		if (saga_table_find(heap, index, keys, 6, ForwardScanDirection,
							&version) == SAGA_FOUND)
			saga_table_delete(heap, &version);
		saga_queue_front_taken(step->stored_queued);
		index_close(index, NoLock);
	}
	if (queued != 0)
	{
		Datum		values[Queue_natts];
		bool		nulls[Queue_natts] = {false};

		values[Queue_channel - 1] = PointerGetDatum(saga_rows_channel(step, phase));
		values[Queue_phase - 1] = CharGetDatum((char) phase);
		values[Queue_owner - 1] = ObjectIdGetDatum(saga->owner);
		values[Queue_since - 1] = TimestampTzGetDatum(queued);
		values[Queue_saga - 1] = UUIDPGetDatum(&step->saga);
		values[Queue_seq - 1] = Int64GetDatum(step->seq);
		values[Queue_run - 1] = Int32GetDatum(step->run);
		values[Queue_key - 1] = PointerGetDatum(step->key);
		saga_table_insert(heap, NULL, values, nulls, InvalidOid, NULL, NULL);
		saga_queue_front_queued(queued);
		saga_stat_channel(saga->owner, saga_rows_channel(step, phase),
						  SAGA_STAT_DISPATCHED);
	}
	table_close(heap, NoLock);
	step->stored_queued = queued;
	step->stored_queue_phase = phase;
	step->stored_channel = saga_rows_channel(step, phase);
}

/*
 * Reads the first rows of ledger_queue, in the order of its index, that match the
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
		row->phase = (SagaPhase) DatumGetChar(values[Queue_phase - 1]);
		row->owner = DatumGetObjectId(values[Queue_owner - 1]);
		row->since = DatumGetTimestampTz(values[Queue_since - 1]);
		row->saga = *DatumGetUUIDP(values[Queue_saga - 1]);
		row->seq = DatumGetInt64(values[Queue_seq - 1]);
		row->run = DatumGetInt32(values[Queue_run - 1]);
		row->key = DatumGetTextPCopy(values[Queue_key - 1]);
	}
	systable_endscan_ordered(scan);
	index_close(index, NoLock);
	table_close(heap, NoLock);
	return count;
}

/*
 * The next channel after the one named, on which something waits, or did not long
 * ago; false if there is none.  Dead rows are not skipped, because there may be any
 * number of them.
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
 * Likewise the next owner after the one named, on the same channel, in the same
 * phase.
 *
 * An index scan reads whatever matches its keys on the whole page.  Where an
 * owner is known, only what comes before is asked for: mostly nothing.
 */
bool
saga_ledger_next_owner(SagaQueued *queue)
{
	text	   *channel = cstring_to_text(queue->channel);
	Oid			known = saga_queue_front_next_owner(queue);
	ScanKeyData keys[4];

	init_keys(keys, channel, queue->phase, queue->owner,
			  BTGreaterStrategyNumber);
	ScanKeyInit(&keys[3], Queue_owner, BTLessStrategyNumber, F_OIDLT,
				ObjectIdGetDatum(known));
	if (read_queue(SnapshotAny, keys, OidIsValid(known) ? 4 : 3, queue, 1) > 0)
		return true;
	queue->owner = known;
	return OidIsValid(known);
}

/* The first rows of the queue at or after a position. */
static int
read_from(const SagaQueued *queue, StrategyNumber strategy, Snapshot snapshot,
		  SagaQueued *rows, int max)
{
	text	   *channel = cstring_to_text(queue->channel);
	pg_uuid_t	saga = queue->saga;
	ScanKeyData members[3];
	ScanKeyData keys[4];

	init_keys(keys, channel, queue->phase, queue->owner,
			  BTEqualStrategyNumber);
	saga_keys_member(&members[0], Queue_since, strategy, F_TIMESTAMPTZ_CMP,
					 TimestampTzGetDatum(queue->since), false);
	saga_keys_member(&members[1], Queue_saga, strategy, F_UUID_CMP,
					 UUIDPGetDatum(&saga), false);
	saga_keys_member(&members[2], Queue_seq, strategy, F_BTINT8CMP,
					 Int64GetDatum(queue->seq), true);
	saga_keys_row(&keys[3], members, strategy);
	return read_queue(snapshot, keys, 4, rows, max);
}

/*
 * The first that wait in the queue of an owner on a channel, by time, saga and
 * step; returns how many.  "look" is from before the snapshot (queue_front.c).
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
		 !saga_ids_equal(&rows[0].saga, &front.saga) ||
		 rows[0].seq != front.seq))
		saga_queue_front_set(&rows[0], whole, look);
	return count;
}

/* The rows that follow one of them. */
int
saga_ledger_next_queued(const SagaQueued *after, Snapshot snapshot,
						SagaQueued *rows, int max)
{
	return read_from(after, BTGreaterStrategyNumber, snapshot, rows, max);
}
