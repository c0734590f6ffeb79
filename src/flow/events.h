/*-------------------------------------------------------------------------
 *
 * events.h
 *	  Events in a saga's life: terminal failure, a pass by the worker, the end of
 *	  an attempt, a late result.
 *
 *-------------------------------------------------------------------------
 */
#ifndef SAGA_EVENTS_H
#define SAGA_EVENTS_H

#include "flow/change.h"
#include "flow/outcome.h"

extern void saga_events_fail(SagaChange *change, SagaFailureKind kind,
							 text *reason, Jsonb *details);
extern void saga_events_fail_at(SagaChange *change, SagaStep *step);
extern void saga_events_attempt(SagaChange *change, SagaStep *step,
								const SagaAttemptEnd *end);
extern void saga_events_park(SagaChange *change, SagaStep *step,
							 const char *why);
extern void saga_events_pass(SagaChange *change);
extern bool saga_events_notifies(const SagaRow *saga, SagaSteps *steps);
extern void saga_events_late(SagaChange *change, SagaStep *step, Jsonb *output);

#endif							/* SAGA_EVENTS_H */
