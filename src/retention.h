/*-------------------------------------------------------------------------
 *
 * retention.h
 *	  Deleting finished sagas.
 *
 *-------------------------------------------------------------------------
 */
#ifndef SAGA_RETENTION_H
#define SAGA_RETENTION_H

#include "table.h"
#include "utils/uuid.h"

extern int64 saga_retention_purge(pg_uuid_t *position, TimestampTz limit,
								  bool all, int64 look, int64 max,
								  SagaPatience patience, bool *done);
extern TimestampTz saga_retention_turn(TimestampTz now);
extern void saga_retention_read_again(void);

#endif							/* SAGA_RETENTION_H */
