/*-------------------------------------------------------------------------
 *
 * views.c
 *	  The functions behind the views.
 *
 * What they show of processes is read from shared memory without locks: it
 * was true a moment ago.  None of them waits for a lock.
 *
 * What they read of the ledger they read with the snapshot of the query that
 * calls them, as its other columns are read.  So they are STABLE: the planner
 * leaves out what nobody selects, and computes the rest for the rows that are
 * returned.  A newer snapshot cannot be taken in a parallel plan.
 *
 * A reader's own function must not see a row that the reader may not see, in
 * whatever order the planner evaluates conditions.  saga.sagas and the views
 * made like it are security barriers: leakproof conditions reach the indexes,
 * joins do not, and only the view's own order (id DESC) is visible outside.
 * saga.steps, saga.attempts and saga.events are usually asked for a saga that a
 * join finds, which a barrier does not let in.  So they join ledger_saga, of
 * which they show nothing, through a subquery per saga that checks the rights and
 * is fenced by OFFSET 0; the planner can use only the equality of the two ids.
 * Expensive columns are subqueries or STABLE functions, so a query that does not
 * select them does not pay for them.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/htup_details.h"
#include "access/subtrans.h"
#include "access/transam.h"
#include "base/clock.h"
#include "base/compat.h"
#include "base/ids.h"
#include "base/rights.h"
#include "calls/waits.h"
#include "flow/context.h"
#include "flow/next.h"
#include "fmgr.h"
#include "funcapi.h"
#include "ledger/home.h"
#include "ledger/ledger.h"
#include "ledger/oids.h"
#include "miscadmin.h"
#include "shared/failing.h"
#include "shared/mailbox.h"
#include "shared/shmem.h"
#include "storage/lock.h"
#include "storage/proc.h"
#include "storage/procarray.h"
#include "utils/array.h"
#include "utils/builtins.h"
#include "utils/fmgrprotos.h"
#include "utils/snapmgr.h"
#include "utils/timestamp.h"

PG_FUNCTION_INFO_V1(saga_sql_may_see);
PG_FUNCTION_INFO_V1(saga_sql_may_read);
PG_FUNCTION_INFO_V1(saga_sql_state_name);
PG_FUNCTION_INFO_V1(saga_sql_forward_key);
PG_FUNCTION_INFO_V1(saga_sql_compensation_key);
PG_FUNCTION_INFO_V1(saga_sql_is_running);
PG_FUNCTION_INFO_V1(saga_sql_running);
PG_FUNCTION_INFO_V1(saga_sql_next_action);
PG_FUNCTION_INFO_V1(saga_sql_first_id);

/* How far does the reader reach into the sagas of an owner? */
static SagaReach
reach_of_reader(FunctionCallInfo fcinfo)
{
	return saga_rights_reach(PG_GETARG_OID(0), PG_GETARG_TEXT_PP(1));
}

/* internal_may_see(owner, owner_name) */
Datum
saga_sql_may_see(PG_FUNCTION_ARGS)
{
	PG_RETURN_BOOL(reach_of_reader(fcinfo) >= SAGA_REACH_OUTLINE);
}

/* internal_may_read(owner, owner_name) */
Datum
saga_sql_may_read(PG_FUNCTION_ARGS)
{
	PG_RETURN_BOOL(reach_of_reader(fcinfo) >= SAGA_REACH_READ);
}

Datum
saga_sql_state_name(PG_FUNCTION_ARGS)
{
	const char *name = saga_state_name((SagaState) PG_GETARG_CHAR(0));

	if (name == NULL)
		PG_RETURN_NULL();
	PG_RETURN_TEXT_P(cstring_to_text(name));
}

Datum
saga_sql_forward_key(PG_FUNCTION_ARGS)
{
	PG_RETURN_TEXT_P(saga_context_forward_key(PG_GETARG_UUID_P(0),
											  PG_GETARG_INT64(1)));
}

Datum
saga_sql_compensation_key(PG_FUNCTION_ARGS)
{
	PG_RETURN_TEXT_P(saga_context_compensation_key(PG_GETARG_UUID_P(0),
												   PG_GETARG_INT64(1)));
}

/* saga.first_id(at) */
Datum
saga_sql_first_id(PG_FUNCTION_ARGS)
{
	pg_uuid_t  *first = palloc(sizeof(pg_uuid_t));

	saga_ids_first(PG_GETARG_TIMESTAMPTZ(0), first);
	PG_RETURN_UUID_P(first);
}

/*
 * Anybody may call the functions behind the views with any id; to a stranger
 * they show as much of a saga as of one that is not there.
 */
static SagaReach
reach_into(const pg_uuid_t *id)
{
	Oid			owner;
	text	   *owner_name;

	return saga_ledger_owner_of(id, &owner, &owner_name) ?
		saga_rights_reach(owner, owner_name) : SAGA_REACH_NOTHING;
}

static bool
may_see(const pg_uuid_t *id)
{
	return reach_into(id) >= SAGA_REACH_OUTLINE;
}

/* Is an executor compensating this step, or (seq 0) any step? */
static bool
is_running(const pg_uuid_t *id, int64 seq, SagaRunning *found)
{
	return saga_mailbox_is_running(id, SAGA_PHASE_COMPENSATION, seq, found) &&
		may_see(id);
}

Datum
saga_sql_is_running(PG_FUNCTION_ARGS)
{
	PG_RETURN_BOOL(is_running(PG_GETARG_UUID_P(0), PG_GETARG_INT64(1), NULL));
}

/* The SQL of steps that runs, of the sagas that the caller may see. */
Datum
saga_sql_running(PG_FUNCTION_ARGS)
{
	ReturnSetInfo *result = (ReturnSetInfo *) fcinfo->resultinfo;
	SagaRunning running[SAGA_MAX_EXECUTORS];
	int			count = saga_mailbox_running(running);

	InitMaterializedSRF(fcinfo, 0);
	for (int i = 0; i < count; i++)
	{
		SagaRunning *r = &running[i];
		Datum		values[7];
		bool		nulls[7] = {false};

		if (!may_see(&r->saga))
			continue;
		values[0] = UUIDPGetDatum(&r->saga);
		values[1] = CharGetDatum((char) r->phase);
		values[2] = Int64GetDatum(r->seq);
		values[3] = Int32GetDatum(r->attempt);
		values[4] = Int32GetDatum(r->pid);
		values[5] = ObjectIdGetDatum(r->role);
		values[6] = TimestampTzGetDatum(r->since);
		tuplestore_putvalues(result->setResult, result->setDesc, values, nulls);
	}
	return (Datum) 0;
}

/* Names the processes that hold a lock for which a process waits. */
static void
append_blockers(StringInfo buf, int pid)
{
	ArrayType  *pids = DatumGetArrayTypeP(DirectFunctionCall1(pg_blocking_pids,
															  Int32GetDatum(pid)));
	int			count = ArrayGetNItems(ARR_NDIM(pids), ARR_DIMS(pids));
	int32	   *blocker = (int32 *) ARR_DATA_PTR(pids);

	for (int i = 0; i < count; i++)
	{
		/* A prepared transaction has no process. */
		if (blocker[i] == 0)
			appendStringInfoString(buf, i == 0 ? ", but waits for a prepared transaction" : ", a prepared transaction");
		else
			appendStringInfo(buf, i == 0 ? ", but waits for the transaction of process %d" : ", %d",
							 blocker[i]);
	}
}

/* The process whose open transaction holds back the end of a saga; 0: none. */
static int
blocking_pid(const pg_uuid_t *id)
{
	LOCKTAG		tag;
	VirtualTransactionId *holders;
	int			count;

	saga_ledger_locktag(id, &tag);
	holders = GetLockConflicts(&tag, ExclusiveLock, &count);
	for (int i = 0; i < count; i++)
	{
		int			pid = saga_compat_vxid_pid(&holders[i]);

		if (pid != 0)
			return may_see(id) ? pid : 0;
	}
	return 0;
}

/* The key of a step, to the query that asks; NULL: it does not see it. */
static const char *
key_of(const pg_uuid_t *id, int64 seq)
{
	SagaSteps	steps;
	int			index;

	saga_ledger_get_steps_at(id, GetActiveSnapshot(), &steps);
	index = saga_next_find(&steps, seq);
	return index >= 0 ? text_to_cstring(steps.step[index].key) : NULL;
}

/*
 * Names the actions that run although their saga goes forward no more; false: there
 * are none.  Their SQL may trap that it is canceled, but it cannot commit.
 */
static bool
append_canceled(StringInfo buf, const pg_uuid_t *id)
{
	SagaRunning running[SAGA_MAX_EXECUTORS];
	int			count = saga_mailbox_running(running);
	bool		found = false;

	for (int i = 0; i < count; i++)
	{
		const char *key;

		if (running[i].phase != SAGA_PHASE_FORWARD ||
			!saga_ids_equal(&running[i].saga, id) || !may_see(id))
			continue;
		key = key_of(id, running[i].seq);
		appendStringInfo(buf, "%s of step \"%s\" is still running (process %d, since %s)",
						 found ? ", and that" : "the action", key ? key : "",
						 running[i].pid, timestamptz_to_str(running[i].since));
		append_blockers(buf, running[i].pid);
		found = true;
	}
	return found;
}

/*
 * The process that is writing the row of a saga which is being undone, and so
 * keeps ours away from it; 0: none.
 */
static int
writing_pid(const pg_uuid_t *id)
{
	TransactionId writer = saga_ledger_writer_of(id);

	if (!TransactionIdIsValid(writer) || !may_see(id))
		return 0;
	return BackendXidGetPid(SubTransGetTopmostTransaction(writer));
}

/* After an attempt under way, or another transaction, is done. */
#define PAUSED	"; it is paused until saga.resume"

/* The next action of a step that was dispatched to listeners. */
static void
append_listener(StringInfo buf, FunctionCallInfo fcinfo, const char *step)
{
	const char *channel = text_to_cstring(PG_GETARG_TEXT_PP(8));

	if (PG_ARGISNULL(10))
	{
		bool		paused;

		appendStringInfo(buf, "a listener on channel \"%s\"", channel);
		paused = may_see(PG_GETARG_UUID_P(0)) &&
			saga_waits_append_pause(buf, PG_GETARG_UUID_P(0), PG_GETARG_TEXT_PP(8));
		appendStringInfo(buf, "%s is to claim and compensate step \"%s\", which waits since %s",
						 paused ? "," : "", step,
						 timestamptz_to_str(PG_GETARG_TIMESTAMPTZ(9)));
	}
	else
		appendStringInfo(buf, "listener %s%s%son channel \"%s\" compensates step \"%s\" and must report by %s",
						 PG_ARGISNULL(11) ? "" : "\"",
						 PG_ARGISNULL(11) ? "" : text_to_cstring(PG_GETARG_TEXT_PP(11)),
						 PG_ARGISNULL(11) ? "" : "\" ",
						 channel, step,
						 timestamptz_to_str(PG_GETARG_TIMESTAMPTZ(10)));
}

/* The worker came to the saga, and could not go on. */
static void
append_failing(StringInfo buf, const pg_uuid_t *id)
{
	SagaFailing failing;

	if (saga_failing_get(id, &failing) && may_see(id))
		appendStringInfo(buf, "; but saga's worker failed at it (%d times, SQLSTATE %s; see the server's log), and tries again at %s",
						 failing.times, unpack_sql_state(failing.sqlstate),
						 timestamptz_to_str(failing.again));
}

/*
 * next_action(saga, state, paused, deadline, due, lane, step, parked,
 * channel, dispatched_at, lease_until, consumer, runs)
 */
Datum
saga_sql_next_action(PG_FUNCTION_ARGS)
{
	const pg_uuid_t *id;
	SagaState	state;
	bool		paused;
	TimestampTz now = saga_clock_now();
	const char *step;
	const char *why;
	const char *hint;
	SagaRunning running;
	SagaReach	reach;
	int			pid;
	bool		says_paused = false;
	StringInfoData buf;

	if (PG_ARGISNULL(0) || PG_ARGISNULL(1) || PG_ARGISNULL(2))
		PG_RETURN_NULL();
	id = PG_GETARG_UUID_P(0);
	state = (SagaState) PG_GETARG_CHAR(1);
	paused = PG_GETARG_BOOL(2);
	step = PG_ARGISNULL(6) ? NULL : text_to_cstring(PG_GETARG_TEXT_PP(6));

	initStringInfo(&buf);
	switch (state)
	{
		case SAGA_RUNNING:
			if (!PG_ARGISNULL(3) && PG_GETARG_TIMESTAMPTZ(3) <= now && !paused)
			{
				pid = blocking_pid(id);
				appendStringInfoString(&buf, "its deadline has passed: it is about to fail");
				if (pid != 0)
					appendStringInfo(&buf, ", once the transaction of process %d ends",
									 pid);
				else if ((why = saga_home_why_idle(GetActiveSnapshot())) != NULL)
					appendStringInfo(&buf, ", but: %s", why);
			}
			else if ((why = saga_oids_misfit(&hint)) != NULL)
				appendStringInfo(&buf, "nothing goes on: %s", why);
			else if (!PG_ARGISNULL(12) &&
					 (reach = reach_into(id)) >= SAGA_REACH_OUTLINE)
				says_paused = saga_waits_append_next(&buf, id, paused,
													 PG_GETARG_CHAR(12) == SAGA_RUNS_SEALED,
													 reach >= SAGA_REACH_READ);
			else
				appendStringInfoString(&buf, "the application goes on: it may be completed or failed");
			if (paused && !says_paused)
				appendStringInfoString(&buf, PG_ARGISNULL(3) ? PAUSED :
									   "; it is paused: its deadline waits for saga.resume");
			else if (paused && !PG_ARGISNULL(3))
				appendStringInfoString(&buf, ", for which its deadline waits, too");
			break;
		case SAGA_COMPLETED:
			appendStringInfoString(&buf, "nothing: it is completed");
			break;
		case SAGA_COMPENSATED:
			appendStringInfoString(&buf, "nothing: everything is undone; a new operation needs a new key");
			break;
		case SAGA_ABANDONED:
			appendStringInfoString(&buf, "nothing: a person abandoned it");
			break;
		case SAGA_NEEDS_REVIEW:
			appendStringInfoString(&buf, "a person must decide");
			if (step != NULL)
				appendStringInfo(&buf, " about step \"%s\"", step);
			if (!PG_ARGISNULL(7))
				appendStringInfo(&buf, ": %s",
								 text_to_cstring(PG_GETARG_TEXT_PP(7)));
			if (paused)
				appendStringInfoString(&buf, PAUSED);
			break;
		case SAGA_COMPENSATING:
			if (is_running(id, 0, &running))
			{
				appendStringInfo(&buf, "the compensation of step \"%s\" is running (process %d, since %s)",
								 step ? step : "", running.pid,
								 timestamptz_to_str(running.since));
				append_blockers(&buf, running.pid);
				if (paused)
					appendStringInfoString(&buf, PAUSED);
			}
			else if (!PG_ARGISNULL(12) && append_canceled(&buf, id))
			{
				appendStringInfoString(&buf, ", and the undo waits for its end; it was canceled and cannot commit, so pg_terminate_backend does no harm");
				if (paused)
					appendStringInfoString(&buf, PAUSED);
			}
			else if (paused && PG_ARGISNULL(10))
				appendStringInfoString(&buf, "nothing: it is paused until saga.resume");
			else if (!PG_ARGISNULL(9) && !PG_ARGISNULL(8))
			{
				append_listener(&buf, fcinfo, step ? step : "");
				if (paused)
					appendStringInfoString(&buf, PAUSED);
				else if ((why = saga_home_why_idle(GetActiveSnapshot())) != NULL)
					appendStringInfo(&buf, ", but: %s", why);
			}
			else
			{
				if (step != NULL)
					appendStringInfo(&buf, "compensate step \"%s\"", step);
				else
					appendStringInfoString(&buf, "the undo is about to end");
				if ((why = saga_home_why_idle(GetActiveSnapshot())) != NULL)
					appendStringInfo(&buf, ", but: %s", why);
				else if (!PG_ARGISNULL(4) && PG_GETARG_TIMESTAMPTZ(4) > now)
					appendStringInfo(&buf, " again at %s",
									 timestamptz_to_str(PG_GETARG_TIMESTAMPTZ(4)));
				else if (!saga_waits_has_worker())
					appendStringInfo(&buf, " as soon as %s", saga_waits_for_room());
				else if ((pid = writing_pid(id)) != 0)
					appendStringInfo(&buf, ", once the transaction of process %d ends",
									 pid);
				else if (!PG_ARGISNULL(8))
					appendStringInfo(&buf, " by a listener on channel \"%s\"",
									 text_to_cstring(PG_GETARG_TEXT_PP(8)));
				else
				{
					why = saga_waits_for_room();
					if (step != NULL || why != NULL)
						appendStringInfo(&buf, " as soon as %s",
										 why ? why : "an executor is free");
				}
			}
			break;
	}
	if (state == SAGA_RUNNING || state == SAGA_COMPENSATING)
		append_failing(&buf, id);
	PG_RETURN_TEXT_P(cstring_to_text(buf.data));
}
