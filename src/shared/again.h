/*-------------------------------------------------------------------------
 *
 * again.h
 *	  That an action asks to be run again.
 *
 *-------------------------------------------------------------------------
 */
#ifndef SAGA_AGAIN_H
#define SAGA_AGAIN_H

#include "datatype/timestamp.h"
#include "utils/jsonb.h"

typedef struct SagaAgain
{
	Interval	delay;			/* from the end of the round */
	TimestampTz not_before;
	Jsonb	   *state;			/* for the next round, or NULL */
} SagaAgain;

extern void saga_again_ask(const SagaAgain *again);
extern const SagaAgain *saga_again_asked(void);
extern TimestampTz saga_again_due(const SagaAgain *again, TimestampTz now);
extern void saga_again_end_savepoint(bool committed);
extern void saga_again_forget(void);

#endif							/* SAGA_AGAIN_H */
