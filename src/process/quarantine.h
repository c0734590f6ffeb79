/*-------------------------------------------------------------------------
 *
 * quarantine.h
 *	  The right of executors to run SQL, beside others or alone.
 *
 *-------------------------------------------------------------------------
 */
#ifndef SAGA_QUARANTINE_H
#define SAGA_QUARANTINE_H

extern void saga_quarantine_register(void);
extern bool saga_quarantine_enter(int64 window_ms, bool (*must_leave) (void));
extern void saga_quarantine_leave(void);

#endif							/* SAGA_QUARANTINE_H */
