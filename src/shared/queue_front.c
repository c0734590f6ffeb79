/*-------------------------------------------------------------------------
 *
 * queue_front.c
 *	  Where the queue of an owner on a channel begins.
 *
 * What is claimed leaves the queue, most of it at its front.  While somebody
 * holds an old snapshot, the remains cannot be cleared away, and each claim
 * would step over those of all that was claimed before, each time.  So shared
 * memory remembers the front of a queue: the first row that somebody saw
 * there.  Nothing waits before it, and reading begins with it.
 *
 * One worker dispatches, by its clock, so rows come in after the front.  Where
 * one comes in before it (the clock was set back; saga.reassign or saga.adopt
 * gave it to another owner; a task, which is queued for the time at which it may
 * begin), the transaction that brought it moves the front back after its commit:
 *
 *	reader							writer
 *	R1 read "queued"				W1 the commit becomes visible
 *	R2 a new snapshot				W2 under the lock: raise "queued", move
 *	R3 look for the first row		   back each front that is after the row
 *	R4 under the lock: if "queued"
 *	   is what it was, set the front
 *
 * If W2 comes before R1, then W1 comes before R2, and R3 sees the row.  If W2
 * comes between R1 and R4, nothing is set.  If it comes after R4, it moves
 * back what was set.  A reader that comes between W1 and W2 may pass by a row
 * that came in before the front; the next does not, and the channel is notified
 * again (channels.c).  A row that came in after the front is never passed
 * by, since a front is a row that was there, not a place after all of them.
 *
 * A row that comes back was never gone: until a claim is committed, others see
 * its row in the queue.  Only the claiming transaction does not; so it moves no
 * front past what it took out itself.
 *
 * What could still be wrong:
 *
 * - COMMIT PREPARED, which remembers nothing of what PREPARE knew: the session
 *	 that says it moves back all fronts of the database (statements.c).
 * - Rows that came by unforeseen ways: every READ_AGAIN, one claim reads the
 *	 queue from its start, and sets the front to what is there.
 * - Everything is forgotten when the server restarts its processes, before
 *	 which a commit may have been lost that a front relied on.
 *
 * Places are few: four for each value of a hash, of which the one that was not
 * read from the start for longest goes.  A queue without one is read from the
 * start.
 *
 * Locks: SAGA_LOCK_FRONTS, for a few instructions at a time; exclusively to
 * change anything but "read_at".
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "base/ids.h"
#include "common/hashfn.h"
#include "miscadmin.h"
#include "shared/queue_front.h"
#include "shared/shmem.h"
#include "utils/timestamp.h"

/* Time after which a queue is read from the start again (ms) */
#define READ_AGAIN		10000

#define PLACES			4

/* Queues whose fronts are remembered at a time. */
#define MAX_FRONTS		256

/* The front of the queue of an owner on a channel, for a phase */
typedef struct Front
{
	Oid			database;		/* InvalidOid: free */
	Oid			owner;
	SagaPhase	phase;
	char		channel[NAMEDATALEN];
	TimestampTz since;			/* nothing waits before the row with this
								 * time, ... */
	pg_uuid_t	saga;			/* ... this saga ... */
	int64		seq;			/* ... and this step */
	pg_atomic_uint64 read_at;	/* a TimestampTz: when somebody last began to
								 * read the queue from its start, by the
								 * server's clock */
} Front;

/* The part of shared memory that this room owns */
typedef struct FrontsShared
{
	LWLock	   *lock;			/* guards these */
	pg_atomic_uint64 queued;	/* raised, under the lock, after each commit
								 * that puts rows into queues; never 0 */
	Front		fronts[MAX_FRONTS];
} FrontsShared;

/* NULL unless the library was preloaded. */
static FrontsShared *shared = NULL;

StaticAssertDecl(MAX_FRONTS % PLACES == 0, "places come in fours");

/* The earliest rows that the current transaction puts in, and takes out. */
static TimestampTz queued = DT_NOEND;
static TimestampTz taken = DT_NOEND;

/* The front of a queue; NULL: there is none, or ("take") it has just been made. */
static Front *
find_front(const SagaQueued *queue, bool take)
{
	uint32		hash = hash_combine(hash_bytes((const unsigned char *) queue->channel,
											   strlen(queue->channel)),
									hash_bytes_uint32(queue->owner));
	Front	   *first = &shared->fronts[hash % (MAX_FRONTS / PLACES) * PLACES];
	Front	   *oldest = first;

	for (Front *front = first; front < first + PLACES; front++)
	{
		if (front->database == MyDatabaseId && front->owner == queue->owner &&
			front->phase == queue->phase &&
			strcmp(front->channel, queue->channel) == 0)
			return front;
		if (pg_atomic_read_u64(&front->read_at) <
			pg_atomic_read_u64(&oldest->read_at))
			oldest = front;
	}
	if (!take)
		return NULL;
	oldest->database = MyDatabaseId;
	oldest->owner = queue->owner;
	oldest->phase = queue->phase;
	strlcpy(oldest->channel, queue->channel, NAMEDATALEN);
	pg_atomic_write_u64(&oldest->read_at, (uint64) GetCurrentTimestamp());
	return oldest;
}

/* Does a row come after a front in the queue? */
static bool
is_after(const SagaQueued *row, const Front *front)
{
	int			order;

	if (row->since != front->since)
		return row->since > front->since;
	order = saga_ids_compare(&row->saga, &front->saga);
	return order != 0 ? order > 0 : row->seq > front->seq;
}

/* R1: to be called before the snapshot with which the queue is read. */
uint64
saga_queue_front_look(void)
{
	return shared == NULL ? 0 : pg_atomic_read_u64(&shared->queued);
}

/*
 * The first owner after the queue's one that has a front on its channel;
 * InvalidOid if there is none.
 */
Oid
saga_queue_front_next_owner(const SagaQueued *queue)
{
	Oid			next = InvalidOid;

	if (shared == NULL)
		return InvalidOid;
	LWLockAcquire(shared->lock, LW_SHARED);
	for (int i = 0; i < MAX_FRONTS; i++)
	{
		Front	   *front = &shared->fronts[i];

		if (front->database == MyDatabaseId && front->owner > queue->owner &&
			(next == InvalidOid || front->owner < next) &&
			front->phase == queue->phase &&
			strcmp(front->channel, queue->channel) == 0)
			next = front->owner;
	}
	LWLockRelease(shared->lock);
	return next;
}

/*
 * Is it time to read a queue from its start again?  Returns true to one caller
 * only, so that a long rescan is not repeated by everybody.
 */
static bool
is_time_to_read_again(Front *front)
{
	TimestampTz now = GetCurrentTimestamp();
	uint64		read_at = pg_atomic_read_u64(&front->read_at);
	int64		age = now - (TimestampTz) read_at;

	return (age < 0 || age >= READ_AGAIN * INT64CONST(1000)) &&
		pg_atomic_compare_exchange_u64(&front->read_at, &read_at, (uint64) now);
}

/*
 * Sets "since", "saga" and "seq" to the place from which on the queue named by
 * "channel", "phase" and "owner" is to be read.  False: that is its start.
 */
bool
saga_queue_front_get(SagaQueued *queue)
{
	Front	   *front;
	bool		known;

	queue->since = DT_NOBEGIN;
	memset(&queue->saga, 0, sizeof(pg_uuid_t));
	queue->seq = 0;
	if (shared == NULL)
		return false;
	LWLockAcquire(shared->lock, LW_SHARED);
	front = find_front(queue, false);
	known = front != NULL && !is_time_to_read_again(front);
	if (known)
	{
		queue->since = front->since;
		queue->saga = front->saga;
		queue->seq = front->seq;
	}
	LWLockRelease(shared->lock);
	/* What this transaction brought itself may come before the front. */
	if (queued <= queue->since)
	{
		queue->since = queued;
		memset(&queue->saga, 0, sizeof(pg_uuid_t));
		queue->seq = 0;
	}
	return known;
}

/*
 * R4: "first" is the first row that waits in its queue, which was read from its
 * start ("whole") or from its front.
 */
void
saga_queue_front_set(const SagaQueued *first, bool whole, uint64 look)
{
	SagaQueued	row = *first;
	Front	   *front;

	if (shared == NULL)
		return;
	if (taken <= row.since)
	{
		row.since = taken;
		memset(&row.saga, 0, sizeof(pg_uuid_t));
		row.seq = 0;
	}
	LWLockAcquire(shared->lock, LW_EXCLUSIVE);
	if (pg_atomic_read_u64(&shared->queued) == look)
	{
		front = find_front(&row, whole);
		if (front != NULL && (whole || is_after(&row, front)))
		{
			front->since = row.since;
			front->saga = row.saga;
			front->seq = row.seq;
		}
	}
	LWLockRelease(shared->lock);
}

/* W2: rows that wait since then, or later, are there, in whatever queue. */
void
saga_queue_front_post(TimestampTz since)
{
	if (shared == NULL)
		return;
	LWLockAcquire(shared->lock, LW_EXCLUSIVE);
	pg_atomic_fetch_add_u64(&shared->queued, 1);
	for (int i = 0; i < MAX_FRONTS; i++)
	{
		Front	   *front = &shared->fronts[i];

		if (front->database != MyDatabaseId || front->since < since)
			continue;
		front->since = since;
		memset(&front->saga, 0, sizeof(pg_uuid_t));
		front->seq = 0;
	}
	LWLockRelease(shared->lock);
}

/* The transaction is over. */
void
saga_queue_front_end_transaction(bool committed)
{
	if (committed && queued != DT_NOEND)
		saga_queue_front_post(queued);
	queued = DT_NOEND;
	taken = DT_NOEND;
}

static void
init_queue_front(void *part)
{
	shared = part;
	memset(shared, 0, sizeof(FrontsShared));
	shared->lock = saga_shmem_lock(SAGA_LOCK_FRONTS);
	pg_atomic_init_u64(&shared->queued, 1);
	for (int i = 0; i < MAX_FRONTS; i++)
		pg_atomic_init_u64(&shared->fronts[i].read_at, 0);
}

void
saga_queue_front_register(void)
{
	saga_shmem_register_part("saga fronts", sizeof(FrontsShared),
							 (void **) &shared, init_queue_front);
}

/* This transaction puts a row into a queue, which waits since that time. */
void
saga_queue_front_queued(TimestampTz since)
{
	queued = Min(queued, since);
}

/* This transaction takes a row out of a queue, which waited since that time. */
void
saga_queue_front_taken(TimestampTz since)
{
	taken = Min(taken, since);
}
