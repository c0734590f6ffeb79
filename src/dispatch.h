/*-------------------------------------------------------------------------
 *
 * dispatch.h
 *	  The reverse walk: given a saga, what is next, and what follows from an
 *	  outcome.
 *
 *-------------------------------------------------------------------------
 */
#ifndef SAGA_DISPATCH_H
#define SAGA_DISPATCH_H

#include "ledger.h"

typedef enum SagaTaskKind
{
	SAGA_TASK_NONE,				/* the walk is over */
	SAGA_TASK_SQL,				/* an executor runs the step's compensation */
	SAGA_TASK_PERSON			/* the saga is to be parked at the step */
} SagaTaskKind;

/* The next thing to do in a saga's reverse walk. */
typedef struct SagaTask
{
	SagaTaskKind kind;
	int			index;			/* of the step in the SagaSteps; -1: none */
	const char *why;			/* of SAGA_TASK_PERSON */
} SagaTask;

/* How an attempt of a compensation ended. */
typedef struct SagaAttemptEnd
{
	SagaOutcome outcome;
	int			attempt;		/* its number */
	TimestampTz started_at;
	int64		rows;			/* -1: unknown */
	const char *sqlstate;		/* NULL on success */
	const char *error;
	bool		charged;		/* counts against the policy */
	bool		conflict;		/* serialization, deadlock or lock timeout */
	bool		suspect;		/* the server crashed while it ran ... */
	bool		alone;			/* ... with no other beside it */
	const char *park;			/* not NULL: do not try again, for this reason */
} SagaAttemptEnd;

extern void saga_dispatch_next(const SagaRow *saga, SagaSteps *steps,
							   SagaTask *task);
extern SagaWritten saga_dispatch_fail(SagaRow *saga, SagaFailureKind kind,
									  text *reason, Jsonb *details,
									  SagaPatience patience, TimestampTz now);
extern SagaWritten saga_dispatch_settle(SagaRow *saga, SagaSteps *steps,
										int index, const SagaAttemptEnd *end,
										TimestampTz now);
extern SagaWritten saga_dispatch_turn(SagaRow *saga, SagaSteps *steps,
									  TimestampTz now);
extern SagaWritten saga_dispatch_late(SagaRow *saga, SagaStep *step,
									  Jsonb *output, TimestampTz now);

#endif							/* SAGA_DISPATCH_H */
