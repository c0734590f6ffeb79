/*-------------------------------------------------------------------------
 *
 * transaction.h
 *	  One transaction of one of our processes on the ledger.
 *
 *-------------------------------------------------------------------------
 */
#ifndef SAGA_TURN_H
#define SAGA_TURN_H

#include "utils/elog.h"
#include "utils/palloc.h"

typedef enum SagaTurnBegun
{
	SAGA_TURN_BEGUN,
	SAGA_TURN_BLOCKED,			/* somebody holds a lock on the ledger */
	SAGA_TURN_GONE				/* the extension is not there (any more) */
} SagaTurnBegun;

extern SagaTurnBegun saga_turn_begin(bool bookkeeping);
extern void saga_turn_commit(void);
extern void saga_turn_handle_interrupts(void);
extern ErrorData *saga_turn_fail(MemoryContext context);

#endif							/* SAGA_TURN_H */
