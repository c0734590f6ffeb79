/*-------------------------------------------------------------------------
 *
 * in_hand.h
 *	  The attempt that an executor has in hand.
 *
 *-------------------------------------------------------------------------
 */
#ifndef SAGA_IN_HAND_H
#define SAGA_IN_HAND_H

#include "base/compat.h"
#include "flow/outcome.h"
#include "shared/shmem.h"
#include "tcop/dest.h"

/* Pause after trouble that is not the fault of the SQL (ms). */
#define SAGA_ATTEMPT_TROUBLE_MS	1000

/* What to do after a transaction. */
typedef enum SagaWalkOn
{
	SAGA_WALK_ON,				/* go on with the ticket in hand */
	SAGA_WALK_ALONE,			/* again, with the right to run alone */
	SAGA_WALK_LOOK,				/* see what may begin now */
	SAGA_WALK_DONE,				/* the next ticket */
	SAGA_WALK_SKIP,				/* the next ticket; somebody holds this one's
								 * saga */
	SAGA_WALK_RECORD,			/* write down how the attempt failed */
	SAGA_WALK_LEAVE				/* this process is of no more use */
} SagaWalkOn;

/* What else is wrong, besides the SQL. */
typedef enum SagaAttemptTrouble
{
	SAGA_TROUBLE_NONE,
	SAGA_TROUBLE_ANYBODYS,		/* others would meet it, too: wait a while */
	SAGA_TROUBLE_READ_ONLY		/* only a new session may be without it */
} SagaAttemptTrouble;

/* The attempt in hand; static, for it must survive a longjmp. */
typedef struct SagaInHand
{
	SagaTicket	ticket;			/* of the saga's undo, or of a step's action */
	int64		slice_begun;	/* when it was taken from the mailbox, or
								 * began another slice of time, by the steady
								 * clock */
	SagaAttemptPhase phase;
	pg_uuid_t	saga;
	int64		seq;
	SagaAttemptEnd end;
	bool		judged;			/* it failed, and "end" says how */
	uint32		sql_hash;		/* of the SQL that ran; 0: none did */
	bool		changed;		/* given up, because the saga was changed */
	SagaAttemptTrouble trouble;
	TimestampTz look_due;		/* of the row that asks for a look; 0: none */
	MemoryContext context;		/* reset before each attempt */
	int64		alone_ms;		/* how long the next attempt should run alone */
	bool		doubt_home;		/* nobody asked yet whether this is a copy */
} SagaInHand;

extern SagaInHand *saga_in_hand_get(void);
extern bool saga_in_hand_begin(SagaWalkOn *otherwise);
extern bool saga_in_hand_begin_record(bool *otherwise);
extern bool saga_in_hand_is_open(void);
extern void saga_in_hand_forget(void);
extern uint32 saga_in_hand_hash(const text *sql);
extern void saga_in_hand_prepare(const SagaStep *step, bool forward, TimestampTz now);
extern void saga_in_hand_open(const SagaStep *step);
extern int64 saga_in_hand_run_sql(const SagaStep *step, const SagaPolicy *policy,
								  Jsonb *context, DestReceiver *output);
extern void saga_in_hand_commit(void);
SAGA_COMPAT_NORETURN extern void saga_in_hand_was_changed(void);
extern int64 saga_in_hand_window(const SagaWork *work);

#endif							/* SAGA_IN_HAND_H */
