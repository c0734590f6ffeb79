/*-------------------------------------------------------------------------
 *
 * action.c
 *	  One attempt of a step's action, and the look that follows.
 *
 *	1. Find the row of the due work that the ticket names, the saga, and the step;
 *	   lock the step's row, so that no other process runs it.  Nothing else of the
 *	   saga is locked: meanwhile it can be paused, canceled and failed, and steps
 *	   can be recorded and completed.
 *	2. Draw its place in the start order.  What the action records comes later.  Of
 *	   a step that must be undone although nothing of its action is committed, write
 *	   that it begins, and commit that, before anything else: nothing that happens to
 *	   the saga, this process, or the server makes it forgotten then.
 *	3. Note in the in-flight file that it is about to run, and run it.
 *	4. Take the saga's lock, without waiting for anybody.  If the saga still runs,
 *	   mark the step: its output, and what follows.  Otherwise roll back: what was
 *	   done after the undo had begun must not stand.
 *	5. Commit, asynchronously: a crash loses all of it or nothing.
 *
 * What the action did, its mark, its output, and the steps it recorded are one
 * transaction.
 *
 * What follows is for a look to say (flow/look.c), and there are three ways:
 *
 * - If the saga has few steps and nobody else is at work on it, the look is made with
 *	 the mark, in the same transaction.  The saga's lock, held exclusively until the
 *	 commit, ensures the latter: all that others did to the saga is committed and seen,
 *	 and what they do next, they do after this commit, and see it.  No row need ask
 *	 for the look.
 * - If others are at work on it, the lock is held shared, and the mark comes with a
 *	 row that asks for a look, since neither may see what the other does.  This
 *	 process makes that look itself, after its commit.
 * - Looks at a saga with many steps are the worker's, which makes one for many
 *	 changes.  While this process has more of the saga to run, they are in no hurry.
 *	 But if it has no more, and nobody else is at work on the saga, as with a chain,
 *	 it knows what the step opens (following.c), and opens that with the mark.
 *
 * After a look of its own, the process goes on with what has become ready for its
 * role: a chain needs no trip through the worker.
 *
 * An action that asked to be run again (shared/again.c) is marked with a round, and
 * nothing follows from that: no gate can open by it.  Its row of the due work stays
 * as it is if the next round is due at once, and this process goes on with the same
 * ticket.  After a slice of time it lets those in that wait in its mailbox.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include <signal.h>

#include "access/xact.h"
#include "base/clock.h"
#include "base/errors.h"
#include "base/fault.h"
#include "base/ids.h"
#include "flow/circles.h"
#include "flow/context.h"
#include "flow/follow.h"
#include "flow/look.h"
#include "flow/next.h"
#include "ledger/ledger.h"
#include "ledger/start_order.h"
#include "miscadmin.h"
#include "process/action.h"
#include "process/following.h"
#include "process/looking.h"
#include "process/output.h"
#include "process/pool.h"
#include "process/session.h"
#include "process/transaction.h"
#include "shared/again.h"
#include "shared/current.h"
#include "shared/mailbox.h"
#include "shared/wakeup.h"
#include "utils/builtins.h"
#include "utils/memutils.h"
#include "utils/timestamp.h"

/*
 * How long to keep trying to mark a step while another transaction writes its
 * saga, or holds its lock (ms).
 */
#define MARK_MS			100
/* Largest number of steps of a saga that an executor looks at itself */
#define OWN_LOOK_STEPS	64
/* Time after which an executor lets others in, though a chain goes on (ms) */
#define CHAIN_SLICE		100
/* How long a look may wait for further changes, while there is more to do (ms) */
#define LOOK_MS			10

static SagaInHand *hand = NULL;

/* What a look that was made with the mark has found for this process; or seq 0 */
static SagaTicket found_next;

/* The saga met last that has more than OWN_LOOK_STEPS steps */
static pg_uuid_t large_saga;

/* ------------------------------------------------------------------------
 * Before the action
 * ------------------------------------------------------------------------ */

/* The steps whose outputs the action gets (SagaStep *). */
static List *
read_inputs(const SagaRow *saga, const SagaStep *step)
{
	List	   *keys;

	return step->after == NULL && saga_following_inputs(saga, step->seq, &keys) ?
		saga_context_inputs_of(saga, keys) : saga_context_inputs(saga, step);
}

/* The policy of the action, its timeout cut to what is left of the step's own. */
static void
limit_time(const SagaStep *step, SagaPolicy *policy)
{
	TimestampTz timeout_at = saga_rows_timeout_at(step);

	saga_outcome_forward_policy(step, policy);
	if (timeout_at != 0)
	{
		int64		left = (timeout_at - hand->end.started_at) / 1000 + 1;

		policy->timeout = policy->timeout > 0 ? Min(policy->timeout, left) : left;
	}
}

/* ------------------------------------------------------------------------
 * After the action
 * ------------------------------------------------------------------------ */

/*
 * Raises an error if a step that the action recorded would wait for itself.  That is an
 * error of the SQL.
 */
static void
refuse_circles(const SagaStep *step)
{
	SagaSteps	steps;
	SagaGates	gates;
	SagaCircles circles;

	if (!saga_current_waits_for_others())
		return;
	hand->phase = SAGA_ATTEMPT_SQL;
	saga_ledger_get_steps_now(&step->saga, &steps);
	saga_gates_read(&gates, &steps);
	circles = saga_circles_find(&gates);
	for (int i = 0; i < steps.count; i++)
		if (steps.step[i].recorded_by == step->seq && steps.step[i].version.own)
			saga_circles_refuse(&gates, circles, i);
	hand->phase = SAGA_ATTEMPT_MARKING;
}

/* Waits a moment for another transaction; false if that took too long already. */
static bool
wait_a_little(int *waited)
{
	if (*waited >= MARK_MS)
		return false;
	saga_pool_sleep(1);
	CHECK_FOR_INTERRUPTS();
	(*waited)++;
	return true;
}

/*
 * Makes sure that the saga is running and stays so until the commit; raises an error
 * if it is not.  With "alone", returns whether the lock could be had exclusively, so
 * that nobody else has a part in the saga until then.
 */
static bool
hold_running(SagaRow *saga, bool alone)
{
	int			waited = 0;

	alone = alone && saga_ledger_lock(&saga->id, ExclusiveLock, SAGA_NOWAIT);
	while (!alone && !saga_ledger_lock(&saga->id, ShareLock, SAGA_NOWAIT))
		if (!wait_a_little(&waited))
			saga_in_hand_was_changed();
	for (;;)
	{
		SagaFound	found = saga_ledger_reread_saga(saga, SAGA_NOWAIT);

		if (found == SAGA_FOUND && saga->state == SAGA_RUNNING)
			return alone;
		if (found != SAGA_BUSY || !wait_a_little(&waited))
			saga_in_hand_was_changed();
	}
}

/* Marks the step as its attempt ended.  "look": this process looks itself. */
static void
mark(SagaRow *saga, SagaStep *step, bool look)
{
	SagaChange	change;

	saga_change_begin(&change, saga, NULL, look ? SAGA_WILL_LOOK : 0,
					  saga_clock_now());
	saga_look_attempt(&change, step, &hand->end);
	if (!look && saga_mailbox_has_more_of(&saga->id))
		change.look_at = change.now + LOOK_MS * SAGA_CLOCK_MS;
	if (saga_change_write(&change) != SAGA_WRITTEN)
		saga_in_hand_was_changed();
	hand->look_due = change.looks != NIL ? change.now : 0;
}

/* Is it time to let others in, though a chain goes on, and are there any? */
static bool
must_let_others_in(void)
{
	return saga_mailbox_has_more() &&
		saga_clock_steady() - hand->slice_begun >= CHAIN_SLICE * SAGA_CLOCK_MS;
}

/*
 * Marks the step and looks, when nobody else has a part in the saga.  False: somebody
 * writes a step of it nevertheless; nothing is done.
 */
static bool
mark_and_look(SagaRow *saga, const SagaStep *step, SagaSteps *steps)
{
	SagaChange	change;
	SagaStep   *marked = NULL;

	for (int i = 0; i < steps->count; i++)
	{
		if (steps->step[i].seq == step->seq)
			marked = &steps->step[i];
		else if (TransactionIdIsValid(steps->step[i].version.writer))
			return false;
	}
	if (marked == NULL)
		saga_in_hand_was_changed();
	marked->locked = step->locked;
	marked->begun = step->begun;
	marked->forward.output = step->forward.output;
	saga_change_begin(&change, saga, steps, SAGA_MAY_FAIL, saga_clock_now());
	saga_look_attempt(&change, marked, &hand->end);
	/* This look is made here; for what it cannot do, it asks for another. */
	saga_change_no_look(&change);
	(void) saga_look(&change);
	if (!must_let_others_in())
		saga_looking_choose_next(&change, GetUserId(), &found_next);
	if (saga_change_write(&change) != SAGA_WRITTEN)
		saga_in_hand_was_changed();
	hand->look_due = 0;
	return true;
}

/*
 * Marks a step of a saga with many, and opens what that opens, instead of a look.
 * False: that is not known; nothing is done.
 */
static bool
mark_and_follow(SagaRow *saga, SagaStep *step, const SagaDue *due, bool *alone)
{
	SagaChange	change;
	List	   *opens;
	ListCell   *lc;
	bool		all;

	if (!saga_following_ready(saga, due, alone) ||
		!saga_following_opens(saga, step, &opens, &all))
		return false;
	saga_change_begin(&change, saga, NULL, 0, saga_clock_now());
	saga_look_attempt(&change, step, &hand->end);
	foreach(lc, opens)
	{
		saga_gates_open_first(lfirst(lc), change.now);
		saga_change_step(&change, lfirst(lc));
	}
	if (all)
		saga_change_no_look(&change);
	if (!must_let_others_in())
		saga_looking_choose_next(&change, GetUserId(), &found_next);
	if (saga_change_write(&change) != SAGA_WRITTEN)
		saga_in_hand_was_changed();
	saga_following_written(&saga->id);
	hand->look_due = 0;
	return true;
}

/*
 * Marks the step whose action succeeded.  Returns whether this process is to look
 * after the commit, or has looked.
 */
static bool
succeed(SagaRow *saga, SagaStep *step, const SagaDue *due)
{
	bool		small = !saga_ids_equal(&saga->id, &large_saga) &&
		!SAGA_FAULT_SET("executor.small");
	bool		alone = hold_running(saga, small ||
									 !saga_mailbox_has_more_of(&saga->id));
	SagaSteps	steps;

	SAGA_FAULT("executor.after_hold");
	if (small && !saga_ledger_get_few_steps(&saga->id, OWN_LOOK_STEPS, &steps))
	{
		large_saga = saga->id;
		small = false;
	}
	if (alone && small && mark_and_look(saga, step, &steps))
		return true;
	if (alone && !small && mark_and_follow(saga, step, due, &alone))
		return true;
	if (alone)
		(void) saga_ledger_let_others_in(&saga->id);
	mark(saga, step, small);
	return small;
}

/*
 * Marks the step whose action asked to be run again: a round.  If what the action
 * recorded needs a look, that is the worker's.
 */
static void
succeed_round(SagaRow *saga, SagaStep *step, const SagaAgain *again)
{
	SagaChange	change;

	(void) hold_running(saga, false);
	saga_change_begin(&change, saga, NULL, 0, saga_clock_now());
	hand->end.again = true;
	hand->end.again_at = saga_again_due(again, change.now);
	hand->end.state = again->state;
	saga_look_attempt(&change, step, &hand->end);
	if (saga_current_asks_for_look())
		saga_change_look(&change, -step->seq);
	if (saga_change_write(&change) != SAGA_WRITTEN)
		saga_in_hand_was_changed();
}

/*
 * A round is committed, and the step is due then: what becomes of the ticket in
 * hand?
 */
static SagaWalkOn
after_round(TimestampTz due)
{
	bool		full;

	/* The commit has woken the worker, which hands it out then. */
	if (due != hand->ticket.due)
		return SAGA_WALK_DONE;
	if (!must_let_others_in())
		return SAGA_WALK_ON;
	if (saga_mailbox_let_others_in(&full))
		return SAGA_WALK_DONE;
	if (full)
	{
		saga_wakeup_post(saga_shmem_my_database(), due);
		return SAGA_WALK_DONE;
	}
	hand->slice_begun = saga_clock_steady();
	return SAGA_WALK_ON;
}

/*
 * The look after a mark, in a transaction of its own.  If it cannot be made, it
 * is left to the worker, for which the row that asks for it stays.
 */
static bool
look_and_go_on(bool spent)
{
	SagaDue		row;
	SagaTicket	next;
	SagaLooked	looked = SAGA_LOOK_LATER;
	bool		others = spent || must_let_others_in();

	memset(&row, 0, sizeof(row));
	row.due = hand->look_due;
	row.saga = hand->saga;
	row.seq = -hand->seq;
	next.seq = 0;
	saga_mailbox_look();
	SAGA_FAULT("executor.before_look");
	if (saga_transaction_begin(true) == SAGA_TRANSACTION_BEGUN)
	{
		MemoryContextSwitchTo(hand->context);
		looked = saga_looking_at(&row, 1, 0, others ? InvalidOid : GetUserId(),
								 &next);
		SAGA_FAULT("executor.before_look_commit");
		saga_transaction_commit();
		SAGA_FAULT("executor.after_look_commit");
	}
	if (looked == SAGA_LOOK_LATER)
		saga_wakeup_post(saga_shmem_my_database(), row.due);
	if (next.seq == 0)
		return false;
	saga_mailbox_next(&next);
	hand->ticket = next;
	return true;
}

/*
 * Looks at the saga after SAGA_WALK_LOOK, and takes the next ticket in hand if
 * there is one for this process, which is not to run another if it is spent.
 */
bool
saga_action_look(bool spent)
{
	volatile bool go_on = false;

	/* It was made with the mark. */
	if (hand->look_due == 0)
	{
		if (found_next.seq == 0)
			return false;
		if (spent)
		{
			/* Nobody was woken for what this process was to go on with. */
			saga_wakeup_post(saga_shmem_my_database(), found_next.due);
			return false;
		}
		saga_mailbox_next(&found_next);
		hand->ticket = found_next;
		return true;
	}

	PG_TRY();
	{
		go_on = look_and_go_on(spent);
	}
	PG_CATCH();
	{
		ErrorData  *error = saga_transaction_fail(hand->context);

		/* That another look was first is nothing to report. */
		ereport(error->sqlerrcode == ERRCODE_T_R_SERIALIZATION_FAILURE ?
				DEBUG1 : WARNING,
				(errcode(error->sqlerrcode),
				 errmsg("could not look at a saga: %s", error->message)));
		saga_wakeup_post(saga_shmem_my_database(), hand->look_due);
	}
	PG_END_TRY();
	return go_on;
}

void
saga_action_init(void)
{
	hand = saga_in_hand_get();
}

/* ------------------------------------------------------------------------
 * The attempt
 * ------------------------------------------------------------------------ */

/* Deletes a row of the due work that stands for nothing any more. */
static SagaWalkOn
drop(const SagaDue *due)
{
	(void) saga_ledger_delete_due(due);
	saga_transaction_commit();
	return SAGA_WALK_DONE;
}

static SagaWalkOn
put_down(SagaWalkOn how)
{
	saga_transaction_commit();
	return how;
}

/*
 * Finds what the ticket is about, and holds the step's row.  False: "result"
 * says what becomes of the ticket, and there is no transaction.
 */
static bool
find_work(SagaDue *due, SagaRow *saga, SagaStep *step, SagaWalkOn *result)
{
	const SagaTicket *ticket = &hand->ticket;

	switch (saga_ledger_find_due(GetUserId(), ticket->due, &ticket->saga,
								 ticket->seq, due))
	{
		case SAGA_FOUND:
			break;
		case SAGA_MISSING:
			*result = put_down(SAGA_WALK_DONE);
			return false;
		case SAGA_BUSY:
			*result = put_down(SAGA_WALK_SKIP);
			return false;
	}
	if (saga_ledger_get_saga(&ticket->saga, saga) != SAGA_FOUND)
		*result = drop(due);
	else if (TransactionIdIsValid(saga->version.writer))
		*result = put_down(SAGA_WALK_SKIP);
	else if (due->due > saga_clock_now())
	{
		/*
		 * Not due, by a clock that was set back: the worker handed it out,
		 * and has read on.
		 */
		*result = put_down(SAGA_WALK_DONE);
		saga_wakeup_post(saga_shmem_my_database(), due->due);
	}
	/* Should it run again, what goes on is made due anew (afresh.c). */
	else if (saga->state != SAGA_RUNNING)
		*result = drop(due);
	/* Its row stays: when it goes on, all lanes are read from the start. */
	else if (saga->paused)
		*result = put_down(SAGA_WALK_DONE);
	else if (saga_ledger_get_due_step(due, step) != SAGA_FOUND)
		*result = put_down(SAGA_WALK_SKIP);
	else if (TransactionIdIsValid(step->version.writer))
		*result = put_down(SAGA_WALK_SKIP);
	else if (saga_rows_work_due(step) != due->due)
		*result = drop(due);
	else if (saga_ledger_lock_step(step, SAGA_NOWAIT) != SAGA_WRITTEN)
	{
		saga_transaction_abort();
		*result = SAGA_WALK_SKIP;
	}
	else
		return true;
	return false;
}

/*
 * Begins a change of the running saga before its action runs.  Whoever holds the saga
 * is not waited for: false, and there is no transaction.
 */
static bool
begin_before(SagaChange *change, SagaRow *saga)
{
	if (!saga_ledger_lock(&saga->id, ShareLock, SAGA_NOWAIT) ||
		saga_ledger_reread_saga(saga, SAGA_NOWAIT) != SAGA_FOUND ||
		saga->state != SAGA_RUNNING)
	{
		saga_transaction_abort();
		return false;
	}
	saga_change_begin(change, saga, NULL, 0, saga_clock_now());
	return true;
}

/* Writes it; the same if somebody holds what it changes. */
static bool
write_before(SagaChange *change)
{
	if (saga_change_write(change) == SAGA_WRITTEN)
		return true;
	saga_transaction_abort();
	return false;
}

/*
 * There is no attempt: a person must mend something first ("why"), or the time of the
 * step was over before (NULL).
 */
static SagaWalkOn
settle_without(SagaRow *saga, SagaStep *step, const char *why)
{
	SagaChange	change;

	if (!begin_before(&change, saga))
		return SAGA_WALK_SKIP;
	if (why != NULL)
		saga_look_park(&change, step, why);
	else
	{
		saga_look_time_out(&change, step);
		saga_change_look(&change, -step->seq);
	}
	return write_before(&change) ? put_down(SAGA_WALK_DONE) : SAGA_WALK_SKIP;
}

/*
 * Takes up the step of the ticket: finds it, and makes sure that its action may run.
 * False: "result" says what becomes of the ticket, and there is no transaction.
 */
static bool
take_up(bool alone, SagaDue *due, SagaRow *saga, SagaStep *step, SagaWalkOn *result)
{
	const char *why;
	bool		outdated;

	if (!find_work(due, saga, step, result))
		return false;
	if (step->forward.crashes >= 0 && !alone)
	{
		hand->alone_ms = saga_in_hand_window(&step->forward);
		*result = put_down(SAGA_WALK_ALONE);
		return false;
	}
	if (saga_rows_timeout_at(step) != 0 &&
		saga_rows_timeout_at(step) <= saga_clock_now())
	{
		*result = settle_without(saga, step, NULL);
		return false;
	}
	why = saga_session_why_not(saga, step, &outdated);
	if (why != NULL || outdated)
	{
		*result = outdated ? put_down(SAGA_WALK_LEAVE) :
			settle_without(saga, step, why);
		return false;
	}
	saga_in_hand_prepare(step, true, saga_clock_now());
	return true;
}

/* Must the step be undone although nothing of its action is committed? */
static bool
acts_outside(const SagaStep *step)
{
	return step->compensate_on == SAGA_COMPENSATE_ON_STARTED &&
		step->comp_status == SAGA_COMP_REGISTERED;
}

/*
 * Writes that an attempt of the step begins, and commits that so that nothing takes it
 * back.  False: somebody holds the saga; there is no transaction.
 */
static bool
write_begun(SagaRow *saga, SagaStep *step)
{
	SagaChange	change;

	if (!begin_before(&change, saga))
		return false;
	step->begun = saga_start_order_next(&saga->id);
	saga_change_only_step(&change, step);
	if (!write_before(&change))
		return false;
	saga_session_commit_durably();
	return true;
}

/*
 * The transaction of an attempt.  Errors are the caller's.  When it returns,
 * there is no transaction.
 */
SagaWalkOn
saga_action_try(bool alone)
{
	SagaDue		due;
	SagaRow		saga;
	SagaStep	step;
	SagaPolicy	policy;
	DestReceiver *output;
	SagaWalkOn	result;
	int			isolation;
	bool		outside;
	const SagaAgain *again;
	bool		look = false;

	found_next.seq = 0;
	saga_following_begin();
	if (!saga_in_hand_begin(&result))
		return result;
	if (!take_up(alone, &due, &saga, &step, &result))
		return result;
	isolation = saga_session_isolation(&step);
	outside = acts_outside(&step) && step.rounds == 0;
	if (outside || isolation != XactIsoLevel)
	{
		/* The isolation level counts when a transaction begins. */
		if (!outside)
			saga_transaction_commit();
		else if (!write_begun(&saga, &step))
			return SAGA_WALK_SKIP;
		SAGA_FAULT("executor.after_begun");
		if (saga_transaction_begin_at(isolation) != SAGA_TRANSACTION_BEGUN)
			return SAGA_WALK_SKIP;
		MemoryContextSwitchTo(hand->context);
		if (!take_up(alone, &due, &saga, &step, &result))
			return result;
	}
	if (step.rounds == 0 && !outside)
		step.begun = saga_start_order_next(&saga.id);
	limit_time(&step, &policy);

	saga_in_hand_open(&step);
	output = saga_output_receiver(hand->context);
	hand->end.rows =
		saga_in_hand_run_sql(&step, &policy,
							 saga_context_build_forward(&saga, &step,
														hand->end.attempt,
														read_inputs(&saga, &step)),
							 output);

	refuse_circles(&step);
	SAGA_FAULT("executor.before_mark");
	hand->end.outcome = SAGA_OUTCOME_SUCCEEDED;
	again = saga_again_asked();
	if (again != NULL)
		succeed_round(&saga, &step, again);
	else
	{
		step.forward.output = saga_output_take(output);
		look = succeed(&saga, &step, &due);
	}
	saga_in_hand_commit();
	saga_following_committed();

	if (hand->end.again)
		return after_round(saga_rows_work_due(&step));
	return look ? SAGA_WALK_LOOK : SAGA_WALK_DONE;
}

/* ------------------------------------------------------------------------
 * Writing down how an attempt failed
 * ------------------------------------------------------------------------ */

/*
 * Records an attempt of a step that is not what it was when that began: it was given
 * up, or waits afresh, or another attempt was faster.  The attempt counts for nothing
 * but the history.
 */
static void
record_for_history(SagaChange *change, SagaStep *step, const SagaAttemptEnd *end)
{
	step->forward.attempts = end->attempt;
	if (step->status != SAGA_STEP_COMPLETED)
		step->attempt_at = end->started_at;
	saga_change_only_step(change, step);
	saga_change_attempt(change, step, end);
}

/*
 * Records an attempt of a saga that no longer goes forward.  The undo has waited for
 * it.
 */
static void
record_in_undo(SagaChange *change, SagaStep *step, const SagaAttemptEnd *end)
{
	saga_outcome_take_forward(step, end, change->now);
	step->forward.retry_at = 0;
	step->parked = NULL;
	saga_change_step(change, step);
	saga_change_attempt(change, step, end);
	if (change->saga->state == SAGA_COMPENSATING)
		saga_follow_leave_to_worker(change);
	else
		saga_follow_rest(change);
}

/*
 * Records an attempt that did not succeed, in the caller's transaction, which is
 * to be rolled back if that must be done later.
 *
 * Of an attempt that has done nothing, since nothing of it is committed, and that
 * nobody waits for any more, nothing is recorded.
 *
 * SAGA_RECORD_LOST: a crash has lost what made the action due, so that there is
 * nothing to record.
 */
SagaRecorded
saga_action_record(const pg_uuid_t *id, int64 seq, const SagaAttemptEnd *of)
{
	SagaAttemptEnd end = *of;
	SagaRow		saga;
	SagaSteps	steps;
	SagaStep   *step;
	SagaChange	change;
	int			index;
	bool		due;
	bool		lost;

	if (saga_ledger_get_saga(id, &saga) != SAGA_FOUND)
		return SAGA_RECORDED;
	if (!saga_ledger_lock(id, ShareLock, SAGA_NOWAIT) ||
		saga_ledger_reread_saga(&saga, SAGA_NOWAIT) == SAGA_BUSY)
		return SAGA_RECORD_LATER;
	saga_ledger_get_steps_now(id, &steps);
	index = saga_next_find(&steps, seq);
	/* A crash has lost that it was recorded. */
	if (index < 0)
		return SAGA_RECORD_LOST;
	step = &steps.step[index];
	due = saga_rows_work_due(step) != 0;
	lost = !due && step->status == SAGA_STEP_WAITING &&
		step->rolled_back_at == 0 && saga.state == SAGA_RUNNING;

	/*
	 * Somebody has written it down before; or it was a round, and is
	 * committed.
	 */
	if (step->attempt_at == of->started_at)
		return SAGA_RECORDED;
	if ((step->compensate_on != SAGA_COMPENSATE_ON_STARTED || step->begun == 0) &&
		(!due || !saga_rows_goes_forward(&saga)))
		return lost ? SAGA_RECORD_LOST : SAGA_RECORDED;
	if (step->forward.attempts >= of->attempt &&
		saga_ledger_has_attempt(step, of->started_at))
		return SAGA_RECORDED;
	/* Another attempt is under way, of a step that was made due again. */
	if (saga_ledger_lock_step(step, SAGA_NOWAIT) != SAGA_WRITTEN)
		return SAGA_RECORD_LATER;

	/* An attempt before this one may have been lost with a crash. */
	end.attempt = step->forward.attempts + 1;
	saga_change_begin(&change, &saga, &steps, 0, saga_clock_now());
	if (!due || step->forward.attempts >= of->attempt ||
		saga.state == SAGA_COMPLETED)
		record_for_history(&change, step, &end);
	else if (saga_rows_goes_forward(&saga))
		saga_look_attempt(&change, step, &end);
	else
		record_in_undo(&change, step, &end);
	if (saga_change_write(&change) != SAGA_WRITTEN)
		return SAGA_RECORD_LATER;
	return lost ? SAGA_RECORD_LOST : SAGA_RECORDED;
}

/*
 * One try, in a transaction of its own, from what the ledger says now.  True
 * if there is nothing left to write down.
 */
bool
saga_action_record_failure(void)
{
	bool		done;

	if (!saga_in_hand_begin_record(&done))
		return done;
	if (saga_action_record(&hand->saga, hand->seq, &hand->end) == SAGA_RECORD_LATER)
	{
		saga_transaction_abort();
		return false;
	}
	saga_transaction_commit();
	return true;
}

/* ------------------------------------------------------------------------
 * For the undo
 * ------------------------------------------------------------------------ */

/*
 * Ends the actions of all sagas that no longer go forward, in the worker's
 * transaction.  Every executor may have one in hand, and then none is left for the
 * undo, which would end it.  Returns true if any is in hand still: call again soon.
 */
bool
saga_action_end_failing(void)
{
	SagaRunning running[SAGA_MAX_EXECUTORS];
	int			count = saga_mailbox_actions(running);
	bool		again = false;

	for (int i = 0; i < count; i++)
	{
		SagaRow		saga;

		if (running[i].pid == 0 ||
			saga_ledger_get_saga(&running[i].saga, &saga) != SAGA_FOUND ||
			saga.state == SAGA_RUNNING)
			continue;
		again = true;
		if (running[i].seq != 0)
			(void) kill(running[i].pid, SIGINT);
	}
	return again;
}

/*
 * The undo of a saga has begun: ends those of its actions that still run, none of
 * which can commit.  Returns true if a process has one in hand.  The undo waits until
 * that is put down, since the end of the attempt may make the step one that must be
 * undone.
 */
bool
saga_action_end_all(const pg_uuid_t *id)
{
	SagaRunning running[SAGA_MAX_EXECUTORS];
	int			count = saga_mailbox_actions(running);
	bool		found = false;

	for (int i = 0; i < count; i++)
	{
		if (!saga_ids_equal(&running[i].saga, id) || running[i].pid == 0)
			continue;
		found = true;
		if (running[i].seq != 0)
			(void) kill(running[i].pid, SIGINT);
	}
	return found;
}
