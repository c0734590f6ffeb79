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

extern void saga_waits_append_next(StringInfo buf, const pg_uuid_t *id,
								   bool paused, bool sealed);

#endif							/* SAGA_WAITS_H */
