/*-------------------------------------------------------------------------
 *
 * access.h
 *	  How a call comes to a saga: found, allowed, locked, and newest.
 *
 *-------------------------------------------------------------------------
 */
#ifndef SAGA_OPEN_H
#define SAGA_OPEN_H

#include "base/compat.h"
#include "base/rights.h"
#include "fmgr.h"
#include "ledger/ledger.h"

extern void saga_open_call(const char *function);
extern bool saga_open_away(void);
extern void saga_open_undone_here(const char *function);
extern const pg_uuid_t *saga_open_id(FunctionCallInfo fcinfo, int arg);
extern void saga_open_shared(const pg_uuid_t *id, SagaRow *saga);
extern bool saga_open_exclusive(const pg_uuid_t *id, SagaReach reach,
								SagaRow *saga);
extern void saga_open_newest(const pg_uuid_t *id, SagaReach reach,
							 SagaRow *saga);
extern void saga_open_again(SagaRow *saga);
extern void saga_open_read(const pg_uuid_t *id, SagaReach reach, SagaRow *saga);

SAGA_COMPAT_NORETURN extern void saga_open_refuse_not_found(const pg_uuid_t *id);
SAGA_COMPAT_NORETURN extern void saga_open_refuse_no_step(const SagaRow *saga,
														  const text *key);
SAGA_COMPAT_NORETURN extern void saga_open_refuse_failing(const SagaRow *saga);
SAGA_COMPAT_NORETURN extern void saga_open_refuse_state(const SagaRow *saga,
														const char *what,
														const char *hint);

#endif							/* SAGA_OPEN_H */
