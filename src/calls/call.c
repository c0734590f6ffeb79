/*-------------------------------------------------------------------------
 *
 * call.c
 *	  The frame of the calls that change a saga: open, decide, write, or again.
 *
 * Opening is access.c's.  If another transaction was first at a row that the
 * change replaces, nothing has been written: the call gives back its lock, waits for
 * that transaction, and begins again.  So what was decided is what the newest rows
 * say, and of two people who decide about the same thing the second finds the first
 * one's decision.
 *
 * A lock that is exclusive is given back as soon as the saga's row is written:
 * from then on the row holds back later callers (see saga_rows.c).  A shared one is
 * kept to the end of the transaction.  If nothing is to be written, either is given
 * back at once: such a transaction may wait for the saga (wait.c), which cannot go on
 * while somebody holds its lock.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "base/clock.h"
#include "calls/call.h"
#include "shared/durable.h"
#include "utils/builtins.h"

/* Returns the state of the saga after the call. */
SagaState
saga_call(const pg_uuid_t *id, SagaReach reach, SagaCallLock lock,
		  SagaDecide decide, void *arg)
{
	SagaPatience patience = SAGA_NOWAIT;
	SagaRow		saga;
	LOCKMODE	taken;

	for (;;)
	{
		SagaChange	change;
		SagaVerdict verdict;
		SagaWritten written;

		taken = saga_access_open(id, reach, lock, &saga);
		/* Calls about a step read the clock once they have found the step. */
		saga_change_begin(&change, &saga, NULL, SAGA_MAY_WAIT,
						  lock == SAGA_CALL_SHARED ? 0 : saga_clock_now());
		change.patience = patience;
		verdict = decide(&change, arg);
		if (verdict == SAGA_NOTHING_TO_WRITE)
		{
			saga_durable_answered();
			saga_access_unlock(&saga, taken);
			return saga.state;
		}
		written = verdict == SAGA_WRITE ? saga_change_write(&change) : SAGA_CHANGED;
		if (written == SAGA_WRITTEN)
			break;
		patience = saga_access_wait(&saga, taken, change.writer, written);
	}
	if (taken == ExclusiveLock)
		saga_access_unlock(&saga, taken);
	return saga.state;
}

/* For a SQL function that returns the word for the saga's state afterward. */
Datum
saga_call_state(const pg_uuid_t *id, SagaReach reach, SagaCallLock lock,
				SagaDecide decide, void *arg)
{
	return CStringGetTextDatum(saga_state_name(saga_call(id, reach, lock, decide,
														 arg)));
}
