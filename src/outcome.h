/*-------------------------------------------------------------------------
 *
 * outcome.h
 *	  How an attempt of a compensation ended, and what that means for its step.
 *
 *-------------------------------------------------------------------------
 */
#ifndef SAGA_OUTCOME_H
#define SAGA_OUTCOME_H

#include "rows.h"

typedef struct SagaAttemptEnd
{
	SagaOutcome outcome;
	int			attempt;		/* its number */
	TimestampTz started_at;
	int64		rows;			/* -1: unknown */
	const char *sqlstate;		/* NULL on success */
	const char *error;
	const char *consumer;		/* the listener that made it, or NULL */
	bool		charged;		/* counts against the policy */
	bool		conflict;		/* serialization, deadlock or lock timeout */
	bool		suspect;		/* the server crashed while it ran ... */
	bool		alone;			/* ... with no other beside it */
	int64		retry_after;	/* ms to wait, whatever the policy says; 0: it */
	const char *park;			/* not NULL: do not try again, for this reason */
} SagaAttemptEnd;

extern void saga_outcome_take(const SagaRow *saga, SagaStep *step,
							  const SagaAttemptEnd *end, TimestampTz now);
extern void saga_outcome_forgive(SagaStep *step);
extern void saga_outcome_of_claim(const SagaStep *step, SagaOutcome outcome,
								  const char *error, SagaAttemptEnd *end);
extern void saga_outcome_policy(const SagaStep *step, SagaPolicy *policy);

#endif							/* SAGA_OUTCOME_H */
