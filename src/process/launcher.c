/*-------------------------------------------------------------------------
 *
 * launcher.c
 *	  The process that keeps a worker in each database that needs one.
 *
 * There is one launcher per server, preloaded, connected to no database.  It
 * knows from pg_database which databases there are, and from a worker that it
 * sends there whether the extension is in one: such a database keeps its
 * worker, another is left alone until somebody creates the extension there.
 *
 * At most saga.max_databases workers run at once.  With fewer databases than
 * that, each has its worker always.  With more, they take turns.  When a
 * database needs a worker (something is due there, or nobody looked yet), the
 * worker that came first among the idle ones is asked to leave, one whose
 * executors work only if there is no other; if it does not leave at once, the
 * next is asked.  If none is idle, all are asked to leave as soon as they are,
 * and one that is busy for too long is made to.  Of the databases that wait,
 * the one that was left longest ago comes first.
 *
 * The launcher decides in turns.  A turn copies what the slots say, under the
 * lock, then decides without it, then acts on each slot under the lock again,
 * if it still says the same.  Between turns it sleeps on its latch.  There is
 * a time limit only when something is planned.  What ends the sleep:
 *
 * - a database needs a worker that had none: woken by a commit that left
 *	 something due, or by other news, that finds no worker (wakeup.c, shmem.c);
 * - a worker came, and can be asked to leave: it, as it attaches;
 * - a worker left, or must not come: it, as it detaches or does not attach;
 * - a worker ended before it could do either: the postmaster, because of
 *	 bgw_notify_pid; for one that an earlier launcher asked for, nobody needs to:
 *	 this one does not count on it;
 * - a worker that was asked to leave became idle: it leaves, see above;
 * - databases came, went, or changed: CREATE, DROP and ALTER DATABASE
 *	 (evict.c, statements.c).  A superuser's UPDATE of pg_database is found by looking
 *	 again each minute while a database that has a slot may have no worker;
 * - nobody is to be kept away from a database any more: evict.c;
 * - settings: the postmaster's signal;
 * - time: a due time where there is no worker, and the pauses below.
 *
 * Reading pg_database may wait for a lock, which takes any latch for the end of
 * that wait; so what can be set meanwhile is looked at once more before the
 * sleep.
 *
 * An error ends the launcher, and the postmaster starts another one after a
 * second, which finds everything it needs in shared memory: workers go on
 * meanwhile.  It remembers nothing that matters; see Turn below.
 *
 * Pauses are measured on the monotonic clock, due times on the wall clock.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/heapam.h"
#include "access/htup_details.h"
#include "access/table.h"
#include "access/tableam.h"
#include "access/xact.h"
#include "base/clock.h"
#include "base/compat.h"
#include "base/fault.h"
#include "base/guc.h"
#include "catalog/pg_database.h"
#include "miscadmin.h"
#include "pgstat.h"
#include "portability/instr_time.h"
#include "postmaster/interrupt.h"
#include "process/bgworker.h"
#include "process/inflight.h"
#include "process/launcher.h"
#include "shared/mailbox.h"
#include "shared/shmem.h"
#include "shared/stat_table.h"
#include "storage/ipc.h"
#include "utils/guc.h"
#include "utils/memutils.h"
#include "utils/snapmgr.h"
#include "utils/varlena.h"

/* Milliseconds. */
#define RESTART_PAUSE		1000	/* between restarts of a failing worker */
#define RESTART_PAUSE_MAX	60000	/* when it fails again and again */
#define PATIENT_RESTARTS	5	/* how many before the pause grows */
#define NO_PLACE_PAUSE		5000	/* when the postmaster has no place */
#define TURN_OF_BUSY		5000	/* how long others wait for a busy worker */
#define TURN_OF_IDLE		100 /* and for one that seemed idle */
#define LOOK_AGAIN			60000	/* for databases that may have no worker */

/*
 * What the launcher remembers of a slot: when it may and should act again.
 * All of it may be lost.
 */
typedef struct Turn
{
	Oid			database;		/* of which the rest speaks */
	BackgroundWorkerHandle *handle; /* of the worker last started, or NULL */
	bool		running;		/* it had a worker when last seen */
	int64		since;			/* when it came, or when it left */
	int			failures;		/* restarts in a row that failed quickly */
	int64		not_before;		/* of the next start */
	int64		asked;			/* since when its worker is asked to leave */
} Turn;

/* The slots as they were at the beginning of a turn. */
typedef struct Seen
{
	Oid			database;
	SagaDatabaseState state;
	int			pid;
	bool		wanted;
	bool		failed;
	bool		asked;
	bool		kept_away;
	bool		short_of_executors; /* so the worker is busy */
	TimestampTz due;			/* when the worker wakes, or should */
	bool		urgent;			/* needs a worker now */
	bool		waits;			/* may be given one now */
} Seen;

static Turn turns[SAGA_MAX_DATABASES];
static Seen seen[SAGA_MAX_DATABASES];

static MemoryContext launcher_context;

/* Databases that may have a worker, as pg_database and the settings say. */
static List *served = NIL;

/* Of those without a slot: the extension is not there. */
static List *known_absent = NIL;

/* There are databases to look into for which there was no slot. */
static bool crowded = false;

/* When pg_database was last read. */
static int64 read_at = 0;

/* Of the pause after the postmaster had no place: its end, and was it said. */
static int64 no_place_until = 0;
static bool no_place_said = false;

static int64
monotonic_ms(void)
{
	instr_time	now;

	INSTR_TIME_SET_CURRENT(now);
	return (int64) INSTR_TIME_GET_MILLISEC(now);
}

/*
 * Reads pg_database: into "existing" all databases, into "allowed" those that
 * may have a worker.  The only transaction of the launcher.
 */
static void
read_databases(List **existing, List **allowed)
{
	Relation	rel;
	TableScanDesc scan;
	HeapTuple	tuple;

	*existing = NIL;
	*allowed = NIL;

	StartTransactionCommand();
	(void) GetTransactionSnapshot();

	rel = table_open(DatabaseRelationId, AccessShareLock);
	scan = table_beginscan_catalog(rel, 0, NULL);
	while ((tuple = heap_getnext(scan, ForwardScanDirection)) != NULL)
	{
		Form_pg_database form = (Form_pg_database) GETSTRUCT(tuple);
		MemoryContext old = MemoryContextSwitchTo(launcher_context);

		*existing = lappend_oid(*existing, form->oid);

		/* A limit below -1 marks a database whose DROP was cut short. */
		if (form->datallowconn && !form->datistemplate &&
			form->datconnlimit >= -1 &&
			saga_guc_serves(NameStr(form->datname)))
			*allowed = lappend_oid(*allowed, form->oid);
		MemoryContextSwitchTo(old);
	}
	table_endscan(scan);
	table_close(rel, AccessShareLock);

	CommitTransactionCommand();
	MemoryContextSwitchTo(launcher_context);
	pgstat_report_stat(true);
}

/*
 * Brings the slots in line with pg_database: frees those of databases that
 * are gone, with their counters, and takes some for those that are new.
 */
static void
rescan(void)
{
	Oid			before[SAGA_MAX_DATABASES];
	Oid			counted[SAGA_STAT_MAX_DATABASES];
	int			counted_count;
	List	   *existing;
	ListCell   *lc;
	int			i;

	/*
	 * Slots taken from now on may be of databases that the snapshot does not
	 * see yet, so remember which there were.
	 */
	LWLockAcquire(saga_shmem->lock, LW_EXCLUSIVE);
	saga_shmem->rescan = false;
	for (i = 0; i < SAGA_MAX_DATABASES; i++)
		before[i] = saga_shmem->databases[i].database;
	LWLockRelease(saga_shmem->lock);
	counted_count = saga_stat_table_databases(counted);

	for (i = 0; i < SAGA_MAX_DATABASES; i++)
	{
		if (!OidIsValid(before[i]))
			continue;
		if (saga_shmem->databases[i].state == SAGA_DATABASE_ABSENT)
			known_absent = list_append_unique_oid(known_absent, before[i]);
		else
			known_absent = list_delete_oid(known_absent, before[i]);
	}

	list_free(served);
	served = NIL;
	read_databases(&existing, &served);

	for (i = 0; i < SAGA_MAX_DATABASES; i++)
	{
		SagaDatabaseSlot *slot = &saga_shmem->databases[i];

		if (!OidIsValid(before[i]))
			continue;
		if (!list_member_oid(existing, before[i]))
			saga_shmem_free_database(slot, before[i]);
	}
	for (i = 0; i < counted_count; i++)
		if (!list_member_oid(existing, counted[i]))
			saga_stat_table_forget_database(counted[i]);

	for (i = list_length(known_absent) - 1; i >= 0; i--)
	{
		if (!list_member_oid(existing, list_nth_oid(known_absent, i)))
			known_absent = list_delete_nth_cell(known_absent, i);
	}

	crowded = false;
	foreach(lc, served)
	{
		Oid			database = lfirst_oid(lc);

		if (saga_shmem_database(database, false) == NULL &&
			!list_member_oid(known_absent, database) &&
			saga_shmem_database(database, true) == NULL)
			crowded = true;
	}
	list_free(existing);
}

/*
 * A worker was there at the last turn and is gone.  One that left of its own
 * accord may come back at any time; one that failed is restarted at once the
 * first time, and then only with pauses.  To leave soon and to need a worker
 * at once, although nobody asked it to leave or called for one meanwhile,
 * counts as failure too, or it might go round and round.
 */
static void
note_departure(Turn *turn, const Seen *now_seen, int64 now)
{
	int64		lived = now - turn->since;
	bool		asked = turn->asked != 0;

	turn->running = false;
	turn->asked = 0;
	turn->not_before = 0;
	if (now_seen->kept_away)
		turn->failures = 0;
	else if (!now_seen->failed &&
			 (lived >= RESTART_PAUSE || asked || now_seen->wanted ||
			  !now_seen->urgent))
		turn->failures = 0;
	else
	{
		/* It may have failed because the database changed or is gone. */
		LWLockAcquire(saga_shmem->lock, LW_EXCLUSIVE);
		saga_shmem->rescan = true;
		LWLockRelease(saga_shmem->lock);

		turn->failures = (lived >= RESTART_PAUSE) ? 1 : turn->failures + 1;
		if (turn->failures > PATIENT_RESTARTS)
			turn->not_before = turn->since +
				Min((int64) RESTART_PAUSE << Min(turn->failures - PATIENT_RESTARTS, 6),
					RESTART_PAUSE_MAX);
		else if (turn->failures > 1)
			turn->not_before = turn->since + RESTART_PAUSE;
	}
	turn->since = now;
}

/* Copies what the slots say, and notes which came and which left. */
static void
look_at_slots(int64 now)
{
	TimestampTz wall = saga_clock_now();
	int			i;

	/* Workers that ended before they could attach. */
	for (i = 0; i < SAGA_MAX_DATABASES; i++)
	{
		SagaDatabaseSlot *slot = &saga_shmem->databases[i];
		pid_t		pid;

		if (turns[i].handle == NULL ||
			GetBackgroundWorkerPid(turns[i].handle, &pid) != BGWH_STOPPED)
			continue;
		pfree(turns[i].handle);
		turns[i].handle = NULL;
		LWLockAcquire(saga_shmem->lock, LW_EXCLUSIVE);
		if (slot->database == turns[i].database &&
			slot->worker_pid == SAGA_PID_STARTING)
		{
			slot->worker_pid = 0;
			slot->worker_failed = true;
		}
		LWLockRelease(saga_shmem->lock);
	}

	LWLockAcquire(saga_shmem->lock, LW_SHARED);
	for (i = 0; i < SAGA_MAX_DATABASES; i++)
	{
		SagaDatabaseSlot *slot = &saga_shmem->databases[i];
		TimestampTz armed;
		TimestampTz posted;

		seen[i].database = slot->database;
		seen[i].state = slot->state;
		seen[i].pid = slot->worker_pid;
		seen[i].wanted = slot->wanted ||
			(slot->worker_pid == 0 && pg_atomic_read_u32(&slot->poked) != 0);
		seen[i].failed = slot->worker_failed;
		seen[i].asked = slot->asked_to_leave;
		seen[i].kept_away = pg_atomic_read_u32(&slot->keep_away) > 0;
		seen[i].short_of_executors =
			pg_atomic_read_u32(&slot->wants_executor) == SAGA_WANTS_FIRST;
		armed = (TimestampTz) pg_atomic_read_u64(&slot->armed_due);
		posted = (TimestampTz) pg_atomic_read_u64(&slot->posted_due);
		seen[i].due = Min(armed, posted);
	}
	LWLockRelease(saga_shmem->lock);

	for (i = 0; i < SAGA_MAX_DATABASES; i++)
	{
		Turn	   *turn = &turns[i];

		if (turn->database != seen[i].database)
		{
			if (turn->handle != NULL)
				pfree(turn->handle);
			memset(turn, 0, sizeof(Turn));
			turn->database = seen[i].database;
		}
		seen[i].urgent = seen[i].state == SAGA_DATABASE_UNKNOWN ||
			seen[i].wanted || seen[i].due <= wall;
		seen[i].waits = OidIsValid(seen[i].database) && seen[i].pid == 0 &&
			!seen[i].kept_away && seen[i].state != SAGA_DATABASE_ABSENT &&
			list_member_oid(served, seen[i].database);

		if (turn->running && seen[i].pid == 0)
			note_departure(turn, &seen[i], now);
		else if (!turn->running && seen[i].pid != 0)
		{
			turn->running = true;
			turn->since = now;
		}
	}
}

/* Asks for a worker; false if the postmaster has no place for it. */
static bool
start_worker(int i, int64 now)
{
	SagaDatabaseSlot *slot = &saga_shmem->databases[i];
	Turn	   *turn = &turns[i];
	SagaProcess process;
	bool		ours;

	LWLockAcquire(saga_shmem->lock, LW_EXCLUSIVE);
	ours = slot->database == seen[i].database && slot->worker_pid == 0 &&
		pg_atomic_read_u32(&slot->keep_away) == 0;
	if (ours)
		slot->worker_pid = SAGA_PID_STARTING;
	LWLockRelease(saga_shmem->lock);
	if (!ours)
		return true;			/* the first of them will wake us */

	if (turn->handle != NULL)
		pfree(turn->handle);
	turn->handle = NULL;
	memset(&process, 0, sizeof(process));
	process.kind = SAGA_PROCESS_WORKER;
	process.database = seen[i].database;
	if (saga_bgworker_start(&process, &turn->handle))
	{
		seen[i].pid = SAGA_PID_STARTING;
		seen[i].waits = false;
		turn->running = true;
		turn->since = now;
		return true;
	}

	LWLockAcquire(saga_shmem->lock, LW_EXCLUSIVE);
	if (slot->database == seen[i].database &&
		slot->worker_pid == SAGA_PID_STARTING)
		slot->worker_pid = 0;
	LWLockRelease(saga_shmem->lock);
	return false;
}

/* The database whose turn it is to get a worker, or -1. */
static int
next_to_start(int64 now)
{
	int			best = -1;
	int			i;

	for (i = 0; i < SAGA_MAX_DATABASES; i++)
	{
		if (!seen[i].waits || turns[i].not_before > now)
			continue;
		if (best < 0 ||
			seen[i].urgent > seen[best].urgent ||
			(seen[i].urgent == seen[best].urgent &&
			 turns[i].since < turns[best].since))
			best = i;
	}
	return best;
}

/* Asks a worker to make room: when it is idle, or at once. */
static void
ask_to_leave(int i, bool at_once, int64 now)
{
	SagaDatabaseSlot *slot = &saga_shmem->databases[i];

	if (!seen[i].asked || at_once)
	{
		LWLockAcquire(saga_shmem->lock, LW_EXCLUSIVE);
		if (slot->database == seen[i].database &&
			slot->worker_pid == seen[i].pid)
		{
			slot->asked_to_leave = true;
			slot->must_leave |= at_once;
			if (slot->worker_latch != NULL)
				SetLatch(slot->worker_latch);
		}
		LWLockRelease(saga_shmem->lock);
	}
	seen[i].asked = true;
	if (turns[i].asked == 0)
		turns[i].asked = now;
}

/* The room is not needed any more. */
static void
take_back(void)
{
	int			i;

	for (i = 0; i < SAGA_MAX_DATABASES; i++)
	{
		SagaDatabaseSlot *slot = &saga_shmem->databases[i];

		if (seen[i].pid <= 0 || !seen[i].asked)
			continue;
		LWLockAcquire(saga_shmem->lock, LW_EXCLUSIVE);
		if (slot->worker_pid == seen[i].pid)
			slot->asked_to_leave = false;
		LWLockRelease(saga_shmem->lock);
		turns[i].asked = 0;
	}
}

/* How much a worker has to do. */
typedef enum Busy
{
	BUSY_NOT,
	BUSY_EXECUTORS,				/* others work for it, and that may go on */
	BUSY_ITSELF
} Busy;

/* The same questions as the worker asks itself (worker.c). */
static Busy
how_busy(int i, int64 now, TimestampTz wall)
{
	/* One that has not looked yet is armed like a busy one. */
	if (seen[i].due <= wall + SAGA_IDLE_MS * INT64CONST(1000) ||
		seen[i].short_of_executors)
		return BUSY_ITSELF;
	/* It should have left by now: something came up. */
	if (turns[i].asked != 0 && now - turns[i].asked >= TURN_OF_IDLE)
		return BUSY_ITSELF;
	if (!saga_mailbox_has_work(seen[i].database))
		return BUSY_NOT;
	return now - turns[i].since < SAGA_HOLD_MS ? BUSY_ITSELF : BUSY_EXECUTORS;
}

/* The worker that came first, of those that are so busy. */
static int
first_come(Busy want, const Busy *busy, const bool *leaving)
{
	int			best = -1;
	int			i;

	for (i = 0; i < SAGA_MAX_DATABASES; i++)
	{
		if (seen[i].pid <= 0 || leaving[i] || busy[i] != want)
			continue;
		if (best < 0 || turns[i].since < turns[best].since)
			best = i;
	}
	return best;
}

/*
 * Makes as many workers leave as are "needed" for room.  Returns when to look
 * again, if that is before "wake"; a worker that leaves wakes us.
 */
static int64
make_room_for_database(int needed, int64 now, int64 wake)
{
	TimestampTz wall = saga_clock_now();
	bool		leaving[SAGA_MAX_DATABASES];
	Busy		busy[SAGA_MAX_DATABASES];
	Busy		kind;
	int			i;

	if (needed <= 0)
	{
		take_back();
		return wake;
	}

	for (i = 0; i < SAGA_MAX_DATABASES; i++)
	{
		leaving[i] = false;
		if (seen[i].pid > 0)
			busy[i] = how_busy(i, now, wall);
	}
	for (kind = BUSY_NOT; kind < BUSY_ITSELF; kind++)
	{
		while (needed > 0 && (i = first_come(kind, busy, leaving)) >= 0)
		{
			leaving[i] = true;
			ask_to_leave(i, false, now);
			needed--;
			wake = Min(wake, turns[i].asked + TURN_OF_IDLE);
		}
	}

	/*
	 * The rest of the room must come from the first worker that is idle.  One
	 * that is still starting wakes us as it comes, to be asked then.
	 */
	while (needed > 0 && (i = first_come(BUSY_ITSELF, busy, leaving)) >= 0)
	{
		bool		too_long;

		leaving[i] = true;
		ask_to_leave(i, false, now);
		too_long = now - turns[i].asked >= TURN_OF_BUSY;
		if (too_long)
		{
			ask_to_leave(i, true, now);
			needed--;
		}
		wake = Min(wake, (too_long ? now : turns[i].asked) + TURN_OF_BUSY);
	}
	return wake;
}

/* Workers leave databases where they may not be any more. */
static void
send_away(void)
{
	int			i;

	for (i = 0; i < SAGA_MAX_DATABASES; i++)
	{
		SagaDatabaseSlot *slot = &saga_shmem->databases[i];

		if (seen[i].pid <= 0 || list_member_oid(served, seen[i].database))
			continue;
		LWLockAcquire(saga_shmem->lock, LW_EXCLUSIVE);
		if (slot->database == seen[i].database &&
			slot->worker_pid == seen[i].pid && !slot->must_leave)
		{
			slot->must_leave = true;
			if (slot->worker_latch != NULL)
				SetLatch(slot->worker_latch);
		}
		LWLockRelease(saga_shmem->lock);
	}
}

/* May a database that has a slot, and perhaps work, have no worker? */
static bool
any_not_served(void)
{
	int			i;

	for (i = 0; i < SAGA_MAX_DATABASES; i++)
	{
		if (OidIsValid(seen[i].database) &&
			seen[i].state != SAGA_DATABASE_ABSENT &&
			!list_member_oid(served, seen[i].database))
			return true;
	}
	return false;
}

static bool
must_rescan(void)
{
	bool		again;

	LWLockAcquire(saga_shmem->lock, LW_SHARED);
	again = saga_shmem->rescan;
	LWLockRelease(saga_shmem->lock);
	return again;
}

/*
 * One turn.  Returns for how many milliseconds there is nothing to do unless
 * somebody sets the latch, or -1: for ever.
 */
static long
launcher_turn(void)
{
	int64		now = monotonic_ms();
	int64		wake = PG_INT64_MAX;
	int			running = 0;
	int			short_of = 0;
	bool		again;
	bool		absent = false;
	int			i;

	look_at_slots(now);
	again = must_rescan() ||
		(any_not_served() && now - read_at >= LOOK_AGAIN);
	for (i = 0; crowded && i < SAGA_MAX_DATABASES; i++)
		absent |= seen[i].state == SAGA_DATABASE_ABSENT && seen[i].pid == 0;
	if (again || absent)
	{
		rescan();
		read_at = now;
		look_at_slots(now);
	}
	send_away();

	/* With saga.enabled off, running workers exit on their own. */
	if (!saga_guc_enabled)
		return -1;
	if (any_not_served())
		wake = read_at + LOOK_AGAIN;

	for (i = 0; i < SAGA_MAX_DATABASES; i++)
	{
		if (seen[i].pid != 0)
			running++;
	}

	while (running < saga_guc_max_databases && now >= no_place_until)
	{
		i = next_to_start(now);
		if (i < 0)
			break;
		SAGA_FAULT("launcher.before_start");
		if (!start_worker(i, now))
		{
			no_place_until = now + NO_PLACE_PAUSE;
			if (!no_place_said)
				saga_bgworker_warn_no_place();
			no_place_said = true;
			break;
		}
		if (seen[i].pid == 0)
			seen[i].waits = false;	/* changed under us: next turn */
		else
			running++;
	}

	/* Which databases still wait, and for what? */
	for (i = 0; i < SAGA_MAX_DATABASES; i++)
	{
		if (!seen[i].waits)
			continue;
		if (turns[i].not_before > now)
			wake = Min(wake, turns[i].not_before);
		else if (now < no_place_until)
			wake = Min(wake, no_place_until);
		else if (seen[i].urgent)
			short_of++;
		else if (seen[i].due != DT_NOEND)
		{
			int64		at = now + saga_clock_ms_until(seen[i].due);

			wake = Min(wake, at);
		}
	}
	if (now >= no_place_until)
		no_place_said = false;

	wake = make_room_for_database(Max(short_of, running - saga_guc_max_databases),
								  now, wake);

	if (wake == PG_INT64_MAX)
		return -1;
	return (long) Max(wake - now, 1);
}

static void
launcher_detach(int code, Datum arg)
{
	LWLockAcquire(saga_shmem->lock, LW_EXCLUSIVE);
	saga_shmem->launcher_pid = 0;
	saga_shmem->launcher_latch = NULL;
	LWLockRelease(saga_shmem->lock);
}

/*
 * A worker that an earlier launcher asked for may or may not arrive: if it
 * does, it finds the slot free, or another one there, and leaves.
 */
static void
launcher_attach(void)
{
	int			i;

	before_shmem_exit(launcher_detach, (Datum) 0);
	LWLockAcquire(saga_shmem->lock, LW_EXCLUSIVE);
	saga_shmem->launcher_pid = MyProcPid;
	saga_shmem->launcher_latch = MyLatch;
	saga_shmem->rescan = true;
	for (i = 0; i < SAGA_MAX_DATABASES; i++)
	{
		if (saga_shmem->databases[i].worker_pid == SAGA_PID_STARTING)
			saga_shmem->databases[i].worker_pid = 0;
	}
	LWLockRelease(saga_shmem->lock);
}

void
saga_launcher_main(Datum arg)
{
	uint32		wait_event;

	(void) saga_bgworker_enter();
	launcher_attach();
	saga_bgworker_connect();

	launcher_context = AllocSetContextCreate(TopMemoryContext,
											 "saga launcher",
											 ALLOCSET_DEFAULT_SIZES);
	MemoryContextSwitchTo(launcher_context);
	wait_event = saga_compat_wait_event("SagaLauncherMain");

	saga_inflight_recover();

	for (;;)
	{
		long		timeout;

		ResetLatch(MyLatch);
		CHECK_FOR_INTERRUPTS();
		if (ConfigReloadPending)
		{
			ConfigReloadPending = false;
			ProcessConfigFile(PGC_SIGHUP);
			saga_shmem_poke_launcher(true);
		}

		timeout = launcher_turn();
		/* Reset, perhaps, while we waited for a lock. */
		if (ConfigReloadPending || must_rescan())
			continue;

		(void) WaitLatch(MyLatch,
						 WL_LATCH_SET | WL_EXIT_ON_PM_DEATH |
						 (timeout >= 0 ? WL_TIMEOUT : 0),
						 timeout, wait_event);
	}
}

/*
 * Registers the launcher, as the library is preloaded.  Not while pg_upgrade
 * moves the catalogs.
 */
void
saga_launcher_register(void)
{
	SagaProcess process;

	if (!process_shared_preload_libraries_in_progress || IsBinaryUpgrade)
		return;
	memset(&process, 0, sizeof(process));
	process.kind = SAGA_PROCESS_LAUNCHER;
	(void) saga_bgworker_start(&process, NULL);
}
