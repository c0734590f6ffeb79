/*-------------------------------------------------------------------------
 *
 * leaving.h
 *	  How a worker leaves of its own accord.
 *
 *-------------------------------------------------------------------------
 */
#ifndef SAGA_LEAVING_H
#define SAGA_LEAVING_H

/* The first two do not return; the third may not. */
extern void saga_leaving_now(void) pg_attribute_noreturn();
extern void saga_leaving_because_gone(void) pg_attribute_noreturn();
extern void saga_leaving_handle_interrupts(void);

#endif							/* SAGA_LEAVING_H */
