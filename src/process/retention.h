/*-------------------------------------------------------------------------
 *
 * retention.h
 *	  Deleting finished sagas that are older than saga.retention.
 *
 *-------------------------------------------------------------------------
 */
#ifndef SAGA_RETENTION_H
#define SAGA_RETENTION_H

#include "datatype/timestamp.h"

extern TimestampTz saga_retention_turn(TimestampTz now);
extern void saga_retention_read_again(void);

#endif							/* SAGA_RETENTION_H */
