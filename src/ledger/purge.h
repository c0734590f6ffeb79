/*-------------------------------------------------------------------------
 *
 * purge.h
 *	  Deleting finished sagas.
 *
 *-------------------------------------------------------------------------
 */
#ifndef SAGA_PURGE_H
#define SAGA_PURGE_H

#include "ledger/ledger.h"

/* What to purge, and how much of it in one transaction. */
typedef struct SagaPurge
{
	TimestampTz limit;			/* sagas that finished before this */
	bool		all;			/* anybody's, not only the current user's */
	int64		max_looks;		/* sagas to look at */
	int64		max_sagas;		/* sagas to delete */
	SagaPatience patience;		/* with a saga that somebody is writing */
	pg_uuid_t	position;		/* the last saga looked at; moves on */
	bool		worker;			/* those that failed are passed over */
	bool		in_hand;		/* the one at the position is being deleted */
	bool		done;			/* set when there are no more */
} SagaPurge;

extern int64 saga_purge(SagaPurge *purge);
extern void saga_purge_late(const pg_uuid_t *id);

#endif							/* SAGA_PURGE_H */
