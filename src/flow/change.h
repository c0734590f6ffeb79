/*-------------------------------------------------------------------------
 *
 * change.h
 *	  Writing down what follows from a saga's steps.
 *
 *-------------------------------------------------------------------------
 */
#ifndef SAGA_CHANGE_H
#define SAGA_CHANGE_H

#include "flow/outcome.h"
#include "ledger/ledger.h"

/* Who moves a saga on. */
typedef enum SagaHand
{
	SAGA_HAND_CALLER,			/* a session's call: waits for other writers */
	SAGA_HAND_EXECUTOR,			/* a process of ours: does not wait */
	SAGA_HAND_WORKER			/* likewise; and it may notify */
} SagaHand;

/* The undo_target of a saga of which only late results wait for a decision. */
#define SAGA_NOTHING_TO_UNDO	PG_INT64_MAX

extern SagaWritten saga_change_walk(SagaRow *saga, SagaSteps *steps,
									SagaStep *changed, SagaHand hand,
									TimestampTz now);
extern SagaWritten saga_change_settle(SagaRow *saga, SagaSteps *steps,
									  int index, const SagaAttemptEnd *end,
									  SagaHand hand, TimestampTz now);

/* Parts of it, for who writes something else. */
extern SagaWritten saga_change_stand(SagaRow *saga, SagaStep *step,
									 SagaHand hand, TimestampTz now);
extern void saga_change_write_step(const SagaRow *saga, SagaStep *step);
extern void saga_change_write_attempt(const SagaStep *step,
									  const SagaAttemptEnd *end,
									  TimestampTz now);
extern bool saga_change_is_late(const SagaRow *saga, TimestampTz now);
extern void saga_change_keep_dispatch(const SagaStep *step, TimestampTz before);
extern void saga_change_rest(SagaRow *saga, const SagaSteps *steps);
extern void saga_change_withdraw(const SagaRow *saga, SagaSteps *steps);
extern void saga_change_wait_until(SagaRow *saga, const SagaSteps *steps,
								   TimestampTz when, Oid lane);

#endif							/* SAGA_CHANGE_H */
