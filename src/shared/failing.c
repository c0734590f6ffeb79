/*-------------------------------------------------------------------------
 *
 * failing.c
 *	  Sagas that the worker could not go on with, because of an error.
 *
 * The worker goes through the due work of all roles.  An error of one saga must not
 * delay the others, whatever it is and however often it comes again, and must not be
 * silent.  So the worker passes over a saga that failed, and notes it here; it tries it
 * again by itself, ever less often, and so rarely that all that fail take but a small
 * part of its time.  saga.health and next_action tell of what is noted.
 *
 * An entry goes when the saga was gone on with.  One whose time to be tried again is
 * long past was not found due any more, and counts for nothing.
 *
 * Nothing depends on it that an entry is there: if there is no room, or the server
 * restarts, the saga is tried again soon.
 *
 * Locks: SAGA_LOCK_FAILING, exclusively to change entries, shared to read them.  Mostly
 * there is none, and then no lock is taken.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "base/clock.h"
#include "base/ids.h"
#include "miscadmin.h"
#include "port/atomics.h"
#include "shared/failing.h"
#include "shared/shmem.h"

/* Pauses before it is tried again (ms) */
#define FAILING_FIRST		100
#define FAILING_LAST		60000
/* All that fail take at most 1/FAILING_SHARE of the worker's time ... */
#define FAILING_SHARE		20
/* ... but a pause for that is no longer than this (ms). */
#define FAILING_LONGEST		600000
/* An entry counts for nothing so long after its time to be tried again (ms). */
#define FAILING_EXPIRES		120000

/* The part of shared memory that this room owns */
typedef struct FailingShared
{
	LWLock	   *lock;			/* guards the entries */
	pg_atomic_uint32 count;		/* of entries; written under "lock" */
	SagaFailing entry[SAGA_MAX_FAILING];	/* those of a database are written
											 * by its worker */
} FailingShared;

/* NULL unless the library was preloaded */
static FailingShared *shared = NULL;

static void
init_failing(void *part)
{
	shared = part;
	memset(shared, 0, sizeof(FailingShared));
	shared->lock = saga_shmem_lock(SAGA_LOCK_FAILING);
	pg_atomic_init_u32(&shared->count, 0);
}

void
saga_failing_register(void)
{
	saga_shmem_register_part("saga failing", sizeof(FailingShared),
							 (void **) &shared, init_failing);
}

static bool
any(void)
{
	return shared != NULL && pg_atomic_read_u32(&shared->count) > 0;
}

static bool
expired(const SagaFailing *entry, TimestampTz now)
{
	return entry->again + FAILING_EXPIRES * SAGA_CLOCK_MS < now;
}

/* The caller holds the lock. */
static SagaFailing *
find_entry(const pg_uuid_t *saga, SagaFailingAt at)
{
	for (int i = 0; i < SAGA_MAX_FAILING; i++)
	{
		SagaFailing *entry = &shared->entry[i];

		if (entry->database == MyDatabaseId && entry->at == at &&
			saga_ids_equal(&entry->saga, saga))
			return entry;
	}
	return NULL;
}

/* The same, for reading: a copy. */
static bool
read_entry(const pg_uuid_t *saga, SagaFailingAt at, SagaFailing *copy)
{
	const SagaFailing *entry;

	if (!any())
		return false;
	LWLockAcquire(shared->lock, LW_SHARED);
	entry = find_entry(saga, at);
	if (entry != NULL)
		*copy = *entry;
	LWLockRelease(shared->lock);
	return entry != NULL;
}

/* Is the saga not to be tried yet?  "again" says when it is. */
bool
saga_failing_waits(const pg_uuid_t *saga, SagaFailingAt at, TimestampTz now,
				   TimestampTz *again)
{
	SagaFailing entry;

	if (!read_entry(saga, at, &entry) || entry.again <= now)
		return false;
	*again = entry.again;
	return true;
}

/* Did it fail when it was tried last? */
bool
saga_failing_has(const pg_uuid_t *saga, SagaFailingAt at)
{
	SagaFailing entry;

	return read_entry(saga, at, &entry);
}

/* The caller holds the lock. */
static void
remove_entry(SagaFailing *entry)
{
	memset(entry, 0, sizeof(SagaFailing));
	pg_atomic_fetch_sub_u32(&shared->count, 1);
}

/* A place for an entry; NULL: there is none.  The caller holds the lock. */
static SagaFailing *
failing_place(TimestampTz now)
{
	for (int i = 0; i < SAGA_MAX_FAILING; i++)
	{
		SagaFailing *entry = &shared->entry[i];

		if (OidIsValid(entry->database) && expired(entry, now))
			remove_entry(entry);
		if (!OidIsValid(entry->database))
			return entry;
	}
	return NULL;
}

/* The pause after a failure of so many that took so long (us) */
static int64
pause_after(int times, int64 took)
{
	int64		pause = FAILING_FIRST << Min(times - 1, 20);
	int64		share = took * FAILING_SHARE * pg_atomic_read_u32(&shared->count);

	return Max(Min(pause, FAILING_LAST) * SAGA_CLOCK_MS,
			   Min(share, FAILING_LONGEST * SAGA_CLOCK_MS));
}

/*
 * Notes that a saga failed, after a time (us).  "again" becomes when it is to be tried
 * again.  False: there is no room; the caller must pass it over by other means.
 */
bool
saga_failing_note(const pg_uuid_t *saga, SagaFailingAt at, int sqlstate,
				  int64 took, TimestampTz *again)
{
	TimestampTz now = saga_clock_now();
	SagaFailing *entry;

	if (shared == NULL)
		return false;
	LWLockAcquire(shared->lock, LW_EXCLUSIVE);
	entry = find_entry(saga, at);
	if (entry != NULL && expired(entry, now))
	{
		remove_entry(entry);
		entry = NULL;
	}
	if (entry == NULL && (entry = failing_place(now)) != NULL)
	{
		entry->database = MyDatabaseId;
		entry->at = at;
		entry->saga = *saga;
		entry->since = now;
		pg_atomic_fetch_add_u32(&shared->count, 1);
	}
	if (entry != NULL)
	{
		entry->times++;
		entry->sqlstate = sqlstate;
		entry->again = now + pause_after(entry->times, took);
		*again = entry->again;
	}
	LWLockRelease(shared->lock);
	return entry != NULL;
}

/* It was gone on with. */
void
saga_failing_over(const pg_uuid_t *saga, SagaFailingAt at)
{
	SagaFailing *entry;

	if (!any())
		return;
	LWLockAcquire(shared->lock, LW_EXCLUSIVE);
	entry = find_entry(saga, at);
	if (entry != NULL)
		remove_entry(entry);
	LWLockRelease(shared->lock);
}

/* The clock was set back: a pause may have become long. */
void
saga_failing_forget_pauses(void)
{
	if (!any())
		return;
	LWLockAcquire(shared->lock, LW_EXCLUSIVE);
	for (int i = 0; i < SAGA_MAX_FAILING; i++)
		if (shared->entry[i].database == MyDatabaseId)
			shared->entry[i].again = saga_clock_now();
	LWLockRelease(shared->lock);
}

/* Those of this database; returns how many. */
int
saga_failing_all(SagaFailing *found)
{
	TimestampTz now = saga_clock_now();
	int			count = 0;

	if (!any())
		return 0;
	LWLockAcquire(shared->lock, LW_SHARED);
	for (int i = 0; i < SAGA_MAX_FAILING; i++)
		if (shared->entry[i].database == MyDatabaseId &&
			!expired(&shared->entry[i], now))
			found[count++] = shared->entry[i];
	LWLockRelease(shared->lock);
	return count;
}

/* Whatever fails of the saga, but for deleting it. */
bool
saga_failing_get(const pg_uuid_t *saga, SagaFailing *found)
{
	TimestampTz now = saga_clock_now();

	for (SagaFailingAt at = SAGA_FAILING_ROW; at <= SAGA_FAILING_PARK; at++)
		if (read_entry(saga, at, found) && !expired(found, now))
			return true;
	return false;
}
