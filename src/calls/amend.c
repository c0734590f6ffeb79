/*-------------------------------------------------------------------------
 *
 * amend.c
 *	  saga.amend: changing how a recorded step is undone.
 *
 * What undoes a step runs as the role that recorded it, so only that role may
 * change it.  What the step is, and as whom it is undone, never changes.
 *
 * A running saga stands still under its lock, as for the calls about a step,
 * and the step's own row is where two writers meet.  Once the undo has begun,
 * the saga's row is, as for a person's decision.
 *
 * A compensation that is under way is not changed.  An executor that read the
 * step before, and had not begun when we looked, finds at its mark that the
 * saga's row was replaced: what it did is rolled back, and that attempt is not
 * charged.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "base/clock.h"
#include "base/errors.h"
#include "base/json.h"
#include "base/rights.h"
#include "calls/access.h"
#include "calls/arguments.h"
#include "calls/call.h"
#include "calls/policies.h"
#include "flow/follow.h"
#include "flow/next.h"
#include "flow/outcome.h"
#include "fmgr.h"
#include "miscadmin.h"
#include "shared/mailbox.h"
#include "utils/builtins.h"
#include "utils/timestamp.h"

PG_FUNCTION_INFO_V1(saga_sql_amend);

/* Numbers of the arguments. */
enum
{
	ARG_SAGA, ARG_STEP, ARG_NOTE, ARG_COMPENSATION, ARG_NOTIFY, ARG_POLICY
};

/* The arguments of a call. */
typedef struct Amendment
{
	text	   *key;
	text	   *note;
	text	   *compensation;	/* or NULL */
	text	   *channel;		/* or NULL */
	bool		policy;			/* a policy is given */
} Amendment;

static void
read_amendment(FunctionCallInfo fcinfo, Amendment *amendment)
{
	amendment->key = saga_arguments_name(fcinfo, ARG_STEP, "step", SAGA_MAX_KEY,
										 true);
	amendment->note = saga_arguments_note(fcinfo, ARG_NOTE);
	amendment->compensation = saga_arguments_text(fcinfo, ARG_COMPENSATION);
	amendment->channel = saga_arguments_channel(fcinfo, ARG_NOTIFY, "notify");
	amendment->policy = !PG_ARGISNULL(ARG_POLICY);

	if (amendment->compensation != NULL && amendment->channel != NULL)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("a step has either a compensation or notify, not both"),
				 errdetail("SQL and listeners would undo it twice."),
				 errhint("Give the one that shall undo the step; it replaces the other.")));
	if (amendment->compensation == NULL && amendment->channel == NULL &&
		!amendment->policy)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("nothing to amend"),
				 errhint("Give a compensation, notify or compensation_retry.")));
	if (amendment->compensation != NULL)
	{
		saga_arguments_check_sql(amendment->compensation, "compensation");
		saga_rights_check_can_run_sql(GetUserId());
	}
}

/*
 * The run of the step that is meant: the one that saga.resolve would settle,
 * or else the newest.
 */
static SagaStep *
find_run(const SagaRow *saga, const SagaSteps *steps, const text *key)
{
	int			index = -1;

	if (saga->state == SAGA_NEEDS_REVIEW && saga->undo != SAGA_UNDO_NONE)
		index = saga_next_find_asked(saga, steps, key);
	if (index < 0)
		index = saga_next_find_key(steps, key);
	if (index < 0)
		saga_access_refuse_no_step(saga, key);
	return &steps->step[index];
}

/* Only the role that recorded the step; by OID and name, as everywhere. */
static void
check_role(const SagaStep *step)
{
	Oid			user = GetUserId();

	if (step->run_as == user &&
		strcmp(saga_rights_role_name(user),
			   text_to_cstring(step->run_as_name)) == 0)
		return;
	ereport(ERROR,
			(errcode(ERRCODE_SAGA_PERMISSION_DENIED),
			 errmsg("step \"%s\" was recorded by role \"%s\"",
					text_to_cstring(step->key),
					text_to_cstring(step->run_as_name)),
			 errdetail("Only that role may change how the step is undone, since it is undone as that role."),
			 errhint("Call saga.amend() as that role. Steps of a role that is gone or was renamed can be given to another by saga.reassign().")));
}

static void
refuse_step(const SagaStep *step, const char *why, const char *hint)
{
	ereport(ERROR,
			(errcode(ERRCODE_SAGA_INVALID_STATE),
			 errmsg("it is too late to change how step \"%s\" is undone",
					text_to_cstring(step->key)),
			 errdetail("%s", why),
			 errhint("%s", hint)));
}

/* It must not be undone yet, nor at this moment. */
static void
check_state(const SagaRow *saga, const SagaStep *step,
			const Amendment *amendment)
{
	if (saga_state_is_final(saga->state))
		saga_access_refuse_state(saga, "the steps of a finished saga cannot be amended",
								 "Nothing more of it will be undone.");
	if (saga_rows_undo_claimed(step))
		refuse_step(step, "A listener is undoing it at this moment.",
					"Try again once the listener has reported, or its lease has ended.");
	/* A person is asked about it, and may have its compensation run (again). */
	if (step->parked != NULL)
		return;
	if (step->rolled_back_at != 0 && !saga_next_in_range(saga, step))
		refuse_step(step, "It was rolled back.",
					"Call saga.step() to start it afresh.");
	switch (step->comp_status)
	{
		case SAGA_COMP_COMPENSATED:
			refuse_step(step, "It is compensated.",
						"Nothing more of it will be undone.");
			break;
		case SAGA_COMP_SKIPPED:
			refuse_step(step, "The undo has passed it by.",
						"Nothing of it will be undone.");
			break;
		case SAGA_COMP_NONE:
			/* The walk may be past it already. */
			if (saga->state != SAGA_RUNNING)
				refuse_step(step, "It was recorded with nothing to undo, and the undo of its saga has begun.",
							"What there is to undo must be undone by hand.");
			if (amendment->compensation == NULL && amendment->channel == NULL)
				ereport(ERROR,
						(errcode(ERRCODE_SAGA_INVALID_STATE),
						 errmsg("step \"%s\" has no compensation that could be retried",
								text_to_cstring(step->key)),
						 errhint("Give a compensation or notify, too.")));
			break;
		case SAGA_COMP_REGISTERED:
		case SAGA_COMP_PENDING:
		case SAGA_COMP_DISPATCHED:
		case SAGA_COMP_FAILED:
			break;
	}
	/* Asked last: shared memory learns of a commit a moment after the rows. */
	if (saga_mailbox_is_running(&saga->id, SAGA_PHASE_COMPENSATION, step->seq,
								NULL))
		refuse_step(step, "Its compensation is running at this moment.",
					"Try again once the attempt has ended. saga.pause() lets no other begin.");
}

static void
amend_policy(FunctionCallInfo fcinfo, SagaStep *step)
{
	SagaPolicy	policy;
	char		encoded[SAGA_POLICY_TEXT_LEN];

	saga_outcome_policy(step, &policy);
	saga_policies_replace(fcinfo, ARG_POLICY, &policy);
	saga_policy_encode(&policy, encoded);
	/* The forward policy is stored apart only where it is another one. */
	if (step->retry == NULL)
		step->retry = step->compensation_retry;
	step->compensation_retry = cstring_to_text(encoded);
	if (saga_rows_same_text(step->retry, step->compensation_retry))
		step->retry = NULL;
}

/*
 * Changes the step's row in memory.  If it was dispatched to listeners on a
 * channel that is not its any more, sets "dispatched_at" to when that was.
 */
static void
amend_step(FunctionCallInfo fcinfo, SagaStep *step, const Amendment *amendment,
		   TimestampTz *dispatched_at)
{
	*dispatched_at = 0;
	if (amendment->policy)
		amend_policy(fcinfo, step);
	if (amendment->compensation == NULL && amendment->channel == NULL)
		return;
	if (step->channel != NULL &&
		!saga_rows_same_text(step->channel, amendment->channel))
	{
		/* The row speaks of its own channel; the history keeps the other. */
		*dispatched_at = step->dispatched_at;
		step->dispatched_at = 0;
		if (step->comp_status == SAGA_COMP_DISPATCHED)
			step->comp_status = SAGA_COMP_PENDING;
	}
	step->compensation = amendment->compensation;
	step->channel = amendment->channel;
	if (step->comp_status == SAGA_COMP_NONE)
		step->comp_status = SAGA_COMP_REGISTERED;
	/* The server crashed at what was there before, if at all. */
	step->undo.crashes = -1;
}

/* Where two writers meet depends on the saga's state. */
static void
change_amended(SagaChange *change, SagaStep *step)
{
	if (change->saga->state == SAGA_RUNNING)
	{
		saga_change_only_step(change, step);
		return;
	}
	saga_change_step(change, step);
	/* It may be next, and due in another lane now. */
	if (change->saga->state == SAGA_COMPENSATING)
		saga_follow_walk(change);
}

static void
add_history(SagaChange *change, const SagaStep *step, const text *old_channel,
			TimestampTz dispatched_at, const Amendment *amendment)
{
	SagaJson	json;
	StringInfoData what;

	saga_follow_keep_dispatch(change, step, old_channel, dispatched_at);
	initStringInfo(&what);
	if (amendment->compensation != NULL)
		appendStringInfoString(&what, "compensation");
	if (amendment->channel != NULL)
		appendStringInfoString(&what, "notify");
	if (amendment->policy)
		appendStringInfo(&what, "%scompensation_retry", what.len > 0 ? ", " : "");
	saga_json_begin(&json);
	saga_json_string(&json, "amended", what.data);
	saga_json_text(&json, "note", amendment->note);
	saga_change_event(change, "amended", step->seq, saga_json_end(&json));
}

typedef struct AmendRequest
{
	Amendment	amendment;
	FunctionCallInfo fcinfo;	/* holds the policy, which replaces fields */
} AmendRequest;

static SagaVerdict
decide_amend(SagaChange *change, void *arg)
{
	const AmendRequest *request = arg;
	const Amendment *amendment = &request->amendment;
	SagaStep   *step = find_run(change->saga, saga_change_steps(change),
								amendment->key);
	text	   *old_channel = step->channel;
	TimestampTz dispatched_at;

	check_role(step);
	check_state(change->saga, step, amendment);
	amend_step(request->fcinfo, step, amendment, &dispatched_at);
	change_amended(change, step);
	add_history(change, step, old_channel, dispatched_at, amendment);
	return SAGA_WRITE;
}

/* saga.amend(saga_id, step, note, compensation, notify, compensation_retry) */
Datum
saga_sql_amend(PG_FUNCTION_ARGS)
{
	const pg_uuid_t *id = saga_access_id(fcinfo, ARG_SAGA);
	AmendRequest request;

	saga_access_call("saga.amend()");
	request.fcinfo = fcinfo;
	read_amendment(fcinfo, &request.amendment);
	(void) saga_call(id, SAGA_REACH_OWN, SAGA_CALL_SHARED_IF_RUNNING,
					 decide_amend, &request);
	saga_arguments_notice_channel(request.amendment.channel);
	PG_RETURN_VOID();
}
