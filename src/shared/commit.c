/*-------------------------------------------------------------------------
 *
 * commit.c
 *	  What the end of a transaction brings about outside of it.
 *
 * Before a commit, durable.c sees to it that what the calls of the transaction
 * returned is as durable as what it wrote; that may wait, and raise an error.
 *
 * While a transaction runs, rooms remember in this backend what follows from
 * its end outside of it.  This is done in the following order:
 *
 *	1. evict.c lets our processes come back to the database.
 *	2. queue_front.c moves back the fronts of queues, so that no consumer
 *	   passes by a row that was put in.
 *	3. tally.c counts the sagas that began and ended.
 *	4. stat.c counts what was done, for those who watch.
 *	5. wakeup.c wakes those that wait for a saga, an idle executor, the worker,
 *	   or the launcher.  It comes last: a process that is woken finds the rest done,
 *	   and may hand out work only where nobody is kept away.
 *
 * A transaction that is prepared keeps its tally and its counts by a hash of its
 * name, makes the worker poll, and loses the rest: COMMIT PREPARED, in whatever
 * session, has all read again (statements.c).  Of one that is rolled back only 1
 * is done.  In the end all of it is forgotten, and with it what again.c remembers.
 *
 * The callbacks are registered once for the life of the process, and only
 * where the library was preloaded: without shared memory there is nobody to
 * wake. (The test build's fault points at the end of a transaction have a
 * callback of their own, in fault.c, which comes after this one.)
 *
 * The end of a transaction cannot be taken back: nothing called from here may
 * raise an error or allocate memory once it is committed.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/xact.h"
#include "common/hashfn.h"
#include "miscadmin.h"
#include "shared/again.h"
#include "shared/commit.h"
#include "shared/durable.h"
#include "shared/evict.h"
#include "shared/queue_front.h"
#include "shared/stat.h"
#include "shared/tally.h"
#include "shared/wakeup.h"

/* Of the name under which the current transaction is about to be prepared; or 0 */
static uint64 prepared_gid = 0;

static uint64
hash_gid(const char *gid)
{
	uint64		hash = hash_bytes_extended((const unsigned char *) gid,
										   strlen(gid), 0);

	return hash != 0 ? hash : 1;
}

/* The current transaction is about to be prepared under a name. */
void
saga_commit_prepare(const char *gid)
{
	prepared_gid = hash_gid(gid);
}

/* The prepared transaction of that name was committed, or rolled back. */
void
saga_commit_finish_prepared(const char *gid, bool committed)
{
	uint64		hash = hash_gid(gid);

	saga_tally_finish_prepared(hash, committed);
	saga_stat_finish_prepared(hash, committed);
}

static void
commit_end_transaction(XactEvent event, void *arg)
{
	bool		committed = event == XACT_EVENT_COMMIT;

	switch (event)
	{
		case XACT_EVENT_PRE_COMMIT:
			saga_durable_before_commit();
			return;
		case XACT_EVENT_COMMIT:
		case XACT_EVENT_PREPARE:
		case XACT_EVENT_ABORT:
			break;
		default:
			return;
	}
	saga_evict_release();
	if (event == XACT_EVENT_PREPARE)
	{
		if (prepared_gid != 0)
		{
			saga_tally_prepared(prepared_gid);
			saga_stat_prepared(prepared_gid);
		}
		saga_wakeup_prepared();
	}
	prepared_gid = 0;
	saga_queue_front_end_transaction(committed);
	saga_tally_end_transaction(committed);
	saga_stat_end_transaction(committed);
	saga_wakeup_end_transaction(committed);
	saga_again_forget();
	saga_durable_forget();
}

static void
commit_end_savepoint(SubXactEvent event, SubTransactionId mine,
					 SubTransactionId parent, void *arg)
{
	if (event == SUBXACT_EVENT_COMMIT_SUB || event == SUBXACT_EVENT_ABORT_SUB)
	{
		saga_tally_end_savepoint(event == SUBXACT_EVENT_COMMIT_SUB);
		saga_stat_end_savepoint(event == SUBXACT_EVENT_COMMIT_SUB);
		saga_again_end_savepoint(event == SUBXACT_EVENT_COMMIT_SUB);
	}
}

void
saga_commit_register(void)
{
	if (!process_shared_preload_libraries_in_progress)
		return;
	RegisterXactCallback(commit_end_transaction, NULL);
	RegisterSubXactCallback(commit_end_savepoint, NULL);
}
