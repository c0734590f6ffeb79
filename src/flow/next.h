/*-------------------------------------------------------------------------
 *
 * next.h
 *	  The reverse walk: given a saga and its steps, what is next.
 *
 *-------------------------------------------------------------------------
 */
#ifndef SAGA_NEXT_H
#define SAGA_NEXT_H

#include "ledger/rows.h"

typedef enum SagaTaskKind
{
	SAGA_TASK_NONE,				/* the walk is over */
	SAGA_TASK_SQL,				/* an executor runs the step's compensation */
	SAGA_TASK_LISTENER,			/* a listener on its channel does it */
	SAGA_TASK_PERSON			/* a person decides about the step */
} SagaTaskKind;

/* The next thing to do in a saga's reverse walk. */
typedef struct SagaTask
{
	SagaTaskKind kind;
	int			index;			/* of the step in the SagaSteps; -1: none */
	const char *why;			/* of SAGA_TASK_PERSON */
} SagaTask;

extern void saga_next(const SagaRow *saga, SagaSteps *steps,
					  SagaTask *task);
extern bool saga_next_in_range(const SagaRow *saga, const SagaStep *step);
extern bool saga_next_passes_over(const SagaRow *saga, const SagaStep *step);
extern bool saga_next_spares(const SagaStep *step);
extern int	saga_next_count_given_up(const SagaRow *saga,
									 const SagaSteps *steps);
extern int	saga_next_count_to_undo(const SagaRow *saga,
									const SagaSteps *steps);
extern int	saga_next_find(const SagaSteps *steps, int64 seq);
extern int	saga_next_find_key(const SagaSteps *steps, const text *key);
extern int	saga_next_find_asked(const SagaRow *saga, const SagaSteps *steps,
								 const text *key);
extern SagaStep *saga_next_claimed(const SagaSteps *steps);
extern const SagaStep *saga_next_completed_pivot(const SagaSteps *steps);
extern int64 saga_next_failed_step(const SagaSteps *steps);

#endif							/* SAGA_NEXT_H */
