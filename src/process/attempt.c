/*-------------------------------------------------------------------------
 *
 * attempt.c
 *	  One attempt of a compensation; and what follows the failure of any attempt.
 *
 * An attempt of an action is alike, and in action.c.  What both share is in
 * in_hand.c (the record in flight, running the SQL) and here (judging the error,
 * recording the failure, leaving).  An attempt is one transaction:
 *
 *	1. Find the saga, its steps, and which one is next (next.c).
 *	2. Note in the in-flight file which step is about to run (inflight.c).
 *	3. Run the SQL.  No lock on the saga is held, so that it can be paused,
 *	   canceled, abandoned meanwhile.
 *	4. Mark the step and write the attempt (change.c).  If the step has changed
 *	   meanwhile, or is not the next any more, the attempt is rolled back.
 *	5. Commit, asynchronously.
 *
 * If anything fails, the transaction is rolled back as a whole, and a second
 * one records how the attempt ended, unless the worker has done so from the
 * in-flight file.  If another transaction is writing the saga, that is left to
 * the worker.  Errors of the SQL are not logged: they are in the ledger.
 *
 * The steps of a saga are read once and kept as long as the saga's row is the
 * version that this process wrote last: a transaction that changes a step of a
 * failing saga replaces that row, too.  What attempts leave in the walk's context
 * is freed when the steps are read again, which is once in as many attempts as there
 * are steps; so time is linear and memory flat.
 *
 * Memory: the attempt's context, reset before each attempt; walk_context, for the
 * steps, reset when they are read again.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/htup_details.h"
#include "access/xact.h"
#include "base/clock.h"
#include "base/errors.h"
#include "base/fault.h"
#include "base/sender.h"
#include "flow/context.h"
#include "flow/events.h"
#include "flow/next.h"
#include "ledger/ledger.h"
#include "ledger/oids.h"
#include "mb/pg_wchar.h"
#include "miscadmin.h"
#include "process/action.h"
#include "process/attempt.h"
#include "process/bgworker.h"
#include "process/inflight.h"
#include "process/pool.h"
#include "process/session.h"
#include "process/transaction.h"
#include "shared/mailbox.h"
#include "shared/wakeup.h"
#include "storage/pmsignal.h"
#include "utils/builtins.h"
#include "utils/memutils.h"
#include "utils/timestamp.h"

/*
 * How long to keep trying to mark a step while another transaction writes its
 * saga (ms).
 */
#define MARK_MS		100
/* How long to try to record a failed attempt before leaving it to the worker (ms). */
#define RECORD_MS	500
/* Fewest attempts between two readings of the steps. */
#define REREAD		256

/* The steps of the saga in hand. */
typedef struct Walk
{
	bool		valid;
	SagaSteps	steps;
	int			uses;			/* attempts since they were read */
	bool		spent;			/* the process must not run another attempt */
	ItemPointerData saga_tid;	/* the version of the saga's row that we know */
	TransactionId saga_xmin;
	uint64		generation;		/* of the tables, when the steps were read */
} Walk;

static SagaInHand *hand = NULL;
static Walk walk;
static Oid	my_role = InvalidOid;
static MemoryContext walk_context = NULL;

/* ------------------------------------------------------------------------
 * Leaving
 * ------------------------------------------------------------------------ */

/* Leaves what is known of the attempt's end to the worker, which writes it down. */
static void
leave_to_worker(void)
{
	SagaInflightEnd end;

	memset(&end, 0, sizeof(end));
	end.outcome = (char) hand->end.outcome;
	end.charged = hand->end.charged;
	end.conflict = hand->end.conflict;
	end.waits = hand->end.waits;
	end.park = hand->end.park != NULL;
	end.mend = hand->end.mend;
	end.at = saga_clock_now();
	if (hand->end.sqlstate != NULL)
		strlcpy(end.sqlstate, hand->end.sqlstate, sizeof(end.sqlstate));
	if (hand->end.error != NULL)
	{
		int			length = pg_mbcliplen(hand->end.error,
										  strlen(hand->end.error),
										  SAGA_INFLIGHT_ERROR_LEN - 1);

		memcpy(end.error, hand->end.error, length);
	}
	saga_inflight_leave(&end);
	saga_pool_leave_record();
}

/*
 * The process ends while an attempt is under way: is its SQL the cause?  A signal
 * that the SQL sent to its own process may take effect only later.
 */
static bool
ended_itself(void)
{
	switch (saga_sender_of_end())
	{
		case SAGA_SENDER_ANOTHER:
			return false;
		case SAGA_SENDER_ITSELF:
			return hand->phase >= SAGA_ATTEMPT_SQL;
		case SAGA_SENDER_NOBODY:
			break;
	}
	return hand->phase == SAGA_ATTEMPT_SQL;
}

/*
 * The process ends: what is in flight is left for the worker to record.  When
 * the postmaster is gone, the record stays "running": for all we know, it is
 * what the SQL did.
 */
void
saga_attempt_at_exit(int code)
{
	if (!saga_in_hand_is_open())
		saga_inflight_close();
	else if (!PostmasterIsAlive())
		return;
	else if (hand->judged)
		leave_to_worker();
	else if (!saga_inflight_timed_out() && ended_itself())
	{
		saga_outcome_of_own_exit(&hand->end);
		leave_to_worker();
	}
	else
		saga_inflight_mark(SAGA_INFLIGHT_CUT);
}

/* ------------------------------------------------------------------------
 * One attempt
 * ------------------------------------------------------------------------ */

/* Reads the steps, unless those at hand are still what the ledger says. */
static void
get_steps(const SagaRow *saga)
{
	HeapTuple	tuple = saga->version.tuple;

	if (!walk.valid ||
		walk.generation != saga_oids_generation() ||
		!ItemPointerEquals(&walk.saga_tid, &tuple->t_self) ||
		walk.saga_xmin != HeapTupleHeaderGetRawXmin(tuple->t_data) ||
		walk.uses > Max(walk.steps.count, REREAD))
	{
		MemoryContext caller;

		walk.valid = false;
		MemoryContextReset(walk_context);
		caller = MemoryContextSwitchTo(walk_context);
		saga_ledger_get_steps(&saga->id, &walk.steps);
		MemoryContextSwitchTo(caller);
		walk.uses = 0;
		walk.generation = saga_oids_generation();
	}
	walk.uses++;
	/* Until this attempt is committed, nobody knows what is in there. */
	walk.valid = false;
}

static void
know_version(const SagaRow *saga)
{
	walk.saga_tid = saga->version.tuple->t_self;
	walk.saga_xmin = HeapTupleHeaderGetRawXmin(saga->version.tuple->t_data);
	walk.valid = true;
}

/* Is there something for this process to do, now? */
static bool
is_for_me(const SagaRow *saga, TimestampTz now)
{
	return saga->state == SAGA_COMPENSATING && !saga->paused &&
		saga->due != 0 && saga->due <= now && saga->lane == my_role;
}

/*
 * Makes sure that nobody is writing the saga's row, and that what the attempt
 * was about is as it was found; waits a little, in case that somebody is about
 * to be done.  Returns where the step is now: the saga may have been paused,
 * or be failing for another reason, and then the steps are read again.
 */
static int
check_unchanged(SagaRow *saga, int index)
{
	ItemPointerData tid = saga->version.tuple->t_self;
	TransactionId xmin = HeapTupleHeaderGetRawXmin(saga->version.tuple->t_data);
	HeapTuple	step = walk.steps.step[index].version.tuple;
	ItemPointerData step_tid = step->t_self;
	TransactionId step_xmin = HeapTupleHeaderGetRawXmin(step->t_data);
	SagaTask	task;
	int			waited = 0;
	SagaFound	found;

	while ((found = saga_ledger_reread_saga(saga, SAGA_NOWAIT)) == SAGA_BUSY &&
		   waited < MARK_MS)
	{
		saga_pool_sleep(5);
		CHECK_FOR_INTERRUPTS();
		waited += 5;
	}
	if (found == SAGA_FOUND &&
		ItemPointerEquals(&tid, &saga->version.tuple->t_self) &&
		xmin == HeapTupleHeaderGetRawXmin(saga->version.tuple->t_data))
		return index;

	if (found == SAGA_FOUND && saga->state == SAGA_COMPENSATING)
	{
		get_steps(saga);
		index = saga_next_find(&walk.steps, hand->seq);
		if (index >= 0)
		{
			step = walk.steps.step[index].version.tuple;
			saga_next(saga, &walk.steps, &task);
			if (ItemPointerEquals(&step_tid, &step->t_self) &&
				step_xmin == HeapTupleHeaderGetRawXmin(step->t_data) &&
				task.kind == SAGA_TASK_SQL && task.index == index)
				return index;
		}
	}
	saga_in_hand_was_changed();
}

/* Marks the step with the attempt's end, in the walk's context. */
static bool
settle(SagaRow *saga, int index)
{
	MemoryContext caller = MemoryContextSwitchTo(walk_context);
	SagaChange	change;
	SagaWritten written;

	saga_change_begin(&change, saga, &walk.steps, 0, saga_clock_now());
	saga_events_attempt(&change, &walk.steps.step[index], &hand->end);
	written = saga_change_write(&change);
	MemoryContextSwitchTo(caller);
	return written == SAGA_WRITTEN;
}

/* There is no attempt: writes what follows from that, and goes on with "then". */
static SagaWalkOn
end_without(SagaChange *change, SagaWalkOn then)
{
	if (saga_change_write(change) != SAGA_WRITTEN)
	{
		saga_transaction_abort();
		return SAGA_WALK_SKIP;
	}
	saga_transaction_commit();
	return then;
}

static void
run_sql(SagaRow *saga, SagaStep *step)
{
	SagaPolicy	policy;

	saga_outcome_policy(step, &policy);
	saga_in_hand_open(step);
	hand->end.rows =
		saga_in_hand_run_sql(step, &policy,
							 saga_context_build(saga, step,
												hand->end.attempt, false),
							 NULL);
}

/*
 * The transaction of an attempt.  Errors are the caller's.  When it returns,
 * there is no transaction.
 */
static SagaWalkOn
try_step(bool alone)
{
	SagaRow		saga;
	SagaTask	task;
	SagaStep   *step;
	SagaChange	change;
	const char *why;
	bool		outdated;
	TimestampTz now;
	SagaWalkOn	result;

	if (!saga_in_hand_begin(&result))
		return result;
	if (saga_ledger_get_saga(&hand->saga, &saga) != SAGA_FOUND)
	{
		saga_transaction_commit();
		return SAGA_WALK_DONE;
	}
	if (TransactionIdIsValid(saga.version.writer))
	{
		saga_transaction_commit();
		return SAGA_WALK_SKIP;
	}

	/*
	 * Read the clock only now, so that it is later than every attempt
	 * recorded in the row.
	 */
	now = saga_clock_now();
	if (!is_for_me(&saga, now))
	{
		saga_transaction_commit();

		/*
		 * Not due, by a clock that was set back: the worker handed it out,
		 * and has read on.
		 */
		if (saga.due > now)
			saga_wakeup_post(saga_shmem_my_database(), saga.due);
		return SAGA_WALK_DONE;
	}

	get_steps(&saga);
	saga_next(&saga, &walk.steps, &task);
	if (task.kind != SAGA_TASK_SQL ||
		walk.steps.step[task.index].run_as != my_role)
	{
		/* In the wrong lane: let it be put where it belongs. */
		saga_change_begin(&change, &saga, &walk.steps, 0, now);
		saga_events_pass(&change);
		return end_without(&change, SAGA_WALK_DONE);
	}
	step = &walk.steps.step[task.index];
	if (step->undo.crashes >= 0 && !alone)
	{
		hand->alone_ms = saga_in_hand_window(&step->undo);
		saga_transaction_commit();
		return SAGA_WALK_ALONE;
	}

	why = saga_session_why_not(&saga, step, &outdated);
	if (outdated)
	{
		/* The worker starts another for what is due. */
		saga_transaction_commit();
		return SAGA_WALK_LEAVE;
	}

	if (why != NULL)
	{
		saga_change_begin(&change, &saga, &walk.steps, 0, now);
		saga_events_park(&change, step, why);
		/* The saga may go on without it; that is for the ledger to say. */
		return end_without(&change, SAGA_WALK_ON);
	}

	saga_in_hand_prepare(step, false, now);
	run_sql(&saga, step);
	SAGA_FAULT("executor.before_mark");
	hand->end.outcome = SAGA_OUTCOME_SUCCEEDED;
	task.index = check_unchanged(&saga, task.index);
	if (!settle(&saga, task.index))
		saga_in_hand_was_changed();
	saga_in_hand_commit();
	walk.steps.step[task.index].version.own = false;
	know_version(&saga);
	return is_for_me(&saga, saga_clock_now()) ? SAGA_WALK_ON : SAGA_WALK_DONE;
}

/* What is known of an error besides what it says of itself. */
static SagaAttemptCause
cause_of(const ErrorData *error, bool timed_out)
{
	if (hand->changed)
		return SAGA_CAUSE_CHANGED;
	if (error->sqlerrcode != ERRCODE_QUERY_CANCELED)
		return SAGA_CAUSE_NONE;
	if (timed_out)
		return SAGA_CAUSE_TIMEOUT;
	switch (saga_sender_of_cancel())
	{
		case SAGA_SENDER_ANOTHER:
			return SAGA_CAUSE_CANCELED;
		case SAGA_SENDER_ITSELF:
			return SAGA_CAUSE_ITSELF;
		case SAGA_SENDER_NOBODY:
			break;
	}
	return SAGA_CAUSE_NONE;
}

/* An attempt, with its errors caught. */
static SagaWalkOn
attempt_step(bool alone)
{
	SagaWalkOn	result;

	MemoryContextReset(hand->context);
	memset(&hand->end, 0, sizeof(hand->end));
	hand->phase = SAGA_ATTEMPT_LOOKING;
	hand->judged = false;
	hand->sql_hash = 0;
	hand->changed = false;
	hand->trouble = SAGA_TROUBLE_NONE;
	saga_sender_forget_cancel();

	PG_TRY();
	{
		result = hand->ticket.seq != 0 ? saga_action_try(alone) :
			try_step(alone);
	}
	PG_CATCH();
	{
		ErrorData  *error;
		bool		timed_out;

		HOLD_INTERRUPTS();
		timed_out = saga_session_timed_out();
		saga_session_disarm();
		error = saga_transaction_fail(hand->context);
		RESUME_INTERRUPTS();
		walk.valid = false;
		if (hand->phase == SAGA_ATTEMPT_LOOKING)
		{
			ereport(WARNING,
					(errcode(error->sqlerrcode),
					 errmsg("could not process a saga that is due: %s",
							error->message)));
			hand->trouble = SAGA_TROUBLE_ANYBODYS;
			result = SAGA_WALK_SKIP;
		}
		else
		{
			saga_outcome_of_error(hand->phase, cause_of(error, timed_out),
								  error->sqlerrcode, error->message,
								  &hand->end);
			if (hand->end.trouble && hand->trouble == SAGA_TROUBLE_NONE)
				hand->trouble = SAGA_TROUBLE_ANYBODYS;
			hand->judged = true;
			result = SAGA_WALK_RECORD;
		}
	}
	PG_END_TRY();
	MemoryContextSwitchTo(hand->context);
	saga_mailbox_set_step(SAGA_PHASE_COMPENSATION, 0, 0, 0);
	if (hand->phase >= SAGA_ATTEMPT_PREPARING)
		walk.spent = !saga_session_reset();
	return result;
}

/* ------------------------------------------------------------------------
 * Writing down how an attempt failed
 * ------------------------------------------------------------------------ */

/*
 * What failed is not what the step says now: saga.amend came between our
 * reading the step and our saying that it runs.  That is not the fault of what
 * it says now.
 */
static void
excuse_amended(const SagaStep *step)
{
	if (hand->sql_hash == 0 ||
		(step->compensation != NULL &&
		 saga_in_hand_hash(step->compensation) == hand->sql_hash))
		return;
	hand->end.outcome = SAGA_OUTCOME_INTERRUPTED;
	hand->end.charged = false;
	hand->end.conflict = false;
	hand->end.park = NULL;
	hand->end.sqlstate = NULL;
	hand->end.error = "its compensation was amended while the attempt was under way";
}

/*
 * One try, in a transaction of its own, from what the ledger says now.  True
 * if there is nothing left to write down.
 */
static bool
try_to_record(void)
{
	SagaRow		saga;
	SagaWritten written = SAGA_CHANGED;
	bool		done;
	int			i;

	if (!saga_in_hand_begin_record(&done))
		return done;
	if (saga_ledger_get_saga(&hand->saga, &saga) != SAGA_FOUND)
	{
		saga_transaction_commit();
		return true;
	}
	if (TransactionIdIsValid(saga.version.writer))
	{
		saga_transaction_commit();
		return false;
	}

	get_steps(&saga);
	i = saga_next_find(&walk.steps, hand->seq);
	if (i < 0)
	{
		/* It moved while the steps were read. */
		saga_transaction_commit();
		return false;
	}
	if (walk.steps.step[i].undo.attempts != hand->end.attempt - 1)
	{
		saga_transaction_commit();
		return true;
	}
	excuse_amended(&walk.steps.step[i]);
	if (settle(&saga, i))
		written = SAGA_WRITTEN;
	if (written != SAGA_WRITTEN)
	{
		saga_transaction_abort();
		return false;
	}
	saga_transaction_commit();
	walk.steps.step[i].version.own = false;
	know_version(&saga);
	return true;
}

/* False: it is left to the worker. */
static bool
record_failure(void)
{
	MemoryContext context = AllocSetContextCreate(TopMemoryContext,
												  "saga failed attempt",
												  ALLOCSET_SMALL_SIZES);
	volatile bool done = false;
	int			waited = 0;
	int			pause = 10;

	while (!done)
	{
		PG_TRY();
		{
			done = hand->ticket.seq != 0 ? saga_action_record_failure() :
				try_to_record();
		}
		PG_CATCH();
		{
			ErrorData  *error = saga_transaction_fail(context);

			walk.valid = false;
			/* The message may quote what the SQL was about. */
			ereport(WARNING,
					(errcode(error->sqlerrcode),
					 errmsg("could not record how an attempt ended: SQLSTATE %s",
							unpack_sql_state(error->sqlerrcode))));
			pause = SAGA_ATTEMPT_TROUBLE_MS;
		}
		PG_END_TRY();
		MemoryContextSwitchTo(TopMemoryContext);
		MemoryContextReset(context);
		if (done)
			break;
		if (waited >= RECORD_MS)
		{
			/* Somebody holds the saga: others are not to wait for that. */
			if (saga_in_hand_is_open())
				leave_to_worker();
			saga_in_hand_forget();
			MemoryContextDelete(context);
			return false;
		}
		saga_pool_wait_out(pause);
		waited += pause;
		pause = Min(pause * 2, SAGA_ATTEMPT_TROUBLE_MS);
	}
	MemoryContextDelete(context);
	saga_in_hand_forget();
	saga_inflight_mark(SAGA_INFLIGHT_NONE);
	return true;
}

/* ------------------------------------------------------------------------
 * For the executor
 * ------------------------------------------------------------------------ */

void
saga_attempt_init(Oid role)
{
	my_role = role;
	hand = saga_in_hand_get();
	saga_action_init();
	hand->context = AllocSetContextCreate(TopMemoryContext, "saga attempt",
										  ALLOCSET_DEFAULT_SIZES);
	walk_context = AllocSetContextCreate(TopMemoryContext, "saga walk",
										 ALLOCSET_DEFAULT_SIZES);
}

/* Takes a ticket in hand. */
void
saga_attempt_take(const SagaTicket *ticket, bool handed_over)
{
	hand->ticket = *ticket;
	hand->slice_begun = saga_clock_steady();
	hand->saga = ticket->saga;
	hand->seq = 0;
	hand->trouble = SAGA_TROUBLE_NONE;
	walk.valid = false;

	/*
	 * Before the worker hands out a ticket, it asks whether this is a copy;
	 * the transaction that made something due did not.
	 */
	hand->doubt_home = handed_over;
	saga_bgworker_at(&hand->saga, 0);
}

/* Runs the next attempt of the ticket in hand, and records it if it failed. */
SagaWalkOn
saga_attempt_run(bool alone)
{
	SagaWalkOn	result = attempt_step(alone);

	if (result == SAGA_WALK_RECORD)
	{
		/* Perhaps it is due again at once; that is for the ledger to say. */
		result = record_failure() ? SAGA_WALK_ON : SAGA_WALK_SKIP;
		if (hand->trouble == SAGA_TROUBLE_READ_ONLY)
			result = SAGA_WALK_LEAVE;
		else if (hand->trouble != SAGA_TROUBLE_NONE)
			result = SAGA_WALK_SKIP;
	}
	else if (result == SAGA_WALK_LOOK)
		result = saga_action_look(walk.spent) ? SAGA_WALK_ON : SAGA_WALK_DONE;
	/* What is due, here or in the mailbox, is for another process. */
	if (walk.spent)
		result = SAGA_WALK_LEAVE;
	saga_bgworker_at(&hand->saga, 0);
	return result;
}

/* After SAGA_WALK_ALONE: for how long the next attempt is to run alone (ms). */
int64
saga_attempt_alone_ms(void)
{
	return hand->alone_ms;
}

/* Did the last attempt meet something that only time, or a DBA, can mend? */
bool
saga_attempt_in_trouble(void)
{
	return hand->trouble != SAGA_TROUBLE_NONE;
}

/* The ticket is put down. */
void
saga_attempt_put_down(void)
{
	MemoryContextReset(hand->context);
	MemoryContextReset(walk_context);
	walk.valid = false;
	saga_bgworker_at(NULL, 0);
}

/* In a signal handler: the server stops at once, which accuses nobody. */
void
saga_attempt_at_stop(void)
{
	if (saga_in_hand_is_open())
		saga_inflight_mark(SAGA_INFLIGHT_CUT);
}
