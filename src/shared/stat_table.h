/*-------------------------------------------------------------------------
 *
 * stat_table.h
 *	  The cumulative counters, in shared memory.
 *
 *-------------------------------------------------------------------------
 */
#ifndef SAGA_STAT_TABLE_H
#define SAGA_STAT_TABLE_H

#include "datatype/timestamp.h"

/* What is counted of each kind of saga, in the order of saga.stat */
typedef enum SagaStatSaga
{
	SAGA_STAT_BEGUN,
	SAGA_STAT_COMPLETED,
	SAGA_STAT_FAILED,
	SAGA_STAT_STEP_FAILED,		/* of those, because a step was given up */
	SAGA_STAT_CANCELED,
	SAGA_STAT_TIMED_OUT,
	SAGA_STAT_COMPENSATED,
	SAGA_STAT_ABANDONED,
	SAGA_STAT_PARKED
} SagaStatSaga;

#define SAGA_STAT_SAGA_COUNTERS		(SAGA_STAT_PARKED + 1)

/* What is counted of each channel, in the order of saga.stat_channels */
typedef enum SagaStatChannel
{
	SAGA_STAT_DISPATCHED,
	SAGA_STAT_CLAIMED,
	SAGA_STAT_ACKNOWLEDGED,
	SAGA_STAT_REPORTED_FAILED,
	SAGA_STAT_LEASES_ENDED
} SagaStatChannel;

#define SAGA_STAT_CHANNEL_COUNTERS	(SAGA_STAT_LEASES_ENDED + 1)

/* Times whose distribution is kept */
typedef enum SagaStatTime
{
	SAGA_STAT_TIME_SAGA,		/* from its begin to its end */
	SAGA_STAT_TIME_FIRST_UNDO,	/* from its failure to the first compensation */
	SAGA_STAT_TIME_FIRST_ACTION /* from when an action might begin to its
								 * start */
} SagaStatTime;

#define SAGA_STAT_TIMES				(SAGA_STAT_TIME_FIRST_ACTION + 1)

/* What processes count of themselves */
typedef enum SagaStatProcess
{
	SAGA_STAT_WORKER_STARTS,
	SAGA_STAT_WAKEUPS,
	SAGA_STAT_EXECUTOR_STARTS,
	SAGA_STAT_EXECUTOR_IDLE		/* microseconds */
} SagaStatProcess;

#define SAGA_STAT_PROCESS_COUNTERS	(SAGA_STAT_EXECUTOR_IDLE + 1)

/* Bounds of a distribution; what is beyond the last has a place, too. */
#define SAGA_STAT_BOUNDS		21
#define SAGA_STAT_BUCKETS		(SAGA_STAT_BOUNDS + 1)

#define SAGA_STAT_PHASES		2
#define SAGA_STAT_OUTCOMES		5
#define SAGA_STAT_ATTEMPT_KINDS	(SAGA_STAT_PHASES * SAGA_STAT_OUTCOMES)

/*
 * The counters of a database.  The first are those of all names that have no
 * place of their own, in the order in which a place has them: of a kind of saga,
 * then of a channel.
 */
enum
{
	SAGA_STAT_AT_SAGA = 0,
	SAGA_STAT_AT_CHANNEL = SAGA_STAT_AT_SAGA + SAGA_STAT_SAGA_COUNTERS,
	SAGA_STAT_NAMED = SAGA_STAT_AT_CHANNEL + SAGA_STAT_CHANNEL_COUNTERS,

	SAGA_STAT_AT_ATTEMPTS = SAGA_STAT_NAMED,
	SAGA_STAT_AT_ATTEMPT_TIMES = SAGA_STAT_AT_ATTEMPTS + SAGA_STAT_ATTEMPT_KINDS,
	SAGA_STAT_AT_TIMES = SAGA_STAT_AT_ATTEMPT_TIMES + SAGA_STAT_ATTEMPT_KINDS,
	SAGA_STAT_AT_TIME_SUMS = SAGA_STAT_AT_TIMES + SAGA_STAT_TIMES * SAGA_STAT_BUCKETS,
	SAGA_STAT_AT_PROCESSES = SAGA_STAT_AT_TIME_SUMS + SAGA_STAT_TIMES,
	SAGA_STAT_COUNTERS = SAGA_STAT_AT_PROCESSES + SAGA_STAT_PROCESS_COUNTERS
};

/* A place has the counters of a kind of saga, or those of a channel. */
#define SAGA_STAT_PLACE_COUNTERS	Max(SAGA_STAT_SAGA_COUNTERS, SAGA_STAT_CHANNEL_COUNTERS)

/* Databases that can have counters at once */
#define SAGA_STAT_MAX_DATABASES	256

/* Length of the longest name of a saga, in any encoding of the server (bytes) */
#define SAGA_STAT_NAME_BYTES	1024

typedef enum SagaStatKind
{
	SAGA_STAT_OF_SAGA,
	SAGA_STAT_OF_CHANNEL
} SagaStatKind;

#define SAGA_STAT_KINDS			(SAGA_STAT_OF_CHANNEL + 1)

/* A name of this database with its counters, as it was read */
typedef struct SagaStatName
{
	SagaStatKind kind;
	Oid			owner;
	int			length;
	char		name[SAGA_STAT_NAME_BYTES];
	uint64		counter[SAGA_STAT_PLACE_COUNTERS];
} SagaStatName;

/*
 * A place in the table, as a transaction remembers it.  It may become another
 * name's before the transaction ends.
 */
typedef struct SagaStatPlace
{
	int			index;			/* -1: those without a place of their own */
	uint32		generation;
} SagaStatPlace;

/* Something to be added */
typedef struct SagaStatNote
{
	SagaStatPlace place;		/* if "counter" is one of SAGA_STAT_NAMED */
	int			counter;		/* from SAGA_STAT_AT_SAGA on */
	int			level;			/* of the savepoint */
	int64		count;
} SagaStatNote;

extern void saga_stat_table_register(void);

/* Is there anything to count in?  Finds the counters of the current database. */
extern bool saga_stat_table_ready(void);
extern bool saga_stat_table_is(SagaStatPlace place);
extern SagaStatPlace saga_stat_table_find(SagaStatKind kind, Oid owner,
										  uint64 hash, const char *name,
										  int length);
extern void saga_stat_table_add(const SagaStatNote *notes, int count);
extern void saga_stat_table_prepare(uint64 gid, const SagaStatNote *notes,
									int count);
extern void saga_stat_table_finish_prepared(uint64 gid, bool committed);

/* For the views and reset; the last two for the launcher, which knows the databases */
extern bool saga_stat_table_read(uint64 *counter, TimestampTz *reset_at);
extern bool saga_stat_table_next_name(int *position, SagaStatName *name);
extern void saga_stat_table_reset(TimestampTz now);
extern int	saga_stat_table_databases(Oid *databases);
extern void saga_stat_table_forget_database(Oid database);

#endif							/* SAGA_STAT_TABLE_H */
