/*-------------------------------------------------------------------------
 *
 * durable.c
 *	  What a call returns must be as durable as a commit.
 *
 * A commit that waits for a synchronous standby, and whose client goes away or
 * cancels, is done on the primary and perhaps nowhere else; and our processes
 * commit without waiting for the disk.  The client repeats its call, which returns
 * "known", or "completed": an acknowledgement, by a transaction that writes nothing,
 * and so would not wait.  If the primary is then lost, so is what was acknowledged.
 *
 * So a call whose result is what others have written notes that
 * (saga_durable_answered).  Before the commit of a transaction that has written
 * nothing itself, all that is in the log so far is flushed, and received by a
 * synchronous standby if the session's commits wait for that.  A transaction that has
 * written waits at its commit, which comes later in the log.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/xact.h"
#include "access/xlog.h"
#include "access/xlog_internal.h"
#include "miscadmin.h"
#include "replication/syncrep.h"
#include "shared/durable.h"

/* Did a call of this transaction return what others have written? */
static bool answered = false;

/*
 * Flushes all that was written to the log so far.  With "everywhere", also waits for
 * standbys as a commit of the session does, by synchronous_commit: without a time
 * limit, and a cancel ends it with a warning.
 *
 * When the log ends with a page, the insert position is after the header of the next
 * one, which is not there yet, and XLogFlush would refuse it.
 */
void
saga_durable_flush(bool everywhere)
{
	XLogRecPtr	end = GetXLogInsertRecPtr();

	if (XLogSegmentOffset(end, wal_segment_size) == SizeOfXLogLongPHD)
		end -= SizeOfXLogLongPHD;
	else if (end % XLOG_BLCKSZ == SizeOfXLogShortPHD)
		end -= SizeOfXLogShortPHD;
	XLogFlush(end);
	if (everywhere)
	{
		HOLD_INTERRUPTS();
		SyncRepWaitForLSN(end, false);
		RESUME_INTERRUPTS();
		CHECK_FOR_INTERRUPTS();
	}
}

/* A call returns what others have written. */
void
saga_durable_answered(void)
{
	answered = true;
}

/* The transaction is about to commit. */
void
saga_durable_before_commit(void)
{
	if (!answered || synchronous_commit == SYNCHRONOUS_COMMIT_OFF ||
		(TransactionIdIsValid(GetTopTransactionIdIfAny()) &&
		 XactLastRecEnd != InvalidXLogRecPtr))
		return;
	saga_durable_flush(true);
}

/* The transaction is over. */
void
saga_durable_forget(void)
{
	answered = false;
}
