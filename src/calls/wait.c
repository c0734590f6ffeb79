/*-------------------------------------------------------------------------
 *
 * wait.c
 *	  saga.wait: sleeps until a saga comes to rest.
 *
 * The waiter is woken by the commit that changes the saga's state; it does not
 * poll.  It holds the snapshot of the statement that called it, as any
 * statement does, and no lock but that of a statement that writes, on the
 * table of sagas.  Executors commit without waiting for the disk,
 * so it returns only after the log has been flushed: what the caller has
 * seen must survive a crash.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/xact.h"
#include "access/xlog.h"
#include "access/xlog_internal.h"
#include "base/clock.h"
#include "base/errors.h"
#include "base/ids.h"
#include "calls/access.h"
#include "calls/arguments.h"
#include "ledger/home.h"
#include "miscadmin.h"
#include "shared/wakeup.h"
#include "utils/builtins.h"

PG_FUNCTION_INFO_V1(saga_sql_wait);

#define DEFAULT_WAIT_MS		60000

/* Has a saga come to rest, or to the state named, if one was (else 0)? */
static bool
is_awaited(SagaState state, int until)
{
	return (int) state == until || saga_state_is_final(state) ||
		state == SAGA_NEEDS_REVIEW;
}

static void
check_worker(const SagaRow *saga)
{
	const char *why = saga_home_why_idle(NULL);

	if (why == NULL)
		return;
	ereport(ERROR,
			(errcode(ERRCODE_SAGA_UNAVAILABLE),
			 errmsg("cannot wait for saga %s: sagas are not undone in this database",
					saga_ids_string(&saga->id)),
			 errdetail("The reason: %s.", why),
			 errhint("Fix the cause first, or query saga.sagas instead of waiting. A copy of a database needs saga.adopt().")));
}

/*
 * Flushes all that was written to the log so far.
 *
 * When the log ends with a page, the insert position is behind the header of
 * the next one, which is not there yet, and XLogFlush would refuse it.
 */
static void
flush_log(void)
{
	XLogRecPtr	end = GetXLogInsertRecPtr();

	if (XLogSegmentOffset(end, wal_segment_size) == SizeOfXLogLongPHD)
		end -= SizeOfXLogLongPHD;
	else if (end % XLOG_BLCKSZ == SizeOfXLogShortPHD)
		end -= SizeOfXLogShortPHD;
	XLogFlush(end);
}

/* saga.wait(saga_id, timeout, until) */
Datum
saga_sql_wait(PG_FUNCTION_ARGS)
{
	const pg_uuid_t *id = saga_access_id(fcinfo, 0);
	int64		timeout = DEFAULT_WAIT_MS;
	int			until;
	int64		end;
	SagaRow		saga;

	if (!PG_ARGISNULL(1))
		timeout = saga_arguments_milliseconds(PG_GETARG_INTERVAL_P(1), "timeout");
	until = saga_arguments_word(fcinfo, 2, "until", saga_state_states, false);
	if (RecoveryInProgress())
		ereport(ERROR,
				(errcode(ERRCODE_SAGA_UNAVAILABLE),
				 errmsg("cannot execute %s on a standby", "saga.wait()"),
				 errhint("Call it on the primary; the views can be read here.")));
	if (TransactionIdIsValid(GetTopTransactionIdIfAny()))
		ereport(ERROR,
				(errcode(ERRCODE_ACTIVE_SQL_TRANSACTION),
				 errmsg("saga.wait() cannot run in a transaction that has written"),
				 errdetail("What it waits for may be waiting for this transaction to end."),
				 errhint("Commit first, then wait.")));
	if (IsolationUsesXactSnapshot())
		ereport(ERROR,
				(errcode(ERRCODE_ACTIVE_SQL_TRANSACTION),
				 errmsg("saga.wait() cannot run in a transaction that is REPEATABLE READ or above"),
				 errhint("Wait in a READ COMMITTED transaction.")));

	end = saga_clock_steady() + timeout * 1000;
	saga_access_read(id, SAGA_REACH_READ, &saga);
	saga_wakeup_wait_begin(id);
	PG_TRY();
	{
		for (;;)
		{
			int64		left;

			saga_access_read(id, SAGA_REACH_READ, &saga);
			if (is_awaited(saga.state, until))
				break;
			if (saga.state == SAGA_COMPENSATING || saga.deadline != 0)
				check_worker(&saga);
			left = (end - saga_clock_steady() + 999) / 1000;
			if (left <= 0)
				break;
			saga_wakeup_wait_sleep(id, (long) Min(left, 60000));
			CHECK_FOR_INTERRUPTS();
		}
	}
	PG_FINALLY();
	{
		saga_wakeup_wait_end();
	}
	PG_END_TRY();

	flush_log();
	PG_RETURN_TEXT_P(cstring_to_text(saga_state_name(saga.state)));
}
