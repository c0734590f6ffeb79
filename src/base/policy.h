/*-------------------------------------------------------------------------
 *
 * policy.h
 *	  Retry policies: the arithmetic of retries, and the stored form.
 *
 *-------------------------------------------------------------------------
 */
#ifndef SAGA_POLICY_H
#define SAGA_POLICY_H

#include "utils/guc.h"

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
#define SAGA_MAX_DELAY_YEARS		100
#define SAGA_MAX_DELAY_MS			INT64CONST(3155760000000)

/* Longest text of an encoded policy, with its final NUL. */
#define SAGA_POLICY_TEXT_LEN		128

/* Defaults of the settings; see policy.c. */
extern const SagaPolicy saga_policy_plain;

/* Codes and their words, as in state.h. */
extern const struct config_enum_entry saga_policy_backoffs[];

extern const char *saga_policy_backoff_name(SagaBackoff backoff);
extern bool saga_policy_same(const SagaPolicy *a, const SagaPolicy *b);
extern int64 saga_policy_retry_delay(const SagaPolicy *policy, int attempt,
									 double random);
extern void saga_policy_encode(const SagaPolicy *policy, char *encoded);
extern bool saga_policy_decode(const char *encoded, SagaPolicy *policy);

#endif							/* SAGA_POLICY_H */
