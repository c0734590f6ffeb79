/*-------------------------------------------------------------------------
 *
 * quota.h
 *	  Limits that a DBA sets: unfinished sagas of a role, steps and signals of a
 *	  saga.
 *
 *-------------------------------------------------------------------------
 */
#ifndef SAGA_QUOTA_H
#define SAGA_QUOTA_H

#include "ledger/rows.h"

extern bool saga_quota_allows_open(Oid owner, int64 *total);
extern void saga_quota_refuse_open(Oid owner, int64 open);
extern bool saga_quota_allows_step(const SagaRow *saga);
extern void saga_quota_refuse_step(const SagaRow *saga);
extern void saga_quota_check_signals(const SagaRow *saga);

#endif							/* SAGA_QUOTA_H */
