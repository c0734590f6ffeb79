/*-------------------------------------------------------------------------
 *
 * due.c
 *	  What is due of sagas and steps, when, and for which process.
 *
 * What is due, or waits for a person, follows from the rows of sagas and steps.  Two
 * tables repeat it, so that it is found without reading every saga: ledger_due and
 * ledger_held.  A transaction that replaces a saga's or a step's row brings them in
 * line, in the same transaction.
 *
 * In ledger_due, a saga has at most one row of its own (seq 0), in the lane of a role
 * or in the worker's.  A step that saga runs has a row in the lane of its role when
 * its action is due, and rows in the worker's lane for the time at which its gate
 * opens or its claim ends, and for the end of its timeout.  A row that asks for a look
 * belongs to no other row: whoever looks deletes it.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/genam.h"
#include "access/htup_details.h"
#include "access/table.h"
#include "base/clock.h"
#include "ledger/keys.h"
#include "ledger/ledger.h"
#include "ledger/oids.h"
#include "shared/wakeup.h"
#include "utils/fmgroids.h"
#include "utils/rel.h"
#include "utils/snapmgr.h"
#include "utils/timestamp.h"

/* Finds a row by its whole key: the newest that is committed, or an own one. */
static SagaFound
find_row(Relation heap, Oid lane, TimestampTz due, const pg_uuid_t *id,
		 int64 seq, SagaTuple *version)
{
	Relation	index = index_open(saga_oids_get()->due_pkey, AccessShareLock);
	ScanKeyData keys[4];
	SagaFound	found;

	ScanKeyInit(&keys[0], Due_lane, BTEqualStrategyNumber, F_OIDEQ,
				ObjectIdGetDatum(lane));
	ScanKeyInit(&keys[1], Due_due, BTEqualStrategyNumber, F_TIMESTAMPTZ_EQ,
				TimestampTzGetDatum(due));
	saga_keys_uuid(&keys[2], Due_saga, id);
	ScanKeyInit(&keys[3], Due_seq, BTEqualStrategyNumber, F_INT8EQ,
				Int64GetDatum(seq));
	found = saga_table_find(heap, index, keys, 4, ForwardScanDirection,
							version);
	index_close(index, NoLock);
	return found;
}

static void
insert_row(Relation heap, Oid lane, TimestampTz due, const pg_uuid_t *id,
		   int64 seq, int run, text *key)
{
	Datum		values[Due_natts];
	bool		nulls[Due_natts] = {false};

	values[Due_lane - 1] = ObjectIdGetDatum(lane);
	values[Due_due - 1] = TimestampTzGetDatum(due);
	values[Due_saga - 1] = UUIDPGetDatum(id);
	values[Due_seq - 1] = Int64GetDatum(seq);
	values[Due_run - 1] = Int32GetDatum(run);
	nulls[Due_run - 1] = key == NULL;
	values[Due_key - 1] = PointerGetDatum(key);
	nulls[Due_key - 1] = key == NULL;
	saga_table_insert(heap, NULL, values, nulls, InvalidOid, NULL, NULL);
}

/* Takes a row apart; its key is copied into the current memory context. */
static void
unpack_row(Datum *values, bool *nulls, SagaDue *row)
{
	row->lane = DatumGetObjectId(values[Due_lane - 1]);
	row->due = DatumGetTimestampTz(values[Due_due - 1]);
	row->saga = *DatumGetUUIDP(values[Due_saga - 1]);
	row->seq = DatumGetInt64(values[Due_seq - 1]);
	row->run = nulls[Due_run - 1] ? 0 : DatumGetInt32(values[Due_run - 1]);
	row->key = nulls[Due_key - 1] ? NULL :
		DatumGetTextPCopy(values[Due_key - 1]);
}

/*
 * A row by its whole key; SAGA_BUSY when another transaction is inserting it.
 * One that another transaction is deleting is still there.
 */
SagaFound
saga_ledger_find_due(Oid lane, TimestampTz due, const pg_uuid_t *id,
					 int64 seq, SagaDue *found)
{
	Relation	heap = table_open(saga_oids_get()->due, RowExclusiveLock);
	SagaTuple	version;
	SagaFound	result = find_row(heap, lane, due, id, seq, &version);

	if (result == SAGA_FOUND)
	{
		Datum		values[Due_natts];
		bool		nulls[Due_natts];

		heap_deform_tuple(version.tuple, RelationGetDescr(heap), values,
						  nulls);
		unpack_row(values, nulls, found);
	}
	table_close(heap, NoLock);
	return result;
}

/*
 * Asks for a look at a saga.  "seq": that of the step that changed, negated; or
 * PG_INT64_MIN: any of them may have.  A caller that does not look itself also wakes
 * the worker (wakeup.c).
 */
void
saga_ledger_insert_look(const pg_uuid_t *id, int64 seq, TimestampTz due)
{
	Relation	heap = table_open(saga_oids_get()->due, RowExclusiveLock);

	Assert(seq < 0);
	insert_row(heap, InvalidOid, due, id, seq, 0, NULL);
	table_close(heap, NoLock);
}

/*
 * Deletes a row, found by its whole key.  False if it is not there, or if
 * another transaction is deleting it, for which this does not wait.
 */
bool
saga_ledger_delete_due(const SagaDue *row)
{
	Relation	heap = table_open(saga_oids_get()->due, RowExclusiveLock);
	SagaTuple	version;
	bool		deleted;

	deleted = find_row(heap, row->lane, row->due, &row->saga, row->seq,
					   &version) == SAGA_FOUND &&
		saga_table_try_delete(heap, &version) == SAGA_WRITTEN;
	table_close(heap, NoLock);
	return deleted;
}

/*
 * Replaces a saga's own row of ledger_due, if that is to be another.
 *
 * At most one row of ledger_due is a saga's own, and it is replaced only
 * together with the saga's row; so it is simply there, and nobody is writing
 * it.
 */
static void
follow_due(SagaRow *row, bool failed)
{
	Relation	heap;

	if (row->due == row->stored_due && row->lane == row->stored_lane)
		return;
	if (failed && OidIsValid(row->lane))
	{
		SagaTicket	ticket = {row->id, 0, row->due};

		saga_wakeup_hand_over(&ticket, row->lane);
	}
	else if (row->due != 0)
		saga_wakeup_due(row->due);

	heap = table_open(saga_oids_get()->due, RowExclusiveLock);
	if (row->stored_due != 0)
	{
		SagaTuple	version;

		if (find_row(heap, row->stored_lane, row->stored_due, &row->id, 0,
					 &version) == SAGA_FOUND)
			saga_table_delete(heap, &version);
	}
	if (row->due != 0)
		insert_row(heap, row->lane, row->due, &row->id, 0, 0, NULL);
	table_close(heap, NoLock);
	row->stored_due = row->due;
	row->stored_lane = row->lane;
}

/* A due time of a step's in a lane was "before", and is "due"; 0: none. */
static void
move_row(const SagaStep *step, Oid lane, TimestampTz before, TimestampTz due)
{
	Relation	heap;
	SagaTuple	version;

	if (before == due)
		return;
	heap = table_open(saga_oids_get()->due, RowExclusiveLock);
	/* A look, or a process that came to it in vain, may have deleted it. */
	if (before != 0 &&
		find_row(heap, lane, before, &step->saga, step->seq,
				 &version) == SAGA_FOUND)
		(void) saga_table_try_delete(heap, &version);
	if (due != 0)
	{
		insert_row(heap, lane, due, &step->saga, step->seq, step->run, step->key);
		if (!step->kept && OidIsValid(lane) && due <= saga_clock_now())
		{
			SagaTicket	ticket = {step->saga, step->seq, due};

			saga_wakeup_hand_over(&ticket, lane);
		}
		else if (!step->kept || !OidIsValid(lane))
			saga_wakeup_due(due);
	}
	table_close(heap, NoLock);
}

/*
 * Inserts or deletes the row of ledger_held of a step, or (seq 0) of a saga, which is
 * there while that waits for a person.
 */
static void
set_held(const pg_uuid_t *id, int64 seq, bool held)
{
	Relation	heap = table_open(saga_oids_get()->held, RowExclusiveLock);

	if (held)
	{
		Datum		values[Held_natts];
		bool		nulls[Held_natts] = {false};

		values[Held_saga - 1] = UUIDPGetDatum(id);
		values[Held_seq - 1] = Int64GetDatum(seq);
		saga_table_insert(heap, NULL, values, nulls, InvalidOid, NULL, NULL);
	}
	else
	{
		Relation	index = index_open(saga_oids_get()->held_pkey, AccessShareLock);
		ScanKeyData keys[2];
		SagaTuple	version;

		saga_keys_uuid(&keys[0], Held_saga, id);
		ScanKeyInit(&keys[1], Held_seq, BTEqualStrategyNumber, F_INT8EQ,
					Int64GetDatum(seq));
		if (saga_table_find(heap, index, keys, 2, ForwardScanDirection,
							&version) == SAGA_FOUND)
			saga_table_delete(heap, &version);
		index_close(index, NoLock);
	}
	table_close(heap, NoLock);
}

/*
 * Brings the rows of a step that saga runs in line with its own row, just
 * written.
 */
void
saga_ledger_follow_step(SagaStep *step)
{
	TimestampTz work_due = saga_rows_work_due(step);
	TimestampTz gate_due = saga_rows_gate_due(step);
	TimestampTz timeout_at = saga_rows_timeout_at(step);
	bool		held = saga_rows_step_held(step);

	move_row(step, step->run_as, step->stored_work_due, work_due);
	move_row(step, InvalidOid, step->stored_gate_due, gate_due);
	move_row(step, InvalidOid, step->stored_timeout_at, timeout_at);
	if (held != step->stored_held)
		set_held(&step->saga, step->seq, held);
	step->stored_work_due = work_due;
	step->stored_gate_due = gate_due;
	step->stored_timeout_at = timeout_at;
	step->stored_held = held;
}

/* The step's row is about to be deleted. */
void
saga_ledger_forget_step(const SagaStep *step)
{
	move_row(step, step->run_as, step->stored_work_due, 0);
	move_row(step, InvalidOid, step->stored_gate_due, 0);
	move_row(step, InvalidOid, step->stored_timeout_at, 0);
	if (step->stored_held)
		set_held(&step->saga, step->seq, false);
}

/*
 * Brings the rows of a saga in line with its own row, just written.  That of
 * ledger_held is for the views, which find there what no process will look at by
 * itself.  "failed": the saga was running, and is to be undone now.
 */
void
saga_ledger_follow_saga(SagaRow *row, bool failed)
{
	bool		held = saga_rows_held(row);

	follow_due(row, failed);
	if (held != row->stored_held)
		set_held(&row->id, 0, held);
	row->stored_held = held;
}

/*
 * The first row of the due work after the one given, by lane, time, saga and seq,
 * for the caller's snapshot; false if there is none.  Its key is copied.  "in_lane"
 * keeps to the lane of the one given: beyond its end, the scan would have to step
 * over all that is dead in the next.
 */
bool
saga_ledger_next_due(const SagaDue *after, bool in_lane, SagaDue *found)
{
	ScanKeyData members[4];
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
					 UUIDPGetDatum(&after->saga), false);
	saga_keys_member(&members[3], Due_seq, BTGreaterStrategyNumber, F_BTINT8CMP,
					 Int64GetDatum(after->seq), true);
	saga_keys_row(&keys[nkeys++], members, BTGreaterStrategyNumber);
	if (!saga_table_first(saga_oids_get()->due, saga_oids_get()->due_pkey,
						  GetActiveSnapshot(), keys, nkeys, values, nulls))
		return false;
	unpack_row(values, nulls, found);
	return true;
}
