/*-------------------------------------------------------------------------
 *
 * steps.h
 *	  The result of the calls about a step: saga.step_result.
 *
 *-------------------------------------------------------------------------
 */
#ifndef SAGA_STEPS_H
#define SAGA_STEPS_H

#include "ledger/rows.h"

extern Datum saga_steps_result(const SagaStep *step, bool known);

#endif							/* SAGA_STEPS_H */
