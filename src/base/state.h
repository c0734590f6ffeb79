/*-------------------------------------------------------------------------
 *
 * state.h
 *	  The states of sagas and steps, the words for them, and the transitions
 *	  between them.
 *
 * The codes are what the ledger's tables store; the words are what callers pass
 * and what the views show.
 *
 *-------------------------------------------------------------------------
 */
#ifndef SAGA_STATE_H
#define SAGA_STATE_H

#include "utils/guc.h"

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
	SAGA_STEP_WAITING = 'w',
	SAGA_STEP_STARTED = 's',
	SAGA_STEP_COMPLETED = 'c',
	SAGA_STEP_FAILED = 'f',
	SAGA_STEP_SKIPPED = 'k'
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

/* The part of a saga that is being undone, or was. */
typedef enum SagaUndo
{
	SAGA_UNDO_NONE = 0,			/* nothing: it goes, or can only go, forward */
	SAGA_UNDO_PARTIAL = 'p',	/* the steps that started after a savepoint */
	SAGA_UNDO_FULL = 'f',		/* all: it has failed */
	SAGA_UNDO_LATE = 'l'		/* steps that a late result opened again */
} SagaUndo;

typedef enum SagaCompensateOn
{
	SAGA_COMPENSATE_ON_STARTED = 's',
	SAGA_COMPENSATE_ON_COMPLETED = 'c'
} SagaCompensateOn;

/* Are there steps in a saga that saga runs? */
typedef enum SagaRuns
{
	SAGA_RUNS_NONE = 0,			/* no: the application runs all */
	SAGA_RUNS_STEPS = 'o',		/* there may be, and more may come */
	SAGA_RUNS_SEALED = 's'		/* no more come from outside: it completes by
								 * itself once all is done */
} SagaRuns;

/* What follows when a step that saga runs is given up. */
typedef enum SagaGiveUp
{
	SAGA_GIVE_UP_FAIL = 'f',	/* the saga fails */
	SAGA_GIVE_UP_SKIP = 's',	/* the others go on */
	SAGA_GIVE_UP_REVIEW = 'r'	/* a person decides */
} SagaGiveUp;

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

/*
 * Codes and their words, in the form that a setting takes, too.  The views spell
 * them out again; .ci/check-codes compares.
 */
extern const struct config_enum_entry saga_state_states[];
extern const struct config_enum_entry saga_state_kinds[];
extern const struct config_enum_entry saga_state_on_failures[];
extern const struct config_enum_entry saga_state_compensate_ons[];
extern const struct config_enum_entry saga_state_give_ups[];

extern const char *saga_state_word(const struct config_enum_entry *words, int code);
extern int	saga_state_code(const struct config_enum_entry *words, const char *word);

extern bool saga_state_can(SagaState from, SagaState to);
extern bool saga_state_is_final(SagaState state);
extern bool saga_state_is_known(char code);
extern const char *saga_state_name(SagaState state);

extern bool saga_state_is_undo(char code);

extern bool saga_state_step_status_is_known(char code);
extern bool saga_state_comp_status_is_known(char code);
extern bool saga_state_comp_can(SagaCompStatus from, SagaCompStatus to);
extern const char *saga_state_step_status_name(SagaStepStatus status);
extern const char *saga_state_comp_status_name(SagaCompStatus status);
extern const char *saga_state_failure_kind_name(SagaFailureKind kind);
extern const char *saga_state_kind_name(SagaStepKind kind);
extern const char *saga_state_phase_name(SagaPhase phase);
extern const char *saga_state_outcome_name(SagaOutcome outcome);
extern bool saga_state_outcome_is_known(char code);

#endif							/* SAGA_STATE_H */
