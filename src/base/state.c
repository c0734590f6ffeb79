/*-------------------------------------------------------------------------
 *
 * state.c
 *	  The states of sagas and steps, the words for them, and the transitions
 *	  between them.
 *
 * Pure: no memory is allocated, nothing is read or written, no clock is
 * asked.  Whatever is true of a state is said here once; ledger/rows.c asks before
 * every write, and the named CHECKs of the install script mirror it.
 *
 * The state of a saga:
 *
 *	running			completed		saga.complete
 *					compensating	saga.fail, saga.cancel, the deadline
 *					compensated		the same, with nothing to undo
 *					needs_review	the same, after a completed pivot
 *	compensating	compensated		the undo is over
 *					running			a partial undo is over
 *					needs_review	a step needs a person; or the undo is over and
 *									something was given up under "continue"; or
 *									a late result
 *	needs_review	compensating, compensated, running, abandoned
 *									a person decides; or (the first three) a
 *									listener acknowledges late what the saga was
 *									parked for
 *	compensated		needs_review	a late result
 *	completed, abandoned			final
 *
 * The status of a step, its forward side:
 *
 *	(none)			started			saga.step
 *					completed		saga.step with output or completed
 *	started			completed		saga.complete_step, saga.step
 *					failed			saga.fail_step
 *	failed			started, completed
 *									saga.step again; a late result
 *
 * of a step that saga runs:
 *
 *	(none)			waiting			saga.step
 *	waiting			completed		its gates opened and it has no work, or its
 *									action committed
 *					started			a round of its action committed that asked
 *									to be run again
 *					failed			an attempt of its action failed; its timeout
 *	started			started, completed, failed
 *									likewise, of later rounds
 *	failed			started, completed
 *									an action that was tried again; a person says
 *									that it is done
 *					waiting, or started after a round
 *									a person lets it be tried afresh; its saga was
 *									rolled back to a savepoint
 *	waiting, failed	skipped			a person
 *
 * Readers see "skipped", too, for what waits in a saga that runs no more.
 *
 * The status of its compensation.  Readers also see "pending" for what is
 * registered in a saga that is being undone, and "running", which only shared
 * memory knows: neither costs a write.
 *
 *	none			registered		saga.amend, while the saga runs
 *	registered, pending
 *					dispatched		the worker notifies listeners
 *	registered, pending, dispatched, failed
 *					pending			an attempt that did not succeed and is not
 *									the last; or the step waited unclaimed when
 *									the saga was parked or the step amended
 *					compensated		an attempt that succeeded; a late
 *									acknowledgement
 *					failed			given up: retries exhausted, SG006, a role
 *									that cannot run it, three crashes alone
 *					skipped			the undo passed it: retriable, or
 *									compensate_on completed and it did not
 *	compensated, skipped
 *					pending			a person, after a late result
 *	skipped			registered		the saga is running again and the step stays
 *	pending, failed	registered		saga.reopen: tried without success, or waited
 *									for a listener
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "base/state.h"

const struct config_enum_entry saga_state_states[] = {
	{"running", SAGA_RUNNING, false},
	{"completed", SAGA_COMPLETED, false},
	{"compensating", SAGA_COMPENSATING, false},
	{"compensated", SAGA_COMPENSATED, false},
	{"needs_review", SAGA_NEEDS_REVIEW, false},
	{"abandoned", SAGA_ABANDONED, false},
	{NULL, 0, false}
};

static const struct config_enum_entry step_statuses[] = {
	{"waiting", SAGA_STEP_WAITING, false},
	{"started", SAGA_STEP_STARTED, false},
	{"completed", SAGA_STEP_COMPLETED, false},
	{"failed", SAGA_STEP_FAILED, false},
	{"skipped", SAGA_STEP_SKIPPED, false},
	{NULL, 0, false}
};

static const struct config_enum_entry comp_statuses[] = {
	{"none", SAGA_COMP_NONE, false},
	{"registered", SAGA_COMP_REGISTERED, false},
	{"pending", SAGA_COMP_PENDING, false},
	{"dispatched", SAGA_COMP_DISPATCHED, false},
	{"compensated", SAGA_COMP_COMPENSATED, false},
	{"failed", SAGA_COMP_FAILED, false},
	{"skipped", SAGA_COMP_SKIPPED, false},
	{NULL, 0, false}
};

static const struct config_enum_entry failure_kinds[] = {
	{"failed", SAGA_FAILURE_FAILED, false},
	{"cancelled", SAGA_FAILURE_CANCELLED, false},
	{"timed out", SAGA_FAILURE_TIMED_OUT, false},
	{NULL, 0, false}
};

const struct config_enum_entry saga_state_kinds[] = {
	{"compensatable", SAGA_KIND_COMPENSATABLE, false},
	{"pivot", SAGA_KIND_PIVOT, false},
	{"retriable", SAGA_KIND_RETRIABLE, false},
	{NULL, 0, false}
};

const struct config_enum_entry saga_state_on_failures[] = {
	{"halt", SAGA_ON_FAILURE_HALT, false},
	{"continue", SAGA_ON_FAILURE_CONTINUE, false},
	{NULL, 0, false}
};

const struct config_enum_entry saga_state_compensate_ons[] = {
	{"started", SAGA_COMPENSATE_ON_STARTED, false},
	{"completed", SAGA_COMPENSATE_ON_COMPLETED, false},
	{NULL, 0, false}
};

const struct config_enum_entry saga_state_give_ups[] = {
	{"fail", SAGA_GIVE_UP_FAIL, false},
	{"skip", SAGA_GIVE_UP_SKIP, false},
	{"review", SAGA_GIVE_UP_REVIEW, false},
	{NULL, 0, false}
};

static const struct config_enum_entry phases[] = {
	{"forward", SAGA_PHASE_FORWARD, false},
	{"compensation", SAGA_PHASE_COMPENSATION, false},
	{NULL, 0, false}
};

static const struct config_enum_entry outcomes[] = {
	{"succeeded", SAGA_OUTCOME_SUCCEEDED, false},
	{"failed", SAGA_OUTCOME_FAILED, false},
	{"interrupted", SAGA_OUTCOME_INTERRUPTED, false},
	{"timed out", SAGA_OUTCOME_TIMED_OUT, false},
	{"deferred", SAGA_OUTCOME_DEFERRED, false},
	{NULL, 0, false}
};

typedef struct SagaTransition
{
	SagaState	from;
	SagaState	to;
} SagaTransition;

/* Every transition of a saga that there is; a pair not listed is an error. */
static const SagaTransition saga_transitions[] =
{
	{SAGA_RUNNING, SAGA_COMPLETED},
	{SAGA_RUNNING, SAGA_COMPENSATING},
	{SAGA_RUNNING, SAGA_COMPENSATED},
	{SAGA_RUNNING, SAGA_NEEDS_REVIEW},
	{SAGA_COMPENSATING, SAGA_COMPENSATED},
	{SAGA_COMPENSATING, SAGA_RUNNING},
	{SAGA_COMPENSATING, SAGA_NEEDS_REVIEW},
	{SAGA_NEEDS_REVIEW, SAGA_COMPENSATING},
	{SAGA_NEEDS_REVIEW, SAGA_COMPENSATED},
	{SAGA_NEEDS_REVIEW, SAGA_RUNNING},
	{SAGA_NEEDS_REVIEW, SAGA_ABANDONED},
	{SAGA_COMPENSATED, SAGA_NEEDS_REVIEW}
};

/* The word for a code; NULL: there is none. */
const char *
saga_state_word(const struct config_enum_entry *words, int code)
{
	for (; words->name != NULL; words++)
		if (words->val == code)
			return words->name;
	return NULL;
}

/* The code for a word; 0: there is none. */
int
saga_state_code(const struct config_enum_entry *words, const char *word)
{
	for (; words->name != NULL; words++)
		if (strcmp(words->name, word) == 0)
			return words->val;
	return 0;
}

/* May a saga go from one state to another?  Staying is no transition. */
bool
saga_state_can(SagaState from, SagaState to)
{
	for (size_t i = 0; i < lengthof(saga_transitions); i++)
		if (saga_transitions[i].from == from && saga_transitions[i].to == to)
			return true;
	return false;
}

/* Is the saga at rest for good?  (A late result may yet reopen "compensated".) */
bool
saga_state_is_final(SagaState state)
{
	return state == SAGA_COMPLETED || state == SAGA_COMPENSATED ||
		state == SAGA_ABANDONED;
}

bool
saga_state_is_known(char code)
{
	return saga_state_word(saga_state_states, code) != NULL;
}

const char *
saga_state_name(SagaState state)
{
	return saga_state_word(saga_state_states, state);
}

/* Is anything being undone? */
bool
saga_state_is_undo(char code)
{
	return code == SAGA_UNDO_PARTIAL || code == SAGA_UNDO_FULL ||
		code == SAGA_UNDO_LATE;
}

bool
saga_state_step_status_is_known(char code)
{
	return saga_state_word(step_statuses, code) != NULL;
}

bool
saga_state_comp_status_is_known(char code)
{
	return saga_state_word(comp_statuses, code) != NULL;
}

/*
 * May a step's compensation go from one status to another?
 *
 * A step without a compensation gets one only by saga.amend.  What is settled
 * (compensated or skipped) is opened again, or settled otherwise, only by a
 * person's word after a late result; what was skipped, or tried in vain, counts
 * as before when its saga goes forward again.
 */
bool
saga_state_comp_can(SagaCompStatus from, SagaCompStatus to)
{
	if (from == to)
		return true;
	switch (from)
	{
		case SAGA_COMP_NONE:
			return to == SAGA_COMP_REGISTERED;
		case SAGA_COMP_REGISTERED:
		case SAGA_COMP_PENDING:
		case SAGA_COMP_DISPATCHED:
		case SAGA_COMP_FAILED:
			return to != SAGA_COMP_NONE;
		case SAGA_COMP_COMPENSATED:
			return to == SAGA_COMP_PENDING || to == SAGA_COMP_SKIPPED;
		case SAGA_COMP_SKIPPED:
			return to == SAGA_COMP_PENDING || to == SAGA_COMP_COMPENSATED ||
				to == SAGA_COMP_REGISTERED;
	}
	return false;
}

const char *
saga_state_step_status_name(SagaStepStatus status)
{
	return saga_state_word(step_statuses, status);
}

const char *
saga_state_comp_status_name(SagaCompStatus status)
{
	return saga_state_word(comp_statuses, status);
}

const char *
saga_state_failure_kind_name(SagaFailureKind kind)
{
	return saga_state_word(failure_kinds, kind);
}

const char *
saga_state_kind_name(SagaStepKind kind)
{
	return saga_state_word(saga_state_kinds, kind);
}

const char *
saga_state_phase_name(SagaPhase phase)
{
	return saga_state_word(phases, phase);
}

const char *
saga_state_outcome_name(SagaOutcome outcome)
{
	return saga_state_word(outcomes, outcome);
}

bool
saga_state_outcome_is_known(char code)
{
	return saga_state_word(outcomes, code) != NULL;
}
