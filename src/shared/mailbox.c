/*-------------------------------------------------------------------------
 *
 * mailbox.c
 *	  The tickets that executors are handed, and what they say of them.
 *
 * A ticket stands for a saga to be undone, or for one of its steps to be run.
 * Each executor's slot has a mailbox.  The worker of the database fills it
 * from the ledger, and a transaction that makes something due may hand it to
 * an executor which has nothing to do, ahead of the worker; the executor takes
 * the tickets out, one at a time, and steals from the others of its role when
 * it has none.  Mailboxes are hints: what is in them is due in the ledger, and
 * what is lost with one is found there by the worker, which is woken by
 * whatever loses it.
 *
 * A ticket may come twice, from the ledger and from the transaction that made
 * it due: the executor that gets it second finds nothing to do.  Two
 * tickets of one saga, for two of its steps, may be in different hands at once.
 *
 * Locks: as shmem.h says.  Stealing needs "lock" exclusively and two mutexes,
 * in the order of the slots; to see all tickets in hand, hold "lock" in
 * shared mode, so that none can be moved meanwhile.  SetLatch under a mutex is
 * avoided.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "base/ids.h"
#include "miscadmin.h"
#include "shared/mailbox.h"
#include "utils/timestamp.h"

/* Refill a mailbox that has no more than this. */
#define SAGA_MAILBOX_LOW			(SAGA_MAILBOX_SIZE / 4)

/* The executor's own slot. */
static SagaExecutorSlot *my_slot = NULL;

/* ------------------------------------------------------------------------
 * One slot
 * ------------------------------------------------------------------------ */

/* Has it nothing in hand, and nothing to come?  The caller holds the mutex. */
static bool
is_idle(const SagaExecutorSlot *slot)
{
	return !slot->working && saga_mailbox_count(slot) == 0;
}

/* Do two tickets stand for the same? */
static bool
is_same(const SagaTicket *a, const SagaTicket *b)
{
	return saga_mailbox_compare(a, b) == 0;
}

/* Puts a ticket into a mailbox that has room.  The caller holds its mutex. */
static void
put_in(SagaExecutorSlot *slot, const SagaTicket *ticket)
{
	slot->mailbox[slot->tail % SAGA_MAILBOX_SIZE] = *ticket;
	slot->tail++;
}

/* Takes the next ticket out of a mailbox.  The caller holds its mutex. */
static void
take_out(SagaExecutorSlot *slot, SagaTicket *ticket, bool *handed_over)
{
	*ticket = slot->mailbox[slot->head % SAGA_MAILBOX_SIZE];
	slot->head++;
	*handed_over = slot->handed_over;
	slot->handed_over = false;
}

/* A slot taken for a new executor.  The caller holds "lock" exclusively. */
void
saga_mailbox_init(SagaExecutorSlot *slot, TimestampTz now)
{
	SpinLockAcquire(&slot->mutex);
	slot->head = slot->tail = 0;
	slot->working = false;
	slot->seq = 0;
	slot->idle_since = now;
	slot->skipped = 0;
	slot->passed_by = false;
	slot->given_back = false;
	slot->refill = false;
	slot->handed_over = false;
	SpinLockRelease(&slot->mutex);
}

/*
 * The executor is to leave: what waits is for the worker to hand out again.
 * True if something did.  The caller holds "lock" exclusively.
 */
bool
saga_mailbox_empty(SagaExecutorSlot *slot)
{
	bool		mail;

	SpinLockAcquire(&slot->mutex);
	mail = saga_mailbox_count(slot) > 0;
	slot->skipped += saga_mailbox_count(slot);
	slot->head = slot->tail;
	SpinLockRelease(&slot->mutex);
	return mail;
}

/* The executor has left.  The caller holds "lock" exclusively. */
void
saga_mailbox_close(SagaExecutorSlot *slot)
{
	SpinLockAcquire(&slot->mutex);
	slot->working = false;
	slot->seq = 0;
	SpinLockRelease(&slot->mutex);
}

/* Is an executor idle at this moment?  The caller holds "lock". */
bool
saga_mailbox_is_idle(SagaExecutorSlot *slot)
{
	bool		idle;

	SpinLockAcquire(&slot->mutex);
	idle = is_idle(slot);
	SpinLockRelease(&slot->mutex);
	return idle;
}

/* ------------------------------------------------------------------------
 * The side that hands out
 * ------------------------------------------------------------------------ */

/*
 * Orders tickets by what they stand for; for qsort and bsearch.  Tickets for the
 * undo of a saga are the same whatever their due time: its executor goes on as long
 * as it is due.  Tickets for a step are not, since its executor finds the row of the
 * due work by its time, and so does not find a step that has become due again.
 */
int
saga_mailbox_compare(const void *a, const void *b)
{
	const SagaTicket *one = a;
	const SagaTicket *other = b;
	int			order = saga_ids_compare(&one->saga, &other->saga);

	if (order == 0 && one->seq != other->seq)
		order = one->seq < other->seq ? -1 : 1;
	if (order == 0 && one->seq != 0 && one->due != other->due)
		order = one->due < other->due ? -1 : 1;
	return order;
}

/*
 * The tickets that the role's executors in this database have in hand or in a
 * mailbox, sorted, in the current memory context.  Those of other roles do not
 * count: one of them may have moved a saga to this role's lane, committed that,
 * and not put the saga down yet, and nobody will say so when it does.
 */
int
saga_mailbox_in_hand(Oid role, SagaTicket **tickets)
{
	int			count = 0;
	int			size = 0;
	int			i;

	LWLockAcquire(saga_shmem->lock, LW_SHARED);
	for (i = 0; i < SAGA_MAX_EXECUTORS; i++)
	{
		if (saga_mailbox_is_of(&saga_shmem->executors[i], role))
			size += SAGA_MAILBOX_SIZE + 1;
	}
	LWLockRelease(saga_shmem->lock);
	*tickets = palloc(Max(size, 1) * sizeof(SagaTicket));

	LWLockAcquire(saga_shmem->lock, LW_SHARED);
	for (i = 0; i < SAGA_MAX_EXECUTORS; i++)
	{
		SagaExecutorSlot *slot = &saga_shmem->executors[i];
		uint32		at;

		/* Only this process adds slots to this database. */
		if (!saga_mailbox_is_of(slot, role) ||
			count + SAGA_MAILBOX_SIZE + 1 > size)
			continue;
		SpinLockAcquire(&slot->mutex);
		for (at = slot->head; at != slot->tail; at++)
			(*tickets)[count++] = slot->mailbox[at % SAGA_MAILBOX_SIZE];
		if (slot->working)
			(*tickets)[count++] = slot->ticket;
		SpinLockRelease(&slot->mutex);
	}
	LWLockRelease(saga_shmem->lock);
	qsort(*tickets, count, sizeof(SagaTicket), saga_mailbox_compare);
	return count;
}

/*
 * The worker leaves what is due to the executor of the role that has it in hand
 * or in its mailbox.  False if none has it any more.
 *
 * An executor that has it in hand may be about to put it down, having seen it
 * before it became due again; it then gives it back (saga_mailbox_done).
 */
bool
saga_mailbox_pass_by(Oid role, const SagaTicket *ticket)
{
	bool		found = false;

	LWLockAcquire(saga_shmem->lock, LW_SHARED);
	for (int i = 0; i < SAGA_MAX_EXECUTORS && !found; i++)
	{
		SagaExecutorSlot *slot = &saga_shmem->executors[i];

		if (!saga_mailbox_is_of(slot, role))
			continue;
		SpinLockAcquire(&slot->mutex);
		if (slot->working && is_same(&slot->ticket, ticket))
			slot->passed_by = found = true;
		for (uint32 at = slot->head; at != slot->tail && !found; at++)
			found = is_same(&slot->mailbox[at % SAGA_MAILBOX_SIZE], ticket);
		SpinLockRelease(&slot->mutex);
	}
	LWLockRelease(saga_shmem->lock);
	return found;
}

/*
 * How many tickets the role's executors had to leave undone, since last asked,
 * and whether they gave back any that the worker had left to them.
 */
uint32
saga_mailbox_collect_skipped(Oid role, bool *given_back)
{
	uint32		skipped = 0;
	int			i;

	*given_back = false;
	LWLockAcquire(saga_shmem->lock, LW_SHARED);
	for (i = 0; i < SAGA_MAX_EXECUTORS; i++)
	{
		SagaExecutorSlot *slot = &saga_shmem->executors[i];

		if (!saga_mailbox_is_of(slot, role))
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
saga_mailbox_lane(Oid role, SagaMailboxLane *lane)
{
	int			i;

	memset(lane, 0, sizeof(SagaMailboxLane));
	LWLockAcquire(saga_shmem->lock, LW_SHARED);
	for (i = 0; i < SAGA_MAX_EXECUTORS; i++)
	{
		SagaExecutorSlot *slot = &saga_shmem->executors[i];
		uint32		count;
		bool		working;

		if (!saga_mailbox_is_of(slot, role) || slot->dismissed)
			continue;
		SpinLockAcquire(&slot->mutex);
		count = saga_mailbox_count(slot);
		working = slot->working;
		SpinLockRelease(&slot->mutex);
		lane->count++;
		lane->waiting += count;
		if (!working)
			lane->idle++;
		if (count <= SAGA_MAILBOX_LOW)
			lane->room += SAGA_MAILBOX_SIZE - count;
	}
	LWLockRelease(saga_shmem->lock);
}

/*
 * Puts a ticket into the emptiest mailbox of the role's executors; false if
 * they have no room.
 */
bool
saga_mailbox_put(Oid role, const SagaTicket *ticket)
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

		if (!saga_mailbox_is_of(slot, role) || slot->dismissed)
			continue;
		SpinLockAcquire(&slot->mutex);
		load = saga_mailbox_count(slot) * 2 + (slot->working ? 1 : 0);
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
		if (saga_mailbox_count(best) < SAGA_MAILBOX_SIZE)
		{
			wake = is_idle(best);
			put_in(best, ticket);
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
 * Hands over what is known to be due to an executor of its role that has
 * nothing to do, unless there is none, or the worker must see to something
 * first.
 */
void
saga_mailbox_hand_over(SagaDatabaseSlot *database, Oid role,
					   const SagaTicket *ticket)
{
	Latch	   *latch = NULL;
	int			i;

	/* How attempts ended is written down before anything is handed out. */
	if (!saga_guc_enabled ||
		pg_atomic_read_u32(&database->left_records) != 0 ||
		pg_atomic_read_u32(&database->keep_away) != 0)
		return;

	LWLockAcquire(saga_shmem->lock, LW_SHARED);
	for (i = 0; i < SAGA_MAX_EXECUTORS && latch == NULL; i++)
	{
		SagaExecutorSlot *slot = &saga_shmem->executors[i];

		if (!saga_mailbox_is_of(slot, role) || !slot->ready ||
			slot->dismissed)
			continue;
		SpinLockAcquire(&slot->mutex);
		if (is_idle(slot))
		{
			put_in(slot, ticket);
			slot->handed_over = true;
			latch = slot->latch;
		}
		SpinLockRelease(&slot->mutex);
	}
	if (latch != NULL)
		SetLatch(latch);
	LWLockRelease(saga_shmem->lock);
}

/*
 * More is due than the mailboxes could hold: asks to be woken when one runs
 * low.  False if one already does.
 */
bool
saga_mailbox_ask_refill(Oid role)
{
	bool		low = false;
	int			i;

	LWLockAcquire(saga_shmem->lock, LW_SHARED);
	for (i = 0; i < SAGA_MAX_EXECUTORS; i++)
	{
		SagaExecutorSlot *slot = &saga_shmem->executors[i];

		if (!saga_mailbox_is_of(slot, role) || slot->dismissed)
			continue;
		SpinLockAcquire(&slot->mutex);
		slot->refill = true;
		if (saga_mailbox_count(slot) <= SAGA_MAILBOX_LOW)
			low = true;
		SpinLockRelease(&slot->mutex);
	}
	LWLockRelease(saga_shmem->lock);
	return !low;
}

/* Has any executor of a database something in hand or in its mailbox? */
bool
saga_mailbox_has_work(Oid database)
{
	bool		work = false;

	LWLockAcquire(saga_shmem->lock, LW_SHARED);
	for (int i = 0; i < SAGA_MAX_EXECUTORS && !work; i++)
	{
		SagaExecutorSlot *slot = &saga_shmem->executors[i];

		if (slot->database != database)
			continue;
		SpinLockAcquire(&slot->mutex);
		work = slot->working || saga_mailbox_count(slot) > 0;
		SpinLockRelease(&slot->mutex);
	}
	LWLockRelease(saga_shmem->lock);
	return work;
}

/* ------------------------------------------------------------------------
 * The executor's side
 * ------------------------------------------------------------------------ */

/* The slot of the current process, from when it attached to it. */
void
saga_mailbox_attach(SagaExecutorSlot *slot)
{
	my_slot = slot;
}

static void
wake_own_worker(void)
{
	SagaDatabaseSlot *slot = saga_shmem_my_database();

	if (slot == NULL)
		return;
	LWLockAcquire(saga_shmem->lock, LW_SHARED);
	saga_shmem_poke_worker(slot);
	LWLockRelease(saga_shmem->lock);
}

/* The ticket is in our hands.  The caller holds our mutex. */
static void
take_in_hand(const SagaTicket *ticket)
{
	my_slot->working = true;
	my_slot->ticket = *ticket;
	my_slot->idle_since = 0;
}

/*
 * Moves the next ticket of another executor of the role into our hands.
 *
 * Not before another look into our own mailbox: under this lock nobody hands
 * anything over, and what came until now must not wait for what is stolen.
 */
static bool
steal(SagaTicket *ticket, bool *handed_over)
{
	bool		got = false;

	LWLockAcquire(saga_shmem->lock, LW_EXCLUSIVE);
	for (int i = -1; i < SAGA_MAX_EXECUTORS && !got; i++)
	{
		SagaExecutorSlot *slot = i < 0 ? my_slot : &saga_shmem->executors[i];

		if (i >= 0 && (slot == my_slot ||
					   !saga_mailbox_is_of(slot, my_slot->role)))
			continue;
		SpinLockAcquire(&slot->mutex);
		/* The one that has it now will take the last by itself, if idle. */
		if (saga_mailbox_count(slot) > 0 &&
			(i < 0 || slot->working || saga_mailbox_count(slot) > 1))
		{
			take_out(slot, ticket, handed_over);
			got = true;
		}
		SpinLockRelease(&slot->mutex);
	}
	if (got)
	{
		SpinLockAcquire(&my_slot->mutex);
		take_in_hand(ticket);
		SpinLockRelease(&my_slot->mutex);
	}
	LWLockRelease(saga_shmem->lock);
	return got;
}

/*
 * Takes the next ticket in hand; false if there is none, after which those that
 * want an executor know that this one is idle.  "handed_over": it may have
 * come from the transaction that made it due.
 */
bool
saga_mailbox_take(SagaTicket *ticket, bool *handed_over)
{
	bool		got = false;
	bool		wake = false;

	SpinLockAcquire(&my_slot->mutex);
	if (saga_mailbox_count(my_slot) > 0)
	{
		take_out(my_slot, ticket, handed_over);
		take_in_hand(ticket);
		got = true;
	}
	if (my_slot->refill && saga_mailbox_count(my_slot) <= SAGA_MAILBOX_LOW)
	{
		my_slot->refill = false;
		wake = true;
	}
	SpinLockRelease(&my_slot->mutex);
	if (wake)
		wake_own_worker();
	if (got || steal(ticket, handed_over))
		return true;
	saga_shmem_executor_idle();
	return false;
}

/* Does anything else wait for this executor? */
bool
saga_mailbox_has_more(void)
{
	bool		more;

	SpinLockAcquire(&my_slot->mutex);
	more = saga_mailbox_count(my_slot) > 0 || my_slot->refill;
	SpinLockRelease(&my_slot->mutex);
	return more;
}

/* Is the executor to go on with the same saga after the ticket in hand? */
bool
saga_mailbox_has_more_of(const pg_uuid_t *id)
{
	bool		more;

	SpinLockAcquire(&my_slot->mutex);
	more = saga_mailbox_count(my_slot) > 0 &&
		saga_ids_equal(&my_slot->mailbox[my_slot->head % SAGA_MAILBOX_SIZE].saga, id);
	SpinLockRelease(&my_slot->mutex);
	return more;
}

/*
 * What the executor has in hand can go on for long, and others shall have their turn:
 * puts its ticket after those that wait in the mailbox.  False: none waits, so that
 * it goes on; or ("full") there is no room, and the worker must hand it out again.
 */
bool
saga_mailbox_let_others_in(bool *full)
{
	uint32		count;

	SpinLockAcquire(&my_slot->mutex);
	count = saga_mailbox_count(my_slot);
	*full = count >= SAGA_MAILBOX_SIZE;
	if (count > 0 && !*full)
		put_in(my_slot, &my_slot->ticket);
	SpinLockRelease(&my_slot->mutex);
	return count > 0 && !*full;
}

/* The executor goes on with another ticket than the one that it took. */
void
saga_mailbox_next(const SagaTicket *ticket)
{
	SpinLockAcquire(&my_slot->mutex);
	take_in_hand(ticket);
	my_slot->passed_by = false;
	SpinLockRelease(&my_slot->mutex);
}

/*
 * The executor is about to look at what it has in hand, or has written its row
 * and is about to commit: the worker passed it by, until now, for a state that
 * this look finds, or that this row replaces.
 */
void
saga_mailbox_look(void)
{
	SpinLockAcquire(&my_slot->mutex);
	my_slot->passed_by = false;
	SpinLockRelease(&my_slot->mutex);
}

/*
 * Puts the ticket in hand down.  "skipped": it is due, and somebody else must
 * do it.  If the worker passed it by after the last look at it, it is given
 * back, however that look found it: another role may have done its part and
 * sent the saga back, or a person may have opened it again.
 */
void
saga_mailbox_done(bool skipped)
{
	volatile SagaDatabaseSlot *database;
	bool		given_back;

	SpinLockAcquire(&my_slot->mutex);
	my_slot->working = false;
	given_back = my_slot->passed_by;
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

/* Says which step's SQL is running; seq 0: none. */
void
saga_mailbox_set_step(SagaPhase phase, int64 seq, int attempt,
					  TimestampTz started_at)
{
	SpinLockAcquire(&my_slot->mutex);
	my_slot->phase = phase;
	my_slot->seq = seq;
	my_slot->attempt = attempt;
	my_slot->started_at = started_at;
	SpinLockRelease(&my_slot->mutex);
}

/* What an executor has in hand, and runs.  The caller holds the slot's mutex. */
static void
describe_running(const SagaExecutorSlot *slot, SagaRunning *running)
{
	running->saga = slot->ticket.saga;
	running->phase = slot->phase;
	running->seq = slot->seq;
	running->attempt = slot->attempt;
	running->since = slot->started_at;
	running->pid = slot->pid;
	running->role = slot->role;
}

/* Lists what the executors of this database run; room for SAGA_MAX_EXECUTORS. */
int
saga_mailbox_running(SagaRunning *running)
{
	int			count = 0;

	if (saga_shmem == NULL)
		return 0;
	for (int i = 0; i < SAGA_MAX_EXECUTORS; i++)
	{
		SagaExecutorSlot *slot = &saga_shmem->executors[i];
		SagaRunning *r = &running[count];

		/* A copy of this database has the same sagas. */
		if (slot->database != MyDatabaseId)
			continue;
		SpinLockAcquire(&slot->mutex);
		if (slot->working && slot->seq != 0)
		{
			describe_running(slot, r);
			count++;
		}
		SpinLockRelease(&slot->mutex);
	}
	return count;
}

/*
 * What the executors of this database have in hand of steps' actions; seq 0: it
 * does not run yet, or no more.  Room for SAGA_MAX_EXECUTORS.
 */
int
saga_mailbox_actions(SagaRunning *running)
{
	int			count = 0;

	for (int i = 0; i < SAGA_MAX_EXECUTORS; i++)
	{
		SagaExecutorSlot *slot = &saga_shmem->executors[i];
		SagaRunning *r = &running[count];

		if (slot->database != MyDatabaseId)
			continue;
		SpinLockAcquire(&slot->mutex);
		if (slot->working && slot->ticket.seq != 0)
		{
			describe_running(slot, r);
			if (r->phase != SAGA_PHASE_FORWARD)
				r->seq = 0;
			r->phase = SAGA_PHASE_FORWARD;
			count++;
		}
		SpinLockRelease(&slot->mutex);
	}
	return count;
}

/*
 * Is an executor of this database running SQL of this phase of this step, or
 * (seq 0) of any step of the saga?  What is known of it, for callers that ask
 * (found not NULL).
 */
bool
saga_mailbox_is_running(const pg_uuid_t *id, SagaPhase phase, int64 seq,
						SagaRunning *found)
{
	SagaRunning running[SAGA_MAX_EXECUTORS];
	int			count = saga_mailbox_running(running);

	for (int i = 0; i < count; i++)
	{
		if (running[i].phase == phase &&
			(seq == 0 || running[i].seq == seq) &&
			saga_ids_equal(&running[i].saga, id))
		{
			if (found != NULL)
				*found = running[i];
			return true;
		}
	}
	return false;
}
