/*-------------------------------------------------------------------------
 *
 * run_steps.h
 *	  Recording a step that saga runs: its gates, its work, and its place.
 *
 *-------------------------------------------------------------------------
 */
#ifndef SAGA_RUN_STEPS_H
#define SAGA_RUN_STEPS_H

#include "fmgr.h"
#include "ledger/ledger.h"

/* What a call of saga.step says of gates and work; 0 and NULL: nothing. */
typedef struct SagaRunRequest
{
	bool		given;			/* saga is to run the step */
	text	   *action;
	text	   *task;
	ArrayType  *after;
	Interval   *delay;
	TimestampTz not_before;
	ArrayType  *signals;
	text	   *approval;
	int64		timeout;
	SagaGiveUp	give_up;		/* 0: by the kind of step */
} SagaRunRequest;

/* Largest number of arguments that saga_run_steps_other names */
#define SAGA_RUN_OTHERS		8

extern void saga_run_steps_read(FunctionCallInfo fcinfo, int first,
								SagaRunRequest *request);
extern bool saga_run_steps_admit(const SagaRow *saga,
								 const SagaRunRequest *request, bool again);
extern void saga_run_steps_note(const pg_uuid_t *id);
extern void saga_run_steps_fill(const SagaRow *saga,
								const SagaRunRequest *request,
								const SagaStep *old, SagaStep *step);
extern int	saga_run_steps_other(const SagaStep *step,
								 const SagaRunRequest *request,
								 const char **other);
extern void saga_run_steps_recorded(const SagaRow *saga, const SagaStep *step);

#endif							/* SAGA_RUN_STEPS_H */
