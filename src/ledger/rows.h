/*-------------------------------------------------------------------------
 *
 * rows.h
 *	  What the rows of the ledger are: their fields, and the rules they keep.
 *
 * Texts and jsonb of a row that was read point into the copy of the tuple it
 * came from, and may still be compressed or stored out of line.
 *
 *-------------------------------------------------------------------------
 */
#ifndef SAGA_ROWS_H
#define SAGA_ROWS_H

#include "access/htup.h"
#include "access/tupdesc.h"
#include "datatype/timestamp.h"
#include "utils/array.h"
#include "utils/jsonb.h"
#include "utils/timestamp.h"
#include "utils/uuid.h"

#include "base/state.h"
#include "ledger/table.h"
#include "shared/queue_front.h"

/*
 * Attributes, as the install script numbers them.
 */
enum
{
	Saga_id = 1, Saga_owner, Saga_started_at, Saga_on_failure,
	Saga_owner_name, Saga_name, Saga_key, Saga_announce, Saga_subject,
	Saga_input, Saga_content_hash, Saga_deadline, Saga_updated_at, Saga_due, Saga_lane,
	Saga_savepoint, Saga_failed_seq, Saga_finished_at, Saga_state,
	Saga_failure_kind, Saga_undo, Saga_paused, Saga_to_announce, Saga_parked, Saga_reason,
	Saga_details, Saga_result, Saga_runs,
	Saga_natts = Saga_runs
};

enum
{
	Step_saga = 1, Step_seq, Step_started_at, Step_run, Step_run_as,
	Step_kind, Step_compensate_on, Step_acknowledge, Step_run_as_name,
	Step_key, Step_name, Step_compensation, Step_channel, Step_review,
	Step_args, Step_content_hash, Step_search_path, Step_settings,
	Step_compensation_retry, Step_retry, Step_attempts, Step_status,
	Step_comp_status, Step_released, Step_late, Step_attempt_at,
	Step_completed_at, Step_retry_at, Step_rolled_back_at, Step_comp_attempts,
	Step_comp_charged, Step_comp_deferrals, Step_comp_conflicts,
	Step_comp_interruptions, Step_comp_crashes, Step_comp_retry_at,
	Step_dispatched_at, Step_claimed_at, Step_lease_until,
	Step_compensated_at, Step_consumer, Step_parked, Step_error,
	Step_comp_sqlstate, Step_comp_error, Step_comp_output, Step_output,

	/* Rows of steps that have none of these end before them. */
	Step_sqlstate, Step_begun, Step_opened_at, Step_ready_at, Step_rounds, Step_charged,
	Step_deferrals, Step_conflicts, Step_interruptions, Step_crashes,
	Step_approved, Step_signal, Step_state, Step_recorded_by,
	Step_place, Step_not_before, Step_timeout, Step_delay, Step_give_up,
	Step_action, Step_task, Step_after, Step_signals, Step_approval,
	Step_natts = Step_approval,
	Step_short_natts = Step_output
};

enum
{
	Attempt_saga = 1, Attempt_seq, Attempt_started_at, Attempt_finished_at,
	Attempt_rows, Attempt_attempt, Attempt_phase, Attempt_outcome,
	Attempt_sqlstate, Attempt_error, Attempt_consumer,
	Attempt_natts = Attempt_consumer
};

enum
{
	Event_saga = 1, Event_at, Event_seq, Event_event, Event_actor,
	Event_detail,
	Event_natts = Event_detail
};

enum
{
	Due_lane = 1, Due_due, Due_saga, Due_seq, Due_run, Due_key,
	Due_natts = Due_key
};

enum
{
	Queue_channel = 1, Queue_phase, Queue_owner, Queue_since, Queue_saga,
	Queue_seq, Queue_run, Queue_key,
	Queue_natts = Queue_key
};

enum
{
	Held_saga = 1, Held_seq,
	Held_natts = Held_seq
};

enum
{
	Signal_saga = 1, Signal_seq, Signal_at, Signal_name, Signal_key,
	Signal_sent_by, Signal_used_by, Signal_content_hash, Signal_payload,
	Signal_natts = Signal_payload
};

enum
{
	Limit_channel = 1, Limit_role, Limit_max_claimed, Limit_paused_until,
	Limit_natts = Limit_paused_until
};

enum
{
	Claimed_channel = 1, Claimed_role, Claimed_at, Claimed_saga, Claimed_seq,
	Claimed_run, Claimed_key,
	Claimed_natts = Claimed_key
};

typedef struct SagaRow
{
	SagaTuple	version;		/* where it was found; no tuple: never stored */
	SagaState	stored_state;	/* the state in that version; 0: never stored */
	TimestampTz stored_due;		/* the due time in that version */
	Oid			stored_lane;
	bool		stored_held;	/* had that version a row in ledger_held? */
	SagaFailureKind stored_failure_kind;	/* the failure kind in that
											 * version */

	pg_uuid_t	id;
	Oid			owner;
	TimestampTz started_at;
	SagaOnFailure on_failure;
	text	   *owner_name;
	text	   *name;
	text	   *key;			/* or NULL */
	text	   *announce;		/* or NULL */
	text	   *subject;		/* or NULL */
	Jsonb	   *input;			/* or NULL */
	bytea	   *content_hash;	/* of a redacted saga: of its input; or NULL */

	/* mutable from here on; 0 stands for NULL in times and seqs */
	TimestampTz deadline;
	TimestampTz updated_at;
	TimestampTz due;			/* when it is due next; 0: never */
	Oid			lane;			/* role whose executor it is due for; 0: the
								 * worker itself */
	int64		savepoint;		/* of a partial undo: it goes back to this
								 * seq; 0: to the beginning */
	int64		failed_seq;
	TimestampTz finished_at;
	SagaState	state;
	SagaFailureKind failure_kind;
	SagaUndo	undo;
	bool		paused;
	text	   *to_announce;	/* SagaStates not announced yet, or NULL */
	text	   *parked;			/* why a person must decide about the saga */
	text	   *reason;
	Jsonb	   *details;
	Jsonb	   *result;
	SagaRuns	runs;			/* are there steps that saga runs? */
} SagaRow;

/*
 * The work of a step, or its undo: how often it was tried, and with what result.
 * Of a work that the application or a service does, only attempts are counted.
 */
typedef struct SagaWork
{
	int			attempts;		/* numbered */
	int			charged;		/* of those, the ones that count */
	int			deferrals;
	int			conflicts;
	int			interruptions;
	int			crashes;		/* -1: no suspect; else crashes while alone */
	TimestampTz retry_at;
	text	   *sqlstate;		/* of the last failure, as the next */
	text	   *error;
	Jsonb	   *output;
} SagaWork;

typedef struct SagaStep
{
	SagaTuple	version;
	SagaStepStatus stored_status;	/* in that version, as the next */
	SagaCompStatus stored_comp_status;
	TimestampTz stored_queued;	/* since when that version was in the queue */
	SagaPhase	stored_queue_phase; /* ... for its work or its undo */
	text	   *stored_channel; /* ... and on which channel */
	int			stored_attempts;	/* the forward attempts in that version */
	TimestampTz stored_work_due;	/* due times in that version, as the next */
	TimestampTz stored_gate_due;
	TimestampTz stored_timeout_at;
	bool		stored_held;	/* had that version a row in ledger_held? */
	uint64		change;			/* the SagaChange that marked it last; 0: none */
	bool		locked;			/* this transaction keeps others from writing
								 * that version */
	bool		look_wanted;	/* to be recorded with a row that asks for a
								 * look */
	bool		kept;			/* this process goes on with its action:
								 * nobody need be woken for it */
	int64		part_of;		/* where the action stands that the step is a
								 * part of; 0: it is none; -1: the action is
								 * never undone.  Known where all steps were
								 * read */

	pg_uuid_t	saga;
	int64		seq;
	TimestampTz started_at;
	int			run;
	Oid			run_as;
	SagaStepKind kind;
	SagaCompensateOn compensate_on;
	bool		acknowledge;
	text	   *run_as_name;
	text	   *key;
	text	   *name;			/* NULL when it equals the key */
	text	   *compensation;	/* SQL, or NULL */
	text	   *channel;		/* of listeners, or NULL */
	text	   *review;			/* words for a person, or NULL */
	Jsonb	   *args;
	bytea	   *content_hash;	/* of a redacted step, by SagaStepHash; or
								 * NULL */
	text	   *search_path;	/* NULL: the server's built-in default */
	Jsonb	   *settings;		/* captured settings, an object, or NULL */
	text	   *compensation_retry; /* an encoded SagaPolicy */
	text	   *retry;			/* likewise; NULL when it equals the other */

	/* Of a step that saga runs; of others, all are 0 or NULL */
	text	   *action;			/* its work: SQL, or NULL */
	text	   *task;			/* or: the channel of the services that do it */
	ArrayType  *after;			/* gate 1: keys; NULL: all of its siblings
								 * before it */
	Interval   *delay;			/* gate 2, counted from gate 1 */
	TimestampTz not_before;		/* gate 2 */
	ArrayType  *signals;		/* gate 3: names */
	text	   *approval;		/* gate 4: words for a person */
	int64		timeout;		/* ms, from gate 1 to done; 0: none */
	SagaGiveUp	give_up;		/* set in every step that saga runs */
	int64		recorded_by;	/* the step whose action recorded it; 0: the
								 * outside */
	int64		place;			/* the seq of its first run; 0: its own */

	/* mutable from here on; 0 stands for NULL in times and counts */
	SagaStepStatus status;
	SagaCompStatus comp_status;
	bool		released;		/* a person let a reviewed compensation go */
	bool		late;			/* a late result waits for a decision */
	TimestampTz attempt_at;		/* start of the current attempt, if not the
								 * first */
	TimestampTz completed_at;
	TimestampTz rolled_back_at; /* undone by a partial undo: the key may start
								 * afresh */
	int64		begun;			/* when saga began it, in the start order */
	TimestampTz opened_at;		/* gate 1 opened */
	TimestampTz ready_at;		/* gate 2 opens; or the gate after it that
								 * opened last did */
	bool		approved;		/* gate 4 was opened by a person */
	int64		rounds;			/* of its action that committed */
	TimestampTz dispatched_at;	/* to listeners, last */
	TimestampTz claimed_at;		/* its task or its compensation was claimed;
								 * 0: nobody holds it */
	TimestampTz lease_until;
	TimestampTz compensated_at;
	text	   *consumer;
	text	   *parked;			/* why a person must decide about this step */
	Jsonb	   *signal;			/* that it has used */
	Jsonb	   *state;			/* of its rounds */
	SagaWork	forward;
	SagaWork	undo;
} SagaStep;

typedef struct SagaAttempt
{
	pg_uuid_t	saga;
	int64		seq;
	TimestampTz started_at;
	TimestampTz finished_at;
	int64		rows;			/* -1: unknown */
	int			attempt;
	SagaPhase	phase;
	SagaOutcome outcome;
	const char *sqlstate;		/* or NULL, as the following */
	const char *error;
	const char *consumer;
} SagaAttempt;

/* A signal that was sent to a saga. */
typedef struct SagaSignal
{
	SagaTuple	version;

	pg_uuid_t	saga;
	int64		seq;			/* from the start order: later is larger */
	TimestampTz at;
	text	   *name;
	text	   *key;			/* or NULL */
	text	   *sent_by;		/* name of the role */

	/* mutable from here on */
	int64		used_by;		/* the step that used it; 0: none has */
	bytea	   *content_hash;	/* of a redacted one: of its payload; or NULL */
	Jsonb	   *payload;		/* or NULL */
} SagaSignal;

/* The values of a redacted step that are hashed. */
enum SagaStepHash
{
	SAGA_HASH_ARGS,
	SAGA_HASH_OUTPUT,
	SAGA_STEP_HASHES
};

/* What a person decided, as messages quote it. */
typedef struct SagaEvent
{
	char	   *event;
	char	   *actor;
	char	   *detail;			/* or NULL */
	TimestampTz at;
} SagaEvent;

/* The steps of a saga, oldest start first. */
typedef struct SagaSteps
{
	int			count;
	int			to_walk;		/* steps before this index may have something
								 * left to undo; the others have not */
	bool		claimed;		/* a listener held a compensation when they
								 * were read */
	SagaStep   *step;
} SagaSteps;

/* A row of ledger_due. */
typedef struct SagaDue
{
	Oid			lane;			/* role that runs the work; 0: the worker
								 * itself */
	TimestampTz due;
	pg_uuid_t	saga;
	int64		seq;			/* 0: the saga itself; a step's: that step;
								 * negated: look, that step has changed;
								 * PG_INT64_MIN: look, any may have */
	int			run;			/* of the step; 0 unless seq is one */
	text	   *key;			/* likewise, or NULL */
} SagaDue;

/* A row of ledger_limit. */
typedef struct SagaLimit
{
	text	   *channel;
	text	   *role;			/* by name */
	int			max_claimed;	/* 0: any number */
	TimestampTz paused_until;	/* 0: not paused */
} SagaLimit;

/* Keeps the place of a row in the order of the due work, without its key. */
static inline void
saga_rows_keep_place(SagaDue *place, const SagaDue *due)
{
	*place = *due;
	place->key = NULL;
}

/* Does a saga wait for a person, to decide or to resume it? */
static inline bool
saga_rows_held(const SagaRow *saga)
{
	return saga->state == SAGA_NEEDS_REVIEW ||
		(saga->paused && saga->finished_at == 0);
}

/* Is a saga that has not failed being undone, as far as to a savepoint? */
static inline bool
saga_rows_is_rolling_back(const SagaRow *saga)
{
	return saga->state == SAGA_COMPENSATING &&
		saga->failure_kind == SAGA_FAILURE_NONE;
}

/*
 * May a step of the saga be on its way in, in a transaction that is open?  Such
 * a transaction holds the saga's lock shared.  A full or partial undo, and the
 * end of the saga, begin under the exclusive lock; a late result does not.
 */
static inline bool
saga_rows_may_get_steps(const SagaRow *saga)
{
	return saga->state == SAGA_RUNNING || saga->undo == SAGA_UNDO_LATE;
}

/*
 * Do the present runs of the saga's steps stand?  They do while it runs, and while it
 * waits for a person because a result of an old run came late: then nothing but such
 * old runs is undone.
 */
static inline bool
saga_rows_goes_forward(const SagaRow *saga)
{
	return saga->state == SAGA_RUNNING ||
		(saga->undo == SAGA_UNDO_LATE && saga->finished_at == 0);
}

/* Does saga run the step, and not the application? */
static inline bool
saga_rows_is_run(const SagaStep *step)
{
	return step->give_up != 0;
}

/*
 * Where the step stands in the start order.  A step that saga runs starts when
 * saga begins it, not when it is recorded.
 */
static inline int64
saga_rows_order(const SagaStep *step)
{
	return step->begun != 0 ? step->begun : step->seq;
}

/*
 * Does a rollback to the savepoint take the step back?  What an action recorded as done,
 * or as begun, is a part of what it did itself, and committed with it: it goes back with
 * the action, or stays with it.  If it went alone, nobody would do it again.
 */
static inline bool
saga_rows_goes_back(const SagaStep *step, int64 savepoint)
{
	return (step->part_of != 0 ? step->part_of : saga_rows_order(step)) > savepoint;
}

/* Is there certainly nothing to undo of the step, since saga never began it? */
static inline bool
saga_rows_never_began(const SagaStep *step)
{
	return saga_rows_is_run(step) && step->begun == 0;
}

/* Where the step stands among those that were recorded. */
static inline int64
saga_rows_place(const SagaStep *step)
{
	return step->place != 0 ? step->place : step->seq;
}

/* Are gates 3 and 4 open, which a signal and a person open? */
static inline bool
saga_rows_let_through(const SagaStep *step)
{
	return (step->signals == NULL || step->signal != NULL) &&
		(step->approval == NULL || step->approved);
}

/* Has a listener claimed the step's compensation? */
static inline bool
saga_rows_undo_claimed(const SagaStep *step)
{
	return step->claimed_at != 0 && step->comp_status == SAGA_COMP_DISPATCHED;
}

/* Has a service claimed the step's task? */
static inline bool
saga_rows_task_claimed(const SagaStep *step)
{
	return step->claimed_at != 0 && step->comp_status != SAGA_COMP_DISPATCHED;
}

/*
 * From when on the step's work may be done; 0: not, as far as the step itself
 * says.
 */
static inline TimestampTz
saga_rows_may_begin_at(const SagaStep *step)
{
	if (step->parked != NULL || step->rolled_back_at != 0 ||
		step->ready_at == 0)
		return 0;
	switch (step->status)
	{
		case SAGA_STEP_WAITING:
			return saga_rows_let_through(step) ? step->ready_at : 0;
		case SAGA_STEP_STARTED:
		case SAGA_STEP_FAILED:
			return step->forward.retry_at;
		case SAGA_STEP_COMPLETED:
		case SAGA_STEP_SKIPPED:
			break;
	}
	return 0;
}

/* From when on an executor may run the step's action; 0: not. */
static inline TimestampTz
saga_rows_work_due(const SagaStep *step)
{
	return step->action != NULL ? saga_rows_may_begin_at(step) : 0;
}

/* From when on a service may claim the step's task; 0: not. */
static inline TimestampTz
saga_rows_task_due(const SagaStep *step)
{
	return step->task != NULL && step->claimed_at == 0 ?
		saga_rows_may_begin_at(step) : 0;
}

/* May the step's task be claimed at that moment? */
static inline bool
saga_rows_may_be_claimed(const SagaStep *step, TimestampTz now)
{
	TimestampTz due = saga_rows_task_due(step);

	return due != 0 && due <= now;
}

/* When the step's timeout ends; 0: it has none, or is not waiting for it. */
static inline TimestampTz
saga_rows_timeout_at(const SagaStep *step)
{
	bool		open = step->status == SAGA_STEP_WAITING ||
		step->status == SAGA_STEP_STARTED ||
		(step->status == SAGA_STEP_FAILED && step->forward.retry_at != 0);

	/* It runs while a person is to approve, not while one is to mend. */
	return open && step->timeout != 0 && step->opened_at != 0 &&
		(step->parked == NULL || step->status == SAGA_STEP_WAITING) &&
		step->rolled_back_at == 0 ?
		step->opened_at + step->timeout * 1000 : 0;
}

/*
 * When time makes a look necessary: because gate 2 opens, and what follows is not
 * just an action that becomes due; because a task may be claimed again; or because
 * the claim of a task ends.  0: it does not, or the timeout ends at that moment.
 */
static inline TimestampTz
saga_rows_gate_due(const SagaStep *step)
{
	TimestampTz due = 0;

	if (step->parked != NULL || step->rolled_back_at != 0)
		return 0;
	if (saga_rows_task_claimed(step))
		due = step->lease_until;
	else if (step->task != NULL && step->status == SAGA_STEP_FAILED)
		due = step->forward.retry_at;
	else if (step->status == SAGA_STEP_WAITING && step->ready_at > step->opened_at &&
			 (step->action == NULL || !saga_rows_let_through(step)))
		due = step->ready_at;
	return due != saga_rows_timeout_at(step) ? due : 0;
}

/* Does a step that saga runs wait for a person? */
static inline bool
saga_rows_step_held(const SagaStep *step)
{
	return saga_rows_is_run(step) && step->parked != NULL &&
		step->rolled_back_at == 0;
}

/* Since when the undo of a step waits for a listener; 0: it does not. */
static inline TimestampTz
saga_rows_undo_queued(const SagaStep *step)
{
	return step->comp_status == SAGA_COMP_DISPATCHED && step->claimed_at == 0 ?
		step->dispatched_at : 0;
}

/*
 * Since when a step is in the queue; 0: it is not.  Of a task that may be later than
 * now.  At most one of the work and the undo is queued, since no step goes forward
 * whose undo is dispatched.
 */
static inline TimestampTz
saga_rows_queued(const SagaStep *step, SagaPhase *phase)
{
	TimestampTz since = saga_rows_undo_queued(step);

	*phase = since != 0 ? SAGA_PHASE_COMPENSATION : SAGA_PHASE_FORWARD;
	return since != 0 ? since : saga_rows_task_due(step);
}

/* The channel on which the step's work of a phase is claimed */
static inline text *
saga_rows_channel(const SagaStep *step, SagaPhase phase)
{
	return phase == SAGA_PHASE_FORWARD ? step->task : step->channel;
}

extern bool saga_rows_same_text(const text *a, const text *b);
extern void saga_rows_pack_saga(SagaRow *row, Datum *values, bool *nulls);
extern void saga_rows_unpack_saga(TupleDesc desc, const SagaTuple *version,
								  SagaRow *row);
extern void saga_rows_unpack_seen(TupleDesc desc, HeapTuple tuple, SagaRow *row);
extern int	saga_rows_pack_step(SagaStep *row, Datum *values, bool *nulls);
extern void saga_rows_unpack_step(TupleDesc desc, const SagaTuple *version,
								  SagaStep *row);
extern void saga_rows_pack_attempt(SagaAttempt *row, Datum *values,
								   bool *nulls);
extern void saga_rows_pack_signal(SagaSignal *row, Datum *values, bool *nulls);
extern void saga_rows_unpack_signal(TupleDesc desc, const SagaTuple *version,
									SagaSignal *row);

#endif							/* SAGA_ROWS_H */
