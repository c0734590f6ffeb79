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

extern void saga_quota_check_open(Oid owner);
extern void saga_quota_check_steps(const SagaRow *saga);
extern void saga_quota_check_signals(const SagaRow *saga);

#endif							/* SAGA_QUOTA_H */
