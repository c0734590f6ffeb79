/*-------------------------------------------------------------------------
 *
 * access.c
 *	  How a call comes to a saga: found, allowed, locked, and newest.
 *
 * Order matters.  First the saga is found and the caller's right to it is
 * checked, so that a stranger takes no lock and learns nothing: a saga that is
 * not there and one that is not theirs read the same.  Then the lock, then
 * once more the row, because it may have changed while the lock was waited
 * for.  A row that this transaction wrote itself is the newest.
 *
 * A call gives back the lock that it took before it waits for another transaction:
 * that one may be about to take it (saga_rows.c).
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/xlog.h"
#include "base/citus.h"
#include "base/errors.h"
#include "base/guc.h"
#include "base/ids.h"
#include "base/rights.h"
#include "calls/access.h"
#include "flow/next.h"
#include "ledger/home.h"
#include "ledger/oids.h"
#include "miscadmin.h"
#include "shared/current.h"
#include "shared/shmem.h"
#include "utils/builtins.h"
#include "utils/fmgrprotos.h"
#include "utils/inval.h"

/* Number of steps named where a step is not found. */
#define MAX_STEPS_NAMED		5

/* One WARNING per session is enough. */
static bool warned = false;

/*
 * At the door of every call that writes: can this server write at all, and
 * will anything be undone?
 */
void
saga_access_call(const char *function)
{
	const char *away;

	if (RecoveryInProgress())
		ereport(ERROR,
				(errcode(ERRCODE_SAGA_UNAVAILABLE),
				 errmsg("cannot execute %s on a standby", function),
				 errhint("Call it on the primary; the views can be read here.")));
	PreventCommandIfReadOnly(function);

	if (warned)
		return;
	warned = true;
	away = saga_home_away();
	if (saga_shmem == NULL)
		ereport(WARNING,
				(errcode(ERRCODE_SAGA_UNAVAILABLE),
				 errmsg("sagas are recorded, but nothing will be run or undone until saga is preloaded"),
				 errhint("Set this in postgresql.conf and restart the server: %s",
						 saga_home_preload_line())));
	else if (away != NULL)
		ereport(WARNING,
				(errcode(ERRCODE_SAGA_UNAVAILABLE),
				 errmsg("sagas are recorded, but nothing will be run or undone until this copy of the database is adopted"),
				 errdetail("It holds still because %s.", away),
				 errhint("If no other copy is to run and undo, call saga.adopt().")));
}

/*
 * At the door of a call that begins a saga, which stays on the node where it was
 * begun: does the data of this database lie on others?  Then a commit here and one
 * there are two, and a crash can come between them.
 */
void
saga_access_begin(void)
{
	static bool warned_of_layout = false;

	if (saga_guc_coordinator_check == SAGA_COORDINATOR_OFF ||
		(warned_of_layout &&
		 saga_guc_coordinator_check == SAGA_COORDINATOR_WARNING) ||
		!saga_citus_shards_elsewhere())
		return;
	warned_of_layout = true;
	ereport(saga_guc_coordinator_check == SAGA_COORDINATOR_ERROR ? ERROR : WARNING,
			(errcode(ERRCODE_SAGA_UNAVAILABLE),
			 errmsg("this saga begins on the coordinator of a Citus cluster whose data is on other nodes"),
			 errdetail("Its ledger and the data that it is about do not commit together: after a crash, something may be undone twice or never."),
			 errhint("Call saga in one function per business call, distributed with create_distributed_function(..., force_delegation => true), and that function from no other statement than SELECT f(...). If this saga is about local tables only, set saga.coordinator_check = off.")));
}

/*
 * Is this a copy that nobody has adopted yet?  Costs next to nothing as long as no
 * relation of the ledger changed: what makes it a copy, and who adopts it, say so
 * of the home (home.c), also when that is rolled back.
 */
bool
saga_access_away(void)
{
	static uint64 at_home_in = PG_UINT64_MAX;
	uint64		generation;

	/* A transaction that has its locks already would not hear of it. */
	AcceptInvalidationMessages();
	generation = saga_oids_generation();
	if (generation == at_home_in)
		return false;
	if (saga_home_away() != NULL)
		return true;
	at_home_in = generation;
	return false;
}

/* For calls that make sense only where compensations are made. */
void
saga_access_undone_here(const char *function)
{
	const char *why = saga_home_why_idle(NULL);

	if (why != NULL)
		ereport(ERROR,
				(errcode(ERRCODE_SAGA_UNAVAILABLE),
				 errmsg("%s is not available because nothing is run or undone in this database",
						function),
				 errdetail("The reason: %s.", why),
				 errhint("Fix the cause first. A copy of a database needs saga.adopt().")));
}

/* The id that an argument gives; it must not be null. */
const pg_uuid_t *
saga_access_id(FunctionCallInfo fcinfo, int arg)
{
	if (PG_ARGISNULL(arg))
		ereport(ERROR,
				(errcode(ERRCODE_NULL_VALUE_NOT_ALLOWED),
				 errmsg("saga_id must not be null"),
				 errhint("Pass the id that saga.begin() returned; saga.find() returns null if there is no such saga.")));
	return PG_GETARG_UUID_P(arg);
}

void
saga_access_refuse_not_found(const pg_uuid_t *id)
{
	ereport(ERROR,
			(errcode(ERRCODE_SAGA_NOT_FOUND),
			 errmsg("saga %s does not exist or is not yours",
					saga_ids_string(id)),
			 saga_citus_is_here() ?
			 errhint("A saga can be called by its owner and by members of the owner's role, on the node where it was begun. In a Citus cluster that may be another node; saga_cluster.node_of() finds it.") :
			 errhint("A saga can be called by its owner and by members of the owner's role.")));
}

/* SG005: what comes too late must abort with the transaction that brings it. */
void
saga_access_refuse_late(const SagaRow *saga, const char *hint)
{
	ereport(ERROR,
			(errcode(ERRCODE_SAGA_FAILING),
			 saga->state == SAGA_NEEDS_REVIEW ?
			 errmsg("saga %s waits for a person's decision",
					saga_ids_string(&saga->id)) :
			 errmsg("the undo of saga %s has begun",
					saga_ids_string(&saga->id)),
			 errdetail("Its state is \"%s\".", saga_state_name(saga->state)),
			 errhint("%s", hint)));
}

/* Likewise, of what an application does with a step. */
void
saga_access_refuse_failing(const SagaRow *saga)
{
	bool		review = saga->state == SAGA_NEEDS_REVIEW;

	saga_access_refuse_late(saga, saga_rows_is_rolling_back(saga) ?
							"It is being rolled back to a savepoint: try again once it is running." :
							review ?
							"See saga.review_queue. It may be running again after that; an outside effect that did happen can be reported with complete_step(..., late => 'record')." :
							"A new operation needs a new saga with a new key. Report an outside effect that did happen with complete_step(..., late => 'record').");
}

/* SG002: the call does not fit the state. */
void
saga_access_refuse_state(const SagaRow *saga, const char *what, const char *hint)
{
	ereport(ERROR,
			(errcode(ERRCODE_SAGA_INVALID_STATE),
			 errmsg("%s", what),
			 errdetail("Saga %s is in state \"%s\".",
					   saga_ids_string(&saga->id),
					   saga_state_name(saga->state)),
			 errhint("%s", hint)));
}

/*
 * SG004.  Names some of the steps that there are, those that started last, since
 * it is mostly a matter of spelling.
 */
void
saga_access_refuse_no_step(const SagaRow *saga, const text *key)
{
	SagaSteps	steps;
	StringInfoData names;
	int			count = 0;

	saga_ledger_get_steps_now(&saga->id, &steps);
	initStringInfo(&names);
	for (int i = steps.count - 1; i >= 0 && count <= MAX_STEPS_NAMED; i--)
	{
		/* The newest of its runs. */
		if (saga_next_find_key(&steps, steps.step[i].key) != i)
			continue;
		if (count++ < MAX_STEPS_NAMED)
			appendStringInfo(&names, "%s\"%s\"", count > 1 ? ", " : "",
							 text_to_cstring(steps.step[i].key));
		else
			appendStringInfoString(&names, " and others");
	}
	ereport(ERROR,
			(errcode(ERRCODE_SAGA_STEP_NOT_FOUND),
			 errmsg("saga %s has no step \"%s\"",
					saga_ids_string(&saga->id), text_to_cstring(key)),
			 count == 0 ? errdetail("It has no steps.") :
			 errdetail("Its steps, newest first: %s.", names.data),
			 errhint("A step is named by its idempotency key, or by its name if it has none.")));
}

static bool
is_allowed(const SagaRow *saga, SagaReach reach)
{
	return reach == SAGA_REACH_OWN ?
		saga_rights_may_call(saga->owner, saga->owner_name) :
		saga_rights_reach(saga->owner, saga->owner_name) >= reach;
}

/* A call on the saga whose SQL this process runs. */
SAGA_COMPAT_NORETURN static void
refuse_own(const pg_uuid_t *id)
{
	bool		action = saga_current_action(id) != 0;

	ereport(ERROR,
			(errcode(ERRCODE_SAGA_INVALID_STATE),
			 action ?
			 errmsg("an action cannot make this call on its own saga") :
			 errmsg("a compensation cannot call saga on its own saga"),
			 errdetail("Saga %s is running this %s.",
					   saga_ids_string(id), saga_current_word()),
			 action ?
			 errhint("It may call saga.step() to record more steps, saga.signal() and saga.output(); to fail, raise an error.") :
			 errhint("What the compensation needs to know is in its context, $1.")));
}

/*
 * Finds a saga that the caller may reach.  The row need not be the newest, so
 * that is enough only for calls that do not write.
 */
void
saga_access_read(const pg_uuid_t *id, SagaReach reach, SagaRow *saga)
{
	const pg_uuid_t *current = saga_current();

	if (current != NULL && saga_ids_equal(current, id))
		refuse_own(id);
	if (saga_ledger_get_saga(id, saga) != SAGA_FOUND || !is_allowed(saga, reach))
		saga_access_refuse_not_found(id);
}

/*
 * The saga whose action this process runs.  No lock is taken: what the action
 * records is seen with its mark, which finds out whether the saga still runs.
 */
void
saga_access_read_own(const pg_uuid_t *id, SagaRow *saga)
{
	if (saga_ledger_get_saga(id, saga) != SAGA_FOUND)
		saga_access_refuse_not_found(id);
}

/*
 * Makes sure that the row is the newest version and nobody is writing it.  False, only
 * with SAGA_NOWAIT: somebody is.
 */
static bool
make_newest(SagaRow *saga, SagaReach reach, SagaPatience patience)
{
	pg_uuid_t	id = saga->id;
	Oid			owner = saga->owner;
	SagaFound	found;

	CHECK_FOR_INTERRUPTS();
	found = saga_ledger_reread_saga(saga, patience);
	if (found == SAGA_BUSY)
		return false;
	if (found != SAGA_FOUND ||
		(saga->owner != owner && !is_allowed(saga, reach)))
		saga_access_refuse_not_found(&id);
	return true;
}

/*
 * Takes the lock of a saga that was read, in a mode that may be NoLock, and makes sure
 * that the row is the newest version and nobody is writing it.  Returns the lock if this
 * call took it.
 *
 * If this transaction holds the shared lock already, and the saga runs, it has not been
 * ended or sealed since.  What else another transaction is writing into its row comes
 * after us: that one is not waited for, because it may be about to wait for us.
 */
static LOCKMODE
lock_newest(SagaRow *saga, SagaReach reach, LOCKMODE mode)
{
	for (;;)
	{
		SagaLocked	locked = SAGA_NOT_LOCKED;

		/* Such a row holds back those that come after it. */
		if (saga->version.own && mode != ExclusiveLock)
			return NoLock;
		if (mode != NoLock)
			locked = saga_ledger_lock(&saga->id, mode, SAGA_WAIT);
		if (locked == SAGA_LOCKED_BEFORE && saga->state == SAGA_RUNNING)
			return NoLock;
		if (make_newest(saga, reach, locked == SAGA_LOCKED ? SAGA_NOWAIT : SAGA_WAIT))
			return locked == SAGA_LOCKED ? mode : NoLock;
		saga_ledger_unlock(&saga->id, mode);
		(void) make_newest(saga, reach, SAGA_WAIT);
	}
}

static LOCKMODE
needed_lock(SagaCallLock lock, const SagaRow *saga)
{
	bool		running = saga->state == SAGA_RUNNING;
	LOCKMODE	mode = NoLock;

	switch (lock)
	{
		case SAGA_CALL_NO_LOCK:
			break;
		case SAGA_CALL_SHARED:
			mode = ShareLock;
			break;
		case SAGA_CALL_SHARED_IF_RUNNING:
			mode = running ? ShareLock : NoLock;
			break;
		case SAGA_CALL_EXCLUSIVE:
			mode = ExclusiveLock;
			break;
		case SAGA_CALL_EXCLUSIVE_IF_RUNNING:
			mode = running ? ExclusiveLock : NoLock;
			break;
	}

	/*
	 * A row of our own holds back the transactions that come after it.  So it
	 * needs no lock, unless we must wait for others that came before.
	 */
	if (saga->version.own &&
		(saga_ledger_begun_here(saga) || !saga_rows_may_get_steps(saga)))
		return NoLock;
	return mode;
}

/*
 * Opens a saga for a call that writes.  Returns the lock if this call took it: to be
 * given back before it waits for anything else.
 */
LOCKMODE
saga_access_open(const pg_uuid_t *id, SagaReach reach, SagaCallLock lock,
				 SagaRow *saga)
{
	for (;;)
	{
		LOCKMODE	needed;
		LOCKMODE	taken;

		saga_access_read(id, reach, saga);
		needed = needed_lock(lock, saga);
		taken = lock_newest(saga, reach, needed);
		/* What the newest row says may need another lock. */
		if (needed_lock(lock, saga) == needed)
			return taken;
		saga_access_unlock(saga, taken);
	}
}

/* Gives back the lock that saga_access_open returned. */
void
saga_access_unlock(const SagaRow *saga, LOCKMODE taken)
{
	if (taken != NoLock)
		saga_ledger_unlock(&saga->id, taken);
}

/*
 * Another transaction was first at a row, so nothing was written.  Gives back the lock
 * and waits for that transaction, "writer"; the caller begins again.  Returns its
 * patience then: where several transactions lock the row, as only SQL does, they are
 * waited for where it is written.
 */
SagaPatience
saga_access_wait(const SagaRow *saga, LOCKMODE taken, TransactionId writer,
				 SagaWritten written)
{
	saga_access_unlock(saga, taken);
	CHECK_FOR_INTERRUPTS();
	if (TransactionIdIsValid(writer))
		saga_table_wait(writer);
	else if (written == SAGA_WRITE_BUSY)
		return SAGA_WAIT;
	return SAGA_NOWAIT;
}
