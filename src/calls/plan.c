/*-------------------------------------------------------------------------
 *
 * plan.c
 *	  saga.plan: what a failure now would do, in order.
 *
 * It walks as the undo itself would (next.c), on a copy of the rows in memory,
 * with every compensation taken to succeed.  So it shows what would happen, except
 * for what people and failures make of it.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "calls/access.h"
#include "flow/next.h"
#include "flow/outcome.h"
#include "funcapi.h"
#include "ledger/ledger.h"
#include "miscadmin.h"
#include "utils/builtins.h"
#include "utils/tuplestore.h"

PG_FUNCTION_INFO_V1(saga_sql_plan);

static void
emit(ReturnSetInfo *result, int position, const SagaStep *step,
	 const char *action, const char *detail)
{
	Datum		values[5];
	bool		nulls[5] = {false};

	values[0] = Int32GetDatum(position);
	values[1] = Int64GetDatum(step->seq);
	values[2] = PointerGetDatum(step->key);
	values[3] = CStringGetTextDatum(action);
	values[4] = CStringGetTextDatum(detail);
	tuplestore_putvalues(result->setResult, result->setDesc, values, nulls);
}

/* Milliseconds, as people say them. */
static char *
duration(int64 ms)
{
	if (ms % 60000 == 0)
		return psprintf(INT64_FORMAT " min", ms / 60000);
	if (ms % 1000 == 0)
		return psprintf(INT64_FORMAT " s", ms / 1000);
	return psprintf(INT64_FORMAT " ms", ms);
}

/* How often and how soon a compensation is tried. */
static char *
policy_in_words(const SagaStep *step)
{
	StringInfoData buf;
	SagaPolicy	policy;
	int			left;

	saga_outcome_policy(step, &policy);
	left = policy.max_attempts - step->undo.charged;
	initStringInfo(&buf);
	appendStringInfo(&buf, "up to %d %sattempt%s", left,
					 step->undo.charged > 0 ? "more " : "",
					 left == 1 ? "" : "s");
	if (left > 1)
		appendStringInfo(&buf, ", %s delay from %s to %s",
						 saga_policy_backoff_name(policy.backoff),
						 duration(policy.delay), duration(policy.max_delay));
	if (policy.timeout > 0)
		appendStringInfo(&buf, ", timeout %s", duration(policy.timeout));
	return buf.data;
}

/* What a person is asked about, newest first. */
static void
emit_asked(const SagaRow *saga, const SagaSteps *steps, ReturnSetInfo *result,
		   int position)
{
	for (int i = steps->count - 1; i >= 0; i--)
	{
		const SagaStep *step = &steps->step[i];

		if (step->parked != NULL && saga_next_in_range(saga, step))
			emit(result, ++position, step, "person",
				 text_to_cstring(step->parked));
	}
}

/* The steps that would never begin, in one line. */
static void
emit_skipped(const SagaSteps *steps, ReturnSetInfo *result, int position)
{
	Datum		values[5];
	bool		nulls[5] = {false, true, true, false, false};
	int			count = 0;

	for (int i = 0; i < steps->count; i++)
		if (steps->step[i].status == SAGA_STEP_WAITING &&
			steps->step[i].rolled_back_at == 0)
			count++;
	if (count == 0)
		return;
	values[0] = Int32GetDatum(position + 1);
	values[3] = CStringGetTextDatum("skip");
	values[4] = CStringGetTextDatum(psprintf("%d waiting step%s would be skipped",
											 count, count == 1 ? "" : "s"));
	tuplestore_putvalues(result->setResult, result->setDesc, values, nulls);
}

/* saga.plan(saga_id) */
Datum
saga_sql_plan(PG_FUNCTION_ARGS)
{
	ReturnSetInfo *result = (ReturnSetInfo *) fcinfo->resultinfo;
	const pg_uuid_t *id = saga_access_id(fcinfo, 0);
	SagaRow		saga;
	SagaSteps	steps;
	const SagaStep *pivot = NULL;
	SagaTask	task;
	int			position = 0;
	bool		stands;
	bool		running;

	saga_access_read(id, SAGA_REACH_READ, &saga);
	InitMaterializedSRF(fcinfo, 0);
	if (saga_state_is_final(saga.state))
		return (Datum) 0;
	saga_ledger_get_steps_now(id, &steps);
	running = saga.state == SAGA_RUNNING;
	/* Nobody is asked about the work of a saga that fails. */
	for (int i = 0; running && i < steps.count; i++)
		if (saga_rows_step_held(&steps.step[i]) && !steps.step[i].late)
			steps.step[i].parked = NULL;
	stands = saga.state == SAGA_NEEDS_REVIEW &&
		(saga.failure_kind != SAGA_FAILURE_NONE ||
		 saga.on_failure == SAGA_ON_FAILURE_HALT);
	/* Only the failure itself asks for a pivot; a late one changes nothing. */
	if (saga.failure_kind == SAGA_FAILURE_NONE || saga.undo == SAGA_UNDO_NONE)
	{
		pivot = saga_next_completed_pivot(&steps);
		saga.undo = SAGA_UNDO_FULL;
	}
	saga.failure_kind = SAGA_FAILURE_FAILED;
	if (pivot != NULL)
	{
		emit(result, 1, pivot, "person",
			 "its pivot has completed: it can only be finished, not undone");
		return (Datum) 0;
	}

	/* Whatever else there is to do, first a person decides. */
	if (stands)
	{
		emit_asked(&saga, &steps, result, 0);
		return (Datum) 0;
	}
	do
	{
		SagaStep   *step;

		CHECK_FOR_INTERRUPTS();
		saga_next(&saga, &steps, &task);
		if (task.kind == SAGA_TASK_NONE)
			break;
		step = &steps.step[task.index];
		switch (task.kind)
		{
			case SAGA_TASK_SQL:
				emit(result, ++position, step, "sql",
					 psprintf("%s (as role %s; %s)",
							  text_to_cstring(step->compensation),
							  text_to_cstring(step->run_as_name),
							  policy_in_words(step)));
				break;
			case SAGA_TASK_LISTENER:
				emit(result, ++position, step, "notify",
					 step->acknowledge ?
					 psprintf("a listener on channel \"%s\" (%s)",
							  text_to_cstring(step->channel),
							  policy_in_words(step)) :
					 psprintf("a notification on channel \"%s\", which nobody acknowledges",
							  text_to_cstring(step->channel)));
				break;
			default:
				emit(result, ++position, step, "person", task.why);
				break;
		}
		if (task.kind != SAGA_TASK_PERSON)
		{
			step->comp_status = SAGA_COMP_COMPENSATED;
			step->claimed_at = 0;
		}
	} while (task.kind != SAGA_TASK_PERSON);

	/* What was given up is asked in the end. */
	if (task.kind == SAGA_TASK_NONE)
		emit_asked(&saga, &steps, result, position);
	if (running)
		emit_skipped(&steps, result, position);
	return (Datum) 0;
}
