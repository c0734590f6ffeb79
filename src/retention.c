/*-------------------------------------------------------------------------
 *
 * retention.c
 *	  Deleting finished sagas, by the worker (saga.retention) and by a call.
 *
 * Sagas are looked at in the order of their ids, which is that of time: so
 * what is purged lies together, whole pages become empty, and what is recorded
 * next fills them one after the other.  (Rows that went into the gaps between
 * older ones would touch a page each; VACUUM offers such gaps.)  It also ends
 * the search early: a saga that began later than the limit cannot have
 * finished before it.
 *
 * How many went, when and by whom is told by an event of its own, which is
 * about no saga.  Such events go, in turn, with the sagas that finished before
 * them, so that they do not grow without an end.
 *
 * Only what is settled goes: completed, compensated, abandoned, and with
 * nothing due, which keeps a saga whose step a listener still holds.  One that
 * somebody is writing is passed by.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/xact.h"
#include "clock.h"
#include "fault.h"
#include "guc.h"
#include "home.h"
#include "json.h"
#include "ledger.h"
#include "miscadmin.h"
#include "owner.h"
#include "retention.h"
#include "table.h"
#include "turn.h"
#include "utils/memutils.h"
#include "utils/snapmgr.h"

#define S				INT64CONST(1000000)
#define MIN				(60 * S)

/* The worker's steps: sagas looked at in one transaction. */
#define BATCH			200
/* Between its passes, in minutes: a part of the retention, within limits. */
#define PASS_PART		10
#define PASS_FIRST		1
#define PASS_LAST		60
/* After somebody locked the ledger, or an error, in seconds. */
#define AGAIN			10

/* Where the worker's pass is, and when the next begins. */
static pg_uuid_t pass_position;
static TimestampTz pass_at = DT_NOBEGIN;
static int	pass_retention = 0;

/* May this saga go, by its state and age? */
static bool
is_over(const SagaRow *saga, TimestampTz limit)
{
	return saga_state_is_final(saga->state) && saga->finished_at < limit &&
		saga->due == 0 && saga->to_announce == NULL;
}

/* Says so in the history, in which older news of that kind is forgotten. */
static void
tell(int64 purged, TimestampTz limit, bool all)
{
	SagaJson	json;

	saga_ledger_delete_events_of_none(limit, all ? NULL :
									  saga_owner_role_name(GetUserId()));
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
saga_retention_purge(pg_uuid_t *position, TimestampTz limit, bool all,
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
			(!all && !saga_owner_may_call(saga.owner, saga.owner_name)))
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
		tell(purged, limit, all);
	UnregisterSnapshot(snapshot);
	MemoryContextSwitchTo(caller);
	MemoryContextDelete(context);
	return purged;
}

/* The worker begins anew. */
void
saga_retention_read_again(void)
{
	memset(&pass_position, 0, sizeof(pass_position));
	pass_at = DT_NOBEGIN;
}

/*
 * The worker's turn: a small batch.  Returns when the next is due.
 */
TimestampTz
saga_retention_turn(TimestampTz now)
{
	MemoryContext caller = CurrentMemoryContext;
	volatile bool done = true;
	volatile bool failed = false;

	if (saga_guc_retention == 0)
		return DT_NOEND;
	if (saga_guc_retention != pass_retention)
	{
		pass_retention = saga_guc_retention;
		saga_retention_read_again();
	}
	if (now < pass_at)
		return pass_at;
	if (saga_turn_begin(true) != SAGA_TURN_BEGUN)
		return pass_at = now + AGAIN * S;
	MemoryContextSwitchTo(caller);
	PG_TRY();
	{
		bool		end = true;

		/* Whoever restores a backup to read it wants to find it there. */
		if (saga_home_away() == NULL)
			(void) saga_retention_purge(&pass_position, now - saga_guc_retention * MIN, true,
					 BATCH, BATCH, SAGA_NOWAIT, &end);
		SAGA_FAULT("retention.before_commit");
		saga_turn_commit();
		done = end;
	}
	PG_CATCH();
	{
		ErrorData  *error = saga_turn_fail(caller);

		ereport(WARNING,
				(errcode(error->sqlerrcode),
				 errmsg("could not purge finished sagas: %s", error->message)));
		failed = true;
	}
	PG_END_TRY();
	MemoryContextSwitchTo(caller);
	if (failed)
	{
		/* What it had come to is still there. */
		saga_retention_read_again();
		return pass_at = now + AGAIN * S;
	}
	if (!done)
		return now;
	saga_retention_read_again();
	return pass_at = now +
		Max(PASS_FIRST, Min(PASS_LAST, saga_guc_retention / PASS_PART)) * MIN;
}
