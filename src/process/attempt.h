/*-------------------------------------------------------------------------
 *
 * attempt.h
 *	  One attempt of a compensation, in one transaction.
 *
 *-------------------------------------------------------------------------
 */
#ifndef SAGA_ATTEMPT_H
#define SAGA_ATTEMPT_H

#include "shared/shmem.h"

/* Pause after trouble that is not the compensation's (ms). */
#define SAGA_ATTEMPT_TROUBLE_MS	1000

/* What to do after a transaction. */
typedef enum SagaWalkOn
{
	SAGA_WALK_ON,				/* look at the saga again */
	SAGA_WALK_ALONE,			/* again, with the right to run alone */
	SAGA_WALK_DONE,				/* the next saga */
	SAGA_WALK_SKIP,				/* the next saga; this one is somebody's */
	SAGA_WALK_RECORD,			/* write down how the attempt failed */
	SAGA_WALK_LEAVE				/* this process is of no more use */
} SagaWalkOn;

extern void saga_attempt_init(Oid role);
extern void saga_attempt_take(const SagaTicket *ticket, bool handed_over);
extern SagaWalkOn saga_attempt_run(bool alone);
extern int64 saga_attempt_alone_ms(void);
extern bool saga_attempt_in_trouble(void);
extern void saga_attempt_put_down(void);

/* The end of the process */
extern void saga_attempt_at_exit(int code);
extern void saga_attempt_at_stop(void);

#endif							/* SAGA_ATTEMPT_H */
