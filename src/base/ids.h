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

/* Characters of an id's text */
#define SAGA_IDS_LENGTH 36

extern void saga_ids_generate(pg_uuid_t *uuid);
extern void saga_ids_first(TimestampTz at, pg_uuid_t *uuid);
extern char *saga_ids_write(const pg_uuid_t *uuid, char *to);
extern char *saga_ids_string(const pg_uuid_t *uuid);

/* For qsort and bsearch, too */
static inline int
saga_ids_compare(const void *a, const void *b)
{
	return memcmp(a, b, sizeof(pg_uuid_t));
}

static inline bool
saga_ids_equal(const pg_uuid_t *a, const pg_uuid_t *b)
{
	return memcmp(a, b, sizeof(pg_uuid_t)) == 0;
}

#endif							/* SAGA_IDS_H */
