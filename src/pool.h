/*-------------------------------------------------------------------------
 *
 * pool.h
 *	  The executors of the server: who has them, and what they are handed.
 *
 *-------------------------------------------------------------------------
 */
#ifndef SAGA_POOL_H
#define SAGA_POOL_H

#include "bgworker.h"
#include "shmem.h"

/* What became of asking for an executor. */
typedef enum SagaPoolStart
{
	SAGA_POOL_STARTED,
	SAGA_POOL_FULL,				/* saga.max_executors are busy: wait */
	SAGA_POOL_NO_PLACE			/* the server has no room for a process */
} SagaPoolStart;

/* The executors that a role has in the current database. */
typedef struct SagaPoolLane
{
	int			count;
	int			idle;			/* with nothing in hand */
	int			waiting;		/* sagas in their mailboxes */
	int			room;			/* how many more those that run low can take */
} SagaPoolLane;

/* The worker's side */
extern SagaPoolStart saga_pool_start(Oid role);
extern void saga_pool_forget_waiting(Oid role);
extern bool saga_pool_tend(void);
extern bool saga_pool_left_record(void);
extern bool saga_pool_failed_to_start(Oid role);
extern int	saga_pool_in_hand(Oid role, pg_uuid_t **ids);
extern bool saga_pool_pass_by(Oid role, const pg_uuid_t *id);
extern uint32 saga_pool_collect_skipped(Oid role, bool *given_back);
extern void saga_pool_lane(Oid role, SagaPoolLane *lane);
extern bool saga_pool_put(Oid role, const pg_uuid_t *id);
extern bool saga_pool_ask_refill(Oid role);
extern bool saga_pool_has_work(void);
extern void saga_pool_dismiss_all(void);

/* The executor's side */
extern bool saga_pool_attach(const SagaProcess *process,
							 void (*at_exit) (int code));
extern void saga_pool_ready(void);
extern bool saga_pool_take(pg_uuid_t *id);
extern void saga_pool_leave_record(void);
extern void saga_pool_done(bool skipped, bool later);
extern bool saga_pool_must_leave(void);
extern bool saga_pool_enter_sql(int64 alone_ms);
extern void saga_pool_set_step(int64 seq);

#endif							/* SAGA_POOL_H */
