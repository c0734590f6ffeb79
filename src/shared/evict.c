/*-------------------------------------------------------------------------
 *
 * evict.c
 *	  Making our processes leave a database for a statement that needs it.
 *
 * DROP DATABASE, ALTER DATABASE ... RENAME and SET TABLESPACE, and CREATE
 * DATABASE of its template, fail while any other process is connected; and
 * what drops or alters the extension, or moves sagas from role to role, waits
 * for the locks of every session that uses it.  So before such a statement (see
 * statements.c) or call, the process that runs it raises "keep_away" in the slot
 * of that database, makes our processes there leave, and waits until they are
 * gone.  It lowers keep_away again at the end of the transaction: until then,
 * nobody can see what became of the database or the extension.  (Of the statements
 * about a database only RENAME can stand in a transaction block, for several of them;
 * for the others that is right after the statement.)
 *
 * While keep_away is raised, under "lock", no process of ours attaches to the
 * database, and none is connected without being attached (see shmem.c); so
 * once they are gone they stay away.
 *
 * The process that raised it lowers it, whatever happens: at the end of the
 * transaction (commit.c), or as the process exits.  If a process dies without either,
 * shared memory is made anew.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include <signal.h>

#include "base/compat.h"
#include "base/errors.h"
#include "base/guc.h"
#include "miscadmin.h"
#include "portability/instr_time.h"
#include "shared/current.h"
#include "shared/evict.h"
#include "shared/shmem.h"
#include "storage/ipc.h"
#include "storage/procarray.h"

/* How long processes are asked, how often signaled, and how long awaited (ms) */
#define ASK_FOR				20.0
#define SIGNAL_EVERY		200.0
#define WAIT_AT_MOST		5000.0
#define LOOK_EVERY			5L

/* Processes of ours that can be in one database. */
#define MAX_PROCESSES		(SAGA_MAX_EXECUTORS + 1)

/* A database from which the current transaction keeps ours away */
typedef struct HeldDatabase
{
	SagaDatabaseSlot *slot;
	bool		for_extension;	/* rather than for the whole database */
} HeldDatabase;

static HeldDatabase held[SAGA_MAX_DATABASES];
static int	held_count = 0;

/*
 * Ends what was held, and lets the launcher look what there is now.  If the
 * processes that were kept away left with an error, that is nothing to hold
 * against them; if the extension may have come or gone, what was known of it
 * is old.
 */
void
saga_evict_release(void)
{
	int			count = held_count;

	if (count == 0)
		return;
	held_count = 0;

	LWLockAcquire(saga_shmem->lock, LW_EXCLUSIVE);
	for (int i = 0; i < count; i++)
	{
		SagaDatabaseSlot *slot = held[i].slot;

		(void) pg_atomic_fetch_sub_u32(&slot->keep_away, 1);
		slot->worker_failed = false;
		if (held[i].for_extension)
		{
			slot->state = SAGA_DATABASE_UNKNOWN;
			slot->wanted = true;
			slot->channels_next = 0;
			slot->channels_pause = 0;
		}
		saga_shmem_give_back_database(slot);
	}
	saga_shmem->rescan = true;
	if (saga_shmem->launcher_latch != NULL)
		SetLatch(saga_shmem->launcher_latch);
	LWLockRelease(saga_shmem->lock);
}

static void
evict_release_at_exit(int code, Datum arg)
{
	saga_evict_release();
}

/*
 * Reaches every process of ours in a database: asks it by its latch, or
 * ends it by a signal.  Adds the ones not yet among "pids" to them.  Returns
 * whether there are any.
 */
static bool
evict_signal(SagaDatabaseSlot *slot, bool by_signal, int *pids, int *npids)
{
	bool		any;
	int			i;

	/*
	 * A process needs the lock to detach: while we hold it, the pid is the
	 * right one.
	 */
	LWLockAcquire(saga_shmem->lock, LW_SHARED);
	any = slot->worker_pid != 0;
	for (i = -1; i < SAGA_MAX_EXECUTORS; i++)
	{
		SagaExecutorSlot *executor = &saga_shmem->executors[Max(i, 0)];
		int			pid = (i < 0) ? slot->worker_pid : executor->pid;
		Latch	   *latch = (i < 0) ? slot->worker_latch : executor->latch;
		int			known = 0;

		if (i >= 0)
		{
			if (executor->database != slot->database)
				continue;
			any = true;
		}
		if (pid <= 0)
			continue;
		if (by_signal)
			(void) kill(pid, SIGTERM);
		else if (latch != NULL)
			SetLatch(latch);
		while (known < *npids && pids[known] != pid)
			known++;
		if (known == *npids && *npids < MAX_PROCESSES)
			pids[(*npids)++] = pid;
	}
	LWLockRelease(saga_shmem->lock);
	return any;
}

/* Is one of them still a session of the server?  They detach a bit earlier. */
static bool
still_here(const int *pids, int npids)
{
	int			i;

	for (i = 0; i < npids; i++)
	{
		if (BackendPidGetProc(pids[i]) != NULL)
			return true;
	}
	return false;
}

static void
wait_until_gone(SagaDatabaseSlot *slot)
{
	int			pids[MAX_PROCESSES];
	int			npids = 0;
	double		signaled = -1.0;
	uint32		wait_event = saga_compat_wait_event("SagaKeepAway");
	instr_time	start;

	INSTR_TIME_SET_CURRENT(start);
	for (;;)
	{
		instr_time	now;
		double		ms;
		bool		by_signal;

		INSTR_TIME_SET_CURRENT(now);
		INSTR_TIME_SUBTRACT(now, start);
		ms = INSTR_TIME_GET_MILLISEC(now);

		by_signal = ms >= ASK_FOR && (signaled < 0.0 || ms - signaled >= SIGNAL_EVERY);
		if (by_signal)
			signaled = ms;
		if (!evict_signal(slot, by_signal, pids, &npids) && !still_here(pids, npids))
			break;

		/* Let the statement say which session is in its way. */
		if (ms >= WAIT_AT_MOST)
			break;

		(void) WaitLatch(MyLatch,
						 WL_LATCH_SET | WL_TIMEOUT | WL_EXIT_ON_PM_DEATH,
						 LOOK_EVERY, wait_event);
		ResetLatch(MyLatch);
		CHECK_FOR_INTERRUPTS();
	}
}

/*
 * Keeps our processes away from a database until the end of the transaction.
 * Returns when they are gone, or with an error if canceled while waiting.
 */
void
saga_evict_from(Oid database, bool for_extension)
{
	static bool registered = false;
	SagaDatabaseSlot *slot;
	bool		holds = false;

	/* It would wait for the process that it runs in. */
	if (database == MyDatabaseId && saga_current() != NULL)
		ereport(ERROR,
				(errcode(ERRCODE_SAGA_INVALID_STATE),
				 errmsg("%s cannot drop or alter the extension \"%s\", nor reassign sagas",
						saga_current_one(),
						SAGA_EXTENSION),
				 errdetail("That needs all processes of saga to leave the database, and this one runs in one of them."),
				 errhint("Do it in a session of your own.")));
	for (int i = 0; i < held_count; i++)
	{
		if (held[i].slot->database != database)
			continue;
		held[i].for_extension |= for_extension;
		return;
	}
	if (!registered)
	{
		before_shmem_exit(evict_release_at_exit, (Datum) 0);
		registered = true;
	}

	/* Without a slot nobody is there, and the launcher must not send anyone. */
	slot = saga_shmem_database(database, true);
	if (slot == NULL)
		return;
	LWLockAcquire(saga_shmem->lock, LW_EXCLUSIVE);
	if (slot->database == database)
	{
		pg_atomic_fetch_add_u32(&slot->keep_away, 1);
		held[held_count].slot = slot;
		held[held_count].for_extension = for_extension;
		held_count++;
		holds = true;
	}
	LWLockRelease(saga_shmem->lock);

	if (holds)
		wait_until_gone(slot);
}

/*
 * For a call that needs the whole ledger of the current database: attempts that
 * run are cut short, and nobody waits for them.
 */
void
saga_evict_here(void)
{
	if (saga_shmem != NULL)
		saga_evict_from(MyDatabaseId, false);
}
