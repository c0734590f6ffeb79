/*-------------------------------------------------------------------------
 *
 * queue_front.h
 *	  Where the queue of an owner on a channel begins.
 *
 *-------------------------------------------------------------------------
 */
#ifndef SAGA_QUEUE_FRONT_H
#define SAGA_QUEUE_FRONT_H

#include "base/state.h"
#include "datatype/timestamp.h"
#include "utils/uuid.h"

/* A row of ledger_queue. */
typedef struct SagaQueued
{
	char		channel[NAMEDATALEN];
	SagaPhase	phase;
	Oid			owner;
	TimestampTz since;
	pg_uuid_t	saga;
	int64		seq;
	int			run;			/* of the step ... */
	text	   *key;			/* ... with this key; in the memory context in
								 * which the row was read */
} SagaQueued;

extern void saga_queue_front_register(void);

/* Readers. */
extern uint64 saga_queue_front_look(void);
extern Oid	saga_queue_front_next_owner(const SagaQueued *queue);
extern bool saga_queue_front_get(SagaQueued *front);
extern void saga_queue_front_set(const SagaQueued *first, bool whole, uint64 look);

/* Writers. */
extern void saga_queue_front_queued(TimestampTz since);
extern void saga_queue_front_taken(TimestampTz since);
extern void saga_queue_front_post(TimestampTz since);

/* The end of a transaction: commit.c. */
extern void saga_queue_front_end_transaction(bool committed);

#endif							/* SAGA_QUEUE_FRONT_H */
