/*-------------------------------------------------------------------------
 *
 * waits.h
 *	  What the steps of a saga wait for, in words.
 *
 *-------------------------------------------------------------------------
 */
#ifndef SAGA_WAITS_H
#define SAGA_WAITS_H

#include "lib/stringinfo.h"
#include "utils/uuid.h"

extern bool saga_waits_append_next(StringInfo buf, const pg_uuid_t *id,
								   bool paused, bool sealed, bool read);
extern bool saga_waits_append_pause(StringInfo buf, const pg_uuid_t *id,
									text *channel);
extern bool saga_waits_has_worker(void);
extern const char *saga_waits_for_room(void);

#endif							/* SAGA_WAITS_H */
