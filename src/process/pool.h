/*-------------------------------------------------------------------------
 *
 * pool.h
 *	  The executors of the server: which database and role has them.
 *
 *-------------------------------------------------------------------------
 */
#ifndef SAGA_POOL_H
#define SAGA_POOL_H

#include "process/bgworker.h"
#include "shared/shmem.h"

/* Result of asking for an executor. */
typedef enum SagaPoolStart
{
	SAGA_POOL_STARTED,
	SAGA_POOL_FULL,				/* saga.max_executors are busy: wait */
	SAGA_POOL_NO_PLACE			/* the server has no room for a process */
} SagaPoolStart;

/* The worker's side */
extern SagaPoolStart saga_pool_start(Oid role);
extern void saga_pool_forget_waiting(Oid role);
extern void saga_pool_want_none(void);
extern bool saga_pool_waits(void);
extern long saga_pool_look_again(void);
extern bool saga_pool_tend(void);
extern bool saga_pool_left_record(void);
extern bool saga_pool_failed_to_start(Oid role);
extern void saga_pool_dismiss_all(void);

/* The executor's side */
extern bool saga_pool_attach(const SagaProcess *process,
							 void (*at_exit) (int code));
extern void saga_pool_ready(void);
extern void saga_pool_leave_record(void);
extern bool saga_pool_must_leave(void);

/* An executor that has nothing to do */
extern void saga_pool_sleep(long ms);
extern void saga_pool_wait_out(long ms);

#endif							/* SAGA_POOL_H */
