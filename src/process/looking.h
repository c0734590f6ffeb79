/*-------------------------------------------------------------------------
 *
 * looking.h
 *	  A look at a running saga, by the worker or by an executor.
 *
 *-------------------------------------------------------------------------
 */
#ifndef SAGA_LOOKING_H
#define SAGA_LOOKING_H

#include "flow/change.h"
#include "shared/shmem.h"

typedef enum SagaLooked
{
	SAGA_LOOKED,				/* what follows is written */
	SAGA_LOOKED_IN_VAIN,		/* nothing follows */
	SAGA_LOOK_LATER				/* somebody holds the saga, and nothing is
								 * written; or somebody holds a step whose
								 * time is over */
} SagaLooked;

extern SagaLooked saga_looking_at(const SagaDue *rows, int count, int may,
								  Oid role, SagaTicket *next);
extern void saga_looking_choose_next(SagaChange *change, Oid role,
									 SagaTicket *next);

#endif							/* SAGA_LOOKING_H */
