/*-------------------------------------------------------------------------
 *
 * dispatch.h
 *	  Moving a saga on: its failure, the outcomes of compensations, claims,
 *	  late results.
 *
 *-------------------------------------------------------------------------
 */
#ifndef SAGA_DISPATCH_H
#define SAGA_DISPATCH_H

#include "ledger.h"
#include "outcome.h"

/* Who moves a saga on. */
typedef enum SagaHand
{
	SAGA_HAND_CALLER,			/* a session's call: waits for other writers */
	SAGA_HAND_EXECUTOR,			/* a process of ours: does not wait */
	SAGA_HAND_WORKER			/* likewise; and it may notify */
} SagaHand;

extern SagaWritten saga_dispatch_fail(SagaRow *saga, SagaFailureKind kind,
									  text *reason, Jsonb *details,
									  SagaHand hand, TimestampTz now);
extern SagaWritten saga_dispatch_settle(SagaRow *saga, SagaSteps *steps,
										int index, const SagaAttemptEnd *end,
										SagaHand hand, TimestampTz now);
extern SagaWritten saga_dispatch_turn(SagaRow *saga, SagaSteps *steps,
									  SagaHand hand, TimestampTz now);
extern bool saga_dispatch_notifies(const SagaRow *saga, SagaSteps *steps);
extern SagaWritten saga_dispatch_late(SagaRow *saga, SagaSteps *steps,
									  int index, Jsonb *output,
									  TimestampTz now);

/* Listeners */
extern SagaWritten saga_dispatch_claim(SagaRow *saga, SagaSteps *steps,
									   int index, text *consumer,
									   TimestampTz lease_until,
									   TimestampTz now);
extern SagaWritten saga_dispatch_extend(SagaRow *saga, SagaSteps *steps,
										int index, TimestampTz lease_until,
										TimestampTz now);
extern SagaWritten saga_dispatch_acknowledge(SagaRow *saga, SagaSteps *steps,
											 int index, Jsonb *output,
											 TimestampTz now);
extern void saga_dispatch_claim_end(const SagaStep *step, SagaOutcome outcome,
									const char *error, SagaAttemptEnd *end);

#endif							/* SAGA_DISPATCH_H */
