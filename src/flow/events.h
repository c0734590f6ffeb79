/*-------------------------------------------------------------------------
 *
 * events.h
 *	  What befalls a saga: its failure, its turn with the worker, late results.
 *
 *-------------------------------------------------------------------------
 */
#ifndef SAGA_DISPATCH_H
#define SAGA_DISPATCH_H

#include "flow/change.h"

extern SagaWritten saga_dispatch_fail(SagaRow *saga, SagaFailureKind kind,
									  text *reason, Jsonb *details,
									  SagaHand hand, TimestampTz now);
extern SagaWritten saga_dispatch_turn(SagaRow *saga, SagaSteps *steps,
									  SagaHand hand, TimestampTz now);
extern bool saga_dispatch_notifies(const SagaRow *saga, SagaSteps *steps);
extern SagaWritten saga_dispatch_late(SagaRow *saga, SagaSteps *steps,
									  int index, Jsonb *output,
									  TimestampTz now);

#endif							/* SAGA_DISPATCH_H */
