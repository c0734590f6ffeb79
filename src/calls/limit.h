/*-------------------------------------------------------------------------
 *
 * limit.h
 *	  saga.limit: what a service takes on at a time.
 *
 *-------------------------------------------------------------------------
 */
#ifndef SAGA_LIMIT_H
#define SAGA_LIMIT_H

#include "ledger/ledger.h"

extern int	saga_limit_begin(SagaLimit *limit, text *channel, int max_claims,
							 TimestampTz now);
extern void saga_limit_end(const SagaLimit *limit);

#endif							/* SAGA_LIMIT_H */
