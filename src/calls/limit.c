/*-------------------------------------------------------------------------
 *
 * limit.c
 *	  saga.limit: what a service takes on at a time.
 *
 * A role limits itself on a channel: how many tasks and compensations it may hold,
 * and until when it claims none.  A service sets it when its provider returns "too
 * many requests", and claims of the role obey it from then on, whichever process
 * makes them (claims.c).
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "base/fault.h"
#include "base/rights.h"
#include "calls/access.h"
#include "calls/arguments.h"
#include "calls/limit.h"
#include "fmgr.h"
#include "ledger/ledger.h"
#include "miscadmin.h"
#include "utils/builtins.h"
#include "utils/timestamp.h"

PG_FUNCTION_INFO_V1(saga_sql_limit);

/* saga.limit(channel, max_claimed, paused_until) */
Datum
saga_sql_limit(PG_FUNCTION_ARGS)
{
	SagaLimit	limit;

	saga_access_call("saga.limit()");
	memset(&limit, 0, sizeof(limit));
	limit.channel = saga_arguments_channel(fcinfo, 0, "channel");
	if (limit.channel == NULL)
		ereport(ERROR,
				(errcode(ERRCODE_NULL_VALUE_NOT_ALLOWED),
				 errmsg("channel must not be null"),
				 errhint("Pass the channel that you claim from.")));
	if (!PG_ARGISNULL(1))
	{
		limit.max_claimed = PG_GETARG_INT32(1);
		if (limit.max_claimed < 1)
			ereport(ERROR,
					(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
					 errmsg("max_claimed must be at least 1"),
					 errdetail("It is %d.", limit.max_claimed),
					 errhint("To claim nothing for a while, set paused_until.")));
	}
	if (!PG_ARGISNULL(2))
		limit.paused_until = PG_GETARG_TIMESTAMPTZ(2);
	limit.role = cstring_to_text(saga_rights_role_name(GetUserId()));
	saga_ledger_lock_limit(&limit);
	saga_ledger_set_limit(&limit);
	saga_ledger_unlock_limit(&limit);
	PG_RETURN_VOID();
}

/* Is what is claimed to be counted now? */
static bool
is_counted(const SagaLimit *limit, TimestampTz now)
{
	return limit->paused_until <= now && limit->max_claimed > 0;
}

/*
 * Begins claims of the calling role on a channel; returns how many of max_claims it
 * may make.  If their number is limited ("limit" has its channel then), the lock
 * on the limit is held until the caller's saga_limit_end.
 */
int
saga_limit_begin(SagaLimit *limit, text *channel, int max_claims,
				 TimestampTz now)
{
	memset(limit, 0, sizeof(SagaLimit));
	limit->channel = channel;
	limit->role = cstring_to_text(saga_rights_role_name(GetUserId()));
	if (saga_ledger_get_limit(limit) && is_counted(limit, now))
	{
		SAGA_FAULT("limits.before_lock");
		saga_ledger_lock_limit(limit);
		/* It may have been set anew while we waited for the lock. */
		if (saga_ledger_get_limit(limit) && is_counted(limit, now))
		{
			int			left = limit->max_claimed - saga_ledger_count_claimed(limit);

			return Max(Min(left, max_claims), 0);
		}
		saga_ledger_unlock_limit(limit);
	}
	limit->channel = NULL;
	return limit->paused_until > now ? 0 : max_claims;
}

void
saga_limit_end(const SagaLimit *limit)
{
	if (limit->channel != NULL)
		saga_ledger_unlock_limit(limit);
}
