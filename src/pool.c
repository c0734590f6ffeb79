/*-------------------------------------------------------------------------
 *
 * pool.c
 *	  The executors of the server: who has them, and what they are handed.
 *
 * The slots of saga_shmem->executors are shared by all databases.  A worker
 * takes one for a role of its database, starts the process, and puts sagas
 * into its mailbox; the executor takes them out, one at a time, and steals
 * from the others of its role when it has none.  Mailboxes are hints: what is
 * lost with one is still due in the ledger.
 *
 * Fairness.  When none is free, a worker makes an entry in the list of those
 * who wait.  It then gets the next free slot in the order of the entries.  An
 * idle executor of another role is dismissed at once.  While others wait, a
 * role holds at most half of the executors, rounded up, and one that waited
 * longer than a slice of time without getting any takes the place of the
 * executor that has run longest.  Dismissed executors finish the saga in hand.
 *
 * Locks: as shmem.h says.  Stealing needs "lock" exclusively and two mutexes,
 * in the order of the slots; whoever needs to know about all sagas in hand
 * takes "lock" shared, so that none moves behind his back.  SetLatch under a
 * mutex is avoided.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "alone.h"
#include "clock.h"
#include "compat.h"
#include "miscadmin.h"
#include "pool.h"
#include "storage/ipc.h"
#include "utils/memutils.h"
#include "utils/timestamp.h"

/* An entry not refreshed for so long is nobody's. */
#define SAGA_POOL_WAITER_LIFE_MS	5000
/* So long may an executor run while others have none. */
#define SAGA_POOL_SLICE_MS			1000
/* A slot whose process did not arrive for so long is taken back. */
#define SAGA_POOL_START_LIMIT_MS	60000

/* Refill a mailbox that has no more than this. */
#define SAGA_POOL_LOW				(SAGA_MAILBOX_SIZE / 4)

/* What this worker knows of the executors it started. */
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

static inline uint32
mail_count(const SagaExecutorSlot *slot)
{
	return slot->tail - slot->head;
}

/* The callers hold "lock". */
static inline bool
is_mine(const SagaExecutorSlot *slot, Oid role)
{
	return slot->database == MyDatabaseId &&
		(!OidIsValid(role) || slot->role == role);
}

static bool
is_idle(SagaExecutorSlot *slot)
{
	bool		idle;

	SpinLockAcquire(&slot->mutex);
	idle = !slot->working && mail_count(slot) == 0;
	SpinLockRelease(&slot->mutex);
	return idle && slot->pid != 0;
}

/*
 * Wakes the workers that may have to do with a slot that became free: those
 * who wait, and the one whose executor it was.
 */
static void
wake_workers(Oid database)
{
	int			i;
	int			w;

	for (i = 0; i < SAGA_MAX_DATABASES; i++)
	{
		SagaDatabaseSlot *slot = &saga_shmem->databases[i];
		bool		concerned;

		if (!OidIsValid(slot->database) || slot->worker_latch == NULL)
			continue;
		concerned = slot->database == database;
		for (w = 0; w < SAGA_MAX_EXECUTORS && !concerned; w++)
			concerned = saga_shmem->waiting[w].database == slot->database;
		if (concerned)
			SetLatch(slot->worker_latch);
	}
}

/*
 * Tells an executor to leave when the saga in hand is done, which may take
 * long.  What waits in its mailbox is for the worker to hand out again.  The
 * caller holds "lock" exclusively.
 */
static void
dismiss(SagaExecutorSlot *slot)
{
	bool		mail;

	if (!slot->dismissed)
		slot->dismissed_at = GetCurrentTimestamp();
	slot->dismissed = true;
	SpinLockAcquire(&slot->mutex);
	mail = mail_count(slot) > 0;
	slot->skipped += mail_count(slot);
	slot->head = slot->tail;
	SpinLockRelease(&slot->mutex);
	if (slot->latch != NULL)
		SetLatch(slot->latch);
	if (mail)
		wake_workers(slot->database);
}

static void
wake_own_worker(void)
{
	SagaDatabaseSlot *slot = saga_shmem_my_database();

	if (slot == NULL)
		return;
	LWLockAcquire(saga_shmem->lock, LW_SHARED);
	if (slot->worker_latch != NULL)
		SetLatch(slot->worker_latch);
	LWLockRelease(saga_shmem->lock);
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
	SpinLockAcquire(&slot->mutex);
	slot->working = false;
	slot->seq = 0;
	SpinLockRelease(&slot->mutex);
	wake_workers(database);
}

/* ------------------------------------------------------------------------
 * The worker's side: who gets an executor
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
note_waiting(Oid role, TimestampTz now)
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
count_waiting(Oid role, TimestampTz now, int *others, int *earlier,
			  TimestampTz *longest)
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
		if (now - w->seen > SAGA_POOL_WAITER_LIFE_MS * INT64CONST(1000))
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
 * No place is free: see whose this role may take, once that one has finished
 * the saga in hand.  A role that has an executor takes that of an idle one.
 */
static void
make_room(Oid role, bool has_some, TimestampTz since, TimestampTz now)
{
	int			half = (saga_guc_max_executors + 1) / 2;
	SagaExecutorSlot *victim = NULL;
	int			i;

	for (i = 0; i < SAGA_MAX_EXECUTORS && victim == NULL; i++)
	{
		SagaExecutorSlot *slot = &saga_shmem->executors[i];

		if (OidIsValid(slot->database) && !slot->dismissed &&
			!is_mine(slot, role) && is_idle(slot))
			victim = slot;
	}
	if (victim == NULL && has_some)
		return;

	/*
	 * One place is what is asked for, and somebody is on his way out already;
	 * but not one who is taking long over the saga in hand.
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

/* Takes a slot for the role; -1 if it has to wait. */
static int
take_slot(Oid role, uint32 *generation)
{
	TimestampTz now = GetCurrentTimestamp();
	TimestampTz since;
	int			others;
	int			earlier;
	int			total;
	int			mine;
	int			limit;
	int			index = -1;
	int			i;

	LWLockAcquire(saga_shmem->lock, LW_EXCLUSIVE);
	count_waiting(role, now, &others, &earlier, &since);
	total = count_role(InvalidOid, InvalidOid);
	mine = count_role(MyDatabaseId, role);
	limit = others > 0 ? (saga_guc_max_executors + 1) / 2 :
		saga_guc_max_executors;

	/* Those who waited longer come first, and one that has some comes last. */
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
			own->database = InvalidOid;
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
		SpinLockAcquire(&slot->mutex);
		slot->head = slot->tail = 0;
		slot->working = false;
		slot->seq = 0;
		slot->idle_since = now;
		slot->skipped = 0;
		slot->passed_by = false;
		slot->given_back = false;
		slot->refill = false;
		SpinLockRelease(&slot->mutex);
		*generation = slot->generation;
	}
	else if (total >= saga_guc_max_executors || mine == 0)
	{
		if (mine == 0)
			note_waiting(role, now);
		make_room(role, mine > 0, since, now);
	}
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
	if (own->handle != NULL)
		pfree(own->handle);
	own->handle = NULL;
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
		return SAGA_POOL_STARTED;

	own->generation = 0;
	LWLockAcquire(saga_shmem->lock, LW_EXCLUSIVE);
	if (saga_shmem->executors[index].generation == generation)
		free_slot(&saga_shmem->executors[index]);
	LWLockRelease(saga_shmem->lock);
	return SAGA_POOL_NO_PLACE;
}

/* The role (InvalidOid: no role of this database) does not wait any more. */
void
saga_pool_forget_waiting(Oid role)
{
	int			i;

	LWLockAcquire(saga_shmem->lock, LW_EXCLUSIVE);
	for (i = 0; i < SAGA_MAX_EXECUTORS; i++)
	{
		SagaWaiter *w = &saga_shmem->waiting[i];

		if (w->database == MyDatabaseId &&
			(!OidIsValid(role) || w->role == role))
			w->database = InvalidOid;
	}
	LWLockRelease(saga_shmem->lock);
}

static void
note_failed(Oid role)
{
	if (failed_count < SAGA_MAX_EXECUTORS)
		failed_roles[failed_count++] = role;
}

/*
 * Looks after the slots of the current database.  Takes back those whose
 * process ended before it could attach.  True if an executor left, or a record
 * of what it had been doing was left, since the last call.
 */
bool
saga_pool_tend(void)
{
	TimestampTz now = GetCurrentTimestamp();
	bool		left = false;
	int			i;

	for (i = 0; i < SAGA_MAX_EXECUTORS; i++)
	{
		SagaExecutorSlot *slot = &saga_shmem->executors[i];
		Started    *own = &started[i];
		bool		gone;
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
			free_slot(slot);

		gone = own->generation != 0 &&
			(own->generation != slot->generation ||
			 !OidIsValid(slot->database));
		if (gone)
		{
			left = true;
			/* Still as it left it: did it come so far as to take anything? */
			if (own->generation == slot->generation && !slot->ready)
				note_failed(own->role);
			own->generation = 0;
			if (own->handle != NULL)
				pfree(own->handle);
			own->handle = NULL;
		}
		/* Adopt what an earlier worker of this database started. */
		if (own->generation == 0 && slot->database == MyDatabaseId)
		{
			own->generation = slot->generation;
			own->role = slot->role;
		}
		LWLockRelease(saga_shmem->lock);
	}
	if (pg_atomic_exchange_u32(&saga_shmem_my_database()->left_records, 0) != 0)
		left = true;
	return left;
}

/*
 * Has an executor left a record since?  To be asked behind saga_pool_in_hand:
 * a saga that is in no executor's hand any more may have one.
 */
bool
saga_pool_left_record(void)
{
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

/* ------------------------------------------------------------------------
 * The worker's side: mailboxes
 * ------------------------------------------------------------------------ */

static int
compare_ids(const void *a, const void *b)
{
	return memcmp(a, b, sizeof(pg_uuid_t));
}

/*
 * The sagas that the role's executors in this database have in hand or in a
 * mailbox, sorted, in the current memory context.  Those of other roles do not
 * count: one of them may have moved a saga to this role's lane, committed that,
 * and not put the saga down yet, and nobody will say so when it does.
 */
int
saga_pool_in_hand(Oid role, pg_uuid_t **ids)
{
	int			count = 0;
	int			size = 0;
	int			i;

	LWLockAcquire(saga_shmem->lock, LW_SHARED);
	for (i = 0; i < SAGA_MAX_EXECUTORS; i++)
	{
		if (is_mine(&saga_shmem->executors[i], role))
			size += SAGA_MAILBOX_SIZE + 1;
	}
	LWLockRelease(saga_shmem->lock);
	*ids = palloc(Max(size, 1) * sizeof(pg_uuid_t));

	LWLockAcquire(saga_shmem->lock, LW_SHARED);
	for (i = 0; i < SAGA_MAX_EXECUTORS; i++)
	{
		SagaExecutorSlot *slot = &saga_shmem->executors[i];
		uint32		at;

		/* Only this process adds slots to this database. */
		if (!is_mine(slot, role) ||
			count + SAGA_MAILBOX_SIZE + 1 > size)
			continue;
		SpinLockAcquire(&slot->mutex);
		for (at = slot->head; at != slot->tail; at++)
			(*ids)[count++] = slot->mailbox[at % SAGA_MAILBOX_SIZE];
		if (slot->working)
			(*ids)[count++] = slot->saga;
		SpinLockRelease(&slot->mutex);
	}
	LWLockRelease(saga_shmem->lock);
	qsort(*ids, count, sizeof(pg_uuid_t), compare_ids);
	return count;
}

/*
 * The worker leaves a saga that is due to the executor of the role that has it
 * in hand or in its mailbox.  False if none has it any more.
 *
 * An executor that has it in hand may be about to put it down, having seen it
 * before it became due again; it will then give it back (saga_pool_done).
 */
bool
saga_pool_pass_by(Oid role, const pg_uuid_t *id)
{
	bool		found = false;

	LWLockAcquire(saga_shmem->lock, LW_SHARED);
	for (int i = 0; i < SAGA_MAX_EXECUTORS && !found; i++)
	{
		SagaExecutorSlot *slot = &saga_shmem->executors[i];

		if (!is_mine(slot, role))
			continue;
		SpinLockAcquire(&slot->mutex);
		if (slot->working && compare_ids(&slot->saga, id) == 0)
			slot->passed_by = found = true;
		for (uint32 at = slot->head; at != slot->tail && !found; at++)
			found = compare_ids(&slot->mailbox[at % SAGA_MAILBOX_SIZE], id) == 0;
		SpinLockRelease(&slot->mutex);
	}
	LWLockRelease(saga_shmem->lock);
	return found;
}

/*
 * How many sagas the role's executors had to leave undone, since last asked,
 * and whether they gave back any that the worker had left to them.
 */
uint32
saga_pool_collect_skipped(Oid role, bool *given_back)
{
	uint32		skipped = 0;
	int			i;

	*given_back = false;
	LWLockAcquire(saga_shmem->lock, LW_SHARED);
	for (i = 0; i < SAGA_MAX_EXECUTORS; i++)
	{
		SagaExecutorSlot *slot = &saga_shmem->executors[i];

		if (!is_mine(slot, role))
			continue;
		SpinLockAcquire(&slot->mutex);
		skipped += slot->skipped;
		slot->skipped = 0;
		*given_back |= slot->given_back;
		slot->given_back = false;
		SpinLockRelease(&slot->mutex);
	}
	LWLockRelease(saga_shmem->lock);
	return skipped;
}

void
saga_pool_lane(Oid role, SagaPoolLane *lane)
{
	int			i;

	memset(lane, 0, sizeof(SagaPoolLane));
	LWLockAcquire(saga_shmem->lock, LW_SHARED);
	for (i = 0; i < SAGA_MAX_EXECUTORS; i++)
	{
		SagaExecutorSlot *slot = &saga_shmem->executors[i];
		uint32		count;
		bool		working;

		if (!is_mine(slot, role) || slot->dismissed)
			continue;
		SpinLockAcquire(&slot->mutex);
		count = mail_count(slot);
		working = slot->working;
		SpinLockRelease(&slot->mutex);
		lane->count++;
		lane->waiting += count;
		if (!working)
			lane->idle++;
		if (count <= SAGA_POOL_LOW)
			lane->room += SAGA_MAILBOX_SIZE - count;
	}
	LWLockRelease(saga_shmem->lock);
}

/*
 * Puts a saga into the emptiest mailbox of the role's executors; false if
 * they have no room.
 */
bool
saga_pool_put(Oid role, const pg_uuid_t *id)
{
	SagaExecutorSlot *best = NULL;
	uint32		best_load = 0;
	bool		put = false;
	bool		wake = false;
	int			i;

	LWLockAcquire(saga_shmem->lock, LW_SHARED);
	for (i = 0; i < SAGA_MAX_EXECUTORS; i++)
	{
		SagaExecutorSlot *slot = &saga_shmem->executors[i];
		uint32		load;

		if (!is_mine(slot, role) || slot->dismissed)
			continue;
		SpinLockAcquire(&slot->mutex);
		load = mail_count(slot) * 2 + (slot->working ? 1 : 0);
		SpinLockRelease(&slot->mutex);
		if (best == NULL || load < best_load)
		{
			best = slot;
			best_load = load;
		}
	}
	if (best != NULL)
	{
		SpinLockAcquire(&best->mutex);
		if (mail_count(best) < SAGA_MAILBOX_SIZE)
		{
			wake = !best->working && mail_count(best) == 0;
			best->mailbox[best->tail % SAGA_MAILBOX_SIZE] = *id;
			best->tail++;
			put = true;
		}
		SpinLockRelease(&best->mutex);
		if (wake && best->latch != NULL)
			SetLatch(best->latch);
	}
	LWLockRelease(saga_shmem->lock);
	return put;
}

/*
 * More is due than the mailboxes could hold: asks to be woken when one runs
 * low.  False if one already does.
 */
bool
saga_pool_ask_refill(Oid role)
{
	bool		low = false;
	int			i;

	LWLockAcquire(saga_shmem->lock, LW_SHARED);
	for (i = 0; i < SAGA_MAX_EXECUTORS; i++)
	{
		SagaExecutorSlot *slot = &saga_shmem->executors[i];

		if (!is_mine(slot, role) || slot->dismissed)
			continue;
		SpinLockAcquire(&slot->mutex);
		slot->refill = true;
		if (mail_count(slot) <= SAGA_POOL_LOW)
			low = true;
		SpinLockRelease(&slot->mutex);
	}
	LWLockRelease(saga_shmem->lock);
	return !low;
}

/* Has any executor of this database something in hand or in its mailbox? */
bool
saga_pool_has_work(void)
{
	bool		work = false;

	LWLockAcquire(saga_shmem->lock, LW_SHARED);
	for (int i = 0; i < SAGA_MAX_EXECUTORS && !work; i++)
	{
		SagaExecutorSlot *slot = &saga_shmem->executors[i];

		if (slot->database != MyDatabaseId)
			continue;
		SpinLockAcquire(&slot->mutex);
		work = slot->working || mail_count(slot) > 0;
		SpinLockRelease(&slot->mutex);
	}
	LWLockRelease(saga_shmem->lock);
	return work;
}

/* The worker leaves, or the extension is gone: nobody will feed them. */
void
saga_pool_dismiss_all(void)
{
	int			i;

	LWLockAcquire(saga_shmem->lock, LW_EXCLUSIVE);
	for (i = 0; i < SAGA_MAX_EXECUTORS; i++)
	{
		if (is_mine(&saga_shmem->executors[i], InvalidOid))
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
	saga_alone_leave();

	my_slot = NULL;
	LWLockAcquire(saga_shmem->lock, LW_EXCLUSIVE);
	if (slot->generation == my_generation)
		free_slot(slot);
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
			free_slot(slot);
		else
		{
			slot->pid = MyProcPid;
			slot->latch = MyLatch;
			my_slot = slot;
			my_index = process->slot;
			my_generation = process->generation;
			my_at_exit = at_exit;
		}
	}
	LWLockRelease(saga_shmem->lock);
	return my_slot != NULL;
}

/* The process is connected and can take sagas. */
void
saga_pool_ready(void)
{
	LWLockAcquire(saga_shmem->lock, LW_EXCLUSIVE);
	my_slot->ready = true;
	LWLockRelease(saga_shmem->lock);
}

/* Moves the next saga of another executor of the role into our hands. */
static bool
steal(pg_uuid_t *id)
{
	bool		got = false;
	int			i;

	LWLockAcquire(saga_shmem->lock, LW_EXCLUSIVE);
	for (i = 0; i < SAGA_MAX_EXECUTORS && !got; i++)
	{
		SagaExecutorSlot *slot = &saga_shmem->executors[i];

		if (slot == my_slot || !is_mine(slot, my_slot->role))
			continue;
		SpinLockAcquire(&slot->mutex);
		/* The one that has it now will take the last by itself, if idle. */
		if (mail_count(slot) > 0 && (slot->working || mail_count(slot) > 1))
		{
			*id = slot->mailbox[slot->head % SAGA_MAILBOX_SIZE];
			slot->head++;
			got = true;
		}
		SpinLockRelease(&slot->mutex);
	}
	if (got)
	{
		SpinLockAcquire(&my_slot->mutex);
		my_slot->working = true;
		my_slot->saga = *id;
		my_slot->idle_since = 0;
		SpinLockRelease(&my_slot->mutex);
	}
	LWLockRelease(saga_shmem->lock);
	return got;
}

/* Takes the next saga in hand; false if there is none. */
bool
saga_pool_take(pg_uuid_t *id)
{
	bool		got = false;
	bool		wake = false;

	SpinLockAcquire(&my_slot->mutex);
	if (mail_count(my_slot) > 0)
	{
		*id = my_slot->mailbox[my_slot->head % SAGA_MAILBOX_SIZE];
		my_slot->head++;
		my_slot->working = true;
		my_slot->saga = *id;
		my_slot->idle_since = 0;
		got = true;
	}
	if (my_slot->refill && mail_count(my_slot) <= SAGA_POOL_LOW)
	{
		my_slot->refill = false;
		wake = true;
	}
	SpinLockRelease(&my_slot->mutex);
	if (wake)
		wake_own_worker();
	return got || steal(id);
}

/* A record is left for the worker, about the saga that is still in hand. */
void
saga_pool_leave_record(void)
{
	SagaDatabaseSlot *database = saga_shmem_my_database();

	if (database != NULL)
		pg_atomic_write_u32(&database->left_records, 1);
}

/*
 * Puts the saga in hand down.  "skipped": it is due, and somebody else must
 * do it; "later": when last seen, there was more to do in it, perhaps by
 * another role, which may have done it and sent the saga back meanwhile.
 */
void
saga_pool_done(bool skipped, bool later)
{
	volatile SagaDatabaseSlot *database;
	bool		given_back;

	SpinLockAcquire(&my_slot->mutex);
	my_slot->working = false;
	given_back = later && my_slot->passed_by;
	my_slot->given_back |= given_back;
	my_slot->passed_by = false;
	my_slot->idle_since = GetCurrentTimestamp();
	if (skipped)
		my_slot->skipped++;
	SpinLockRelease(&my_slot->mutex);
	/* Or the worker waits for us, to make room for another database. */
	database = saga_shmem_my_database();
	if (skipped || given_back ||
		(database != NULL && database->asked_to_leave))
		wake_own_worker();
}

/*
 * Must the executor leave, as soon as it has nothing in hand?  The fields are
 * read without a lock: whoever sets one sets our latch behind it.
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

/* Says which step's SQL is running; 0: none. */
void
saga_pool_set_step(int64 seq)
{
	SpinLockAcquire(&my_slot->mutex);
	my_slot->seq = seq;
	SpinLockRelease(&my_slot->mutex);
}

/*
 * Waits for the right to run SQL, alone for that time or beside others (0);
 * false if the saga in hand must be given back instead.
 */
bool
saga_pool_enter_sql(int64 alone_ms)
{
	return saga_alone_enter(my_index, alone_ms, saga_pool_must_leave);
}
