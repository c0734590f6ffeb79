/*-------------------------------------------------------------------------
 *
 * access.h
 *	  How a call comes to a saga: found, allowed, locked, and newest.
 *
 *-------------------------------------------------------------------------
 */
#ifndef SAGA_ACCESS_H
#define SAGA_ACCESS_H

#include "base/compat.h"
#include "base/rights.h"
#include "fmgr.h"
#include "ledger/ledger.h"
#include "ledger/table.h"

/* What a call needs besides the newest version of the saga's row. */
typedef enum SagaCallLock
{
	SAGA_CALL_NO_LOCK,			/* writers meet at the saga's row */
	SAGA_CALL_SHARED,			/* no other transaction can begin the undo,
								 * until the end of this one */
	SAGA_CALL_SHARED_IF_RUNNING,
	SAGA_CALL_EXCLUSIVE,		/* no step is on its way in, until the saga's
								 * row is written */
	SAGA_CALL_EXCLUSIVE_IF_RUNNING
} SagaCallLock;

extern void saga_access_call(const char *function);
extern void saga_access_begin(void);
extern bool saga_access_away(void);
extern void saga_access_undone_here(const char *function);
extern const pg_uuid_t *saga_access_id(FunctionCallInfo fcinfo, int arg);
extern void saga_access_read_own(const pg_uuid_t *id, SagaRow *saga);
extern void saga_access_read(const pg_uuid_t *id, SagaReach reach, SagaRow *saga);
extern LOCKMODE saga_access_open(const pg_uuid_t *id, SagaReach reach,
								 SagaCallLock lock, SagaRow *saga);
extern void saga_access_unlock(const SagaRow *saga, LOCKMODE taken);
extern SagaPatience saga_access_wait(const SagaRow *saga, LOCKMODE taken,
									 TransactionId writer, SagaWritten written);

SAGA_COMPAT_NORETURN extern void saga_access_refuse_not_found(const pg_uuid_t *id);
SAGA_COMPAT_NORETURN extern void saga_access_refuse_no_step(const SagaRow *saga,
															const text *key);
SAGA_COMPAT_NORETURN extern void saga_access_refuse_failing(const SagaRow *saga);
SAGA_COMPAT_NORETURN extern void saga_access_refuse_late(const SagaRow *saga,
														 const char *hint);
SAGA_COMPAT_NORETURN extern void saga_access_refuse_state(const SagaRow *saga,
														  const char *what,
														  const char *hint);

#endif							/* SAGA_ACCESS_H */
