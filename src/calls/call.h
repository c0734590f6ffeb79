/*-------------------------------------------------------------------------
 *
 * call.h
 *	  The frame of the calls that change a saga: open, decide, write, or again.
 *
 *-------------------------------------------------------------------------
 */
#ifndef SAGA_CALL_H
#define SAGA_CALL_H

#include "base/rights.h"
#include "flow/change.h"

/* What a call needs besides the newest version of the saga's row. */
typedef enum SagaCallLock
{
	SAGA_CALL_NO_LOCK,			/* writers meet at the saga's row */
	SAGA_CALL_SHARED,			/* no other transaction can begin the undo,
								 * until the end of this one */
	SAGA_CALL_SHARED_IF_RUNNING,
	SAGA_CALL_EXCLUSIVE,		/* no step is on its way in, until the saga's
								 * row is written */
	SAGA_CALL_EXCLUSIVE_IF_RUNNING
} SagaCallLock;

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
