/*-------------------------------------------------------------------------
 *
 * policy.c
 *	  Retry policies: the arithmetic of retries, and the stored form.
 *
 * Pure: no memory is allocated, nothing is read or written, no clock is
 * asked.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include <math.h>

#include "base/policy.h"
#include "base/state.h"
#include "common/shortest_dec.h"

const struct config_enum_entry saga_policy_backoffs[] = {
	{"constant", SAGA_BACKOFF_CONSTANT, false},
	{"linear", SAGA_BACKOFF_LINEAR, false},
	{"exponential", SAGA_BACKOFF_EXPONENTIAL, false},
	{NULL, 0, false}
};

/*
 * The policy that the stored form is relative to, which is also the default of
 * the settings.  Stored policies are read by it, so it must stay as it is; a
 * release that changes the default of a setting must give that setting a value
 * of its own.
 */
const SagaPolicy saga_policy_plain = {
	.max_attempts = 5,
	.delay = 1000,
	.backoff = SAGA_BACKOFF_EXPONENTIAL,
	.max_delay = 300000,
	.jitter = 0.1,
	.timeout = 600000
};

const char *
saga_policy_backoff_name(SagaBackoff backoff)
{
	return saga_state_word(saga_policy_backoffs, backoff);
}

bool
saga_policy_same(const SagaPolicy *a, const SagaPolicy *b)
{
	return a->max_attempts == b->max_attempts && a->delay == b->delay &&
		a->backoff == b->backoff && a->max_delay == b->max_delay &&
		a->jitter == b->jitter && a->timeout == b->timeout;
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
saga_policy_retry_delay(const SagaPolicy *policy, int attempt, double random)
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
 * A policy as the ledger keeps it: six words, read by people in a dump and by
 * saga_policy_decode.  Every step has one, and nearly all have the same,
 * so the words at the end that are those of the plain policy are left out, and
 * of the plain policy itself nothing is left.  "encoded" has room for
 * SAGA_POLICY_TEXT_LEN.
 */
void
saga_policy_encode(const SagaPolicy *policy, char *encoded)
{
	char		jitter[DOUBLE_SHORTEST_DECIMAL_LEN];
	int			words;

	if (policy->timeout != saga_policy_plain.timeout)
		words = 6;
	else if (policy->jitter != saga_policy_plain.jitter)
		words = 5;
	else if (policy->max_delay != saga_policy_plain.max_delay)
		words = 4;
	else if (policy->backoff != saga_policy_plain.backoff)
		words = 3;
	else if (policy->delay != saga_policy_plain.delay)
		words = 2;
	else if (policy->max_attempts != saga_policy_plain.max_attempts)
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
saga_policy_decode(const char *encoded, SagaPolicy *policy)
{
	char		backoff = (char) saga_policy_plain.backoff;
	long long	delay = saga_policy_plain.delay;
	long long	max_delay = saga_policy_plain.max_delay;
	long long	timeout = saga_policy_plain.timeout;
	int			end = 0;

	*policy = saga_policy_plain;
	(void) sscanf(encoded, "%d%n %lld%n %c%n %lld%n %lf%n %lld%n",
				  &policy->max_attempts, &end, &delay, &end, &backoff, &end,
				  &max_delay, &end, &policy->jitter, &end, &timeout, &end);
	if (encoded[end] != '\0' || saga_state_word(saga_policy_backoffs, backoff) == NULL)
		return false;
	policy->delay = delay;
	policy->backoff = (SagaBackoff) backoff;
	policy->max_delay = max_delay;
	policy->timeout = timeout;
	return true;
}
