/*-------------------------------------------------------------------------
 *
 * queue_front.h
 *	  Where the queue of an owner on a channel begins.
 *
 *-------------------------------------------------------------------------
 */
#ifndef SAGA_QUEUE_FRONT_H
#define SAGA_QUEUE_FRONT_H

#include "datatype/timestamp.h"

#include "ledger/rows.h"

extern void saga_queue_front_init(void);

/* Readers. */
extern uint64 saga_queue_front_look(void);
extern Oid	saga_queue_front_next_owner(const SagaQueued *queue);
extern bool saga_queue_front_get(SagaQueued *front);
extern void saga_queue_front_set(const SagaQueued *first, bool whole, uint64 look);

/* Writers. */
extern void saga_queue_front_queued(TimestampTz since);
extern void saga_queue_front_taken(TimestampTz since);
extern void saga_queue_front_post(TimestampTz since);

#endif							/* SAGA_QUEUE_FRONT_H */
