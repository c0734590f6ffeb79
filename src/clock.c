/*-------------------------------------------------------------------------
 *
 * clock.c
 *	  The one door to the time of day.
 *
 * Every room that compares times asks here, so that a test build can move
 * the time of all processes of a server at once: an offset in shared memory,
 * added to the real clock.  A production build has no such offset.
 *
 * Due times are wall clock times, waiting is monotonic: whoever sleeps until
 * a due time must therefore sleep at most SAGA_CLOCK_MAX_SLEEP_MS and look
 * again, or a clock set forward would leave it sleeping.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "clock.h"
#include "utils/timestamp.h"

#define SAGA_CLOCK_MAX_SLEEP_MS		60000L

#ifdef SAGA_TEST

/* Microseconds added to the real time; in shared memory, NULL without preload. */
static pg_atomic_uint64 *clock_offset = NULL;

void
saga_clock_attach(pg_atomic_uint64 *offset)
{
	clock_offset = offset;
}

void
saga_clock_advance(int64 microseconds)
{
	if (clock_offset == NULL)
		elog(ERROR, "the virtual clock needs saga in shared_preload_libraries");
	pg_atomic_fetch_add_u64(clock_offset, microseconds);
}

#endif							/* SAGA_TEST */

/* The current time, with microseconds. */
TimestampTz
saga_clock_now(void)
{
	TimestampTz now = GetCurrentTimestamp();

#ifdef SAGA_TEST
	if (clock_offset != NULL)
		now += (int64) pg_atomic_read_u64(clock_offset);
#endif
	return now;
}

/*
 * How many milliseconds to wait at most for a due time: 0 when it has come,
 * never more than a minute, rounded up so that the waiter does not wake just
 * before.
 */
long
saga_clock_ms_until(TimestampTz when)
{
	TimestampTz now = saga_clock_now();
	int64		ms;

	if (when <= now)
		return 0;
	if (when == DT_NOEND || when - now > SAGA_CLOCK_MAX_SLEEP_MS * INT64CONST(1000))
		return SAGA_CLOCK_MAX_SLEEP_MS;
	ms = (when - now + 999) / 1000;
	return (long) ms;
}
