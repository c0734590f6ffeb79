/*-------------------------------------------------------------------------
 *
 * testing.c
 *	  SQL functions of the test build; a production build has none of them.
 *
 * Tests create them by hand, since the install script is the same for both
 * builds:
 *
 *	CREATE FUNCTION test_advance_clock(interval) RETURNS void
 *	  AS 'saga', 'saga_sql_test_advance_clock' LANGUAGE C STRICT;
 *	CREATE FUNCTION test_set_back_clock(interval) RETURNS void
 *	  AS 'saga', 'saga_sql_test_set_back_clock' LANGUAGE C STRICT;
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "base/clock.h"

#ifdef SAGA_TEST

#include "calls/arguments.h"
#include "fmgr.h"
#include "shared/shmem.h"
#include "shared/wakeup.h"
#include "utils/timestamp.h"

PG_FUNCTION_INFO_V1(saga_sql_test_advance_clock);
PG_FUNCTION_INFO_V1(saga_sql_test_set_back_clock);

/* Moves the time of all processes of the server. */
static void
move_clock(FunctionCallInfo fcinfo, int direction)
{
	saga_clock_advance(direction * 1000 *
					   saga_arguments_milliseconds(PG_GETARG_INTERVAL_P(0),
												   "interval"));
}

/* On, and lets them look. */
Datum
saga_sql_test_advance_clock(PG_FUNCTION_ARGS)
{
	SagaDatabaseSlot *slot;

	move_clock(fcinfo, 1);
	slot = saga_shmem_my_database();
	/* Earlier than whatever the worker sleeps for. */
	if (slot != NULL)
		saga_wakeup_post(slot, DT_NOBEGIN);
	PG_RETURN_VOID();
}

/* Back, which nobody is told. */
Datum
saga_sql_test_set_back_clock(PG_FUNCTION_ARGS)
{
	move_clock(fcinfo, -1);
	PG_RETURN_VOID();
}

#endif							/* SAGA_TEST */
