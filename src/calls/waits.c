/*-------------------------------------------------------------------------
 *
 * waits.c
 *	  What the steps of a saga wait for, in words: for saga.steps.
 *
 * Read in the snapshot of the query that asks, as a parallel plan demands, and
 * once for all steps of a saga.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "base/clock.h"
#include "base/rights.h"
#include "calls/waits.h"
#include "flow/gates.h"
#include "funcapi.h"
#include "ledger/home.h"
#include "ledger/ledger.h"
#include "miscadmin.h"
#include "shared/mailbox.h"
#include "utils/builtins.h"
#include "utils/snapmgr.h"
#include "utils/timestamp.h"

PG_FUNCTION_INFO_V1(saga_sql_waits);

/* Why gate 1 is closed */
static char *
words_of_gate(const SagaGates *gates, int index)
{
	int			before = gates->before[index];

	if (before == -1)
		return pstrdup("a look at its gates");
	if (before < 0)
		return pstrdup("a step of its list that is to be recorded again");
	return psprintf("step \"%s\"",
					text_to_cstring(gates->steps->step[before].key));
}

/* What a step waits for that saga runs and that is not done */
static char *
words_of(const SagaGates *gates, int index, bool paused)
{
	const SagaStep *step = &gates->steps->step[index];
	SagaRunning running;
	TimestampTz due;
	const char *why;

	/* "approval: ..." says for itself who is asked. */
	if (step->parked != NULL)
		return psprintf("%s%s", step->status == SAGA_STEP_WAITING ? "" : "a person: ",
						text_to_cstring(step->parked));
	if (saga_mailbox_is_running(&step->saga, SAGA_PHASE_FORWARD, step->seq, &running))
		return psprintf("the end of its action (process %d, since %s)",
						running.pid, timestamptz_to_str(running.since));
	if (paused)
		return pstrdup("saga.resume: the saga is paused");
	if (step->status == SAGA_STEP_WAITING && step->ready_at == 0)
		return words_of_gate(gates, index);
	due = step->status == SAGA_STEP_FAILED ? step->forward.retry_at : step->ready_at;
	if (due > saga_clock_now())
		return pstrdup(timestamptz_to_str(due));
	if ((why = saga_home_why_idle(GetActiveSnapshot())) != NULL)
		return psprintf("saga, but: %s", why);
	if (step->action == NULL)
		return pstrdup("a look at its gates");
	return psprintf("an executor of role \"%s\"",
					text_to_cstring(step->run_as_name));
}

/*
 * What is next in a running saga with steps that saga runs: the first of its
 * steps that is not done.
 */
void
saga_waits_append_next(StringInfo buf, const pg_uuid_t *id, bool paused,
					   bool sealed)
{
	SagaSteps	steps;
	SagaGates	gates;

	saga_ledger_get_steps_at(id, GetActiveSnapshot(), &steps);
	saga_gates_read(&gates, &steps);
	for (int i = 0; i < gates.count; i++)
	{
		int			at = gates.order[i];
		const SagaStep *step = &steps.step[at];

		if (gates.done[at] ||
			(step->status == SAGA_STEP_COMPLETED && step->rolled_back_at == 0))
			continue;
		if (step->rolled_back_at != 0)
			appendStringInfo(buf, "the application is to start step \"%s\" again",
							 text_to_cstring(step->key));
		else if (!saga_rows_is_run(step))
			appendStringInfo(buf, "the application is to complete step \"%s\"",
							 text_to_cstring(step->key));
		else if (saga_gates_given_up(step))
			appendStringInfo(buf, "step \"%s\" failed: the saga is about to fail",
							 text_to_cstring(step->key));
		else
			appendStringInfo(buf, "step \"%s\" waits for %s",
							 text_to_cstring(step->key),
							 words_of(&gates, at, paused));
		return;
	}
	appendStringInfoString(buf, sealed ? "it is about to complete" :
						   "the application goes on: it may be completed or failed");
}

/* internal_waits(saga, paused) */
Datum
saga_sql_waits(PG_FUNCTION_ARGS)
{
	const pg_uuid_t *id = PG_GETARG_UUID_P(0);
	bool		paused = PG_GETARG_BOOL(1);
	ReturnSetInfo *result = (ReturnSetInfo *) fcinfo->resultinfo;
	Oid			owner;
	text	   *owner_name;
	SagaSteps	steps;
	SagaGates	gates;

	InitMaterializedSRF(fcinfo, 0);
	/* Anybody may call this with any id. */
	if (!saga_ledger_owner_of(id, &owner, &owner_name) ||
		saga_rights_reach(owner, owner_name) < SAGA_REACH_READ)
		return (Datum) 0;
	saga_ledger_get_steps_at(id, GetActiveSnapshot(), &steps);
	saga_gates_read(&gates, &steps);
	for (int i = 0; i < gates.count; i++)
	{
		int			at = gates.order[i];
		const SagaStep *step = &steps.step[at];
		Datum		values[2];
		bool		nulls[2] = {false};

		if (!saga_rows_is_run(step) || step->status == SAGA_STEP_COMPLETED ||
			step->status == SAGA_STEP_SKIPPED || saga_gates_given_up(step))
			continue;
		values[0] = Int64GetDatum(step->seq);
		values[1] = CStringGetTextDatum(words_of(&gates, at, paused));
		tuplestore_putvalues(result->setResult, result->setDesc, values, nulls);
	}
	return (Datum) 0;
}
