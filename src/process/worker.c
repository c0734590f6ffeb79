/*-------------------------------------------------------------------------
 *
 * worker.c
 *	  A database's worker: what is due, and who shall do it.
 *
 * One process per database, connected as the bootstrap superuser, that runs
 * nothing of anybody's: no SQL of users, no triggers, no functions.  It sleeps
 * on its latch until something is due (how that loses no wake-up is told in
 * wakeup.c) and then takes a turn:
 *
 *	1. Attempts that were cut short, by the end of their executor or of an
 *	   earlier life of the server, are written down.  Until an attempt is, its
 *	   saga is not handed out.
 *	2. Its own lane: deadlines, parking, and sending sagas to the right lane.
 *	3. Channels on which something waits unclaimed (channels.c).
 *	4. Finished sagas that are older than they are to be kept (retention.c).
 *	5. The lanes of roles: sagas are handed to executors (role_lanes.c).
 *
 * A turn is short, however much is due in one lane, so that nobody's executors
 * wait for what the worker has to do for somebody else.
 *
 * In its own lane it does many sagas in one transaction, so that many
 * notifications cost one flush of the log.  One that somebody holds is passed
 * by; after an error, those of the transaction are done again one by one, so
 * that the one that raised it keeps nobody else waiting.  The worker waits for
 * no lock that an application may hold: it passes by, and comes back soon.
 * (NOTIFY makes commits wait for each other, but only for as long as a commit
 * takes.)
 *
 * It leaves when the extension is gone, when its database must be free, and,
 * if it is asked to make room for another database, when nothing is due.
 *
 * Exit codes: 0 when it leaves of its own accord, 1 on FATAL; the launcher
 * decides about a new one, see there.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/twophase.h"
#include "access/xact.h"
#include "access/xlog.h"
#include "base/clock.h"
#include "base/compat.h"
#include "base/fault.h"
#include "catalog/pg_type_d.h"
#include "executor/spi.h"
#include "flow/events.h"
#include "flow/next.h"
#include "flow/notify.h"
#include "ledger/home.h"
#include "ledger/ledger.h"
#include "miscadmin.h"
#include "pgstat.h"
#include "postmaster/interrupt.h"
#include "process/channels.h"
#include "process/inflight.h"
#include "process/pool.h"
#include "process/retention.h"
#include "process/role_lanes.h"
#include "process/transaction.h"
#include "process/worker.h"
#include "shared/mailbox.h"
#include "shared/wakeup.h"
#include "storage/ipc.h"
#include "storage/latch.h"
#include "utils/guc.h"
#include "utils/memutils.h"

/* Pauses, in milliseconds. */
#define RETRY_FIRST		100		/* before a saga that somebody holds */
#define RETRY_LAST		1000
#define AFTER_ERROR		1000
#define PREPARED_POLL	1000
#define AWAY_POLL		60000
#define NOTIFY_AGAIN	5000	/* when the queue of notifications was full */
/* So long a sleep is shown as idleness. */
#define IDLE_FOR		1000

/* Most sagas of its own lane that a worker does in one transaction. */
#define OWN_BATCH		100
/* So long, in milliseconds, before it looks at the other lanes again. */
#define OWN_SLICE		50
/* So long may it take to the end of its own lane before it begins anew. */
#define OWN_PASS		10000

static SagaDatabaseSlot *my_database = NULL;
static int64 started_at = 0;	/* by the steady clock */
static MemoryContext worker_context = NULL; /* long-lived */
static MemoryContext turn_context = NULL;	/* reset after each turn */
static MemoryContext saga_context = NULL;	/* reset after each saga */

/* How far the worker's own lane was read, and what was passed by. */
static SagaDue own_position;
static int	own_retry_ms = RETRY_FIRST;
static TimestampTz own_retry_at = 0;
static bool own_passed = false;
static bool own_more = false;	/* the last turn did not come to its end */
static int64 own_begun = 0;		/* when it was last read from the start, by
								 * the steady clock */
static int	own_count = 0;		/* sagas of the transaction */

/* After an error: so many are to be done one by one. */
static int	own_singles = 0;

/* The queue of notifications was full: before that, none is sent. */
static TimestampTz own_notify_at = DT_NOBEGIN;

/* Attempts cut short that are not written down yet. */
static bool look_for_leftovers = true;
static TimestampTz leftovers_at = 0;
static pg_uuid_t *held_back = NULL;

/* Sagas may have become due by transactions that were prepared. */
static bool count_prepared = true;

/* ------------------------------------------------------------------------
 * Leaving
 * ------------------------------------------------------------------------ */

/*
 * What executors have not done yet is still due, but was handed out, so that
 * what is armed does not tell of it: the launcher must know that somebody is
 * to look again.
 */
static void
leave(void)
{
	SAGA_FAULT("worker.before_leave");
	saga_shmem_worker_leaves(saga_mailbox_has_work(MyDatabaseId));
	saga_pool_dismiss_all();
	proc_exit(0);
}

static void
leave_because_gone(void)
{
	saga_shmem_worker_found(SAGA_DATABASE_ABSENT);
	leave();
}

static void
handle_interrupts(void)
{
	saga_transaction_handle_interrupts();
	if (saga_shmem_worker_must_leave(false))
		leave();
}

/* ------------------------------------------------------------------------
 * Attempts that were cut short
 * ------------------------------------------------------------------------ */

/* One of them.  True when it is written down and may be forgotten. */
static bool
settle_leftover(const SagaInflight *record)
{
	SagaRow		saga;
	SagaSteps	steps;
	SagaChange	change;
	SagaAttemptEnd end;
	SagaFound	found;
	int			i;

	SAGA_FAULT("worker.before_turn");
	switch (saga_transaction_begin(true))
	{
		case SAGA_TRANSACTION_BEGUN:
			break;
		case SAGA_TRANSACTION_BLOCKED:
			return false;
		case SAGA_TRANSACTION_GONE:
			leave_because_gone();
	}
	found = saga_ledger_get_saga(&record->saga, &saga);
	if (found == SAGA_FOUND && TransactionIdIsValid(saga.version.writer))
	{
		saga_transaction_commit();
		return false;
	}
	i = -1;
	if (found == SAGA_FOUND)
	{
		saga_ledger_get_steps(&record->saga, &steps);
		i = saga_next_find(&steps, record->seq);
	}
	/* It moved while the steps were read. */
	if (found == SAGA_FOUND && i < 0)
	{
		saga_transaction_commit();
		return false;
	}
	/* Gone, or somebody has written it down before. */
	if (i < 0 || steps.step[i].comp_attempts >= record->attempt)
	{
		saga_transaction_commit();
		return true;
	}

	/* An attempt before this one may have been lost with the crash. */
	memset(&end, 0, sizeof(end));
	end.attempt = steps.step[i].comp_attempts + 1;
	end.started_at = record->started_at;
	end.rows = -1;
	if (record->state == SAGA_INFLIGHT_ENDED)
	{
		end.outcome = (SagaOutcome) record->end.outcome;
		end.charged = record->end.charged;
		end.conflict = record->end.conflict;
		end.waits = record->end.waits;
		end.sqlstate = record->end.sqlstate[0] ? record->end.sqlstate : NULL;
		end.error = record->end.error;
		end.park = record->end.park ? record->end.error : NULL;
	}
	else if (record->state == SAGA_INFLIGHT_TIMED_OUT)
	{
		end.outcome = SAGA_OUTCOME_TIMED_OUT;
		end.charged = true;
		end.error = "it ran on after its timeout, and its process was ended";
	}
	else
	{
		end.outcome = SAGA_OUTCOME_INTERRUPTED;
		end.suspect = record->state == SAGA_INFLIGHT_RUNNING;
		end.alone = record->alone;
		end.error = end.suspect ? "the server crashed while it ran" :
			"its process was told to leave while it ran";
	}
	saga_change_begin(&change, &saga, &steps, 0, saga_clock_now());
	saga_events_attempt(&change, &steps.step[i], &end);
	if (saga_change_write(&change) != SAGA_WRITTEN)
	{
		AbortCurrentTransaction();
		return false;
	}
	SAGA_FAULT("worker.before_commit");
	saga_transaction_commit();
	SAGA_FAULT("worker.after_commit");
	/* The file may go only when this is on disk, whatever the settings say. */
	XLogFlush(XactLastCommitEnd);
	return true;
}

/*
 * The same, with the errors of one kept from the others.  Only the first of a
 * pass is worth a line in the log ("failed" is false so far): a full disk fails
 * them all, and is not to be filled by it.
 */
static bool
settle_leftover_caught(const SagaInflight *record, bool *failed)
{
	volatile bool done = false;

	PG_TRY();
	{
		done = settle_leftover(record);
	}
	PG_CATCH();
	{
		ErrorData  *error = saga_transaction_fail(turn_context);

		ereport(*failed ? DEBUG1 : WARNING,
				(errcode(error->sqlerrcode),
				 errmsg("could not record how an attempt of a compensation ended: SQLSTATE %s",
						unpack_sql_state(error->sqlerrcode))));
		*failed = true;
	}
	PG_END_TRY();
	return done;
}

/*
 * All of them.  Returns when to try again those that somebody holds; their
 * sagas are held back until then.
 */
static TimestampTz
settle_leftovers(TimestampTz now)
{
	List	   *records;
	ListCell   *lc;
	int			count = 0;
	bool		failed = false;

	saga_role_lanes_withhold(NULL, 0);
	if (held_back != NULL)
		pfree(held_back);
	held_back = NULL;

	MemoryContextSwitchTo(turn_context);
	records = saga_inflight_leftovers(MyDatabaseId);
	if (records != NIL)
		held_back = MemoryContextAlloc(worker_context,
									   list_length(records) * sizeof(pg_uuid_t));
	foreach(lc, records)
	{
		SagaInflight *record = lfirst(lc);
		bool		done;

		handle_interrupts();
		done = settle_leftover_caught(record, &failed);
		MemoryContextSwitchTo(turn_context);
		if (done)
			saga_inflight_forget(record);
		else
			held_back[count++] = record->saga;
	}
	saga_role_lanes_withhold(held_back, count);
	look_for_leftovers = false;
	leftovers_at = count > 0 ? now + RETRY_LAST * SAGA_CLOCK_MS : 0;
	if (count < list_length(records))
		saga_role_lanes_read_again();
	return count > 0 ? leftovers_at : DT_NOEND;
}

/* ------------------------------------------------------------------------
 * The worker's own lane
 * ------------------------------------------------------------------------ */

typedef enum OwnResult
{
	OWN_DONE,					/* some were looked after: the next */
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
	own_begun = saga_clock_steady();
}

/*
 * May the lane be read from the start again?  Not before its end, or those at
 * the end would never have their turn while many at the start are held; nor
 * never, if more comes all the time.
 */
static bool
own_may_begin_anew(void)
{
	return !own_more ||
		saga_clock_steady() - own_begun >= OWN_PASS * SAGA_CLOCK_MS;
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
	int			may = SAGA_MAY_NOTIFY;
	bool		locked;

	if (saga_ledger_get_saga(id, &saga) != SAGA_FOUND)
		return true;

	/*
	 * Of a running saga, the lock first: behind it, no step is on its way in.
	 * Then the newest row.
	 */
	locked = saga.state == SAGA_RUNNING;
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
	/* It is running only since the end of a partial undo. */
	if (saga.state == SAGA_RUNNING && !locked)
		return false;
	if (saga.due == 0 || saga.due > now || OidIsValid(saga.lane))
		return true;
	/* What came in until now came before what is written now. */
	now = saga_clock_now();
	saga_ledger_get_steps(id, &steps);
	if (now < own_notify_at)
	{
		if (saga_events_notifies(&saga, &steps))
			return false;
		/* What it does may lead to a listener: that, too, is for later. */
		may = 0;
	}
	saga_change_begin(&change, &saga, &steps, may, now);
	saga_events_pass(&change);
	if (saga_change_write(&change) != SAGA_WRITTEN)
		return false;
	/* Still due, where it was found: the lane is read beyond that by now. */
	return saga.due == 0 || OidIsValid(saga.lane) || saga.due > own_position.due;
}

/* One transaction: up to "limit" sagas; own_count tells how many it came to. */
static OwnResult
own_batch(TimestampTz now, int limit, TimestampTz *next)
{
	OwnResult	result = OWN_DONE;

	SAGA_FAULT("worker.before_turn");
	switch (saga_transaction_begin(true))
	{
		case SAGA_TRANSACTION_BEGUN:
			break;
		case SAGA_TRANSACTION_BLOCKED:
			return OWN_BLOCKED;
		case SAGA_TRANSACTION_GONE:
			leave_because_gone();
	}
	MemoryContextSwitchTo(saga_context);
	while (own_count < limit)
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
		/* Asked behind the snapshot: what it sees, this knows of. */
		if (own_count == 0 && saga_home_away() != NULL)
		{
			result = OWN_AWAY;
			break;
		}
		own_position = found;
		own_count++;
		if (!own_saga(&found.saga, now))
			own_passed = true;
		MemoryContextReset(saga_context);
	}
	MemoryContextSwitchTo(turn_context);
	SAGA_FAULT("worker.before_commit");
	saga_transaction_commit();
	SAGA_FAULT("worker.after_commit");
	return result;
}

/* The same, with the errors of one saga kept from the others. */
static OwnResult
own_batch_caught(TimestampTz now, TimestampTz *next)
{
	SagaDue		before = own_position;
	volatile OwnResult result = OWN_AGAIN;

	if (own_notify_at != DT_NOBEGIN && own_notify_at <= now)
	{
		own_notify_at = DT_NOBEGIN;
		saga_notify_make_room();
	}
	own_count = 0;
	PG_TRY();
	{
		result = own_batch(now, own_singles > 0 ? 1 : OWN_BATCH, next);
		if (own_singles > 0)
			own_singles--;
	}
	PG_CATCH();
	{
		ErrorData  *error = saga_transaction_fail(turn_context);

		/* Not before anything was found: then it is no saga's error. */
		if (own_count == 0)
			ReThrowError(error);
		result = OWN_AGAIN;
		if (error->sqlerrcode == ERRCODE_PROGRAM_LIMIT_EXCEEDED &&
			now >= own_notify_at)
		{
			/* Not the others' fault: they go on without notifications. */
			own_notify_at = now + NOTIFY_AGAIN * SAGA_CLOCK_MS;
			own_position = before;
			ereport(WARNING,
					(errcode(error->sqlerrcode),
					 errmsg("could not notify listeners: %s", error->message),
					 errhint("It will be tried again. A session that listens and stays in a transaction may be the cause.")));
		}
		else if (own_count > 1)
		{
			own_position = before;
			own_singles = own_count;
		}
		else
		{
			own_passed = true;
			own_singles = Max(own_singles - 1, 0);
			ereport(WARNING,
					(errcode(error->sqlerrcode),
					 errmsg("could not look after a saga that is due: %s",
							error->message)));
		}
	}
	PG_END_TRY();
	MemoryContextSwitchTo(turn_context);
	MemoryContextReset(saga_context);
	return result;
}

/*
 * Does what is due in the worker's own lane, as far as it comes in a slice of
 * time.  Returns when to look again.
 */
static TimestampTz
run_own_lane(bool *away)
{
	int64		begun = saga_clock_steady();
	TimestampTz next = DT_NOEND;
	OwnResult	result;

	own_passed = false;
	if (own_retry_at != 0 && own_retry_at <= saga_clock_now() &&
		own_may_begin_anew())
	{
		own_retry_at = 0;
		own_position_at_start();
	}
	do
	{
		handle_interrupts();
		result = own_batch_caught(saga_clock_now(), &next);
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
	if (own_retry_at != 0)
		next = Min(next, own_retry_at);
	return next;
}

/* ------------------------------------------------------------------------
 * Prepared transactions
 * ------------------------------------------------------------------------ */

static bool
any_prepared(void)
{
	Oid			type = OIDOID;
	Datum		database = ObjectIdGetDatum(MyDatabaseId);
	bool		any;

	if (max_prepared_xacts == 0)
		return false;
	if (saga_transaction_begin(true) != SAGA_TRANSACTION_BEGUN)
		return true;
	if (SPI_connect() != SPI_OK_CONNECT)
		elog(ERROR, "could not connect to SPI");
	if (SPI_execute_with_args("SELECT 1 FROM pg_catalog.pg_prepared_xact() AS p(x, g, t, o, d)"
							  " WHERE p.d OPERATOR(pg_catalog.=) $1",
							  1, &type, &database, NULL, true, 1) != SPI_OK_SELECT)
		elog(ERROR, "could not look for prepared transactions");
	any = SPI_processed > 0;
	SPI_finish();
	saga_transaction_commit();
	return any;
}

/*
 * While there may be prepared transactions that hold due work, everything is
 * read from the start each second: nobody posts what they commit.  To be
 * called before the lanes are read, so that what is no longer prepared is
 * visible to that.
 */
static TimestampTz
look_at_prepared(TimestampTz now)
{
	uint32		before = pg_atomic_read_u32(&my_database->prepared);

	if (before == 0 && !count_prepared)
		return DT_NOEND;
	if (!count_prepared && !own_may_begin_anew())
		return now + PREPARED_POLL * SAGA_CLOCK_MS;
	own_position_at_start();
	saga_role_lanes_read_again();
	if (any_prepared())
	{
		/* After a restart the counter is lost, but they are not. */
		if (before == 0)
			(void) pg_atomic_compare_exchange_u32(&my_database->prepared,
												  &before, 1);
		count_prepared = false;
		return now + PREPARED_POLL * SAGA_CLOCK_MS;
	}
	count_prepared = false;
	(void) pg_atomic_compare_exchange_u32(&my_database->prepared, &before, 0);
	return DT_NOEND;
}

/* ------------------------------------------------------------------------
 * The loop
 * ------------------------------------------------------------------------ */

/* Takes back everything remembered: the next turn reads all of it. */
static void
read_everything(void)
{
	own_position_at_start();
	own_retry_at = 0;
	own_singles = 0;
	saga_role_lanes_read_again();
	saga_channels_read_again();
	look_for_leftovers = true;
	count_prepared = true;
}

/*
 * The clock was set back: every time remembered, by which something is to be
 * looked at again, may be far away now.  (What is due in the ledger stays due
 * at its time.)
 */
static void
forget_pauses(void)
{
	read_everything();
	/* Over, and not forgotten: then room is made in the queue first. */
	own_notify_at = Min(own_notify_at, DT_NOBEGIN + 1);
	saga_role_lanes_forget_pauses();
	saga_channels_forget_pauses();
	saga_retention_read_again();
}

/* Begins to look.  What was posted until then says how far to go back. */
static void
begin_to_look(void)
{
	TimestampTz posted = saga_wakeup_look(my_database);

	if (posted == DT_NOEND)
		return;
	if (posted <= own_position.due)
	{
		own_position_at_start();
		if (posted > DT_NOBEGIN + 1)
		{
			own_position.due = posted - 1;
			memset(&own_position.saga, 0xff, sizeof(pg_uuid_t));
		}
	}
	saga_role_lanes_posted(posted);
}

/* Is the extension there?  Tells the launcher; leaves if it is not. */
static void
find_out(void)
{
	SagaTurnBegun begun = saga_transaction_begin(true);

	if (begun == SAGA_TRANSACTION_GONE)
		leave_because_gone();
	if (begun == SAGA_TRANSACTION_BEGUN)
		saga_transaction_commit();
	saga_shmem_worker_found(SAGA_DATABASE_SERVED);
}

/* A function: Min() would take a turn twice, and believe the second one. */
static TimestampTz
earlier(TimestampTz a, TimestampTz b)
{
	return Min(a, b);
}

/* Does what is due; returns when to look again. */
static TimestampTz
worker_turn(void)
{
	TimestampTz now = saga_clock_now();
	TimestampTz next;
	bool		away;

	if (my_database->state != SAGA_DATABASE_SERVED || my_database->wanted)
		find_out();
	if (saga_pool_tend())
	{
		look_for_leftovers = true;
		saga_role_lanes_read_again();
	}

	next = look_at_prepared(now);
	if (look_for_leftovers || (leftovers_at != 0 && leftovers_at <= now))
		next = earlier(next, settle_leftovers(now));
	else if (leftovers_at != 0)
		next = Min(next, leftovers_at);

	next = earlier(next, run_own_lane(&away));
	if (away)
		return saga_clock_now() + AWAY_POLL * SAGA_CLOCK_MS;
	MemoryContextSwitchTo(turn_context);
	next = earlier(next, saga_channels_turn(saga_clock_now()));
	next = earlier(next, saga_retention_turn(saga_clock_now()));
	return earlier(next, saga_role_lanes_turn(saga_clock_now()));
}

static void
sleep_until(TimestampTz when)
{
	static uint32 wait_event = 0;
	long		ms = -1;
	int			events = WL_LATCH_SET | WL_EXIT_ON_PM_DEATH;
	long		look_again;
	bool		idle;
	bool		hold;

	if (wait_event == 0)
		wait_event = saga_compat_wait_event("SagaWorker");
	when = saga_wakeup_arm(my_database, when);
	if (when != DT_NOEND)
	{
		ms = saga_clock_ms_until(when);
		events |= WL_TIMEOUT;
	}

	/*
	 * While its executors work, a worker keeps its place for a moment: else
	 * two databases with long work would take it from each other all the
	 * time.
	 */
	idle = (ms < 0 || ms > SAGA_IDLE_MS) && !saga_pool_waits();
	hold = saga_clock_steady() < started_at + SAGA_HOLD_MS * SAGA_CLOCK_MS &&
		saga_mailbox_has_work(MyDatabaseId);
	if (saga_shmem_worker_must_leave(idle && !hold))
		leave();
	if (idle && hold && my_database->asked_to_leave)
	{
		ms = Min(ms < 0 ? SAGA_HOLD_MS : ms, SAGA_HOLD_MS);
		events |= WL_TIMEOUT;
	}
	look_again = saga_pool_look_again();
	if (look_again >= 0 && (ms < 0 || look_again < ms))
	{
		ms = look_again;
		events |= WL_TIMEOUT;
	}
	if (ms == 0)
		return;

	/*
	 * What a signal asked for: its handler set the latch, but waiting for a
	 * lock in the middle of the turn reset that.
	 */
	if (InterruptPending || ConfigReloadPending)
		return;
	if (ms < 0 || ms > IDLE_FOR)
	{
		pgstat_report_activity(STATE_IDLE, NULL);
		pgstat_report_stat(true);
	}
	(void) WaitLatch(MyLatch, events, ms, wait_event);
}

void
saga_worker_main(Datum arg)
{
	const SagaProcess *process = saga_bgworker_enter();
	sigjmp_buf	local_sigjmp_buf;

	SAGA_FAULT("worker.before_attach");
	my_database = saga_shmem_worker_attach(process->database);
	if (my_database == NULL)
		proc_exit(0);
	started_at = saga_clock_steady();
	saga_bgworker_connect();
	SetConfigOption("search_path", "pg_catalog", PGC_SUSET, PGC_S_OVERRIDE);

	/*
	 * What listeners are told must be on disk, whatever the database's
	 * setting.
	 */
	SetConfigOption("synchronous_commit", "local", PGC_SUSET, PGC_S_OVERRIDE);

	worker_context = AllocSetContextCreate(TopMemoryContext, "saga worker",
										   ALLOCSET_DEFAULT_SIZES);
	turn_context = AllocSetContextCreate(TopMemoryContext, "saga turn",
										 ALLOCSET_DEFAULT_SIZES);
	saga_context = AllocSetContextCreate(TopMemoryContext, "saga in hand",
										 ALLOCSET_DEFAULT_SIZES);
	read_everything();

	if (sigsetjmp(local_sigjmp_buf, 1) != 0)
	{
		error_context_stack = NULL;
		saga_bgworker_push_context();
		HOLD_INTERRUPTS();
		EmitErrorReport();
		AbortCurrentTransaction();
		LWLockReleaseAll();
		MemoryContextSwitchTo(worker_context);
		FlushErrorState();
		MemoryContextReset(turn_context);
		RESUME_INTERRUPTS();

		/* Nothing remembered is to be relied on; and not in a tight loop. */
		read_everything();
		pg_usleep(AFTER_ERROR * 1000L);
	}
	PG_exception_stack = &local_sigjmp_buf;

	handle_interrupts();
	find_out();
	for (;;)
	{
		TimestampTz next;

		handle_interrupts();
		begin_to_look();
		if (saga_clock_was_set_back())
			forget_pauses();
		next = worker_turn();
		MemoryContextSwitchTo(worker_context);
		MemoryContextReset(turn_context);
		sleep_until(next);
	}
}
