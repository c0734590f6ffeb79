/*-------------------------------------------------------------------------
 *
 * state.h
 *	  The states of sagas and steps, the transitions between them, and the
 *	  arithmetic of retries.
 *
 * The codes are what the ledger tables store; the words are what people read.
 *
 *-------------------------------------------------------------------------
 */
#ifndef SAGA_STATE_H
#define SAGA_STATE_H

typedef enum SagaState
{
	SAGA_RUNNING = 'r',
	SAGA_COMPLETED = 'd',
	SAGA_COMPENSATING = 'u',
	SAGA_COMPENSATED = 'c',
	SAGA_NEEDS_REVIEW = 'p',
	SAGA_ABANDONED = 'a'
} SagaState;

typedef enum SagaFailureKind
{
	SAGA_FAILURE_NONE = 0,
	SAGA_FAILURE_FAILED = 'f',
	SAGA_FAILURE_CANCELLED = 'c',
	SAGA_FAILURE_TIMED_OUT = 't'
} SagaFailureKind;

typedef enum SagaOnFailure
{
	SAGA_ON_FAILURE_HALT = 'h',
	SAGA_ON_FAILURE_CONTINUE = 'c'
} SagaOnFailure;

typedef enum SagaStepStatus
{
	SAGA_STEP_STARTED = 's',
	SAGA_STEP_COMPLETED = 'c',
	SAGA_STEP_FAILED = 'f'
} SagaStepStatus;

/*
 * Of a step's compensation.  "registered" becomes "pending" for the reader as
 * soon as the undo of its saga has begun, without a write; a stored "pending"
 * is one that was tried and waits for its next attempt.
 */
typedef enum SagaCompStatus
{
	SAGA_COMP_NONE = 'n',
	SAGA_COMP_REGISTERED = 'r',
	SAGA_COMP_PENDING = 'p',
	SAGA_COMP_DISPATCHED = 'd',
	SAGA_COMP_COMPENSATED = 'c',
	SAGA_COMP_FAILED = 'f',
	SAGA_COMP_SKIPPED = 's'
} SagaCompStatus;

typedef enum SagaStepKind
{
	SAGA_KIND_COMPENSATABLE = 'c',
	SAGA_KIND_PIVOT = 'p',
	SAGA_KIND_RETRIABLE = 'r'
} SagaStepKind;

typedef enum SagaCompensateOn
{
	SAGA_COMPENSATE_ON_STARTED = 's',
	SAGA_COMPENSATE_ON_COMPLETED = 'c'
} SagaCompensateOn;

typedef enum SagaPhase
{
	SAGA_PHASE_FORWARD = 'f',
	SAGA_PHASE_COMPENSATION = 'c'
} SagaPhase;

typedef enum SagaOutcome
{
	SAGA_OUTCOME_SUCCEEDED = 's',
	SAGA_OUTCOME_FAILED = 'f',
	SAGA_OUTCOME_INTERRUPTED = 'i',
	SAGA_OUTCOME_TIMED_OUT = 't',
	SAGA_OUTCOME_DEFERRED = 'd'
} SagaOutcome;

typedef enum SagaBackoff
{
	SAGA_BACKOFF_CONSTANT = 'c',
	SAGA_BACKOFF_LINEAR = 'l',
	SAGA_BACKOFF_EXPONENTIAL = 'e'
} SagaBackoff;

/* A retry policy, resolved; times in milliseconds. */
typedef struct SagaPolicy
{
	int			max_attempts;	/* 1 .. SAGA_MAX_ATTEMPTS_LIMIT */
	int64		delay;			/* at least SAGA_MIN_DELAY_MS */
	SagaBackoff backoff;
	int64		max_delay;		/* cap of the delay, at least
								 * SAGA_MIN_DELAY_MS */
	double		jitter;			/* 0 .. 1: the share of the delay that varies */
	int64		timeout;		/* of one attempt; 0 = none */
} SagaPolicy;

#define SAGA_MAX_ATTEMPTS_LIMIT		1000
#define SAGA_MIN_DELAY_MS			10
/* A delay is capped here whatever the policy says: about 100 years. */
#define SAGA_MAX_DELAY_MS			INT64CONST(3155760000000)

/* Longest text of an encoded policy, with its final NUL. */
#define SAGA_POLICY_TEXT_LEN		128

extern bool saga_state_can(SagaState from, SagaState to);
extern bool saga_state_is_final(SagaState state);
extern bool saga_state_is_known(char code);
extern const char *saga_state_name(SagaState state);
extern bool saga_state_by_name(const char *name, SagaState *state);

extern bool saga_state_step_status_is_known(char code);
extern bool saga_state_comp_status_is_known(char code);
extern bool saga_state_comp_can(SagaCompStatus from, SagaCompStatus to);
extern const char *saga_state_step_status_name(SagaStepStatus status);
extern const char *saga_state_comp_status_name(SagaCompStatus status);
extern const char *saga_state_failure_kind_name(SagaFailureKind kind);
extern const char *saga_state_kind_name(SagaStepKind kind);
extern bool saga_state_kind_by_name(const char *name, SagaStepKind *kind);
extern bool saga_state_outcome_is_known(char code);

extern const char *saga_state_backoff_name(SagaBackoff backoff);
extern bool saga_state_backoff_by_name(const char *name, SagaBackoff *backoff);
extern int64 saga_state_retry_delay(const SagaPolicy *policy, int attempt,
									double random);
extern void saga_state_policy_encode(const SagaPolicy *policy, char *encoded);
extern bool saga_state_policy_decode(const char *encoded, SagaPolicy *policy);

#endif							/* SAGA_STATE_H */
