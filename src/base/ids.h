/*-------------------------------------------------------------------------
 *
 * ids.h
 *	  Time-ordered UUIDs, version 7 (RFC 9562).
 *
 *-------------------------------------------------------------------------
 */
#ifndef SAGA_UUID7_H
#define SAGA_UUID7_H

#include "datatype/timestamp.h"
#include "utils/uuid.h"

extern void saga_uuid7_generate(pg_uuid_t *uuid);
extern void saga_uuid7_first(TimestampTz at, pg_uuid_t *uuid);
extern char *saga_uuid7_string(const pg_uuid_t *uuid);

#endif							/* SAGA_UUID7_H */
