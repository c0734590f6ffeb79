/*-------------------------------------------------------------------------
 *
 * state.c
 *	  The states of sagas and steps, the transitions between them, and the
 *	  arithmetic of retries.
 *
 * Pure: no memory is allocated, nothing is read or written, no clock is
 * asked.  Whatever is true of a state is said here once; ledger.c asks before
 * every write, and the named CHECKs of the install script mirror it.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include <math.h>

#include "base/state.h"
#include "common/shortest_dec.h"

typedef struct CodeName
{
	char		code;
	const char *name;
} CodeName;

static const CodeName saga_states[] = {
	{SAGA_RUNNING, "running"},
	{SAGA_COMPLETED, "completed"},
	{SAGA_COMPENSATING, "compensating"},
	{SAGA_COMPENSATED, "compensated"},
	{SAGA_NEEDS_REVIEW, "needs_review"},
	{SAGA_ABANDONED, "abandoned"},
	{0, NULL}
};

static const CodeName step_statuses[] = {
	{SAGA_STEP_STARTED, "started"},
	{SAGA_STEP_COMPLETED, "completed"},
	{SAGA_STEP_FAILED, "failed"},
	{0, NULL}
};

static const CodeName comp_statuses[] = {
	{SAGA_COMP_NONE, "none"},
	{SAGA_COMP_REGISTERED, "registered"},
	{SAGA_COMP_PENDING, "pending"},
	{SAGA_COMP_DISPATCHED, "dispatched"},
	{SAGA_COMP_COMPENSATED, "compensated"},
	{SAGA_COMP_FAILED, "failed"},
	{SAGA_COMP_SKIPPED, "skipped"},
	{0, NULL}
};

static const CodeName failure_kinds[] = {
	{SAGA_FAILURE_FAILED, "failed"},
	{SAGA_FAILURE_CANCELLED, "cancelled"},
	{SAGA_FAILURE_TIMED_OUT, "timed out"},
	{0, NULL}
};

static const CodeName step_kinds[] = {
	{SAGA_KIND_COMPENSATABLE, "compensatable"},
	{SAGA_KIND_PIVOT, "pivot"},
	{SAGA_KIND_RETRIABLE, "retriable"},
	{0, NULL}
};

static const CodeName outcomes[] = {
	{SAGA_OUTCOME_SUCCEEDED, "succeeded"},
	{SAGA_OUTCOME_FAILED, "failed"},
	{SAGA_OUTCOME_INTERRUPTED, "interrupted"},
	{SAGA_OUTCOME_TIMED_OUT, "timed out"},
	{SAGA_OUTCOME_DEFERRED, "deferred"},
	{0, NULL}
};

static const CodeName backoffs[] = {
	{SAGA_BACKOFF_CONSTANT, "constant"},
	{SAGA_BACKOFF_LINEAR, "linear"},
	{SAGA_BACKOFF_EXPONENTIAL, "exponential"},
	{0, NULL}
};

typedef struct
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

static const char *
name_of(const CodeName *names, char code)
{
	for (; names->name != NULL; names++)
		if (names->code == code)
			return names->name;
	return NULL;
}

/* The code of a name, or 0. */
static char
code_of(const CodeName *names, const char *name)
{
	for (; names->name != NULL; names++)
		if (strcmp(names->name, name) == 0)
			return names->code;
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
	return name_of(saga_states, code) != NULL;
}

const char *
saga_state_name(SagaState state)
{
	return name_of(saga_states, (char) state);
}

bool
saga_state_by_name(const char *name, SagaState *state)
{
	char		code = code_of(saga_states, name);

	if (code == 0)
		return false;
	*state = (SagaState) code;
	return true;
}

bool
saga_state_step_status_is_known(char code)
{
	return name_of(step_statuses, code) != NULL;
}

bool
saga_state_comp_status_is_known(char code)
{
	return name_of(comp_statuses, code) != NULL;
}

/*
 * May a step's compensation go from one status to another?
 *
 * A step without a compensation gets one only by saga.amend.  What is settled (compensated
 * or skipped) is opened again, or settled otherwise, only by a person's word
 * after a late result; what was skipped, or tried in vain, counts as before when
 * its saga goes forward again.
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
	return name_of(step_statuses, (char) status);
}

const char *
saga_state_comp_status_name(SagaCompStatus status)
{
	return name_of(comp_statuses, (char) status);
}

const char *
saga_state_failure_kind_name(SagaFailureKind kind)
{
	return name_of(failure_kinds, (char) kind);
}

const char *
saga_state_kind_name(SagaStepKind kind)
{
	return name_of(step_kinds, (char) kind);
}

bool
saga_state_kind_by_name(const char *name, SagaStepKind *kind)
{
	char		code = code_of(step_kinds, name);

	if (code == 0)
		return false;
	*kind = (SagaStepKind) code;
	return true;
}

bool
saga_state_outcome_is_known(char code)
{
	return name_of(outcomes, code) != NULL;
}

const char *
saga_state_backoff_name(SagaBackoff backoff)
{
	return name_of(backoffs, (char) backoff);
}

bool
saga_state_backoff_by_name(const char *name, SagaBackoff *backoff)
{
	char		code = code_of(backoffs, name);

	if (code == 0)
		return false;
	*backoff = (SagaBackoff) code;
	return true;
}

/*
 * Milliseconds to wait after the given charged attempt (1, 2, ...) before the
 * next one.
 *
 * "random" in 0..1 is the caller's draw: a jitter of 0.1 spreads the delay
 * evenly over 0.9 to 1.1 times its value.  The cap holds before the spreading
 * and after it, and a delay never falls under SAGA_MIN_DELAY_MS.
 */
int64
saga_state_retry_delay(const SagaPolicy *policy, int attempt, double random)
{
	double		delay = (double) policy->delay;
	double		cap = (double) Min(policy->max_delay, SAGA_MAX_DELAY_MS);

	if (attempt < 1)
		attempt = 1;
	switch (policy->backoff)
	{
		case SAGA_BACKOFF_CONSTANT:
			break;
		case SAGA_BACKOFF_LINEAR:
			delay *= attempt;
			break;
		case SAGA_BACKOFF_EXPONENTIAL:
			delay = ldexp(delay, attempt - 1);
			break;
	}
	if (delay > cap)
		delay = cap;
	delay *= 1.0 + policy->jitter * (2.0 * random - 1.0);
	if (delay > cap)
		delay = cap;
	return (int64) Max(delay, (double) SAGA_MIN_DELAY_MS);
}

/*
 * The policy that stored ones are told apart from.  It is what the settings
 * say where nobody set them, but whatever they come to say, this stays as it
 * is: stored policies are read by it.
 */
static const SagaPolicy plain_policy = {
	.max_attempts = 5,
	.delay = 1000,
	.backoff = SAGA_BACKOFF_EXPONENTIAL,
	.max_delay = 300000,
	.jitter = 0.1,
	.timeout = 600000
};

/*
 * A policy as the ledger keeps it: six words, read by people in a dump and by
 * saga_state_policy_decode.  Every step has one, and nearly all have the same,
 * so the words at the end that are those of the plain policy are left out, and
 * of the plain policy itself nothing is left.  "encoded" has room for
 * SAGA_POLICY_TEXT_LEN.
 */
void
saga_state_policy_encode(const SagaPolicy *policy, char *encoded)
{
	char		jitter[DOUBLE_SHORTEST_DECIMAL_LEN];
	int			words;

	if (policy->timeout != plain_policy.timeout)
		words = 6;
	else if (policy->jitter != plain_policy.jitter)
		words = 5;
	else if (policy->max_delay != plain_policy.max_delay)
		words = 4;
	else if (policy->backoff != plain_policy.backoff)
		words = 3;
	else if (policy->delay != plain_policy.delay)
		words = 2;
	else if (policy->max_attempts != plain_policy.max_attempts)
		words = 1;
	else
		words = 0;

	double_to_shortest_decimal_buf(policy->jitter, jitter);
	snprintf(encoded, SAGA_POLICY_TEXT_LEN,
			 "%d " INT64_FORMAT " %c " INT64_FORMAT " %s " INT64_FORMAT,
			 policy->max_attempts, policy->delay, (char) policy->backoff,
			 policy->max_delay, jitter, policy->timeout);
	if (words == 0)
		*encoded = '\0';
	for (; *encoded != '\0'; encoded++)
		if (*encoded == ' ' && --words == 0)
			*encoded = '\0';
}

/* The reverse; false for a text that no policy has. */
bool
saga_state_policy_decode(const char *encoded, SagaPolicy *policy)
{
	char		backoff = (char) plain_policy.backoff;
	long long	delay = plain_policy.delay;
	long long	max_delay = plain_policy.max_delay;
	long long	timeout = plain_policy.timeout;
	int			end = 0;

	*policy = plain_policy;
	(void) sscanf(encoded, "%d%n %lld%n %c%n %lld%n %lf%n %lld%n",
				  &policy->max_attempts, &end, &delay, &end, &backoff, &end,
				  &max_delay, &end, &policy->jitter, &end, &timeout, &end);
	if (encoded[end] != '\0' || name_of(backoffs, backoff) == NULL)
		return false;
	policy->delay = delay;
	policy->backoff = (SagaBackoff) backoff;
	policy->max_delay = max_delay;
	policy->timeout = timeout;
	return true;
}
