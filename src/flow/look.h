/*-------------------------------------------------------------------------
 *
 * look.h
 *	  A look at a running saga: which steps may begin, and is it over?
 *
 *-------------------------------------------------------------------------
 */
#ifndef SAGA_LOOK_H
#define SAGA_LOOK_H

#include "flow/change.h"
#include "flow/outcome.h"

typedef enum SagaLookResult
{
	SAGA_LOOK_NOTHING,			/* nothing moves */
	SAGA_LOOK_STEPS,			/* steps move: the change is to be written */
	SAGA_LOOK_ENDS				/* it ends, or fails, or a step is done by the
								 * look: write it if the change has
								 * SAGA_MAY_FAIL, else look again with that */
} SagaLookResult;

extern SagaLookResult saga_look(SagaChange *change);
extern void saga_look_attempt(SagaChange *change, SagaStep *step,
							  const SagaAttemptEnd *end);
extern void saga_look_time_out(SagaChange *change, SagaStep *step);
extern void saga_look_park(SagaChange *change, SagaStep *step,
						   const char *why);
extern Jsonb *saga_look_result(const SagaSteps *steps);

#endif							/* SAGA_LOOK_H */
