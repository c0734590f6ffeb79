/*-------------------------------------------------------------------------
 *
 * ids.h
 *	  Time-ordered UUIDs, version 7 (RFC 9562).
 *
 *-------------------------------------------------------------------------
 */
#ifndef SAGA_IDS_H
#define SAGA_IDS_H

#include "datatype/timestamp.h"
#include "utils/uuid.h"

extern void saga_ids_generate(pg_uuid_t *uuid);
extern void saga_ids_first(TimestampTz at, pg_uuid_t *uuid);
extern char *saga_ids_string(const pg_uuid_t *uuid);

#endif							/* SAGA_IDS_H */
