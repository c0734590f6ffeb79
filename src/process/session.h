/*-------------------------------------------------------------------------
 *
 * session.h
 *	  Runs the SQL of a step, or of its undo, as a fresh session of its role.
 *
 *-------------------------------------------------------------------------
 */
#ifndef SAGA_SESSION_H
#define SAGA_SESSION_H

#include "base/policy.h"
#include "ledger/ledger.h"
#include "tcop/dest.h"

extern void saga_session_init(void);
extern bool saga_session_reset(void);
extern void saga_session_commit_durably(void);
extern const char *saga_session_why_not(const SagaRow *saga,
										const SagaStep *step, bool *outdated);
extern int	saga_session_isolation(const SagaStep *step);
extern const text *saga_session_sql(const SagaStep *step, SagaPhase phase);
extern int64 saga_session_run(const SagaStep *step, SagaPhase phase,
							  const SagaPolicy *policy, Jsonb *context,
							  DestReceiver *output);
extern bool saga_session_timed_out(void);
extern void saga_session_disarm(void);

#endif							/* SAGA_SESSION_H */
