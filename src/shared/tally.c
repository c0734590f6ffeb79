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
 * others have begun and not committed: a quota is no accounting.  What a
 * transaction changes that is prepared is kept in shared memory by its name
 * until it is finished.  Where that is not known (it was prepared before the
 * server started, there was no room, saga.adopt() has moved what it found),
 * the numbers become doubtful, and who asks counts anew, now and then.  Nobody
 * pays as long as no quota is set, but for what is prepared.
 *
 * Locks: SagaShmem's tally_lock, exclusively to take or free a place; the
 * numbers themselves are atomic.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/xact.h"
#include "common/hashfn.h"
#include "miscadmin.h"
#include "shared/shmem.h"
#include "shared/tally.h"
#include "utils/memutils.h"

/* Noted for an owner: whatever was counted, nobody can tell how it changed. */
#define SAGA_ANY_OWNER	InvalidOid

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

/* The name under which the current transaction is about to be prepared. */
static uint64 prepared_gid = 0;

/* The place of an owner; NULL: there is none. */
static SagaTally *
find_tally(Oid owner)
{
	for (int i = 0; i < SAGA_MAX_TALLIES; i++)
	{
		SagaTally  *tally = &saga_shmem->tallies[i];

		if (tally->owner == owner && tally->database == MyDatabaseId)
			return tally;
	}
	return NULL;
}

/* What was counted in this database is to be counted again. */
static void
doubt(void)
{
	for (int i = 0; i < SAGA_MAX_TALLIES; i++)
	{
		SagaTally  *tally = &saga_shmem->tallies[i];

		if (tally->database == MyDatabaseId && OidIsValid(tally->owner))
			tally->doubtful = true;
	}
}

/* Something is committed.  The caller holds the lock, to doubt exclusively. */
static void
count(Oid owner, int64 delta)
{
	SagaTally  *tally;

	if (owner == SAGA_ANY_OWNER)
	{
		doubt();
		return;
	}
	tally = find_tally(owner);
	if (tally != NULL)
		pg_atomic_fetch_add_u64(&tally->open, delta);
}

/* The transaction is over: what it changed counts. */
static void
tally_tell(void)
{
	LWLockMode	mode = LW_SHARED;

	if (pg_atomic_read_u32(&saga_shmem->tally_count) == 0)
		return;
	for (int i = 0; i < change_count; i++)
		if (changes[i].owner == SAGA_ANY_OWNER)
			mode = LW_EXCLUSIVE;
	LWLockAcquire(saga_shmem->tally_lock, mode);
	for (int i = 0; i < change_count; i++)
		count(changes[i].owner, changes[i].delta);
	LWLockRelease(saga_shmem->tally_lock);
}

/*
 * The transaction is prepared under the name that was told: what it changes is
 * kept for whoever finishes it.  Without a name or enough room, nothing is, and
 * its commit will leave the numbers doubtful.
 */
static void
keep_prepared(void)
{
	int			room = 0;
	int			kept = 0;

	if (prepared_gid == 0)
		return;
	LWLockAcquire(saga_shmem->tally_lock, LW_EXCLUSIVE);
	for (int i = 0; i < SAGA_MAX_PREPARED; i++)
	{
		/* Nobody told how an earlier one of that name ended. */
		if (saga_shmem->prepared[i].gid == prepared_gid)
			saga_shmem->prepared[i].gid = 0;
		if (saga_shmem->prepared[i].gid == 0)
			room++;
	}
	for (int i = 0; i < SAGA_MAX_PREPARED && room >= change_count &&
		 kept < change_count; i++)
	{
		SagaTallyPrepared *prepared = &saga_shmem->prepared[i];

		if (prepared->gid != 0)
			continue;
		prepared->gid = prepared_gid;
		prepared->database = MyDatabaseId;
		prepared->owner = changes[kept].owner;
		prepared->delta = changes[kept].delta;
		kept++;
	}
	LWLockRelease(saga_shmem->tally_lock);
}

static void
tally_at_transaction_end(XactEvent event, void *arg)
{
	switch (event)
	{
		case XACT_EVENT_COMMIT:
			if (change_count > 0)
				tally_tell();
			break;
		case XACT_EVENT_PREPARE:
			if (change_count > 0)
				keep_prepared();
			break;
		case XACT_EVENT_ABORT:
			break;
		default:
			return;
	}
	change_count = 0;
	prepared_gid = 0;
}

/* Adds to what is noted for an owner at a level, which is the deepest so far. */
static void
note_change(Oid owner, int level, int64 delta)
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
			note_change(change.owner, level - 1, change.delta);
		}
}

void
saga_tally_init(void)
{
	if (!process_shared_preload_libraries_in_progress)
		return;
	RegisterXactCallback(tally_at_transaction_end, NULL);
	RegisterSubXactCallback(at_end_of_subtransaction, NULL);
}

/*
 * So many more sagas of that owner are unfinished when this transaction
 * commits, or less.
 */
void
saga_tally_add(Oid owner, int64 delta)
{
	if (saga_shmem != NULL)
		note_change(owner, GetCurrentTransactionNestLevel(), delta);
}

/* When this transaction commits, all is to be counted again. */
void
saga_tally_doubt(void)
{
	if (saga_shmem != NULL)
		note_change(SAGA_ANY_OWNER, GetCurrentTransactionNestLevel(), 0);
}

static uint64
hash_gid(const char *gid)
{
	uint64		hash = hash_bytes_extended((const unsigned char *) gid,
										   strlen(gid), 0);

	return hash != 0 ? hash : 1;
}

/* The current transaction is about to be prepared under a name. */
void
saga_tally_prepare(const char *gid)
{
	prepared_gid = hash_gid(gid);
}

/* The prepared transaction of that name was committed, or rolled back. */
void
saga_tally_finish_prepared(const char *gid, bool committed)
{
	uint64		hash = hash_gid(gid);
	bool		found = false;

	if (saga_shmem == NULL)
		return;
	LWLockAcquire(saga_shmem->tally_lock, LW_EXCLUSIVE);
	for (int i = 0; i < SAGA_MAX_PREPARED; i++)
	{
		SagaTallyPrepared *prepared = &saga_shmem->prepared[i];

		if (prepared->gid != hash || prepared->database != MyDatabaseId)
			continue;
		if (committed)
			count(prepared->owner, prepared->delta);
		prepared->gid = 0;
		found = true;
	}
	if (committed && !found)
		doubt();
	LWLockRelease(saga_shmem->tally_lock);
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
 * How many the owner has, when they may be counted again, and whether the
 * number may have become wrong; false: not known.
 */
bool
saga_tally_get(Oid owner, int64 *open, int64 *again_at, bool *doubtful)
{
	SagaTally  *tally;

	if (saga_shmem == NULL)
		return false;
	LWLockAcquire(saga_shmem->tally_lock, LW_SHARED);
	tally = find_tally(owner);
	if (tally != NULL)
	{
		*open = (int64) pg_atomic_read_u64(&tally->open);
		*again_at = tally->again_at;
		*doubtful = tally->doubtful;
	}
	LWLockRelease(saga_shmem->tally_lock);
	return tally != NULL;
}

/*
 * They were counted, and should not be again before that.  When there is no
 * place left, the one that may be counted again first goes.
 */
void
saga_tally_set(Oid owner, int64 open, int64 again_at)
{
	SagaTally  *tally;

	if (saga_shmem == NULL)
		return;
	LWLockAcquire(saga_shmem->tally_lock, LW_EXCLUSIVE);
	tally = find_tally(owner);
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
			if (saga_shmem->tallies[i].again_at < tally->again_at)
				tally = &saga_shmem->tallies[i];
	}
	tally->database = MyDatabaseId;
	tally->owner = owner;
	tally->again_at = again_at;
	tally->doubtful = false;
	pg_atomic_write_u64(&tally->open, (uint64) open);
	LWLockRelease(saga_shmem->tally_lock);
}
