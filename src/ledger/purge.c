/*-------------------------------------------------------------------------
 *
 * purge.c
 *	  Deleting finished sagas.
 *
 * Sagas are looked at in the order of their ids, which is that of time: so
 * what is purged lies together, whole pages become empty, and what is recorded
 * next fills them one after the other.  (Rows that went into the gaps between
 * older ones would touch a page each; VACUUM offers such gaps.)  The order also
 * bounds the scan: a saga that began after the limit cannot have finished
 * before it.
 *
 * An event of its own, which is about no saga, records how many were deleted,
 * when and by which role.  A later purge whose limit is after such an event deletes
 * it, in turn, so that they do not pile up.
 *
 * Only sagas at rest are deleted: completed, compensated or abandoned, and with
 * nothing due, so that a saga whose step a listener still holds is kept.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/genam.h"
#include "access/table.h"
#include "base/clock.h"
#include "base/fault.h"
#include "base/json.h"
#include "base/rights.h"
#include "ledger/keys.h"
#include "ledger/oids.h"
#include "ledger/purge.h"
#include "miscadmin.h"
#include "shared/failing.h"
#include "utils/fmgroids.h"
#include "utils/memutils.h"
#include "utils/snapmgr.h"

/*
 * The first saga after an id, in the order of ids, that a snapshot sees.
 * False if there is none.
 */
static bool
next_saga(const pg_uuid_t *after, Snapshot snapshot, SagaRow *row)
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
		saga_rows_unpack_seen(RelationGetDescr(heap), tuple, row);
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

	saga_keys_uuid(&key, 1, id);
	count = saga_table_find_all(heap, index, &key, 1, false, &found);
	for (int i = 0; i < count; i++)
		saga_table_delete(heap, &found[i]);
	index_close(index, NoLock);
	table_close(heap, NoLock);
}

/* Deletes what ledger_due and ledger_held have of steps that saga never began. */
static void
forget_steps(const pg_uuid_t *id)
{
	SagaSteps	steps;

	saga_ledger_get_steps(id, &steps);
	for (int i = 0; i < steps.count; i++)
		if (saga_rows_is_run(&steps.step[i]))
			saga_ledger_forget_step(&steps.step[i]);
}

/*
 * Deletes a saga that is at rest, and all that is known of it.  Its row comes
 * first: while we hold that, no other transaction writes the rest.
 */
static SagaWritten
delete_saga(SagaRow *row, SagaPatience patience)
{
	Relation	heap = table_open(saga_oids_get()->saga, RowExclusiveLock);
	SagaWritten written;

	Assert(row->due == 0);
	SAGA_POISON(row->name);
	written = saga_table_lock(heap, &row->version, patience);
	if (written == SAGA_WRITTEN)
	{
		saga_table_delete(heap, &row->version);
		if (row->runs != SAGA_RUNS_NONE)
			forget_steps(&row->id);
		delete_rows(saga_oids_get()->step, saga_oids_get()->step_pkey,
					&row->id);
		delete_rows(saga_oids_get()->attempt, saga_oids_get()->attempt_pkey,
					&row->id);
		delete_rows(saga_oids_get()->event, saga_oids_get()->event_by_saga,
					&row->id);
		delete_rows(saga_oids_get()->signal, saga_oids_get()->signal_pkey,
					&row->id);
	}
	table_close(heap, NoLock);
	return written;
}

/*
 * Deletes what was sent to a saga in a transaction that was open while the saga
 * was purged: sending a signal locks nothing.
 */
void
saga_purge_late(const pg_uuid_t *id)
{
	delete_rows(saga_oids_get()->signal, saga_oids_get()->signal_pkey, id);
	delete_rows(saga_oids_get()->event, saga_oids_get()->event_by_saga, id);
}

/* May this saga go, by its state and age? */
static bool
is_over(const SagaRow *saga, TimestampTz limit)
{
	return saga_state_is_final(saga->state) && saga->finished_at < limit &&
		saga->due == 0 && saga->to_announce == NULL;
}

/* Records the purge as an event, and deletes older events of that kind. */
static void
record_purge(int64 purged, TimestampTz limit, bool all)
{
	SagaJson	json;

	saga_ledger_delete_events_of_none(limit, all ? NULL :
									  saga_rights_role_name(GetUserId()));
	saga_json_begin(&json);
	saga_json_int(&json, "sagas", purged);
	saga_ledger_insert_event(NULL, "purged", 0,
							 saga_json_end(&json), saga_clock_now());
}

/* Purges the next sagas after the position.  Returns how many. */
int64
saga_purge(SagaPurge *purge)
{
	MemoryContext context = AllocSetContextCreate(CurrentMemoryContext,
												  "saga purge",
												  ALLOCSET_DEFAULT_SIZES);
	MemoryContext caller = MemoryContextSwitchTo(context);
	Snapshot	snapshot = saga_table_snapshot();
	int64		looks = 0;
	int64		purged = 0;

	purge->done = false;
	while (looks++ < purge->max_looks && purged < purge->max_sagas)
	{
		SagaRow		saga;
		TimestampTz again;

		CHECK_FOR_INTERRUPTS();
		MemoryContextReset(context);
		if (!next_saga(&purge->position, snapshot, &saga) ||
			saga.started_at >= purge->limit)
		{
			purge->done = true;
			break;
		}
		purge->position = saga.id;
		if (!is_over(&saga, purge->limit) ||
			(!purge->all && !saga_rights_may_call(saga.owner, saga.owner_name)))
			continue;
		if (purge->worker &&
			saga_failing_waits(&saga.id, SAGA_FAILING_PURGE, saga_clock_now(), &again))
			continue;
		purge->in_hand = true;
		/* As it is now; a late result may have opened it again. */
		if (saga_ledger_get_saga(&purge->position, &saga) != SAGA_FOUND ||
			saga_ledger_reread_saga(&saga, purge->patience) != SAGA_FOUND ||
			!is_over(&saga, purge->limit))
		{
			purge->in_hand = false;
			continue;
		}
		if (delete_saga(&saga, purge->patience) == SAGA_WRITTEN)
			purged++;
		purge->in_hand = false;
		if (purge->worker)
			saga_failing_over(&purge->position, SAGA_FAILING_PURGE);
	}
	if (purged > 0)
		record_purge(purged, purge->limit, purge->all);
	UnregisterSnapshot(snapshot);
	MemoryContextSwitchTo(caller);
	MemoryContextDelete(context);
	return purged;
}
