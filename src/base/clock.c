/*-------------------------------------------------------------------------
 *
 * clock.c
 *	  The one door to the time of day.
 *
 * Every room that compares times asks here, so that a test build can move
 * the time of all processes of a server at once: an offset in shared memory,
 * added to the real clock.  A production build has no such offset.
 *
 * Due times are wall clock times, waiting is monotonic: a process that sleeps
 * until a due time must therefore sleep at most SAGA_CLOCK_MAX_SLEEP_MS and look
 * again, or a clock set forward would leave it sleeping.
 *
 * A clock set back puts off what is due by as much: due times are the database's,
 * and nothing is done before its time.  A pause of ours is not put off.  Pauses,
 * slices of time and windows are measured by the steady clock, which nobody sets;
 * the worker, whose pauses end up among due times, forgets them when the clock
 * was set back.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "base/clock.h"
#include "portability/instr_time.h"
#include "utils/timestamp.h"

#define SAGA_CLOCK_MAX_SLEEP_MS		60000L
/* Differences between two clocks that are no setting of either (us) */
#define SAGA_CLOCK_TOLERANCE		INT64CONST(100000)

#ifdef SAGA_TEST

/* Microseconds added to the real time; in shared memory, NULL without preload. */
static pg_atomic_uint64 *clock_offset = NULL;

void
saga_clock_init_shared(void *part)
{
	pg_atomic_init_u64((pg_atomic_uint64 *) part, 0);
}

/* Where shared memory is to be noted */
void	  **
saga_clock_shared(void)
{
	return (void **) &clock_offset;
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
 * Microseconds of the steady clock.  Only differences mean anything; they do so
 * across the processes of a server, too.
 */
int64
saga_clock_steady(void)
{
	instr_time	now;

	INSTR_TIME_SET_CURRENT(now);
	return (int64) INSTR_TIME_GET_MICROSEC(now);
}

/*
 * Was the clock set back since this process last asked?  The wall clock is ahead
 * of the steady one by no more than it was; between reading the one and the other
 * the process may have stood still.
 */
bool
saga_clock_was_set_back(void)
{
	static int64 ahead = PG_INT64_MIN;
	int64		before = saga_clock_steady();
	TimestampTz wall = saga_clock_now();
	int64		after = saga_clock_steady();
	bool		set_back = wall - before < ahead;

	ahead = wall - after - SAGA_CLOCK_TOLERANCE;
	return set_back;
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
