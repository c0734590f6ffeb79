/*-------------------------------------------------------------------------
 *
 * run_steps.c
 *	  Recording a step that saga runs: its gates, its work, and its place.
 *
 * A step with a gate or a work is recorded as waiting.  Where it can be seen at
 * once that its first gate is open, it is recorded with its due work, and an idle
 * executor gets it at the commit.  Otherwise a look decides (flow/look.c): the
 * recording asks for one, unless a step that keeps the gate closed was recorded
 * by this transaction, too.  That one cannot be done before the commit, and its
 * own end asks for a look, which then sees this step.
 *
 * The first such step of a saga says so in the saga's row, under the saga's lock,
 * held exclusively: from then on whoever completes a step of the application's
 * asks for a look, too.  So the recording waits for the transactions that have
 * recorded or completed something in the saga without knowing of such steps; two of
 * them that come here deadlock, and one is rolled back (40P01).  A transaction that has
 * not recorded anything in the saga yet has no part in that: it comes here without a
 * lock.  Sagas without such steps pay nothing.
 *
 * From inside an action no lock is taken.  What it records is seen with its mark,
 * which finds out whether the saga still runs, and asks for a look.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/xact.h"
#include "base/errors.h"
#include "base/ids.h"
#include "base/rights.h"
#include "calls/access.h"
#include "calls/arguments.h"
#include "calls/call.h"
#include "calls/run_steps.h"
#include "catalog/pg_type_d.h"
#include "flow/change.h"
#include "flow/circles.h"
#include "flow/gates.h"
#include "flow/next.h"
#include "mb/pg_wchar.h"
#include "miscadmin.h"
#include "shared/current.h"
#include "shared/wakeup.h"
#include "utils/builtins.h"

/* Largest number of steps that are read to find out whether a gate is open */
#define READ_STEPS		64

/* The arguments of saga.step about this, from the first on */
enum
{
	RUN_ARG_ACTION, RUN_ARG_TASK, RUN_ARG_AFTER, RUN_ARG_DELAY,
	RUN_ARG_NOT_BEFORE, RUN_ARG_SIGNALS, RUN_ARG_APPROVAL, RUN_ARG_TIMEOUT,
	RUN_ARG_ON_FAILURE,
	RUN_ARGS
};

/* ------------------------------------------------------------------------
 * What the caller says
 * ------------------------------------------------------------------------ */

/* A list of names or keys; NULL: none was given. */
static ArrayType *
get_list(FunctionCallInfo fcinfo, int arg, const char *what, int limit,
		 bool may_be_empty)
{
	ArrayType  *list;
	Datum	   *values;
	bool	   *nulls;
	int			count;

	if (PG_ARGISNULL(arg))
		return NULL;
	list = PG_GETARG_ARRAYTYPE_P(arg);
	saga_arguments_check_list(list, what,
							  may_be_empty ?
							  "Leave it null: then the step waits for all before it." :
							  "Wait for fewer signals, which say more in their payloads.");
	deconstruct_array(list, TEXTOID, -1, false, TYPALIGN_INT, &values, &nulls,
					  &count);
	if (ARR_NDIM(list) > 1 || (count == 0 && !may_be_empty))
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("%s must be a list of names", what),
				 errhint("Write it as '{a,b}'.")));
	for (int i = 0; i < count; i++)
	{
		if (nulls[i] || VARSIZE_ANY_EXHDR(DatumGetPointer(values[i])) == 0)
			ereport(ERROR,
					(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
					 errmsg("%s must not hold a null or an empty name", what),
					 errhint("Write it as '{a,b}'.")));
		if (pg_mbstrlen_with_len(VARDATA_ANY(DatumGetPointer(values[i])),
								 VARSIZE_ANY_EXHDR(DatumGetPointer(values[i]))) > limit)
			ereport(ERROR,
					(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
					 errmsg("%s must not hold a name of more than %d characters",
							what, limit),
					 errhint("There are no such names.")));
	}
	return list;
}

/*
 * How long a step waits after gate 1.  A time that does not exist would be an error of
 * whoever opens the gate.
 */
static Interval *
get_delay(FunctionCallInfo fcinfo, int arg)
{
	Interval   *delay;

	if (PG_ARGISNULL(arg))
		return NULL;
	delay = PG_GETARG_INTERVAL_P(arg);
	saga_arguments_check_delay(delay, "delay");
	return delay;
}

/* Reads the arguments; "first" is the number of the first of them. */
void
saga_run_steps_read(FunctionCallInfo fcinfo, int first, SagaRunRequest *request)
{
	bool		any = false;

	/* Mostly there is none: the application runs the step. */
	for (int i = 0; i < RUN_ARGS; i++)
		any |= !PG_ARGISNULL(first + i);
	if (!any)
	{
		memset(request, 0, sizeof(SagaRunRequest));
		return;
	}

	request->action = saga_arguments_text(fcinfo, first + RUN_ARG_ACTION);
	request->task = saga_arguments_channel(fcinfo, first + RUN_ARG_TASK, "task");
	request->after = get_list(fcinfo, first + RUN_ARG_AFTER, "after", SAGA_MAX_KEY, true);
	request->delay = get_delay(fcinfo, first + RUN_ARG_DELAY);
	request->not_before = PG_ARGISNULL(first + RUN_ARG_NOT_BEFORE) ? 0 :
		PG_GETARG_TIMESTAMPTZ(first + RUN_ARG_NOT_BEFORE);
	request->signals = get_list(fcinfo, first + RUN_ARG_SIGNALS, "signals",
								SAGA_MAX_NAME, false);
	request->approval = saga_arguments_words(fcinfo, first + RUN_ARG_APPROVAL, "approval");
	request->timeout = PG_ARGISNULL(first + RUN_ARG_TIMEOUT) ? 0 :
		saga_arguments_milliseconds(PG_GETARG_INTERVAL_P(first + RUN_ARG_TIMEOUT),
									"timeout");
	request->give_up = saga_arguments_word(fcinfo, first + RUN_ARG_ON_FAILURE,
										   "on_failure", saga_state_give_ups, false);
	request->given = request->action != NULL || request->task != NULL ||
		request->after != NULL || request->delay != NULL ||
		request->not_before != 0 || request->signals != NULL ||
		request->approval != NULL;

	if (request->action != NULL && request->task != NULL)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("a step has either an action or a task, not both"),
				 errhint("Make two steps of it, one after the other.")));
	if (request->approval != NULL && VARSIZE_ANY_EXHDR(request->approval) == 0)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("approval must not be empty"),
				 errhint("Say what the person approves.")));
	if (!request->given && (request->timeout != 0 || request->give_up != 0))
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("%s is for steps that saga runs",
						request->timeout != 0 ? "timeout" : "on_failure"),
				 errdetail("The step has no action, no task and no gate, so the application runs it."),
				 request->timeout != 0 ?
				 errhint("Give the saga a timeout in saga.begin().") :
				 errhint("The application decides: it may fail the saga, or go on.")));
	if (request->action != NULL)
	{
		saga_arguments_check_sql(request->action, "action");
		saga_rights_check_can_run_sql(GetUserId());
	}
}

/* ------------------------------------------------------------------------
 * The saga
 * ------------------------------------------------------------------------ */

static SagaVerdict
decide_note(SagaChange *change, void *arg)
{
	SagaRow    *saga = change->saga;
	bool	   *to_hold = arg;

	*to_hold = false;
	/* What follows from another state, saga.step says. */
	if (saga->state != SAGA_RUNNING || saga->runs != SAGA_RUNS_NONE)
		return SAGA_NOTHING_TO_WRITE;
	*to_hold = !saga_ledger_begun_here(saga);
	saga->runs = SAGA_RUNS_STEPS;
	return SAGA_WRITE;
}

/*
 * The saga has a step that saga runs, from now on.  The caller has given back the
 * lock that it took, and begins again.
 *
 * The row holds others back then.  The shared lock is for those who come to end the
 * saga: they wait at the lock, and get it at our commit before an executor does.  Of a
 * saga that was begun here nobody else knows.
 */
void
saga_run_steps_note(const pg_uuid_t *id)
{
	bool		to_hold;

	(void) saga_call(id, SAGA_REACH_OWN, SAGA_CALL_EXCLUSIVE, decide_note,
					 &to_hold);
	if (to_hold)
		(void) saga_ledger_lock(id, ShareLock, SAGA_WAIT);
}

/*
 * A step that is not known yet, or was rolled back ("again"): may it be recorded?
 * False: once the saga's row says that saga runs steps of it (saga_run_steps_note).
 */
bool
saga_run_steps_admit(const SagaRow *saga, const SagaRunRequest *request,
					 bool again)
{
	if (saga_current_action(&saga->id) != 0)
		return true;
	if (saga->runs == SAGA_RUNS_SEALED && !again)
		ereport(ERROR,
				(errcode(ERRCODE_SAGA_INVALID_STATE),
				 errmsg("saga %s takes no new step", saga_ids_string(&saga->id)),
				 errdetail("It was sealed by saga.complete(..., when_done => true)."),
				 errhint("Record all steps before that, or let an action record them.")));
	return !request->given || saga->runs != SAGA_RUNS_NONE;
}

/* ------------------------------------------------------------------------
 * Gate 1, as far as it can be seen at once
 * ------------------------------------------------------------------------ */

typedef enum GateSeen
{
	GATE_OPEN,
	GATE_CLOSED_HERE,			/* by a step of this transaction */
	GATE_UNKNOWN				/* a look decides */
} GateSeen;

/* The gate, as far as another step opens it */
static GateSeen
seen_by_step(const SagaStep *other)
{
	if (other->status == SAGA_STEP_COMPLETED || other->status == SAGA_STEP_SKIPPED)
		/* What its action recorded may not be done. */
		return other->action == NULL ? GATE_OPEN : GATE_UNKNOWN;
	return other->version.own ? GATE_CLOSED_HERE : GATE_UNKNOWN;
}

/*
 * By a list: its steps must have been recorded.  The step whose action records
 * this one does not keep the gate closed.  If another one that came from elsewhere does,
 * it may wait for that action.
 */
static GateSeen
see_list(const SagaRow *saga, const SagaStep *step)
{
	GateSeen	seen = GATE_OPEN;
	ListCell   *lc;

	foreach(lc, saga_gates_keys(step->after))
	{
		SagaStep	other;
		GateSeen	one;

		if (saga_ledger_get_newest_run(&saga->id, lfirst(lc), &other) != SAGA_FOUND ||
			other.rolled_back_at != 0)
			saga_access_refuse_no_step(saga, cstring_to_text(lfirst(lc)));
		if (other.seq == step->recorded_by)
			continue;
		one = seen_by_step(&other);
		if (one != GATE_OPEN && other.recorded_by != step->recorded_by)
			saga_current_wait_for_others();
		if (one != GATE_OPEN && seen != GATE_CLOSED_HERE)
			seen = one;
	}
	return seen;
}

/* By what the same recorder recorded before. */
static GateSeen
see_siblings(const SagaRow *saga, const SagaStep *step)
{
	SagaSteps	steps;
	GateSeen	seen = GATE_OPEN;

	if (!saga_ledger_get_few_steps_now(&saga->id, READ_STEPS, &steps))
		return GATE_UNKNOWN;
	for (int i = steps.count - 1; i >= 0; i--)
	{
		const SagaStep *other = &steps.step[i];
		GateSeen	one;

		if (other->recorded_by != step->recorded_by)
			continue;
		/* The application may have to start it again first. */
		if (other->rolled_back_at != 0)
		{
			seen = GATE_UNKNOWN;
			continue;
		}
		one = seen_by_step(other);
		if (one == GATE_CLOSED_HERE)
			return one;
		if (one == GATE_UNKNOWN)
			seen = one;
	}
	return seen;
}

/*
 * A run that the outside begins after one that was rolled back keeps the place of
 * that one, unless the step whose action recorded it was rolled back, too.
 */
static void
take_place(SagaStep *step, const SagaStep *old)
{
	if (old->recorded_by != 0)
	{
		SagaSteps	steps;
		int			by;

		saga_ledger_get_steps_now(&step->saga, &steps);
		by = saga_next_find(&steps, old->recorded_by);
		if (by < 0 || steps.step[by].rolled_back_at != 0)
			return;
	}
	step->recorded_by = old->recorded_by;
	step->place = saga_rows_place(old);
}

/*
 * Refuses a step that would wait for itself.  A step that nobody knows yet cannot, where
 * no action records it; what an action records is looked at before its mark.
 */
static void
refuse_circle(const SagaStep *step)
{
	SagaSteps	steps;
	SagaGates	gates;

	saga_ledger_get_steps_now(&step->saga, &steps);
	steps.step = repalloc_huge(steps.step, (steps.count + 1) * sizeof(SagaStep));
	steps.step[steps.count++] = *step;
	saga_gates_read(&gates, &steps);
	saga_circles_refuse(&gates, saga_circles_find(&gates), steps.count - 1);
}

/*
 * What a step that was just made gets, as one that saga runs.  "old": its last
 * run, which was rolled back, or NULL.
 */
void
saga_run_steps_fill(const SagaRow *saga, const SagaRunRequest *request,
					const SagaStep *old, SagaStep *step)
{
	GateSeen	seen;

	step->recorded_by = saga_current_action(&saga->id);
	if (old != NULL && step->recorded_by == 0 && saga->runs != SAGA_RUNS_NONE)
		take_place(step, old);
	step->forward.crashes = -1;
	if (!request->given)
		return;
	step->action = request->action;
	step->task = request->task;
	step->after = request->after;
	step->delay = request->delay;
	step->not_before = request->not_before;
	step->signals = request->signals;
	step->approval = request->approval;
	step->timeout = request->timeout;
	step->give_up = request->give_up != 0 ? request->give_up :
		step->kind == SAGA_KIND_RETRIABLE ? SAGA_GIVE_UP_REVIEW : SAGA_GIVE_UP_FAIL;
	step->status = SAGA_STEP_WAITING;
	step->forward.attempts = 0;

	seen = step->after != NULL ? see_list(saga, step) : see_siblings(saga, step);
	if (old != NULL && saga_current_action(&saga->id) == 0 && seen != GATE_OPEN)
		refuse_circle(step);
	/* Those recorded later than its first run do not come before it. */
	if (step->place != 0)
		seen = GATE_UNKNOWN;
	if (seen == GATE_OPEN && (step->action != NULL || step->task != NULL) &&
		step->signals == NULL && step->approval == NULL)
	{
		saga_gates_open_first(step, step->started_at);
		/* The worker notifies. */
		step->look_wanted = step->task != NULL &&
			step->ready_at <= step->started_at;
	}
	else if (seen != GATE_CLOSED_HERE)
		step->look_wanted = true;
}

static bool
run_steps_same_keys(const ArrayType *a, const ArrayType *b)
{
	List	   *left;
	List	   *right;

	if (a == NULL || b == NULL)
		return a == b;
	left = saga_gates_keys(a);
	right = saga_gates_keys(b);
	if (list_length(left) != list_length(right))
		return false;
	for (int i = 0; i < list_length(left); i++)
		if (strcmp(list_nth(left, i), list_nth(right, i)) != 0)
			return false;
	return true;
}

/*
 * The arguments by which a recorded step differs from what is asked for now;
 * returns how many.  Not "not_before", which mostly is counted from now.
 */
int
saga_run_steps_other(const SagaStep *step, const SagaRunRequest *request,
					 const char **other)
{
	int			count = 0;

	if (!saga_rows_same_text(step->action, request->action))
		other[count++] = "action";
	if (!saga_rows_same_text(step->task, request->task))
		other[count++] = "task";
	if (saga_rows_is_run(step) != request->given)
	{
		other[count++] = "gates";
		return count;
	}
	if (!run_steps_same_keys(step->after, request->after))
		other[count++] = "after";
	if ((step->delay == NULL) != (request->delay == NULL) ||
		(step->delay != NULL &&
		 memcmp(step->delay, request->delay, sizeof(Interval)) != 0))
		other[count++] = "delay";
	if (!run_steps_same_keys(step->signals, request->signals))
		other[count++] = "signals";
	if (!saga_rows_same_text(step->approval, request->approval))
		other[count++] = "approval";
	if (step->timeout != request->timeout)
		other[count++] = "timeout";
	if (request->give_up != 0 && step->give_up != request->give_up)
		other[count++] = "on_failure";
	return count;
}

/*
 * Has this transaction asked for a look at the saga?  That sees all it does.  What
 * another subtransaction asked for may be rolled back with it.
 */
static bool
asked_here(const pg_uuid_t *id)
{
	static pg_uuid_t asked;
	static TransactionId asked_by = InvalidTransactionId;
	static SubTransactionId asked_in;

	if (asked_by == GetTopTransactionId() &&
		asked_in == GetCurrentSubTransactionId() && saga_ids_equal(&asked, id))
		return true;
	asked = *id;
	asked_by = GetTopTransactionId();
	asked_in = GetCurrentSubTransactionId();
	return false;
}

/*
 * A step was recorded: asks for a look, if one is wanted.  The mark of an action
 * does that anyway.
 */
void
saga_run_steps_recorded(const SagaRow *saga, const SagaStep *step)
{
	bool		wanted = step->look_wanted ||
		(saga->runs != SAGA_RUNS_NONE && step->status == SAGA_STEP_COMPLETED);

	if (!wanted)
		return;
	if (saga_current_action(&saga->id) != 0)
	{
		saga_current_ask_for_look();
		return;
	}
	/* That of a task that may be claimed at once is for those who claim it. */
	if (step->ready_at == 0 && asked_here(&saga->id))
		return;
	saga_ledger_insert_look(&saga->id, -step->seq, step->started_at);
	saga_wakeup_due(step->started_at);
}
