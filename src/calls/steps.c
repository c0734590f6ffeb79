/*-------------------------------------------------------------------------
 *
 * steps.c
 *	  The application's calls about a step: step, complete_step, fail_step.
 *
 * Each that writes something, except inside an action of the saga (run_steps.c), holds
 * the saga's lock shared until its transaction ends (access.c), so the saga's state
 * stands still meanwhile, while other sessions may work on other steps, and on this
 * one: the step's own row is where they meet, and whoever comes second gives back the
 * lock, waits, and looks again.
 *
 * No SPI here: what these calls cost is what recording a saga costs.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/htup_details.h"
#include "base/calendar.h"
#include "base/clock.h"
#include "base/compat.h"
#include "base/errors.h"
#include "base/guc.h"
#include "base/ids.h"
#include "base/json.h"
#include "base/rights.h"
#include "base/words.h"
#include "calls/access.h"
#include "calls/arguments.h"
#include "calls/call.h"
#include "calls/policies.h"
#include "calls/quota.h"
#include "calls/run_steps.h"
#include "calls/steps.h"
#include "catalog/namespace.h"
#include "catalog/pg_collation_d.h"
#include "common/pg_prng.h"
#include "flow/context.h"
#include "flow/events.h"
#include "flow/next.h"
#include "funcapi.h"
#include "ledger/ledger.h"
#include "ledger/oids.h"
#include "ledger/start_order.h"
#include "miscadmin.h"
#include "shared/current.h"
#include "shared/durable.h"
#include "utils/builtins.h"
#include "utils/guc.h"
#include "utils/memutils.h"
#include "utils/typcache.h"
#include "utils/varlena.h"

PG_FUNCTION_INFO_V1(saga_sql_step);
PG_FUNCTION_INFO_V1(saga_sql_complete_step);
PG_FUNCTION_INFO_V1(saga_sql_fail_step);

/* The search_path that a server starts with; stored as NULL. */
#define BUILTIN_SEARCH_PATH		"\"$user\", public"

/* Numbers of arguments of saga.step that are read in two places. */
#define STEP_ARG_COMPENSATE_ON			11
#define STEP_ARG_RETRY					12
#define STEP_ARG_COMPENSATION_RETRY		13
#define STEP_ARG_RUN					14	/* the first of run_steps.c */

/* What a call of saga.step asks for. */
typedef struct StepRequest
{
	text	   *name;
	text	   *key;
	text	   *compensation;
	text	   *channel;
	text	   *review;
	Jsonb	   *args;
	Jsonb	   *output;
	bool		acknowledge;
	bool		completed;
	SagaStepKind kind;
	SagaCompensateOn compensate_on;
	SagaPolicy	retry;
	SagaPolicy	compensation_retry;
	SagaRunRequest run;
} StepRequest;

/* "known": the step had been recorded before this call. */
Datum
saga_steps_result(const SagaStep *step, bool known)
{
	TupleDesc	desc = lookup_rowtype_tupdesc(saga_oids_get()->step_result, -1);
	Datum		values[10];
	bool		nulls[10] = {false};
	HeapTuple	tuple;

	values[0] = UUIDPGetDatum(&step->saga);
	values[1] = Int64GetDatum(step->seq);
	values[2] = PointerGetDatum(step->key);
	values[3] = CStringGetTextDatum(saga_state_step_status_name(step->status));
	values[4] = Int32GetDatum(step->forward.attempts);
	values[5] = PointerGetDatum(step->forward.output);
	nulls[5] = (step->forward.output == NULL);
	values[6] = PointerGetDatum(step->forward.error);
	nulls[6] = (step->forward.error == NULL);
	values[7] = TimestampTzGetDatum(step->forward.retry_at);
	nulls[7] = (step->forward.retry_at == 0);
	values[8] = PointerGetDatum(saga_context_forward_key(&step->saga, step->seq));
	values[9] = BoolGetDatum(known);
	tuple = heap_form_tuple(desc, values, nulls);
	ReleaseTupleDesc(desc);
	return HeapTupleGetDatum(tuple);
}

/* A policy as stored; the text of the last one is kept, since they repeat. */
static text *
encode_policy(const SagaPolicy *policy)
{
	static SagaPolicy last;
	static text *encoded = NULL;
	char		string[SAGA_POLICY_TEXT_LEN];

	if (encoded != NULL && saga_policy_same(&last, policy))
		return encoded;

	saga_policy_encode(policy, string);
	if (encoded != NULL)
		pfree(encoded);
	encoded = NULL;
	encoded = MemoryContextAlloc(TopMemoryContext,
								 VARHDRSZ + strlen(string));
	SET_VARSIZE(encoded, VARHDRSZ + strlen(string));
	memcpy(VARDATA(encoded), string, strlen(string));
	last = *policy;
	return encoded;
}

/* What a session has set for itself, and is kept with a step */
static const char *
kept_setting(const char *name, const char *value)
{
	if (strlen(value) > SAGA_MAX_WORDS)
		ereport(ERROR,
				(errcode(ERRCODE_SAGA_LIMIT_EXCEEDED),
				 errmsg("setting %s is too long to be kept with a step", name),
				 errdetail("It has %zu bytes; %d are allowed.", strlen(value),
						   SAGA_MAX_WORDS),
				 errhint("Make it shorter, or pass what the SQL needs as args.")));
	return value;
}

/*
 * The settings named in saga.capture_settings, as an object, or NULL.  A name
 * that is not set here is left out: it will not be set there either.  How the SQL
 * of an action or compensation was read here is kept where that is not the usual
 * way; and the time zone, where a delay is a matter of the calendar.
 */
static Jsonb *
capture_settings(bool has_text, const Interval *delay)
{
	SagaJson	json;
	List	   *names = NIL;
	ListCell   *lc;
	bool		any = has_text && !saga_compat_plain_strings();
	bool		zone = delay != NULL && saga_calendar_needs_zone(delay);

	if (!any && !zone && (saga_guc_capture_settings == NULL ||
						  saga_guc_capture_settings[0] == '\0'))
		return NULL;
	if (saga_guc_capture_settings != NULL &&
		!SplitGUCList(pstrdup(saga_guc_capture_settings), ',', &names))
		return NULL;
	saga_json_begin(&json);
	if (any)
		saga_json_string(&json, "standard_conforming_strings", "off");
	if (zone)
		saga_json_string(&json, SAGA_CALENDAR_ZONE,
						 pg_get_timezone_name(session_timezone));
	foreach(lc, names)
	{
		char	   *name = (char *) lfirst(lc);
		char	   *value = GetConfigOptionByName(name, NULL, true);

		if (value == NULL || (zone && pg_strcasecmp(name, SAGA_CALENDAR_ZONE) == 0))
			continue;
		saga_json_string(&json, name, kept_setting(name, value));
		any = true;
	}
	return any || zone ? saga_json_end(&json) : NULL;
}

static void
read_request(FunctionCallInfo fcinfo, StepRequest *request)
{
	int			code;

	request->name = saga_arguments_name(fcinfo, 1, "step name", SAGA_MAX_NAME, true);
	request->key = saga_arguments_name(fcinfo, 2, "idempotency_key", SAGA_MAX_KEY,
									   false);
	if (request->key == NULL)
		request->key = request->name;
	request->compensation = saga_arguments_text(fcinfo, 3);
	request->args = saga_arguments_jsonb(fcinfo, 4, "args");
	request->channel = saga_arguments_channel(fcinfo, 5, "notify");
	request->acknowledge = PG_ARGISNULL(6) ? true : PG_GETARG_BOOL(6);
	request->review = saga_arguments_words(fcinfo, 7, "review");
	request->output = saga_arguments_jsonb(fcinfo, 8, "output");
	request->completed = request->output != NULL ||
		(!PG_ARGISNULL(9) && PG_GETARG_BOOL(9));

	code = saga_arguments_word(fcinfo, 10, "kind", saga_state_kinds, false);
	request->kind = code != 0 ? code : SAGA_KIND_COMPENSATABLE;
	code = saga_arguments_word(fcinfo, STEP_ARG_COMPENSATE_ON, "compensate_on",
							   saga_state_compensate_ons, false);
	saga_run_steps_read(fcinfo, STEP_ARG_RUN, &request->run);
	/* SQL that did not commit did nothing. */
	request->compensate_on = code != 0 ? code :
		request->run.action != NULL ? SAGA_COMPENSATE_ON_COMPLETED :
		SAGA_COMPENSATE_ON_STARTED;
	saga_policies_get(fcinfo, STEP_ARG_RETRY, &request->retry);
	saga_policies_get(fcinfo, STEP_ARG_COMPENSATION_RETRY,
					  &request->compensation_retry);

	if (request->compensation != NULL && request->channel != NULL)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("a step has either a compensation or notify, not both"),
				 errdetail("SQL and listeners would undo it twice."),
				 errhint("Let the listener call the SQL, or make two steps of it.")));
	if (request->run.given && request->completed)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("a step that saga runs cannot be recorded as completed"),
				 errhint("Leave out output and completed, or the gates and the work.")));
	if (request->review != NULL && VARSIZE_ANY_EXHDR(request->review) == 0)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("review must not be empty"),
				 errhint("Say what the person must look at.")));
	if (request->compensation != NULL)
	{
		saga_arguments_check_sql(request->compensation, "compensation");
		saga_rights_check_can_run_sql(GetUserId());
	}
}

/* A known key must come with the args that it was recorded with. */
static void
check_same_args(const SagaStep *step, const StepRequest *request)
{
	if (step->content_hash != NULL ?
		saga_arguments_same_hash(step->content_hash, SAGA_HASH_ARGS, request->args) :
		saga_arguments_same_jsonb(step->args, request->args))
		return;
	ereport(ERROR,
			(errcode(ERRCODE_SAGA_IDEMPOTENCY_CONFLICT),
			 errmsg("step \"%s\" was recorded with other args",
					text_to_cstring(step->key)),
			 errhint("Repeat the step with the args it was recorded with, which saga.steps shows. Give it another key only if it is another operation.")));
}

/*
 * Would a policy as an argument change one that is stored?  What the argument
 * leaves open it leaves to what is stored.
 */
static bool
other_policy(FunctionCallInfo fcinfo, int arg, const text *encoded)
{
	SagaPolicy	stored;
	SagaPolicy	wanted;

	if (PG_ARGISNULL(arg))
		return false;
	saga_outcome_decode_policy(encoded, &stored);
	wanted = stored;
	saga_policies_replace(fcinfo, arg, &wanted);
	return !saga_policy_same(&stored, &wanted);
}

/*
 * How a step is run and undone is recorded once and stays in force.  A call that
 * says something else, as a later release of the application may, gets a NOTICE.
 */
static void
notice_other_undo(FunctionCallInfo fcinfo, const SagaStep *step,
				  const StepRequest *request)
{
	const char *other[7 + SAGA_RUN_OTHERS];
	int			count = 0;
	StringInfoData list;

	if (!saga_rows_same_text(step->compensation, request->compensation))
		other[count++] = "compensation";
	if (!saga_rows_same_text(step->channel, request->channel))
		other[count++] = "notify";
	else if (step->channel != NULL && step->acknowledge != request->acknowledge)
		other[count++] = "acknowledge";
	if (!saga_rows_same_text(step->review, request->review))
		other[count++] = "review";
	if (step->kind != request->kind)
		other[count++] = "kind";
	if (step->compensate_on != request->compensate_on &&
		(!PG_ARGISNULL(STEP_ARG_COMPENSATE_ON) ||
		 (step->action == NULL) == (request->run.action == NULL)))
		other[count++] = "compensate_on";
	count += saga_run_steps_other(step, &request->run, other + count);
	if (other_policy(fcinfo, STEP_ARG_RETRY,
					 step->retry ? step->retry : step->compensation_retry))
		other[count++] = "retry";
	if (other_policy(fcinfo, STEP_ARG_COMPENSATION_RETRY,
					 step->compensation_retry))
		other[count++] = "compensation_retry";
	if (count == 0)
		return;

	initStringInfo(&list);
	for (int i = 0; i < count; i++)
		appendStringInfo(&list, "%s%s", i > 0 ? ", " : "", other[i]);
	ereport(NOTICE,
			(errmsg("step \"%s\" was recorded with other arguments, which stay in force",
					text_to_cstring(step->key)),
			 errdetail("These differ: %s.", list.data),
			 errhint("Use saga.amend() to change the compensation, notify or compensation_retry of a recorded step.")));
}

static void
make_step(const SagaRow *saga, const StepRequest *request, int run,
		  TimestampTz now, SagaStep *step)
{
	memset(step, 0, sizeof(SagaStep));
	step->saga = saga->id;
	step->started_at = now;
	step->run = run;
	step->run_as = GetUserId();
	step->kind = request->kind;
	step->compensate_on = request->compensate_on;
	step->acknowledge = request->acknowledge;
	step->run_as_name = cstring_to_text(saga_rights_role_name(step->run_as));
	step->key = request->key;
	step->name = saga_rows_same_text(request->name, request->key) ? NULL : request->name;
	step->compensation = request->compensation;
	step->channel = request->channel;
	step->review = request->review;
	step->args = request->args;
	if (strcmp(namespace_search_path, BUILTIN_SEARCH_PATH) != 0)
		step->search_path = cstring_to_text(kept_setting("search_path",
														 namespace_search_path));
	step->settings = capture_settings(step->compensation != NULL ||
									  request->run.action != NULL,
									  request->run.delay);
	step->seq = saga_start_order_next(&saga->id);
	step->compensation_retry = encode_policy(&request->compensation_retry);
	if (!saga_policy_same(&request->retry, &request->compensation_retry))
	{
		/* encode_policy remembers one text only */
		step->compensation_retry =
			DatumGetTextPCopy(PointerGetDatum(step->compensation_retry));
		step->retry = encode_policy(&request->retry);
	}
	step->forward.attempts = 1;
	step->status = SAGA_STEP_STARTED;
	step->comp_status = (request->compensation || request->channel ||
						 request->review) ?
		SAGA_COMP_REGISTERED : SAGA_COMP_NONE;
	step->undo.crashes = -1;
	if (request->completed)
	{
		step->status = SAGA_STEP_COMPLETED;
		step->completed_at = now;
		step->forward.output = request->output;
	}
}

static void
add_forward_attempt(SagaChange *change, const SagaStep *step,
					SagaOutcome outcome, const char *error)
{
	SagaAttemptEnd end;

	memset(&end, 0, sizeof(end));
	end.outcome = outcome;
	end.forward = true;
	end.attempt = step->forward.attempts;
	end.started_at = step->attempt_at ? step->attempt_at : step->started_at;
	end.rows = -1;
	end.error = error;
	saga_change_attempt(change, step, &end);
}

/*
 * One more attempt of a step that is started or failed; within the
 * transaction that made the last attempt, that one again.
 */
static SagaWritten
repeat_step(SagaRow *saga, SagaStep *step, const StepRequest *request,
			TimestampTz now, SagaPatience patience)
{
	bool		again = step->status == SAGA_STEP_STARTED &&
		saga_ledger_is_own_attempt(step);
	SagaChange	change;

	if (again && !request->completed)
		return SAGA_WRITTEN;
	saga_change_begin(&change, saga, NULL, SAGA_MAY_WAIT, now);
	change.patience = patience;
	saga_change_only_step(&change, step);
	if (!again)
	{
		if (step->status == SAGA_STEP_STARTED)
			add_forward_attempt(&change, step, SAGA_OUTCOME_INTERRUPTED, NULL);
		step->forward.attempts++;
		step->attempt_at = now;
		step->forward.retry_at = 0;
	}
	step->status = SAGA_STEP_STARTED;
	if (request->completed)
	{
		step->status = SAGA_STEP_COMPLETED;
		step->completed_at = now;
		step->forward.output = request->output;
		if (saga->runs != SAGA_RUNS_NONE)
			saga_change_look(&change, -step->seq);
	}
	return saga_change_write(&change);
}

/*
 * The call is about a step that was recorded before.  SAGA_WRITTEN: the step is the
 * result; otherwise another transaction was first at it.
 */
static SagaWritten
find_again(FunctionCallInfo fcinfo, SagaRow *saga, SagaStep *step,
		   const StepRequest *request, TimestampTz now, SagaPatience patience)
{
	SagaWritten written = SAGA_WRITTEN;

	saga_durable_answered();
	/* A later release must find its way through what is sealed. */
	if (saga->runs == SAGA_RUNS_SEALED && saga_rows_is_run(step))
		return written;
	check_same_args(step, request);
	if (!saga_rows_is_run(step) && step->status != SAGA_STEP_COMPLETED &&
		saga->state != SAGA_COMPLETED)
		written = repeat_step(saga, step, request, now, patience);
	if (written == SAGA_WRITTEN)
		notice_other_undo(fcinfo, step, request);
	return written;
}

/* Records a new step, or a new run of "old".  False: another may be recorded. */
static bool
record_step(SagaRow *saga, const StepRequest *request, const SagaStep *old,
			TimestampTz now, SagaStep *step)
{
	make_step(saga, request, old != NULL ? old->run + 1 : 1, now, step);
	saga_run_steps_fill(saga, &request->run, old, step);
	if (!saga_ledger_insert_step(saga, step))
		return false;
	saga_run_steps_recorded(saga, step);
	saga_arguments_notice_channel(request->channel);
	saga_arguments_notice_channel(request->run.task);
	return true;
}

/* Opens the saga; returns the lock as saga_access_open does. */
static LOCKMODE
open_saga(const pg_uuid_t *id, SagaRow *saga)
{
	LOCKMODE	taken = NoLock;

	if (saga_current_action(id) != 0)
		saga_access_read_own(id, saga);
	else
		taken = saga_access_open(id, SAGA_REACH_OWN, SAGA_CALL_SHARED, saga);
	if (saga->state != SAGA_RUNNING && saga->state != SAGA_COMPLETED)
		saga_access_refuse_failing(saga);
	return taken;
}

/* Will a step that is not known be refused?  "full": because there are too many. */
static bool
refuses_new(const SagaRow *saga, bool full)
{
	return full || saga->state == SAGA_COMPLETED ||
		(saga->runs == SAGA_RUNS_SEALED && saga_current_action(&saga->id) == 0);
}

/* saga.step(...) */
Datum
saga_sql_step(PG_FUNCTION_ARGS)
{
	const pg_uuid_t *id = saga_access_id(fcinfo, 0);
	StepRequest request;
	SagaPatience patience = SAGA_NOWAIT;

	saga_access_call("saga.step()");
	read_request(fcinfo, &request);
	for (;;)
	{
		SagaRow		saga;
		SagaStep	step;
		SagaStep	found;
		LOCKMODE	taken = open_saga(id, &saga);
		bool		known = saga_ledger_get_step(id, request.key, false,
												 &found) == SAGA_FOUND;
		bool		busy = TransactionIdIsValid(found.version.writer);
		bool		note = false;
		bool		full;
		SagaWritten written = SAGA_CHANGED;

		/* Not before what had to be waited for. */
		TimestampTz now = saga_clock_now();

		if (!busy && known && found.rolled_back_at == 0)
		{
			written = find_again(fcinfo, &saga, &found, &request, now, patience);
			if (written == SAGA_WRITTEN)
			{
				/* As other calls that write nothing do (call.c). */
				if (found.change == 0)
					saga_access_unlock(&saga, taken);
				return saga_steps_result(&found, true);
			}
		}
		else if (!busy)
		{
			full = !saga_quota_allows_step(&saga);
			if (!known && refuses_new(&saga, full) &&
				saga_ledger_get_step(id, request.key, true, &found) != SAGA_MISSING)
			{
				/* It is known, and was missed while others replaced it. */
				patience = saga_access_wait(&saga, taken, found.version.writer,
											written);
				continue;
			}
			if (saga.state == SAGA_COMPLETED)
				saga_access_refuse_state(&saga, "a completed saga takes no new step",
										 "Begin a new saga for a new operation.");
			if (full)
				saga_quota_refuse_step(&saga);
			note = !saga_run_steps_admit(&saga, &request.run, known);
			if (!note && record_step(&saga, &request, known ? &found : NULL, now,
									 &step))
				return saga_steps_result(&step, false);
		}
		patience = saga_access_wait(&saga, taken, found.version.writer, written);
		if (note)
			saga_run_steps_note(id);
	}
}

static void
refuse_step_state(const SagaStep *step, const char *what, const char *hint)
{
	ereport(ERROR,
			(errcode(ERRCODE_SAGA_INVALID_STATE),
			 errmsg("%s", what),
			 errdetail("Step \"%s\" of saga %s is %s.",
					   text_to_cstring(step->key),
					   saga_ids_string(&step->saga),
					   saga_state_step_status_name(step->status)),
			 errhint("%s", hint)));
}

/* What saga runs is not for the application to report on. */
static void
refuse_run_step(const SagaStep *step, const char *what)
{
	if (saga_rows_is_run(step))
		refuse_step_state(step,
						  psprintf("a step that saga runs cannot be %s by the application",
								   what),
						  step->task != NULL ?
						  "Report its task with saga.complete_task() or saga.fail_task()." :
						  step->action != NULL ?
						  "Its action decides. Fail the saga to undo it; saga.steps shows in waits_for what it waits for." :
						  "Its gates decide. Fail the saga to undo it; saga.steps shows in waits_for what it waits for.");
}

/*
 * The newest run of a step, which must be the one that a forward key names.  False:
 * another transaction is writing it.
 */
static bool
find_step(SagaChange *change, text *key, text *forward_key, SagaStep *step)
{
	const SagaRow *saga = change->saga;
	const pg_uuid_t *id = &saga->id;
	SagaFound	found = saga_ledger_get_step(id, key, true, step);

	change->writer = step->version.writer;
	if (TransactionIdIsValid(change->writer))
		return false;
	if (found != SAGA_FOUND)
		saga_access_refuse_no_step(saga, key);
	if (forward_key != NULL &&
		!saga_rows_same_text(forward_key, saga_context_forward_key(id, step->seq)))
		ereport(ERROR,
				(errcode(ERRCODE_SAGA_INVALID_STATE),
				 errmsg("the forward key is not that of the newest run of step \"%s\"",
						text_to_cstring(key)),
				 errdetail("The newest run has the forward key \"%s\".",
						   text_to_cstring(saga_context_forward_key(id, step->seq))),
				 errhint("The step was undone and started afresh meanwhile; what the old run reports no longer counts.")));
	return true;
}

/* A completed step is completed again: the caller must say the same. */
static void
check_same_output(const SagaStep *step, Jsonb *output)
{
	bool		forgotten = step->content_hash != NULL && step->forward.output == NULL;

	if (output != NULL &&
		(forgotten ?
		 !saga_arguments_same_hash(step->content_hash, SAGA_HASH_OUTPUT, output) :
		 !saga_arguments_same_jsonb(step->forward.output, output)))
		ereport(ERROR,
				(errcode(ERRCODE_SAGA_IDEMPOTENCY_CONFLICT),
				 errmsg("step \"%s\" was completed with another output",
						text_to_cstring(step->key)),
				 errhint("Ask saga.step for the stored output, and use that.")));
}

/* SG005: like the result of any step that is undone, this comes too late. */
static void
refuse_rolled_back(const SagaStep *step)
{
	ereport(ERROR,
			(errcode(ERRCODE_SAGA_FAILING),
			 errmsg("step \"%s\" of saga %s was rolled back",
					text_to_cstring(step->key),
					saga_ids_string(&step->saga)),
			 errdetail("The saga is running again, and the step is to be started afresh."),
			 errhint("Call saga.step first. Report an outside effect of the old run that did happen with complete_step(..., late => 'record').")));
}

typedef struct StepReport
{
	text	   *key;
	text	   *forward_key;	/* or NULL */
	bool		record_late;	/* of a completion: late => 'record' */
	Jsonb	   *output;
	text	   *error;			/* of a failure, as the next one */
	bool		retryable;
	SagaStep	step;			/* the result: the step as it is after it */
} StepReport;

/* A result that came after the undo had begun, and shall be kept. */
static SagaVerdict
decide_late(SagaChange *change, StepReport *report)
{
	SagaSteps  *steps = saga_change_steps(change);
	int			index = saga_next_find(steps, report->step.seq);

	/* Purged, or moved while the steps were read. */
	if (index < 0)
		return SAGA_LOOK_AGAIN;
	saga_events_late(change, &steps->step[index], report->output);
	report->step = steps->step[index];
	return SAGA_WRITE;
}

static SagaVerdict
decide_complete_step(SagaChange *change, void *arg)
{
	StepReport *report = arg;
	SagaRow    *saga = change->saga;
	SagaStep   *step = &report->step;

	if (saga->state != SAGA_RUNNING && saga->state != SAGA_COMPLETED &&
		!report->record_late)
		saga_access_refuse_failing(saga);
	if (!find_step(change, report->key, report->forward_key, step))
		return SAGA_LOOK_AGAIN;
	/* Not before what had to be waited for. */
	change->now = saga_clock_now();
	if (step->rolled_back_at != 0 && saga->state == SAGA_RUNNING &&
		!report->record_late)
		refuse_rolled_back(step);
	refuse_run_step(step, "completed");
	if (step->status == SAGA_STEP_COMPLETED)
	{
		check_same_output(step, report->output);
		return SAGA_NOTHING_TO_WRITE;
	}
	if (saga->state == SAGA_COMPLETED)
		saga_access_refuse_state(saga, "a completed saga takes no more results",
								 "Its step was left failed on purpose; a new operation needs a new saga.");
	if (saga->state != SAGA_RUNNING || step->rolled_back_at != 0)
		return decide_late(change, report);
	if (step->status == SAGA_STEP_FAILED)
		refuse_step_state(step, "a failed attempt cannot be completed",
						  "Call saga.step again: it begins another attempt, with the same forward key.");
	step->status = SAGA_STEP_COMPLETED;
	step->completed_at = change->now;
	step->forward.output = report->output;
	saga_change_only_step(change, step);
	/* Steps that saga runs may wait for this one. */
	if (saga->runs != SAGA_RUNS_NONE)
		saga_change_look(change, -step->seq);
	return SAGA_WRITE;
}

/* saga.complete_step(saga_id, step, output, late, forward_key) */
Datum
saga_sql_complete_step(PG_FUNCTION_ARGS)
{
	const pg_uuid_t *id = saga_access_id(fcinfo, 0);
	StepReport	report;

	saga_access_call("saga.complete_step()");
	report.key = saga_arguments_name(fcinfo, 1, "step", SAGA_MAX_KEY, true);
	report.output = saga_arguments_jsonb(fcinfo, 2, "output");
	report.record_late = saga_arguments_record_late(fcinfo, 3);
	report.forward_key = saga_arguments_text(fcinfo, 4);
	(void) saga_call(id, SAGA_REACH_OWN, SAGA_CALL_SHARED, decide_complete_step,
					 &report);
	return saga_steps_result(&report.step, true);
}

/*
 * When a failed step may be tried again; 0 once its attempts are exhausted.
 */
static TimestampTz
forward_retry_at(const SagaStep *step, TimestampTz now)
{
	SagaPolicy	policy;

	saga_outcome_forward_policy(step, &policy);
	if (step->forward.attempts >= policy.max_attempts)
		return 0;
	return now + 1000 *
		saga_policy_retry_delay(&policy, step->forward.attempts,
								pg_prng_double(&pg_global_prng_state));
}

static SagaVerdict
decide_fail_step(SagaChange *change, void *arg)
{
	StepReport *report = arg;
	const SagaRow *saga = change->saga;
	SagaStep   *step = &report->step;

	if (!find_step(change, report->key, report->forward_key, step))
		return SAGA_LOOK_AGAIN;
	change->now = saga_clock_now();
	if ((saga->state != SAGA_RUNNING && saga->state != SAGA_COMPLETED) ||
		step->rolled_back_at != 0)
	{
		ereport(NOTICE,
				(errmsg("the failure of step \"%s\" came late and changes nothing",
						text_to_cstring(report->key)),
				 errdetail("Saga %s is in state \"%s\".",
						   saga_ids_string(&saga->id),
						   saga_state_name(saga->state))));
		return SAGA_NOTHING_TO_WRITE;
	}
	refuse_run_step(step, "failed");
	if (step->status == SAGA_STEP_FAILED)
		return SAGA_NOTHING_TO_WRITE;
	if (step->status == SAGA_STEP_COMPLETED)
		refuse_step_state(step, "a completed step cannot fail",
						  "Fail the saga to undo it.");

	step->status = SAGA_STEP_FAILED;
	step->forward.error = report->error;
	step->forward.retry_at = report->retryable ? forward_retry_at(step, change->now) : 0;
	saga_change_only_step(change, step);
	add_forward_attempt(change, step, SAGA_OUTCOME_FAILED,
						text_to_cstring(report->error));
	return SAGA_WRITE;
}

/* saga.fail_step(saga_id, step, error, retryable, forward_key) */
Datum
saga_sql_fail_step(PG_FUNCTION_ARGS)
{
	const pg_uuid_t *id = saga_access_id(fcinfo, 0);
	StepReport	report;

	saga_access_call("saga.fail_step()");
	report.key = saga_arguments_name(fcinfo, 1, "step", SAGA_MAX_KEY, true);
	report.error = saga_arguments_outcome(fcinfo, 2);
	if (report.error == NULL)
		ereport(ERROR,
				(errcode(ERRCODE_NULL_VALUE_NOT_ALLOWED),
				 errmsg("error must not be null"),
				 errhint("Say what went wrong: people will read it.")));
	report.retryable = PG_ARGISNULL(3) || PG_GETARG_BOOL(3);
	report.forward_key = saga_arguments_text(fcinfo, 4);
	(void) saga_call(id, SAGA_REACH_OWN, SAGA_CALL_SHARED, decide_fail_step,
					 &report);
	return saga_steps_result(&report.step, true);
}
