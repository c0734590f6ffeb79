/*-------------------------------------------------------------------------
 *
 * shmem.h
 *	  What saga's processes and the backends share.
 *
 * There is nothing here when the library was not preloaded: saga_shmem is
 * then NULL, and every caller must cope.  Nothing here is needed to know what
 * is true: that is in the ledger.  All of it may be lost at any moment, and
 * is, when the server restarts its processes after a crash.
 *
 * Each room owns its part of shared memory, with its struct, size and
 * initialization, and registers it by saga_shmem_register_part():
 *
 *	part			owner			lock
 *	saga			shmem.c			"lock" below; a mutex in each executor's slot
 *	saga clock		clock.c			atomic (test build only)
 *	saga waiters	wakeup.c		those of condition variables
 *	saga tallies	tally.c			SAGA_LOCK_TALLIES
 *	saga fronts		queue_front.c	SAGA_LOCK_FRONTS
 *	saga stat		stat_table.c	SAGA_LOCK_STAT
 *	saga failing	failing.c		SAGA_LOCK_FAILING
 *	saga quarantine	quarantine.c	a mutex of its own
 *	saga step writes	step_writes.c	atomic
 *
 * What is here is about processes and their slots, which several rooms use.
 * "lock" guards the list of databases and of executors, that is, which slot
 * is whose, and is never held while waiting for anything else.  The
 * mutex of an executor's slot guards its mailbox (mailbox.c) and what it says
 * of its work, for a few instructions at a time.  The rest is atomic.
 *
 *-------------------------------------------------------------------------
 */
#ifndef SAGA_SHMEM_H
#define SAGA_SHMEM_H

#include "datatype/timestamp.h"
#include "port/atomics.h"
#include "storage/condition_variable.h"
#include "storage/latch.h"
#include "storage/lwlock.h"
#include "storage/spin.h"
#include "utils/uuid.h"

#include "base/guc.h"
#include "base/state.h"

/*
 * Databases that can have a slot at once.  A database without the extension
 * gives its slot up when another needs it.
 */
#define SAGA_MAX_DATABASES		256
/* worker_pid while a worker that the launcher has asked for is starting. */
#define SAGA_PID_STARTING		(-1)
/*
 * Milliseconds.  A worker that has nothing due for this time makes room for
 * another database; but while its executors work, it keeps its place for a
 * moment after it came.
 */
#define SAGA_IDLE_MS			100
#define SAGA_HOLD_MS			1000
/* Age (ms) at which the entry of a waiting role that was not refreshed is ignored. */
#define SAGA_WAITER_LIFE_MS		5000
/* Tickets handed to one executor at a time; a power of 2. */
#define SAGA_MAILBOX_SIZE		64

typedef enum SagaDatabaseState
{
	SAGA_DATABASE_UNKNOWN,		/* nobody looked yet: the launcher will */
	SAGA_DATABASE_ABSENT,		/* the extension is not there */
	SAGA_DATABASE_SERVED		/* the extension is there */
} SagaDatabaseState;

/*
 * One database.  A slot is taken by the first process that has something to
 * say about the database and given back by the launcher when the database is
 * gone, or by a statement that was the only one to need it.
 *
 * "armed_due" and "posted_due" are TimestampTz, DT_NOEND when there is none;
 * wakeup.c says how they work together.  Both outlive the worker, so that the
 * launcher knows when a database without one needs one.
 */
typedef struct SagaDatabaseSlot
{
	Oid			database;		/* InvalidOid: free; written under "lock" */
	SagaDatabaseState state;	/* written by worker and launcher under "lock" */
	int			worker_pid;		/* 0: none; written by the worker and the
								 * launcher under "lock" */
	Latch	   *worker_latch;	/* NULL: none; written by the worker under
								 * "lock", which a waker holds shared */
	bool		wanted;			/* somebody waits for a worker to look; set by
								 * backends, reset by the worker as it
								 * arrives; under "lock" */
	bool		worker_failed;	/* the last worker did not leave of its own
								 * accord; under "lock" */
	bool		asked_to_leave; /* make room for another database when idle;
								 * set by the launcher under "lock" */
	bool		must_leave;		/* leave at the end of this turn; likewise */

	/* evict.c: how many sessions want our processes gone, and to stay away. */
	pg_atomic_uint32 keep_away;
	/* wakeup.c: when the worker wakes by itself; PG_INT64_MIN while it looks. */
	pg_atomic_uint64 armed_due;
	/* wakeup.c: earliest due time committed since the worker last looked. */
	pg_atomic_uint64 posted_due;
	/* wakeup.c: prepared transactions that may hold due work; 0: none. */
	pg_atomic_uint32 prepared;
	/* Executors have news that the worker has not looked at yet. */
	pg_atomic_uint32 poked;

	/*
	 * The worker was refused an executor; a SagaWants.  Written by the
	 * worker, read by a process that sees an executor become free or idle.
	 */
	pg_atomic_uint32 wants_executor;

	/*
	 * When the last worker would have notified again the channels on which
	 * something waits, and its pause in between (channels.c); 0: it notified
	 * none.  Each worker's own, and kept for the next; forgotten, when there
	 * is none, as the extension comes or goes.
	 */
	TimestampTz channels_next;
	int			channels_pause;

	/*
	 * Executors left, or left records of how attempts ended, since the worker
	 * last looked.
	 */
	pg_atomic_uint32 left_records;

	/*
	 * Actions are on disk before others follow from them (transaction.c). Set
	 * by the worker.
	 */
	volatile bool careful;
	/* start_order.c: largest number drawn since the server started. */
	pg_atomic_uint64 high_seq;
} SagaDatabaseSlot;

/* The worker's use for another executor, when it last looked. */
typedef enum SagaWants
{
	SAGA_WANTS_NONE,
	SAGA_WANTS_MORE,			/* a role that has some could use it */
	SAGA_WANTS_FIRST			/* a role waits that has none */
} SagaWants;

/* What an executor is handed: a saga to undo, or a step of it to run. */
typedef struct SagaTicket
{
	pg_uuid_t	saga;
	int64		seq;			/* of the step; 0: the saga's undo */
	TimestampTz due;			/* of its row in ledger_due */
} SagaTicket;

/*
 * One executor: a process connected to a database as a role.  The worker of
 * the database takes a free slot, starts the process, and fills the mailbox;
 * the executor empties it and gives the slot back when it leaves.
 */
typedef struct SagaExecutorSlot
{
	uint32		generation;		/* raised when taken; written under "lock" */
	Oid			database;		/* InvalidOid: free; written under "lock" */
	Oid			role;			/* likewise */
	int			pid;			/* 0 while starting; under "lock" */
	Latch	   *latch;			/* NULL while starting; under "lock" */
	int64		taken_at;		/* by the steady clock; under "lock" */
	bool		dismissed;		/* leave as soon as the ticket in hand is
								 * done; under "lock" */
	int64		dismissed_at;	/* when that was asked, by the same; under
								 * "lock" */

	bool		ready;			/* its process came so far that it can take
								 * tickets; set by it, under "lock" */

	slock_t		mutex;			/* guards everything below */
	uint32		head;			/* next to take; head == tail: empty */
	uint32		tail;			/* next free place */
	SagaTicket	mailbox[SAGA_MAILBOX_SIZE];
	bool		working;		/* "ticket" is in hand */
	bool		passed_by;		/* the worker saw it due again, and left it to
								 * this executor */
	SagaTicket	ticket;
	SagaPhase	phase;			/* of the SQL that is running, if seq is not 0 */
	int64		seq;			/* of its step, or 0 */
	int			attempt;		/* the number of that attempt */
	TimestampTz started_at;		/* and when it began */
	TimestampTz idle_since;		/* 0 while working */
	bool		given_back;		/* a ticket that was passed by was put down
								 * and may be due; executor sets it, worker
								 * clears it */
	uint32		skipped;		/* tickets left undone because somebody holds
								 * their sagas, since the worker last looked */
	bool		refill;			/* more is due than the mailbox could hold:
								 * wake the worker when it runs low; set by
								 * the worker, reset by the executor */
	bool		handed_over;	/* the next ticket in the mailbox did not come
								 * from the worker */
} SagaExecutorSlot;

/*
 * A role that has due work and no executor, because none was free.  Entries
 * are refreshed by the worker that made them for as long as it wants them;
 * one that was not is nobody's.
 */
typedef struct SagaWaiter
{
	Oid			database;		/* InvalidOid: no entry */
	Oid			role;
	int64		since;			/* by the steady clock, as the next */
	int64		seen;
} SagaWaiter;

typedef struct SagaShmem
{
	LWLock	   *lock;
	Latch	   *launcher_latch; /* NULL: none; under "lock" */
	int			launcher_pid;	/* under "lock" */
	bool		rescan;			/* the launcher should read pg_database again;
								 * under "lock" */

	/*
	 * The last executor that was asked for was not started, since the server
	 * had no room for a process; written under "lock"
	 */
	bool		no_process;

	/*
	 * A random name for this life of the server's memory: files left by an
	 * earlier life carry another.
	 */
	uint64		life;

	SagaDatabaseSlot databases[SAGA_MAX_DATABASES];
	SagaExecutorSlot executors[SAGA_MAX_EXECUTORS];
	SagaWaiter	waiting[SAGA_MAX_EXECUTORS];	/* pool.c's; under "lock" */

	/* Some database's "wants_executor" was set since it was last looked for. */
	pg_atomic_uint32 executor_wanted;
} SagaShmem;

/* NULL unless the library was preloaded. */
extern SagaShmem *saga_shmem;

/* The lightweight locks of the parts, and "lock" of this one */
typedef enum SagaLock
{
	SAGA_LOCK_SLOTS,
	SAGA_LOCK_TALLIES,
	SAGA_LOCK_FRONTS,
	SAGA_LOCK_STAT,
	SAGA_LOCK_FAILING,
	SAGA_LOCKS
} SagaLock;

extern void saga_shmem_register(void);

/*
 * Asks for shared memory, while the library is preloaded: when the server has
 * it, "where" points to it, and "init" has filled it, unless another process
 * had.  Locks can be had from within "init".
 */
extern void saga_shmem_register_part(const char *name, Size size, void **where,
									 void (*init) (void *part));
extern LWLock *saga_shmem_lock(SagaLock lock);

/* The slot of a database, taking one if asked to; NULL if there is none. */
extern SagaDatabaseSlot *saga_shmem_database(Oid database, bool take);

/* The slot of the current database, remembered; NULL as above. */
extern SagaDatabaseSlot *saga_shmem_my_database(void);

/* The launcher gives back the slot of a database that is gone. */
extern void saga_shmem_give_back_database(SagaDatabaseSlot *slot);
extern void saga_shmem_free_database(SagaDatabaseSlot *slot, Oid database);

extern uint64 saga_shmem_high_seq(void);
extern uint64 saga_shmem_raise_seq(uint64 seq);

/*
 * Wakes the worker of a database; if there is none, the launcher, which sends
 * one.  The caller holds "lock".
 */
extern void saga_shmem_poke_worker(SagaDatabaseSlot *slot);

/*
 * Executors and those that want one; see shmem.c.  The caller of the first two
 * holds "lock", of the third nothing.
 */
extern void saga_shmem_want_executor(SagaDatabaseSlot *slot, SagaWants wants);
extern void saga_shmem_wake_wanting(Oid database);
extern void saga_shmem_executor_idle(void);

/* Wakes the launcher; "rescan" makes it read pg_database again. */
extern void saga_shmem_poke_launcher(bool rescan);

/*
 * The life of a worker: attach before connecting (NULL: leave at once, with
 * exit code 0), say what the database turned out to be, and leave; it detaches
 * by itself, however it leaves.
 */
extern SagaDatabaseSlot *saga_shmem_worker_attach(Oid database);
extern void saga_shmem_worker_found(SagaDatabaseState state);
extern bool saga_shmem_worker_must_leave(bool idle);
extern void saga_shmem_worker_leaves(bool work);

#endif							/* SAGA_SHMEM_H */
