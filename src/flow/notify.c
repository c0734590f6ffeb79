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
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "base/fault.h"
#include "base/ids.h"
#include "commands/async.h"
#include "flow/notify.h"
#include "utils/builtins.h"
#include "utils/fmgroids.h"
#include "utils/fmgrprotos.h"

/* A compensation waits to be claimed. */
void
saga_notify_compensate(const char *channel, const pg_uuid_t *saga, int64 seq)
{
	SAGA_FAULT("notify.before_queue");
	Async_Notify(channel,
				 psprintf("{\"event\":\"compensate\",\"saga_id\":\"%s\",\"seq\":" INT64_FORMAT "}",
						  saga_ids_string(saga), seq));
}

/* A saga reached a state. */
void
saga_notify_state(const char *channel, const pg_uuid_t *saga, SagaState state)
{
	SAGA_FAULT("notify.before_queue");
	Async_Notify(channel,
				 psprintf("{\"event\":\"state\",\"saga_id\":\"%s\",\"state\":\"%s\"}",
						  saga_ids_string(saga), saga_state_name(state)));
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
