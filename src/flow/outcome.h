/*-------------------------------------------------------------------------
 *
 * outcome.h
 *	  How an attempt of an action, a task or a compensation ended, and what that
 *	  means for its step.
 *
 *-------------------------------------------------------------------------
 */
#ifndef SAGA_OUTCOME_H
#define SAGA_OUTCOME_H

#include "base/policy.h"
#include "ledger/rows.h"

/* How far an attempt of SQL has come. */
typedef enum SagaAttemptPhase
{
	SAGA_ATTEMPT_LOOKING,		/* no step chosen: there is no attempt yet */
	SAGA_ATTEMPT_PREPARING,
	SAGA_ATTEMPT_SQL,
	SAGA_ATTEMPT_MARKING,
	SAGA_ATTEMPT_COMMITTING
} SagaAttemptPhase;

/* What is known of an error besides its SQLSTATE. */
typedef enum SagaAttemptCause
{
	SAGA_CAUSE_NONE,
	SAGA_CAUSE_CHANGED,			/* the saga was changed meanwhile */
	SAGA_CAUSE_TIMEOUT,			/* the attempt took too long */
	SAGA_CAUSE_CANCELED,		/* another process canceled it */
	SAGA_CAUSE_ITSELF			/* its SQL canceled it */
} SagaAttemptCause;

typedef struct SagaAttemptEnd
{
	SagaOutcome outcome;
	bool		forward;		/* of the step's action, not of its undo */
	int			attempt;		/* its number */
	TimestampTz started_at;
	int64		rows;			/* -1: unknown */
	const char *sqlstate;		/* NULL on success */
	const char *error;
	const char *consumer;		/* the service that made it, or NULL */
	bool		charged;		/* counts against the policy */
	bool		conflict;		/* serialization, deadlock or lock timeout */
	bool		trouble;		/* the server's, so that others meet it too */
	bool		waits;			/* it never began: free for as long as it
								 * takes */
	bool		suspect;		/* the server crashed while it ran ... */
	bool		alone;			/* ... with no other beside it */
	int64		retry_after;	/* ms to wait, whatever the policy says; 0: it */
	const char *park;			/* not NULL: do not try again, for this reason */
	bool		mend;			/* if it is an action: a person must mend
								 * something before another attempt */
	bool		again;			/* it succeeded, as a round: to be run again
								 * ... */
	TimestampTz again_at;		/* ... not before that */
	Jsonb	   *state;			/* ... with this, or NULL */
} SagaAttemptEnd;

/* Whose attempt it was: the step's action, or its undo. */
static inline SagaPhase
saga_outcome_phase(const SagaAttemptEnd *end)
{
	return end->forward ? SAGA_PHASE_FORWARD : SAGA_PHASE_COMPENSATION;
}

extern void saga_outcome_take(const SagaRow *saga, SagaStep *step,
							  const SagaAttemptEnd *end, TimestampTz now);
extern void saga_outcome_take_forward(SagaStep *step,
									  const SagaAttemptEnd *end, TimestampTz now);
extern void saga_outcome_give_up(SagaStep *step, const char *error,
								 const char *why);
extern void saga_outcome_forgive(SagaStep *step);
extern void saga_outcome_forgive_forward(SagaStep *step);
extern void saga_outcome_of_error(SagaAttemptPhase phase, SagaAttemptCause cause,
								  int code, const char *message,
								  SagaAttemptEnd *end);
extern void saga_outcome_of_own_exit(SagaAttemptEnd *end);
extern void saga_outcome_of_claim(const SagaStep *step, SagaOutcome outcome,
								  const char *error, SagaAttemptEnd *end);
extern void saga_outcome_of_task(const SagaStep *step, SagaOutcome outcome,
								 const char *error, SagaAttemptEnd *end);
extern void saga_outcome_interrupt_claim(SagaStep *step, const char *why,
										 SagaAttemptEnd *end);
extern void saga_outcome_decode_policy(const text *encoded, SagaPolicy *policy);
extern void saga_outcome_policy(const SagaStep *step, SagaPolicy *policy);
extern void saga_outcome_forward_policy(const SagaStep *step,
										SagaPolicy *policy);

#endif							/* SAGA_OUTCOME_H */
