/*-------------------------------------------------------------------------
 *
 * require.c
 *	  saga.require: how an action or compensation says that it cannot be right.
 *
 * SQL that changes no row has done or undone nothing, but succeeds.  This lets pure
 * SQL say that it has failed, and that trying again is in vain.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "base/errors.h"
#include "fmgr.h"
#include "utils/builtins.h"

PG_FUNCTION_INFO_V1(saga_sql_require);

/* saga.require(condition, message) */
Datum
saga_sql_require(PG_FUNCTION_ARGS)
{
	if (PG_ARGISNULL(0) || !PG_GETARG_BOOL(0))
		ereport(ERROR,
				(errcode(ERRCODE_SAGA_DO_NOT_RETRY),
				 errmsg("%s", PG_ARGISNULL(1) ? "a required condition is not true" :
						text_to_cstring(PG_GETARG_TEXT_PP(1))),
				 PG_ARGISNULL(0) ? errdetail("The condition is null.") : 0,
				 errhint("An action or compensation that ends so is not tried again: its step's on_failure decides, or a person, see saga.review_queue.")));
	PG_RETURN_VOID();
}
