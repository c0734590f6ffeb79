/*-------------------------------------------------------------------------
 *
 * action.h
 *	  One attempt of a step's action, and the look that follows.
 *
 *-------------------------------------------------------------------------
 */
#ifndef SAGA_ACTION_H
#define SAGA_ACTION_H

#include "flow/outcome.h"
#include "process/in_hand.h"

/* What became of an attempt's record */
typedef enum SagaRecorded
{
	SAGA_RECORDED,				/* it is written, or nobody asks any more */
	SAGA_RECORD_LATER,			/* another transaction writes what it is about */
	SAGA_RECORD_LOST			/* a crash lost what it is about */
} SagaRecorded;

extern void saga_action_init(void);
extern SagaWalkOn saga_action_try(bool alone);
extern bool saga_action_look(bool spent);
extern bool saga_action_record_failure(void);
extern SagaRecorded saga_action_record(const pg_uuid_t *id, int64 seq,
									   const SagaAttemptEnd *of);
extern bool saga_action_end_failing(void);
extern bool saga_action_end_all(const pg_uuid_t *id);

#endif							/* SAGA_ACTION_H */
