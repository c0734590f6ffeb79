/*-------------------------------------------------------------------------
 *
 * gates.h
 *	  Which steps of a running saga are done, and which may begin.
 *
 *-------------------------------------------------------------------------
 */
#ifndef SAGA_GATES_H
#define SAGA_GATES_H

#include "nodes/pg_list.h"

#include "ledger/rows.h"

/* What the steps of a saga say of each other; the arrays go by their index. */
typedef struct SagaGates
{
	const SagaSteps *steps;
	int			count;			/* steps of the present runs */
	int		   *order;			/* their indexes, in the order of recording */
	bool	   *done;
	int		   *before;			/* the first step that keeps gate 1 closed;
								 * -1: it is open; -2: closed by a step that
								 * is not recorded again yet */
	int		   *barrier;		/* of a step without "after": the last sibling
								 * without one before it; -1: none */
	int		   *recorder;		/* of a present run: the step whose action
								 * recorded it; -1: the outside */
} SagaGates;

extern void saga_gates_read(SagaGates *gates, const SagaSteps *steps);
extern void saga_gates_open_first(SagaStep *step, TimestampTz now);
extern bool saga_gates_all_done(const SagaGates *gates);
extern List *saga_gates_inputs(const SagaGates *gates, int index);
extern bool saga_gates_work_done(const SagaStep *step);
extern struct HTAB *saga_gates_index_keys(const SagaGates *gates);
extern int	saga_gates_find_key(struct HTAB *keys, const char *key);
extern bool saga_gates_given_up(const SagaStep *step);
extern bool saga_gates_failed(const SagaStep *step);
extern List *saga_gates_keys(const ArrayType *keys);

#endif							/* SAGA_GATES_H */
