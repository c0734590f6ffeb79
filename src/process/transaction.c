/*-------------------------------------------------------------------------
 *
 * transaction.c
 *	  One transaction of one of our processes on the ledger.
 *
 * Our processes never wait for a lock that an application may hold.  So a
 * transaction begins by asking for the locks on the ledger's tables that it will
 * need, and is over at once if somebody (LOCK TABLE, CREATE INDEX, DROP
 * EXTENSION) has one that conflicts: the caller comes back later.  What is
 * locked here stays locked to the end, so that opening the tables later in
 * the transaction waits for nobody.
 *
 * Where Citus is, an attempt is a transaction block, as if after BEGIN: otherwise
 * Citus would take a single statement for a transaction, and commit at once what it
 * does on another node, whatever became of the attempt.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/xact.h"
#include "access/xlog.h"
#include "base/citus.h"
#include "ledger/ledger.h"
#include "ledger/oids.h"
#include "miscadmin.h"
#include "pgstat.h"
#include "postmaster/interrupt.h"
#include "process/transaction.h"
#include "shared/shmem.h"
#include "storage/lmgr.h"
#include "utils/guc.h"
#include "utils/memutils.h"
#include "utils/snapmgr.h"

/* Room for what saga_oids_opened returns */
#define SAGA_TRANSACTION_MAX_RELATIONS		16

static SagaTurnBegun
lock_ledger(void)
{
	Oid			relids[SAGA_TRANSACTION_MAX_RELATIONS];
	Oid			again[SAGA_TRANSACTION_MAX_RELATIONS];
	int			count;
	int			i;

	if (!saga_oids_exist())
		return SAGA_TRANSACTION_GONE;
	count = saga_oids_opened(relids);
	Assert(count <= SAGA_TRANSACTION_MAX_RELATIONS);
	for (i = 0; i < count; i++)
	{
		if (!ConditionalLockRelationOid(relids[i], RowExclusiveLock))
			return SAGA_TRANSACTION_BLOCKED;
	}

	/* While we had no lock yet, the extension may have been replaced. */
	if (!saga_oids_exist())
		return SAGA_TRANSACTION_GONE;
	if (saga_oids_opened(again) != count ||
		memcmp(relids, again, count * sizeof(Oid)) != 0)
		return SAGA_TRANSACTION_BLOCKED;
	return SAGA_TRANSACTION_BEGUN;
}

/* Makes a block of the transaction that has just started. */
static void
enter_block(void)
{
	BeginTransactionBlock();
	CommitTransactionCommand();
	StartTransactionCommand();
}

/* At an isolation level; -1: at the role's default. */
static SagaTurnBegun
begin_at(int isolation, bool bookkeeping)
{
	SagaTurnBegun begun;

	SetCurrentStatementStartTimestamp();
	StartTransactionCommand();
	if (isolation >= 0)
		XactIsoLevel = isolation;
	if (bookkeeping)
	{
		XactReadOnly = false;
		XactDeferrable = false;
	}
	begun = lock_ledger();
	if (begun != SAGA_TRANSACTION_BEGUN)
	{
		CommitTransactionCommand();
		return begun;
	}
	if (!bookkeeping && saga_citus_is_here())
		enter_block();
	PushActiveSnapshot(GetTransactionSnapshot());
	return SAGA_TRANSACTION_BEGUN;
}

/*
 * Begins a transaction with a snapshot and the locks.  If it does not return
 * SAGA_TRANSACTION_BEGUN, there is no transaction.  "bookkeeping": nothing of
 * a role runs in it, so that the role's default isolation level is not for it.
 */
SagaTurnBegun
saga_transaction_begin(bool bookkeeping)
{
	return begin_at(bookkeeping ? XACT_READ_COMMITTED : -1, bookkeeping);
}

/* The same, for a role, at an isolation level that is not its default. */
SagaTurnBegun
saga_transaction_begin_at(int isolation)
{
	return begin_at(isolation, false);
}

/*
 * Flushes the commit if the database is marked "careful".  It is after a crash that
 * lost what had made the running action due, so that the crash could not be recorded
 * against that action.  From then until the next crash, what was committed is on disk
 * before what follows from it runs: otherwise a chain could crash the server forever,
 * each time before anything of it is on disk.
 */
static void
flush_if_careful(void)
{
	const SagaDatabaseSlot *database = saga_shmem_my_database();

	if (database != NULL && database->careful)
		XLogFlush(XactLastCommitEnd);
}

void
saga_transaction_commit(void)
{
	PopActiveSnapshot();
	if (IsTransactionBlock())
		(void) EndTransactionBlock(false);
	CommitTransactionCommand();
	flush_if_careful();
	pgstat_report_stat(false);
}

/* Ends the transaction without an error: nothing of it stays. */
void
saga_transaction_abort(void)
{
	AbortOutOfAnyTransaction();
}

/*
 * For the handler of an error: ends the transaction, if there is one, and
 * returns what happened, in the given context.  Nothing goes to the log.
 */
ErrorData *
saga_transaction_fail(MemoryContext context)
{
	ErrorData  *error;

	HOLD_INTERRUPTS();
	MemoryContextSwitchTo(context);
	error = CopyErrorData();
	FlushErrorState();
	AbortOutOfAnyTransaction();
	MemoryContextSwitchTo(context);
	pgstat_report_stat(false);
	RESUME_INTERRUPTS();
	return error;
}

/* Between two transactions: what signals asked for. */
void
saga_transaction_handle_interrupts(void)
{
	/* A cancel has nothing to cancel here. */
	QueryCancelPending = false;
	CHECK_FOR_INTERRUPTS();
	if (ConfigReloadPending)
	{
		ConfigReloadPending = false;
		ProcessConfigFile(PGC_SIGHUP);
	}
}
