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
 * when and by whom.  Such events are deleted, in turn, with the sagas that
 * finished before them, so that they do not pile up.
 *
 * Only what is settled is deleted: completed, compensated, abandoned, and with
 * nothing due, which keeps a saga whose step a listener still holds.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "base/clock.h"
#include "base/json.h"
#include "base/rights.h"
#include "ledger/purge.h"
#include "miscadmin.h"
#include "utils/memutils.h"
#include "utils/snapmgr.h"

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

/*
 * Purges up to "max" sagas among the next "look" ones behind "position", which
 * moves on; "done" tells that there are no more.
 */
int64
saga_purge(pg_uuid_t *position, TimestampTz limit, bool all,
		   int64 look, int64 max,
		   SagaPatience patience, bool *done)
{
	MemoryContext context = AllocSetContextCreate(CurrentMemoryContext,
												  "saga purge",
												  ALLOCSET_DEFAULT_SIZES);
	MemoryContext caller = MemoryContextSwitchTo(context);
	Snapshot	snapshot = saga_table_snapshot();
	int64		purged = 0;

	*done = false;
	while (look-- > 0 && purged < max)
	{
		SagaRow		saga;

		CHECK_FOR_INTERRUPTS();
		MemoryContextReset(context);
		if (!saga_ledger_next_saga(position, snapshot, &saga) ||
			saga.started_at >= limit)
		{
			*done = true;
			break;
		}
		*position = saga.id;
		if (!is_over(&saga, limit) ||
			(!all && !saga_rights_may_call(saga.owner, saga.owner_name)))
			continue;
		/* As it is now; a late result may have opened it again. */
		if (saga_ledger_get_saga(position, &saga) != SAGA_FOUND ||
			saga_ledger_reread_saga(&saga, patience) != SAGA_FOUND ||
			!is_over(&saga, limit))
			continue;
		if (saga_ledger_delete_saga(&saga, patience) == SAGA_WRITTEN)
			purged++;
	}
	if (purged > 0)
		record_purge(purged, limit, all);
	UnregisterSnapshot(snapshot);
	MemoryContextSwitchTo(caller);
	MemoryContextDelete(context);
	return purged;
}
