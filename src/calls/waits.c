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
#include "flow/circles.h"
#include "flow/gates.h"
#include "funcapi.h"
#include "ledger/home.h"
#include "ledger/ledger.h"
#include "ledger/oids.h"
#include "miscadmin.h"
#include "shared/mailbox.h"
#include "shared/shmem.h"
#include "utils/builtins.h"
#include "utils/snapmgr.h"
#include "utils/timestamp.h"
#include "utils/tuplestore.h"

PG_FUNCTION_INFO_V1(saga_sql_waits);

/* Does this database have a worker at this moment? */
bool
saga_waits_has_worker(void)
{
	SagaDatabaseSlot *slot = saga_shmem_my_database();

	return slot != NULL && slot->worker_latch != NULL;
}

/* What our processes need before they can work; NULL: nothing is missing. */
const char *
saga_waits_for_room(void)
{
	if (!saga_waits_has_worker())
		return "this database has a worker (saga.max_databases, max_worker_processes)";
	if (saga_shmem->no_process)
		return "the server has room for a process (max_worker_processes)";
	return NULL;
}

/* Why gate 1 is closed.  "circles" are those of the saga's steps, or NULL. */
static char *
words_of_gate(const SagaGates *gates, int index, SagaCircles circles)
{
	int			before = gates->before[index];
	const SagaStep *step;
	bool		recorded;
	bool		circle;

	if (before == -1)
		return pstrdup("a look at its gates");
	if (before < 0)
		return pstrdup("a step of its list that is to be recorded again");
	step = &gates->steps->step[before];
	recorded = step->status == SAGA_STEP_COMPLETED && step->rolled_back_at == 0;
	circle = circles != NULL && circles[index] != 0 && circles[index] == circles[before];
	return psprintf("%s \"%s\"%s%s", recorded ? "steps that" : "step",
					text_to_cstring(step->key), recorded ? " recorded" : "",
					!circle ? "" : recorded ? ", which wait for it" : ", which waits for it");
}

/*
 * The signals any one of which a step waits for; NULL: one has come, which the
 * next look gives to the step.
 */
static char *
words_of_signals(const SagaStep *step)
{
	TimestampTz timeout_at = saga_rows_timeout_at(step);
	StringInfoData buf;
	ListCell   *lc;

	initStringInfo(&buf);
	foreach(lc, saga_gates_keys(step->signals))
	{
		const char *name = lfirst(lc);

		if (saga_ledger_has_unused_signal(&step->saga, cstring_to_text(name),
										  GetActiveSnapshot()))
			return NULL;
		appendStringInfo(&buf, "%s\"%s\"", buf.len == 0 ? "signal " : " or ", name);
	}
	if (timeout_at != 0)
		appendStringInfo(&buf, " until %s", timestamptz_to_str(timeout_at));
	return buf.data;
}

/*
 * Appends until when a role that could claim work of a saga has paused its claims on
 * a channel.  False: none has.
 */
bool
saga_waits_append_pause(StringInfo buf, const pg_uuid_t *id, text *channel)
{
	Oid			owner;
	text	   *owner_name;
	char	   *role;
	TimestampTz until;

	if (!saga_ledger_owner_of(id, &owner, &owner_name))
		return false;
	until = saga_ledger_paused_until(channel, owner, GetActiveSnapshot(), &role);
	if (until <= saga_clock_now())
		return false;
	appendStringInfo(buf, ", which role \"%s\" has paused until %s",
					 role, timestamptz_to_str(until));
	return true;
}

/* Who is to claim a task */
static char *
words_of_consumer(const SagaStep *step)
{
	StringInfoData buf;

	initStringInfo(&buf);
	appendStringInfo(&buf, "a consumer of channel \"%s\"",
					 text_to_cstring(step->task));
	(void) saga_waits_append_pause(&buf, &step->saga, step->task);
	return buf.data;
}

/*
 * What a step that saga runs, and that is not done, waits for.  "paused" says
 * whether the saga is paused, and becomes false unless that is what it waits for.
 * "read": the reader may read what a person is asked, which may quote an error.
 */
static char *
words_of(const SagaGates *gates, int index, SagaCircles circles, bool *paused, bool read)
{
	const SagaStep *step = &gates->steps->step[index];
	SagaRunning running;
	TimestampTz due;
	const char *why;
	const char *room;
	char	   *words;
	bool		is_paused = *paused;

	*paused = false;
	if (step->parked != NULL && !read)
		return pstrdup(step->status == SAGA_STEP_WAITING ? "an approval" : "a person");
	/* "approval: ..." says for itself who is asked. */
	if (step->parked != NULL)
		return psprintf("%s%s", step->status == SAGA_STEP_WAITING ? "" : "a person: ",
						text_to_cstring(step->parked));
	if (saga_mailbox_is_running(&step->saga, SAGA_PHASE_FORWARD, step->seq, &running))
		return psprintf("the end of its action (process %d, since %s)",
						running.pid, timestamptz_to_str(running.since));
	if (saga_rows_task_claimed(step))
		return psprintf("consumer%s%s, until %s",
						step->consumer ? " " : "",
						step->consumer ? quote_identifier(text_to_cstring(step->consumer)) : "",
						timestamptz_to_str(step->lease_until));
	if ((*paused = is_paused))
		return pstrdup("saga.resume: the saga is paused");
	if (step->status == SAGA_STEP_WAITING && step->ready_at == 0)
		return words_of_gate(gates, index, circles);
	due = step->status == SAGA_STEP_WAITING ? step->ready_at : step->forward.retry_at;
	if (due > saga_clock_now())
		return pstrdup(timestamptz_to_str(due));
	if (step->status == SAGA_STEP_WAITING && step->signals != NULL &&
		step->signal == NULL && (words = words_of_signals(step)) != NULL)
		return words;
	if ((why = saga_home_why_idle(GetActiveSnapshot())) != NULL)
		return psprintf("saga, but: %s", why);
	if (step->task != NULL && saga_rows_task_due(step) != 0)
		return words_of_consumer(step);
	room = saga_waits_for_room();
	if (step->action == NULL || !saga_rows_let_through(step))
		return psprintf("a look at its gates%s%s",
						room ? ", as soon as " : "", room ? room : "");
	return psprintf("an executor of role \"%s\"%s%s",
					text_to_cstring(step->run_as_name),
					room ? ", as soon as " : "", room ? room : "");
}

/*
 * What is next in a running saga with steps that saga runs: the first of its
 * steps that is not done and does not merely wait for another one.  "read" is as
 * above.  Returns whether that says that the saga is paused.
 */
bool
saga_waits_append_next(StringInfo buf, const pg_uuid_t *id, bool paused,
					   bool sealed, bool read)
{
	SagaSteps	steps;
	SagaGates	gates;
	bool		said = false;

	saga_ledger_get_steps_at(id, GetActiveSnapshot(), &steps);
	saga_gates_read(&gates, &steps);
	for (int i = 0; i < gates.count; i++)
	{
		int			at = gates.order[i];
		const SagaStep *step = &steps.step[at];

		if (gates.done[at] ||
			(step->status == SAGA_STEP_COMPLETED && step->rolled_back_at == 0))
			continue;
		/* The step that it waits for is open, and says more. */
		if (step->rolled_back_at == 0 && saga_rows_is_run(step) &&
			step->status == SAGA_STEP_WAITING && step->ready_at == 0 &&
			gates.before[at] >= 0)
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
		{
			said = paused;
			appendStringInfo(buf, "step \"%s\" waits for %s",
							 text_to_cstring(step->key),
							 words_of(&gates, at, NULL, &said, read));
		}
		return said;
	}
	/* Each step that is not done waits for another one. */
	if (!saga_gates_all_done(&gates))
	{
		appendStringInfo(buf, "nothing: steps %s wait for each other; roll it back, or fail it",
						 saga_circles_words(&gates, saga_circles_find(&gates), 1));
		return false;
	}
	appendStringInfoString(buf, sealed ? "it is about to complete" :
						   "the application goes on: it may be completed or failed");
	return false;
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
	SagaCircles circles = NULL;
	const char *hint;

	InitMaterializedSRF(fcinfo, 0);
	/* Rows of another version are not to be read here. */
	if (saga_oids_misfit(&hint) != NULL)
		return (Datum) 0;
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
		bool		is_paused = paused;

		if (!saga_rows_is_run(step) || step->status == SAGA_STEP_COMPLETED ||
			step->status == SAGA_STEP_SKIPPED || saga_gates_given_up(step))
			continue;
		if (circles == NULL && gates.before[at] >= 0)
			circles = saga_circles_find(&gates);
		values[0] = Int64GetDatum(step->seq);
		values[1] = CStringGetTextDatum(words_of(&gates, at, circles, &is_paused, true));
		tuplestore_putvalues(result->setResult, result->setDesc, values, nulls);
	}
	return (Datum) 0;
}
