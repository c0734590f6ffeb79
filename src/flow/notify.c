/*-------------------------------------------------------------------------
 *
 * notify.c
 *	  Notifications to the sessions that LISTEN.
 *
 * A notification wakes; the tables say what is true.  It carries ids and states
 * only, because any role may LISTEN on any channel.  It is sent with the commit
 * of the transaction that records it, so that one that is lost in a crash is
 * sent again.
 *
 * Only the worker calls these functions: NOTIFY makes commits wait for each
 * other in the whole server, which would be too much for an application's
 * transaction.
 *
 * Dispatch.  The worker marks the compensation of a step dispatched, inserts its row
 * of the queue, and notifies, all in one transaction: a listener that is woken finds
 * the row.  (A task's row is there before; look.c says when its channel is notified.)
 * What is sent leaves the database, so its transaction waits for the disk, which
 * others of the worker do not.  It puts up to 100 due sagas into one transaction.
 *
 * States.  saga_change_state notes each state to be announced on the saga's
 * row, a letter each, which makes the saga due in the worker's lane.  The worker
 * sends them in order, clears them, and does what else is due without
 * dispatching: a step is dispatched in a later pass, after the state.
 *
 * A full queue.  The server's notification queue is full when a session that
 * listens stays in a transaction for long.  Then the commit of a dispatch fails as
 * a whole; for some seconds the worker leaves out what notifies, does everything
 * else, and tries again.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/xact.h"
#include "base/fault.h"
#include "base/ids.h"
#include "commands/async.h"
#include "flow/notify.h"
#include "utils/builtins.h"
#include "utils/fmgroids.h"
#include "utils/fmgrprotos.h"

static void
send_notice(const char *channel, const char *payload)
{
	SAGA_FAULT("notify.before_queue");
	ForceSyncCommit();
	Async_Notify(channel, payload);
}

static void
notify_of_step(const char *channel, const char *event, const pg_uuid_t *saga,
			   int64 seq)
{
	send_notice(channel,
				psprintf("{\"event\":\"%s\",\"saga_id\":\"%s\",\"seq\":" INT64_FORMAT "}",
						 event, saga_ids_string(saga), seq));
}

/* A compensation waits to be claimed. */
void
saga_notify_compensate(const char *channel, const pg_uuid_t *saga, int64 seq)
{
	notify_of_step(channel, "compensate", saga, seq);
}

/* A task waits to be claimed. */
void
saga_notify_task(const char *channel, const pg_uuid_t *saga, int64 seq)
{
	notify_of_step(channel, "task", saga, seq);
}

/* A saga reached a state. */
void
saga_notify_state(const char *channel, const pg_uuid_t *saga, SagaState state)
{
	send_notice(channel,
				psprintf("{\"event\":\"state\",\"saga_id\":\"%s\",\"state\":\"%s\"}",
						 saga_ids_string(saga), saga_state_name(state)));
}

/* A person must decide about a step of a saga that goes forward. */
void
saga_notify_review(const char *channel, const pg_uuid_t *saga, int64 seq)
{
	notify_of_step(channel, "review", saga, seq);
}

/*
 * Lets the server discard notifications that every listener has read.  Call this
 * before another attempt when the queue of notifications was full: by itself,
 * the server does so only after notifications that found room.
 */
void
saga_notify_make_room(void)
{
	(void) OidFunctionCall0(F_PG_NOTIFICATION_QUEUE_USAGE);
}
