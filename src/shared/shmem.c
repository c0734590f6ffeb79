/*-------------------------------------------------------------------------
 *
 * shmem.c
 *	  What saga's processes and the backends share.
 *
 * Everything is allocated once, when the server (re)starts its processes, at a
 * fixed size: there is nothing to grow and nothing to leak.  What a field
 * means and what writes it under which lock stands beside it in shmem.h.
 *
 * Life of a database's slot.  Taken by the first process that needs it: the
 * launcher for each database it should serve, a backend that commits due work,
 * a statement that wants our processes gone.  Freed by the launcher when the
 * database is gone, and by the end of such a statement if nobody else has said
 * anything of the database: CREATE DATABASE takes one for template1, where no
 * process of ours ever is.  When all are taken, one of a database known to be without
 * the extension is handed on; a backend that remembers a slot therefore
 * compares the database before each use.  Should the slot change hands between
 * that comparison and the use, the new holder is woken for nothing.
 *
 * Life of a worker in a slot:
 *
 *	worker_pid   0            the launcher may start one
 *	        STARTING    set by the launcher as it asks the postmaster
 *	        its pid     set by the worker as it attaches, before it connects
 *	             0            set by the worker as it leaves, or by the launcher
 *	                    when the one it asked for ended without attaching
 *
 * A worker attaches before it connects to the database, and its detaching was
 * registered before the server's own clean-up of the session: so it detaches
 * after its transaction is over and its locks are released.  A session that
 * wants the database for itself (evict.c) thus finds in the slots every
 * process that is, or will be, connected to it.
 *
 * The callbacks of commit and of process exit come here: nothing below may
 * raise an error or allocate memory.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "base/clock.h"
#include "miscadmin.h"
#include "shared/shmem.h"
#include "storage/ipc.h"
#include "storage/shmem.h"

#define SAGA_TRANCHE	"saga"

SagaShmem  *saga_shmem = NULL;

static shmem_request_hook_type prev_request_hook = NULL;
static shmem_startup_hook_type prev_startup_hook = NULL;

/* The slot of the current database, once it was looked up. */
static SagaDatabaseSlot *my_database_slot = NULL;

/* The slot that this worker is attached to. */
static SagaDatabaseSlot *attached_slot = NULL;

/* The parts of shared memory, as their rooms asked for them. */
typedef struct Part
{
	const char *name;
	Size		size;
	void	  **where;
	void		(*init) (void *part);
} Part;

#define MAX_PARTS	9
static Part parts[MAX_PARTS];
static int	part_count = 0;

static void
shmem_request(void)
{
	if (prev_request_hook)
		prev_request_hook();
	for (int i = 0; i < part_count; i++)
		RequestAddinShmemSpace(MAXALIGN(parts[i].size));
	RequestNamedLWLockTranche(SAGA_TRANCHE, SAGA_LOCKS);
}

LWLock *
saga_shmem_lock(SagaLock lock)
{
	return &(GetNamedLWLockTranche(SAGA_TRANCHE))[lock].lock;
}

/* Caller holds "lock", or nobody else can see the slot yet. */
static void
clear_database_slot(SagaDatabaseSlot *slot)
{
	slot->database = InvalidOid;
	slot->state = SAGA_DATABASE_UNKNOWN;
	slot->worker_pid = 0;
	slot->worker_latch = NULL;
	slot->wanted = false;
	slot->worker_failed = false;
	slot->asked_to_leave = false;
	slot->must_leave = false;
	slot->careful = false;
	slot->channels_next = 0;
	slot->channels_pause = 0;
	pg_atomic_write_u32(&slot->poked, 0);
	pg_atomic_write_u32(&slot->wants_executor, SAGA_WANTS_NONE);
	pg_atomic_write_u32(&slot->keep_away, 0);
	pg_atomic_write_u64(&slot->armed_due, (uint64) PG_INT64_MIN);
	pg_atomic_write_u64(&slot->posted_due, (uint64) DT_NOEND);
	pg_atomic_write_u32(&slot->prepared, 0);
	pg_atomic_write_u32(&slot->left_records, 0);
	pg_atomic_write_u64(&slot->high_seq, 0);
}

static void
init_slots(void *part)
{
	SagaShmem  *shmem = part;
	int			i;

	memset(shmem, 0, sizeof(SagaShmem));
	shmem->lock = saga_shmem_lock(SAGA_LOCK_SLOTS);

	/* Zero stands for "no life" in files. */
	while (shmem->life == 0)
	{
		if (!pg_strong_random(&shmem->life, sizeof(shmem->life)))
			ereport(ERROR,
					(errcode(ERRCODE_INTERNAL_ERROR),
					 errmsg("could not generate a random number")));
	}

	for (i = 0; i < SAGA_MAX_DATABASES; i++)
	{
		SagaDatabaseSlot *slot = &shmem->databases[i];

		pg_atomic_init_u32(&slot->keep_away, 0);
		pg_atomic_init_u64(&slot->armed_due, 0);
		pg_atomic_init_u64(&slot->posted_due, 0);
		pg_atomic_init_u32(&slot->prepared, 0);
		pg_atomic_init_u32(&slot->poked, 0);
		pg_atomic_init_u32(&slot->wants_executor, 0);
		pg_atomic_init_u32(&slot->left_records, 0);
		pg_atomic_init_u64(&slot->high_seq, 0);
		clear_database_slot(slot);
	}
	for (i = 0; i < SAGA_MAX_EXECUTORS; i++)
		SpinLockInit(&shmem->executors[i].mutex);
	pg_atomic_init_u32(&shmem->executor_wanted, 0);
}

static void
shmem_startup(void)
{
	if (prev_startup_hook)
		prev_startup_hook();

	LWLockAcquire(AddinShmemInitLock, LW_EXCLUSIVE);
	for (int i = 0; i < part_count; i++)
	{
		bool		found;
		void	   *part = ShmemInitStruct(parts[i].name, parts[i].size, &found);

		if (!found)
			parts[i].init(part);
		*parts[i].where = part;
	}
	LWLockRelease(AddinShmemInitLock);
}

void
saga_shmem_register_part(const char *name, Size size, void **where,
						 void (*init) (void *part))
{
	if (!process_shared_preload_libraries_in_progress)
		return;
	Assert(part_count < MAX_PARTS);
	parts[part_count].name = name;
	parts[part_count].size = size;
	parts[part_count].where = where;
	parts[part_count].init = init;
	part_count++;
}

void
saga_shmem_register(void)
{
	if (!process_shared_preload_libraries_in_progress)
		return;

	saga_shmem_register_part("saga", sizeof(SagaShmem), (void **) &saga_shmem,
							 init_slots);
	prev_request_hook = shmem_request_hook;
	shmem_request_hook = shmem_request;
	prev_startup_hook = shmem_startup_hook;
	shmem_startup_hook = shmem_startup;
}

/*
 * May a slot be handed on to another database?  Nothing may be lost with it:
 * nobody works there, wants it, or keeps away from it.
 */
static bool
may_hand_on(SagaDatabaseSlot *slot)
{
	return slot->state == SAGA_DATABASE_ABSENT &&
		slot->worker_pid == 0 && !slot->wanted &&
		pg_atomic_read_u32(&slot->keep_away) == 0 &&
		pg_atomic_read_u32(&slot->prepared) == 0;
}

static SagaDatabaseSlot *
find_database(Oid database)
{
	int			i;

	for (i = 0; i < SAGA_MAX_DATABASES; i++)
	{
		if (saga_shmem->databases[i].database == database)
			return &saga_shmem->databases[i];
	}
	return NULL;
}

/*
 * The slot of a database; takes one, if there is none and "take" asks for it,
 * and then wakes the launcher, which has not heard of the database.  NULL
 * without shared memory, or when there is none to take.
 */
SagaDatabaseSlot *
saga_shmem_database(Oid database, bool take)
{
	SagaDatabaseSlot *slot;

	if (saga_shmem == NULL || !OidIsValid(database))
		return NULL;

	LWLockAcquire(saga_shmem->lock, LW_SHARED);
	slot = find_database(database);
	LWLockRelease(saga_shmem->lock);
	if (slot != NULL || !take)
		return slot;

	LWLockAcquire(saga_shmem->lock, LW_EXCLUSIVE);
	slot = find_database(database);
	if (slot == NULL)
	{
		slot = find_database(InvalidOid);
		if (slot == NULL)
		{
			int			i;

			for (i = 0; i < SAGA_MAX_DATABASES && slot == NULL; i++)
			{
				if (may_hand_on(&saga_shmem->databases[i]))
					slot = &saga_shmem->databases[i];
			}
		}
		if (slot != NULL)
		{
			clear_database_slot(slot);
			slot->database = database;
			saga_shmem->rescan = true;
			if (saga_shmem->launcher_latch != NULL)
				SetLatch(saga_shmem->launcher_latch);
		}
	}
	LWLockRelease(saga_shmem->lock);
	return slot;
}

/*
 * The database is gone: its slot is free, unless somebody still holds on to
 * it, which wakes the launcher when it is done.
 */
void
saga_shmem_free_database(SagaDatabaseSlot *slot, Oid database)
{
	LWLockAcquire(saga_shmem->lock, LW_EXCLUSIVE);
	if (slot->database == database && slot->worker_pid == 0 &&
		pg_atomic_read_u32(&slot->keep_away) == 0)
		clear_database_slot(slot);
	LWLockRelease(saga_shmem->lock);
}

/* Has nobody said anything of the database of a slot? */
static bool
nothing_said(SagaDatabaseSlot *slot)
{
	return slot->state == SAGA_DATABASE_UNKNOWN &&
		slot->worker_pid == 0 && !slot->wanted &&
		pg_atomic_read_u32(&slot->keep_away) == 0 &&
		pg_atomic_read_u32(&slot->poked) == 0 &&
		pg_atomic_read_u32(&slot->prepared) == 0 &&
		pg_atomic_read_u32(&slot->left_records) == 0 &&
		pg_atomic_read_u64(&slot->high_seq) == 0 &&
		(TimestampTz) pg_atomic_read_u64(&slot->posted_due) == DT_NOEND;
}

/*
 * The process that took the slot needs it no longer: it is free, unless
 * another has something to say.  The caller holds "lock" exclusively.
 *
 * What is said without the lock is said before the slot's database is looked at
 * again (wakeup.c); here the database goes before what was said is looked at.
 * So one of the two sees the other.
 */
void
saga_shmem_give_back_database(SagaDatabaseSlot *slot)
{
	Oid			database = slot->database;

	slot->database = InvalidOid;
	pg_memory_barrier();
	if (nothing_said(slot))
		clear_database_slot(slot);
	else
		slot->database = database;
}

/*
 * The slot of the current database, if it has one; remembered, so that it
 * costs a comparison.  A slot is handed on only while the extension is not
 * there, and freed only when the database is gone or nobody said anything of it.
 */
SagaDatabaseSlot *
saga_shmem_my_database(void)
{
	if (my_database_slot == NULL || my_database_slot->database != MyDatabaseId)
		my_database_slot = saga_shmem_database(MyDatabaseId, false);
	return my_database_slot;
}

/*
 * The largest number drawn from the current database's start order since the server
 * started; 0: not known.
 */
uint64
saga_shmem_high_seq(void)
{
	SagaDatabaseSlot *slot = saga_shmem_my_database();

	return slot != NULL ? pg_atomic_read_u64(&slot->high_seq) : 0;
}

/*
 * Notes that a number was drawn from the current database's start order, and
 * returns the largest one drawn before it since the server started; 0 when
 * that is not known.
 */
uint64
saga_shmem_raise_seq(uint64 seq)
{
	SagaDatabaseSlot *slot;
	uint64		old;

	slot = saga_shmem_my_database();
	if (slot == NULL)
		return 0;

	old = pg_atomic_read_u64(&slot->high_seq);
	while (old < seq &&
		   !pg_atomic_compare_exchange_u64(&slot->high_seq, &old, seq))
		;
	return old;
}

/*
 * Besides the latch, sets a flag: a worker that waits for a lock in the middle of its
 * turn takes any latch for the end of that wait; and the launcher sends a worker
 * where the flag is set.
 */
void
saga_shmem_poke_worker(SagaDatabaseSlot *slot)
{
	pg_atomic_write_u32(&slot->poked, 1);
	pg_memory_barrier();
	if (slot->worker_latch != NULL)
		SetLatch(slot->worker_latch);
	else if (saga_shmem->launcher_latch != NULL)
		SetLatch(saga_shmem->launcher_latch);
}

/*
 * The worker of a database was refused an executor, and wants to be woken when
 * one becomes free or idle.
 *
 * It says so before it looks for one that is idle, under "lock" held
 * exclusively; an executor puts its saga down before it asks whether somebody
 * wants it, and in between takes that lock (saga_mailbox_take).  So one of the
 * two sees the other.
 */
void
saga_shmem_want_executor(SagaDatabaseSlot *slot, SagaWants wants)
{
	if (pg_atomic_read_u32(&slot->wants_executor) < (uint32) wants)
		pg_atomic_write_u32(&slot->wants_executor, wants);
	pg_atomic_write_u32(&saga_shmem->executor_wanted, 1);
}

/*
 * Wakes the workers that want an executor, and that of the given database, if
 * there is one.
 */
void
saga_shmem_wake_wanting(Oid database)
{
	int			i;

	for (i = 0; i < SAGA_MAX_DATABASES; i++)
	{
		SagaDatabaseSlot *slot = &saga_shmem->databases[i];

		if (slot->worker_latch != NULL &&
			(slot->database == database ||
			 pg_atomic_read_u32(&slot->wants_executor) != SAGA_WANTS_NONE))
			saga_shmem_poke_worker(slot);
	}
}

/* An executor has nothing to do: another role may want its place. */
void
saga_shmem_executor_idle(void)
{
	if (pg_atomic_read_u32(&saga_shmem->executor_wanted) == 0 ||
		pg_atomic_exchange_u32(&saga_shmem->executor_wanted, 0) == 0)
		return;
	LWLockAcquire(saga_shmem->lock, LW_SHARED);
	saga_shmem_wake_wanting(InvalidOid);
	LWLockRelease(saga_shmem->lock);
}

void
saga_shmem_poke_launcher(bool rescan)
{
	if (saga_shmem == NULL)
		return;
	LWLockAcquire(saga_shmem->lock, LW_EXCLUSIVE);
	if (rescan)
		saga_shmem->rescan = true;
	if (saga_shmem->launcher_latch != NULL)
		SetLatch(saga_shmem->launcher_latch);
	LWLockRelease(saga_shmem->lock);
}

/* Roles of the database do not wait any more; lock held exclusively. */
static void
forget_waiting(SagaDatabaseSlot *slot)
{
	bool		any = false;
	int			i;

	for (i = 0; i < SAGA_MAX_EXECUTORS; i++)
	{
		if (saga_shmem->waiting[i].database != slot->database)
			continue;
		saga_shmem->waiting[i].database = InvalidOid;
		any = true;
	}
	pg_atomic_write_u32(&slot->wants_executor, SAGA_WANTS_NONE);
	/* It may have been their turn. */
	if (any)
		saga_shmem_wake_wanting(InvalidOid);
}

/*
 * The worker is about to leave of its own accord.  "work": executors have
 * something in hand, or will have what was handed out done by somebody else.
 * From now on, news goes to the launcher; news that the worker got until now
 * and did not look at any more is for the next one.
 */
void
saga_shmem_worker_leaves(bool work)
{
	SagaDatabaseSlot *slot = attached_slot;

	Assert(slot != NULL);
	LWLockAcquire(saga_shmem->lock, LW_EXCLUSIVE);
	slot->worker_latch = NULL;
	if (slot->state != SAGA_DATABASE_ABSENT &&
		(work || pg_atomic_read_u32(&slot->poked) != 0))
		slot->wanted = true;
	LWLockRelease(saga_shmem->lock);
}

/*
 * before_shmem_exit: the worker leaves, for whatever reason.  Of one that did
 * not mean to, nobody knows what it had still to do.
 */
static void
worker_detach(int code, Datum arg)
{
	SagaDatabaseSlot *slot = attached_slot;

	if (slot == NULL)
		return;
	attached_slot = NULL;

	LWLockAcquire(saga_shmem->lock, LW_EXCLUSIVE);
	slot->worker_pid = 0;
	slot->worker_latch = NULL;
	if (code != 0 && slot->state != SAGA_DATABASE_ABSENT)
		slot->wanted = true;
	forget_waiting(slot);
	slot->asked_to_leave = false;
	slot->must_leave = false;
	slot->worker_failed = (code != 0);
	if (saga_shmem->launcher_latch != NULL)
		SetLatch(saga_shmem->launcher_latch);
	LWLockRelease(saga_shmem->lock);
}

/*
 * The current process becomes the worker of a database.  NULL when it must
 * not: our processes are kept away from it, or it has a worker already.  The
 * launcher is woken, because what it would ask of a worker it asks of none
 * that is still on its way.
 */
SagaDatabaseSlot *
saga_shmem_worker_attach(Oid database)
{
	SagaDatabaseSlot *slot;

	Assert(saga_shmem != NULL && attached_slot == NULL);
	before_shmem_exit(worker_detach, (Datum) 0);

	LWLockAcquire(saga_shmem->lock, LW_EXCLUSIVE);
	slot = find_database(database);
	if (slot != NULL && slot->worker_pid <= 0 &&
		pg_atomic_read_u32(&slot->keep_away) == 0)
	{
		slot->worker_pid = MyProcPid;
		slot->worker_latch = MyLatch;
		slot->wanted = false;
		slot->asked_to_leave = false;
		slot->must_leave = false;
		slot->worker_failed = false;
		pg_atomic_write_u64(&slot->armed_due, (uint64) PG_INT64_MIN);
		attached_slot = slot;
	}
	else
	{
		/* The launcher need not wait for the postmaster's signal. */
		if (slot != NULL && slot->worker_pid == SAGA_PID_STARTING)
			slot->worker_pid = 0;
		slot = NULL;
	}
	if (saga_shmem->launcher_latch != NULL)
		SetLatch(saga_shmem->launcher_latch);
	LWLockRelease(saga_shmem->lock);
	return slot;
}

/*
 * The worker says what its database turned out to be.  When somebody asked to
 * look again since it attached, "absent" may be old news: the database then
 * stays unknown, and the launcher sends another worker.
 */
void
saga_shmem_worker_found(SagaDatabaseState state)
{
	SagaDatabaseSlot *slot = attached_slot;

	Assert(slot != NULL);

	LWLockAcquire(saga_shmem->lock, LW_EXCLUSIVE);
	if (state == SAGA_DATABASE_ABSENT)
	{
		slot->state = slot->wanted ? SAGA_DATABASE_UNKNOWN : state;
		/* The next one that has something due must call for a worker. */
		pg_atomic_write_u64(&slot->armed_due, (uint64) DT_NOEND);
		/* A new ledger counts from the beginning. */
		pg_atomic_write_u64(&slot->high_seq, 0);
	}
	else
	{
		slot->state = state;
		slot->wanted = false;
	}
	LWLockRelease(saga_shmem->lock);
}

/*
 * Should the worker leave now?  To be asked at each pass; "idle" says that
 * it has nothing due soon.
 */
bool
saga_shmem_worker_must_leave(bool idle)
{
	SagaDatabaseSlot *slot = attached_slot;

	Assert(slot != NULL);
	return !saga_guc_enabled ||
		pg_atomic_read_u32(&slot->keep_away) > 0 ||
		slot->must_leave ||
		(idle && slot->asked_to_leave);
}
