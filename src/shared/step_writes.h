/*-------------------------------------------------------------------------
 *
 * step_writes.h
 *	  Has a step of a saga been written since?
 *
 *-------------------------------------------------------------------------
 */
#ifndef SAGA_STEP_WRITES_H
#define SAGA_STEP_WRITES_H

#include "utils/uuid.h"

extern void saga_step_writes_register(void);
extern void saga_step_writes_note(const pg_uuid_t *saga);
extern uint32 saga_step_writes_get(const pg_uuid_t *saga);

#endif							/* SAGA_STEP_WRITES_H */
