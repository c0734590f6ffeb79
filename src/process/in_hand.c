/*-------------------------------------------------------------------------
 *
 * in_hand.c
 *	  The attempt that an executor has in hand.
 *
 * What the attempts of compensations (attempt.c) and of actions (action.c) share:
 * what is known of the attempt, its record in flight, and running its SQL.  Used
 * by one process for itself: no lock is needed.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include <signal.h>

#include "access/xact.h"
#include "base/errors.h"
#include "base/fault.h"
#include "common/hashfn.h"
#include "ledger/home.h"
#include "process/bgworker.h"
#include "process/in_hand.h"
#include "process/inflight.h"
#include "process/session.h"
#include "process/transaction.h"
#include "shared/mailbox.h"
#include "utils/builtins.h"
#include "utils/memutils.h"

/* Initial exclusive window for a suspect (ms). */
#define ALONE_MS	INT64CONST(2000)

/* Static, for it must survive a longjmp */
static SagaInHand hand;

/* An attempt has begun, and its end is not written down yet. */
static volatile sig_atomic_t open_attempt = false;

SagaInHand *
saga_in_hand_get(void)
{
	return &hand;
}

/*
 * Begins the transaction of an attempt.  False: there is none, and "otherwise"
 * says what becomes of what is in hand.
 */
bool
saga_in_hand_begin(SagaWalkOn *otherwise)
{
	saga_mailbox_look();
	switch (saga_transaction_begin(false))
	{
		case SAGA_TRANSACTION_BEGUN:
			break;
		case SAGA_TRANSACTION_BLOCKED:
			*otherwise = SAGA_WALK_SKIP;
			return false;
		case SAGA_TRANSACTION_GONE:
			*otherwise = SAGA_WALK_LEAVE;
			return false;
	}
	MemoryContextSwitchTo(hand.context);
	if (hand.doubt_home && saga_home_away() != NULL)
	{
		/* Adopting the copy makes the worker read everything again. */
		saga_transaction_commit();
		*otherwise = SAGA_WALK_DONE;
		return false;
	}
	hand.doubt_home = false;
	return true;
}

/*
 * Begins a transaction that records how an attempt failed.  False: there is none,
 * and "otherwise" says whether that is all.
 */
bool
saga_in_hand_begin_record(bool *otherwise)
{
	SagaTurnBegun begun;

	SAGA_FAULT("executor.before_record_failure");
	begun = saga_transaction_begin(true);
	*otherwise = begun == SAGA_TRANSACTION_GONE;
	if (begun != SAGA_TRANSACTION_BEGUN)
		return false;
	MemoryContextSwitchTo(hand.context);
	return true;
}

/* Has an attempt begun whose end is not written down yet? */
bool
saga_in_hand_is_open(void)
{
	return open_attempt;
}

/* It is written down, or left to the worker. */
void
saga_in_hand_forget(void)
{
	open_attempt = false;
}

/* Tells one SQL text from another; never 0. */
uint32
saga_in_hand_hash(const text *sql)
{
	text	   *plain = DatumGetTextPP(PointerGetDatum(sql));

	return hash_bytes((const unsigned char *) VARDATA_ANY(plain),
					  VARSIZE_ANY_EXHDR(plain)) | 1;
}

/* That the session is read-only is not the fault of the SQL. */
static void
check_writable(const SagaStep *step)
{
	if (!XactReadOnly)
		return;
	hand.trouble = SAGA_TROUBLE_READ_ONLY;
	ereport(ERROR,
			(errcode(ERRCODE_READ_ONLY_SQL_TRANSACTION),
			 errmsg("default_transaction_read_only is on for role \"%s\" in this database",
					text_to_cstring(step->run_as_name))));
}

/*
 * The next attempt is one of this step, of its action or its compensation; it begins
 * "now".
 */
void
saga_in_hand_prepare(const SagaStep *step, bool forward, TimestampTz now)
{
	hand.seq = step->seq;
	saga_bgworker_at(&hand.saga, hand.seq);
	hand.end.forward = forward;
	hand.end.attempt = 1 + (forward ? step->forward.attempts : step->undo.attempts);
	hand.end.started_at = now;
	hand.end.rows = -1;
	hand.end.charged = true;
	hand.phase = SAGA_ATTEMPT_PREPARING;
	check_writable(step);
}

/* An attempt is about to begin: notes it where a crash cannot lose it. */
void
saga_in_hand_open(const SagaStep *step)
{
	SagaInflight record;

	memset(&record, 0, sizeof(record));
	record.saga = step->saga;
	record.phase = saga_outcome_phase(&hand.end);
	record.seq = step->seq;
	record.attempt = hand.end.attempt;
	record.started_at = hand.end.started_at;
	SAGA_FAULT("executor.before_inflight");
	open_attempt = true;
	saga_inflight_write(&record);
	SAGA_FAULT("executor.after_inflight");
}

/*
 * Runs the SQL, between the attempt's record in flight and its mark.  Returns the
 * number of rows that it processed; -1: unknown.
 */
int64
saga_in_hand_run_sql(const SagaStep *step, const SagaPolicy *policy,
					 Jsonb *context, DestReceiver *output)
{
	SagaPhase	phase = saga_outcome_phase(&hand.end);
	int64		rows;

	saga_mailbox_set_step(phase, step->seq, hand.end.attempt,
						  hand.end.started_at);
	hand.sql_hash = saga_in_hand_hash(saga_session_sql(step, phase));
	/* The search_path and the settings kept with the step are the step's own. */
	hand.phase = SAGA_ATTEMPT_SQL;
	rows = saga_session_run(step, phase, policy, context, output);
	hand.phase = SAGA_ATTEMPT_MARKING;
	return rows;
}

/* Commits the marked attempt: nothing of it need be recorded any more. */
void
saga_in_hand_commit(void)
{
	hand.phase = SAGA_ATTEMPT_COMMITTING;
	saga_mailbox_look();
	SAGA_FAULT("executor.before_commit");
	saga_transaction_commit();
	SAGA_FAULT("executor.after_commit");
	open_attempt = false;
	saga_inflight_mark(SAGA_INFLIGHT_NONE);
	saga_session_disarm();
}

/* Raises the error that rolls an attempt back because its saga was changed. */
void
saga_in_hand_was_changed(void)
{
	hand.changed = true;
	ereport(ERROR,
			(errcode(ERRCODE_T_R_SERIALIZATION_FAILURE),
			 errmsg("the saga was changed while its %s ran",
					hand.end.forward ? "action" : "compensation")));
}

/*
 * How long a suspect keeps everyone else waiting (ms): the longer, the more often it
 * was interrupted, as it was by each crash.
 */
int64
saga_in_hand_window(const SagaWork *work)
{
	return ALONE_MS << (2 * Max(0, Min(work->interruptions - 1, 4)));
}
