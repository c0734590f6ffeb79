/*-------------------------------------------------------------------------
 *
 * savepoints.c
 *	  saga.rollback_to: undoes a saga back to one of its steps.
 *
 * A savepoint is a step that completed and was not undone.  The steps that
 * started after it are undone, newest first; then the saga is running again,
 * and they may be started afresh.  This also settles a saga that waits for a
 * decision, so the rights are those of the decisions (decisions.c).
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "base/clock.h"
#include "base/errors.h"
#include "base/ids.h"
#include "base/json.h"
#include "calls/access.h"
#include "calls/arguments.h"
#include "calls/call.h"
#include "flow/afresh.h"
#include "flow/follow.h"
#include "flow/next.h"
#include "fmgr.h"
#include "miscadmin.h"
#include "utils/builtins.h"

PG_FUNCTION_INFO_V1(saga_sql_rollback_to);

/*
 * Where the step that is the savepoint stands in the start order; 0: all is to be
 * undone.
 */
static int64
find_savepoint(const SagaRow *saga, const SagaSteps *steps, const text *key,
			   int64 *seq)
{
	const SagaStep *pivot = saga_next_completed_pivot(steps);
	int64		target = 0;

	if (key != NULL)
	{
		int			i = saga_next_find_key(steps, key);
		const SagaStep *step;

		if (i < 0)
			saga_access_refuse_no_step(saga, key);
		step = &steps->step[i];
		if (step->rolled_back_at != 0 || step->status != SAGA_STEP_COMPLETED)
			ereport(ERROR,
					(errcode(ERRCODE_SAGA_INVALID_STATE),
					 errmsg("step \"%s\" is no savepoint", text_to_cstring(key)),
					 step->rolled_back_at != 0 ?
					 errdetail("It was rolled back itself.") :
					 errdetail("It is \"%s\".",
							   saga_state_step_status_name(step->status)),
					 errhint("A savepoint is a step that completed and was not undone.")));
		target = saga_rows_order(step);
		*seq = step->seq;
	}
	if (pivot != NULL && saga_rows_goes_back(pivot, target))
		ereport(ERROR,
				(errcode(ERRCODE_SAGA_INVALID_STATE),
				 errmsg("saga %s cannot be rolled back to before its pivot",
						saga_ids_string(&saga->id)),
				 errdetail("Pivot \"%s\" has completed.",
						   text_to_cstring(pivot->key)),
				 errhint("Roll back to the pivot or a step that started after it, or go forward.")));
	return target;
}

/*
 * Refuses a savepoint that the undo after a failure has gone past: a step that
 * would stay had its compensation tried or settled.  Clears the questions about
 * steps that stay.
 */
static void
check_savepoint_stands(SagaChange *change, int64 target)
{
	const SagaRow *saga = change->saga;
	SagaSteps  *steps = change->steps;

	for (int i = 0; i < steps->count; i++)
	{
		SagaStep   *step = &steps->step[i];

		if (saga_rows_goes_back(step, target) || step->rolled_back_at != 0)
			continue;
		if (step->comp_status != SAGA_COMP_NONE &&
			step->comp_status != SAGA_COMP_REGISTERED)
			ereport(ERROR,
					(errcode(ERRCODE_SAGA_INVALID_STATE),
					 errmsg("the undo of saga %s has gone past that savepoint",
							saga_ids_string(&saga->id)),
					 errdetail("The compensation of step \"%s\", which started no later, was tried or settled.",
							   text_to_cstring(step->key)),
					 errhint("Roll back further, to a step that started before that one, or resolve what waits for a decision.")));
		if (step->parked == NULL)
			continue;
		step->parked = NULL;
		saga_change_step(change, step);
	}
}

/* Decides what rolling back means in the saga's state; false: nothing more. */
static bool
may_roll_back(SagaChange *change, int64 target)
{
	const SagaRow *saga = change->saga;

	switch (saga->state)
	{
		case SAGA_RUNNING:
			return true;
		case SAGA_NEEDS_REVIEW:
			if (saga->content_hash != NULL)
				saga_access_refuse_state(saga,
										 "the saga was redacted and cannot be rolled back",
										 "It could only go forward without its input. Resolve what waits for a decision; a new operation needs a new saga.");
			check_savepoint_stands(change, target);
			return true;
		case SAGA_COMPENSATING:
			if (saga->failure_kind != SAGA_FAILURE_NONE)
				saga_access_refuse_state(saga,
										 "a saga that failed cannot be rolled back to a savepoint while it is being undone",
										 "Its failure is final; a new operation needs a new saga.");
			if (saga->undo == SAGA_UNDO_PARTIAL && target > saga->savepoint)
				saga_access_refuse_state(saga,
										 "the saga is being rolled back further than that",
										 "Try again once it is running, with a step that is left.");
			return saga->undo != SAGA_UNDO_PARTIAL || target < saga->savepoint;
		case SAGA_COMPLETED:
		case SAGA_COMPENSATED:
		case SAGA_ABANDONED:
			saga_access_refuse_state(saga, "a finished saga cannot be rolled back",
									 "A new operation needs a new saga.");
	}
	return false;
}

typedef struct RollbackRequest
{
	text	   *key;			/* NULL: to the beginning */
	text	   *reason;
} RollbackRequest;

static SagaVerdict
decide_rollback(SagaChange *change, void *arg)
{
	const RollbackRequest *request = arg;
	SagaRow    *saga = change->saga;
	SagaSteps  *steps = saga_change_steps(change);
	int64		seq = 0;
	int64		target = find_savepoint(saga, steps, request->key, &seq);
	int			to_undo;
	SagaJson	json;

	if (!may_roll_back(change, target))
		return SAGA_NOTHING_TO_WRITE;
	saga_afresh_withdraw(change, target);
	saga_change_undo(change, SAGA_UNDO_PARTIAL, target);
	saga->failure_kind = SAGA_FAILURE_NONE;
	saga->reason = request->reason;
	saga->details = NULL;
	saga->failed_seq = 0;
	/* What it failed by must not fail it again at once. */
	if (saga->state == SAGA_NEEDS_REVIEW && saga->deadline <= change->now)
		saga->deadline = 0;
	to_undo = saga_next_count_to_undo(saga, steps);
	saga_follow_walk(change);

	saga_json_begin(&json);
	saga_json_text(&json, "to", request->key);
	saga_json_text(&json, "reason", request->reason);
	saga_json_int(&json, "to_undo", to_undo);
	saga_change_event(change, "rolling back", seq, saga_json_end(&json));
	return SAGA_WRITE;
}

/* saga.rollback_to(saga_id, step, reason) */
Datum
saga_sql_rollback_to(PG_FUNCTION_ARGS)
{
	const pg_uuid_t *id = saga_access_id(fcinfo, 0);
	RollbackRequest request;

	saga_access_call("saga.rollback_to()");
	request.key = saga_arguments_name(fcinfo, 1, "step", SAGA_MAX_KEY, false);
	request.reason = saga_arguments_outcome(fcinfo, 2);
	return saga_call_state(id, SAGA_REACH_OPERATE, SAGA_CALL_EXCLUSIVE,
						   decide_rollback, &request);
}
