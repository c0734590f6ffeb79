/*-------------------------------------------------------------------------
 *
 * leaving.h
 *	  How a worker leaves of its own accord.
 *
 *-------------------------------------------------------------------------
 */
#ifndef SAGA_LEAVING_H
#define SAGA_LEAVING_H

#include "base/compat.h"

/* The first two do not return; the third may not. */
SAGA_COMPAT_NORETURN extern void saga_leaving_now(void);
SAGA_COMPAT_NORETURN extern void saga_leaving_because_gone(void);
extern void saga_leaving_handle_interrupts(void);

#endif							/* SAGA_LEAVING_H */
