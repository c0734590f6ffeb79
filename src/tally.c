/*-------------------------------------------------------------------------
 *
 * tally.c
 *	  How many unfinished sagas each owner has, counted once and kept up.
 *
 * For saga.max_open_sagas.  The ledger has no index that could count them
 * (one would have to change with every saga that finishes), so they are
 * counted by reading the whole table, once, and the number is kept in shared
 * memory.  What a transaction adds or takes away is told after its commit, and
 * follows its savepoints.
 *
 * The number may be off by what commits while it is counted, and by what
 * others have begun and not committed: a quota is no accounting.  What is not
 * known here (COMMIT PREPARED, other owners) makes it doubtful, and who asks
 * counts anew, now and then.  Nobody pays as long as no quota is set.
 *
 * Locks: SagaShmem's tally_lock, exclusively to take or free a place; the
 * numbers themselves are atomic.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/xact.h"
#include "miscadmin.h"
#include "shmem.h"
#include "tally.h"
#include "utils/memutils.h"

/* What the current transaction changes, by owner and nesting of savepoints. */
typedef struct Change
{
	Oid			owner;
	int			level;
	int64		delta;
} Change;

static Change *changes = NULL;
static int	change_count = 0;
static int	change_size = 0;

/* The place of an owner; NULL: there is none. */
static SagaTally *
find(Oid owner)
{
	for (int i = 0; i < SAGA_MAX_TALLIES; i++)
	{
		SagaTally  *tally = &saga_shmem->tallies[i];

		if (tally->owner == owner && tally->database == MyDatabaseId)
			return tally;
	}
	return NULL;
}

/*
 * Something changed that nobody can tell here: what was counted in this
 * database is to be counted again.
 */
void
saga_tally_doubt(void)
{
	if (saga_shmem == NULL || pg_atomic_read_u32(&saga_shmem->tally_count) == 0)
		return;
	LWLockAcquire(saga_shmem->tally_lock, LW_EXCLUSIVE);
	for (int i = 0; i < SAGA_MAX_TALLIES; i++)
	{
		SagaTally  *tally = &saga_shmem->tallies[i];

		if (tally->database == MyDatabaseId && OidIsValid(tally->owner))
			tally->doubtful = true;
	}
	LWLockRelease(saga_shmem->tally_lock);
}

/* The transaction is over: what it changed counts. */
static void
tell(void)
{
	if (pg_atomic_read_u32(&saga_shmem->tally_count) == 0)
		return;
	LWLockAcquire(saga_shmem->tally_lock, LW_SHARED);
	for (int i = 0; i < change_count; i++)
	{
		SagaTally  *tally = find(changes[i].owner);

		if (tally != NULL)
			pg_atomic_fetch_add_u64(&tally->open, changes[i].delta);
	}
	LWLockRelease(saga_shmem->tally_lock);
}

static void
at_end_of_transaction(XactEvent event, void *arg)
{
	if (change_count == 0)
		return;
	switch (event)
	{
		case XACT_EVENT_COMMIT:
			tell();
			change_count = 0;
			break;
		case XACT_EVENT_PREPARE:
		case XACT_EVENT_ABORT:
			change_count = 0;
			break;
		default:
			break;
	}
}

/* Adds to what is noted for an owner at a level, which is the deepest so far. */
static void
note(Oid owner, int level, int64 delta)
{
	for (int i = change_count - 1; i >= 0 && changes[i].level == level; i--)
	{
		if (changes[i].owner == owner)
		{
			changes[i].delta += delta;
			return;
		}
	}
	if (changes == NULL)
	{
		change_size = 16;
		changes = MemoryContextAlloc(TopMemoryContext,
									 change_size * sizeof(Change));
	}
	else if (change_count == change_size)
	{
		change_size *= 2;
		changes = repalloc(changes, change_size * sizeof(Change));
	}
	changes[change_count].owner = owner;
	changes[change_count].level = level;
	changes[change_count].delta = delta;
	change_count++;
}

/* A savepoint is over: what it noted, on top of the rest, goes down or away. */
static void
at_end_of_subtransaction(SubXactEvent event, SubTransactionId mine,
						 SubTransactionId parent, void *arg)
{
	int			level;
	int			end = change_count;
	int			first;

	if (change_count == 0 || (event != SUBXACT_EVENT_ABORT_SUB &&
							  event != SUBXACT_EVENT_COMMIT_SUB))
		return;
	level = GetCurrentTransactionNestLevel();
	for (first = end; first > 0 && changes[first - 1].level >= level; first--)
		;
	change_count = first;
	if (event == SUBXACT_EVENT_COMMIT_SUB)
		for (int i = first; i < end; i++)
		{
			Change		change = changes[i];

			/* There is room: it takes no more places than it had. */
			note(change.owner, level - 1, change.delta);
		}
}

void
saga_tally_init(void)
{
	if (!process_shared_preload_libraries_in_progress)
		return;
	RegisterXactCallback(at_end_of_transaction, NULL);
	RegisterSubXactCallback(at_end_of_subtransaction, NULL);
}

/* A saga of that owner begins (1) or finishes (-1) with this transaction. */
void
saga_tally_add(Oid owner, int delta)
{
	if (saga_shmem != NULL)
		note(owner, GetCurrentTransactionNestLevel(), delta);
}

/* What the current transaction changes for an owner, not counted yet. */
int64
saga_tally_own(Oid owner)
{
	int64		sum = 0;

	for (int i = 0; i < change_count; i++)
		if (changes[i].owner == owner)
			sum += changes[i].delta;
	return sum;
}

/*
 * How many the owner has, when they were counted, and whether that may have
 * become wrong; false: not known.
 */
bool
saga_tally_get(Oid owner, int64 *open, TimestampTz *counted_at, bool *doubtful)
{
	SagaTally  *tally;

	if (saga_shmem == NULL)
		return false;
	LWLockAcquire(saga_shmem->tally_lock, LW_SHARED);
	tally = find(owner);
	if (tally != NULL)
	{
		*open = (int64) pg_atomic_read_u64(&tally->open);
		*counted_at = tally->counted_at;
		*doubtful = tally->doubtful;
	}
	LWLockRelease(saga_shmem->tally_lock);
	return tally != NULL;
}

/* They were counted.  When there is no place left, the oldest count goes. */
void
saga_tally_set(Oid owner, int64 open, TimestampTz counted_at)
{
	SagaTally  *tally;

	if (saga_shmem == NULL)
		return;
	LWLockAcquire(saga_shmem->tally_lock, LW_EXCLUSIVE);
	tally = find(owner);
	for (int i = 0; i < SAGA_MAX_TALLIES && tally == NULL; i++)
	{
		if (!OidIsValid(saga_shmem->tallies[i].owner))
		{
			tally = &saga_shmem->tallies[i];
			pg_atomic_fetch_add_u32(&saga_shmem->tally_count, 1);
		}
	}
	if (tally == NULL)
	{
		tally = &saga_shmem->tallies[0];
		for (int i = 1; i < SAGA_MAX_TALLIES; i++)
			if (saga_shmem->tallies[i].counted_at < tally->counted_at)
				tally = &saga_shmem->tallies[i];
	}
	tally->database = MyDatabaseId;
	tally->owner = owner;
	tally->counted_at = counted_at;
	tally->doubtful = false;
	pg_atomic_write_u64(&tally->open, (uint64) open);
	LWLockRelease(saga_shmem->tally_lock);
}
