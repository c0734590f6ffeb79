/*-------------------------------------------------------------------------
 *
 * claims.h
 *	  Claims of tasks and compensations by services outside the database.
 *
 *-------------------------------------------------------------------------
 */
#ifndef SAGA_CLAIMS_H
#define SAGA_CLAIMS_H

#include "fmgr.h"

#include "ledger/ledger.h"

extern int64 saga_claims_lease(FunctionCallInfo fcinfo, int arg);
extern TimestampTz saga_claims_lease_end(const SagaStep *step, SagaPhase phase,
										 TimestampTz claimed_at, int64 lease,
										 TimestampTz now);

#endif							/* SAGA_CLAIMS_H */
