/*-------------------------------------------------------------------------
 *
 * notify.c
 *	  What the worker tells those who LISTEN.
 *
 * A notification wakes; what is true is in the tables.  It carries ids and
 * states only, because any role may LISTEN on any channel.  It is sent with
 * the commit of the transaction that wrote down that it is being sent, so that
 * one that is lost with a crash is sent again.
 *
 * To be called by the worker only: NOTIFY makes commits wait for each other in
 * the whole server, which is no price for an application's transaction.
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
 * To be called before another attempt when the queue of notifications was
 * full: lets the server give up what every listener has read by now.  It does
 * that by itself only behind notifications that found room.
 */
void
saga_notify_make_room(void)
{
	(void) OidFunctionCall0(F_PG_NOTIFICATION_QUEUE_USAGE);
}
