/*-------------------------------------------------------------------------
 *
 * evict.h
 *	  Making our processes leave a database for a statement that needs it.
 *
 *-------------------------------------------------------------------------
 */
#ifndef SAGA_KEEPAWAY_H
#define SAGA_KEEPAWAY_H

extern void saga_keepaway_init(void);
extern void saga_keepaway_from(Oid database, bool for_extension);
extern void saga_keepaway_here(void);

#endif							/* SAGA_KEEPAWAY_H */
