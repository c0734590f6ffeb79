/*-------------------------------------------------------------------------
 *
 * leaving.c
 *	  How a worker leaves of its own accord.
 *
 * Called by the worker only, between two transactions.  The launcher learns whether
 * another worker is to come.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "base/fault.h"
#include "miscadmin.h"
#include "process/leaving.h"
#include "process/pool.h"
#include "process/transaction.h"
#include "shared/mailbox.h"
#include "storage/ipc.h"

/*
 * What executors have not done yet is still due, but was handed out, so that
 * the armed time does not cover it: the launcher must know that a worker is to
 * look again.
 */
void
saga_leaving_now(void)
{
	SAGA_FAULT("worker.before_leave");
	saga_shmem_worker_leaves(saga_mailbox_has_work(MyDatabaseId));
	saga_pool_dismiss_all();
	proc_exit(0);
}

/* The extension is not there (any more). */
void
saga_leaving_because_gone(void)
{
	saga_shmem_worker_found(SAGA_DATABASE_ABSENT);
	saga_leaving_now();
}

/* Between two transactions: does what signals asked for, or leaves. */
void
saga_leaving_handle_interrupts(void)
{
	saga_transaction_handle_interrupts();
	if (saga_shmem_worker_must_leave(false))
		saga_leaving_now();
}
