/*-------------------------------------------------------------------------
 *
 * interrupted.h
 *	  Attempts that were cut short.
 *
 *-------------------------------------------------------------------------
 */
#ifndef SAGA_INTERRUPTED_H
#define SAGA_INTERRUPTED_H

#include "datatype/timestamp.h"
#include "utils/palloc.h"
#include "utils/uuid.h"

extern TimestampTz saga_interrupted_turn(MemoryContext turn_context,
										 TimestampTz now, bool *recorded);
extern bool saga_interrupted_withholds(const pg_uuid_t *id);
extern void saga_interrupted_look_again(void);

#endif							/* SAGA_INTERRUPTED_H */
