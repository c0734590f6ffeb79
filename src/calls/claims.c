/*-------------------------------------------------------------------------
 *
 * claims.c
 *	  Claims of tasks and compensations by services outside the database.
 *
 * A step whose task may be done, or whose compensation was dispatched, has a row in
 * the queue.  A claim begins an attempt, which the service reports done or failed
 * (reports.c) before its lease is over; else the worker ends the attempt (look.c,
 * events.c).  The handle of a task is its forward key, that of a compensation its
 * compensation key.
 *
 * Every call stands by itself: nothing is kept in the session, so that a
 * connection pool may send each to another one.
 *
 * Claims wait for nobody.  What the queue says is only where to look; it is
 * decided by the newest rows, and a saga whose row another transaction is writing
 * is passed over: that is another claim, most of the time.
 *
 * A claim reads the queue by (channel, phase, owner, since, saga, seq), only for
 * owners whose rights the caller has, and takes owners and phases in turn.  If
 * another transaction is in the way, it goes on to the next row of the queue, as
 * SKIP LOCKED would.
 *
 * Compensations: the claim replaces the saga's row (due: the end of the lease),
 * then the step's, and deletes the queue's row.  One saga is at one step, so the
 * saga's one due time is enough for all of it.  If a late result opens a later step
 * while a listener holds an earlier one, it is the earlier of the two times.
 *
 * Tasks: steps of one saga go forward side by side, so the claim writes the step's
 * row alone, under the saga's lock, held shared until the end of the transaction:
 * the saga can neither fail nor end before the claim is committed.  The end of the
 * lease is due work of the step (saga_rows_gate_due).
 *
 * The number of a claim's attempt is that of the finished ones plus one, so
 * numbers have no gaps and a claim costs no row of ledger_attempt.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/xact.h"
#include "base/clock.h"
#include "base/compat.h"
#include "base/errors.h"
#include "base/fault.h"
#include "base/ids.h"
#include "base/rights.h"
#include "calls/access.h"
#include "calls/arguments.h"
#include "calls/claims.h"
#include "calls/limit.h"
#include "common/pg_prng.h"
#include "flow/context.h"
#include "flow/change.h"
#include "flow/outcome.h"
#include "funcapi.h"
#include "ledger/ledger.h"
#include "ledger/start_order.h"
#include "ledger/table.h"
#include "miscadmin.h"
#include "shared/queue_front.h"
#include "shared/stat.h"
#include "utils/builtins.h"
#include "utils/memutils.h"
#include "utils/snapmgr.h"
#include "utils/timestamp.h"
#include "utils/tuplestore.h"

PG_FUNCTION_INFO_V1(saga_sql_claim_compensations);
PG_FUNCTION_INFO_V1(saga_sql_claim_tasks);

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
	bool		tasks;			/* of both phases; else compensations alone */
	TimestampTz now;
	SagaLimit	limit;			/* no channel: there is none */
} ClaimRequest;

/* The work of one owner and phase on the channel, as far as it was looked at. */
typedef struct OwnerQueue
{
	SagaQueued *rows;
	int			size;
	int			count;
	int			next;			/* not looked at yet */
} OwnerQueue;

/* The lease that a call asks for (ms) */
int64
saga_claims_lease(FunctionCallInfo fcinfo, int arg)
{
	int64		lease = saga_arguments_milliseconds(PG_GETARG_INTERVAL_P(arg),
													"lease");

	if (lease <= 0)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("lease must be longer than 0"),
				 errhint("Give the time that one attempt may take.")));
	return lease;
}

/*
 * The end of a lease from now on, within the timeout of the policy and of the step.
 */
TimestampTz
saga_claims_lease_end(const SagaStep *step, SagaPhase phase,
					  TimestampTz claimed_at, int64 lease, TimestampTz now)
{
	TimestampTz end = now + lease * 1000;
	TimestampTz timeout_at = 0;
	SagaPolicy	policy;

	if (phase == SAGA_PHASE_FORWARD)
	{
		saga_outcome_forward_policy(step, &policy);
		timeout_at = saga_rows_timeout_at(step);
	}
	else
		saga_outcome_policy(step, &policy);
	if (policy.timeout > 0)
		end = Min(end, claimed_at + policy.timeout * 1000);
	return timeout_at != 0 ? Min(end, timeout_at) : end;
}

/* A row of the result of claim_tasks, or of claim_compensations */
static void
emit_claim(const SagaRow *saga, const SagaStep *step, SagaPhase phase,
		   const ClaimRequest *request, ReturnSetInfo *result)
{
	bool		forward = phase == SAGA_PHASE_FORWARD;
	int			attempt = (forward ? step->forward.attempts : step->undo.attempts) + 1;
	text	   *key = forward ?
		saga_context_forward_key(&step->saga, step->seq) :
		saga_context_compensation_key(&step->saga, step->seq);
	Jsonb	   *context = forward ?
		saga_context_build_forward(saga, step, attempt,
								   saga_context_inputs(saga, step)) :
		saga_context_build(saga, step, attempt, request->tasks);
	Datum		values[9];
	bool		nulls[9] = {false};
	int			n = 0;

	values[n++] = UUIDPGetDatum(&step->saga);
	if (request->tasks)
		values[n++] = PointerGetDatum(saga->name);
	values[n++] = PointerGetDatum(step->key);
	values[n++] = Int64GetDatum(step->seq);
	if (request->tasks)
		values[n++] = CStringGetTextDatum(saga_state_phase_name(phase));
	values[n++] = Int32GetDatum(attempt);
	values[n++] = PointerGetDatum(key);
	values[n++] = PointerGetDatum(context);
	values[n++] = TimestampTzGetDatum(step->lease_until);
	tuplestore_putvalues(result->setResult, result->setDesc, values, nulls);
}

/* The step is the caller's, from now on. */
static void
hold(SagaChange *change, SagaStep *step, SagaPhase phase,
	 const ClaimRequest *request)
{
	step->claimed_at = change->now;
	step->lease_until = saga_claims_lease_end(step, phase, change->now,
											  request->lease, change->now);
	step->consumer = request->consumer;
}

/* Claims the compensation that a row of the queue names. */
static bool
claim_undo(const SagaQueued *queued, const ClaimRequest *request, SagaRow *saga,
		   SagaStep *step)
{
	SagaChange	change;

	if (saga->state != SAGA_COMPENSATING || saga->paused ||
		saga_ledger_get_queued_step(queued, step) != SAGA_FOUND ||
		saga_rows_undo_queued(step) != queued->since)
		return false;

	/*
	 * Do not wait: another writer of the saga may be about to change this
	 * step.
	 */
	saga_change_begin(&change, saga, NULL, 0, saga_clock_now());
	hold(&change, step, SAGA_PHASE_COMPENSATION, request);
	saga_change_step(&change, step);

	/*
	 * What the saga waited for is written on its row: its deadline, or the
	 * end of another claim.  So the other steps need not be read to add the
	 * end of this one.
	 */
	if (saga->due == 0 || step->lease_until < saga->due)
		saga_change_due(&change, step->lease_until, InvalidOid);
	return saga_change_write(&change) == SAGA_WRITTEN;
}

/* Claims the task that a row of the queue names, with the lock of its saga held. */
static bool
claim_locked(const SagaQueued *queued, const ClaimRequest *request,
			 SagaRow *saga, SagaStep *step)
{
	SagaChange	change;
	TimestampTz timeout_at;

	if (saga_ledger_reread_saga(saga, SAGA_NOWAIT) != SAGA_FOUND ||
		saga->state != SAGA_RUNNING || saga->paused ||
		saga_ledger_get_queued_step(queued, step) != SAGA_FOUND ||
		TransactionIdIsValid(step->version.writer) ||
		saga_rows_task_due(step) != queued->since)
		return false;
	saga_change_begin(&change, saga, NULL, 0, saga_clock_now());
	/* The worker is about to fail it. */
	timeout_at = saga_rows_timeout_at(step);
	if (timeout_at != 0 && timeout_at <= change.now)
		return false;
	step->status = SAGA_STEP_STARTED;
	step->forward.retry_at = 0;
	step->attempt_at = change.now;
	hold(&change, step, SAGA_PHASE_FORWARD, request);
	if (step->begun == 0)
		step->begun = saga_start_order_next(&saga->id);
	saga_change_only_step(&change, step);
	return saga_change_write(&change) == SAGA_WRITTEN;
}

static bool
claim_forward(const SagaQueued *queued, const ClaimRequest *request,
			  SagaRow *saga, SagaStep *step)
{
	if (saga->state != SAGA_RUNNING ||
		!saga_ledger_lock(&saga->id, ShareLock, SAGA_NOWAIT))
		return false;
	if (claim_locked(queued, request, saga, step))
		return true;
	saga_ledger_unlock(&queued->saga, ShareLock);
	return false;
}

/* Claims what a row of the queue names.  False if it is not to be had. */
static bool
claim(const SagaQueued *queued, const ClaimRequest *request,
	  ReturnSetInfo *result)
{
	SagaRow		saga;
	SagaStep	step;

	if (saga_ledger_get_saga(&queued->saga, &saga) != SAGA_FOUND ||
		TransactionIdIsValid(saga.version.writer) ||
		!saga_rights_may_call(saga.owner, saga.owner_name))
		return false;
	if (!(queued->phase == SAGA_PHASE_FORWARD ?
		  claim_forward(queued, request, &saga, &step) :
		  claim_undo(queued, request, &saga, &step)))
		return false;
	saga_stat_channel(saga.owner, request->channel, SAGA_STAT_CLAIMED);
	if (request->limit.channel != NULL)
		saga_ledger_insert_claimed(&request->limit, &step);
	emit_claim(&saga, &step, queued->phase, request, result);
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

/* Claims the next row of an owner's queue that can be.  False: there is none. */
static bool
claim_next(OwnerQueue *queue, const ClaimRequest *request, Snapshot snapshot,
		   MemoryContext context, ReturnSetInfo *result)
{
	MemoryContext caller = MemoryContextSwitchTo(context);
	bool		claimed = false;

	while (!claimed && queue->count > 0 &&
		   (queue->next < queue->count || read_on(queue, snapshot)))
	{
		const SagaQueued *row = &queue->rows[queue->next++];

		CHECK_FOR_INTERRUPTS();
		/* Its time has not come, nor has that of those after it. */
		if (row->phase == SAGA_PHASE_FORWARD && row->since > request->now)
		{
			queue->count = queue->next = queue->size = 0;
			break;
		}
		claimed = claim(row, request, result);
		MemoryContextReset(context);
	}
	MemoryContextSwitchTo(caller);
	return claimed;
}

/* The queues that a claim reads: of owners whose rights the caller has */
typedef struct OwnerQueues
{
	OwnerQueue *queue;
	int			size;
	int			count;
} OwnerQueues;

/* Adds those of a phase. */
static void
find_owners(OwnerQueues *owners, const ClaimRequest *request, SagaPhase phase,
			uint64 look, Snapshot snapshot)
{
	int			first = READ_FIRST;
	SagaQueued *rows = NULL;
	SagaQueued	queue;

	/* It would depend on rows that it reads and another transaction claims. */
	if (IsolationIsSerializable())
		first = 1;
	text_to_cstring_buffer(request->channel, queue.channel, NAMEDATALEN);
	queue.phase = phase;
	queue.owner = InvalidOid;
	while (saga_ledger_next_owner(&queue))
	{
		OwnerQueue *owner;

		CHECK_FOR_INTERRUPTS();
		if (!saga_rights_has_rights_of(queue.owner))
			continue;
		if (owners->count == owners->size)
		{
			owners->size *= 2;
			owners->queue = repalloc(owners->queue,
									 sizeof(OwnerQueue) * owners->size);
		}
		owner = &owners->queue[owners->count];
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
		owners->count++;
	}
}

/* What both functions do. */
static Datum
claim_some(FunctionCallInfo fcinfo, const char *function, bool tasks)
{
	ReturnSetInfo *result = (ReturnSetInfo *) fcinfo->resultinfo;
	ClaimRequest request;
	MemoryContext context;
	uint64		look;
	Snapshot	snapshot;
	OwnerQueues owners;
	int			claimed = 0;
	bool		any = true;
	int			first;

	saga_access_call(function);
	request.channel = saga_arguments_channel(fcinfo, 0, "channel");
	if (request.channel == NULL)
		ereport(ERROR,
				(errcode(ERRCODE_NULL_VALUE_NOT_ALLOWED),
				 errmsg("channel must not be null"),
				 errhint("Pass the channel that the steps name with %s.",
						 tasks ? "task or notify" : "notify")));
	request.max_claims = PG_ARGISNULL(1) ? 1 : PG_GETARG_INT32(1);
	if (request.max_claims < 1)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("max_claims must be at least 1"),
				 errdetail("It is %d.", request.max_claims),
				 errhint("Claim as many as you can do within the lease.")));
	request.lease = PG_ARGISNULL(2) ? DEFAULT_LEASE_MS :
		saga_claims_lease(fcinfo, 2);
	request.consumer = saga_arguments_name(fcinfo, 3, "consumer", SAGA_MAX_NAME,
										   false);
	request.tasks = tasks;
	request.now = saga_clock_now();

	InitMaterializedSRF(fcinfo, MAT_SRF_USE_EXPECTED_DESC);
	request.max_claims = saga_limit_begin(&request.limit, request.channel,
										  request.max_claims, request.now);
	context = AllocSetContextCreate(CurrentMemoryContext, "saga claim",
									ALLOCSET_DEFAULT_SIZES);
	SAGA_FAULT("claims.before_read");
	look = saga_queue_front_look();
	snapshot = saga_table_snapshot();

	/*
	 * Check after taking the snapshot, so that the check covers every row the
	 * snapshot can see.
	 */
	saga_access_undone_here(function);
	owners.size = 8;
	owners.queue = palloc(sizeof(OwnerQueue) * owners.size);
	owners.count = 0;
	find_owners(&owners, &request, SAGA_PHASE_COMPENSATION, look, snapshot);
	if (tasks)
		find_owners(&owners, &request, SAGA_PHASE_FORWARD, look, snapshot);

	/*
	 * Take owners in turn, from any of them on, so that no owner's flood
	 * delays another, nor what goes forward what goes back.
	 */
	first = owners.count == 0 ? 0 :
		(int) (pg_prng_uint32(&pg_global_prng_state) % owners.count);
	while (any && claimed < request.max_claims)
	{
		any = false;
		for (int i = 0; i < owners.count && claimed < request.max_claims; i++)
		{
			if (!claim_next(&owners.queue[(first + i) % owners.count], &request,
							snapshot, context, result))
				continue;
			any = true;
			claimed++;
		}
	}
	saga_limit_end(&request.limit);
	UnregisterSnapshot(snapshot);
	MemoryContextDelete(context);
	return (Datum) 0;
}

/* saga.claim_compensations(channel, max_claims, lease, consumer) */
Datum
saga_sql_claim_compensations(PG_FUNCTION_ARGS)
{
	return claim_some(fcinfo, "saga.claim_compensations()", false);
}

/* saga.claim_tasks(channel, max_claims, lease, consumer) */
Datum
saga_sql_claim_tasks(PG_FUNCTION_ARGS)
{
	return claim_some(fcinfo, "saga.claim_tasks()", true);
}
