/*-------------------------------------------------------------------------
 *
 * call.h
 *	  The frame of the calls that change a saga: open, decide, write, or again.
 *
 *-------------------------------------------------------------------------
 */
#ifndef SAGA_CALL_H
#define SAGA_CALL_H

#include "calls/access.h"
#include "flow/change.h"

typedef enum SagaVerdict
{
	SAGA_NOTHING_TO_WRITE,
	SAGA_WRITE,
	SAGA_LOOK_AGAIN				/* a row was not found where it was: it may be
								 * updated to another page meanwhile; or
								 * "writer" of the change is writing it */
} SagaVerdict;

/*
 * Decides, from rows that are the newest, what becomes of a saga.  May be called
 * several times, each time with a change that has just begun.
 */
typedef SagaVerdict (*SagaDecide) (SagaChange *change, void *arg);

extern SagaState saga_call(const pg_uuid_t *id, SagaReach reach,
						   SagaCallLock lock, SagaDecide decide, void *arg);
extern Datum saga_call_state(const pg_uuid_t *id, SagaReach reach,
							 SagaCallLock lock, SagaDecide decide, void *arg);

#endif							/* SAGA_CALL_H */
