/*-------------------------------------------------------------------------
 *
 * events.h
 *	  What befalls a saga: its failure, its turn with the worker, late results.
 *
 *-------------------------------------------------------------------------
 */
#ifndef SAGA_EVENTS_H
#define SAGA_EVENTS_H

#include "flow/change.h"

extern SagaWritten saga_events_fail(SagaRow *saga, SagaFailureKind kind,
									text *reason, Jsonb *details,
									SagaHand hand, TimestampTz now);
extern SagaWritten saga_events_turn(SagaRow *saga, SagaSteps *steps,
									SagaHand hand, TimestampTz now);
extern bool saga_events_notifies(const SagaRow *saga, SagaSteps *steps);
extern SagaWritten saga_events_late(SagaRow *saga, SagaSteps *steps,
									int index, Jsonb *output,
									TimestampTz now);

#endif							/* SAGA_EVENTS_H */
