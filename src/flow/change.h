/*-------------------------------------------------------------------------
 *
 * change.h
 *	  What becomes of a saga: built in memory, written at once.
 *
 *-------------------------------------------------------------------------
 */
#ifndef SAGA_CHANGE_H
#define SAGA_CHANGE_H

#include "nodes/pg_list.h"

#include "flow/outcome.h"
#include "ledger/ledger.h"
#include "shared/stat.h"

/* What the process that makes a change may do; a bit mask. */
#define SAGA_MAY_WAIT		0x01	/* for another transaction that has a row
									 * of the saga; our own processes do not */
#define SAGA_MAY_FAIL		0x04	/* end the forward phase of the saga; only
									 * under its exclusive lock, if steps of
									 * it may be on their way in */
#define SAGA_WILL_LOOK		0x08	/* it looks at the saga itself, so nobody
									 * need be woken for that */
#define SAGA_MAY_NOTIFY		0x02	/* notify listeners; only the worker does */
#define SAGA_IS_WORKER		0x10	/* it is the worker, which may be unable
									 * to notify now */

/*
 * A change of one saga.  The code that decides sets fields of the rows, marks the
 * steps that it changed, and adds to the lists; nothing reaches the ledger
 * before saga_change_write.
 */
typedef struct SagaChange
{
	SagaRow    *saga;
	SagaSteps  *steps;			/* NULL: not read; see saga_change_steps */
	TimestampTz now;
	int			may;			/* SAGA_MAY_... */
	SagaPatience patience;		/* with another transaction that has the first
								 * row to write */
	TransactionId writer;		/* that transaction, if it is known */
	bool		steps_only;		/* the saga's own row stays as it is */
	bool		busy;			/* the time of a step is over, but another
								 * process holds its row: look again */
	uint64		number;			/* of this change in this process */
	List	   *changed;		/* of SagaStep: rows to write */
	List	   *new_runs;		/* of SagaStep: rows to insert */
	List	   *signals;		/* of SagaSignal: rows to write */
	struct SagaInbox *inbox;	/* what is unused; NULL: not read; see inbox.c */
	List	   *looks;			/* of int64: seq of each row that asks for a
								 * look at the saga */
	TimestampTz look_at;		/* when one is wanted at the latest; 0: now */
	List	   *attempts;		/* of SagaAttempt */
	List	   *events;			/* of SagaChangeEvent */
	List	   *notices;		/* of SagaChangeNotice */
	List	   *counts;			/* of SagaChangeCount */
} SagaChange;

extern void saga_change_begin(SagaChange *change, SagaRow *saga,
							  SagaSteps *steps, int may, TimestampTz now);
extern SagaSteps *saga_change_steps(SagaChange *change);
extern void saga_change_step(SagaChange *change, SagaStep *step);
extern void saga_change_only_step(SagaChange *change, SagaStep *step);
extern void saga_change_look(SagaChange *change, int64 seq);
extern void saga_change_no_look(SagaChange *change);
extern void saga_change_new_run(SagaChange *change, const SagaStep *step);
extern void saga_change_state(SagaChange *change, SagaState state);
extern void saga_change_undo(SagaChange *change, SagaUndo undo,
							 int64 savepoint);
extern void saga_change_due(SagaChange *change, TimestampTz due, Oid lane);
extern void saga_change_attempt(SagaChange *change, const SagaStep *step,
								const SagaAttemptEnd *end);
extern void saga_change_event(SagaChange *change, const char *event, int64 seq,
							  Jsonb *detail);
extern void saga_change_past_event(SagaChange *change, const char *event,
								   int64 seq, Jsonb *detail, TimestampTz at);
extern void saga_change_notify(SagaChange *change, const SagaStep *step);
extern void saga_change_notify_task(SagaChange *change, const SagaStep *step);
extern void saga_change_ask(SagaChange *change, const SagaStep *step);
extern void saga_change_announce(SagaChange *change, const char *channel,
								 SagaState state);
extern void saga_change_count_channel(SagaChange *change, const text *channel,
									  SagaStatChannel counter);
extern void saga_change_count_step_failed(SagaChange *change);
extern void saga_change_count_wait(SagaChange *change, SagaStatTime what,
								   int64 time);
extern SagaWritten saga_change_write(SagaChange *change);

#endif							/* SAGA_CHANGE_H */
