/*-------------------------------------------------------------------------
 *
 * sagas.c
 *	  The application's calls about a saga as a whole: begin, complete, fail,
 *	  cancel.
 *
 * The calls that end the forward phase take the saga's lock exclusively, so
 * that no step is on its way in when they decide (call.c).  They wait for open
 * steps at most the caller's lock_timeout.
 *
 * No SPI here: what these calls cost is what recording a saga costs.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "base/clock.h"
#include "base/errors.h"
#include "base/guc.h"
#include "base/ids.h"
#include "base/rights.h"
#include "calls/access.h"
#include "calls/arguments.h"
#include "calls/call.h"
#include "calls/quota.h"
#include "flow/events.h"
#include "flow/gates.h"
#include "flow/look.h"
#include "ledger/ledger.h"
#include "miscadmin.h"
#include "shared/durable.h"
#include "utils/builtins.h"

PG_FUNCTION_INFO_V1(saga_sql_begin);
PG_FUNCTION_INFO_V1(saga_sql_complete);
PG_FUNCTION_INFO_V1(saga_sql_fail);
PG_FUNCTION_INFO_V1(saga_sql_cancel);

/*
 * Longest name and key together, in bytes: both, with the owner, must fit an
 * index entry.
 */
#define MAX_NAME_AND_KEY_BYTES	2600

static bool
same_input(const SagaRow *saga, Jsonb *input)
{
	Jsonb	   *stored;

	if (saga->content_hash != NULL)
		return saga_arguments_same_hash(saga->content_hash, 0, input);
	if (saga->input == NULL || input == NULL)
		return saga->input == input;
	stored = DatumGetJsonbP(PointerGetDatum(saga->input));
	return compareJsonbContainers(&stored->root, &input->root) == 0;
}

/* The same key must come with the input and the subject it came with first. */
static void
check_same_content(const SagaRow *saga, Jsonb *input, text *subject)
{
	const char *what;

	if (!same_input(saga, input))
		what = "input";
	/* Of a redacted saga, nobody knows what that was. */
	else if (saga->content_hash == NULL &&
			 !saga_rows_same_text(saga->subject, subject))
		what = "subject";
	else
		return;
	ereport(ERROR,
			(errcode(ERRCODE_SAGA_IDEMPOTENCY_CONFLICT),
			 errmsg("saga \"%s\" was begun under idempotency key \"%s\" with another %s",
					text_to_cstring(saga->name), text_to_cstring(saga->key),
					what),
			 errdetail("It is saga %s.", saga_ids_string(&saga->id)),
			 errhint("Repeat the call with the %s it was begun with, which saga.sagas shows. Use another key only for another operation.",
					 what)));
}

/*
 * The saga that the caller began under a key before, if there is one.  Unless "sure",
 * it may be missed; then it cannot be inserted.
 */
static bool
find_by_key(text *name, text *key, bool sure, SagaRow *saga)
{
	Oid			owner = GetUserId();

	if (saga_ledger_get_saga_by_key(owner, name, key, sure, saga) == SAGA_FOUND)
	{
		/* The OID is the caller's; was the name, too? */
		if (!saga_rights_may_call(saga->owner, saga->owner_name))
			ereport(ERROR,
					(errcode(ERRCODE_SAGA_IDEMPOTENCY_CONFLICT),
					 errmsg("idempotency key \"%s\" is taken by a saga of a role that had another name",
							text_to_cstring(key)),
					 errdetail("A role that was renamed, or that is another in this copy of the database, does not inherit the sagas of the OID it has."),
					 errhint("Use another key.")));
		return true;
	}
	return saga_access_away() &&
		saga_ledger_get_saga_by_owner_name(cstring_to_text(saga_rights_role_name(owner)),
										   name, key, saga) == SAGA_FOUND;
}

/*
 * saga.begin(name, idempotency_key, input, timeout, on_compensation_failure,
 * announce, subject), and saga.start
 */
Datum
saga_sql_begin(PG_FUNCTION_ARGS)
{
	text	   *name;
	text	   *key;
	Jsonb	   *input;
	int64		timeout = saga_guc_default_timeout;
	int			on_failure;
	text	   *announce;
	text	   *subject;
	bool		sure = false;
	SagaRow		saga;

	saga_access_call("saga.begin()");
	saga_access_begin();
	name = saga_arguments_name(fcinfo, 0, "saga name", SAGA_MAX_NAME, true);
	key = saga_arguments_name(fcinfo, 1, "idempotency_key", SAGA_MAX_KEY, false);
	if (key != NULL &&
		VARSIZE_ANY_EXHDR(name) + VARSIZE_ANY_EXHDR(key) > MAX_NAME_AND_KEY_BYTES)
		ereport(ERROR,
				(errcode(ERRCODE_SAGA_LIMIT_EXCEEDED),
				 errmsg("saga name and idempotency_key are too long together"),
				 errdetail("They have %d bytes; %d are allowed.",
						   (int) (VARSIZE_ANY_EXHDR(name) + VARSIZE_ANY_EXHDR(key)),
						   MAX_NAME_AND_KEY_BYTES),
				 errhint("Use a shorter key, or a hash of it.")));
	input = saga_arguments_jsonb(fcinfo, 2, "input");
	if (!PG_ARGISNULL(3))
		timeout = saga_arguments_milliseconds(PG_GETARG_INTERVAL_P(3), "timeout");
	on_failure = saga_arguments_word(fcinfo, 4, "on_compensation_failure",
									 saga_state_on_failures, false);
	if (on_failure == 0)
		on_failure = SAGA_ON_FAILURE_HALT;
	announce = saga_arguments_channel(fcinfo, 5, "announce");
	subject = saga_arguments_name(fcinfo, 6, "subject", SAGA_MAX_NAME, false);

	for (;;)
	{
		TimestampTz now = saga_clock_now();
		int64		open;

		if (key != NULL && find_by_key(name, key, sure, &saga))
		{
			check_same_content(&saga, input, subject);
			saga_durable_answered();
			break;
		}

		if (!saga_quota_allows_open(GetUserId(), &open))
		{
			if (key == NULL || sure)
				saga_quota_refuse_open(GetUserId(), open);
			/* It may be that saga which counts. */
			sure = true;
			continue;
		}
		memset(&saga, 0, sizeof(saga));
		saga_ids_generate(&saga.id);
		saga.owner = GetUserId();
		saga.started_at = now;
		saga.on_failure = on_failure;
		saga.owner_name = cstring_to_text(saga_rights_role_name(saga.owner));
		saga.name = name;
		saga.key = key;
		saga.announce = announce;
		saga.subject = subject;
		saga.input = input;
		saga.updated_at = now;
		saga.state = SAGA_RUNNING;
		if (timeout > 0)
		{
			saga.deadline = now + timeout * 1000;
			saga.due = saga.deadline;
		}
		if (saga_ledger_insert_saga(&saga))
		{
			saga_arguments_notice_channel(announce);
			break;
		}
		CHECK_FOR_INTERRUPTS();
	}
	PG_RETURN_UUID_P(memcpy(palloc(sizeof(pg_uuid_t)), &saga.id,
							sizeof(pg_uuid_t)));
}

#define FAILURE_IS_FINAL	"Its failure is final: a new operation needs a new saga with a new key."

/*
 * Refuses to complete a saga with a step whose fate is open: one that is
 * started, and one that failed and has something to undo; or with one whose
 * failure is that of the saga.
 */
static void
check_steps_done(SagaChange *change, bool ignore_failed)
{
	const SagaRow *saga = change->saga;
	const SagaSteps *steps = saga_change_steps(change);

	for (int i = 0; i < steps->count; i++)
	{
		const SagaStep *step = &steps->step[i];

		if (step->rolled_back_at != 0)
			continue;
		if (saga_rows_is_run(step) &&
			(step->status == SAGA_STEP_WAITING || step->status == SAGA_STEP_STARTED ||
			 (step->status == SAGA_STEP_FAILED && !saga_gates_given_up(step))))
			ereport(ERROR,
					(errcode(ERRCODE_SAGA_INVALID_STATE),
					 errmsg("saga %s cannot complete while a step waits",
							saga_ids_string(&saga->id)),
					 errdetail("Step \"%s\" is run by saga, and is not done.",
							   text_to_cstring(step->key)),
					 errhint(saga->runs == SAGA_RUNS_SEALED ?
							 "It was sealed, and completes by itself when all its steps are done; saga.steps shows in waits_for what they wait for." :
							 "Let it complete by itself: saga.complete(..., when_done => true).")));
		/* The look that makes the saga fail is on its way. */
		if (saga_gates_failed(step))
			ereport(ERROR,
					(errcode(ERRCODE_SAGA_INVALID_STATE),
					 errmsg("saga %s cannot complete: it is about to fail",
							saga_ids_string(&saga->id)),
					 errdetail("Step \"%s\" has failed for good.",
							   text_to_cstring(step->key)),
					 errhint(FAILURE_IS_FINAL)));
		if (saga_rows_is_run(step) && step->give_up == SAGA_GIVE_UP_SKIP)
			continue;
		if (step->status == SAGA_STEP_STARTED)
			ereport(ERROR,
					(errcode(ERRCODE_SAGA_INVALID_STATE),
					 errmsg("saga %s cannot complete while a step is started",
							saga_ids_string(&saga->id)),
					 errdetail("Step \"%s\" has not completed.",
							   text_to_cstring(step->key)),
					 errhint("Complete the step, or fail the saga.")));
		if (step->status == SAGA_STEP_FAILED && !ignore_failed &&
			step->comp_status != SAGA_COMP_NONE)
			ereport(ERROR,
					(errcode(ERRCODE_SAGA_INVALID_STATE),
					 errmsg("saga %s cannot complete while a step with a compensation has failed",
							saga_ids_string(&saga->id)),
					 errdetail("Step \"%s\" failed and may have left something to undo.",
							   text_to_cstring(step->key)),
					 errhint("Try the step again, fail the saga, or complete it with ignore_failed => true.")));
	}
}

/* What to do about a saga that cannot be completed in its state. */
static const char *
hint_for_complete(const SagaRow *saga)
{
	if (saga->state == SAGA_NEEDS_REVIEW)
		return "A person must decide about it first.";
	if (saga_rows_is_rolling_back(saga))
		return "It is being rolled back to a savepoint: try again once it is running.";
	return FAILURE_IS_FINAL;
}

typedef struct Completion
{
	Jsonb	   *result;
	bool		ignore_failed;
	bool		when_done;
} Completion;

/*
 * Seals a saga in which something is left to do.  False: all is done, and it
 * completes at once.
 */
static bool
seal(SagaChange *change, Completion *completion)
{
	SagaRow    *saga = change->saga;
	SagaGates	gates;

	saga_gates_read(&gates, saga_change_steps(change));
	if (saga_gates_all_done(&gates))
	{
		if (completion->result == NULL && saga->result == NULL)
			completion->result = saga_look_result(change->steps);
		return false;
	}
	if (saga->runs != SAGA_RUNS_SEALED)
		saga_change_event(change, "sealed", 0, NULL);
	saga->runs = SAGA_RUNS_SEALED;
	if (completion->result != NULL)
		saga->result = completion->result;
	return true;
}

static SagaVerdict
decide_complete(SagaChange *change, void *arg)
{
	Completion *completion = arg;
	SagaRow    *saga = change->saga;

	if (saga->state == SAGA_COMPLETED)
		return SAGA_NOTHING_TO_WRITE;
	if (saga->state != SAGA_RUNNING)
		saga_access_refuse_state(saga, "only a running saga can be completed",
								 hint_for_complete(saga));
	if (completion->when_done && seal(change, completion))
		return SAGA_WRITE;
	if (!completion->when_done)
		check_steps_done(change, completion->ignore_failed);
	saga_change_state(change, SAGA_COMPLETED);
	if (completion->result != NULL || !completion->when_done)
		saga->result = completion->result;
	saga_change_due(change, 0, InvalidOid);
	return SAGA_WRITE;
}

/* saga.complete(saga_id, result, ignore_failed, when_done) */
Datum
saga_sql_complete(PG_FUNCTION_ARGS)
{
	const pg_uuid_t *id = saga_access_id(fcinfo, 0);
	Completion	completion;

	saga_access_call("saga.complete()");
	completion.result = saga_arguments_jsonb(fcinfo, 1, "result");
	completion.ignore_failed = !PG_ARGISNULL(2) && PG_GETARG_BOOL(2);
	completion.when_done = !PG_ARGISNULL(3) && PG_GETARG_BOOL(3);
	return saga_call_state(id, SAGA_REACH_OWN, SAGA_CALL_EXCLUSIVE,
						   decide_complete, &completion);
}

/* Is a saga failing, or failed, for good, so that failing it says nothing new? */
static bool
fails_already(const SagaRow *saga)
{
	switch (saga->state)
	{
		case SAGA_COMPENSATING:
		case SAGA_NEEDS_REVIEW:
			/* A partial undo, on its way or parked, becomes a full one. */
			return saga->failure_kind != SAGA_FAILURE_NONE;
		case SAGA_COMPENSATED:
			return true;
		case SAGA_RUNNING:
		case SAGA_COMPLETED:
		case SAGA_ABANDONED:
			break;
	}
	return false;
}

typedef struct Failure
{
	SagaFailureKind kind;
	text	   *reason;
	Jsonb	   *details;
} Failure;

static SagaVerdict
decide_fail(SagaChange *change, void *arg)
{
	const Failure *failure = arg;

	if (fails_already(change->saga))
		return SAGA_NOTHING_TO_WRITE;
	if (saga_state_is_final(change->saga->state))
		saga_access_refuse_state(change->saga, "a finished saga cannot fail",
								 "Its outcome is final.");
	saga_events_fail(change, failure->kind, failure->reason, failure->details);
	return SAGA_WRITE;
}

/* saga.fail(saga_id, reason, details) */
Datum
saga_sql_fail(PG_FUNCTION_ARGS)
{
	const pg_uuid_t *id = saga_access_id(fcinfo, 0);
	Failure		failure = {SAGA_FAILURE_FAILED, NULL, NULL};

	saga_access_call("saga.fail()");
	failure.reason = saga_arguments_outcome(fcinfo, 1);
	failure.details = saga_arguments_jsonb(fcinfo, 2, "details");
	return saga_call_state(id, SAGA_REACH_OWN, SAGA_CALL_EXCLUSIVE,
						   decide_fail, &failure);
}

/* saga.cancel(saga_id, reason) */
Datum
saga_sql_cancel(PG_FUNCTION_ARGS)
{
	const pg_uuid_t *id = saga_access_id(fcinfo, 0);
	Failure		failure = {SAGA_FAILURE_CANCELLED, NULL, NULL};

	saga_access_call("saga.cancel()");
	failure.reason = saga_arguments_outcome(fcinfo, 1);
	return saga_call_state(id, SAGA_REACH_OWN, SAGA_CALL_EXCLUSIVE,
						   decide_fail, &failure);
}
