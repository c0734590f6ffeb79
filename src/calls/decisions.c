/*-------------------------------------------------------------------------
 *
 * decisions.c
 *	  The calls by which a person decides: resolve, abandon, reopen, pause,
 *	  resume; and set_timeout, which applications call too.
 *
 * They are open to the saga's owner and to the members of saga.operator_role,
 * who settle sagas but never change what runs, or as whom.  Who decided, when,
 * and why is written down as an event.
 *
 * Two people may decide about the same thing at once: the second waits for the
 * first one's transaction, and gets an error that says who decided.
 *
 * A decision is one more way to settle a step.  saga.resolve changes the step's
 * row as the end of an attempt would: "retry" makes it pending with a new budget,
 * "done" makes it compensated, "skip" skipped.  Then the walk continues from the
 * rows, in the caller's transaction (change.c).  It takes no lock of its own: the
 * saga's row is where two writers meet, as everywhere once the undo has begun.
 *
 * What a person is asked stands in ledger_step.parked, the reason in words.  It is
 * set when the walk comes to a step that only a person can settle (follow.c), when
 * an attempt is given up (outcome.c), by a late result (events.c), and when the
 * gates of an approval are open (look.c).  The saga's own "parked" says why the
 * saga as a whole waits.  saga.review_queue is a view of both.
 *
 * A partial undo is the same walk with another end.  ledger_saga.undo says which
 * undo it is.  In a partial one only the steps that started after "savepoint" are
 * in range; at its end the saga is running, and every run in range gets
 * rolled_back_at.  Such a run is out of all later walks and its key is free: the
 * next saga.step inserts run + 1.  So a terminal failure during a partial undo
 * only makes a full one of it.  saga.rollback_to takes the saga's lock
 * exclusively, as saga.fail does.
 *
 * The failure of a saga about which a person is asked can be taken back only while
 * no step at or before the savepoint was tried or settled: what is kept must be as
 * it was.
 *
 * A failure after the pivot ends a partial undo where it is.  saga.reopen then
 * takes each step for what its undo came to: done or settled by a person, its run
 * is rolled back; tried without success, asked about or passed over, it counts as
 * before.
 *
 * A late result of a run that was rolled back opens that run alone: it is in range
 * because it is parked, or pending since somebody decided "retry".  If the saga
 * was running meanwhile, nothing else is undone, and after the decision it is
 * running again.
 *
 * Pausing is a flag that the walk does not know.  It is checked where something
 * would become due, and where an executor or a claim takes work.
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
#include "flow/outcome.h"
#include "fmgr.h"
#include "ledger/start_order.h"
#include "miscadmin.h"
#include "shared/wakeup.h"
#include "utils/builtins.h"
#include "utils/timestamp.h"

PG_FUNCTION_INFO_V1(saga_sql_resolve);
PG_FUNCTION_INFO_V1(saga_sql_abandon);
PG_FUNCTION_INFO_V1(saga_sql_reopen);
PG_FUNCTION_INFO_V1(saga_sql_pause);
PG_FUNCTION_INFO_V1(saga_sql_resume);
PG_FUNCTION_INFO_V1(saga_sql_set_timeout);

typedef enum Resolution
{
	RESOLVE_RETRY = 1,			/* run the compensation, or the work, again */
	RESOLVE_DONE,				/* it was done by hand */
	RESOLVE_SKIP,				/* it is not needed */
	RESOLVE_APPROVE,			/* a step may begin */
	RESOLVE_REFUSE				/* it may not: it fails */
} Resolution;

static const struct config_enum_entry resolution_words[] = {
	{"retry", RESOLVE_RETRY, false},
	{"done", RESOLVE_DONE, false},
	{"skip", RESOLVE_SKIP, false},
	{"approve", RESOLVE_APPROVE, false},
	{"refuse", RESOLVE_REFUSE, false},
	{NULL, 0, false}
};

/* ------------------------------------------------------------------------
 * What they have in common
 * ------------------------------------------------------------------------ */

/* An event about the saga as a whole that has a note. */
static void
add_event(SagaChange *change, const char *event, text *note)
{
	SagaJson	json;

	saga_json_begin(&json);
	saga_json_text(&json, "note", note);
	saga_change_event(change, event, 0, saga_json_end(&json));
}

/*
 * Nobody is asked about this (any more): tells who decided last, if somebody
 * did.
 */
static void
refuse_undecidable(const SagaRow *saga, const char *what, int64 seq,
				   const char *hint)
{
	SagaEvent	last;

	if (saga_ledger_last_decision(&saga->id, seq, &last))
		ereport(ERROR,
				(errcode(ERRCODE_SAGA_INVALID_STATE),
				 errmsg("%s", what),
				 errdetail("Saga %s is in state \"%s\". Role \"%s\" decided at %s: %s %s.",
						   saga_ids_string(&saga->id),
						   saga_state_name(saga->state), last.actor,
						   timestamptz_to_str(last.at), last.event,
						   last.detail ? last.detail : ""),
				 errhint("%s", hint)));
	saga_access_refuse_state(saga, what, hint);
}

/* ------------------------------------------------------------------------
 * A decision about a step
 * ------------------------------------------------------------------------ */

/* The run of a step that a person is asked about. */
static int
find_asked(const SagaRow *saga, const SagaSteps *steps, const text *key)
{
	int			newest = saga_next_find_key(steps, key);
	int			asked;

	if (newest < 0)
		saga_access_refuse_no_step(saga, key);
	asked = saga_next_find_asked(saga, steps, key);
	if (asked < 0)
		refuse_undecidable(saga,
						   psprintf("step \"%s\" waits for no decision",
									text_to_cstring(key)),
						   steps->step[newest].seq,
						   "saga.review_queue shows what does.");
	return asked;
}

/*
 * A listener holds the step: the decision takes it away.  What it reports
 * later is an acknowledgement without a claim, or stale.
 */
static void
end_claim(SagaChange *change, SagaStep *step)
{
	SagaAttemptEnd end;

	saga_outcome_interrupt_claim(step, "a person decided about the step meanwhile",
								 &end);
	saga_change_attempt(change, step, &end);
}

/* Only a step that waits for an approval is approved or refused, and only so. */
static void
refuse_approval(const SagaStep *step)
{
	bool		asked = step->status == SAGA_STEP_WAITING;

	ereport(ERROR,
			(errcode(ERRCODE_SAGA_INVALID_STATE),
			 asked ?
			 errmsg("step \"%s\" is waiting for an approval",
					text_to_cstring(step->key)) :
			 errmsg("step \"%s\" is not waiting for an approval",
					text_to_cstring(step->key)),
			 errdetail("A person is asked: %s",
					   step->parked ? text_to_cstring(step->parked) : ""),
			 asked ?
			 errhint("Resolve it as \"approve\" or \"refuse\".") :
			 errhint("Resolve it as \"retry\", \"done\" or \"skip\".")));
}

/* Takes the decision into the step's row. */
static void
take_resolution(SagaStep *step, Resolution resolution, TimestampTz now)
{
	if (resolution == RESOLVE_APPROVE || resolution == RESOLVE_REFUSE)
		refuse_approval(step);
	step->parked = NULL;
	step->late = false;
	step->undo.retry_at = 0;
	switch (resolution)
	{
		case RESOLVE_RETRY:
			if (step->compensation == NULL && step->channel == NULL)
				ereport(ERROR,
						(errcode(ERRCODE_SAGA_INVALID_STATE),
						 errmsg("step \"%s\" has no compensation that could be run",
								text_to_cstring(step->key)),
						 errdetail("It was recorded for review alone: a person undoes it."),
						 errhint("Undo it, then resolve it as done; or as skip, if there is nothing to undo.")));
			if (step->content_hash != NULL)
				ereport(ERROR,
						(errcode(ERRCODE_SAGA_INVALID_STATE),
						 errmsg("step \"%s\" was redacted and cannot be compensated any more",
								text_to_cstring(step->key)),
						 errdetail("Its args and output are forgotten."),
						 errhint("Undo it by hand, then resolve it as done; or as skip, if there is nothing to undo.")));
			step->comp_status = SAGA_COMP_PENDING;
			step->compensated_at = 0;
			step->released = true;
			saga_outcome_forgive(step);
			break;
		case RESOLVE_DONE:
			step->comp_status = SAGA_COMP_COMPENSATED;
			step->compensated_at = now;
			break;
		case RESOLVE_SKIP:
			step->comp_status = SAGA_COMP_SKIPPED;
			step->compensated_at = 0;
			break;
		case RESOLVE_APPROVE:
		case RESOLVE_REFUSE:
			break;
	}
}

typedef struct ResolveRequest
{
	text	   *key;
	Resolution	resolution;
	const char *word;			/* the resolution's */
	text	   *note;
	Jsonb	   *output;			/* of a step that is done by hand, or NULL */
} ResolveRequest;

static void
add_resolved(SagaChange *change, const ResolveRequest *request,
			 const SagaStep *step)
{
	SagaJson	json;

	saga_json_begin(&json);
	saga_json_string(&json, "resolution", request->word);
	saga_json_text(&json, "note", request->note);
	saga_change_event(change, "resolved", step->seq, saga_json_end(&json));
}

/* About a step that saga runs, in a saga that goes forward. */
static SagaVerdict
resolve_forward(SagaChange *change, const ResolveRequest *request)
{
	SagaSteps  *steps = saga_change_steps(change);
	int			index = saga_next_find_key(steps, request->key);
	SagaStep   *step;

	if (index < 0)
		saga_access_refuse_no_step(change->saga, request->key);
	step = &steps->step[index];
	if (!saga_rows_step_held(step))
		refuse_undecidable(change->saga,
						   psprintf("step \"%s\" waits for no decision",
									text_to_cstring(request->key)),
						   step->seq, "saga.review_queue shows what does.");
	if ((step->status == SAGA_STEP_WAITING) !=
		(request->resolution == RESOLVE_APPROVE ||
		 request->resolution == RESOLVE_REFUSE))
		refuse_approval(step);
	step->parked = NULL;
	switch (request->resolution)
	{
		case RESOLVE_APPROVE:
			step->approved = true;
			step->ready_at = change->now;
			break;
		case RESOLVE_REFUSE:
			{
				const char *why = psprintf("refused: %s", text_to_cstring(request->note));

				saga_outcome_give_up(step, why, why);
			}
			break;
		case RESOLVE_RETRY:
			/* Its time begins anew, as its attempts do; its gates stay. */
			step->opened_at = change->now;
			step->ready_at = Max(step->ready_at, change->now);
			saga_outcome_forgive_forward(step);
			step->status = step->rounds > 0 ? SAGA_STEP_STARTED : SAGA_STEP_WAITING;
			if (step->rounds > 0)
				step->forward.retry_at = step->ready_at;
			break;
		case RESOLVE_DONE:
			step->status = SAGA_STEP_COMPLETED;
			step->completed_at = change->now;
			step->forward.output = request->output;
			if (step->begun == 0 || (step->task == NULL && step->rounds == 0))
				step->begun = saga_start_order_next(&step->saga);
			step->forward.attempts++;
			step->attempt_at = change->now;
			break;
		case RESOLVE_SKIP:
			step->status = SAGA_STEP_SKIPPED;
			break;
	}
	saga_change_only_step(change, step);
	saga_change_look(change, -step->seq);
	add_resolved(change, request, step);
	return SAGA_WRITE;
}

static SagaVerdict
decide_resolve(SagaChange *change, void *arg)
{
	const ResolveRequest *request = arg;
	SagaRow    *saga = change->saga;
	SagaSteps  *steps = saga_change_steps(change);
	SagaStep   *step;

	if (saga->state == SAGA_RUNNING && saga->runs != SAGA_RUNS_NONE)
		return resolve_forward(change, request);
	if (saga->state != SAGA_NEEDS_REVIEW)
		refuse_undecidable(saga, "the saga waits for no decision", 0,
						   "Only what saga.review_queue shows can be resolved.");
	if (saga->undo == SAGA_UNDO_NONE)
		saga_access_refuse_state(saga,
								 "the saga failed after its pivot: none of its steps is to be undone",
								 "Let it go forward with saga.reopen, or give it up with saga.abandon.");
	step = &steps->step[find_asked(saga, steps, request->key)];
	if (request->output != NULL)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("step \"%s\" is undone, and has its output already",
						text_to_cstring(request->key)),
				 errhint("Give an output only to a step that goes forward.")));
	if (step->claimed_at != 0)
		end_claim(change, step);
	take_resolution(step, request->resolution, change->now);
	saga_change_step(change, step);
	saga_follow_walk(change);
	add_resolved(change, request, step);
	return SAGA_WRITE;
}

/* saga.resolve(saga_id, step, resolution, note, output) */
Datum
saga_sql_resolve(PG_FUNCTION_ARGS)
{
	const pg_uuid_t *id = saga_access_id(fcinfo, 0);
	ResolveRequest request;

	saga_access_call("saga.resolve()");
	request.key = saga_arguments_name(fcinfo, 1, "step", SAGA_MAX_KEY, true);
	request.resolution = saga_arguments_word(fcinfo, 2, "resolution",
											 resolution_words, true);
	request.word = text_to_cstring(PG_GETARG_TEXT_PP(2));
	request.note = saga_arguments_note(fcinfo, 3);
	request.output = saga_arguments_jsonb(fcinfo, 4, "output");
	if (request.output != NULL && request.resolution != RESOLVE_DONE)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("output is for a step that is done"),
				 errhint("Resolve the step as 'done', or leave out the output.")));
	return saga_call_state(id, SAGA_REACH_OPERATE, SAGA_CALL_SHARED_IF_RUNNING,
						   decide_resolve, &request);
}

/* ------------------------------------------------------------------------
 * Decisions about a saga
 * ------------------------------------------------------------------------ */

/* A call about a saga that takes a note, which is all that "decide" needs. */
static Datum
decide_with_note(FunctionCallInfo fcinfo, const char *function,
				 SagaDecide decide)
{
	const pg_uuid_t *id = saga_access_id(fcinfo, 0);
	text	   *note;

	saga_access_call(function);
	note = saga_arguments_note(fcinfo, 1);
	return saga_call_state(id, SAGA_REACH_OPERATE, SAGA_CALL_NO_LOCK, decide,
						   note);
}

static SagaVerdict
decide_abandon(SagaChange *change, void *arg)
{
	(void) saga_change_steps(change);
	if (change->saga->state != SAGA_NEEDS_REVIEW)
		refuse_undecidable(change->saga,
						   "only a saga that waits for a decision can be abandoned", 0,
						   "Fail a running saga instead: what it did will be undone.");
	saga_change_state(change, SAGA_ABANDONED);
	saga_afresh_withdraw(change, PG_INT64_MIN);
	saga_follow_rest(change);
	add_event(change, "abandoned", arg);
	return SAGA_WRITE;
}

/* saga.abandon(saga_id, note) */
Datum
saga_sql_abandon(PG_FUNCTION_ARGS)
{
	return decide_with_note(fcinfo, "saga.abandon()", decide_abandon);
}

/*
 * What a partial undo had done to a step when the saga failed after its
 * pivot.  What it undid, or a person settled, may start afresh; what it only
 * passed over, asked about, or tried in vain counts as before.  True if the
 * step changed.
 */
static bool
go_forward_again(SagaStep *step, TimestampTz now)
{
	bool		stays = true;

	if (step->rolled_back_at != 0)
		return false;
	switch (step->comp_status)
	{
		case SAGA_COMP_NONE:
			return false;
		case SAGA_COMP_REGISTERED:
			if (step->parked == NULL)
				return false;
			break;
		case SAGA_COMP_PENDING:
		case SAGA_COMP_DISPATCHED:
		case SAGA_COMP_FAILED:
			break;
		case SAGA_COMP_COMPENSATED:
			stays = false;
			break;
		case SAGA_COMP_SKIPPED:
			stays = saga_next_spares(step);
			break;
	}
	if (stays && !step->late)
	{
		step->comp_status = SAGA_COMP_REGISTERED;
		step->parked = NULL;
		step->released = false;
		saga_outcome_forgive(step);
	}
	else
		step->rolled_back_at = now;
	return true;
}

/* Is there a run of a step that was rolled back, and is to be undone still? */
static bool
any_opened_again(const SagaRow *saga, const SagaSteps *steps)
{
	for (int i = 0; i < steps->count; i++)
		if (saga_next_in_range(saga, &steps->step[i]))
			return true;
	return false;
}

static SagaVerdict
decide_reopen(SagaChange *change, void *arg)
{
	SagaRow    *saga = change->saga;
	SagaSteps  *steps = saga_change_steps(change);

	if (saga->state != SAGA_NEEDS_REVIEW || saga->undo != SAGA_UNDO_NONE)
		refuse_undecidable(saga,
						   "only a saga that failed after its pivot can be reopened", 0,
						   saga->state == SAGA_NEEDS_REVIEW ?
						   "Resolve its steps, or roll it back to a savepoint with saga.rollback_to." :
						   "Its state decides what can be done; see next_action in saga.sagas.");
	if (saga_next_claimed(steps) != NULL)
		saga_access_refuse_state(saga, "a listener is undoing a step of the saga",
								 "Wait for it to report, or for the end of its lease.");
	for (int i = 0; i < steps->count; i++)
		if (go_forward_again(&steps->step[i], change->now))
			saga_change_step(change, &steps->step[i]);
	saga->failure_kind = SAGA_FAILURE_NONE;
	saga->reason = NULL;
	saga->details = NULL;
	saga->failed_seq = 0;
	saga->deadline = 0;
	saga_afresh_restart(change, saga_ledger_runs_to_others(saga));
	/* What a late result opened again is to be settled first. */
	saga_change_undo(change, SAGA_UNDO_LATE, 0);
	if (any_opened_again(saga, steps))
		saga_follow_walk(change);
	else
	{
		saga_change_undo(change, SAGA_UNDO_NONE, 0);
		saga_change_state(change, SAGA_RUNNING);
		saga_change_due(change, 0, InvalidOid);
	}
	add_event(change, "reopened", arg);
	return SAGA_WRITE;
}

/* saga.reopen(saga_id, note) */
Datum
saga_sql_reopen(PG_FUNCTION_ARGS)
{
	return decide_with_note(fcinfo, "saga.reopen()", decide_reopen);
}

typedef struct PauseRequest
{
	bool		pause;			/* false: resume */
	text	   *note;
} PauseRequest;

static SagaVerdict
decide_pause(SagaChange *change, void *arg)
{
	const PauseRequest *request = arg;
	SagaRow    *saga = change->saga;

	if (saga_state_is_final(saga->state))
		saga_access_refuse_state(saga, request->pause ?
								 "a finished saga cannot be paused" :
								 "a finished saga cannot be resumed",
								 "Nothing more happens to it.");
	if (saga->paused == request->pause)
		return SAGA_NOTHING_TO_WRITE;
	saga->paused = request->pause;
	if (saga->state == SAGA_COMPENSATING)
	{
		(void) saga_change_steps(change);
		saga_follow_walk(change);
	}
	else if (saga->state == SAGA_RUNNING)
	{
		saga_change_due(change, saga->paused ? 0 : saga->deadline, InvalidOid);
		/* What executors and the worker passed by meanwhile is due again. */
		if (!saga->paused && saga->runs != SAGA_RUNS_NONE)
		{
			saga_change_look(change, PG_INT64_MIN);
			saga_wakeup_due(DT_NOBEGIN + 1);
		}
	}
	add_event(change, request->pause ? "paused" : "resumed", request->note);
	return SAGA_WRITE;
}

/* saga.pause(saga_id, note) */
Datum
saga_sql_pause(PG_FUNCTION_ARGS)
{
	const pg_uuid_t *id = saga_access_id(fcinfo, 0);
	PauseRequest request = {true, NULL};

	saga_access_call("saga.pause()");
	request.note = saga_arguments_note(fcinfo, 1);
	return saga_call_state(id, SAGA_REACH_OPERATE, SAGA_CALL_NO_LOCK,
						   decide_pause, &request);
}

/* saga.resume(saga_id, note) */
Datum
saga_sql_resume(PG_FUNCTION_ARGS)
{
	const pg_uuid_t *id = saga_access_id(fcinfo, 0);
	PauseRequest request = {false, NULL};

	saga_access_call("saga.resume()");
	request.note = saga_arguments_words(fcinfo, 1, "note");
	return saga_call_state(id, SAGA_REACH_OPERATE, SAGA_CALL_NO_LOCK,
						   decide_pause, &request);
}

typedef struct TimeoutRequest
{
	int64		timeout;		/* milliseconds from now on; 0: no deadline */
	text	   *note;
	TimestampTz deadline;		/* the result; 0: none */
} TimeoutRequest;

static SagaVerdict
decide_timeout(SagaChange *change, void *arg)
{
	TimeoutRequest *request = arg;
	SagaRow    *saga = change->saga;
	SagaJson	json;

	if (saga_state_is_final(saga->state) ||
		saga->failure_kind != SAGA_FAILURE_NONE)
		saga_access_refuse_state(saga,
								 "the deadline of a saga that is finished, or has failed, cannot be set",
								 "A deadline is for sagas that may still go forward.");
	saga->deadline = request->timeout > 0 ?
		change->now + request->timeout * 1000 : 0;
	if (saga->state == SAGA_RUNNING)
		saga_change_due(change, saga->paused ? 0 : saga->deadline, InvalidOid);
	else
	{
		/* A partial undo, which the deadline would make a full one. */
		(void) saga_change_steps(change);
		saga_follow(change);
	}
	saga_json_begin(&json);
	saga_json_time(&json, "deadline", saga->deadline);
	saga_json_text(&json, "note", request->note);
	saga_change_event(change, "deadline set", 0, saga_json_end(&json));
	request->deadline = saga->deadline;
	return SAGA_WRITE;
}

/* saga.set_timeout(saga_id, timeout, note) */
Datum
saga_sql_set_timeout(PG_FUNCTION_ARGS)
{
	const pg_uuid_t *id = saga_access_id(fcinfo, 0);
	TimeoutRequest request;

	saga_access_call("saga.set_timeout()");
	if (PG_ARGISNULL(1))
		ereport(ERROR,
				(errcode(ERRCODE_NULL_VALUE_NOT_ALLOWED),
				 errmsg("timeout must not be null"),
				 errhint("Give the time from now on until the saga fails if it is still running, or 0 for no deadline.")));
	request.timeout = saga_arguments_milliseconds(PG_GETARG_INTERVAL_P(1),
												  "timeout");
	request.note = saga_arguments_words(fcinfo, 2, "note");
	(void) saga_call(id, SAGA_REACH_OPERATE, SAGA_CALL_NO_LOCK, decide_timeout,
					 &request);
	if (request.deadline == 0)
		PG_RETURN_NULL();
	PG_RETURN_TIMESTAMPTZ(request.deadline);
}
