/*-------------------------------------------------------------------------
 *
 * reports.c
 *	  What services report about the tasks and compensations that they do.
 *
 * A report names its task by a key: the forward key of a step that goes forward, or
 * its compensation key.
 *
 * Compensations.  Reports wait for the transaction that is writing the saga's row.
 * An acknowledgement that comes when the saga is running again takes the saga's
 * lock, and waits for transactions that work on its steps; it rolls the step back.
 * It is accepted in every state after the first dispatch, because the effect exists.
 * If an attempt is under way, of any listener, that attempt succeeded; otherwise the
 * acknowledgement is an event of its own.  A failure report counts only for the
 * attempt under way.
 *
 * A completion that names its attempt reports what its own transaction did: unless
 * that attempt is still under way, it raises an error, and both are rolled back.
 *
 * Tasks.  Reports take the saga's lock shared and write the step's row alone, as
 * saga.complete_step does.  A completion is believed whoever holds the step now,
 * and also where nobody claimed it (a webhook), as long as its gates are open, or
 * were when it began: no result bypasses an approval.  Once the saga goes back, it is
 * a late result (events.c).  While the saga waits because of a late result of an old
 * run, reports about present runs count as ever, and are written with the saga's row.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "base/clock.h"
#include "base/errors.h"
#include "base/ids.h"
#include "calls/access.h"
#include "calls/arguments.h"
#include "calls/call.h"
#include "calls/claims.h"
#include "flow/afresh.h"
#include "flow/context.h"
#include "flow/events.h"
#include "flow/follow.h"
#include "flow/gates.h"
#include "flow/look.h"
#include "flow/next.h"
#include "ledger/ledger.h"
#include "ledger/start_order.h"
#include "utils/builtins.h"
#include "utils/timestamp.h"

PG_FUNCTION_INFO_V1(saga_sql_extend_claim);
PG_FUNCTION_INFO_V1(saga_sql_complete_compensation);
PG_FUNCTION_INFO_V1(saga_sql_fail_compensation);
PG_FUNCTION_INFO_V1(saga_sql_complete_task);
PG_FUNCTION_INFO_V1(saga_sql_fail_task);

/* A report about the task or the compensation that a key names. */
typedef struct Report
{
	text	   *key;
	pg_uuid_t	saga;
	int64		seq;
	SagaPhase	phase;
	int			attempt;
	bool		of_any;			/* a completion that names no attempt */
	TimestampTz lease_until;	/* the result of an extension */
	const char *result;			/* of the others */
	Jsonb	   *output;
	int64		lease;			/* milliseconds */
	const char *error;
	int64		retry_after;	/* milliseconds; 0: by the policy */
	bool		retryable;
} Report;

/* ------------------------------------------------------------------------
 * What every report has
 * ------------------------------------------------------------------------ */

/*
 * Begins a report with the key that it is about.  "tasks": it may be that of a
 * task, too.  "argument" is what the function calls it, and "kind" what it may be of.
 */
static void
read_key(FunctionCallInfo fcinfo, const char *argument, const char *kind,
		 bool tasks, Report *report)
{
	memset(report, 0, sizeof(Report));
	report->key = saga_arguments_text(fcinfo, 0);
	if (report->key == NULL)
		ereport(ERROR,
				(errcode(ERRCODE_NULL_VALUE_NOT_ALLOWED),
				 errmsg("%s must not be null", argument),
				 errhint("Pass the key that came with the claim.")));
	if (!saga_context_parse_key(report->key, &report->saga, &report->seq,
								&report->phase) ||
		(report->phase == SAGA_PHASE_FORWARD && !tasks))
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("invalid %s key: \"%s\"", kind,
						text_to_cstring(report->key)),
				 errhint("Pass the key that came with the claim, unchanged.")));
}

static int
get_attempt(FunctionCallInfo fcinfo, int arg)
{
	if (PG_ARGISNULL(arg))
		ereport(ERROR,
				(errcode(ERRCODE_NULL_VALUE_NOT_ALLOWED),
				 errmsg("attempt must not be null"),
				 errhint("Pass the attempt that came with the claim.")));
	return PG_GETARG_INT32(arg);
}

/*
 * Is the attempt of that number under way?  False: it is over.  One that has
 * not begun is an error.
 */
static bool
is_under_way(const Report *report, const SagaStep *step)
{
	bool		forward = report->phase == SAGA_PHASE_FORWARD;
	const SagaWork *work = forward ? &step->forward : &step->undo;
	bool		held = forward ? saga_rows_task_claimed(step) :
		saga_rows_undo_claimed(step);
	int			open = held ? work->attempts + 1 : 0;

	if (report->attempt < 1 || report->attempt > Max(work->attempts, open))
		ereport(ERROR,
				(errcode(ERRCODE_SAGA_INVALID_STATE),
				 errmsg("attempt %d of the %s of step \"%s\" has not begun",
						report->attempt, forward ? "task" : "compensation",
						text_to_cstring(step->key)),
				 errdetail("There were %d so far.", Max(work->attempts, open)),
				 errhint("An attempt begins with a claim, which returns its number.")));
	return report->attempt == open;
}

/* Refuses a report that is about an attempt which is over. */
static void
refuse_over(const Report *report, const SagaStep *step, const char *hint)
{
	ereport(ERROR,
			(errcode(ERRCODE_SAGA_INVALID_STATE),
			 errmsg("the claim of step \"%s\" is over",
					text_to_cstring(step->key)),
			 errdetail("It was attempt %d, and is not under way any more.",
					   report->attempt),
			 errhint(hint, report->phase == SAGA_PHASE_FORWARD ?
					 "task" : "compensation")));
}

/* A completion that names its attempt counts only while that is under way. */
static void
check_attempt(const Report *report, const SagaStep *step)
{
	if (!report->of_any && !is_under_way(report, step))
		refuse_over(report, step, "Roll back what was done for that attempt; another may have done the %s.");
}

/* ------------------------------------------------------------------------
 * Compensations
 * ------------------------------------------------------------------------ */

/* The step that the report is about; it was dispatched to listeners once. */
static SagaStep *
find_undo(SagaChange *change, const Report *report)
{
	SagaSteps  *steps = saga_change_steps(change);
	int			index = saga_next_find(steps, report->seq);
	SagaStep   *step;

	if (index < 0)
		ereport(ERROR,
				(errcode(ERRCODE_SAGA_STEP_NOT_FOUND),
				 errmsg("saga %s has no step with the compensation key \"%s\"",
						saga_ids_string(&report->saga),
						text_to_cstring(report->key)),
				 errhint("Pass the key that came with the claim, unchanged.")));
	step = &steps->step[index];
	/* It may have been so before saga.amend gave it another channel. */
	if (step->dispatched_at == 0 &&
		!saga_ledger_has_event(&report->saga, report->seq,
							   "compensation dispatched"))
		ereport(ERROR,
				(errcode(ERRCODE_SAGA_INVALID_STATE),
				 errmsg("the compensation of step \"%s\" was not dispatched to listeners",
						text_to_cstring(step->key)),
				 step->channel == NULL ?
				 errdetail("No listener compensates that step.") :
				 errdetail("Its turn has not come."),
				 errhint("Report only what a claim returned.")));
	return step;
}

/*
 * The compensation of a step that no listener holds was done: the attempt that
 * did it is over, as far as known.
 */
static void
acknowledge_late(SagaChange *change, SagaStep *step)
{
	SagaRow    *saga = change->saga;

	if (!step->late)
		step->parked = NULL;
	step->comp_status = SAGA_COMP_COMPENSATED;
	step->compensated_at = change->now;
	step->undo.retry_at = 0;

	saga_change_step(change, step);
	/* A saga that goes forward again has had that run of the step undone. */
	if (saga_rows_goes_forward(saga) && step->rolled_back_at == 0)
		saga_afresh_roll_back(change, step);
	/* After a pivot nothing is being undone, and nothing follows. */
	if (saga->state == SAGA_COMPENSATING ||
		(saga->state == SAGA_NEEDS_REVIEW && saga->undo != SAGA_UNDO_NONE))
		saga_follow_walk(change);
	saga_change_event(change, "late acknowledgement", step->seq, NULL);
}

/*
 * A listener reports that the compensation of a step, which was dispatched
 * once, is done.  That is believed whichever listener holds the step now, and
 * although it was given up: the effect is there.
 */
static SagaVerdict
decide_acknowledge(SagaChange *change, void *arg)
{
	Report	   *report = arg;
	SagaStep   *step = find_undo(change, report);
	SagaAttemptEnd end;

	check_attempt(report, step);
	if (step->comp_status == SAGA_COMP_COMPENSATED ||
		step->comp_status == SAGA_COMP_SKIPPED)
	{
		report->result = saga_state_comp_status_name(step->comp_status);
		return SAGA_NOTHING_TO_WRITE;
	}
	step->undo.output = report->output;
	/* It may have another by saga.amend, or none. */
	if (step->channel != NULL)
		saga_change_count_channel(change, step->channel, SAGA_STAT_ACKNOWLEDGED);
	if (saga_rows_undo_claimed(step))
	{
		saga_outcome_of_claim(step, SAGA_OUTCOME_SUCCEEDED, NULL, &end);
		saga_events_attempt(change, step, &end);
	}
	else
		acknowledge_late(change, step);
	report->result = saga_state_comp_status_name(step->comp_status);
	return SAGA_WRITE;
}

static SagaVerdict
decide_fail_compensation(SagaChange *change, void *arg)
{
	Report	   *report = arg;
	SagaStep   *step = find_undo(change, report);
	SagaAttemptEnd end;

	if (!is_under_way(report, step))
	{
		report->result = "stale";
		return SAGA_NOTHING_TO_WRITE;
	}
	saga_outcome_of_claim(step, SAGA_OUTCOME_FAILED, report->error, &end);
	saga_change_count_channel(change, step->channel, SAGA_STAT_REPORTED_FAILED);
	end.retry_after = report->retry_after;
	if (!report->retryable)
		end.park = psprintf("its listener says that it cannot be done: %s",
							report->error);
	saga_events_attempt(change, step, &end);
	report->result = saga_state_comp_status_name(step->comp_status);
	return SAGA_WRITE;
}

/* ------------------------------------------------------------------------
 * Tasks
 * ------------------------------------------------------------------------ */

/* Not among the steps with tasks: is it another? */
static bool
find_other_step(const Report *report, SagaStep *step)
{
	SagaSteps	steps;
	int			index;

	saga_ledger_get_steps_now(&report->saga, &steps);
	index = saga_next_find(&steps, report->seq);
	if (index >= 0)
		*step = steps.step[index];
	return index >= 0;
}

/* The step that the report is about, as it is now. */
static void
find_task(SagaChange *change, const Report *report, SagaStep *step)
{
	if (saga_ledger_get_task(&report->saga, report->seq, step) != SAGA_FOUND &&
		!find_other_step(report, step))
		ereport(ERROR,
				(errcode(ERRCODE_SAGA_STEP_NOT_FOUND),
				 errmsg("saga %s has no step with the task key \"%s\"",
						saga_ids_string(&report->saga),
						text_to_cstring(report->key)),
				 errhint("Pass the task_key that came with the claim, unchanged.")));
	if (step->task == NULL)
		ereport(ERROR,
				(errcode(ERRCODE_SAGA_INVALID_STATE),
				 errmsg("step \"%s\" has no task", text_to_cstring(step->key)),
				 saga_rows_is_run(step) ?
				 errdetail("saga runs it itself.") :
				 errdetail("The application runs it."),
				 saga_rows_is_run(step) ?
				 errhint("Its action, or its gates, decide when it is done.") :
				 errhint("Report it with saga.complete_step() or saga.fail_step().")));
	/* Not before what had to be waited for. */
	change->now = saga_clock_now();
}

static void
refuse_closed(const SagaStep *step, const char *why)
{
	ereport(ERROR,
			(errcode(ERRCODE_SAGA_INVALID_STATE),
			 errmsg("the task of step \"%s\" may not begin yet",
					text_to_cstring(step->key)),
			 errdetail("%s", why),
			 errhint("saga.steps shows in waits_for what the step waits for.")));
}

/*
 * A step that waits, and that nobody claimed, is reported done: that is believed
 * once its gates are open, although no look may have said so yet.  If its run began
 * before, and waits again, they were open then.
 */
static void
begin_unclaimed(SagaChange *change, SagaStep *step)
{
	if (step->begun != 0)
		return;
	if (step->ready_at == 0 && saga_rows_goes_forward(change->saga))
	{
		SagaSteps  *steps = saga_change_steps(change);
		SagaGates	gates;
		int			index = saga_next_find(steps, step->seq);

		saga_gates_read(&gates, steps);
		if (index >= 0 && gates.before[index] == -1)
			saga_gates_open_first(step, change->now);
	}
	if (step->opened_at == 0)
		refuse_closed(step, "A step that comes before it is not done.");
	if (!saga_rows_let_through(step))
		refuse_closed(step, step->approval != NULL && !step->approved ?
					  "A person must approve it first." :
					  "It waits for a signal.");
	/* Of a saga that goes back the time is not kept. */
	if (step->ready_at > change->now)
		refuse_closed(step, "Its time has not come.");
}

/* A result of a step whose saga goes back, or has, or of an old run */
static SagaVerdict
complete_late(SagaChange *change, Report *report, const SagaStep *found)
{
	SagaSteps  *steps = saga_change_steps(change);
	int			index = saga_next_find(steps, found->seq);
	SagaStep   *step;

	/* Purged, or moved while the steps were read. */
	if (index < 0)
		return SAGA_LOOK_AGAIN;
	step = &steps->step[index];
	if (step->status == SAGA_STEP_WAITING)
		begin_unclaimed(change, step);
	saga_change_count_channel(change, step->task, SAGA_STAT_ACKNOWLEDGED);
	saga_events_late(change, step, report->output);
	report->result = saga_state_step_status_name(step->status);
	return SAGA_WRITE;
}

/*
 * A service reports that a task is done.  That is believed whoever holds it now,
 * and although it was given up: the effect is there.
 */
static SagaVerdict
decide_complete_task(SagaChange *change, void *arg)
{
	Report	   *report = arg;
	const SagaRow *saga = change->saga;
	SagaStep   *step = palloc(sizeof(SagaStep));
	bool		late;
	SagaAttemptEnd end;

	find_task(change, report, step);
	check_attempt(report, step);
	report->result = saga_state_step_status_name(step->status);
	if (step->status == SAGA_STEP_COMPLETED)
		return SAGA_NOTHING_TO_WRITE;
	if (saga->state == SAGA_COMPLETED)
		saga_access_refuse_state(saga, "a completed saga takes no more results",
								 "Its step was given up, and the saga went on without it; undo the effect by hand, or in a new saga.");
	if (!saga_rows_goes_forward(saga) || step->rolled_back_at != 0)
		return complete_late(change, report, step);
	if (step->status == SAGA_STEP_SKIPPED && step->begun == 0)
		ereport(ERROR,
				(errcode(ERRCODE_SAGA_INVALID_STATE),
				 errmsg("the task of step \"%s\" is not to be done",
						text_to_cstring(step->key)),
				 errdetail("A person skipped the step before it began."),
				 errhint("If it was done nevertheless, undo it by hand, or in a new saga.")));
	if (step->status == SAGA_STEP_WAITING)
		begin_unclaimed(change, step);

	late = step->status == SAGA_STEP_SKIPPED ||
		(step->status == SAGA_STEP_FAILED && step->forward.retry_at == 0);
	saga_outcome_of_task(step, SAGA_OUTCOME_SUCCEEDED, NULL, &end);
	if (end.started_at == 0)
		end.started_at = change->now;
	if (step->begun == 0)
		step->begun = saga_start_order_next(&step->saga);
	step->forward.output = report->output;
	step->parked = NULL;
	saga_change_count_channel(change, step->task, SAGA_STAT_ACKNOWLEDGED);
	saga_look_attempt(change, step, &end);
	if (late)
		saga_change_event(change, "late result", step->seq, NULL);
	report->result = saga_state_step_status_name(step->status);
	return SAGA_WRITE;
}

static SagaVerdict
decide_fail_task(SagaChange *change, void *arg)
{
	Report	   *report = arg;
	SagaStep   *step = palloc(sizeof(SagaStep));
	SagaAttemptEnd end;

	find_task(change, report, step);
	if (!is_under_way(report, step))
	{
		report->result = "stale";
		return SAGA_NOTHING_TO_WRITE;
	}
	saga_outcome_of_task(step, SAGA_OUTCOME_FAILED, report->error, &end);
	saga_change_count_channel(change, step->task, SAGA_STAT_REPORTED_FAILED);
	end.retry_after = report->retry_after;
	if (!report->retryable)
		end.park = report->error;
	saga_look_attempt(change, step, &end);
	report->result = saga_state_step_status_name(step->status);
	return SAGA_WRITE;
}

/* ------------------------------------------------------------------------
 * Either
 * ------------------------------------------------------------------------ */

static SagaVerdict
decide_extension(SagaChange *change, void *arg)
{
	Report	   *report = arg;
	bool		forward = report->phase == SAGA_PHASE_FORWARD;
	SagaStep   *step;
	TimestampTz end;

	if (forward)
	{
		step = palloc(sizeof(SagaStep));
		find_task(change, report, step);
	}
	else
		step = find_undo(change, report);
	if (!is_under_way(report, step) || step->lease_until <= change->now)
		refuse_over(report, step, "Another listener may have it now. If its effect is done, report that with saga.complete_%s.");
	end = saga_claims_lease_end(step, report->phase, step->claimed_at,
								report->lease, change->now);
	report->lease_until = Max(end, step->lease_until);
	if (end <= step->lease_until)
		return SAGA_NOTHING_TO_WRITE;
	step->lease_until = end;
	if (forward)
		saga_change_only_step(change, step);
	else
	{
		saga_change_step(change, step);
		/* It need not be the step that is next. */
		saga_follow(change);
	}
	return SAGA_WRITE;
}

/* saga.extend_claim(task_key, attempt, lease) */
Datum
saga_sql_extend_claim(PG_FUNCTION_ARGS)
{
	Report		report;

	saga_access_call("saga.extend_claim()");
	read_key(fcinfo, "compensation_key", "task or compensation", true, &report);
	report.attempt = get_attempt(fcinfo, 1);
	if (PG_ARGISNULL(2))
		ereport(ERROR,
				(errcode(ERRCODE_NULL_VALUE_NOT_ALLOWED),
				 errmsg("lease must not be null"),
				 errhint("Give the time that the attempt needs from now on.")));
	report.lease = saga_claims_lease(fcinfo, 2);
	(void) saga_call(&report.saga, SAGA_REACH_OWN,
					 report.phase == SAGA_PHASE_FORWARD ?
					 SAGA_CALL_SHARED : SAGA_CALL_NO_LOCK,
					 decide_extension, &report);
	PG_RETURN_TIMESTAMPTZ(report.lease_until);
}

/* What both functions do. */
static Datum
complete(FunctionCallInfo fcinfo, const char *function, bool tasks)
{
	Report		report;

	saga_access_call(function);
	read_key(fcinfo, tasks ? "task_key" : "compensation_key",
			 tasks ? "task" : "compensation", tasks, &report);
	report.output = saga_arguments_jsonb(fcinfo, 1, "output");
	report.of_any = !tasks || PG_ARGISNULL(2);
	if (!report.of_any)
		report.attempt = get_attempt(fcinfo, 2);
	if (report.phase == SAGA_PHASE_FORWARD)
		(void) saga_call(&report.saga, SAGA_REACH_OWN, SAGA_CALL_SHARED,
						 decide_complete_task, &report);
	else
		/* Steps of a running saga are written under its lock. */
		(void) saga_call(&report.saga, SAGA_REACH_OWN,
						 SAGA_CALL_EXCLUSIVE_IF_RUNNING, decide_acknowledge,
						 &report);
	PG_RETURN_TEXT_P(cstring_to_text(report.result));
}

/* saga.complete_compensation(compensation_key, output) */
Datum
saga_sql_complete_compensation(PG_FUNCTION_ARGS)
{
	return complete(fcinfo, "saga.complete_compensation()", false);
}

/* saga.complete_task(task_key, output, attempt) */
Datum
saga_sql_complete_task(PG_FUNCTION_ARGS)
{
	return complete(fcinfo, "saga.complete_task()", true);
}

/* The same of an attempt that failed. */
static Datum
report_failure(FunctionCallInfo fcinfo, const char *function, bool tasks)
{
	Report		report;
	text	   *error;

	saga_access_call(function);
	read_key(fcinfo, tasks ? "task_key" : "compensation_key",
			 tasks ? "task" : "compensation", tasks, &report);
	report.attempt = get_attempt(fcinfo, 1);
	error = saga_arguments_outcome(fcinfo, 2);
	if (error == NULL)
		ereport(ERROR,
				(errcode(ERRCODE_NULL_VALUE_NOT_ALLOWED),
				 errmsg("error must not be null"),
				 errhint("Say what went wrong: people will read it.")));
	report.error = text_to_cstring(error);
	report.retryable = PG_ARGISNULL(3) || PG_GETARG_BOOL(3);
	/* 0 says "at once", which is not the same as saying nothing. */
	if (!PG_ARGISNULL(4))
	{
		report.retry_after = saga_arguments_milliseconds(PG_GETARG_INTERVAL_P(4),
														 "retry_after");
		report.retry_after = Max(report.retry_after, 1);
	}
	if (report.phase == SAGA_PHASE_FORWARD)
		(void) saga_call(&report.saga, SAGA_REACH_OWN, SAGA_CALL_SHARED,
						 decide_fail_task, &report);
	else
		(void) saga_call(&report.saga, SAGA_REACH_OWN, SAGA_CALL_NO_LOCK,
						 decide_fail_compensation, &report);
	PG_RETURN_TEXT_P(cstring_to_text(report.result));
}

/* saga.fail_compensation(compensation_key, attempt, error, retryable, retry_after) */
Datum
saga_sql_fail_compensation(PG_FUNCTION_ARGS)
{
	return report_failure(fcinfo, "saga.fail_compensation()", false);
}

/* saga.fail_task(task_key, attempt, error, retryable, retry_after) */
Datum
saga_sql_fail_task(PG_FUNCTION_ARGS)
{
	return report_failure(fcinfo, "saga.fail_task()", true);
}
