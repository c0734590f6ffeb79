/*-------------------------------------------------------------------------
 *
 * change.c
 *	  What becomes of a saga: built in memory, written at once.
 *
 * Deciding and writing are two phases.  The calls, events.c and follow.c decide:
 * they set fields of the rows in memory, mark the steps that they changed, and
 * add attempts, events and notifications.  saga_change_write then writes all of
 * it, and is the only function that replaces rows in the life of a saga (moving
 * them to another role is roles.c and home.c, deleting them purge.c).
 *
 * The saga's row is written first: that row is where two writers meet (see
 * saga_rows.c).  When it says SAGA_CHANGED or SAGA_WRITE_BUSY, nothing else has
 * been written, and the caller begins again from fresh rows.  The caller has
 * made sure that no other transaction was writing the saga's row when it read
 * the rows.
 *
 * The steps of a running saga are written without its row, by callers that hold
 * its lock (saga_change_only_step): then the step's own row is where two writers
 * meet.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "base/errors.h"
#include "base/fault.h"
#include "base/guc.h"
#include "flow/change.h"
#include "flow/notify.h"
#include "ledger/start_order.h"
#include "shared/wakeup.h"
#include "utils/builtins.h"

typedef struct SagaChangeEvent
{
	const char *event;
	int64		seq;			/* 0: not about a step */
	Jsonb	   *detail;			/* or NULL */
	TimestampTz at;
} SagaChangeEvent;

typedef enum SagaChangeNoticeKind
{
	NOTICE_STATE,				/* the saga entered a state */
	NOTICE_TASK,				/* the task of a step may be claimed */
	NOTICE_COMPENSATE,			/* the compensation of a step may be */
	NOTICE_REVIEW				/* a person must decide about a step */
} SagaChangeNoticeKind;

typedef struct SagaChangeNotice
{
	SagaChangeNoticeKind kind;
	const char *channel;
	int64		seq;			/* the step; 0: none */
	SagaState	state;			/* or 0 */
} SagaChangeNotice;

/* What is counted beyond what the rows say */
typedef enum SagaChangeCountKind
{
	COUNT_CHANNEL,
	COUNT_SAGA,
	COUNT_TIME
} SagaChangeCountKind;

typedef struct SagaChangeCount
{
	SagaChangeCountKind kind;
	const text *channel;		/* of the first kind */
	int			counter;
	int64		time;			/* of the last */
} SagaChangeCount;

/* Changes begun in this process */
static uint64 changes = 0;

/* "steps" may be NULL, if they are not known yet. */
void
saga_change_begin(SagaChange *change, SagaRow *saga, SagaSteps *steps, int may,
				  TimestampTz now)
{
	SAGA_POISON(saga->name);
	memset(change, 0, sizeof(SagaChange));
	change->saga = saga;
	change->steps = steps;
	change->may = may;
	change->patience = SAGA_NOWAIT;
	change->now = now;
	change->number = ++changes;
}

/* The steps of the saga, which are read at the first call. */
SagaSteps *
saga_change_steps(SagaChange *change)
{
	if (change->steps == NULL)
	{
		change->steps = palloc(sizeof(SagaSteps));
		if (saga_rows_goes_forward(change->saga) &&
			change->saga->runs != SAGA_RUNS_NONE)
			saga_ledger_get_steps_now(&change->saga->id, change->steps);
		else
			saga_ledger_get_steps(&change->saga->id, change->steps);
	}
	return change->steps;
}

/* Marks a step's row as one to write. */
void
saga_change_step(SagaChange *change, SagaStep *step)
{
	if (step->change == change->number)
		return;
	step->change = change->number;
	change->changed = lappend(change->changed, step);
}

/*
 * Changes a step of a saga that goes forward, whose lock the caller holds, and nothing
 * else: the row of a running saga stays as it is.  One that waits because of a late
 * result may have steps written by those who hold no lock, so its row is replaced, too.
 */
void
saga_change_only_step(SagaChange *change, SagaStep *step)
{
	change->steps_only = change->saga->state == SAGA_RUNNING;
	saga_change_step(change, step);
}

/*
 * Asks for a look at the saga.  "seq": that of the step that changed, negated; or
 * PG_INT64_MIN: any of them may have.  Each step has a row of its own: if somebody is
 * to be notified of it, that says of which.
 */
void
saga_change_look(SagaChange *change, int64 seq)
{
	int64	   *new;
	ListCell   *lc;

	foreach(lc, change->looks)
		if (*(int64 *) lfirst(lc) == seq)
		return;
	new = palloc(sizeof(int64));
	*new = seq;
	change->looks = lappend(change->looks, new);
}

/* Takes back what was asked for. */
void
saga_change_no_look(SagaChange *change)
{
	change->looks = NIL;
}

/* Adds a new run of a step that was rolled back. */
void
saga_change_new_run(SagaChange *change, const SagaStep *step)
{
	SagaStep   *new = palloc(sizeof(SagaStep));

	*new = *step;
	memset(&new->version, 0, sizeof(new->version));
	memset((char *) new + offsetof(SagaStep, status), 0,
		   sizeof(SagaStep) - offsetof(SagaStep, status));
	new->place = saga_rows_place(step);
	new->seq = 0;
	new->run = step->run + 1;
	new->started_at = change->now;
	new->status = SAGA_STEP_WAITING;
	new->comp_status = step->comp_status == SAGA_COMP_NONE ?
		SAGA_COMP_NONE : SAGA_COMP_REGISTERED;
	new->forward.crashes = new->undo.crashes = -1;
	change->new_runs = lappend(change->new_runs, new);
}

/*
 * The one function through which a saga's state changes.  A transition that
 * does not exist is an error (SG002).
 */
void
saga_change_state(SagaChange *change, SagaState state)
{
	SagaRow    *saga = change->saga;

	if (!saga_state_can(saga->state, state))
		ereport(ERROR,
				(errcode(ERRCODE_SAGA_INVALID_STATE),
				 errmsg("a saga cannot go from \"%s\" to \"%s\"",
						saga_state_name(saga->state), saga_state_name(state))));
	saga->state = state;
	saga->finished_at = saga_state_is_final(state) ? change->now : 0;
	saga->parked = NULL;

	/*
	 * Nothing is held back any more, and saga.resume refuses what is
	 * finished.
	 */
	if (saga_state_is_final(state))
		saga->paused = false;
	if (saga->announce != NULL ||
		(state == SAGA_NEEDS_REVIEW && saga_guc_review_channel[0] != '\0'))
	{
		const char *before = saga->to_announce ?
			text_to_cstring(saga->to_announce) : "";

		saga->to_announce = cstring_to_text(psprintf("%s%c", before, state));
	}
}

/*
 * Sets what is being undone, from now on.  Other steps may be in range then, so how
 * far they were found settled no longer holds.
 */
void
saga_change_undo(SagaChange *change, SagaUndo undo, int64 savepoint)
{
	change->saga->undo = undo;
	change->saga->savepoint = savepoint;
	if (change->steps != NULL)
		change->steps->to_walk = change->steps->count;
}

/*
 * Sets when the saga must be looked at next, and in which lane; 0: never.
 * While there is something to announce, that comes first, and is the worker's.
 */
void
saga_change_due(SagaChange *change, TimestampTz due, Oid lane)
{
	SagaRow    *saga = change->saga;

	if (saga->to_announce != NULL)
	{
		lane = InvalidOid;
		/* If that is so already, it keeps its place. */
		due = saga->due != 0 && !OidIsValid(saga->lane) &&
			saga->due <= change->now ? saga->due : change->now;
	}
	saga->due = due;
	saga->lane = due != 0 ? lane : InvalidOid;
}

/* Adds an attempt of a step that is over to the history. */
void
saga_change_attempt(SagaChange *change, const SagaStep *step,
					const SagaAttemptEnd *end)
{
	SagaAttempt *new = palloc(sizeof(SagaAttempt));

	new->saga = step->saga;
	new->seq = step->seq;
	new->started_at = end->started_at;
	new->finished_at = change->now;
	new->rows = end->rows;
	new->attempt = end->attempt;
	new->phase = saga_outcome_phase(end);
	new->outcome = end->outcome;
	new->sqlstate = end->sqlstate;
	new->error = end->error;
	new->consumer = end->consumer;
	change->attempts = lappend(change->attempts, new);
}

/* Adds an event to the history, about the step "seq" or, if that is 0, none. */
void
saga_change_event(SagaChange *change, const char *event, int64 seq,
				  Jsonb *detail)
{
	saga_change_past_event(change, event, seq, detail, change->now);
}

/* The same for something at an earlier time, which the rows have shown until now. */
void
saga_change_past_event(SagaChange *change, const char *event, int64 seq,
					   Jsonb *detail, TimestampTz at)
{
	SagaChangeEvent *new = palloc(sizeof(SagaChangeEvent));

	new->event = event;
	new->seq = seq;
	new->detail = detail;
	new->at = at;
	change->events = lappend(change->events, new);
}

static void
add_notice(SagaChange *change, SagaChangeNoticeKind kind, const char *channel,
		   int64 seq, SagaState state)
{
	SagaChangeNotice *new = palloc(sizeof(SagaChangeNotice));

	new->kind = kind;
	new->channel = channel;
	new->seq = seq;
	new->state = state;
	change->notices = lappend(change->notices, new);
}

/* The listeners of a step's channel are notified of its compensation. */
void
saga_change_notify(SagaChange *change, const SagaStep *step)
{
	add_notice(change, NOTICE_COMPENSATE, text_to_cstring(step->channel),
			   step->seq, 0);
}

/* The services of a step's channel are notified of its task. */
void
saga_change_notify_task(SagaChange *change, const SagaStep *step)
{
	add_notice(change, NOTICE_TASK, text_to_cstring(step->task), step->seq, 0);
}

/* Those who watch for decisions are notified of one about a step. */
void
saga_change_ask(SagaChange *change, const SagaStep *step)
{
	if (saga_guc_review_channel[0] == '\0')
		return;
	add_notice(change, NOTICE_REVIEW, saga_guc_review_channel, step->seq, 0);
}

/* A channel is notified of a state that the saga entered. */
void
saga_change_announce(SagaChange *change, const char *channel, SagaState state)
{
	add_notice(change, NOTICE_STATE, channel, 0, state);
}

static SagaChangeCount *
add_count(SagaChange *change, SagaChangeCountKind kind, int counter)
{
	SagaChangeCount *new = palloc0(sizeof(SagaChangeCount));

	new->kind = kind;
	new->counter = counter;
	change->counts = lappend(change->counts, new);
	return new;
}

/* Counts what a service did, or failed to do, on a channel. */
void
saga_change_count_channel(SagaChange *change, const text *channel,
						  SagaStatChannel counter)
{
	add_count(change, COUNT_CHANNEL, counter)->channel = channel;
}

/* Counts that the saga fails because a step was given up. */
void
saga_change_count_step_failed(SagaChange *change)
{
	(void) add_count(change, COUNT_SAGA, SAGA_STAT_STEP_FAILED);
}

/* Counts how long something waited before it began (microseconds). */
void
saga_change_count_wait(SagaChange *change, SagaStatTime what, int64 time)
{
	add_count(change, COUNT_TIME, what)->time = time;
}

/* The rest is counted as rows are written. */
static void
write_counts(SagaChange *change)
{
	const SagaRow *saga = change->saga;
	ListCell   *lc;

	foreach(lc, change->counts)
	{
		const SagaChangeCount *count = lfirst(lc);

		switch (count->kind)
		{
			case COUNT_CHANNEL:
				saga_stat_channel(saga->owner, count->channel, count->counter);
				break;
			case COUNT_SAGA:
				saga_stat_saga(saga->owner, saga->name, count->counter);
				break;
			case COUNT_TIME:
				saga_stat_time(count->counter, count->time);
				break;
		}
	}
}

/* Writes the rows of the steps that changed. */
static SagaWritten
write_steps(SagaChange *change)
{
	/* With SAGA_MAY_WAIT: a process may still be ending a canceled action. */
	SagaPatience patience = change->steps_only ? change->patience :
		(change->may & SAGA_MAY_WAIT) ? SAGA_WAIT : SAGA_NOWAIT;
	SagaWritten written = SAGA_WRITTEN;
	ListCell   *lc;

	foreach(lc, change->changed)
	{
		SagaStep   *step = lfirst(lc);

		written = saga_ledger_update_step(change->saga, step, patience);
		if (written == SAGA_WRITTEN)
			continue;
		change->writer = step->version.writer;
		/* Nothing is written before the first; after it, the caller aborts. */
		if (change->steps_only)
			break;
		elog(ERROR, "a step changed without its saga");
	}
	return written;
}

/* Writes the rows of the signals; another look may have been first with one. */
static SagaWritten
write_signals(SagaChange *change)
{
	SagaWritten written = SAGA_WRITTEN;
	ListCell   *lc;

	foreach(lc, change->signals)
	{
		written = saga_ledger_update_signal(lfirst(lc), SAGA_NOWAIT);
		if (written == SAGA_WRITTEN)
			continue;
		if (change->steps_only)
			break;
		elog(ERROR, "a signal changed without its saga");
	}
	return written;
}

/*
 * Writes a change.  Anything but SAGA_WRITTEN: another transaction was first, and
 * nothing is written.  The exception is a look, which may change many steps and use
 * signals without the saga's row: some of that may be written, so the caller aborts.
 */
SagaWritten
saga_change_write(SagaChange *change)
{
	SagaRow    *saga = change->saga;
	SagaWritten written;
	ListCell   *lc;

	if (!change->steps_only)
	{
		saga->updated_at = change->now;
		written = saga_ledger_update_saga(saga, change->patience);
		if (written != SAGA_WRITTEN)
		{
			change->writer = saga->version.writer;
			return written;
		}
	}
	written = write_steps(change);
	if (written != SAGA_WRITTEN)
		return written;

	written = write_signals(change);
	if (written != SAGA_WRITTEN)
		return written;

	foreach(lc, change->new_runs)
	{
		SagaStep   *step = lfirst(lc);

		step->seq = saga_start_order_next(&saga->id);
		if (!saga_ledger_insert_step(saga, step))
			elog(ERROR, "a step began a new run without its saga");
	}
	foreach(lc, change->looks)
	{
		TimestampTz due = Max(change->look_at, change->now);

		saga_ledger_insert_look(&saga->id, *(int64 *) lfirst(lc), due);
		if (!(change->may & SAGA_WILL_LOOK))
			saga_wakeup_due(due);
	}
	foreach(lc, change->attempts)
		saga_ledger_insert_attempt(lfirst(lc));
	foreach(lc, change->events)
	{
		SagaChangeEvent *event = lfirst(lc);

		saga_ledger_insert_event(&saga->id, event->event, event->seq,
								 event->detail, event->at);
	}
	foreach(lc, change->notices)
	{
		SagaChangeNotice *notice = lfirst(lc);

		switch (notice->kind)
		{
			case NOTICE_STATE:
				saga_notify_state(notice->channel, &saga->id, notice->state);
				break;
			case NOTICE_TASK:
				saga_notify_task(notice->channel, &saga->id, notice->seq);
				break;
			case NOTICE_COMPENSATE:
				saga_notify_compensate(notice->channel, &saga->id, notice->seq);
				break;
			case NOTICE_REVIEW:
				saga_notify_review(notice->channel, &saga->id, notice->seq);
				break;
		}
	}
	write_counts(change);
	return SAGA_WRITTEN;
}
