/*-------------------------------------------------------------------------
 *
 * tally.c
 *	  How many unfinished sagas each owner has, counted once and kept up.
 *
 * For saga.max_open_sagas.  The ledger has no index that could count them
 * (one would have to change with every saga that finishes), so they are
 * counted by reading the whole table, once, and the number is kept in shared
 * memory.  What a transaction adds or takes away is added after its commit, and
 * follows its savepoints.
 *
 * The number may be off by what commits while it is counted, and by what
 * others have begun and not committed: a quota is no accounting.  What a
 * transaction changes that is prepared is kept in shared memory by its name
 * until it is finished.  Where that is not known (it was prepared before the
 * server started, there was no room, saga.adopt() has moved what it found),
 * the numbers become doubtful, and a caller that asks counts again, now and
 * then.  Nobody pays as long as no quota is set, but for what is prepared.
 *
 * Locks: SAGA_LOCK_TALLIES, exclusively to take or free a place; the
 * numbers themselves are atomic.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/xact.h"
#include "miscadmin.h"
#include "shared/shmem.h"
#include "shared/tally.h"
#include "utils/memutils.h"

/* Owners whose unfinished sagas are counted at a time. */
#define MAX_TALLIES		256
/* Changes of these counts by prepared transactions, by owner. */
#define MAX_PREPARED	256

/* How many unfinished sagas an owner has */
typedef struct Tally
{
	Oid			database;
	Oid			owner;			/* InvalidOid: free */
	int64		again_at;		/* not to be counted again before that, by the
								 * steady clock */
	bool		doubtful;		/* to be counted again */
	pg_atomic_uint64 open;		/* an int64 */
} Tally;

/* Change of a count by a prepared transaction, when it is committed. */
typedef struct PreparedChange
{
	uint64		gid;			/* a hash of its name; 0: free */
	Oid			database;
	Oid			owner;
	int64		delta;
} PreparedChange;

/* The part of shared memory that this room owns */
typedef struct TalliesShared
{
	LWLock	   *lock;			/* guards which place is whose */
	pg_atomic_uint32 count;		/* of the tallies in use */
	Tally		tallies[MAX_TALLIES];
	PreparedChange prepared[MAX_PREPARED];
} TalliesShared;

/* NULL unless the library was preloaded. */
static TalliesShared *shared = NULL;

/* Noted for an owner: whatever was counted, nobody knows how it changed. */
#define SAGA_ANY_OWNER	InvalidOid

/* Changes by the current transaction, by owner and nesting of savepoints. */
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
static Tally *
find_tally(Oid owner)
{
	for (int i = 0; i < MAX_TALLIES; i++)
	{
		Tally	   *tally = &shared->tallies[i];

		if (tally->owner == owner && tally->database == MyDatabaseId)
			return tally;
	}
	return NULL;
}

/* Makes this database's sagas be counted again. */
static void
doubt_all(void)
{
	for (int i = 0; i < MAX_TALLIES; i++)
	{
		Tally	   *tally = &shared->tallies[i];

		if (tally->database == MyDatabaseId && OidIsValid(tally->owner))
			tally->doubtful = true;
	}
}

/* Something is committed.  The caller holds the lock, to doubt exclusively. */
static void
add_to_tally(Oid owner, int64 delta)
{
	Tally	   *tally;

	if (owner == SAGA_ANY_OWNER)
	{
		doubt_all();
		return;
	}
	tally = find_tally(owner);
	if (tally != NULL)
		pg_atomic_fetch_add_u64(&tally->open, delta);
}

/* What the transaction changed counts. */
static void
count_changes(void)
{
	LWLockMode	mode = LW_SHARED;

	if (pg_atomic_read_u32(&shared->count) == 0)
		return;
	for (int i = 0; i < change_count; i++)
		if (changes[i].owner == SAGA_ANY_OWNER)
			mode = LW_EXCLUSIVE;
	LWLockAcquire(shared->lock, mode);
	for (int i = 0; i < change_count; i++)
		add_to_tally(changes[i].owner, changes[i].delta);
	LWLockRelease(shared->lock);
}

/*
 * The transaction is prepared under the name that was noted: what it changes is
 * kept until it is finished.  Without a name or enough room, nothing is, and
 * its commit will leave the numbers doubtful.
 */
void
saga_tally_prepared(uint64 gid)
{
	int			room = 0;
	int			kept = 0;

	if (change_count == 0)
		return;
	LWLockAcquire(shared->lock, LW_EXCLUSIVE);
	for (int i = 0; i < MAX_PREPARED; i++)
	{
		/* Nobody reported how an earlier one of that name ended. */
		if (shared->prepared[i].gid == gid)
			shared->prepared[i].gid = 0;
		if (shared->prepared[i].gid == 0)
			room++;
	}
	for (int i = 0; i < MAX_PREPARED && room >= change_count &&
		 kept < change_count; i++)
	{
		PreparedChange *prepared = &shared->prepared[i];

		if (prepared->gid != 0)
			continue;
		prepared->gid = gid;
		prepared->database = MyDatabaseId;
		prepared->owner = changes[kept].owner;
		prepared->delta = changes[kept].delta;
		kept++;
	}
	LWLockRelease(shared->lock);
}

/* The transaction is over. */
void
saga_tally_end_transaction(bool committed)
{
	if (committed && change_count > 0)
		count_changes();
	change_count = 0;
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

/*
 * A savepoint is over: what it noted, on top of the rest, counts for what is
 * around it, or not at all.
 */
void
saga_tally_end_savepoint(bool committed)
{
	int			level;
	int			end = change_count;
	int			first;

	if (change_count == 0)
		return;
	level = GetCurrentTransactionNestLevel();
	for (first = end; first > 0 && changes[first - 1].level >= level; first--)
		;
	change_count = first;
	if (committed)
		for (int i = first; i < end; i++)
		{
			Change		change = changes[i];

			/* There is room: it takes no more places than it had. */
			note_change(change.owner, level - 1, change.delta);
		}
}

static void
init_tally(void *part)
{
	shared = part;
	memset(shared, 0, sizeof(TalliesShared));
	shared->lock = saga_shmem_lock(SAGA_LOCK_TALLIES);
	pg_atomic_init_u32(&shared->count, 0);
	for (int i = 0; i < MAX_TALLIES; i++)
		pg_atomic_init_u64(&shared->tallies[i].open, 0);
}

void
saga_tally_register(void)
{
	saga_shmem_register_part("saga tallies", sizeof(TalliesShared),
							 (void **) &shared, init_tally);
}

/*
 * So many more sagas of that owner are unfinished when this transaction
 * commits, or less.
 */
void
saga_tally_add(Oid owner, int64 delta)
{
	if (shared != NULL)
		note_change(owner, GetCurrentTransactionNestLevel(), delta);
}

/* When this transaction commits, all is to be counted again. */
void
saga_tally_doubt(void)
{
	if (shared != NULL)
		note_change(SAGA_ANY_OWNER, GetCurrentTransactionNestLevel(), 0);
}

/* The prepared transaction of that name was committed, or rolled back. */
void
saga_tally_finish_prepared(uint64 gid, bool committed)
{
	bool		found = false;

	if (shared == NULL)
		return;
	LWLockAcquire(shared->lock, LW_EXCLUSIVE);
	for (int i = 0; i < MAX_PREPARED; i++)
	{
		PreparedChange *prepared = &shared->prepared[i];

		if (prepared->gid != gid || prepared->database != MyDatabaseId)
			continue;
		if (committed)
			add_to_tally(prepared->owner, prepared->delta);
		prepared->gid = 0;
		found = true;
	}
	if (committed && !found)
		doubt_all();
	LWLockRelease(shared->lock);
}

/* The current transaction's change for an owner, not counted yet. */
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
	Tally	   *tally;

	if (shared == NULL)
		return false;
	LWLockAcquire(shared->lock, LW_SHARED);
	tally = find_tally(owner);
	if (tally != NULL)
	{
		*open = (int64) pg_atomic_read_u64(&tally->open);
		*again_at = tally->again_at;
		*doubtful = tally->doubtful;
	}
	LWLockRelease(shared->lock);
	return tally != NULL;
}

/*
 * They were counted, and should not be again before that.  When there is no
 * place left, the one that may be counted again first goes.
 */
void
saga_tally_set(Oid owner, int64 open, int64 again_at)
{
	Tally	   *tally;

	if (shared == NULL)
		return;
	LWLockAcquire(shared->lock, LW_EXCLUSIVE);
	tally = find_tally(owner);
	for (int i = 0; i < MAX_TALLIES && tally == NULL; i++)
	{
		if (!OidIsValid(shared->tallies[i].owner))
		{
			tally = &shared->tallies[i];
			pg_atomic_fetch_add_u32(&shared->count, 1);
		}
	}
	if (tally == NULL)
	{
		tally = &shared->tallies[0];
		for (int i = 1; i < MAX_TALLIES; i++)
			if (shared->tallies[i].again_at < tally->again_at)
				tally = &shared->tallies[i];
	}
	tally->database = MyDatabaseId;
	tally->owner = owner;
	tally->again_at = again_at;
	tally->doubtful = false;
	pg_atomic_write_u64(&tally->open, (uint64) open);
	LWLockRelease(shared->lock);
}
