/*-------------------------------------------------------------------------
 *
 * follow.h
 *	  What follows for a saga from the state of its steps.
 *
 *-------------------------------------------------------------------------
 */
#ifndef SAGA_FOLLOW_H
#define SAGA_FOLLOW_H

#include "flow/change.h"

extern void saga_follow(SagaChange *change);
extern void saga_follow_walk(SagaChange *change);
extern void saga_follow_leave_to_worker(SagaChange *change);
extern void saga_follow_rest(SagaChange *change);
extern void saga_follow_wait(SagaChange *change, TimestampTz when, Oid lane);
extern void saga_follow_withdraw(SagaChange *change);
extern void saga_follow_keep_dispatch(SagaChange *change, const SagaStep *step,
									  const text *channel, TimestampTz before);
extern bool saga_follow_is_late(const SagaRow *saga, TimestampTz now);

#endif							/* SAGA_FOLLOW_H */
