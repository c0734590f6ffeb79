/*-------------------------------------------------------------------------
 *
 * quarantine.h
 *	  The right to run SQL with no other compensation beside it.
 *
 *-------------------------------------------------------------------------
 */
#ifndef SAGA_ALONE_H
#define SAGA_ALONE_H

extern bool saga_alone_enter(int slot, int64 window_ms,
							 bool (*must_leave) (void));
extern void saga_alone_leave(void);

#endif							/* SAGA_ALONE_H */
