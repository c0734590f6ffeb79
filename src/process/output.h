/*-------------------------------------------------------------------------
 *
 * output.h
 *	  The output of an action: the row that its last statement returned.
 *
 *-------------------------------------------------------------------------
 */
#ifndef SAGA_OUTPUT_H
#define SAGA_OUTPUT_H

#include "tcop/dest.h"
#include "utils/jsonb.h"

extern DestReceiver *saga_output_receiver(MemoryContext context);
extern Jsonb *saga_output_take(DestReceiver *receiver);

#endif							/* SAGA_OUTPUT_H */
