/*-------------------------------------------------------------------------
 *
 * afresh.h
 *	  What becomes of the steps that saga runs when their saga goes back, and
 *	  when it goes forward again.
 *
 *-------------------------------------------------------------------------
 */
#ifndef SAGA_AFRESH_H
#define SAGA_AFRESH_H

#include "flow/change.h"

extern void saga_afresh_withdraw(SagaChange *change, int64 savepoint);
extern void saga_afresh_restart(SagaChange *change, bool unseen);
extern void saga_afresh_roll_back(SagaChange *change, SagaStep *step);

#endif							/* SAGA_AFRESH_H */
