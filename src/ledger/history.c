/*-------------------------------------------------------------------------
 *
 * history.c
 *	  Attempts and events: what the rows of sagas and steps do not say.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/genam.h"
#include "access/htup_details.h"
#include "access/table.h"
#include "ledger/keys.h"
#include "ledger/ledger.h"
#include "ledger/oids.h"
#include "miscadmin.h"
#include "shared/stat.h"
#include "utils/builtins.h"
#include "utils/fmgroids.h"
#include "utils/fmgrprotos.h"
#include "utils/jsonb.h"
#include "utils/rel.h"
#include "utils/snapmgr.h"
#include "utils/timestamp.h"

void
saga_ledger_insert_attempt(SagaAttempt *attempt)
{
	Relation	heap;
	Datum		values[Attempt_natts];
	bool		nulls[Attempt_natts];

	saga_rows_pack_attempt(attempt, values, nulls);
	heap = table_open(saga_oids_get()->attempt, RowExclusiveLock);
	saga_table_insert(heap, NULL, values, nulls, InvalidOid, NULL, NULL);
	table_close(heap, NoLock);
	saga_stat_attempt(attempt->phase, attempt->outcome,
					  attempt->finished_at - attempt->started_at);
}

/* The text of a column that may be null, in a row that is not kept */
static const char *
text_of(const Datum *values, const bool *nulls, int att)
{
	return nulls[att - 1] ? NULL : TextDatumGetCString(values[att - 1]);
}

/* The attempts that the keys lead to, as a snapshot shows them. */
static int
read_attempts(const pg_uuid_t *id, ScanKey keys, int nkeys, Snapshot snapshot,
			  SagaAttempt **attempts)
{
	Relation	heap = table_open(saga_oids_get()->attempt, AccessShareLock);
	Relation	index = index_open(saga_oids_get()->attempt_pkey, AccessShareLock);
	SysScanDesc scan;
	HeapTuple	tuple;
	int			size = 16;
	int			count = 0;

	*attempts = palloc(size * sizeof(SagaAttempt));
	scan = systable_beginscan_ordered(heap, index, snapshot, nkeys, keys);
	while (HeapTupleIsValid(tuple = systable_getnext_ordered(scan, ForwardScanDirection)))
	{
		Datum		values[Attempt_natts];
		bool		nulls[Attempt_natts];
		SagaAttempt *attempt;

		CHECK_FOR_INTERRUPTS();
		if (count == size)
		{
			size *= 2;
			*attempts = repalloc_huge(*attempts, size * sizeof(SagaAttempt));
		}
		attempt = &(*attempts)[count++];
		heap_deform_tuple(tuple, RelationGetDescr(heap), values, nulls);
		attempt->saga = *id;
		attempt->seq = DatumGetInt64(values[Attempt_seq - 1]);
		attempt->started_at = DatumGetTimestampTz(values[Attempt_started_at - 1]);
		attempt->finished_at = DatumGetTimestampTz(values[Attempt_finished_at - 1]);
		attempt->rows = nulls[Attempt_rows - 1] ? -1 :
			DatumGetInt64(values[Attempt_rows - 1]);
		attempt->attempt = DatumGetInt32(values[Attempt_attempt - 1]);
		attempt->phase = (SagaPhase) DatumGetChar(values[Attempt_phase - 1]);
		attempt->outcome = (SagaOutcome) DatumGetChar(values[Attempt_outcome - 1]);
		attempt->sqlstate = text_of(values, nulls, Attempt_sqlstate);
		attempt->error = text_of(values, nulls, Attempt_error);
		attempt->consumer = text_of(values, nulls, Attempt_consumer);
	}
	systable_endscan_ordered(scan);
	index_close(index, AccessShareLock);
	table_close(heap, AccessShareLock);
	return count;
}

/* The attempts of a saga as a snapshot shows them, by step, phase and number. */
int
saga_ledger_get_attempts_at(const pg_uuid_t *id, Snapshot snapshot,
							SagaAttempt **attempts)
{
	ScanKeyData key;

	saga_keys_uuid(&key, 1, id);
	return read_attempts(id, &key, 1, snapshot, attempts);
}

/* The attempts to do the work of a step, as they are at this moment. */
static int
read_forward_attempts(const pg_uuid_t *id, int64 seq, SagaAttempt **attempts)
{
	Snapshot	snapshot = saga_table_snapshot();
	ScanKeyData keys[3];
	int			count;

	saga_keys_uuid(&keys[0], Attempt_saga, id);
	ScanKeyInit(&keys[1], Attempt_seq, BTEqualStrategyNumber, F_INT8EQ,
				Int64GetDatum(seq));
	ScanKeyInit(&keys[2], Attempt_phase, BTEqualStrategyNumber, F_CHAREQ,
				CharGetDatum(SAGA_PHASE_FORWARD));
	count = read_attempts(id, keys, 3, snapshot, attempts);
	UnregisterSnapshot(snapshot);
	return count;
}

/*
 * Is an attempt to do the work of a step in the history that began at that time?  One
 * that succeeded is in the step's own row.
 */
bool
saga_ledger_has_attempt(const SagaStep *step, TimestampTz started_at)
{
	SagaAttempt *attempts;
	int			count = read_forward_attempts(&step->saga, step->seq, &attempts);

	for (int i = 0; i < count; i++)
		if (attempts[i].started_at == started_at)
			return true;
	return false;
}

/* The saga of events that are about no saga (any more). */
static const pg_uuid_t none;

/*
 * Writes down something that the rows themselves will not show; id NULL: it is
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
	saga_table_insert(heap, NULL, values, nulls, InvalidOid, NULL, NULL);
	table_close(heap, NoLock);
}

/*
 * Deletes the events about no saga from before an instant, by a role or (NULL)
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

	saga_keys_uuid(&keys[0], 1, &none);
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
		if (saga_table_lock(heap, &found[i], SAGA_NOWAIT) == SAGA_WRITTEN)
			saga_table_delete(heap, &found[i]);
	}
	index_close(index, NoLock);
	table_close(heap, NoLock);
}

/* The events that record a person's decision. */
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

	saga_keys_uuid(&key, 1, id);
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

	/* Events move while their saga is redacted. */
	Snapshot	snapshot = saga_table_snapshot();
	ScanKeyData key;
	SysScanDesc scan;
	HeapTuple	tuple;
	bool		any = false;

	saga_keys_uuid(&key, 1, id);
	scan = systable_beginscan_ordered(heap, index, snapshot, 1, &key);
	while (!any &&
		   HeapTupleIsValid(tuple = systable_getnext_ordered(scan, ForwardScanDirection)))
	{
		Datum		values[Event_natts];
		bool		nulls[Event_natts];

		heap_deform_tuple(tuple, RelationGetDescr(heap), values, nulls);
		any = !nulls[Event_seq - 1] &&
			DatumGetInt64(values[Event_seq - 1]) == seq &&
			strcmp(TextDatumGetCString(values[Event_event - 1]), event) == 0;
	}
	systable_endscan_ordered(scan);
	UnregisterSnapshot(snapshot);
	index_close(index, NoLock);
	table_close(heap, NoLock);
	return any;
}

/* ------------------------------------------------------------------------
 * Redacting
 * ------------------------------------------------------------------------ */

/*
 * Lets "forget" take what is to be forgotten out of the rows of a table about a saga;
 * it gets the values of each, and returns false if there is nothing.
 */
static void
forget_in_rows(Oid relid, Oid index_relid, const pg_uuid_t *id, int natts,
			   bool (*forget) (Datum *values, bool *nulls))
{
	Relation	heap = table_open(relid, RowExclusiveLock);
	Relation	index = index_open(index_relid, AccessShareLock);
	Datum	   *values = palloc(natts * sizeof(Datum));
	bool	   *nulls = palloc(natts * sizeof(bool));
	ScanKeyData key;
	SagaTuple  *found;
	int			count;

	saga_keys_uuid(&key, 1, id);
	count = saga_table_find_all(heap, index, &key, 1, false, &found);
	for (int i = 0; i < count; i++)
	{
		heap_deform_tuple(found[i].tuple, RelationGetDescr(heap), values,
						  nulls);
		if (!forget(values, nulls))
			continue;
		if (saga_table_update(heap, NULL, &found[i], values, nulls, InvalidOid,
							  NULL, SAGA_WAIT) != SAGA_WRITTEN)
			elog(ERROR, "a row of the history changed without its saga");
	}
	index_close(index, NoLock);
	table_close(heap, NoLock);
}

static bool
forget_error(Datum *values, bool *nulls)
{
	if (nulls[Attempt_error - 1])
		return false;
	nulls[Attempt_error - 1] = true;
	return true;
}

/*
 * Does a text repeat the error of an attempt to do the work of a step, as the reason
 * does of a saga that failed because of it?  What comes before the error is not asked:
 * "retries exhausted: ...".
 */
bool
saga_ledger_repeats_error(const pg_uuid_t *id, int64 seq, const char *what)
{
	SagaAttempt *attempts;
	int			count = read_forward_attempts(id, seq, &attempts);
	size_t		length = strlen(what);
	bool		repeats = false;

	for (int i = 0; i < count && !repeats; i++)
	{
		size_t		end = attempts[i].error ? strlen(attempts[i].error) : 0;

		repeats = end > 0 && end <= length &&
			strcmp(what + length - end, attempts[i].error) == 0;
	}
	return repeats;
}

/* Of the failure of a saga, the kind stays, and the number of steps to undo. */
static bool
forget_reason(Datum *values)
{
	Jsonb	   *detail = DatumGetJsonbP(values[Event_detail - 1]);
	JsonbValue	reason;

	if (getKeyJsonValueFromContainer(&detail->root, "reason", strlen("reason"),
									 &reason) == NULL ||
		reason.type != jbvString ||
		!saga_ledger_repeats_error(DatumGetUUIDP(values[Event_saga - 1]),
								   DatumGetInt64(values[Event_seq - 1]),
								   pnstrdup(reason.val.string.val,
											reason.val.string.len)))
		return false;
	values[Event_detail - 1] = DirectFunctionCall2(jsonb_delete,
												   PointerGetDatum(detail),
												   CStringGetTextDatum("reason"));
	return true;
}

static bool
forget_why(Datum *values, bool *nulls)
{
	const char *event = TextDatumGetCString(values[Event_event - 1]);

	if (nulls[Event_detail - 1])
		return false;
	if (strcmp(event, "failing") == 0)
		return !nulls[Event_seq - 1] && forget_reason(values);
	if (strcmp(event, "parked") != 0 && strcmp(event, "step parked") != 0)
		return false;
	nulls[Event_detail - 1] = true;
	return true;
}

/*
 * Forgets what the errors of a saga's attempts say, which may quote anything,
 * also where they say why the saga failed, or why it or a step of it was parked.
 */
void
saga_ledger_forget_errors(const pg_uuid_t *id)
{
	forget_in_rows(saga_oids_get()->event, saga_oids_get()->event_by_saga, id,
				   Event_natts, forget_why);
	forget_in_rows(saga_oids_get()->attempt, saga_oids_get()->attempt_pkey, id,
				   Attempt_natts, forget_error);
}
