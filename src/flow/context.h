/*-------------------------------------------------------------------------
 *
 * context.h
 *	  The jsonb context of a step's work or of its undo, and the keys in it.
 *
 *-------------------------------------------------------------------------
 */
#ifndef SAGA_CONTEXT_H
#define SAGA_CONTEXT_H

#include "nodes/pg_list.h"

#include "ledger/ledger.h"

extern Jsonb *saga_context_build(const SagaRow *saga, const SagaStep *step,
								 int attempt, bool task);
extern Jsonb *saga_context_build_forward(const SagaRow *saga,
										 const SagaStep *step, int attempt,
										 const List *inputs);
extern text *saga_context_forward_key(const pg_uuid_t *saga, int64 seq);
extern List *saga_context_inputs_of(const SagaRow *saga, const List *keys);
extern List *saga_context_inputs(const SagaRow *saga, const SagaStep *step);
extern bool saga_context_parse_key(const text *key, pg_uuid_t *saga,
								   int64 *seq, SagaPhase *phase);
extern text *saga_context_compensation_key(const pg_uuid_t *saga, int64 seq);

#endif							/* SAGA_CONTEXT_H */
