/*-------------------------------------------------------------------------
 *
 * dispatch.c
 *	  Moving a saga on: its failure, the outcomes of compensations, claims,
 *	  late results.
 *
 * What is next is walk.c's to say; here it is written down.  Each function
 * takes the rows as they were read, changes them, and writes them, the saga's
 * row first: that row is where two writers meet (see ledger.c), and when it
 * says SAGA_CHANGED or SAGA_WRITE_BUSY nothing else has been written yet, and
 * the caller begins anew from fresh rows.
 *
 * The caller holds no lock but the saga's own where the saga is still running
 * (saga_dispatch_fail), and has made sure that nobody is writing the saga's
 * row.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "dispatch.h"
#include "json.h"
#include "notify.h"
#include "utils/builtins.h"
#include "walk.h"

/* Our own processes do not wait for others; a caller does. */
static SagaPatience
patience_of(SagaHand hand)
{
	return hand == SAGA_HAND_CALLER ? SAGA_WAIT : SAGA_NOWAIT;
}

/* Writes a step behind its saga's row, which this transaction has replaced. */
static void
write_step(const SagaRow *saga, SagaStep *step)
{
	if (saga_ledger_update_step(saga, step, SAGA_NOWAIT) != SAGA_WRITTEN)
		elog(ERROR, "a step changed without its saga");
}

/*
 * Steps later than the one at "index" that the walk passes over are settled
 * by that; says so in their rows.  A result of theirs that comes in later then
 * finds that it is too late.
 */
static void
skip_passed_over(const SagaRow *saga, SagaSteps *steps, int index)
{
	for (int i = steps->frontier - 1; i > index; i--)
	{
		SagaStep   *step = &steps->step[i];

		if (!saga_walk_in_range(saga, step) ||
			!saga_walk_passes_over(saga, step))
			continue;
		step->comp_status = SAGA_COMP_SKIPPED;
		write_step(saga, step);
	}
}

/*
 * What waits for a listener waits no longer, since the walk stands still; the
 * saga's row has been replaced.
 */
static void
withdraw(const SagaRow *saga, SagaSteps *steps)
{
	for (int i = 0; i < steps->count; i++)
	{
		if (saga_rows_queued(&steps->step[i]) == 0)
			continue;
		steps->step[i].comp_status = SAGA_COMP_PENDING;
		write_step(saga, &steps->step[i]);
	}
}

static Jsonb *
detail_of(const char *key, const char *value)
{
	SagaJson	json;

	saga_json_begin(&json);
	saga_json_string(&json, key, value);
	return saga_json_end(&json);
}

/*
 * When a saga that is being undone, and waits for something, must be looked
 * at: then (0: it is told), or at its deadline, which makes of a partial undo
 * a full one.
 */
static void
wait_until(SagaRow *saga, TimestampTz when, Oid lane)
{
	if (saga->deadline != 0 && saga->failure_kind == SAGA_FAILURE_NONE &&
		!saga->paused && (when == 0 || saga->deadline < when))
		saga_ledger_set_due(saga, saga->deadline, InvalidOid);
	else
		saga_ledger_set_due(saga, when, lane);
}

/*
 * Due at once in the lane of a role, unless it is so already: an executor that
 * walks on need not be told.
 */
static void
due_for_executor(SagaRow *saga, TimestampTz now, Oid lane)
{
	if (saga->due == 0 || saga->due > now || saga->lane != lane ||
		saga->to_announce != NULL)
		saga_ledger_set_due(saga, now, lane);
}

/*
 * Sets the saga's row to what follows from its steps, and writes everything:
 * the saga's row, the one step whose row "changed" points to (or NULL), and
 * what the walk passed over or rolled back.
 *
 * Only the worker dispatches to listeners and parks a saga; whoever else
 * comes to such a step ("hand" tells who it is) leaves the saga to it.
 */
static SagaWritten
advance(SagaRow *saga, SagaSteps *steps, SagaStep *changed, SagaHand hand,
		TimestampTz now)
{
	/* A full undo is one that has a reason; a partial one has a savepoint. */
	bool		full = saga->failure_kind != SAGA_FAILURE_NONE;
	bool		was_parked = saga->state == SAGA_NEEDS_REVIEW;
	bool		rolled_back = false;
	const char *parked = NULL;
	SagaStep   *dispatched = NULL;
	SagaStep   *step = NULL;
	SagaTask	task;
	SagaWritten written;

	saga->updated_at = now;
	saga_walk_next(saga, steps, &task);
	if (task.index >= 0)
		step = &steps->step[task.index];
	if ((task.kind == SAGA_TASK_SQL || task.kind == SAGA_TASK_LISTENER) &&
		saga->state != SAGA_COMPENSATING)
		saga_ledger_enter_state(saga, SAGA_COMPENSATING, now);
	switch (task.kind)
	{
		case SAGA_TASK_SQL:
			if (saga->paused)
				wait_until(saga, 0, InvalidOid);
			else if (step->next_attempt_at > now)
				wait_until(saga, step->next_attempt_at, step->run_as);
			else
				due_for_executor(saga, now, step->run_as);
			break;
		case SAGA_TASK_LISTENER:
			if (step->claimed_at != 0)
				wait_until(saga, step->lease_until, InvalidOid);
			else if (step->comp_status == SAGA_COMP_DISPATCHED || saga->paused)
				wait_until(saga, 0, InvalidOid);
			else if (step->next_attempt_at > now)
				wait_until(saga, step->next_attempt_at, InvalidOid);
			else if (hand != SAGA_HAND_WORKER || saga->to_announce != NULL)
				saga_ledger_set_due(saga, now, InvalidOid);
			else
			{
				step->comp_status = SAGA_COMP_DISPATCHED;
				step->dispatched_at = now;
				step->next_attempt_at = 0;
				dispatched = step;
				wait_until(saga, 0, InvalidOid);
			}
			break;
		case SAGA_TASK_PERSON:

			/*
			 * The application that fails a saga sees it compensating first,
			 * whatever its last step wants.
			 */
			if (saga->state == SAGA_RUNNING)
			{
				saga_ledger_enter_state(saga, SAGA_COMPENSATING, now);
				saga_ledger_set_due(saga, now, InvalidOid);
				break;
			}
			if (!was_parked)
				saga_ledger_enter_state(saga, SAGA_NEEDS_REVIEW, now);
			saga_ledger_set_due(saga, 0, InvalidOid);
			if (!was_parked || step->parked == NULL)
				parked = task.why;
			break;
		case SAGA_TASK_NONE:
			{
				int			given_up = saga_walk_count_given_up(saga, steps);

				if (given_up > 0)
				{
					if (!was_parked)
						saga_ledger_enter_state(saga, SAGA_NEEDS_REVIEW, now);
					parked = psprintf("%d of its compensations failed, the others are done",
									  given_up);
					saga->parked = cstring_to_text(parked);
					saga_ledger_set_due(saga, 0, InvalidOid);
				}
				else if (full)
				{
					saga_ledger_enter_state(saga, SAGA_COMPENSATED, now);
					saga_ledger_set_due(saga, 0, InvalidOid);
				}
				else
				{
					saga_ledger_enter_state(saga, SAGA_RUNNING, now);
					saga_ledger_set_due(saga, saga->deadline, InvalidOid);
					rolled_back = true;
				}
				break;
			}
	}

	written = saga_ledger_update_saga(saga, patience_of(hand));
	if (written != SAGA_WRITTEN)
		return written;

	if (parked != NULL && step != NULL && step->parked == NULL)
	{
		step->parked = cstring_to_text(parked);
		if (step != changed)
			write_step(saga, step);
	}
	if (changed != NULL)
		write_step(saga, changed);
	if (dispatched != NULL && dispatched != changed)
		write_step(saga, dispatched);
	skip_passed_over(saga, steps, task.index);

	if (parked != NULL)
		saga_ledger_insert_event(&saga->id, "parked", step ? step->seq : 0,
								 detail_of("why", parked), now);
	if (dispatched != NULL)
		saga_notify_compensate(text_to_cstring(dispatched->channel),
							   &saga->id, dispatched->seq);
	if (rolled_back)
	{
		for (int i = 0; i < steps->count; i++)
		{
			if (!saga_walk_in_range(saga, &steps->step[i]))
				continue;
			steps->step[i].rolled_back_at = now;
			write_step(saga, &steps->step[i]);
		}
		saga_ledger_insert_event(&saga->id, "rolled back", 0, NULL, now);
	}
	return SAGA_WRITTEN;
}

/*
 * The terminal failure of a saga that is running, or in a partial undo, which
 * becomes a full one.
 */
SagaWritten
saga_dispatch_fail(SagaRow *saga, SagaFailureKind kind, text *reason,
				   Jsonb *details, SagaHand hand, TimestampTz now)
{
	SagaSteps	steps;
	const SagaStep *pivot;
	SagaWritten written;
	SagaJson	json;

	saga_ledger_get_steps(&saga->id, &steps);
	saga->failure_kind = kind;
	saga->reason = reason;
	saga->details = details;
	saga->failed_seq = saga_walk_failed_step(&steps);
	pivot = saga_walk_completed_pivot(&steps);
	saga->undo_target = pivot != NULL ? -1 : 0;
	if (pivot != NULL)
	{
		saga_ledger_enter_state(saga, SAGA_NEEDS_REVIEW, now);
		saga_ledger_set_due(saga, 0, InvalidOid);
		saga->parked = cstring_to_text(psprintf("it failed after its pivot \"%s\" had completed: it can only be finished, not undone",
												text_to_cstring(pivot->key)));
		written = saga_ledger_update_saga(saga, patience_of(hand));
	}
	else
		written = advance(saga, &steps, NULL, hand, now);
	if (written != SAGA_WRITTEN)
		return written;

	saga_json_begin(&json);
	saga_json_string(&json, "kind", saga_state_failure_kind_name(kind));
	saga_json_text(&json, "reason", reason);
	saga_ledger_insert_event(&saga->id, "failing", saga->failed_seq,
							 saga_json_end(&json), now);
	if (pivot != NULL)
		saga_ledger_insert_event(&saga->id, "parked", pivot->seq,
								 detail_of("why", text_to_cstring(saga->parked)),
								 now);
	return SAGA_WRITTEN;
}

/* Writes the rows of a saga that goes nowhere by that. */
static SagaWritten
write_both(SagaRow *saga, SagaStep *step, SagaHand hand, TimestampTz now)
{
	SagaWritten written;

	saga->updated_at = now;
	written = saga_ledger_update_saga(saga, patience_of(hand));
	if (written == SAGA_WRITTEN)
		write_step(saga, step);
	return written;
}

/*
 * Settles an attempt of the compensation of the step at "index", and goes on
 * with the walk.  For a success this is the mark: it belongs into the
 * transaction that did the work.
 *
 * The undo may have been parked or abandoned while the attempt was under way;
 * what it did is written down, and nothing follows from it, unless it was what
 * the saga was parked for.
 */
SagaWritten
saga_dispatch_settle(SagaRow *saga, SagaSteps *steps, int index,
					 const SagaAttemptEnd *end, SagaHand hand, TimestampTz now)
{
	SagaStep   *step = &steps->step[index];
	SagaAttempt attempt;
	SagaWritten written;

	saga_outcome_take(step, end, now);
	if (saga->state == SAGA_COMPENSATING)
		written = advance(saga, steps, step, hand, now);
	else
	{
		saga_ledger_set_due(saga, 0, InvalidOid);
		written = write_both(saga, step, hand, now);
	}
	if (written != SAGA_WRITTEN)
		return written;

	attempt.saga = step->saga;
	attempt.seq = step->seq;
	attempt.started_at = end->started_at;
	attempt.finished_at = now;
	attempt.rows = end->rows;
	attempt.attempt = end->attempt;
	attempt.phase = SAGA_PHASE_COMPENSATION;
	attempt.outcome = end->outcome;
	attempt.sqlstate = end->sqlstate;
	attempt.error = end->error;
	attempt.consumer = end->consumer;
	saga_ledger_insert_attempt(&attempt);
	return SAGA_WRITTEN;
}

/* The end of the attempt that a listener's claim began. */
void
saga_dispatch_claim_end(const SagaStep *step, SagaOutcome outcome,
						const char *error, SagaAttemptEnd *end)
{
	memset(end, 0, sizeof(SagaAttemptEnd));
	end->outcome = outcome;
	end->attempt = step->comp_attempts + 1;
	end->started_at = step->claimed_at;
	end->rows = -1;
	end->error = error;
	end->consumer = step->consumer ? text_to_cstring(step->consumer) : NULL;
	end->charged = outcome != SAGA_OUTCOME_SUCCEEDED;
}

/* A listener claims the step at "index", which waits for one. */
SagaWritten
saga_dispatch_claim(SagaRow *saga, SagaSteps *steps, int index,
					text *consumer, TimestampTz lease_until, TimestampTz now)
{
	SagaStep   *step = &steps->step[index];

	step->claimed_at = now;
	step->lease_until = lease_until;
	step->consumer = consumer;
	wait_until(saga, lease_until, InvalidOid);

	/* Whoever holds the saga's row is at this step, or about to change it. */
	return write_both(saga, step, SAGA_HAND_EXECUTOR, now);
}

/* The listener that holds a step may do so for longer. */
SagaWritten
saga_dispatch_extend(SagaRow *saga, SagaSteps *steps, int index,
					 TimestampTz lease_until, TimestampTz now)
{
	steps->step[index].lease_until = lease_until;
	if (saga->state == SAGA_COMPENSATING)
		wait_until(saga, lease_until, InvalidOid);
	else
		saga_ledger_set_due(saga, lease_until, InvalidOid);
	return write_both(saga, &steps->step[index], SAGA_HAND_CALLER, now);
}

/*
 * A listener says that the compensation of the step at "index", which was
 * dispatched once, is done.  That is believed whoever holds the step now, and
 * although it was given up: the effect is there.
 */
SagaWritten
saga_dispatch_acknowledge(SagaRow *saga, SagaSteps *steps, int index,
						  Jsonb *output, TimestampTz now)
{
	SagaStep   *step = &steps->step[index];
	SagaWritten written;

	step->comp_output = output;
	if (step->claimed_at != 0)
	{
		SagaAttemptEnd end;

		saga_dispatch_claim_end(step, SAGA_OUTCOME_SUCCEEDED, NULL, &end);
		return saga_dispatch_settle(saga, steps, index, &end,
									SAGA_HAND_CALLER, now);
	}

	/* No attempt is under way: the one that did it is over, as far as known. */
	if (step->comp_status == SAGA_COMP_FAILED)
		step->parked = NULL;
	step->comp_status = SAGA_COMP_COMPENSATED;
	step->compensated_at = now;
	step->next_attempt_at = 0;
	if (saga->state == SAGA_COMPENSATING || saga->state == SAGA_NEEDS_REVIEW)
		written = advance(saga, steps, step, SAGA_HAND_CALLER, now);
	else
		written = write_both(saga, step, SAGA_HAND_CALLER, now);
	if (written == SAGA_WRITTEN)
		saga_ledger_insert_event(&saga->id, "late acknowledgement", step->seq,
								 NULL, now);
	return written;
}

/* Nobody answers for the notification of a step: sending it is all. */
static SagaWritten
fire_and_forget(SagaRow *saga, SagaSteps *steps, int index, TimestampTz now)
{
	SagaStep   *step = &steps->step[index];
	SagaAttemptEnd end;
	SagaWritten written;

	saga_dispatch_claim_end(step, SAGA_OUTCOME_SUCCEEDED, NULL, &end);
	end.started_at = now;
	step->dispatched_at = now;

	/* What comes next is another turn's. */
	written = saga_dispatch_settle(saga, steps, index, &end,
								   SAGA_HAND_EXECUTOR, now);
	if (written == SAGA_WRITTEN)
		saga_notify_compensate(text_to_cstring(step->channel), &saga->id,
							   step->seq);
	return written;
}

/* Has the saga a deadline, which has passed and still counts? */
static bool
is_late(const SagaRow *saga, TimestampTz now)
{
	return (saga->state == SAGA_RUNNING || saga->state == SAGA_COMPENSATING) &&
		saga->deadline != 0 && saga->deadline <= now && !saga->paused &&
		saga->failure_kind == SAGA_FAILURE_NONE;
}

/* What is due of a saga that is being undone. */
static SagaWritten
turn_undo(SagaRow *saga, SagaSteps *steps, SagaHand hand, TimestampTz now)
{
	SagaTask	task;
	SagaStep   *step;

	saga_walk_next(saga, steps, &task);
	if (hand != SAGA_HAND_WORKER || task.kind != SAGA_TASK_LISTENER)
		return advance(saga, steps, NULL, hand, now);
	step = &steps->step[task.index];
	if (!step->acknowledge && !saga->paused && step->next_attempt_at <= now)
		return fire_and_forget(saga, steps, task.index, now);
	return advance(saga, steps, NULL, hand, now);
}

/* What is due of a saga, apart from announcing it. */
static SagaWritten
turn(SagaRow *saga, SagaSteps *steps, SagaHand hand, TimestampTz now)
{
	SagaStep   *claimed = saga_walk_claimed(steps);

	if (claimed != NULL && claimed->lease_until <= now)
	{
		SagaAttemptEnd end;

		saga_dispatch_claim_end(claimed, SAGA_OUTCOME_TIMED_OUT,
								"its claim ended without an acknowledgement",
								&end);
		return saga_dispatch_settle(saga, steps, claimed - steps->step, &end,
									hand, now);
	}
	if (is_late(saga, now))
		return saga_dispatch_fail(saga, SAGA_FAILURE_TIMED_OUT,
								  cstring_to_text("the deadline passed"),
								  NULL, hand, now);
	if (saga->state == SAGA_COMPENSATING)
		return turn_undo(saga, steps, hand, now);
	if (saga->state == SAGA_RUNNING && !saga->paused)
		saga_ledger_set_due(saga, saga->deadline, InvalidOid);
	else
		saga_ledger_set_due(saga, claimed ? claimed->lease_until : 0,
							InvalidOid);
	return saga_ledger_update_saga(saga, patience_of(hand));
}

/*
 * Does what is due of a saga and needs no executor: announcing it, its
 * deadline, a claim that ended, dispatching to listeners, parking it, sending
 * it to the right lane.  What only the worker may do, an executor leaves.
 */
SagaWritten
saga_dispatch_turn(SagaRow *saga, SagaSteps *steps, SagaHand hand,
				   TimestampTz now)
{
	const char *announce = NULL;
	SagaWritten written;

	if (hand == SAGA_HAND_WORKER && saga->to_announce != NULL)
	{
		announce = text_to_cstring(saga->to_announce);
		saga->to_announce = NULL;
	}
	/* What there is to tell listeners comes later, and is another turn's. */
	written = turn(saga, steps, announce ? SAGA_HAND_EXECUTOR : hand, now);
	if (written != SAGA_WRITTEN || announce == NULL)
		return written;
	for (; *announce != '\0'; announce++)
		saga_notify_state(text_to_cstring(saga->announce), &saga->id,
						  (SagaState) *announce);
	return SAGA_WRITTEN;
}

/* Would the worker's turn on a saga notify anybody? */
bool
saga_dispatch_notifies(const SagaRow *saga, SagaSteps *steps)
{
	SagaTask	task;

	if (saga->to_announce != NULL)
		return true;
	if (saga->state != SAGA_COMPENSATING)
		return false;
	saga_walk_next(saga, steps, &task);
	return task.kind == SAGA_TASK_LISTENER &&
		steps->step[task.index].comp_status != SAGA_COMP_DISPATCHED;
}

/*
 * A result that came in after the undo had begun, of an effect outside the
 * database that did happen; "index" is its step.
 *
 * As long as no attempt of the step's compensation was ever made, it will be
 * made with this output, and all is well.  Otherwise, and where the walk has
 * already passed the step by, the effect may stand where everybody believes it
 * undone: a person must look.
 */
SagaWritten
saga_dispatch_late(SagaRow *saga, SagaSteps *steps, int index, Jsonb *output,
				   TimestampTz now)
{
	SagaStep   *step = &steps->step[index];
	bool		to_undo = step->comp_status != SAGA_COMP_NONE &&
		step->kind != SAGA_KIND_RETRIABLE;
	bool		in_time;
	TimestampTz compensated_at = saga->state == SAGA_COMPENSATED ?
		saga->finished_at : 0;
	SagaJson	json;
	SagaWritten written;

	in_time = !to_undo ||
		((saga->state == SAGA_COMPENSATING || saga->state == SAGA_NEEDS_REVIEW) &&
		 (step->comp_status == SAGA_COMP_REGISTERED ||
		  step->comp_status == SAGA_COMP_PENDING ||
		  step->comp_status == SAGA_COMP_DISPATCHED) &&
		 step->comp_attempts == 0 && step->claimed_at == 0 &&
		 step->rolled_back_at == 0);

	if (step->status == SAGA_STEP_FAILED)
	{
		/* The history holds that attempt as failed; this is one more. */
		step->attempts++;
		step->attempt_at = now;
	}
	step->status = SAGA_STEP_COMPLETED;
	step->completed_at = now;
	step->retry_at = 0;
	step->output = output;
	if (!in_time)
	{
		const SagaStep *claimed = saga_walk_claimed(steps);
		const char *why;

		if (saga->state == SAGA_ABANDONED)
			why = "its result came after the saga had been abandoned";
		else if (step->comp_status == SAGA_COMP_SKIPPED)
			why = "its result came after the undo had passed it by";
		else
			why = "its result came after its compensation had been tried without it";
		step->parked = cstring_to_text(why);
		if (saga->state == SAGA_COMPENSATING || saga->state == SAGA_COMPENSATED)
			saga_ledger_enter_state(saga, SAGA_NEEDS_REVIEW, now);
		saga_ledger_set_due(saga, claimed ? claimed->lease_until : 0,
							InvalidOid);
	}

	written = write_both(saga, step, SAGA_HAND_CALLER, now);
	if (written != SAGA_WRITTEN)
		return written;
	if (!in_time)
		withdraw(saga, steps);

	/* Its row no longer says that it was. */
	if (compensated_at != 0 && saga->state != SAGA_COMPENSATED)
		saga_ledger_insert_event(&saga->id, saga_state_name(SAGA_COMPENSATED),
								 0, NULL, compensated_at);
	saga_json_begin(&json);
	saga_json_string(&json, "compensation_gets_output",
					 in_time && to_undo ? "yes" : "no");
	saga_ledger_insert_event(&saga->id, "late result", step->seq,
							 saga_json_end(&json), now);
	if (!in_time && saga->state == SAGA_NEEDS_REVIEW)
		saga_ledger_insert_event(&saga->id, "parked", step->seq,
								 detail_of("why", text_to_cstring(step->parked)),
								 now);
	return SAGA_WRITTEN;
}
