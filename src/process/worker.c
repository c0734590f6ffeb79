/*-------------------------------------------------------------------------
 *
 * worker.c
 *	  A database's worker: what is due, and which process does it.
 *
 * One process per database, connected as the bootstrap superuser, that runs
 * nothing of anybody's: no SQL of users, no triggers, no functions.  It sleeps
 * on its latch until something is due (wakeup.c says how that loses no
 * wake-up) and then takes a turn:
 *
 *	1. Attempts that were cut short are recorded (interrupted.c).
 *	2. Its own lane: deadlines, parking, dispatching to listeners, sending sagas to
 *	   the right lane, and looks at running sagas (own_lane.c).
 *	3. Channels on which something waits unclaimed (channels.c).
 *	4. Finished sagas that are older than they are to be kept (retention.c).
 *	5. The lanes of roles: sagas and steps are handed to executors (role_lanes.c).
 *
 * A turn is short, however much is due in one lane, so that nobody's executors
 * wait for what the worker has to do for somebody else.
 *
 * Where the library does not fit the extension (version.c), it touches nothing,
 * and looks again each minute.
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
#include "base/clock.h"
#include "base/compat.h"
#include "base/errors.h"
#include "base/fault.h"
#include "catalog/pg_type_d.h"
#include "commands/dbcommands.h"
#include "executor/spi.h"
#include "ledger/home.h"
#include "ledger/oids.h"
#include "ledger/start_order.h"
#include "miscadmin.h"
#include "pgstat.h"
#include "postmaster/interrupt.h"
#include "process/channels.h"
#include "process/interrupted.h"
#include "process/leaving.h"
#include "process/own_lane.h"
#include "process/pool.h"
#include "process/retention.h"
#include "process/role_lanes.h"
#include "process/transaction.h"
#include "process/worker.h"
#include "shared/mailbox.h"
#include "shared/stat.h"
#include "shared/wakeup.h"
#include "storage/ipc.h"
#include "storage/latch.h"
#include "utils/guc.h"
#include "utils/lsyscache.h"
#include "utils/memutils.h"

/* Pauses, in milliseconds. */
#define AFTER_ERROR		1000
#define PREPARED_POLL	1000
#define AWAY_POLL		60000
/* Shortest sleep that is reported as idle (ms) */
#define IDLE_FOR		1000

static SagaDatabaseSlot *my_database = NULL;
static int64 started_at = 0;	/* by the steady clock */
static MemoryContext worker_context = NULL; /* long-lived */
static MemoryContext turn_context = NULL;	/* reset after each turn */

/* The library does not fit the extension: nothing here is touched. */
static bool unfit = false;

/* The ledger knows what it is to know of this start of the server. */
static bool noted_start = false;

/* Sagas may have become due by transactions that were prepared. */
static bool count_prepared = true;

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
	if (!count_prepared && !saga_own_lane_may_begin_anew())
		return now + PREPARED_POLL * SAGA_CLOCK_MS;
	saga_own_lane_rewind();
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
	saga_own_lane_read_again();
	saga_role_lanes_read_again();
	saga_channels_read_again();
	saga_interrupted_look_again();
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
	saga_own_lane_forget_pauses();
	saga_role_lanes_forget_pauses();
	saga_channels_forget_pauses();
	saga_retention_read_again();
}

/* Begins to look.  What was posted until then says how far to go back. */
static void
begin_to_look(void)
{
	TimestampTz posted = saga_wakeup_look(my_database);

	saga_stat_process(SAGA_STAT_WAKEUPS, 1);
	if (posted == DT_NOEND)
		return;
	saga_own_lane_posted(posted);
	saga_role_lanes_posted(posted);
}

/*
 * Does this library fit the extension?  If not, says so once.  Whoever updates
 * the extension makes this worker leave (evict.c), and another library comes
 * with another start of the server; so it waits.
 */
static void
find_misfit(void)
{
	const char *hint = NULL;
	const char *why;

	SetCurrentStatementStartTimestamp();
	StartTransactionCommand();
	why = saga_oids_misfit(&hint);
	if (why != NULL && !unfit)
		ereport(LOG,
				(errcode(ERRCODE_SAGA_UNAVAILABLE),
				 errmsg("nothing is run or undone in database \"%s\": %s",
						get_database_name(MyDatabaseId), why),
				 errhint("%s", hint)));
	unfit = why != NULL;
	CommitTransactionCommand();
	MemoryContextSwitchTo(worker_context);
	pgstat_report_stat(false);
}

/*
 * Is the extension there, and does the library fit it?  Reports to the launcher
 * whether a worker belongs here; leaves if not.
 */
static void
find_out(void)
{
	SagaTurnBegun begun;

	find_misfit();
	if (unfit)
	{
		saga_shmem_worker_found(SAGA_DATABASE_SERVED);
		return;
	}
	begun = saga_transaction_begin(true);
	if (begun == SAGA_TRANSACTION_GONE)
		saga_leaving_because_gone();
	if (begun == SAGA_TRANSACTION_BEGUN)
		saga_transaction_commit();
	saga_shmem_worker_found(SAGA_DATABASE_SERVED);
}

static bool
note_start(void)
{
	bool		noted;

	if (saga_transaction_begin(true) != SAGA_TRANSACTION_BEGUN)
		return false;
	saga_start_order_look();
	noted = saga_home_note_start();
	saga_transaction_commit();
	return noted;
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
	bool		left;
	bool		recorded;

	if (unfit || my_database->state != SAGA_DATABASE_SERVED || my_database->wanted)
		find_out();
	if (unfit)
		return now + AWAY_POLL * SAGA_CLOCK_MS;
	if (!noted_start)
		noted_start = note_start();
	left = saga_pool_tend();
	if (left)
		saga_interrupted_look_again();

	next = look_at_prepared(now);
	next = earlier(next, saga_interrupted_turn(turn_context, now, &recorded));
	/* One may have left before the look that it was to make itself. */
	if (left || recorded)
	{
		saga_role_lanes_read_again();
		saga_own_lane_rewind();
	}
	next = earlier(next, saga_own_lane_turn(turn_context, &away));
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
		saga_leaving_now();
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
	 * Only what leaves the database waits for the disk (flow/notify.c): what
	 * a crash loses of the rest is due again, and done again.
	 */
	SetConfigOption("synchronous_commit", "off", PGC_SUSET, PGC_S_OVERRIDE);

	worker_context = AllocSetContextCreate(TopMemoryContext, "saga worker",
										   ALLOCSET_DEFAULT_SIZES);
	turn_context = AllocSetContextCreate(TopMemoryContext, "saga turn",
										 ALLOCSET_DEFAULT_SIZES);
	read_everything();
	saga_stat_process(SAGA_STAT_WORKER_STARTS, 1);

	if (sigsetjmp(local_sigjmp_buf, 1) != 0)
	{
		error_context_stack = NULL;
		saga_bgworker_push_context();
		HOLD_INTERRUPTS();
		EmitErrorReport();
		saga_bgworker_at(NULL, 0);
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

	saga_leaving_handle_interrupts();
	find_out();
	for (;;)
	{
		TimestampTz next;

		saga_leaving_handle_interrupts();
		begin_to_look();
		if (saga_clock_was_set_back())
			forget_pauses();
		next = worker_turn();
		MemoryContextSwitchTo(worker_context);
		MemoryContextReset(turn_context);
		sleep_until(next);
	}
}
