/*-------------------------------------------------------------------------
 *
 * own_lane.c
 *	  The worker's own lane: sagas and steps that are due and need no role.
 *
 * Deadlines, parking, announcing, dispatching to listeners, and sending sagas
 * to the lane of the right role; and looks at running sagas, where a row asks for
 * one or the time of a step has come.
 *
 * Many sagas are done in one transaction, so that many notifications cost one
 * flush of the log.  Rows about their steps are gathered by saga, and looked at
 * together: many changes of one saga cost one look.  A saga that another transaction
 * is writing is passed over.  After an error, the sagas of the transaction are done
 * again one by one, so that the one that raised it delays no other.  That one is passed
 * over, and tried again ever less often, in a transaction of its own
 * (shared/failing.c).  Only an error of the commit may be none of the sagas': that the
 * queue of notifications is full.  The worker waits
 * for no lock that an application may hold: it passes the saga over, and comes back
 * soon.  (NOTIFY makes commits wait for each other, but only for as long as a commit
 * takes.)
 *
 * A turn is short, however much is due: it ends after a slice of time, and the
 * next goes on where it ended.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/xact.h"
#include "base/clock.h"
#include "base/fault.h"
#include "base/ids.h"
#include "flow/events.h"
#include "flow/next.h"
#include "flow/notify.h"
#include "ledger/home.h"
#include "ledger/ledger.h"
#include "miscadmin.h"
#include "process/action.h"
#include "process/bgworker.h"
#include "process/channels.h"
#include "process/interrupted.h"
#include "process/leaving.h"
#include "process/looking.h"
#include "process/own_lane.h"
#include "process/pool.h"
#include "process/transaction.h"
#include "shared/failing.h"
#include "storage/lock.h"
#include "utils/memutils.h"
#include "utils/timestamp.h"

/* Pauses (ms) */
#define RETRY_FIRST		100		/* before a saga that was passed over */
#define RETRY_LAST		1000
#define END_FIRST		10		/* before a saga whose actions must end first */
#define NOTIFY_AGAIN	5000	/* when the queue of notifications was full */

/*
 * Limits of one transaction: sagas; rows about steps; and such rows if they are all
 * about one saga, since a look at it reads all its steps, however few the rows.
 */
#define OWN_BATCH		100
#define OWN_ROWS		1000
#define OWN_ROWS_OF_ONE	100000
/* Time slice after which the worker goes on to the other lanes (ms). */
#define OWN_SLICE		50
/*
 * Time from which on a look took long (ms); for how long the next one is put off, as
 * a multiple of the time it took, and at most (ms).
 */
#define OWN_LONG		2
#define OWN_LONG_FACTOR	3
#define OWN_LONG_MAX	2000
/*
 * Start the lane over at least this often, even if its end was not reached
 * (ms).
 */
#define OWN_PASS		10000

static MemoryContext saga_context = NULL;	/* reset after each saga */

/* How far the worker's own lane was read, and what was passed over. */
static SagaDue own_position;
static int	own_retry_ms = RETRY_FIRST;
static TimestampTz own_retry_at = 0;
static bool own_passed = false;
static bool own_put_off = false;
static bool own_ending = false;
static int	own_end_ms = END_FIRST;
static bool own_more = false;	/* the last turn did not come to its end */
static int64 own_begun = 0;		/* when it was last read from the start, by
								 * the steady clock */
static int	own_count = 0;		/* rows read in the transaction */

/*
 * Of those, the ones about steps, in TopTransactionContext, and the sagas they
 * are about.
 */
static SagaDue *own_rows = NULL;
static int	own_rows_count = 0;
static int	own_rows_size = 0;
static pg_uuid_t own_looks[OWN_BATCH];
static int	own_looks_count = 0;

/* Number of rows still to be done saga by saga, after an error */
static int	own_singles = 0;

/*
 * A look at a saga with very many steps takes long, and while they run in great
 * numbers it mostly finds that nothing may begin yet.  So after such a look the next
 * one at that saga is put off for a multiple of the time, and then sees all changes
 * since.  One saga is remembered.
 */
static pg_uuid_t own_long_saga;
static TimestampTz own_long_again = 0;	/* 0: none is put off */

/*
 * What the transaction does, for the handler of an error: the saga in hand, or the last
 * that was; whether it is one that failed before, and so is done alone; and whether the
 * transaction is being committed.
 */
static pg_uuid_t own_at;
static SagaFailingAt own_at_what;
static bool own_alone = false;
static bool own_committing = false;

/* Some that failed are not to be tried before that; DT_NOEND: there are none. */
static TimestampTz own_failing_again = DT_NOEND;

/* The queue of notifications was full: none is sent before that time. */
static TimestampTz own_notify_at = DT_NOBEGIN;

typedef enum OwnResult
{
	OWN_DONE,					/* some were done: the next */
	OWN_AGAIN,					/* an error: the same ones again */
	OWN_END,					/* nothing more is due */
	OWN_BLOCKED,				/* the ledger is locked */
	OWN_AWAY					/* this is a copy of the ledger */
} OwnResult;

static void
own_position_at_start(void)
{
	memset(&own_position, 0, sizeof(own_position));
	own_position.due = DT_NOBEGIN;
	own_position.seq = PG_INT64_MIN;
	own_begun = saga_clock_steady();
}

/*
 * May the lane be read from the start again?  Not before its end was reached, or
 * those at the end would never have their turn while many at the start are held; but
 * after some time in any case, if more comes all the time.
 */
bool
saga_own_lane_may_begin_anew(void)
{
	return !own_more ||
		saga_clock_steady() - own_begun >= OWN_PASS * SAGA_CLOCK_MS;
}

/*
 * Ends the actions of a saga that is being undone.  True: not all have ended, or it
 * is not written down yet how one did, which may make its step one to be undone.
 */
static bool
own_ends_actions(const SagaRow *saga)
{
	if (saga->runs == SAGA_RUNS_NONE || saga->state != SAGA_COMPENSATING)
		return false;
	SAGA_FAULT("worker.before_end");
	if (!saga_action_end_all(&saga->id) && !saga_pool_left_record() &&
		!saga_interrupted_withholds(&saga->id))
		return false;
	own_ending = true;
	return true;
}

/*
 * What is due of one saga.  False: it is to be looked at again soon, because
 * somebody holds it (and nothing is written), or because there is more to do.
 */
static bool
own_saga(const pg_uuid_t *id, TimestampTz now)
{
	SagaRow		saga;
	SagaSteps	steps;
	SagaChange	change;
	int			may = SAGA_MAY_NOTIFY | SAGA_MAY_FAIL;
	bool		locked;

	if (saga_ledger_get_saga(id, &saga) != SAGA_FOUND)
		return true;

	/*
	 * If steps may be on their way in, take the lock first: while we hold it,
	 * no step can be added.  Then read the newest row.
	 */
	locked = saga_rows_may_get_steps(&saga);
	if (locked && !saga_ledger_lock(id, ExclusiveLock, SAGA_NOWAIT))
		return false;
	switch (saga_ledger_reread_saga(&saga, SAGA_NOWAIT))
	{
		case SAGA_FOUND:
			break;
		case SAGA_MISSING:
			return true;
		case SAGA_BUSY:
			return false;
	}
	/* A partial undo has ended since, or a late result came. */
	if (saga_rows_may_get_steps(&saga) && !locked)
		return false;
	if (saga.due == 0 || saga.due > now || OidIsValid(saga.lane))
		return true;
	if (own_ends_actions(&saga))
		return false;

	/*
	 * Read the clock again: what we write must be later than anything that
	 * arrived before this point.
	 */
	now = saga_clock_now();
	saga_ledger_get_steps(id, &steps);
	if (now < own_notify_at)
	{
		if (saga_events_notifies(&saga, &steps))
			return false;
		/* What it does may lead to a listener: that, too, is for later. */
		may = SAGA_MAY_FAIL;
	}
	saga_change_begin(&change, &saga, &steps, may, now);
	saga_events_pass(&change);
	if (saga_change_write(&change) != SAGA_WRITTEN)
		return false;
	/* Still due, where it was found: the lane is read beyond that by now. */
	return saga.due == 0 || OidIsValid(saga.lane) || saga.due > own_position.due;
}

/* Gathers a row about a step. */
static void
own_gather(const SagaDue *found)
{
	SagaDue    *row;
	int			i = own_looks_count;

	if (own_rows_count == own_rows_size)
	{
		own_rows_size = Max(16, own_rows_size * 2);
		own_rows = own_rows == NULL ?
			MemoryContextAlloc(TopTransactionContext,
							   own_rows_size * sizeof(SagaDue)) :
			repalloc(own_rows, own_rows_size * sizeof(SagaDue));
	}
	row = &own_rows[own_rows_count++];
	*row = *found;
	if (found->key != NULL)
	{
		row->key = MemoryContextAlloc(TopTransactionContext,
									  VARSIZE_ANY(found->key));
		memcpy(row->key, found->key, VARSIZE_ANY(found->key));
	}

	/* Mostly it is of the same saga as the row before. */
	while (i > 0 && !saga_ids_equal(&own_looks[i - 1], &found->saga))
		i--;
	if (i == 0)
		own_looks[own_looks_count++] = found->saga;
}

static void
own_forget_rows(void)
{
	own_rows = NULL;
	own_rows_count = own_rows_size = 0;
	own_looks_count = 0;
}

/* By saga, and otherwise in the order of the lane; for qsort. */
static int
own_rows_compare(const void *a, const void *b)
{
	const SagaDue *one = a;
	const SagaDue *other = b;
	int			order = saga_ids_compare(&one->saga, &other->saga);

	if (order == 0 && one->due != other->due)
		order = one->due < other->due ? -1 : 1;
	if (order == 0 && one->seq != other->seq)
		order = one->seq < other->seq ? -1 : 1;
	return order;
}

/* Looks at the saga that some of the rows are about, unless that is put off. */
static void
own_look(const SagaDue *rows, int count)
{
	const pg_uuid_t *id = &rows[0].saga;
	bool		was_long = own_long_again != 0 &&
		saga_ids_equal(id, &own_long_saga);
	int64		begun = saga_clock_steady();
	int64		took;
	SagaLooked	looked;

	if (was_long && saga_clock_now() < own_long_again)
	{
		own_put_off = true;
		return;
	}
	saga_bgworker_at(id, 0);
	looked = saga_looking_at(rows, count,
							 (saga_clock_now() < own_notify_at ? 0 : SAGA_MAY_NOTIFY) |
							 SAGA_IS_WORKER,
							 InvalidOid, NULL);
	if (looked == SAGA_LOOK_LATER)
		own_passed = true;
	took = saga_clock_steady() - begun;
	if (looked == SAGA_LOOKED_IN_VAIN && took >= OWN_LONG * SAGA_CLOCK_MS)
	{
		own_long_saga = *id;
		own_long_again = saga_clock_now() +
			Min(took * OWN_LONG_FACTOR, OWN_LONG_MAX * SAGA_CLOCK_MS);
	}
	else if (was_long)
		own_long_again = 0;
}

/* Looks at the sagas of the rows gathered, once each. */
static void
own_look_at_gathered(void)
{
	int			end;

	qsort(own_rows, own_rows_count, sizeof(SagaDue), own_rows_compare);
	for (int first = 0; first < own_rows_count; first = end)
	{
		for (end = first + 1; end < own_rows_count &&
			 saga_ids_equal(&own_rows[end].saga, &own_rows[first].saga);)
			end++;
		own_look(&own_rows[first], end - first);
		MemoryContextReset(saga_context);
	}
}

/* What failed, if it does with that row */
static SagaFailingAt
own_what(const SagaDue *found)
{
	return found->seq != 0 ? SAGA_FAILING_LOOK : SAGA_FAILING_ROW;
}

/* Takes a row in hand. */
static void
own_take(const SagaDue *found)
{
	saga_rows_keep_place(&own_position, found);
	own_count++;
	own_at = found->saga;
	own_at_what = own_what(found);
	saga_bgworker_at(&found->saga, 0);
}

/* Is the row one of a saga that failed, and not to be tried again yet? */
static bool
own_failing_waits(const SagaDue *found, TimestampTz now)
{
	TimestampTz again;

	if (!saga_failing_waits(&found->saga, own_what(found), now, &again))
		return false;
	own_failing_again = Min(own_failing_again, again);
	return true;
}

/*
 * May the transaction take on one more row?  If it has many rows about steps, only
 * another of the saga that they are all about.  "single": it keeps to one saga, and
 * of that to the saga's own row or to the rows about its steps.
 */
static bool
own_takes_on(const SagaDue *found, bool single)
{
	if (own_count == 0 || (!single && own_rows_count < OWN_ROWS))
		return true;
	return found->seq != 0 && own_looks_count == 1 &&
		own_rows_count < OWN_ROWS_OF_ONE &&
		saga_ids_equal(&found->saga, &own_looks[0]);
}

/*
 * One transaction: as many sagas as one may do, or one ("single").  Sets own_count
 * to the number of rows that it read.
 */
static OwnResult
own_batch(TimestampTz now, bool single, TimestampTz *next)
{
	OwnResult	result = OWN_DONE;
	MemoryContext caller = CurrentMemoryContext;
	int			sagas = 0;
	bool		home = false;

	SAGA_FAULT("worker.before_turn");
	switch (saga_transaction_begin(true))
	{
		case SAGA_TRANSACTION_BEGUN:
			break;
		case SAGA_TRANSACTION_BLOCKED:
			return OWN_BLOCKED;
		case SAGA_TRANSACTION_GONE:
			saga_leaving_because_gone();
	}
	own_forget_rows();
	own_alone = own_committing = false;
	MemoryContextSwitchTo(saga_context);
	while (sagas < OWN_BATCH && own_looks_count < OWN_BATCH)
	{
		SagaDue		found;

		if (!saga_ledger_next_due(&own_position, true, &found))
		{
			result = OWN_END;
			break;
		}
		if (found.due > now)
		{
			*next = Min(*next, found.due);
			result = OWN_END;
			break;
		}

		/*
		 * Check after taking the snapshot, so that the check covers every row
		 * the snapshot can see.
		 */
		if (!home && saga_home_away() != NULL)
		{
			result = OWN_AWAY;
			break;
		}
		home = true;
		if (own_failing_waits(&found, now))
		{
			saga_rows_keep_place(&own_position, &found);
			own_singles = Max(own_singles - 1, 0);
			CHECK_FOR_INTERRUPTS();
			continue;
		}
		if (!own_takes_on(&found, single || own_alone))
			break;
		if (!own_alone && saga_failing_has(&found.saga, own_what(&found)))
		{
			/* Alone, so that another error of it is nobody else's. */
			if (own_count > 0)
				break;
			own_alone = true;
		}
		own_take(&found);
		if (found.seq != 0)
			own_gather(&found);
		else
		{
			sagas++;
			if (!own_saga(&found.saga, now))
				own_passed = true;
		}
		MemoryContextReset(saga_context);
	}
	if (own_rows_count > 0)
		own_look_at_gathered();
	/* An error of the commit is no saga's. */
	saga_bgworker_at(NULL, 0);
	MemoryContextSwitchTo(caller);
	SAGA_FAULT("worker.before_commit");
	own_committing = true;
	saga_transaction_commit();
	own_committing = false;
	SAGA_FAULT("worker.after_commit");
	if (own_alone)
		saga_failing_over(&own_at, own_at_what);
	return result;
}

/*
 * The saga in hand failed, after a time: others go on.  One that another process has
 * just changed is tried again soon, and so is one that cannot be noted.
 */
static void
own_failed(const ErrorData *error, int64 took)
{
	TimestampTz again;

	own_singles = Max(own_singles - own_count, 0);
	/* That another look was first is nothing to report. */
	ereport(error->sqlerrcode == ERRCODE_T_R_SERIALIZATION_FAILURE ?
			DEBUG1 : WARNING,
			(errcode(error->sqlerrcode),
			 errmsg("could not process a saga that is due: %s",
					error->message)));
	if (error->sqlerrcode != ERRCODE_T_R_SERIALIZATION_FAILURE &&
		saga_failing_note(&own_at, own_at_what, error->sqlerrcode, took, &again))
		own_failing_again = Min(own_failing_again, again);
	else
		own_passed = true;
}

/* The same as own_batch, but an error of one saga does not keep the others back. */
static OwnResult
own_batch_caught(MemoryContext turn_context, TimestampTz now,
				 TimestampTz *next)
{
	SagaDue		before = own_position;
	int64		begun = saga_clock_steady();
	volatile OwnResult result = OWN_AGAIN;

	if (own_notify_at != DT_NOBEGIN && own_notify_at <= now)
	{
		own_notify_at = DT_NOBEGIN;
		saga_notify_make_room();
	}
	own_count = 0;
	PG_TRY();
	{
		result = own_batch(now, own_singles > 0, next);
		own_singles = Max(own_singles - own_count, 0);
	}
	PG_CATCH();
	{
		ErrorData  *error = saga_transaction_fail(turn_context);

		/* Not before anything was found: then it is no saga's error. */
		if (own_count == 0)
			ReThrowError(error);
		result = OWN_AGAIN;
		if (error->sqlerrcode == ERRCODE_PROGRAM_LIMIT_EXCEEDED &&
			own_committing && !own_alone && now >= own_notify_at)
		{
			/*
			 * Nobody's fault: they go on without notifications.  From now,
			 * not from before, so that this is not found again at once,
			 * however long these take.
			 */
			own_notify_at = saga_clock_now() + NOTIFY_AGAIN * SAGA_CLOCK_MS;
			own_position = before;
			ereport(WARNING,
					(errcode(error->sqlerrcode),
					 errmsg("could not notify listeners: %s", error->message),
					 errhint("It will be tried again. A session that listens and stays in a transaction may be the cause.")));
		}
		else if (own_singles == 0 && own_count > 1 && !own_alone)
		{
			own_position = before;
			own_singles = own_count;
		}
		else
			own_failed(error, saga_clock_steady() - begun);
	}
	PG_END_TRY();
	saga_bgworker_at(NULL, 0);
	MemoryContextSwitchTo(turn_context);
	MemoryContextReset(saga_context);
	return result;
}

/*
 * Does what is due in the worker's own lane, as far as it comes in a slice of
 * time.  Returns when to look again.
 */
TimestampTz
saga_own_lane_turn(MemoryContext turn_context, bool *away)
{
	int64		begun = saga_clock_steady();
	TimestampTz next = DT_NOEND;
	OwnResult	result;

	if (saga_context == NULL)
		saga_context = AllocSetContextCreate(TopMemoryContext, "saga in hand",
											 ALLOCSET_DEFAULT_SIZES);
	MemoryContextSwitchTo(turn_context);

	own_passed = own_put_off = own_ending = false;
	own_failing_again = DT_NOEND;
	if (own_retry_at != 0 && own_retry_at <= saga_clock_now() &&
		saga_own_lane_may_begin_anew())
	{
		own_retry_at = 0;
		own_position_at_start();
	}
	do
	{
		saga_leaving_handle_interrupts();
		result = own_batch_caught(turn_context, saga_clock_now(), &next);
		if (own_count > 0)
			saga_channels_dispatched(saga_clock_now());
		MemoryContextReset(turn_context);
	} while ((result == OWN_DONE || result == OWN_AGAIN) &&
			 saga_clock_steady() - begun < OWN_SLICE * SAGA_CLOCK_MS);

	*away = (result == OWN_AWAY);
	own_more = (result == OWN_DONE || result == OWN_AGAIN);
	if (own_more)
		next = saga_clock_now();
	if (result == OWN_BLOCKED)
		next = saga_clock_now() + RETRY_FIRST * SAGA_CLOCK_MS;
	if (own_passed && own_retry_at == 0)
	{
		own_retry_at = saga_clock_now() + own_retry_ms * SAGA_CLOCK_MS;
		own_retry_ms = Min(own_retry_ms * 2, RETRY_LAST);
	}
	else if (own_retry_at == 0)
		own_retry_ms = RETRY_FIRST;
	if (own_put_off && (own_retry_at == 0 || own_retry_at > own_long_again))
		own_retry_at = own_long_again;
	if (own_failing_again != DT_NOEND &&
		(own_retry_at == 0 || own_retry_at > own_failing_again))
		own_retry_at = own_failing_again;
	/* Mostly that is soon, however long others are held. */
	if (own_ending)
	{
		TimestampTz again = saga_clock_now() + own_end_ms * SAGA_CLOCK_MS;

		own_retry_at = Min(own_retry_at, again);
		own_end_ms = Min(own_end_ms * 2, RETRY_LAST);
	}
	else
		own_end_ms = END_FIRST;
	if (own_retry_at != 0)
		next = Min(next, own_retry_at);
	return next;
}

/* Nothing remembered is to be relied on: the lane is read from its start. */
void
saga_own_lane_read_again(void)
{
	own_position_at_start();
	own_retry_at = 0;
	own_singles = 0;
}

/* The lane is read from its start, but what is retried is not forgotten. */
void
saga_own_lane_rewind(void)
{
	own_position_at_start();
}

/* The clock was set back: a pause may have become long. */
void
saga_own_lane_forget_pauses(void)
{
	/* Over, and not forgotten: then room is made in the queue first. */
	own_notify_at = Min(own_notify_at, DT_NOBEGIN + 1);
	saga_failing_forget_pauses();
	own_long_again = 0;
}

/* Something was posted that is due then: the lane is read from there. */
void
saga_own_lane_posted(TimestampTz posted)
{
	if (posted > own_position.due)
		return;
	own_position_at_start();
	if (posted > DT_NOBEGIN + 1)
	{
		own_position.due = posted - 1;
		memset(&own_position.saga, 0xff, sizeof(pg_uuid_t));
		own_position.seq = PG_INT64_MAX;
	}
}
