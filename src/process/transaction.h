/*-------------------------------------------------------------------------
 *
 * transaction.h
 *	  One transaction of one of our processes on the ledger.
 *
 *-------------------------------------------------------------------------
 */
#ifndef SAGA_TRANSACTION_H
#define SAGA_TRANSACTION_H

#include "utils/elog.h"
#include "utils/palloc.h"

typedef enum SagaTurnBegun
{
	SAGA_TRANSACTION_BEGUN,
	SAGA_TRANSACTION_BLOCKED,	/* somebody holds a lock on the ledger */
	SAGA_TRANSACTION_GONE		/* the extension is not there (any more) */
} SagaTurnBegun;

extern SagaTurnBegun saga_transaction_begin(bool bookkeeping);
extern SagaTurnBegun saga_transaction_begin_at(int isolation);
extern void saga_transaction_commit(void);
extern void saga_transaction_abort(void);
extern void saga_transaction_handle_interrupts(void);
extern ErrorData *saga_transaction_fail(MemoryContext context);

#endif							/* SAGA_TRANSACTION_H */
