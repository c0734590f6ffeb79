/*-------------------------------------------------------------------------
 *
 * pool.c
 *	  The executors of the server: which database and role has them.
 *
 * The slots of saga_shmem->executors are shared by all databases.  A worker
 * takes one for a role of its database and starts the process, which gives it
 * back when it leaves.  What executors are handed: mailbox.c.
 *
 * Fairness.  When none is free, a worker makes an entry in the list of those
 * that wait.  It then gets the next free slot in the order of the entries.  An
 * idle executor of another role is dismissed at once.  While others wait, a
 * role holds at most half of the executors, rounded up, and one that waited
 * longer than a slice of time without getting any takes the place of the
 * executor that has run longest.  Dismissed executors finish the ticket in hand.
 *
 * A worker that was refused an executor is woken when that may have changed:
 * when one leaves or becomes idle, in whatever database, when somebody gives
 * up waiting, and when nobody waits any more.  (It looks again now and then
 * for what time alone changes, the slices.)
 *
 * Locks: as shmem.h says.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "base/clock.h"
#include "base/compat.h"
#include "miscadmin.h"
#include "process/pool.h"
#include "process/quarantine.h"
#include "process/transaction.h"
#include "shared/mailbox.h"
#include "storage/ipc.h"
#include "storage/latch.h"
#include "utils/memutils.h"
#include "utils/timestamp.h"

/* Time slice after which an executor may be reclaimed for a waiting role */
#define SAGA_POOL_SLICE_MS			1000
/* Time after which a slot whose process did not arrive is taken back */
#define SAGA_POOL_START_LIMIT_MS	60000

/* The executors that this worker started. */
typedef struct Started
{
	BackgroundWorkerHandle *handle; /* NULL: not started by this process */
	uint32		generation;		/* 0: nothing known */
	Oid			role;
} Started;

static Started started[SAGA_MAX_EXECUTORS];

/* The last executor of each of these roles ended before it could begin. */
static Oid	failed_roles[SAGA_MAX_EXECUTORS];
static int	failed_count = 0;

/* The executor's own slot, and what it holds. */
static SagaExecutorSlot *my_slot = NULL;
static int	my_index = -1;
static uint32 my_generation = 0;
static void (*my_at_exit) (int code) = NULL;

/*
 * Asks an executor to leave when the ticket in hand is done, which may take
 * long.  What waits in its mailbox is for the worker to hand out again.  The
 * caller holds "lock" exclusively.
 */
static void
dismiss(SagaExecutorSlot *slot)
{
	bool		mail;

	if (!slot->dismissed)
		slot->dismissed_at = saga_clock_steady();
	slot->dismissed = true;
	mail = saga_mailbox_empty(slot);
	if (slot->latch != NULL)
		SetLatch(slot->latch);
	if (mail)
		saga_shmem_wake_wanting(slot->database);
}

/* "lock" is held exclusively. */
static void
free_slot(SagaExecutorSlot *slot)
{
	Oid			database = slot->database;

	slot->database = InvalidOid;
	slot->role = InvalidOid;
	slot->pid = 0;
	slot->latch = NULL;
	slot->dismissed = false;
	saga_mailbox_close(slot);
	saga_shmem_wake_wanting(database);
}

/*
 * An executor is gone, with what it had in hand and in its mailbox.  The
 * database's worker learns that from a flag of the database, not from the
 * slot, which may have another executor by the time the worker looks.  The
 * caller holds "lock" exclusively.
 */
static void
lose_executor(SagaExecutorSlot *slot)
{
	for (int i = 0; i < SAGA_MAX_DATABASES; i++)
	{
		if (saga_shmem->databases[i].database == slot->database)
			pg_atomic_write_u32(&saga_shmem->databases[i].left_records, 1);
	}
	free_slot(slot);
}

/* ------------------------------------------------------------------------
 * The worker's side: which role gets an executor
 * ------------------------------------------------------------------------ */

static SagaWaiter *
find_waiter(Oid database, Oid role)
{
	int			i;

	for (i = 0; i < SAGA_MAX_EXECUTORS; i++)
	{
		SagaWaiter *w = &saga_shmem->waiting[i];

		if (w->database == database &&
			(!OidIsValid(database) || w->role == role))
			return w;
	}
	return NULL;
}

/* Makes or refreshes the entry of a role that waits. */
static void
note_waiting(Oid role, int64 now)
{
	SagaWaiter *w = find_waiter(MyDatabaseId, role);

	if (w == NULL)
	{
		/* With more of them than this, some wait unlisted. */
		w = find_waiter(InvalidOid, InvalidOid);
		if (w == NULL)
			return;
		w->database = MyDatabaseId;
		w->role = role;
		w->since = now;
	}
	w->seen = now;
}

/*
 * Drops stale entries and counts the others: how many wait, besides the
 * given role, and how many of them have waited longer than it.
 */
static void
count_waiting(Oid role, int64 now, int *others, int *earlier,
			  int64 *longest)
{
	SagaWaiter *own = find_waiter(MyDatabaseId, role);
	int			i;

	*others = 0;
	*earlier = 0;
	*longest = own != NULL ? own->since : now;
	for (i = 0; i < SAGA_MAX_EXECUTORS; i++)
	{
		SagaWaiter *w = &saga_shmem->waiting[i];

		if (!OidIsValid(w->database) || w == own)
			continue;
		if (now - w->seen > SAGA_WAITER_LIFE_MS * INT64CONST(1000))
		{
			w->database = InvalidOid;
			continue;
		}
		(*others)++;
		if (own == NULL || w->since < own->since)
			(*earlier)++;
	}
}

/* How many executors the role of a slot has, and how many all have. */
static int
count_role(Oid database, Oid role)
{
	int			count = 0;
	int			i;

	for (i = 0; i < SAGA_MAX_EXECUTORS; i++)
	{
		SagaExecutorSlot *slot = &saga_shmem->executors[i];

		if (OidIsValid(slot->database) &&
			(!OidIsValid(database) ||
			 (slot->database == database && slot->role == role)))
			count++;
	}
	return count;
}

/*
 * No slot is free: chooses an executor whose slot this role may have, and dismisses
 * it.  A role that has an executor already may only have that of an idle one.
 */
static void
make_room_for_role(Oid role, bool has_some, int64 since, int64 now)
{
	int			half = (saga_guc_max_executors + 1) / 2;
	SagaExecutorSlot *victim = NULL;
	int			i;

	for (i = 0; i < SAGA_MAX_EXECUTORS && victim == NULL; i++)
	{
		SagaExecutorSlot *slot = &saga_shmem->executors[i];

		if (OidIsValid(slot->database) && !slot->dismissed &&
			!saga_mailbox_is_of(slot, role) && slot->pid != 0 &&
			saga_mailbox_is_idle(slot))
			victim = slot;
	}
	if (victim == NULL && has_some)
		return;

	/*
	 * Only one slot is needed and another executor has been dismissed
	 * recently; ignore one that has been slow to leave.
	 */
	for (i = 0; i < SAGA_MAX_EXECUTORS && victim == NULL; i++)
	{
		SagaExecutorSlot *slot = &saga_shmem->executors[i];

		if (OidIsValid(slot->database) && slot->dismissed &&
			now - slot->dismissed_at <= SAGA_POOL_SLICE_MS * INT64CONST(1000))
			return;
	}
	for (i = 0; i < SAGA_MAX_EXECUTORS && victim == NULL; i++)
	{
		SagaExecutorSlot *slot = &saga_shmem->executors[i];

		if (OidIsValid(slot->database) && !slot->dismissed &&
			count_role(slot->database, slot->role) > half)
			victim = slot;
	}
	if (victim == NULL &&
		now - since > SAGA_POOL_SLICE_MS * INT64CONST(1000))
	{
		for (i = 0; i < SAGA_MAX_EXECUTORS; i++)
		{
			SagaExecutorSlot *slot = &saga_shmem->executors[i];

			if (OidIsValid(slot->database) && slot->pid != 0 &&
				!slot->dismissed &&
				now - slot->taken_at > SAGA_POOL_SLICE_MS * INT64CONST(1000) &&
				(victim == NULL || slot->taken_at < victim->taken_at))
				victim = slot;
		}
	}
	if (victim != NULL)
		dismiss(victim);
}

static void
note_failed(Oid role)
{
	if (failed_count < SAGA_MAX_EXECUTORS)
		failed_roles[failed_count++] = role;
}

/*
 * Forgets the executor that this process started in a slot, if it is gone.  The
 * caller holds "lock".
 */
static void
forget_gone(int index)
{
	SagaExecutorSlot *slot = &saga_shmem->executors[index];
	Started    *own = &started[index];

	if (own->generation == 0 ||
		(own->generation == slot->generation && OidIsValid(slot->database)))
		return;
	/* The slot was not reused.  Did the executor get as far as being ready? */
	if (own->generation == slot->generation && !slot->ready)
		note_failed(own->role);
	own->generation = 0;
	if (own->handle != NULL)
		pfree(own->handle);
	own->handle = NULL;
}

/* Takes a slot for the role; -1 if it has to wait. */
static int
take_slot(Oid role, uint32 *generation)
{
	int64		now = saga_clock_steady();
	int64		since;
	int			others;
	int			earlier;
	int			total;
	int			mine;
	int			limit;
	int			index = -1;
	bool		waited = false;
	int			i;

	LWLockAcquire(saga_shmem->lock, LW_EXCLUSIVE);
	count_waiting(role, now, &others, &earlier, &since);
	total = count_role(InvalidOid, InvalidOid);
	mine = count_role(MyDatabaseId, role);
	limit = others > 0 ? (saga_guc_max_executors + 1) / 2 :
		saga_guc_max_executors;

	/* Those that waited longer come first, and one that has some comes last. */
	if (mine > 0)
		earlier = others;
	if (mine < limit && total + earlier < saga_guc_max_executors)
	{
		for (i = 0; i < SAGA_MAX_EXECUTORS && index < 0; i++)
		{
			if (!OidIsValid(saga_shmem->executors[i].database))
				index = i;
		}
	}
	if (index >= 0)
	{
		SagaExecutorSlot *slot = &saga_shmem->executors[index];
		SagaWaiter *own = find_waiter(MyDatabaseId, role);

		if (own != NULL)
		{
			own->database = InvalidOid;
			waited = true;
		}
		/* Its data about the previous executor is about to be overwritten. */
		forget_gone(index);
		slot->generation++;
		if (slot->generation == 0)
			slot->generation = 1;
		slot->database = MyDatabaseId;
		slot->role = role;
		slot->pid = 0;
		slot->latch = NULL;
		slot->taken_at = now;
		slot->dismissed = false;
		slot->ready = false;
		saga_mailbox_init(slot, GetCurrentTimestamp());
		*generation = slot->generation;
	}
	else
	{
		/* If all are the role's own, none that is idle is of use to it. */
		if (mine < saga_guc_max_executors)
			saga_shmem_want_executor(saga_shmem_my_database(),
									 mine == 0 ? SAGA_WANTS_FIRST :
									 SAGA_WANTS_MORE);
		if (mine == 0)
			note_waiting(role, now);
		if (total >= saga_guc_max_executors || mine == 0)
			make_room_for_role(role, mine > 0, since, now);
	}
	/* Workers that held back because another one waited need not any more. */
	if (index >= 0 && others == 0 && waited &&
		total + 1 < saga_guc_max_executors)
		saga_shmem_wake_wanting(InvalidOid);
	LWLockRelease(saga_shmem->lock);
	return index;
}

/* Starts an executor for a role in the current database. */
SagaPoolStart
saga_pool_start(Oid role)
{
	SagaProcess process;
	Started    *own;
	uint32		generation = 0;
	int			index;
	bool		ok;
	MemoryContext caller;

	index = take_slot(role, &generation);
	if (index < 0)
		return SAGA_POOL_FULL;

	own = &started[index];
	own->generation = generation;
	own->role = role;

	memset(&process, 0, sizeof(process));
	process.kind = SAGA_PROCESS_EXECUTOR;
	process.database = MyDatabaseId;
	process.role = role;
	process.slot = index;
	process.generation = generation;
	caller = MemoryContextSwitchTo(TopMemoryContext);
	ok = saga_bgworker_start(&process, &own->handle);
	MemoryContextSwitchTo(caller);
	if (ok)
	{
		if (saga_shmem->no_process)
		{
			LWLockAcquire(saga_shmem->lock, LW_EXCLUSIVE);
			saga_shmem->no_process = false;
			LWLockRelease(saga_shmem->lock);
		}
		return SAGA_POOL_STARTED;
	}

	own->generation = 0;
	LWLockAcquire(saga_shmem->lock, LW_EXCLUSIVE);
	saga_shmem->no_process = true;
	if (saga_shmem->executors[index].generation == generation)
		free_slot(&saga_shmem->executors[index]);
	LWLockRelease(saga_shmem->lock);
	return SAGA_POOL_NO_PLACE;
}

/* The role does not wait any more: it may be somebody else's turn. */
void
saga_pool_forget_waiting(Oid role)
{
	SagaWaiter *w;

	LWLockAcquire(saga_shmem->lock, LW_EXCLUSIVE);
	w = find_waiter(MyDatabaseId, role);
	if (w != NULL)
	{
		w->database = InvalidOid;
		if (count_role(InvalidOid, InvalidOid) < saga_guc_max_executors)
			saga_shmem_wake_wanting(InvalidOid);
	}
	LWLockRelease(saga_shmem->lock);
}

/* The worker checks again which roles need an executor. */
void
saga_pool_want_none(void)
{
	pg_atomic_write_u32(&saga_shmem_my_database()->wants_executor,
						SAGA_WANTS_NONE);
}

/* Is there a role that waits for its first executor? */
bool
saga_pool_waits(void)
{
	return pg_atomic_read_u32(&saga_shmem_my_database()->wants_executor) ==
		SAGA_WANTS_FIRST;
}

/*
 * Looks after the slots of the current database.  Takes back those whose
 * process ended before it could attach.  True if an executor left, or a record
 * of what it had been doing was left, since the last call.
 */
bool
saga_pool_tend(void)
{
	int64		now = saga_clock_steady();
	int			i;

	for (i = 0; i < SAGA_MAX_EXECUTORS; i++)
	{
		SagaExecutorSlot *slot = &saga_shmem->executors[i];
		Started    *own = &started[i];
		bool		stopped = false;
		pid_t		pid;

		/* Only this process takes slots for this database: no lock needed. */
		if (own->generation == 0 && slot->database != MyDatabaseId)
			continue;
		if (own->handle != NULL && slot->pid == 0 &&
			GetBackgroundWorkerPid(own->handle, &pid) == BGWH_STOPPED)
			stopped = true;

		LWLockAcquire(saga_shmem->lock, LW_EXCLUSIVE);
		if (slot->database == MyDatabaseId && slot->pid == 0 &&
			((stopped && own->generation == slot->generation) ||
			 now - slot->taken_at > SAGA_POOL_START_LIMIT_MS * INT64CONST(1000)))
			lose_executor(slot);

		forget_gone(i);
		/* Adopt what an earlier worker of this database started. */
		if (own->generation == 0 && slot->database == MyDatabaseId)
		{
			own->generation = slot->generation;
			own->role = slot->role;
		}
		LWLockRelease(saga_shmem->lock);
	}
	return pg_atomic_exchange_u32(&saga_shmem_my_database()->left_records, 0) != 0;
}

/*
 * In how many milliseconds must the slots be looked after, for an executor that
 * did not arrive?  -1: somebody will wake the worker.
 *
 * One that it asked for itself ended, and the postmaster's signal came while it
 * waited for a lock, which resets the latch: at once.  One that an earlier
 * worker asked for: the postmaster signals that one.
 */
long
saga_pool_look_again(void)
{
	long		ms = -1;
	int			i;

	for (i = 0; i < SAGA_MAX_EXECUTORS; i++)
	{
		SagaExecutorSlot *slot = &saga_shmem->executors[i];
		pid_t		pid;

		/* Only this process takes slots for this database: no lock needed. */
		if (slot->database != MyDatabaseId || slot->pid != 0)
			continue;
		if (started[i].handle == NULL)
			ms = SAGA_POOL_START_LIMIT_MS;
		else if (GetBackgroundWorkerPid(started[i].handle, &pid) == BGWH_STOPPED)
			return 0;
	}
	return ms;
}

/*
 * Has an executor left, or left a record, since?  Ask after what executors have in
 * hand: what none has in hand any more may have a record.
 */
bool
saga_pool_left_record(void)
{
	pg_memory_barrier();
	return pg_atomic_read_u32(&saga_shmem_my_database()->left_records) != 0;
}

/* Did an executor of the role end before it could begin?  Asked once. */
bool
saga_pool_failed_to_start(Oid role)
{
	bool		failed = false;
	int			i;

	for (i = 0; i < failed_count;)
	{
		if (failed_roles[i] == role)
		{
			failed = true;
			failed_roles[i] = failed_roles[--failed_count];
		}
		else
			i++;
	}
	return failed;
}

/* The worker leaves, or the extension is gone: nobody will feed them. */
void
saga_pool_dismiss_all(void)
{
	int			i;

	LWLockAcquire(saga_shmem->lock, LW_EXCLUSIVE);
	for (i = 0; i < SAGA_MAX_EXECUTORS; i++)
	{
		if (saga_mailbox_is_of(&saga_shmem->executors[i], InvalidOid))
			dismiss(&saga_shmem->executors[i]);
	}
	LWLockRelease(saga_shmem->lock);
}

/* ------------------------------------------------------------------------
 * The executor's side
 * ------------------------------------------------------------------------ */

/* before_shmem_exit: give everything back, however the process ends. */
static void
detach(int code, Datum arg)
{
	SagaExecutorSlot *slot = my_slot;

	if (slot == NULL)
		return;
	if (my_at_exit != NULL)
		my_at_exit(code);
	saga_quarantine_leave();

	my_slot = NULL;
	LWLockAcquire(saga_shmem->lock, LW_EXCLUSIVE);
	if (slot->generation == my_generation)
		lose_executor(slot);
	LWLockRelease(saga_shmem->lock);
}

/*
 * The current process becomes the executor of its slot; false if the slot was
 * taken back in the meantime, or our processes are kept away from the
 * database: leave, with exit code 0.  To be called before connecting, so that
 * the slot is given back after the session has been cleaned up.
 */
bool
saga_pool_attach(const SagaProcess *process, void (*at_exit) (int code))
{
	SagaExecutorSlot *slot = &saga_shmem->executors[process->slot];
	SagaDatabaseSlot *database = saga_shmem_database(process->database, false);

	before_shmem_exit(detach, (Datum) 0);
	LWLockAcquire(saga_shmem->lock, LW_EXCLUSIVE);
	if (slot->generation == process->generation &&
		slot->database == process->database && slot->pid == 0)
	{
		if (database != NULL &&
			pg_atomic_read_u32(&database->keep_away) > 0)
			lose_executor(slot);
		else
		{
			slot->pid = MyProcPid;
			slot->latch = MyLatch;
			my_slot = slot;
			saga_mailbox_attach(slot);
			my_index = process->slot;
			my_generation = process->generation;
			my_at_exit = at_exit;
		}
	}
	LWLockRelease(saga_shmem->lock);
	return my_slot != NULL;
}

/* The process is connected and can take tickets. */
void
saga_pool_ready(void)
{
	LWLockAcquire(saga_shmem->lock, LW_EXCLUSIVE);
	my_slot->ready = true;
	LWLockRelease(saga_shmem->lock);
}

/* A record is left for the worker, about the ticket that is still in hand. */
void
saga_pool_leave_record(void)
{
	SagaDatabaseSlot *database = saga_shmem_my_database();

	if (database != NULL)
		pg_atomic_write_u32(&database->left_records, 1);
}

/*
 * Must the executor leave, as soon as it has nothing in hand?  The fields are
 * read without a lock: whatever sets one sets our latch afterwards.
 */
bool
saga_pool_must_leave(void)
{
	SagaDatabaseSlot *database;
	int			others = 0;
	int			i;

	if (!saga_guc_enabled ||
		((volatile SagaExecutorSlot *) my_slot)->dismissed)
		return true;
	database = saga_shmem_my_database();
	if (database != NULL && pg_atomic_read_u32(&database->keep_away) > 0)
		return true;

	/* saga.max_executors may have been lowered. */
	if (my_index < saga_guc_max_executors)
		return false;
	for (i = 0; i < my_index; i++)
	{
		if (OidIsValid(saga_shmem->executors[i].database))
			others++;
	}
	return others >= saga_guc_max_executors;
}

/* An executor sleeps until its latch is set, or the time is over. */
void
saga_pool_sleep(long ms)
{
	static uint32 wait_event = 0;

	if (wait_event == 0)
		wait_event = saga_compat_wait_event("SagaExecutor");
	(void) WaitLatch(MyLatch, WL_LATCH_SET | WL_TIMEOUT | WL_EXIT_ON_PM_DEATH,
					 ms, wait_event);
	ResetLatch(MyLatch);
}

/* Waits although the latch may be set meanwhile; not if the process must leave. */
void
saga_pool_wait_out(long ms)
{
	int64		until = saga_clock_steady() + ms * INT64CONST(1000);

	for (;;)
	{
		int64		rest = (until - saga_clock_steady() + 999) / 1000;

		if (rest <= 0 || saga_pool_must_leave())
			break;
		saga_pool_sleep((long) rest);
		saga_transaction_handle_interrupts();
	}
	/* What the latch was set for has not been looked at. */
	SetLatch(MyLatch);
}
