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
 *	CREATE FUNCTION test_database_slots() RETURNS oid[]
 *	  AS 'saga', 'saga_sql_test_database_slots' LANGUAGE C;
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "base/clock.h"

#ifdef SAGA_TEST

#include "calls/arguments.h"
#include "catalog/pg_type_d.h"
#include "fmgr.h"
#include "shared/shmem.h"
#include "shared/wakeup.h"
#include "utils/array.h"
#include "utils/timestamp.h"

PG_FUNCTION_INFO_V1(saga_sql_test_database_slots);
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

/* Sets the clock back, without notice to any process. */
Datum
saga_sql_test_set_back_clock(PG_FUNCTION_ARGS)
{
	move_clock(fcinfo, -1);
	PG_RETURN_VOID();
}

/* The databases that have a slot in shared memory */
Datum
saga_sql_test_database_slots(PG_FUNCTION_ARGS)
{
	Datum		databases[SAGA_MAX_DATABASES];
	int			count = 0;

	LWLockAcquire(saga_shmem->lock, LW_SHARED);
	for (int i = 0; i < SAGA_MAX_DATABASES; i++)
	{
		if (OidIsValid(saga_shmem->databases[i].database))
			databases[count++] = ObjectIdGetDatum(saga_shmem->databases[i].database);
	}
	LWLockRelease(saga_shmem->lock);
	PG_RETURN_ARRAYTYPE_P(construct_array(databases, count, OIDOID, sizeof(Oid),
										  true, TYPALIGN_INT));
}

#endif							/* SAGA_TEST */
