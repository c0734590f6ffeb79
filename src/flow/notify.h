/*-------------------------------------------------------------------------
 *
 * notify.h
 *	  Notifications to the sessions that LISTEN.
 *
 *-------------------------------------------------------------------------
 */
#ifndef SAGA_NOTIFY_H
#define SAGA_NOTIFY_H

#include "utils/uuid.h"

#include "base/state.h"

extern void saga_notify_compensate(const char *channel, const pg_uuid_t *saga,
								   int64 seq);
extern void saga_notify_task(const char *channel, const pg_uuid_t *saga,
							 int64 seq);
extern void saga_notify_state(const char *channel, const pg_uuid_t *saga,
							  SagaState state);
extern void saga_notify_review(const char *channel, const pg_uuid_t *saga,
							   int64 seq);
extern void saga_notify_make_room(void);

#endif							/* SAGA_NOTIFY_H */
