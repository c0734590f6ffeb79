/*-------------------------------------------------------------------------
 *
 * claims.c
 *	  The calls of listeners, which compensate outside the database.
 *
 * A step that waits for a listener has a row in the queue.  A claim begins an
 * attempt, which the listener reports done or failed before its lease is over;
 * else the worker ends the attempt (events.c).  The handle of a task is its
 * compensation key.
 *
 * Every call stands by itself: nothing is kept in the session, so that a
 * connection pool may send each to another one.
 *
 * Claims wait for nobody.  What the queue says is only where to look; it is
 * decided by the newest rows, and a saga whose row somebody is writing is
 * passed by: that is another claim, most of the time.  Reports wait for
 * the transaction that is writing the saga's row; an acknowledgement that comes
 * when the saga is running again, for those that have a step of it in hand.
 *
 * A claim reads the queue by (channel, owner, since, saga), only for owners whose
 * rights the caller has, and in turn if there are several.  It replaces the saga's
 * row (due: the end of the lease), then the step's, and deletes the queue's row.
 * If another transaction is writing the saga's row, the claim goes on to the next
 * row of the queue, as SKIP LOCKED would.
 *
 * One saga is at one step, so the saga's one due time is enough for all of it.  If
 * a late result opens a later step while a listener holds an earlier one, it is
 * the earlier of the two times.
 *
 * An acknowledgement is accepted in every state after the first dispatch, because
 * the effect exists.  If an attempt is under way, of any listener, that attempt
 * succeeded; otherwise the acknowledgement is an event of its own.  A failure
 * report counts only for the attempt under way.  The number of a claim's attempt
 * is that of the finished ones plus one, so numbers have no gaps and a claim
 * costs no row of ledger_attempt.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/xact.h"
#include "base/clock.h"
#include "base/compat.h"
#include "base/errors.h"
#include "base/ids.h"
#include "base/rights.h"
#include "calls/access.h"
#include "calls/arguments.h"
#include "common/pg_prng.h"
#include "calls/call.h"
#include "flow/context.h"
#include "flow/events.h"
#include "flow/follow.h"
#include "flow/next.h"
#include "funcapi.h"
#include "ledger/ledger.h"
#include "shared/queue_front.h"
#include "ledger/table.h"
#include "miscadmin.h"
#include "utils/builtins.h"
#include "utils/memutils.h"
#include "utils/snapmgr.h"
#include "utils/timestamp.h"
#include "utils/tuplestore.h"

PG_FUNCTION_INFO_V1(saga_sql_claim_compensations);
PG_FUNCTION_INFO_V1(saga_sql_extend_claim);
PG_FUNCTION_INFO_V1(saga_sql_complete_compensation);
PG_FUNCTION_INFO_V1(saga_sql_fail_compensation);

#define DEFAULT_LEASE_MS	60000

/* Rows of a queue to read at a time: first, and at most. */
#define READ_FIRST			4
#define READ_MOST			64

/* The request of a consumer. */
typedef struct ClaimRequest
{
	text	   *channel;
	int			max_claims;
	int64		lease;			/* milliseconds */
	text	   *consumer;
} ClaimRequest;

/* The tasks of one owner on the channel, as far as they were looked at. */
typedef struct OwnerQueue
{
	SagaQueued *rows;
	int			size;
	int			count;
	int			next;			/* not looked at yet */
} OwnerQueue;

/* ------------------------------------------------------------------------
 * Claims
 * ------------------------------------------------------------------------ */

/* How long an attempt may go on from an instant, by lease and policy. */
static int64
lease_ms(FunctionCallInfo fcinfo, int arg)
{
	int64		lease = saga_arguments_milliseconds(PG_GETARG_INTERVAL_P(arg),
													"lease");

	if (lease <= 0)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("lease must be longer than 0"),
				 errhint("Give the time that one compensation may take.")));
	return lease;
}

/* The end of a lease from now on, within the timeout of the policy. */
static TimestampTz
lease_end(const SagaStep *step, TimestampTz claimed_at, int64 lease,
		  TimestampTz now)
{
	TimestampTz end = now + lease * 1000;
	SagaPolicy	policy;

	saga_outcome_policy(step, &policy);
	if (policy.timeout > 0)
		end = Min(end, claimed_at + policy.timeout * 1000);
	return end;
}

static void
emit_claim(const SagaRow *saga, const SagaStep *step, ReturnSetInfo *result)
{
	Datum		values[7];
	bool		nulls[7] = {false};
	int			attempt = step->undo.attempts + 1;

	values[0] = UUIDPGetDatum(&step->saga);
	values[1] = PointerGetDatum(step->key);
	values[2] = Int64GetDatum(step->seq);
	values[3] = Int32GetDatum(attempt);
	values[4] = PointerGetDatum(saga_context_compensation_key(&step->saga,
															  step->seq));
	values[5] = PointerGetDatum(saga_context_build(saga, step, attempt));
	values[6] = TimestampTzGetDatum(step->lease_until);
	tuplestore_putvalues(result->setResult, result->setDesc, values, nulls);
}

/* Claims what a row of the queue names.  False if it is not to be had. */
static bool
claim(const SagaQueued *queued, const ClaimRequest *request,
	  ReturnSetInfo *result)
{
	SagaRow		saga;
	SagaStep	step;
	SagaChange	change;

	if (saga_ledger_get_saga(&queued->saga, &saga) != SAGA_FOUND ||
		TransactionIdIsValid(saga.version.writer) ||
		!saga_rights_may_call(saga.owner, saga.owner_name) ||
		saga.state != SAGA_COMPENSATING || saga.paused)
		return false;
	if (saga_ledger_get_queued_step(queued, &step) != SAGA_FOUND ||
		saga_rows_queued(&step) != queued->since)
		return false;

	/* Another writer of the saga is at this step, or about to change it. */
	saga_change_begin(&change, &saga, NULL, 0, saga_clock_now());
	step.claimed_at = change.now;
	step.lease_until = lease_end(&step, change.now, request->lease, change.now);
	step.consumer = request->consumer;
	saga_change_step(&change, &step);

	/*
	 * What the saga waited for is written on its row: its deadline, or the
	 * end of another claim.  So the other steps need not be read to add the
	 * end of this one.
	 */
	if (saga.due == 0 || step.lease_until < saga.due)
		saga_change_due(&change, step.lease_until, InvalidOid);
	if (saga_change_write(&change) != SAGA_WRITTEN)
		return false;
	emit_claim(&saga, &step, result);
	return true;
}

/* Reads on, after all that was looked at.  False: there is nothing more. */
static bool
read_on(OwnerQueue *queue, Snapshot snapshot)
{
	SagaQueued	last = queue->rows[queue->count - 1];
	MemoryContext caller;

	/* There were fewer than asked for. */
	if (queue->count < queue->size)
		return false;
	if (queue->size < READ_MOST && !IsolationIsSerializable())
	{
		queue->size *= 4;
		queue->rows = repalloc(queue->rows, queue->size * sizeof(SagaQueued));
	}
	queue->next = 0;
	/* The rows outlive the claim of each. */
	caller = MemoryContextSwitchTo(GetMemoryChunkContext(queue->rows));
	queue->count = saga_ledger_next_queued(&last, snapshot, queue->rows,
										   queue->size);
	MemoryContextSwitchTo(caller);
	return queue->count > 0;
}

/* Claims the next task of an owner that is to be had.  False: there is none. */
static bool
claim_next(OwnerQueue *queue, const ClaimRequest *request, Snapshot snapshot,
		   MemoryContext context, ReturnSetInfo *result)
{
	MemoryContext caller = MemoryContextSwitchTo(context);
	bool		claimed = false;

	while (!claimed && queue->count > 0 &&
		   (queue->next < queue->count || read_on(queue, snapshot)))
	{
		CHECK_FOR_INTERRUPTS();
		claimed = claim(&queue->rows[queue->next++], request, result);
		MemoryContextReset(context);
	}
	MemoryContextSwitchTo(caller);
	return claimed;
}

/* The owners of what waits on a channel whose rights the caller has. */
static OwnerQueue *
find_owners(const ClaimRequest *request, uint64 look, Snapshot snapshot,
			int *count)
{
	OwnerQueue *owners = palloc(sizeof(OwnerQueue) * 8);
	int			size = 8;
	int			first = READ_FIRST;
	SagaQueued *rows = NULL;
	SagaQueued	queue;

	/* It would depend on rows that it reads and another transaction claims. */
	if (IsolationIsSerializable())
		first = 1;
	text_to_cstring_buffer(request->channel, queue.channel, NAMEDATALEN);
	queue.owner = InvalidOid;
	*count = 0;
	while (saga_ledger_next_owner(&queue))
	{
		OwnerQueue *owner;

		CHECK_FOR_INTERRUPTS();
		if (!saga_rights_has_rights_of(queue.owner))
			continue;
		if (*count == size)
		{
			size *= 2;
			owners = repalloc(owners, sizeof(OwnerQueue) * size);
		}
		owner = &owners[*count];
		if (rows == NULL)
			rows = palloc(sizeof(SagaQueued) * first);
		owner->rows = rows;
		owner->size = first;
		owner->next = 0;
		owner->count = saga_ledger_first_queued(&queue, look, snapshot, rows,
												first);
		if (owner->count == 0)
			continue;
		rows = NULL;
		(*count)++;
	}
	return owners;
}

/* saga.claim_compensations(channel, max_claims, lease, consumer) */
Datum
saga_sql_claim_compensations(PG_FUNCTION_ARGS)
{
	ReturnSetInfo *result = (ReturnSetInfo *) fcinfo->resultinfo;
	ClaimRequest request;
	MemoryContext context;
	uint64		look;
	Snapshot	snapshot;
	OwnerQueue *owners;
	int			count;
	int			claimed = 0;
	bool		any = true;
	int			first;

	saga_access_call("saga.claim_compensations()");
	request.channel = saga_arguments_channel(fcinfo, 0, "channel");
	if (request.channel == NULL)
		ereport(ERROR,
				(errcode(ERRCODE_NULL_VALUE_NOT_ALLOWED),
				 errmsg("channel must not be null"),
				 errhint("Pass the channel that the steps name with notify.")));
	request.max_claims = PG_ARGISNULL(1) ? 1 : PG_GETARG_INT32(1);
	if (request.max_claims < 1)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("max_claims must be at least 1"),
				 errdetail("It is %d.", request.max_claims),
				 errhint("Claim as many as you can do within the lease.")));
	request.lease = PG_ARGISNULL(2) ? DEFAULT_LEASE_MS : lease_ms(fcinfo, 2);
	request.consumer = saga_arguments_name(fcinfo, 3, "consumer", SAGA_MAX_NAME,
										   false);
	saga_access_undone_here("saga.claim_compensations()");

	InitMaterializedSRF(fcinfo, MAT_SRF_USE_EXPECTED_DESC);
	context = AllocSetContextCreate(CurrentMemoryContext, "saga claim",
									ALLOCSET_DEFAULT_SIZES);
	look = saga_queue_front_look();
	snapshot = saga_table_snapshot();
	owners = find_owners(&request, look, snapshot, &count);

	/*
	 * Take owners in turn, from any of them on, so that no owner's flood
	 * delays another.
	 */
	first = count > 0 ? (int) (pg_prng_uint32(&pg_global_prng_state) % count) : 0;
	while (any && claimed < request.max_claims)
	{
		any = false;
		for (int i = 0; i < count && claimed < request.max_claims; i++)
		{
			if (!claim_next(&owners[(first + i) % count], &request, snapshot,
							context, result))
				continue;
			any = true;
			claimed++;
		}
	}
	UnregisterSnapshot(snapshot);
	MemoryContextDelete(context);
	return (Datum) 0;
}

/* ------------------------------------------------------------------------
 * Reports
 * ------------------------------------------------------------------------ */

/* A report about the compensation that a compensation key names. */
typedef struct Report
{
	text	   *key;
	pg_uuid_t	saga;
	int64		seq;
	int			attempt;
	TimestampTz lease_until;	/* the result of an extension */
	const char *result;			/* of the others */
	Jsonb	   *output;
	int64		lease;			/* milliseconds */
	const char *error;
	int64		retry_after;	/* milliseconds; 0: by the policy */
	bool		retryable;
} Report;

/* Begins a report with the key that it is about. */
static void
read_key(FunctionCallInfo fcinfo, Report *report)
{
	memset(report, 0, sizeof(Report));
	report->key = saga_arguments_text(fcinfo, 0);
	if (report->key == NULL)
		ereport(ERROR,
				(errcode(ERRCODE_NULL_VALUE_NOT_ALLOWED),
				 errmsg("compensation_key must not be null"),
				 errhint("Pass the compensation_key returned by saga.claim_compensations().")));
	if (!saga_context_parse_key(report->key, &report->saga, &report->seq))
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("invalid compensation key: \"%s\"",
						text_to_cstring(report->key)),
				 errhint("Pass the compensation_key returned by saga.claim_compensations(), unchanged.")));
}

/* The step that the report is about; it was dispatched to listeners once. */
static SagaStep *
find_task(SagaChange *change, const Report *report)
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
				 errhint("Pass the compensation_key returned by saga.claim_compensations(), unchanged.")));
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
				 errhint("Report only what saga.claim_compensations() returned.")));
	return step;
}

/*
 * Is the attempt of that number under way?  False: it is over.  One that has
 * not begun is an error.
 */
static bool
is_under_way(const SagaStep *step, int attempt)
{
	int			open = step->claimed_at != 0 ? step->undo.attempts + 1 : 0;

	if (attempt < 1 || attempt > Max(step->undo.attempts, open))
		ereport(ERROR,
				(errcode(ERRCODE_SAGA_INVALID_STATE),
				 errmsg("attempt %d of the compensation of step \"%s\" has not begun",
						attempt, text_to_cstring(step->key)),
				 errdetail("There were %d so far.",
						   Max(step->undo.attempts, open)),
				 errhint("An attempt begins with saga.claim_compensations(), which returns its number.")));
	return attempt == open;
}

static int
get_attempt(FunctionCallInfo fcinfo, int arg)
{
	if (PG_ARGISNULL(arg))
		ereport(ERROR,
				(errcode(ERRCODE_NULL_VALUE_NOT_ALLOWED),
				 errmsg("attempt must not be null"),
				 errhint("Pass the attempt returned by saga.claim_compensations().")));
	return PG_GETARG_INT32(arg);
}

static SagaVerdict
decide_extension(SagaChange *change, void *arg)
{
	Report	   *report = arg;
	SagaStep   *step = find_task(change, report);
	TimestampTz end;

	if (!is_under_way(step, report->attempt) || step->lease_until <= change->now)
		ereport(ERROR,
				(errcode(ERRCODE_SAGA_INVALID_STATE),
				 errmsg("the claim of step \"%s\" is over",
						text_to_cstring(step->key)),
				 errdetail("It was attempt %d, and is not under way any more.",
						   report->attempt),
				 errhint("Another listener may have it now. If its effect is done, report that with saga.complete_compensation.")));
	end = lease_end(step, step->claimed_at, report->lease, change->now);
	report->lease_until = Max(end, step->lease_until);
	if (end <= step->lease_until)
		return SAGA_NOTHING_TO_WRITE;
	step->lease_until = end;
	saga_change_step(change, step);
	/* It need not be the step that is next. */
	saga_follow(change);
	return SAGA_WRITE;
}

/* saga.extend_claim(compensation_key, attempt, lease) */
Datum
saga_sql_extend_claim(PG_FUNCTION_ARGS)
{
	Report		report;

	saga_access_call("saga.extend_claim()");
	read_key(fcinfo, &report);
	report.attempt = get_attempt(fcinfo, 1);
	if (PG_ARGISNULL(2))
		ereport(ERROR,
				(errcode(ERRCODE_NULL_VALUE_NOT_ALLOWED),
				 errmsg("lease must not be null"),
				 errhint("Give the time that the compensation needs from now on.")));
	report.lease = lease_ms(fcinfo, 2);
	(void) saga_call(&report.saga, SAGA_REACH_OWN, SAGA_CALL_NO_LOCK,
					 decide_extension, &report);
	PG_RETURN_TIMESTAMPTZ(report.lease_until);
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

	/* A saga that is running again has had that run of the step undone. */
	if (saga->state == SAGA_RUNNING && step->rolled_back_at == 0)
		step->rolled_back_at = change->now;
	saga_change_step(change, step);
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
	SagaStep   *step = find_task(change, report);
	SagaAttemptEnd end;

	if (step->comp_status == SAGA_COMP_COMPENSATED ||
		step->comp_status == SAGA_COMP_SKIPPED)
	{
		report->result = saga_state_comp_status_name(step->comp_status);
		return SAGA_NOTHING_TO_WRITE;
	}
	step->undo.output = report->output;
	if (step->claimed_at != 0)
	{
		saga_outcome_of_claim(step, SAGA_OUTCOME_SUCCEEDED, NULL, &end);
		saga_events_attempt(change, step, &end);
	}
	else
		acknowledge_late(change, step);
	report->result = saga_state_comp_status_name(step->comp_status);
	return SAGA_WRITE;
}

/* saga.complete_compensation(compensation_key, output) */
Datum
saga_sql_complete_compensation(PG_FUNCTION_ARGS)
{
	Report		report;

	saga_access_call("saga.complete_compensation()");
	read_key(fcinfo, &report);
	report.output = saga_arguments_jsonb(fcinfo, 1, "output");
	/* Steps of a running saga are written under its lock. */
	(void) saga_call(&report.saga, SAGA_REACH_OWN,
					 SAGA_CALL_EXCLUSIVE_IF_RUNNING, decide_acknowledge,
					 &report);
	PG_RETURN_TEXT_P(cstring_to_text(report.result));
}

static SagaVerdict
decide_fail_compensation(SagaChange *change, void *arg)
{
	Report	   *report = arg;
	SagaStep   *step = find_task(change, report);
	SagaAttemptEnd end;

	if (!is_under_way(step, report->attempt))
	{
		report->result = "stale";
		return SAGA_NOTHING_TO_WRITE;
	}
	saga_outcome_of_claim(step, SAGA_OUTCOME_FAILED, report->error, &end);
	end.retry_after = report->retry_after;
	if (!report->retryable)
		end.park = psprintf("its listener says that it cannot be done: %s",
							report->error);
	saga_events_attempt(change, step, &end);
	report->result = saga_state_comp_status_name(step->comp_status);
	return SAGA_WRITE;
}

/* saga.fail_compensation(compensation_key, attempt, error, retryable, retry_after) */
Datum
saga_sql_fail_compensation(PG_FUNCTION_ARGS)
{
	Report		report;
	text	   *error;

	saga_access_call("saga.fail_compensation()");
	read_key(fcinfo, &report);
	report.attempt = get_attempt(fcinfo, 1);
	error = saga_arguments_text(fcinfo, 2);
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
	(void) saga_call(&report.saga, SAGA_REACH_OWN, SAGA_CALL_NO_LOCK,
					 decide_fail_compensation, &report);
	PG_RETURN_TEXT_P(cstring_to_text(report.result));
}
