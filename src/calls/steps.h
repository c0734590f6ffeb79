/*-------------------------------------------------------------------------
 *
 * steps.h
 *	  What is known of a step, as SQL has it.
 *
 *-------------------------------------------------------------------------
 */
#ifndef SAGA_STEPS_H
#define SAGA_STEPS_H

#include "ledger/rows.h"

extern Datum saga_steps_result(const SagaStep *step, bool known);

#endif							/* SAGA_STEPS_H */
