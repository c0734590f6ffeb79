/*-------------------------------------------------------------------------
 *
 * quota.c
 *	  Limits that a DBA sets: unfinished sagas of a role, steps and signals of a
 *	  saga.
 *
 * Checked when something new is recorded; what is there is never touched.  The
 * setting of the calling session counts, so that ALTER ROLE ... SET may give
 * roles limits of their own.
 *
 * How many unfinished sagas a role has is counted by reading the ledger once
 * and kept up from then on (tally.c).  That may be off; so before somebody is
 * refused, and where the count is doubtful, it is taken again, unless that was
 * done a moment ago (COUNT_SHARE).
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "base/clock.h"
#include "base/errors.h"
#include "base/guc.h"
#include "base/ids.h"
#include "base/rights.h"
#include "calls/access.h"
#include "calls/quota.h"
#include "ledger/ledger.h"
#include "miscadmin.h"
#include "shared/tally.h"

/* Spend at most 1/COUNT_SHARE of the time recounting. */
#define COUNT_SHARE		10

/* May the role begin one more saga?  If not, it has "total" unfinished ones. */
bool
saga_quota_allows_open(Oid owner, int64 *total)
{
	int64		again_at = 0;
	int64		begun;
	int64		own;
	int64		open = 0;
	bool		doubtful = false;
	bool		known;

	if (saga_guc_max_open_sagas == 0)
		return true;
	known = saga_tally_get(owner, &open, &again_at, &doubtful);
	own = saga_tally_own(owner);
	if (known && !doubtful && open + own < saga_guc_max_open_sagas)
		return true;
	begun = saga_clock_steady();
	if (!known || again_at <= begun)
	{
		/* What this transaction changes counts once it commits. */
		open = saga_ledger_count_open(owner) - own;
		again_at = saga_clock_steady();
		again_at += (again_at - begun) * COUNT_SHARE;
		saga_tally_set(owner, open, again_at);
	}
	*total = open + own;
	return *total < saga_guc_max_open_sagas;
}

void
saga_quota_refuse_open(Oid owner, int64 open)
{
	ereport(ERROR,
			(errcode(ERRCODE_SAGA_LIMIT_EXCEEDED),
			 errmsg("role \"%s\" has too many unfinished sagas",
					saga_rights_role_name(owner)),
			 errdetail("It has " INT64_FORMAT "; saga.max_open_sagas allows %d.",
					   open, saga_guc_max_open_sagas),
			 errhint("Complete or fail those that are done with; saga.sagas shows them.")));
}

/* May the saga get one more step? */
bool
saga_quota_allows_step(const SagaRow *saga)
{
	return saga_guc_max_steps == 0 ||
		saga_ledger_count_steps(&saga->id, saga_guc_max_steps) < saga_guc_max_steps;
}

void
saga_quota_refuse_step(const SagaRow *saga)
{
	ereport(ERROR,
			(errcode(ERRCODE_SAGA_LIMIT_EXCEEDED),
			 errmsg("saga %s has too many steps",
					saga_ids_string(&saga->id)),
			 errdetail("saga.max_steps allows %d.", saga_guc_max_steps),
			 errhint("Split the operation into several sagas.")));
}

/* May the saga get one more signal? */
void
saga_quota_check_signals(const SagaRow *saga)
{
	if (saga_guc_max_signals == 0 ||
		saga_ledger_count_signals(&saga->id, saga_guc_max_signals) < saga_guc_max_signals)
		return;
	ereport(ERROR,
			(errcode(ERRCODE_SAGA_LIMIT_EXCEEDED),
			 errmsg("saga %s has too many signals",
					saga_ids_string(&saga->id)),
			 errdetail("saga.max_signals allows %d.", saga_guc_max_signals),
			 errhint("Send an idempotency_key with each, so that repeated ones are no new ones; or split the operation into several sagas.")));
}
