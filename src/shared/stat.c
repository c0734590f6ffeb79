/*-------------------------------------------------------------------------
 *
 * stat.c
 *	  What the current transaction adds to the cumulative counters.
 *
 * It is gathered in this backend, follows the savepoints, and is added to shared
 * memory (stat_table.c) after the commit; nothing is counted of a transaction that
 * is rolled back.  What a prepared transaction did is kept in shared memory by its
 * name until it is finished; a crash loses it.
 *
 * There is one note per counter and level of savepoints, as far as it is found among
 * the last few notes.  If it is not, a second one is added, and merged with the first
 * when the notes would need more room.  So memory is bounded by the number of
 * different counters in a transaction.
 *
 * Finding the place of a name may take a free one, and a note may need memory.  Both
 * are done when something is counted, not at the commit.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/xact.h"
#include "common/hashfn.h"
#include "miscadmin.h"
#include "shared/stat.h"
#include "shared/stat_table.h"
#include "utils/builtins.h"
#include "utils/memutils.h"

/* Number of the last notes that are compared with a new one */
#define LOOK_BACK		16
/* Number of notes for which there is room at first; from which on they are merged */
#define NOTES_FIRST		32
#define NOTES_MERGE		1024

const SagaPhase saga_stat_phases[SAGA_STAT_PHASES] = {
	SAGA_PHASE_FORWARD, SAGA_PHASE_COMPENSATION
};
const SagaOutcome saga_stat_outcomes[SAGA_STAT_OUTCOMES] = {
	SAGA_OUTCOME_SUCCEEDED, SAGA_OUTCOME_FAILED, SAGA_OUTCOME_INTERRUPTED,
	SAGA_OUTCOME_TIMED_OUT, SAGA_OUTCOME_DEFERRED
};
const double saga_stat_bounds[SAGA_STAT_BOUNDS] = {
	1, 2, 5, 10, 25, 50, 100, 250, 500, 1000, 2500, 5000, 10000, 30000, 60000,
	300000, 1800000, 3600000, 21600000, 86400000, 604800000
};

/* Ordered by level */
static SagaStatNote *notes = NULL;
static int	note_count = 0;
static int	note_size = 0;

/* The place of the last name of each kind */
static struct
{
	Oid			owner;
	uint64		hash;
	SagaStatPlace place;
}			known[SAGA_STAT_KINDS] = {{.place = {-1, 0}}, {.place = {-1, 0}}};

static bool
same_counter(const SagaStatNote *a, const SagaStatNote *b)
{
	return a->counter == b->counter && a->level == b->level &&
		a->place.index == b->place.index &&
		a->place.generation == b->place.generation;
}

static int
compare_notes(const void *left, const void *right)
{
	const SagaStatNote *a = left;
	const SagaStatNote *b = right;

	if (a->level != b->level)
		return a->level < b->level ? -1 : 1;
	if (a->counter != b->counter)
		return a->counter < b->counter ? -1 : 1;
	if (a->place.index != b->place.index)
		return a->place.index < b->place.index ? -1 : 1;
	if (a->place.generation != b->place.generation)
		return a->place.generation < b->place.generation ? -1 : 1;
	return 0;
}

static void
merge_notes(void)
{
	int			count = 0;

	qsort(notes, note_count, sizeof(SagaStatNote), compare_notes);
	for (int i = 0; i < note_count; i++)
	{
		if (count > 0 && same_counter(&notes[count - 1], &notes[i]))
			notes[count - 1].count += notes[i].count;
		else
			notes[count++] = notes[i];
	}
	note_count = count;
}

static void
make_room(void)
{
	if (note_count < note_size)
		return;
	if (note_size >= NOTES_MERGE)
		merge_notes();
	if (notes == NULL)
	{
		notes = MemoryContextAlloc(TopMemoryContext,
								   NOTES_FIRST * sizeof(SagaStatNote));
		note_size = NOTES_FIRST;
	}
	else if (note_count > note_size / 2)
	{
		notes = repalloc_huge(notes, 2 * note_size * sizeof(SagaStatNote));
		note_size *= 2;
	}
}

/* Adds a note of the deepest level so far. */
static void
add_note(const SagaStatNote *note)
{
	int			first = Max(0, note_count - LOOK_BACK);

	for (int i = note_count - 1; i >= first; i--)
	{
		if (!same_counter(&notes[i], note))
			continue;
		notes[i].count += note->count;
		return;
	}
	make_room();
	notes[note_count++] = *note;
}

static void
count_at(int counter, SagaStatPlace place, int64 count)
{
	SagaStatNote note;

	note.counter = counter;
	note.place = place;
	note.count = count;
	note.level = GetCurrentTransactionNestLevel();
	add_note(&note);
}

/* Adds to a counter of the database. */
static void
count(int counter, int64 by)
{
	SagaStatPlace none = {-1, 0};

	count_at(counter, none, by);
}

/* The place of a name of the current database */
static SagaStatPlace
place_of_name(SagaStatKind kind, Oid owner, const text *name)
{
	const text *plain = DatumGetTextPP(PointerGetDatum(name));
	const char *bytes = VARDATA_ANY(plain);
	int			length = VARSIZE_ANY_EXHDR(plain);
	uint64		hash = hash_bytes_extended((const unsigned char *) bytes, length, 0);

	if (known[kind].hash != hash || known[kind].owner != owner ||
		!saga_stat_table_is(known[kind].place))
	{
		known[kind].place = saga_stat_table_find(kind, owner, hash, bytes, length);
		known[kind].owner = owner;
		known[kind].hash = hash;
	}
	return known[kind].place;
}

void
saga_stat_saga(Oid owner, const text *name, SagaStatSaga counter)
{
	if (saga_stat_table_ready())
		count_at(SAGA_STAT_AT_SAGA + counter,
				 place_of_name(SAGA_STAT_OF_SAGA, owner, name), 1);
}

void
saga_stat_channel(Oid owner, const text *channel, SagaStatChannel counter)
{
	if (saga_stat_table_ready())
		count_at(SAGA_STAT_AT_CHANNEL + counter,
				 place_of_name(SAGA_STAT_OF_CHANNEL, owner, channel), 1);
}

void
saga_stat_attempt(SagaPhase phase, SagaOutcome outcome, int64 time)
{
	int			kind = 0;

	if (!saga_stat_table_ready())
		return;
	while (saga_stat_phases[kind / SAGA_STAT_OUTCOMES] != phase ||
		   saga_stat_outcomes[kind % SAGA_STAT_OUTCOMES] != outcome)
		kind++;
	Assert(kind < SAGA_STAT_ATTEMPT_KINDS);
	count(SAGA_STAT_AT_ATTEMPTS + kind, 1);
	count(SAGA_STAT_AT_ATTEMPT_TIMES + kind, Max(time, 0));
}

void
saga_stat_time(SagaStatTime what, int64 time)
{
	int			bucket = 0;

	if (!saga_stat_table_ready())
		return;
	time = Max(time, 0);
	while (bucket < SAGA_STAT_BOUNDS && time > saga_stat_bounds[bucket] * 1000)
		bucket++;
	count(SAGA_STAT_AT_TIMES + what * SAGA_STAT_BUCKETS + bucket, 1);
	count(SAGA_STAT_AT_TIME_SUMS + what, time);
}

/* Counts at once, whatever becomes of the transaction. */
void
saga_stat_process(SagaStatProcess counter, int64 by)
{
	SagaStatNote note = {{-1, 0}, SAGA_STAT_AT_PROCESSES + counter, 0, by};

	if (saga_stat_table_ready())
		saga_stat_table_add(&note, 1);
}

/* ------------------------------------------------------------------------
 * The end of a transaction or a savepoint
 * ------------------------------------------------------------------------ */

/* The transaction is prepared under a name. */
void
saga_stat_prepared(uint64 gid)
{
	if (note_count == 0)
		return;
	merge_notes();
	saga_stat_table_prepare(gid, notes, note_count);
}

/* The transaction is over: if it is committed, what it did counts. */
void
saga_stat_end_transaction(bool committed)
{
	if (committed && note_count > 0)
		saga_stat_table_add(notes, note_count);
	note_count = 0;
	if (note_size > NOTES_MERGE)
	{
		pfree(notes);
		notes = NULL;
		note_size = 0;
	}
}

/*
 * A savepoint is over: what it noted, on top of the rest, counts for what is
 * around it, or not at all.
 */
void
saga_stat_end_savepoint(bool committed)
{
	int			level;
	int			end = note_count;

	if (note_count == 0)
		return;
	level = GetCurrentTransactionNestLevel();
	while (note_count > 0 && notes[note_count - 1].level >= level)
		note_count--;
	for (int i = note_count; committed && i < end; i++)
	{
		SagaStatNote note = notes[i];

		/* There is room: it takes no more places than it had. */
		note.level = level - 1;
		add_note(&note);
	}
}

/* The prepared transaction of that name was committed, or rolled back. */
void
saga_stat_finish_prepared(uint64 gid, bool committed)
{
	saga_stat_table_finish_prepared(gid, committed);
}
