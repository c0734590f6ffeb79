/*-------------------------------------------------------------------------
 *
 * due.c
 *	  When each saga must be looked at next, and by whom.
 *
 * What is due, or held, is written on the saga's row.  Two tables repeat it,
 * so that it is found without reading every saga: ledger_due has a row per
 * saga of which something is due, ledger_held one per saga that a person
 * holds.  A transaction that replaces the saga's row brings them in line, in
 * the same transaction.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/genam.h"
#include "access/table.h"
#include "ledger/keys.h"
#include "ledger/ledger.h"
#include "ledger/oids.h"
#include "shared/wakeup.h"
#include "utils/fmgroids.h"
#include "utils/snapmgr.h"
#include "utils/timestamp.h"

/*
 * Brings a saga's row of ledger_due in line with what its own row, just
 * written, says.  "failed": the saga was running, and is to be undone now.
 *
 * At most one row of ledger_due belongs to a saga, and it is replaced only
 * together with the saga's row; so it is simply there, and nobody is writing
 * it.
 */
void
saga_ledger_follow_due(SagaRow *row, bool failed)
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
		saga_keys_uuid(&keys[2], Due_saga, &row->id);
		if (saga_table_find(heap, index, keys, 3, ForwardScanDirection,
							&version) == SAGA_FOUND)
			saga_table_delete(heap, &version);
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
void
saga_ledger_follow_held(SagaRow *row)
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

		saga_keys_uuid(&key, Held_saga, &row->id);
		if (saga_table_find(heap, index, &key, 1, ForwardScanDirection,
							&version) == SAGA_FOUND)
			saga_table_delete(heap, &version);
		index_close(index, NoLock);
	}
	table_close(heap, NoLock);
	row->stored_held = held;
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
	saga_keys_member(&members[0], Due_lane, BTGreaterStrategyNumber, F_BTOIDCMP,
					 ObjectIdGetDatum(after->lane), false);
	saga_keys_member(&members[1], Due_due, BTGreaterStrategyNumber,
					 F_TIMESTAMPTZ_CMP, TimestampTzGetDatum(after->due), false);
	saga_keys_member(&members[2], Due_saga, BTGreaterStrategyNumber, F_UUID_CMP,
					 UUIDPGetDatum(&after->saga), true);
	saga_keys_row(&keys[nkeys++], members, BTGreaterStrategyNumber);
	if (!saga_table_first(saga_oids_get()->due, saga_oids_get()->due_pkey,
						  GetActiveSnapshot(), keys, nkeys, values, nulls))
		return false;
	found->lane = DatumGetObjectId(values[Due_lane - 1]);
	found->due = DatumGetTimestampTz(values[Due_due - 1]);
	found->saga = *DatumGetUUIDP(values[Due_saga - 1]);
	return true;
}
