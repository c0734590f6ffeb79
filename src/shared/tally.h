/*-------------------------------------------------------------------------
 *
 * tally.h
 *	  How many unfinished sagas each owner has, counted once and kept up.
 *
 *-------------------------------------------------------------------------
 */
#ifndef SAGA_TALLY_H
#define SAGA_TALLY_H

#include "datatype/timestamp.h"

extern void saga_tally_register(void);
extern void saga_tally_add(Oid owner, int64 delta);
extern bool saga_tally_get(Oid owner, int64 *open, int64 *again_at,
						   bool *doubtful);
extern void saga_tally_set(Oid owner, int64 open, int64 again_at);
extern int64 saga_tally_own(Oid owner);
extern void saga_tally_doubt(void);

/* The end of a transaction, or of a savepoint: commit.c. */
extern void saga_tally_prepared(uint64 gid);
extern void saga_tally_finish_prepared(uint64 gid, bool committed);
extern void saga_tally_end_transaction(bool committed);
extern void saga_tally_end_savepoint(bool committed);

#endif							/* SAGA_TALLY_H */
