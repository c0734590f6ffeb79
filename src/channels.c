/*-------------------------------------------------------------------------
 *
 * channels.c
 *	  Announcing again what listeners have not claimed.
 *
 * A step is announced as it is dispatched.  Whoever did not hear that (no
 * listener was there, or it lost its connection) finds the step by claiming;
 * so that nothing depends on that either, a channel on which something waits
 * is notified again, ever less often, for as long as it does.
 *
 * One notification a channel is enough, since any wakes every listener, and
 * they claim by channel.  So this writes no rows.  What is remembered is the
 * worker's, and a little of it the next worker's, in shared memory; after a
 * restart of the server every channel is told at once.
 *
 * What waits for an owner that is gone is parked on the way.
 *
 * Which channels there are is read from the queue, a moment after something
 * was dispatched: most of it is claimed by then.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/xact.h"
#include "channels.h"
#include "dispatch.h"
#include "fault.h"
#include "home.h"
#include "ledger.h"
#include "miscadmin.h"
#include "notify.h"
#include "owner.h"
#include "shmem.h"
#include "turn.h"
#include "utils/memutils.h"
#include "utils/snapmgr.h"

#define MS				INT64CONST(1000)

/* Between two notifications of a channel, in milliseconds. */
#define AGAIN_FIRST		1000
#define AGAIN_LAST		60000
/* Sagas of owners that are gone, parked in one turn. */
#define PARK_BATCH		100
/* While somebody has locked the ledger. */
#define BLOCKED			200
/* After an error. */
#define AFTER_ERROR		5000

typedef struct Channel
{
	char		name[NAMEDATALEN];
	TimestampTz next;			/* when to tell it again */
	int			pause_ms;		/* and how long after that */
	bool		empty;			/* nothing waited there when last looked */
} Channel;

static Channel *channels = NULL;
static int	channel_count = 0;
static int	channel_size = 0;

/* When to read which channels there are. */
static TimestampTz look_at = DT_NOBEGIN;

/* There may be more to park than one turn does. */
static bool more_to_park = false;

/* After an error, nothing is done before that. */
static TimestampTz not_before = DT_NOBEGIN;

/* The place in the queue before all, or behind all, that waits on a channel. */
static void
position_on(SagaQueued *position, const char *name, bool end)
{
	strlcpy(position->channel, name, NAMEDATALEN);
	position->owner = end ? OID_MAX : InvalidOid;
	position->since = end ? DT_NOEND : DT_NOBEGIN;
	memset(&position->saga, end ? 0xff : 0, sizeof(pg_uuid_t));
	position->seq = 0;
}

/* Something may have been dispatched, and announced with that. */
void
saga_channels_dispatched(TimestampTz now)
{
	look_at = Min(look_at, now + AGAIN_FIRST * MS);
}

/* Nothing remembered is to be relied on: every channel is told at once. */
void
saga_channels_read_again(void)
{
	channel_count = 0;
	look_at = DT_NOBEGIN;
}

static bool
is_known(const char *name)
{
	for (int i = 0; i < channel_count; i++)
		if (strcmp(channels[i].name, name) == 0)
			return true;
	return false;
}

static void
add_channel(const char *name, TimestampTz next, int pause_ms)
{
	Channel    *channel;

	if (channels == NULL)
	{
		channel_size = 16;
		channels = MemoryContextAlloc(TopMemoryContext,
									  channel_size * sizeof(Channel));
	}
	else if (channel_count == channel_size)
	{
		channel_size *= 2;
		channels = repalloc(channels, channel_size * sizeof(Channel));
	}
	channel = &channels[channel_count++];
	strlcpy(channel->name, name, NAMEDATALEN);
	channel->next = next;
	channel->pause_ms = pause_ms;
	channel->empty = false;
}

/* Reads which channels there are. */
static void
look(TimestampTz now)
{
	SagaDatabaseSlot *slot = saga_shmem_my_database();
	SagaQueued	position;
	SagaQueued	found;

	position_on(&position, "", false);
	while (saga_ledger_next_queued(&position, SAGA_QUEUE_ALL,
								   GetActiveSnapshot(), &found))
	{
		if (is_known(found.channel))
		{
			/* It has its time. */
		}
		else if (look_at != DT_NOBEGIN)
			add_channel(found.channel, found.since + AGAIN_FIRST * MS,
						AGAIN_FIRST);
		else if (slot->channels_next > now)
			/* Another worker told it, and made room for other databases. */
			add_channel(found.channel, slot->channels_next,
						slot->channels_pause);
		else
			add_channel(found.channel, now,
						Max(slot->channels_pause, AGAIN_FIRST));
		position_on(&position, found.channel, true);
		CHECK_FOR_INTERRUPTS();
	}
	look_at = DT_NOEND;
}

/* Tells a channel of the first that waits there; false if nothing does. */
static bool
tell(const char *name)
{
	SagaQueued	position;
	SagaQueued	found;

	position_on(&position, name, false);
	if (!saga_ledger_next_queued(&position, SAGA_QUEUE_CHANNEL,
								 GetActiveSnapshot(), &found))
		return false;
	saga_notify_compensate(name, &found.saga, found.seq);
	return true;
}

/*
 * What waits for the members of a role that is gone, or is another by now,
 * waits in vain: parks it.  One saga of such an owner on any channel that is
 * due; false if there is none (any more).
 */
static bool
park_one(SagaQueued *position, TimestampTz now)
{
	SagaQueued	found;
	SagaRow		saga;
	SagaSteps	steps;

	while (saga_ledger_next_queued(position, SAGA_QUEUE_ALL,
								   GetActiveSnapshot(), &found))
	{
		*position = found;
		if (saga_ledger_get_saga(&found.saga, &saga) != SAGA_FOUND)
			continue;
		if (saga_owner_why_gone(saga.owner, saga.owner_name) == NULL)
		{
			/* Nor have the other sagas of that owner another. */
			position->since = DT_NOEND;
			memset(&position->saga, 0xff, sizeof(pg_uuid_t));
			continue;
		}
		if (saga_ledger_reread_saga(&saga, SAGA_NOWAIT) != SAGA_FOUND)
			continue;
		saga_ledger_get_steps(&saga.id, &steps);
		(void) saga_dispatch_turn(&saga, &steps, SAGA_HAND_WORKER, now);
		return true;
	}
	return false;
}

/* When something is to be done here next. */
static TimestampTz
next_time(void)
{
	TimestampTz next = more_to_park ? DT_NOBEGIN : look_at;

	for (int i = 0; i < channel_count; i++)
		next = Min(next, channels[i].next);
	return Max(next, not_before);
}

/* For the worker that comes after this one. */
static void
remember(void)
{
	SagaDatabaseSlot *slot = saga_shmem_my_database();
	int			first = -1;

	for (int i = 0; i < channel_count; i++)
		if (first < 0 || channels[i].next < channels[first].next)
			first = i;
	slot->channels_next = first < 0 ? 0 : channels[first].next;
	slot->channels_pause = first < 0 ? 0 : channels[first].pause_ms;
}

/* The transaction of a turn.  False: this is a copy of the ledger. */
static bool
tell_those_due(TimestampTz now)
{
	SagaQueued	position;
	int			parked = 0;

	if (look_at <= now)
		look(now);
	/* Asked behind the snapshot: what it sees, this knows of. */
	if (saga_home_away() != NULL)
	{
		saga_turn_commit();
		return false;
	}
	for (int i = 0; i < channel_count; i++)
		channels[i].empty = channels[i].next <= now && !tell(channels[i].name);
	position_on(&position, "", false);
	while (parked < PARK_BATCH && park_one(&position, now))
	{
		parked++;
		CHECK_FOR_INTERRUPTS();
	}
	more_to_park = parked == PARK_BATCH;
	SAGA_FAULT("channels.before_commit");
	saga_turn_commit();
	return true;
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
	volatile bool failed = false;
	volatile bool home = false;
	int			kept = 0;

	if (next_time() > now)
		return next_time();
	if (not_before != DT_NOBEGIN)
	{
		not_before = DT_NOBEGIN;
		saga_notify_make_room();
	}
	if (saga_turn_begin(true) != SAGA_TURN_BEGUN)
		return now + BLOCKED * MS;
	MemoryContextSwitchTo(caller);
	PG_TRY();
	{
		home = tell_those_due(now);
	}
	PG_CATCH();
	{
		ErrorData  *error = saga_turn_fail(caller);

		ereport(WARNING,
				(errcode(error->sqlerrcode),
				 errmsg("could not notify listeners: %s", error->message),
				 errhint("It will be tried again; what waits can be claimed meanwhile.")));
		failed = true;
	}
	PG_END_TRY();
	MemoryContextSwitchTo(caller);
	if (failed)
		return not_before = now + AFTER_ERROR * MS;
	if (!home)
		return DT_NOEND;

	/* Those where nothing waits are forgotten. */
	for (int i = 0; i < channel_count; i++)
	{
		Channel    *channel = &channels[i];

		if (channel->empty)
			continue;
		if (channel->next <= now)
		{
			channel->next = now + channel->pause_ms * MS;
			/* All that wait for long are told at once: one wake-up for all. */
			if (channel->pause_ms >= AGAIN_LAST)
				channel->next -= channel->next % (AGAIN_LAST * MS);
			channel->pause_ms = Min(channel->pause_ms * 2, AGAIN_LAST);
		}
		channels[kept++] = *channel;
	}
	channel_count = kept;
	remember();
	return next_time();
}
