/*-------------------------------------------------------------------------
 *
 * ask_again.c
 *	  saga.again: an action asks to be run again.
 *
 * Nothing is written here.  The request is kept with the transaction of the action
 * (shared/again.c), whose mark obeys it.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "base/clock.h"
#include "base/errors.h"
#include "calls/arguments.h"
#include "fmgr.h"
#include "shared/again.h"
#include "shared/current.h"

PG_FUNCTION_INFO_V1(saga_sql_again);

enum
{
	AGAIN_ARG_DELAY, AGAIN_ARG_STATE, AGAIN_ARG_NOT_BEFORE
};

/* saga.again(delay, state, not_before) */
Datum
saga_sql_again(PG_FUNCTION_ARGS)
{
	const pg_uuid_t *current = saga_current();
	SagaAgain	again;

	if (current == NULL || saga_current_action(current) == 0)
		ereport(ERROR,
				(errcode(ERRCODE_SAGA_INVALID_STATE),
				 errmsg("saga.again() is for the actions of steps"),
				 current == NULL ? errdetail("No action is running.") :
				 errdetail("A compensation is running."),
				 current == NULL ?
				 errhint("Call it in the SQL that saga.step(..., action => ...) records.") :
				 errhint("Raise SQLSTATE SG007 to have a compensation tried again later.")));
	memset(&again, 0, sizeof(again));
	if (!PG_ARGISNULL(AGAIN_ARG_DELAY))
		again.delay = *PG_GETARG_INTERVAL_P(AGAIN_ARG_DELAY);
	again.state = saga_arguments_jsonb(fcinfo, AGAIN_ARG_STATE, "state");
	again.not_before = PG_ARGISNULL(AGAIN_ARG_NOT_BEFORE) ? DT_NOBEGIN :
		PG_GETARG_TIMESTAMPTZ(AGAIN_ARG_NOT_BEFORE);
	/* Said at the call, and not at the end of the round */
	(void) saga_again_due(&again, saga_clock_now());
	saga_again_ask(&again);
	PG_RETURN_VOID();
}
