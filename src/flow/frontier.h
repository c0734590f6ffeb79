/*-------------------------------------------------------------------------
 *
 * frontier.h
 *	  Which first gates open when one more step of a saga is done.
 *
 *-------------------------------------------------------------------------
 */
#ifndef SAGA_FRONTIER_H
#define SAGA_FRONTIER_H

#include "nodes/pg_list.h"

#include "ledger/rows.h"

typedef struct SagaFrontier SagaFrontier;

/* One of its steps, as it returns them */
typedef struct SagaFrontierStep
{
	char	   *key;
	int			run;
} SagaFrontierStep;

extern SagaFrontier *saga_frontier_make(const SagaSteps *steps,
										MemoryContext context);
extern bool saga_frontier_completed(SagaFrontier *frontier, int64 seq,
									List **opened);
extern bool saga_frontier_recorded(const SagaFrontier *frontier, int64 seq);
extern bool saga_frontier_inputs(const SagaFrontier *frontier, int64 seq,
								 List **inputs);
extern bool saga_frontier_all_done(const SagaFrontier *frontier);

#endif							/* SAGA_FRONTIER_H */
