/*-------------------------------------------------------------------------
 *
 * channels.c
 *	  Announcing again what listeners have not claimed.
 *
 * A task is announced when it may be claimed, and a compensation as it is
 * dispatched.  A listener that missed that (no listener was there, or it lost its
 * connection) finds the step by claiming.  So that nothing depends on that either, a
 * channel on which something waits is notified again, ever less often, for as long as
 * it does.
 *
 * One notification a channel is enough, since any wakes every listener, and
 * they claim by channel.  So this writes no rows.  What is remembered is the
 * worker's, and a little of it the next worker's, in shared memory; after a
 * restart of the server every channel is notified at once.
 *
 * What waits for an owner that is gone is parked when its channel is notified.  A saga
 * with which that is an error is passed over (shared/failing.c).
 *
 * Which channels there are is read from the queue, a moment after something
 * was dispatched: most of it is claimed by then.  Anybody may make as many
 * channels as steps; so a pass reads and notifies a bounded number of them, and
 * reading takes no more than a part of the time.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/xact.h"
#include "base/clock.h"
#include "base/fault.h"
#include "base/ids.h"
#include "base/rights.h"
#include "flow/events.h"
#include "flow/look.h"
#include "flow/notify.h"
#include "ledger/home.h"
#include "ledger/ledger.h"
#include "shared/failing.h"
#include "shared/queue_front.h"
#include "lib/pairingheap.h"
#include "miscadmin.h"
#include "process/channels.h"
#include "process/transaction.h"
#include "shared/shmem.h"
#include "utils/hsearch.h"
#include "utils/snapmgr.h"

/* Between two notifications of a channel, in milliseconds. */
#define AGAIN_FIRST		1000
#define AGAIN_LAST		60000
/* In one pass: channels read, channels notified, steps of gone owners parked. */
#define LOOK_BATCH		500
#define NOTIFY_BATCH		100
#define PARK_BATCH		100
/* Spend at most 1/LOOK_SHARE of the time reading them. */
#define LOOK_SHARE		10
/* While somebody has locked the ledger. */
#define BLOCKED			200
/* After an error. */
#define AFTER_ERROR		5000

/* State of a channel that was due. */
typedef enum ChannelFound
{
	CHANNEL_WAITS,				/* it was notified */
	CHANNEL_PARKS,				/* there is more to park before that */
	CHANNEL_EMPTY				/* nothing waits there: forget it */
} ChannelFound;

typedef struct Channel
{
	char		name[NAMEDATALEN];	/* key of the hash table */
	pairingheap_node node;
	TimestampTz next;			/* when to notify it again */
	int			pause_ms;		/* and how long after that */
	ChannelFound found;
} Channel;

/* The channels on which something waits, by name, and by when they are next. */
static HTAB *channels = NULL;
static pairingheap *by_next = NULL;

/* Those that this pass notifies, which are not in the heap meanwhile. */
static Channel *notified[NOTIFY_BATCH];
static int	notified_count = 0;

/* When to read which channels there are. */
static TimestampTz look_at = DT_NOBEGIN;
static int64 look_begun = 0;	/* by the steady clock; 0: not reading */
static SagaQueued look_position;	/* a channel */
static TimestampTz look_not_before = DT_NOBEGIN;
static bool first_look = true;	/* whatever is found is notified at once */

static const SagaPhase phases[] = {SAGA_PHASE_COMPENSATION, SAGA_PHASE_FORWARD};

/* From before this turn's snapshot (queue_front.c). */
static uint64 fronts = 0;

/* The saga that is being parked, for the handler of an error; seq 0: none is. */
static SagaQueued parking;

/* After an error, nothing is done before that. */
static TimestampTz not_before = DT_NOBEGIN;

/* Something may have been dispatched, and announced with that. */
void
saga_channels_dispatched(TimestampTz now)
{
	look_at = Min(look_at, Max(now + AGAIN_FIRST * SAGA_CLOCK_MS, look_not_before));
}

/* The first is the one whose time comes first. */
static int
compare_next(const pairingheap_node *a, const pairingheap_node *b, void *arg)
{
	const Channel *first = pairingheap_const_container(Channel, node, a);
	const Channel *second = pairingheap_const_container(Channel, node, b);

	if (first->next == second->next)
		return 0;
	return first->next < second->next ? 1 : -1;
}

/* Nothing remembered can be relied on: notify every channel at once. */
void
saga_channels_read_again(void)
{
	HASHCTL		control;

	if (channels != NULL)
		hash_destroy(channels);
	if (by_next == NULL)
		by_next = pairingheap_allocate(compare_next, NULL);
	control.keysize = NAMEDATALEN;
	control.entrysize = sizeof(Channel);
	channels = hash_create("saga channels", 64, &control,
						   HASH_ELEM | HASH_STRINGS);
	pairingheap_reset(by_next);
	notified_count = 0;
	look_at = DT_NOBEGIN;
	look_begun = 0;
	look_not_before = DT_NOBEGIN;
	first_look = true;
}

/* The clock was set back: no pause is to last longer for that. */
void
saga_channels_forget_pauses(void)
{
	saga_shmem_my_database()->channels_next = 0;
	/* Over, and not forgotten: then room is made in the queue first. */
	not_before = Min(not_before, DT_NOBEGIN + 1);
	saga_channels_read_again();
}

/* Adds a channel that is not known yet, and sets when to notify it. */
static void
add_channel(const SagaQueued *queued, TimestampTz now)
{
	SagaDatabaseSlot *slot = saga_shmem_my_database();
	Channel    *channel;
	bool		known;

	channel = hash_search(channels, queued->channel, HASH_ENTER, &known);
	if (known)
		return;
	if (!first_look)
	{
		channel->next = queued->since + AGAIN_FIRST * SAGA_CLOCK_MS;
		channel->pause_ms = AGAIN_FIRST;
	}
	else if (slot->channels_next > now)
	{
		/* Another worker notified it, and made room for other databases. */
		channel->next = slot->channels_next;
		channel->pause_ms = slot->channels_pause;
	}
	else
	{
		channel->next = now;
		channel->pause_ms = Max(slot->channels_pause, AGAIN_FIRST);
	}
	pairingheap_add(by_next, &channel->node);
}

/*
 * The first row of the next owner for which something waits on the channel in the
 * phase; false if there is none.
 */
static bool
next_on(SagaQueued *queue, TimestampTz now)
{
	while (saga_ledger_next_owner(queue))
	{
		/* The time of a task may not have come. */
		if (saga_ledger_first_queued(queue, fronts, GetActiveSnapshot(), queue,
									 1) > 0 &&
			(queue->phase != SAGA_PHASE_FORWARD || queue->since <= now))
			return true;
		CHECK_FOR_INTERRUPTS();
	}
	return false;
}

static bool
first_on(const char *name, SagaPhase phase, TimestampTz now, SagaQueued *first)
{
	strlcpy(first->channel, name, NAMEDATALEN);
	first->phase = phase;
	first->owner = InvalidOid;
	return next_on(first, now);
}

/* Reads on which channels there are, as far as a turn goes. */
static void
read_channels(TimestampTz now)
{
	SagaQueued	first;

	if (look_begun == 0)
	{
		look_position.channel[0] = '\0';
		look_begun = saga_clock_steady();
		/* A task dispatched meanwhile may come after our position. */
		look_at = DT_NOEND;
	}
	for (int i = 0; i < LOOK_BATCH; i++)
	{
		if (!saga_ledger_next_channel(&look_position))
		{
			look_not_before = now +
				(saga_clock_steady() - look_begun) * LOOK_SHARE;
			look_begun = 0;
			first_look = false;
			return;
		}
		for (size_t phase = 0; phase < lengthof(phases); phase++)
			if (first_on(look_position.channel, phases[phase], now, &first))
				add_channel(&first, now);
		CHECK_FOR_INTERRUPTS();
	}
}

/* Notifies a channel of the first that waits there; false if nothing does. */
static bool
notify_channel(const char *name, TimestampTz now)
{
	SagaQueued	first;
	bool		found = false;

	if (first_on(name, SAGA_PHASE_COMPENSATION, now, &first))
	{
		saga_notify_compensate(name, &first.saga, first.seq);
		found = true;
	}
	if (first_on(name, SAGA_PHASE_FORWARD, now, &first))
	{
		saga_notify_task(name, &first.saga, first.seq);
		found = true;
	}
	return found;
}

/* Parks a compensation that no role may claim any more. */
static void
park_undo(SagaRow *saga, TimestampTz now)
{
	SagaSteps	steps;
	SagaChange	change;

	saga_ledger_get_steps(&saga->id, &steps);
	saga_change_begin(&change, saga, &steps, SAGA_MAY_NOTIFY, now);
	saga_events_pass(&change);
	(void) saga_change_write(&change);
}

/* The same of a task. */
static void
park_task(SagaRow *saga, const SagaQueued *queued, const char *why,
		  TimestampTz now)
{
	SagaStep	step;
	SagaChange	change;

	if (!saga_ledger_lock(&saga->id, ShareLock, SAGA_NOWAIT) ||
		saga_ledger_reread_saga(saga, SAGA_NOWAIT) != SAGA_FOUND ||
		saga->state != SAGA_RUNNING ||
		saga_ledger_get_queued_step(queued, &step) != SAGA_FOUND ||
		saga_rows_task_due(&step) == 0)
		return;
	saga_change_begin(&change, saga, NULL, 0, now);
	saga_look_park(&change, &step, why);
	(void) saga_change_write(&change);
}

/*
 * What waits for the members of a role that is gone, or is another by now,
 * waits in vain: parks it.  False if it may not have been all on the channel.
 */
static bool
park_gone(const char *name, SagaPhase phase, int *parked, TimestampTz now)
{
	SagaQueued	queue;
	SagaRow		saga;
	bool		more;

	for (more = first_on(name, phase, now, &queue); more;
		 more = next_on(&queue, now))
	{
		do
		{
			const char *why;
			TimestampTz again;

			CHECK_FOR_INTERRUPTS();
			if (saga_ledger_get_saga(&queue.saga, &saga) != SAGA_FOUND)
				continue;
			/* The rows that follow in this queue have the same owner. */
			why = saga_rights_why_gone(saga.owner, saga.owner_name);
			if (why == NULL)
				break;
			if (*parked >= PARK_BATCH)
				return false;
			if (saga_failing_waits(&queue.saga, SAGA_FAILING_PARK, now, &again) ||
				saga_ledger_reread_saga(&saga, SAGA_NOWAIT) != SAGA_FOUND)
				continue;
			parking = queue;
			if (phase == SAGA_PHASE_FORWARD)
				park_task(&saga, &queue, why, now);
			else
				park_undo(&saga, now);
			parking.seq = 0;
			saga_failing_over(&queue.saga, SAGA_FAILING_PARK);
			(*parked)++;
		} while (saga_ledger_next_queued(&queue, GetActiveSnapshot(), &queue,
										 1) > 0);
	}
	return true;
}

static Channel *
first_channel(void)
{
	if (pairingheap_is_empty(by_next))
		return NULL;
	return pairingheap_container(Channel, node, pairingheap_first(by_next));
}

/* When something is to be done here next. */
static TimestampTz
next_time(void)
{
	const Channel *first = first_channel();
	TimestampTz next = look_begun != 0 ? DT_NOBEGIN : look_at;

	if (first != NULL)
		next = Min(next, first->next);
	return Max(next, not_before);
}

/* For the worker that comes after this one. */
static void
remember(void)
{
	SagaDatabaseSlot *slot = saga_shmem_my_database();
	const Channel *first = first_channel();

	slot->channels_next = first == NULL ? 0 : first->next;
	slot->channels_pause = first == NULL ? 0 : first->pause_ms;
}

/*
 * The transaction of a pass.  Takes those that it notifies off the heap.  False:
 * this is a copy of the ledger.
 */
static bool
notify_those_due(TimestampTz now)
{
	int			parked = 0;

	if (look_begun != 0 || look_at <= now)
		read_channels(now);

	/*
	 * Check after taking the snapshot, so that the check covers every row the
	 * snapshot can see.
	 */
	if (saga_home_away() != NULL)
	{
		saga_transaction_commit();
		return false;
	}
	while (notified_count < NOTIFY_BATCH)
	{
		Channel    *channel = first_channel();

		if (channel == NULL || channel->next > now)
			break;
		notified[notified_count++] = channel;
		pairingheap_remove_first(by_next);
		channel->found = CHANNEL_EMPTY;
		for (size_t i = 0; i < lengthof(phases); i++)
			if (!park_gone(channel->name, phases[i], &parked, now))
				channel->found = CHANNEL_PARKS;
		if (channel->found != CHANNEL_PARKS && notify_channel(channel->name, now))
			channel->found = CHANNEL_WAITS;
	}
	SAGA_FAULT("channels.before_commit");
	saga_transaction_commit();
	return true;
}

/* A channel was notified: when it will be again. */
static void
set_next(Channel *channel, TimestampTz now)
{
	channel->next = now + channel->pause_ms * SAGA_CLOCK_MS;
	/* All that wait for long are notified at once: one wake-up for all. */
	if (channel->pause_ms >= AGAIN_LAST)
		channel->next -= channel->next % (AGAIN_LAST * SAGA_CLOCK_MS);
	channel->pause_ms = Min(channel->pause_ms * 2, AGAIN_LAST);
}

/*
 * One turn.  Returns when to look again; DT_NOEND: when something is
 * dispatched.  What an error leaves in memory is given back by resetting the
 * caller's context.
 */
TimestampTz
saga_channels_turn(TimestampTz now)
{
	MemoryContext caller = CurrentMemoryContext;
	int64		begun = saga_clock_steady();
	volatile bool failed = false;
	volatile bool noted = false;
	volatile bool home = false;

	if (next_time() > now)
		return next_time();
	if (not_before != DT_NOBEGIN)
	{
		not_before = DT_NOBEGIN;
		saga_notify_make_room();
	}
	fronts = saga_queue_front_look();
	parking.seq = 0;
	if (saga_transaction_begin(true) != SAGA_TRANSACTION_BEGUN)
		return now + BLOCKED * SAGA_CLOCK_MS;
	MemoryContextSwitchTo(caller);
	PG_TRY();
	{
		home = notify_those_due(now);
	}
	PG_CATCH();
	{
		ErrorData  *error = saga_transaction_fail(caller);
		TimestampTz again;

		failed = true;
		noted = parking.seq != 0 &&
			saga_failing_note(&parking.saga, SAGA_FAILING_PARK, error->sqlerrcode,
							  saga_clock_steady() - begun, &again);
		ereport(WARNING,
				(errcode(error->sqlerrcode),
				 noted ? errmsg("could not park saga %s: %s",
								saga_ids_string(&parking.saga), error->message) :
				 errmsg("could not notify listeners: %s", error->message),
				 noted ? 0 :
				 errhint("It will be tried again; what waits can be claimed meanwhile.")));
	}
	PG_END_TRY();
	MemoryContextSwitchTo(caller);

	for (int i = 0; i < notified_count; i++)
	{
		Channel    *channel = notified[i];

		if (!failed && channel->found == CHANNEL_EMPTY)
		{
			(void) hash_search(channels, channel->name, HASH_REMOVE, NULL);
			continue;
		}
		if (!failed && channel->found == CHANNEL_WAITS)
			set_next(channel, now);
		pairingheap_add(by_next, &channel->node);
	}
	notified_count = 0;
	/* At once for the others: that one is passed over. */
	if (noted)
		return now;
	if (failed)
		return not_before = now + AFTER_ERROR * SAGA_CLOCK_MS;
	if (!home)
		return DT_NOEND;
	remember();
	return next_time();
}
