/*-------------------------------------------------------------------------
 *
 * retention.c
 *	  Deleting finished sagas that are older than saga.retention.
 *
 * The worker does so in small batches (purge.c), each a transaction of its own,
 * in passes over the whole ledger with a pause between them.  A saga that
 * another transaction is writing is passed by until the next pass; so is one with
 * which that is an error (shared/failing.c).
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "base/clock.h"
#include "base/fault.h"
#include "base/guc.h"
#include "base/ids.h"
#include "ledger/home.h"
#include "ledger/purge.h"
#include "process/retention.h"
#include "process/transaction.h"
#include "shared/failing.h"
#include "utils/memutils.h"

/* Number of sagas looked at in one transaction */
#define BATCH			200
/* Pause between passes: 1/PASS_PART of the retention, within limits (minutes) */
#define PASS_PART		10
#define PASS_FIRST		1
#define PASS_LAST		60
/* Pause after somebody locked the ledger, or an error (s) */
#define AGAIN			10

/* Where the worker's pass is, and when the next begins. */
static pg_uuid_t pass_position;
static TimestampTz pass_at = DT_NOBEGIN;
static int	pass_retention = 0;

/* The worker starts over. */
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
	int64		begun = saga_clock_steady();
	SagaPurge	purge = {
		.limit = now - saga_guc_retention * USECS_PER_MINUTE,
		.all = true,
		.max_looks = BATCH,
		.max_sagas = BATCH,
		.patience = SAGA_NOWAIT,
		.worker = true,
		.done = true
	};
	volatile bool failed = false;
	volatile bool noted = false;

	if (saga_guc_retention == 0)
		return DT_NOEND;
	if (saga_guc_retention != pass_retention)
	{
		pass_retention = saga_guc_retention;
		saga_retention_read_again();
	}
	if (now < pass_at)
		return pass_at;
	if (saga_transaction_begin(true) != SAGA_TRANSACTION_BEGUN)
		return pass_at = now + AGAIN * USECS_PER_SEC;
	MemoryContextSwitchTo(caller);
	/* What is written there, the handler of an error reads. */
	purge.position = pass_position;
	PG_TRY();
	{
		/* A backup that is restored for reading should still have it. */
		if (saga_home_away() == NULL)
			(void) saga_purge(&purge);
		SAGA_FAULT("retention.before_commit");
		saga_transaction_commit();
		pass_position = purge.position;
	}
	PG_CATCH();
	{
		ErrorData  *error = saga_transaction_fail(caller);
		TimestampTz again;

		failed = true;
		noted = purge.in_hand &&
			saga_failing_note(&purge.position, SAGA_FAILING_PURGE,
							  error->sqlerrcode, saga_clock_steady() - begun,
							  &again);
		ereport(WARNING,
				(errcode(error->sqlerrcode),
				 noted ? errmsg("could not purge saga %s: %s",
								saga_ids_string(&purge.position), error->message) :
				 errmsg("could not purge finished sagas: %s", error->message)));
	}
	PG_END_TRY();
	MemoryContextSwitchTo(caller);
	/* The others of this batch at once: that one is passed over. */
	if (noted)
		return now;
	if (failed)
	{
		/* The sagas of this batch are still there. */
		saga_retention_read_again();
		return pass_at = now + AGAIN * USECS_PER_SEC;
	}
	if (!purge.done)
		return now;
	saga_retention_read_again();
	return pass_at = now +
		Max(PASS_FIRST, Min(PASS_LAST, saga_guc_retention / PASS_PART)) * USECS_PER_MINUTE;
}
