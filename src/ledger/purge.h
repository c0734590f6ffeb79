/*-------------------------------------------------------------------------
 *
 * purge.h
 *	  Deleting finished sagas.
 *
 *-------------------------------------------------------------------------
 */
#ifndef SAGA_PURGE_H
#define SAGA_PURGE_H

#include "ledger/ledger.h"

extern int64 saga_purge(pg_uuid_t *position, TimestampTz limit, bool all,
						int64 look, int64 max,
						SagaPatience patience, bool *done);

#endif							/* SAGA_PURGE_H */
