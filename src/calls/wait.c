/*-------------------------------------------------------------------------
 *
 * wait.c
 *	  saga.wait: sleeps until a saga comes to rest.
 *
 * The waiter is woken by the commit that changes the saga's state; it does not
 * poll.  It holds the snapshot of the statement that called it, as any
 * statement does, and no lock but that of a statement that writes, on the
 * table of sagas.  Executors commit without waiting for the disk, nor for
 * synchronous standbys, so it returns only after the log has been flushed, and
 * received by such a standby if the session's commits wait for that: what the
 * caller has seen must survive a crash, and a failover.
 *
 * The saga is read again whenever the waiter wakes.  If it was deleted meanwhile,
 * the wait ends with the error of a saga that is not there (access.c).
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/xact.h"
#include "base/clock.h"
#include "base/errors.h"
#include "base/ids.h"
#include "calls/access.h"
#include "calls/arguments.h"
#include "calls/steps.h"
#include "ledger/home.h"
#include "miscadmin.h"
#include "shared/durable.h"
#include "shared/wakeup.h"
#include "utils/builtins.h"

PG_FUNCTION_INFO_V1(saga_sql_wait);
PG_FUNCTION_INFO_V1(saga_sql_wait_step);

#define DEFAULT_WAIT_MS		60000

/* Has a saga come to rest, or to the state named, if one was (else 0)? */
static bool
is_awaited(SagaState state, int until)
{
	return (int) state == until || saga_state_is_final(state) ||
		state == SAGA_NEEDS_REVIEW;
}

static void
check_worker(const SagaRow *saga)
{
	const char *why = saga_home_why_idle(NULL);

	if (why == NULL)
		return;
	ereport(ERROR,
			(errcode(ERRCODE_SAGA_UNAVAILABLE),
			 errmsg("cannot wait for saga %s: nothing is run or undone in this database",
					saga_ids_string(&saga->id)),
			 errdetail("The reason: %s.", why),
			 errhint("Fix the cause first, or query saga.sagas instead of waiting. A copy of a database needs saga.adopt().")));
}

/* A wait must not stand in the way of what it waits for. */
static void
check_may_wait(const char *function)
{
	if (RecoveryInProgress())
		ereport(ERROR,
				(errcode(ERRCODE_SAGA_UNAVAILABLE),
				 errmsg("cannot execute %s on a standby", function),
				 errhint("Call it on the primary; the views can be read here.")));
	if (TransactionIdIsValid(GetTopTransactionIdIfAny()))
		ereport(ERROR,
				(errcode(ERRCODE_ACTIVE_SQL_TRANSACTION),
				 errmsg("%s cannot run in a transaction that has written", function),
				 errdetail("What it waits for may be waiting for this transaction to end."),
				 errhint("Commit first, then wait.")));
	if (IsolationUsesXactSnapshot())
		ereport(ERROR,
				(errcode(ERRCODE_ACTIVE_SQL_TRANSACTION),
				 errmsg("%s cannot run in a transaction that is REPEATABLE READ or above",
						function),
				 errhint("Wait in a READ COMMITTED transaction.")));
}

/* What is waited for; "saga" is the newest. */
typedef bool (*AwaitedCheck) (const SagaRow *saga, void *arg);

/* Waits until the check holds, or the time is over. */
static void
wait_until(const pg_uuid_t *id, int64 timeout, AwaitedCheck is_met, void *arg,
		   SagaRow *saga)
{
	int64		end = saga_clock_steady() + timeout * 1000;
	volatile bool met = false;

	saga_access_read(id, SAGA_REACH_READ, saga);
	saga_wakeup_wait_begin(id);
	PG_TRY();
	{
		for (;;)
		{
			int64		left;

			saga_access_read(id, SAGA_REACH_READ, saga);
			met = is_met(saga, arg);
			if (met)
				break;
			if (saga->state == SAGA_COMPENSATING || saga->deadline != 0 ||
				saga->runs != SAGA_RUNS_NONE)
				check_worker(saga);
			left = (end - saga_clock_steady() + 999) / 1000;
			if (left <= 0)
				break;
			saga_wakeup_wait_sleep(id, (long) Min(left, 60000));
			CHECK_FOR_INTERRUPTS();
		}
	}
	PG_FINALLY();
	{
		saga_wakeup_wait_end();
	}
	PG_END_TRY();
	saga_durable_flush(met);
}

static int64
wait_timeout(FunctionCallInfo fcinfo, int arg)
{
	return PG_ARGISNULL(arg) ? DEFAULT_WAIT_MS :
		saga_arguments_milliseconds(PG_GETARG_INTERVAL_P(arg), "timeout");
}

static bool
saga_is_met(const SagaRow *saga, void *arg)
{
	return is_awaited(saga->state, *(int *) arg);
}

/* saga.wait(saga_id, timeout, until) */
Datum
saga_sql_wait(PG_FUNCTION_ARGS)
{
	const pg_uuid_t *id = saga_access_id(fcinfo, 0);
	int64		timeout = wait_timeout(fcinfo, 1);
	int			until = saga_arguments_word(fcinfo, 2, "until", saga_state_states,
											false);
	SagaRow		saga;

	check_may_wait("saga.wait()");
	wait_until(id, timeout, saga_is_met, &until, &saga);
	PG_RETURN_TEXT_P(cstring_to_text(saga_state_name(saga.state)));
}

typedef struct AwaitedStep
{
	text	   *key;
	SagaStep	step;
} AwaitedStep;

/* Is the step done, given up or parked, or does its saga rest? */
static bool
step_is_met(const SagaRow *saga, void *arg)
{
	AwaitedStep *awaited = arg;
	SagaStep   *step = &awaited->step;

	if (saga_ledger_get_newest_run(&saga->id, text_to_cstring(awaited->key),
								   step) != SAGA_FOUND)
		saga_access_refuse_no_step(saga, awaited->key);
	return is_awaited(saga->state, 0) || step->parked != NULL ||
		step->status == SAGA_STEP_COMPLETED ||
		step->status == SAGA_STEP_SKIPPED ||
		(step->status == SAGA_STEP_FAILED && step->forward.retry_at == 0);
}

/* saga.wait_step(saga_id, step, timeout) */
Datum
saga_sql_wait_step(PG_FUNCTION_ARGS)
{
	const pg_uuid_t *id = saga_access_id(fcinfo, 0);
	AwaitedStep awaited;
	int64		timeout;
	SagaRow		saga;

	awaited.key = saga_arguments_name(fcinfo, 1, "step", SAGA_MAX_KEY, true);
	timeout = wait_timeout(fcinfo, 2);
	check_may_wait("saga.wait_step()");
	wait_until(id, timeout, step_is_met, &awaited, &saga);
	return saga_steps_result(&awaited.step, true);
}
