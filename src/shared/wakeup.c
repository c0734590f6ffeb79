/*-------------------------------------------------------------------------
 *
 * wakeup.c
 *	  Waking processes that have work to do or wait for a saga, after commit.
 *
 * What a transaction makes due is remembered in this backend and posted after
 * its commit (commit.c); a rolled-back transaction wakes nobody.  A rolled-back
 * savepoint may: the process that is woken then looks in vain.
 *
 * The first tickets that a transaction makes due are handed straight to
 * executors of their roles, as far as they have nothing to do (mailbox.c).  That
 * is a short cut and no more: the worker is woken for them as for all else, and
 * finds them in hand, or done.
 *
 * How a worker sleeps without polling and without losing a wake-up
 * ----------------------------------------------------------------
 *
 * Two numbers in the slot of the database are enough: "armed_due", until when
 * the worker sleeps, and "posted_due", the earliest due time that somebody
 * committed since the worker last began to look.
 *
 *	worker							backend
 *	W1 armed = -infinity			B1 the commit becomes visible
 *	W2 posted = infinity			B2 barrier
 *	W3 barrier; reset the latch		B3 posted = min(posted, due)
 *	W4 new snapshots; do what is	B4 barrier
 *	   due, note the earliest		B5 if armed > due: set the latch
 *	   due time of the rest
 *	W5 armed = that time
 *	W6 barrier
 *	W7 read posted; sleep until the
 *	   earlier of the two, or until
 *	   the latch is set
 *
 * No row is missed.  If B3 comes before W2, then B1 came before W4, and the
 * scan sees the row.  If B3 comes after W2, the worker's next read of posted
 * (W7) or the backend's read of armed (B5) comes after the other's write,
 * because each writes before its barrier and reads after it: either the worker
 * finds the post, or the backend finds the armed time and, if that is later
 * than what it has, sets the latch, which nobody resets before the next W3.
 * When B3 writes nothing, because posted is early enough already, then that
 * earlier post is still there to be found at W7, or else W2 took it away after
 * B1, and the scan sees the row.
 *
 * While the worker is busy, armed is -infinity and nobody pays for waking it.
 *
 * What else could lose a wake-up:
 *
 * - The worker's own waiting for a lock, in the middle of its turn, which resets
 *	 the latch.  Posts are numbers and stay; a process that has only
 *	 news sets "poked" before the latch, which is read with W7; what a signal asks
 *	 for is looked at after W7, before the worker sleeps.
 * - A backend that dies between commit and post: an orderly end runs the
 *	 callback first; any other makes the server restart its processes, and a
 *	 worker begins by looking.
 * - No worker: none was needed so far, or it made room for another database,
 *	 or it died.  Both numbers outlive it and the launcher starts one when the
 *	 earlier comes up.  A backend that finds no latch sets "wanted", under the
 *	 lock under which a worker comes and goes.
 * - COMMIT PREPARED, which remembers nothing of what PREPARE knew: "prepared"
 *	 makes the worker look each second for as long as there are prepared
 *	 transactions.  The worker resets it only if it did not change since
 *	 before it looked for some.  (statements.c also wakes the worker, and all that
 *	 wait for a saga, after a COMMIT PREPARED that it sees.)
 * - Locks: they are released after the callback, so that a worker may still
 *	 find the row locked.  A process that skips a row must look again soon.
 *
 * test/spin/waking.pml proves this with all interleavings, and that each step
 * is needed.
 *
 * Waiters for a saga's state sleep on one of WAIT_PARTITIONS condition
 * variables, chosen by the id; sharing costs a look in vain.  They are on its
 * list before they look, so that a broadcast after the commit finds them.
 *
 * Which process sleeps, how long at most, and what ends the sleep.  A sleep without a
 * limit must always be ended by another process; and since the latch may be reset in
 * between (waiting for a lock does that), that process must leave another sign, too.
 *
 * - The launcher, between turns: without limit if nothing is planned; the list of
 *   what wakes it is in launcher.c.
 * - A worker, between turns: until the next due time, or without limit.  Woken by
 *   a commit that makes something due; by an executor that puts a saga down
 *   undone, runs low, leaves, or is idle while a role waits (mailbox.c, shmem.c);
 *   by the launcher, evict.c and a reload.  What arrives after it has decided to
 *   leave goes to the launcher.
 * - A worker, for an executor that it started: without limit.  Woken by the
 *   executor as it leaves, or by the postmaster if it ends before it arrives.  For
 *   one that an earlier worker started: 60 s.
 * - A role that waits for an executor: 500 ms at a time, for the time slices.
 *   Woken when an executor leaves or becomes idle in any database, or another role
 *   stops waiting.
 * - A worker, after an error: 1 s.
 * - An executor without a ticket: saga.executor_idle_timeout.  Woken by its mailbox.
 * - An executor, for a suspect that runs alone: 200 ms at a time (quarantine.c).
 * - An executor, for a saga that another transaction writes: 5 ms to 1 s.
 * - saga.wait and saga.wait_step: a minute at a time.  Woken by the commit that
 *   changes the saga's state or the step, and by any COMMIT PREPARED.
 * - A statement that needs a database for itself: 5 ms at a time, 5 s in all
 *   (evict.c).
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "base/clock.h"
#include "base/compat.h"
#include "base/fault.h"
#include "base/ids.h"
#include "miscadmin.h"
#include "port/pg_bitutils.h"
#include "shared/mailbox.h"
#include "shared/shmem.h"
#include "shared/wakeup.h"

/* What the current transaction posts when it commits. */
typedef struct Remembered
{
	bool		anything;
	bool		launcher;		/* the launcher should look here */
	bool		databases;		/* it should look which databases there are */
	TimestampTz due;			/* DT_NOEND: nothing became due */
	uint64		partitions;		/* of the sagas that changed, or a step did */
	int			tickets;		/* to be handed over */
} Remembered;

/* Tickets that a transaction hands over at its commit; more are the worker's. */
#define HAND_OVERS	4

/* Waiters for a saga's state share this many condition variables. */
#define WAIT_PARTITIONS	64

/* The part of shared memory that this room owns */
typedef struct WaitersShared
{
	/* Signaled when a saga whose id falls into the partition changes state. */
	ConditionVariable state_changed[WAIT_PARTITIONS];
} WaitersShared;

/* NULL unless the library was preloaded. */
static WaitersShared *waiters = NULL;

StaticAssertDecl(WAIT_PARTITIONS == 64, "partitions must fit their mask");

static const Remembered nothing = {.due = DT_NOEND};
static Remembered remembered = {.due = DT_NOEND};

/* The tickets remembered, each of another saga or step, and their roles */
static SagaTicket hand_over[HAND_OVERS];
static Oid	hand_over_to[HAND_OVERS];

static inline int
partition_of(const pg_uuid_t *id)
{
	/* The last bytes of our ids are random. */
	return id->data[UUID_LEN - 1] % WAIT_PARTITIONS;
}

/*
 * There is no worker whose latch could be set.  Asks the launcher for one,
 * once; "look" when the extension may have come or gone.
 */
static void
want_worker(SagaDatabaseSlot *slot, bool look)
{
	bool		poke = false;

	LWLockAcquire(saga_shmem->lock, LW_EXCLUSIVE);
	if (look || slot->worker_latch == NULL)
	{
		/* A database with something due has the extension. */
		if (look || slot->state == SAGA_DATABASE_ABSENT)
		{
			slot->state = SAGA_DATABASE_UNKNOWN;
			saga_shmem->rescan = true;
			poke = true;
		}
		if (!slot->wanted)
		{
			slot->wanted = true;
			poke = true;
		}
	}
	/* A worker that came in between has not looked yet. */
	if (poke && saga_shmem->launcher_latch != NULL)
		SetLatch(saga_shmem->launcher_latch);
	LWLockRelease(saga_shmem->lock);
}

/*
 * Posts to the worker of a database a due time that is committed (the right
 * column above).
 */
void
saga_wakeup_post(SagaDatabaseSlot *slot, TimestampTz due)
{
	uint64		posted;
	bool		want = false;

	pg_memory_barrier();
	posted = pg_atomic_read_u64(&slot->posted_due);
	while ((TimestampTz) posted > due &&
		   !pg_atomic_compare_exchange_u64(&slot->posted_due, &posted,
										   (uint64) due))
		;
	pg_memory_barrier();

	if ((TimestampTz) pg_atomic_read_u64(&slot->armed_due) <= due)
		return;

	LWLockAcquire(saga_shmem->lock, LW_SHARED);
	if (slot->worker_latch != NULL)
		SetLatch(slot->worker_latch);
	else
		want = !slot->wanted || slot->state == SAGA_DATABASE_ABSENT;
	LWLockRelease(saga_shmem->lock);

	if (want)
		want_worker(slot, false);
}

/*
 * The slot of the current database, taken if there is none; NULL when there is
 * none to take.  It may be given back at any time (shmem.c), so what is posted
 * to it is posted again if it is not ours after that.
 */
static SagaDatabaseSlot *
my_slot(void)
{
	SagaDatabaseSlot *slot = saga_shmem_my_database();

	return slot != NULL ? slot : saga_shmem_database(MyDatabaseId, true);
}

static void
wakeup_all(const Remembered *what)
{
	SagaDatabaseSlot *slot;

	if (what->partitions != 0)
	{
		for (uint64 rest = what->partitions; rest != 0; rest &= rest - 1)
			ConditionVariableBroadcast(&waiters->state_changed[pg_rightmost_one_pos64(rest)]);
	}

	if (what->databases)
		saga_shmem_poke_launcher(true);
	if (what->due == DT_NOEND && !what->launcher)
		return;
	slot = my_slot();
	for (int i = 0; slot != NULL && i < what->tickets; i++)
		saga_mailbox_hand_over(slot, hand_over_to[i], &hand_over[i]);
	while (slot != NULL)
	{
		if (what->due != DT_NOEND)
			saga_wakeup_post(slot, what->due);
		if (what->launcher)
			want_worker(slot, true);
		if (slot->database == MyDatabaseId)
			break;
		slot = my_slot();
	}
}

/*
 * The session that says COMMIT PREPARED will not know what becomes due by it.
 */
static void
wakeup_prepared(void)
{
	SagaDatabaseSlot *slot;

	do
	{
		slot = my_slot();
		if (slot == NULL)
			return;
		pg_atomic_fetch_add_u32(&slot->prepared, 1);
		/* Whatever the worker sleeps for, it must begin to poll. */
		saga_wakeup_post(slot, saga_clock_now());
	} while (slot->database != MyDatabaseId);
}

/* The transaction is prepared. */
void
saga_wakeup_prepared(void)
{
	if (remembered.due != DT_NOEND || remembered.launcher)
		wakeup_prepared();
}

/*
 * The transaction is over.  What is remembered is forgotten first, so that nobody is
 * woken twice.
 */
void
saga_wakeup_end_transaction(bool committed)
{
	Remembered	what;

	if (!remembered.anything)
		return;
	what = remembered;
	remembered = nothing;
	if (!committed)
		return;
	SAGA_FAULT("wakeup.after_commit");
	wakeup_all(&what);
}

static void
init_waiters(void *part)
{
	waiters = part;
	for (int i = 0; i < WAIT_PARTITIONS; i++)
		ConditionVariableInit(&waiters->state_changed[i]);
}

void
saga_wakeup_register(void)
{
	saga_shmem_register_part("saga waiters", sizeof(WaitersShared),
							 (void **) &waiters, init_waiters);
}

/* Something is due at that time, once the transaction commits. */
void
saga_wakeup_due(TimestampTz due)
{
	if (saga_shmem == NULL || due >= remembered.due)
		return;
	remembered.anything = true;
	remembered.due = due;
}

/*
 * This ticket is due, for an executor of a role.  Something that the same transaction
 * makes due twice is handed over as the last call says.
 */
void
saga_wakeup_hand_over(const SagaTicket *ticket, Oid lane)
{
	int			i = 0;

	if (saga_shmem == NULL)
		return;
	saga_wakeup_due(ticket->due);
	while (i < remembered.tickets &&
		   (hand_over[i].seq != ticket->seq ||
			!saga_ids_equal(&hand_over[i].saga, &ticket->saga)))
		i++;
	if (i == HAND_OVERS)
		return;
	remembered.tickets = Max(remembered.tickets, i + 1);
	hand_over[i] = *ticket;
	hand_over_to[i] = lane;
}

/*
 * Sagas may have changed their state by a transaction of which nobody
 * remembers what it did: all waiters look.
 */
void
saga_wakeup_all_waiting(void)
{
	if (saga_shmem == NULL)
		return;
	for (int i = 0; i < WAIT_PARTITIONS; i++)
		ConditionVariableBroadcast(&waiters->state_changed[i]);
}

/* A saga changes its state, or one of its steps does, with this transaction. */
void
saga_wakeup_state(const pg_uuid_t *id)
{
	if (saga_shmem == NULL)
		return;
	remembered.anything = true;
	remembered.partitions |= UINT64CONST(1) << partition_of(id);
}

/* The extension comes with this transaction. */
void
saga_wakeup_launcher(void)
{
	if (saga_shmem == NULL)
		return;
	remembered.anything = true;
	remembered.launcher = true;
}

/* With this transaction, a database may be one that is served, or not. */
void
saga_wakeup_databases(void)
{
	if (saga_shmem == NULL)
		return;
	remembered.anything = true;
	remembered.databases = true;
}

/*
 * The worker begins to look (W1 to W3).  It must take its snapshots after this
 * call.  Returns the earliest due time posted since it last looked, or
 * DT_NOEND.
 */
TimestampTz
saga_wakeup_look(SagaDatabaseSlot *slot)
{
	TimestampTz posted;

	pg_atomic_write_u64(&slot->armed_due, (uint64) PG_INT64_MIN);
	pg_atomic_write_u32(&slot->poked, 0);
	posted = (TimestampTz) pg_atomic_exchange_u64(&slot->posted_due,
												  (uint64) DT_NOEND);
	pg_memory_barrier();
	ResetLatch(MyLatch);
	return posted;
}

/*
 * The worker saw everything, and what comes next is due then (W5 to W7).
 * Returns until when to sleep.
 */
TimestampTz
saga_wakeup_arm(SagaDatabaseSlot *slot, TimestampTz due)
{
	TimestampTz posted;

	pg_atomic_write_u64(&slot->armed_due, (uint64) due);
	pg_memory_barrier();
	if (pg_atomic_read_u32(&slot->poked) != 0)
		return DT_NOBEGIN;
	posted = (TimestampTz) pg_atomic_read_u64(&slot->posted_due);
	if (posted >= due)
		return due;

	/* A backend that posts an earlier time meanwhile finds "due" or this one. */
	pg_atomic_write_u64(&slot->armed_due, (uint64) posted);
	return posted;
}

void
saga_wakeup_wait_begin(const pg_uuid_t *id)
{
	if (saga_shmem != NULL)
		ConditionVariablePrepareToSleep(&waiters->state_changed[partition_of(id)]);
}

void
saga_wakeup_wait_sleep(const pg_uuid_t *id, long timeout_ms)
{
	static uint32 wait_event = 0;

	if (wait_event == 0)
		wait_event = saga_compat_wait_event("SagaWait");

	if (saga_shmem != NULL)
	{
		(void) ConditionVariableTimedSleep(&waiters->state_changed[partition_of(id)],
										   timeout_ms, wait_event);
		return;
	}

	(void) WaitLatch(MyLatch,
					 WL_LATCH_SET | WL_TIMEOUT | WL_EXIT_ON_PM_DEATH,
					 timeout_ms, wait_event);
	ResetLatch(MyLatch);
	CHECK_FOR_INTERRUPTS();
}

void
saga_wakeup_wait_end(void)
{
	if (saga_shmem != NULL)
		ConditionVariableCancelSleep();
}
