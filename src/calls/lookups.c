/*-------------------------------------------------------------------------
 *
 * lookups.c
 *	  What a caller asks about a saga: find, current, output.
 *
 * Nothing is written and no lock is taken.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "base/errors.h"
#include "base/ids.h"
#include "calls/access.h"
#include "calls/arguments.h"
#include "ledger/ledger.h"
#include "miscadmin.h"
#include "shared/current.h"
#include "utils/builtins.h"

PG_FUNCTION_INFO_V1(saga_sql_find);
PG_FUNCTION_INFO_V1(saga_sql_current);
PG_FUNCTION_INFO_V1(saga_sql_output);

static Datum
copy_id(const pg_uuid_t *id)
{
	return UUIDPGetDatum(memcpy(palloc(sizeof(pg_uuid_t)), id, sizeof(pg_uuid_t)));
}

/* saga.find(name, idempotency_key) */
Datum
saga_sql_find(PG_FUNCTION_ARGS)
{
	text	   *name = saga_arguments_name(fcinfo, 0, "saga name", SAGA_MAX_NAME, true);
	text	   *key = saga_arguments_name(fcinfo, 1, "idempotency_key", SAGA_MAX_KEY,
										  true);
	SagaRow		saga;

	if (saga_ledger_get_saga_by_key(GetUserId(), name, key, true, &saga) != SAGA_FOUND ||
		!saga_rights_may_call(saga.owner, saga.owner_name))
		PG_RETURN_NULL();
	return copy_id(&saga.id);
}

/* saga.current() */
Datum
saga_sql_current(PG_FUNCTION_ARGS)
{
	const pg_uuid_t *current = saga_current();

	if (current == NULL)
		PG_RETURN_NULL();
	return copy_id(current);
}

/* saga.output(step, saga_id) */
Datum
saga_sql_output(PG_FUNCTION_ARGS)
{
	text	   *key = saga_arguments_name(fcinfo, 0, "step", SAGA_MAX_KEY, true);
	const pg_uuid_t *id;
	SagaRow		saga;
	SagaStep	step;

	if (PG_ARGISNULL(1))
		ereport(ERROR,
				(errcode(ERRCODE_NULL_VALUE_NOT_ALLOWED),
				 errmsg("saga_id must not be null"),
				 errhint("Outside of an action, pass the id returned by saga.begin().")));
	id = PG_GETARG_UUID_P(1);
	if (saga_current() != NULL && saga_ids_equal(saga_current(), id))
		saga_access_read_own(id, &saga);
	else
		saga_access_read(id, SAGA_REACH_READ, &saga);
	if (saga_ledger_get_newest_run(id, text_to_cstring(key), &step) != SAGA_FOUND)
		saga_access_refuse_no_step(&saga, key);
	if (step.status != SAGA_STEP_COMPLETED || step.rolled_back_at != 0 ||
		step.forward.output == NULL)
		PG_RETURN_NULL();
	return PointerGetDatum(step.forward.output);
}
