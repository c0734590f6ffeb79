/*-------------------------------------------------------------------------
 *
 * clock.h
 *	  The one door to the time of day.
 *
 *-------------------------------------------------------------------------
 */
#ifndef SAGA_CLOCK_H
#define SAGA_CLOCK_H

#include "datatype/timestamp.h"
#include "port/atomics.h"

/* Microseconds of a millisecond, beside the server's USECS_PER_SEC */
#define SAGA_CLOCK_MS		INT64CONST(1000)

extern TimestampTz saga_clock_now(void);
extern int64 saga_clock_steady(void);
extern bool saga_clock_was_set_back(void);
extern long saga_clock_ms_until(TimestampTz when);

#ifdef SAGA_TEST
extern void saga_clock_init_shared(void *part);
extern void **saga_clock_shared(void);
extern void saga_clock_advance(int64 microseconds);
#endif

#endif							/* SAGA_CLOCK_H */
