/*-------------------------------------------------------------------------
 *
 * evict.h
 *	  Making our processes leave a database for a statement that needs it.
 *
 *-------------------------------------------------------------------------
 */
#ifndef SAGA_EVICT_H
#define SAGA_EVICT_H

extern void saga_evict_release(void);
extern void saga_evict_from(Oid database, bool for_extension);
extern void saga_evict_here(void);

#endif							/* SAGA_EVICT_H */
