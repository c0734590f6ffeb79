/*-------------------------------------------------------------------------
 *
 * inflight.h
 *	  Which SQL of a step an executor is about to run, where a crash of the
 *	  server cannot lose it.
 *
 *-------------------------------------------------------------------------
 */
#ifndef SAGA_INFLIGHT_H
#define SAGA_INFLIGHT_H

#include "datatype/timestamp.h"
#include "nodes/pg_list.h"
#include "utils/uuid.h"

#include "base/state.h"

typedef enum SagaInflightState
{
	SAGA_INFLIGHT_NONE = 0,		/* nothing is running */
	SAGA_INFLIGHT_RUNNING,		/* left like this: the server crashed */
	SAGA_INFLIGHT_CUT,			/* the executor was asked to leave */
	SAGA_INFLIGHT_TIMED_OUT,	/* it ran on after its timeout and was ended */
	SAGA_INFLIGHT_ENDED			/* it failed, and is yet to be written down */
} SagaInflightState;

#define SAGA_INFLIGHT_ERROR_LEN		1000

/* How it failed, where the ledger's row could not be had. */
typedef struct SagaInflightEnd
{
	char		outcome;		/* a SagaOutcome */
	bool		charged;
	bool		conflict;
	bool		waits;
	bool		park;			/* the error is why it is not tried again */
	bool		mend;			/* as in SagaAttemptEnd */
	char		sqlstate[6];	/* empty: none */
	char		error[SAGA_INFLIGHT_ERROR_LEN];
	TimestampTz at;
} SagaInflightEnd;

typedef struct SagaInflight
{
	uint64		life;			/* of the shared memory it was written under */
	int			pid;			/* of the executor */
	uint32		nonce;			/* distinguishes executors with the same pid */
	int			slot;			/* of the executor */
	uint32		generation;		/* of that slot */
	Oid			database;
	SagaInflightState state;
	SagaInflightEnd end;		/* of SAGA_INFLIGHT_ENDED */
	bool		alone;			/* set later, when all are read */
	bool		judged;			/* likewise: "alone" is final */
	pg_uuid_t	saga;
	SagaPhase	phase;
	int64		seq;
	int			attempt;
	TimestampTz started_at;
} SagaInflight;

/* The executor's side.  write() fills in what identifies the executor. */
extern void saga_inflight_open(int slot, uint32 generation);
extern void saga_inflight_write(const SagaInflight *record);
extern void saga_inflight_mark(SagaInflightState state);
extern void saga_inflight_leave(const SagaInflightEnd *end);
extern bool saga_inflight_timed_out(void);
extern void saga_inflight_close(void);

/* The launcher's side, once at its start, before any executor can run. */
extern void saga_inflight_recover(void);

/*
 * The worker's side: the records of its database that nobody is running any
 * more (of an earlier life, or of an executor that is gone).  "forget" removes
 * one, after what it says was committed and flushed.
 */
extern List *saga_inflight_leftovers(Oid database);
extern void saga_inflight_forget(const SagaInflight *record);

#endif							/* SAGA_INFLIGHT_H */
