/*-------------------------------------------------------------------------
 *
 * stat_table.c
 *	  The cumulative counters, in shared memory.
 *
 * Each database has a block of counters.  Kinds of sagas and channels have places
 * of their own, by (database, owner, name), of which there are saga.stat_names in the
 * whole server.  A name that finds no place is counted with all such names in the
 * block of its database, so that the sums are right.  The names of one owner are
 * distinguished by a hash of 64 bits.
 *
 * A place belongs to its name until the counters of the database are reset, or the
 * database is gone.  A transaction remembers a place with its generation, which is
 * raised as the place becomes free; if it is another name's at the commit, what
 * the transaction did is counted with those without a place.
 *
 * Locks: SAGA_LOCK_STAT, exclusively to take or free places and blocks, shared to
 * find, read and add.  The counters are atomic, so those who add do not wait for
 * each other; a reader may see one of two that were added together.
 *
 * While the server is down, all of it is in a file (stat_file.c).  Nothing here
 * raises an error, and nothing but reading that file allocates memory, since the end
 * of a transaction comes here.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "base/clock.h"
#include "base/guc.h"
#include "common/hashfn.h"
#include "miscadmin.h"
#include "port/atomics.h"
#include "shared/shmem.h"
#include "shared/stat_file.h"
#include "shared/stat_table.h"
#include "storage/ipc.h"
#include "storage/lwlock.h"

/* Number of notes of prepared transactions that are kept at a time */
#define MAX_PREPARED	1024

/* A kind of saga, or a channel */
typedef struct StatPlace
{
	pg_atomic_uint32 generation;	/* raised as it becomes free */
	int			first;			/* head of the chain of places whose hash
								 * leads here; -1: none */
	int			next;			/* in a chain, or in the list of free places;
								 * -1: none */
	SagaStatKind kind;
	Oid			database;		/* InvalidOid: free */
	Oid			owner;
	uint64		hash;			/* of the name */
	int			length;
	char		name[SAGA_STAT_NAME_BYTES];
	pg_atomic_uint64 counter[SAGA_STAT_PLACE_COUNTERS];
} StatPlace;

/* A database */
typedef struct StatDatabase
{
	Oid			database;		/* InvalidOid: free */
	TimestampTz reset_at;		/* the counters count since then */
	pg_atomic_uint64 counter[SAGA_STAT_COUNTERS];
} StatDatabase;

/* Something that a prepared transaction adds, when it is committed. */
typedef struct StatPrepared
{
	uint64		gid;			/* a hash of its name; 0: free */
	Oid			database;
	SagaStatNote note;
} StatPrepared;

/* The part of shared memory that this room owns; under "lock", but for the atomics */
typedef struct StatShared
{
	LWLock	   *lock;
	int			size;			/* number of places */
	int			free;			/* the first free place; -1: none */
	pg_atomic_uint32 prepared_count;
	StatPrepared prepared[MAX_PREPARED];
	StatDatabase database[SAGA_STAT_MAX_DATABASES];
	StatPlace	place[FLEXIBLE_ARRAY_MEMBER];
} StatShared;

/* NULL unless the library was preloaded. */
static StatShared *shared = NULL;

/* The block of the current database; NULL: not looked for, or none was free. */
static StatDatabase *mine = NULL;

/* ------------------------------------------------------------------------
 * Blocks and places; the caller holds the lock, to change them exclusively
 * ------------------------------------------------------------------------ */

static StatDatabase *
find_block(Oid database)
{
	for (int i = 0; i < SAGA_STAT_MAX_DATABASES; i++)
		if (shared->database[i].database == database)
			return &shared->database[i];
	return NULL;
}

static void
clear_block(StatDatabase *block, Oid database, TimestampTz now)
{
	block->database = database;
	block->reset_at = now;
	for (int i = 0; i < SAGA_STAT_COUNTERS; i++)
		pg_atomic_write_u64(&block->counter[i], 0);
}

static StatDatabase *
take_block(Oid database, TimestampTz now)
{
	StatDatabase *block = find_block(database);

	if (block == NULL)
	{
		block = find_block(InvalidOid);
		if (block != NULL)
			clear_block(block, database, now);
	}
	return block;
}

/* Where the chain of a name begins */
static int *
chain_of(SagaStatKind kind, Oid database, Oid owner, uint64 hash)
{
	uint64		all = hash_combine64(hash, ((uint64) database << 32) | owner) + kind;

	return &shared->place[all % shared->size].first;
}

static int
find_place(SagaStatKind kind, Oid database, Oid owner, uint64 hash)
{
	int			i = shared->size == 0 ? -1 : *chain_of(kind, database, owner, hash);

	while (i >= 0)
	{
		const StatPlace *place = &shared->place[i];

		if (place->hash == hash && place->owner == owner &&
			place->database == database && place->kind == kind)
			break;
		i = place->next;
	}
	return i;
}

/* A place for a name that has none; -1: all are taken. */
static int
take_place_for(SagaStatKind kind, Oid database, Oid owner, uint64 hash,
			   const char *name, int length)
{
	int			i = shared->free;
	StatPlace  *place;
	int		   *chain;

	if (i < 0 || length > SAGA_STAT_NAME_BYTES)
		return -1;
	place = &shared->place[i];
	shared->free = place->next;
	chain = chain_of(kind, database, owner, hash);
	place->next = *chain;
	*chain = i;
	place->kind = kind;
	place->database = database;
	place->owner = owner;
	place->hash = hash;
	place->length = length;
	memcpy(place->name, name, length);
	for (int c = 0; c < SAGA_STAT_PLACE_COUNTERS; c++)
		pg_atomic_write_u64(&place->counter[c], 0);
	return i;
}

static void
free_place(int i)
{
	StatPlace  *place = &shared->place[i];
	int		   *link = chain_of(place->kind, place->database, place->owner,
								place->hash);

	while (*link != i)
		link = &shared->place[*link].next;
	*link = place->next;
	place->database = InvalidOid;
	place->next = shared->free;
	shared->free = i;
	pg_atomic_fetch_add_u32(&place->generation, 1);
}

static void
free_places(Oid database)
{
	for (int i = 0; i < shared->size; i++)
		if (shared->place[i].database == database)
			free_place(i);
}

/* ------------------------------------------------------------------------
 * Counting
 * ------------------------------------------------------------------------ */

/*
 * Finds the block of the current database.  It stays that, since no database is
 * dropped while a session is connected to it.
 */
bool
saga_stat_table_ready(void)
{
	if (mine == NULL && shared != NULL && OidIsValid(MyDatabaseId))
	{
		TimestampTz now = saga_clock_now();

		LWLockAcquire(shared->lock, LW_EXCLUSIVE);
		mine = take_block(MyDatabaseId, now);
		LWLockRelease(shared->lock);
	}
	return mine != NULL;
}

/* Is a place still that of the name for which it was found? */
bool
saga_stat_table_is(SagaStatPlace place)
{
	return place.index >= 0 &&
		pg_atomic_read_u32(&shared->place[place.index].generation) == place.generation;
}

/* The place of a name of the current database, taken if it has none. */
SagaStatPlace
saga_stat_table_find(SagaStatKind kind, Oid owner, uint64 hash,
					 const char *name, int length)
{
	SagaStatPlace place = {-1, 0};
	bool		full;

	LWLockAcquire(shared->lock, LW_SHARED);
	place.index = find_place(kind, MyDatabaseId, owner, hash);
	full = shared->free < 0;
	if (place.index < 0 && !full)
	{
		LWLockRelease(shared->lock);
		LWLockAcquire(shared->lock, LW_EXCLUSIVE);
		place.index = find_place(kind, MyDatabaseId, owner, hash);
		if (place.index < 0)
			place.index = take_place_for(kind, MyDatabaseId, owner, hash, name, length);
	}
	if (place.index >= 0)
		place.generation = pg_atomic_read_u32(&shared->place[place.index].generation);
	LWLockRelease(shared->lock);
	return place;
}

/* Adds a note to its counter.  The caller holds the lock. */
static void
add(StatDatabase *block, const SagaStatNote *note)
{
	pg_atomic_uint64 *counter = &block->counter[note->counter];

	if (note->counter < SAGA_STAT_NAMED && saga_stat_table_is(note->place))
		counter = &shared->place[note->place.index].counter
			[note->counter < SAGA_STAT_AT_CHANNEL ? note->counter :
			 note->counter - SAGA_STAT_AT_CHANNEL];
	pg_atomic_fetch_add_u64(counter, note->count);
}

/* Adds what is committed. */
void
saga_stat_table_add(const SagaStatNote *notes, int count)
{
	LWLockAcquire(shared->lock, LW_SHARED);
	for (int i = 0; i < count; i++)
		add(mine, &notes[i]);
	LWLockRelease(shared->lock);
}

/* What was kept of a prepared transaction is of no more use. */
static void
free_prepared(StatPrepared *prepared)
{
	prepared->gid = 0;
	pg_atomic_fetch_sub_u32(&shared->prepared_count, 1);
}

/*
 * Keeps what a transaction that is being prepared adds; "gid" is a hash of its name.
 * What there is no room for is counted at once.
 */
void
saga_stat_table_prepare(uint64 gid, const SagaStatNote *notes, int count)
{
	int			kept = 0;

	LWLockAcquire(shared->lock, LW_EXCLUSIVE);
	for (int i = 0; i < MAX_PREPARED; i++)
	{
		StatPrepared *prepared = &shared->prepared[i];

		/* Nobody reported how an earlier one of that name ended. */
		if (prepared->gid == gid)
			free_prepared(prepared);
	}
	for (int i = 0; i < MAX_PREPARED && kept < count; i++)
	{
		StatPrepared *prepared = &shared->prepared[i];

		if (prepared->gid != 0)
			continue;
		prepared->gid = gid;
		prepared->database = MyDatabaseId;
		prepared->note = notes[kept++];
		pg_atomic_fetch_add_u32(&shared->prepared_count, 1);
	}
	for (; kept < count; kept++)
		add(mine, &notes[kept]);
	LWLockRelease(shared->lock);
}

/* The prepared transaction of that name was committed, or rolled back. */
void
saga_stat_table_finish_prepared(uint64 gid, bool committed)
{
	if (shared == NULL || pg_atomic_read_u32(&shared->prepared_count) == 0 ||
		!saga_stat_table_ready())
		return;
	LWLockAcquire(shared->lock, LW_EXCLUSIVE);
	for (int i = 0; i < MAX_PREPARED; i++)
	{
		StatPrepared *prepared = &shared->prepared[i];

		if (prepared->gid != gid || prepared->database != MyDatabaseId)
			continue;
		if (committed)
			add(mine, &prepared->note);
		free_prepared(prepared);
	}
	LWLockRelease(shared->lock);
}

/* ------------------------------------------------------------------------
 * Reading and resetting
 * ------------------------------------------------------------------------ */

/* The counters of the current database (SAGA_STAT_COUNTERS); false: there are none. */
bool
saga_stat_table_read(uint64 *counter, TimestampTz *reset_at)
{
	if (!saga_stat_table_ready())
		return false;
	LWLockAcquire(shared->lock, LW_SHARED);
	for (int i = 0; i < SAGA_STAT_COUNTERS; i++)
		counter[i] = pg_atomic_read_u64(&mine->counter[i]);
	*reset_at = mine->reset_at;
	LWLockRelease(shared->lock);
	return true;
}

/*
 * The next name of the current database from a position on, which is 0 at first;
 * false: there is no other.
 */
bool
saga_stat_table_next_name(int *position, SagaStatName *name)
{
	bool		found = false;

	if (shared == NULL)
		return false;
	LWLockAcquire(shared->lock, LW_SHARED);
	while (!found && *position < shared->size)
	{
		StatPlace  *place = &shared->place[(*position)++];

		found = place->database == MyDatabaseId;
		if (!found)
			continue;
		name->kind = place->kind;
		name->owner = place->owner;
		name->length = place->length;
		memcpy(name->name, place->name, place->length);
		for (int c = 0; c < SAGA_STAT_PLACE_COUNTERS; c++)
			name->counter[c] = pg_atomic_read_u64(&place->counter[c]);
	}
	LWLockRelease(shared->lock);
	return found;
}

/* The counters of the current database begin at zero, and its places are free. */
void
saga_stat_table_reset(TimestampTz now)
{
	if (!saga_stat_table_ready())
		return;
	LWLockAcquire(shared->lock, LW_EXCLUSIVE);
	clear_block(mine, MyDatabaseId, now);
	free_places(MyDatabaseId);
	LWLockRelease(shared->lock);
}

/* The databases that have counters (SAGA_STAT_MAX_DATABASES); returns how many. */
int
saga_stat_table_databases(Oid *databases)
{
	int			count = 0;

	LWLockAcquire(shared->lock, LW_SHARED);
	for (int i = 0; i < SAGA_STAT_MAX_DATABASES; i++)
		if (OidIsValid(shared->database[i].database))
			databases[count++] = shared->database[i].database;
	LWLockRelease(shared->lock);
	return count;
}

/* A database is gone. */
void
saga_stat_table_forget_database(Oid database)
{
	StatDatabase *block;

	LWLockAcquire(shared->lock, LW_EXCLUSIVE);
	block = find_block(database);
	if (block != NULL)
		clear_block(block, InvalidOid, 0);
	free_places(database);
	for (int i = 0; i < MAX_PREPARED; i++)
		if (shared->prepared[i].gid != 0 && shared->prepared[i].database == database)
			free_prepared(&shared->prepared[i]);
	LWLockRelease(shared->lock);
}

/* ------------------------------------------------------------------------
 * While the server is down; the postmaster alone comes here
 * ------------------------------------------------------------------------ */

/* The file begins with what there is of each, and how many counters they have. */
typedef struct Header
{
	int			counters;
	int			place_counters;
	int			databases;
	int			places;
	int			prepared;
} Header;

typedef struct DatabaseHeader
{
	Oid			database;
	TimestampTz reset_at;
} DatabaseHeader;

typedef struct PlaceHeader
{
	int			index;			/* by which what is prepared refers to it */
	SagaStatKind kind;
	Oid			database;
	Oid			owner;
	uint64		hash;
	int			length;
} PlaceHeader;

static void
put_counters(pg_atomic_uint64 *counter, int count)
{
	for (int i = 0; i < count; i++)
	{
		uint64		value = pg_atomic_read_u64(&counter[i]);

		saga_stat_file_put(&value, sizeof(value));
	}
}

static void
put_header(void)
{
	Header		header;

	memset(&header, 0, sizeof(header));
	header.counters = SAGA_STAT_COUNTERS;
	header.place_counters = SAGA_STAT_PLACE_COUNTERS;
	for (int i = 0; i < SAGA_STAT_MAX_DATABASES; i++)
		header.databases += OidIsValid(shared->database[i].database);
	for (int i = 0; i < shared->size; i++)
		header.places += OidIsValid(shared->place[i].database);
	for (int i = 0; i < MAX_PREPARED; i++)
		header.prepared += shared->prepared[i].gid != 0;
	saga_stat_file_put(&header, sizeof(header));
}

static void
put_database(StatDatabase *block)
{
	DatabaseHeader header;

	if (!OidIsValid(block->database))
		return;
	memset(&header, 0, sizeof(header));
	header.database = block->database;
	header.reset_at = block->reset_at;
	saga_stat_file_put(&header, sizeof(header));
	put_counters(block->counter, SAGA_STAT_COUNTERS);
}

static void
put_place(int i)
{
	StatPlace  *place = &shared->place[i];
	PlaceHeader header;

	if (!OidIsValid(place->database))
		return;
	memset(&header, 0, sizeof(header));
	header.index = i;
	header.kind = place->kind;
	header.database = place->database;
	header.owner = place->owner;
	header.hash = place->hash;
	header.length = place->length;
	saga_stat_file_put(&header, sizeof(header));
	saga_stat_file_put(place->name, place->length);
	put_counters(place->counter, SAGA_STAT_PLACE_COUNTERS);
}

/* Writes a note of a prepared transaction; without its place, if that has changed. */
static void
put_prepared(const StatPrepared *prepared)
{
	StatPrepared copy = *prepared;

	if (prepared->gid == 0)
		return;
	if (!saga_stat_table_is(prepared->note.place))
		copy.note.place.index = -1;
	saga_stat_file_put(&copy, sizeof(copy));
}

/* on_shmem_exit: the server stops.  When it restarts after a crash, nothing is kept. */
static void
save_counters(int code, Datum arg)
{
	if (code != 0 || !saga_stat_file_create())
		return;
	put_header();
	for (int i = 0; i < SAGA_STAT_MAX_DATABASES; i++)
		put_database(&shared->database[i]);
	for (int i = 0; i < shared->size; i++)
		put_place(i);
	for (int i = 0; i < MAX_PREPARED; i++)
		put_prepared(&shared->prepared[i]);
	saga_stat_file_finish();
}

static bool
get_counters(pg_atomic_uint64 *counter, int count)
{
	for (int i = 0; i < count; i++)
	{
		uint64		value;

		if (!saga_stat_file_get(&value, sizeof(value)))
			return false;
		pg_atomic_fetch_add_u64(&counter[i], value);
	}
	return true;
}

static bool
get_database(void)
{
	DatabaseHeader header;
	StatDatabase *block;

	if (!saga_stat_file_get(&header, sizeof(header)))
		return false;
	block = take_block(header.database, header.reset_at);
	return block != NULL && get_counters(block->counter, SAGA_STAT_COUNTERS);
}

/*
 * Reads a place.  Returns its new index; -1: there are fewer places than there were,
 * and it is counted with those without a place; -2: the file is invalid.
 */
static int
get_place(int *was)
{
	PlaceHeader header;
	char		name[SAGA_STAT_NAME_BYTES];
	StatDatabase *block;
	pg_atomic_uint64 *counter;
	int			count;
	int			i;

	if (!saga_stat_file_get(&header, sizeof(header)) ||
		header.length < 0 || header.length > SAGA_STAT_NAME_BYTES ||
		!saga_stat_file_get(name, header.length))
		return -2;
	*was = header.index;
	block = take_block(header.database, 0);
	i = take_place_for(header.kind, header.database, header.owner, header.hash, name,
					   header.length);
	if (i >= 0)
	{
		counter = shared->place[i].counter;
		count = SAGA_STAT_PLACE_COUNTERS;
	}
	else if (block != NULL)
	{
		bool		channel = header.kind == SAGA_STAT_OF_CHANNEL;

		counter = &block->counter[channel ? SAGA_STAT_AT_CHANNEL : SAGA_STAT_AT_SAGA];
		count = channel ? SAGA_STAT_CHANNEL_COUNTERS : SAGA_STAT_SAGA_COUNTERS;
	}
	else
		return -2;
	if (!get_counters(counter, count))
		return -2;
	/* A channel has fewer, and the rest of its place is zero. */
	for (uint64 rest; count < SAGA_STAT_PLACE_COUNTERS; count++)
		if (!saga_stat_file_get(&rest, sizeof(rest)))
			return -2;
	return i;
}

/* "moved": the new index of each place, by its old one, for "most" old ones */
static bool
get_prepared(int i, const int *moved, int most)
{
	StatPrepared *prepared = &shared->prepared[i];
	int			was;

	if (!saga_stat_file_get(prepared, sizeof(StatPrepared)))
		return false;
	was = prepared->note.place.index;
	prepared->note.place.index = was >= 0 && was < most ? moved[was] : -1;
	if (prepared->note.place.index >= 0)
		prepared->note.place.generation =
			pg_atomic_read_u32(&shared->place[prepared->note.place.index].generation);
	pg_atomic_fetch_add_u32(&shared->prepared_count, 1);
	return true;
}

/* Reads the file.  False: it is invalid, or made for other counters. */
static bool
load_counters(void)
{
	Header		header;
	int			most = 0;
	int		   *moved = NULL;
	bool		ok = saga_stat_file_get(&header, sizeof(header)) &&
		header.counters == SAGA_STAT_COUNTERS &&
		header.place_counters == SAGA_STAT_PLACE_COUNTERS;

	for (int i = 0; ok && i < header.databases; i++)
		ok = get_database();
	for (int i = 0; ok && i < header.places; i++)
	{
		int			was = -1;
		int			now = get_place(&was);

		ok = now > -2 && was >= 0;
		if (ok && was >= most)
		{
			int			size = Max(was + 1, 2 * most);
			int		   *larger = realloc(moved, size * sizeof(int));

			ok = larger != NULL;
			if (!ok)
				break;
			moved = larger;
			for (; most < size; most++)
				moved[most] = -1;
		}
		if (ok)
			moved[was] = now;
	}
	for (int i = 0; ok && i < header.prepared; i++)
		ok = i < MAX_PREPARED && get_prepared(i, moved, most);
	free(moved);
	return ok;
}

static void
init_empty(void)
{
	memset(shared, 0, offsetof(StatShared, place));
	shared->lock = saga_shmem_lock(SAGA_LOCK_STAT);
	shared->size = saga_guc_stat_names;
	pg_atomic_init_u32(&shared->prepared_count, 0);
	for (int i = 0; i < SAGA_STAT_MAX_DATABASES; i++)
		for (int c = 0; c < SAGA_STAT_COUNTERS; c++)
			pg_atomic_init_u64(&shared->database[i].counter[c], 0);
	shared->free = -1;
	for (int i = shared->size - 1; i >= 0; i--)
	{
		StatPlace  *place = &shared->place[i];

		pg_atomic_init_u32(&place->generation, 0);
		place->database = InvalidOid;
		place->first = -1;
		place->next = shared->free;
		shared->free = i;
		for (int c = 0; c < SAGA_STAT_PLACE_COUNTERS; c++)
			pg_atomic_init_u64(&place->counter[c], 0);
	}
}

static void
init_stat(void *part)
{
	shared = part;
	init_empty();
	if (IsUnderPostmaster)
		return;
	on_shmem_exit(save_counters, (Datum) 0);
	if (!saga_stat_file_open())
		return;
	if (!load_counters())
		init_empty();
	saga_stat_file_close();
}

void
saga_stat_table_register(void)
{
	saga_shmem_register_part("saga stat",
							 offsetof(StatShared, place) +
							 saga_guc_stat_names * sizeof(StatPlace),
							 (void **) &shared, init_stat);
}
