/*-------------------------------------------------------------------------
 *
 * quarantine.h
 *	  The right to run SQL with no other compensation beside it.
 *
 *-------------------------------------------------------------------------
 */
#ifndef SAGA_QUARANTINE_H
#define SAGA_QUARANTINE_H

extern void saga_quarantine_register(void);
extern bool saga_quarantine_enter(int slot, int64 window_ms,
								  bool (*must_leave) (void));
extern void saga_quarantine_leave(void);

#endif							/* SAGA_QUARANTINE_H */
