/*-------------------------------------------------------------------------
 *
 * keepaway.c
 *	  Making our processes leave a database for a statement that needs it.
 *
 * DROP DATABASE, ALTER DATABASE ... RENAME and SET TABLESPACE, and CREATE
 * DATABASE of its template, fail while any other process is connected; and
 * what drops or alters the extension, or moves sagas from role to role, waits
 * for the locks of whoever uses it.  A hook (or that call) raises "keep_away" in the slot of that database, makes our processes
 * there leave, waits until they are gone, lets the statement run, and lowers
 * keep_away again at the end of the transaction: until then, nobody can see
 * what became of the database or the extension.  (For a statement about a
 * database, which cannot stand in a transaction block, that is right behind
 * it.)
 *
 * While keep_away is raised, under "lock", no process of ours attaches to the
 * database, and none is connected without being attached (see shmem.c); so
 * once they are gone they stay away.
 *
 * Who raised it lowers it, whatever happens: in a transaction callback, or as
 * the process exits.  A process that dies without either takes shared memory
 * with it.
 *
 * A statement that its user may not carry out disturbs nobody: it is let pass
 * to its error.  The question is asked in the server's own terms, but in
 * advance, and once more by the statement itself.
 *
 * COMMIT PREPARED passes here too: it may be what makes something due, and
 * does not know.  And so does ALTER DATABASE, of which the launcher is to know.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include <signal.h>

#include "access/htup_details.h"
#include "access/xact.h"
#include "catalog/namespace.h"
#include "catalog/pg_authid.h"
#include "catalog/pg_database.h"
#include "clock.h"
#include "commands/dbcommands.h"
#include "commands/defrem.h"
#include "commands/extension.h"
#include "compat.h"
#include "errors.h"
#include "front.h"
#include "keepaway.h"
#include "miscadmin.h"
#include "nodes/parsenodes.h"
#include "portability/instr_time.h"
#include "session.h"
#include "shmem.h"
#include "storage/ipc.h"
#include "storage/procarray.h"
#include "tally.h"
#include "tcop/utility.h"
#include "utils/acl.h"
#include "utils/syscache.h"
#include "wakeup.h"

#define EXTENSION			"saga"
#define SCHEMA				"saga"

/* Milliseconds: processes are asked, then told, and waited for at most so. */
#define ASK_FOR				20.0
#define TELL_EVERY			200.0
#define WAIT_AT_MOST		5000.0
#define LOOK_EVERY			5L

/* Processes of ours that can be in one database. */
#define MAX_PROCESSES		(SAGA_MAX_EXECUTORS + 1)

static ProcessUtility_hook_type prev_utility_hook = NULL;

/* The database from which the current transaction keeps ours away, or NULL. */
static SagaDatabaseSlot *held = NULL;

/* Is it for the sake of the extension, rather than of the whole database? */
static bool held_for_extension = false;

/*
 * Ends what was held, and lets the launcher look what there is now.  If the
 * processes that were kept away left with an error, that is nothing to hold
 * against them; if the extension may have come or gone, what was known of it
 * is old.
 */
static void
release(void)
{
	SagaDatabaseSlot *slot = held;

	if (slot == NULL)
		return;
	held = NULL;

	LWLockAcquire(saga_shmem->lock, LW_EXCLUSIVE);
	(void) pg_atomic_fetch_sub_u32(&slot->keep_away, 1);
	slot->worker_failed = false;
	if (held_for_extension)
	{
		slot->state = SAGA_DATABASE_UNKNOWN;
		slot->wanted = true;
		slot->channels_next = 0;
		slot->channels_pause = 0;
	}
	saga_shmem->rescan = true;
	if (saga_shmem->launcher_latch != NULL)
		SetLatch(saga_shmem->launcher_latch);
	LWLockRelease(saga_shmem->lock);
}

static void
release_at_exit(int code, Datum arg)
{
	release();
}

static void
at_end_of_transaction(XactEvent event, void *arg)
{
	if (held != NULL &&
		(event == XACT_EVENT_COMMIT || event == XACT_EVENT_ABORT ||
		 event == XACT_EVENT_PREPARE))
		release();
}

/*
 * Speaks to every process of ours in a database: asks it by its latch, or
 * tells it by a signal.  Adds the ones not yet among "pids" to them.  Answers
 * whether there are any.
 */
static bool
speak(SagaDatabaseSlot *slot, bool tell, int *pids, int *npids)
{
	bool		any;
	int			i;

	/* Who detaches needs the lock: until then, the process is the right one. */
	LWLockAcquire(saga_shmem->lock, LW_SHARED);
	any = slot->worker_pid != 0;
	for (i = -1; i < SAGA_MAX_EXECUTORS; i++)
	{
		SagaExecutorSlot *executor = &saga_shmem->executors[Max(i, 0)];
		int			pid = (i < 0) ? slot->worker_pid : executor->pid;
		Latch	   *latch = (i < 0) ? slot->worker_latch : executor->latch;
		int			known = 0;

		if (i >= 0)
		{
			if (executor->database != slot->database)
				continue;
			any = true;
		}
		if (pid <= 0)
			continue;
		if (tell)
			(void) kill(pid, SIGTERM);
		else if (latch != NULL)
			SetLatch(latch);
		while (known < *npids && pids[known] != pid)
			known++;
		if (known == *npids && *npids < MAX_PROCESSES)
			pids[(*npids)++] = pid;
	}
	LWLockRelease(saga_shmem->lock);
	return any;
}

/* Is one of them still a session of the server?  They detach a bit earlier. */
static bool
still_here(const int *pids, int npids)
{
	int			i;

	for (i = 0; i < npids; i++)
	{
		if (BackendPidGetProc(pids[i]) != NULL)
			return true;
	}
	return false;
}

static void
wait_until_gone(SagaDatabaseSlot *slot)
{
	int			pids[MAX_PROCESSES];
	int			npids = 0;
	double		told = -1.0;
	uint32		wait_event = saga_compat_wait_event("SagaKeepAway");
	instr_time	start;

	INSTR_TIME_SET_CURRENT(start);
	for (;;)
	{
		instr_time	now;
		double		ms;
		bool		tell;

		INSTR_TIME_SET_CURRENT(now);
		INSTR_TIME_SUBTRACT(now, start);
		ms = INSTR_TIME_GET_MILLISEC(now);

		tell = ms >= ASK_FOR && (told < 0.0 || ms - told >= TELL_EVERY);
		if (tell)
			told = ms;
		if (!speak(slot, tell, pids, &npids) && !still_here(pids, npids))
			break;

		/* Let the statement say who is in its way. */
		if (ms >= WAIT_AT_MOST)
			break;

		(void) WaitLatch(MyLatch,
						 WL_LATCH_SET | WL_TIMEOUT | WL_EXIT_ON_PM_DEATH,
						 LOOK_EVERY, wait_event);
		ResetLatch(MyLatch);
		CHECK_FOR_INTERRUPTS();
	}
}

/*
 * Keeps our processes away from a database until the end of the transaction.
 * Returns when they are gone, or with an error if cancelled while waiting.
 */
static void
keep_away(Oid database, bool for_extension)
{
	static bool registered = false;
	SagaDatabaseSlot *slot;

	/* It would wait for the process that it runs in. */
	if (saga_session_current() != NULL)
		ereport(ERROR,
				(errcode(ERRCODE_SAGA_INVALID_STATE),
				 errmsg("a compensation cannot drop or alter the extension \"%s\", nor reassign sagas",
						EXTENSION),
				 errdetail("That needs all processes of saga to leave the database, and a compensation runs in one of them."),
				 errhint("Do it in a session of your own.")));
	if (held != NULL)
		return;
	if (!registered)
	{
		before_shmem_exit(release_at_exit, (Datum) 0);
		registered = true;
	}

	/* Without a slot nobody is there, and the launcher must not send anyone. */
	slot = saga_shmem_database(database, true);
	if (slot == NULL)
		return;
	LWLockAcquire(saga_shmem->lock, LW_EXCLUSIVE);
	if (slot->database == database)
	{
		pg_atomic_fetch_add_u32(&slot->keep_away, 1);
		held = slot;
		held_for_extension = for_extension;
	}
	LWLockRelease(saga_shmem->lock);

	if (held != NULL)
		wait_until_gone(slot);
}

/*
 * For a call that needs the whole ledger of the current database: attempts that
 * run are cut short, and nobody waits for them.
 */
void
saga_keepaway_here(void)
{
	if (saga_shmem != NULL)
		keep_away(MyDatabaseId, false);
}

/* Of a statement about a database: which one must be free for it? */
static Oid
database_of(Node *stmt)
{
	const char *name = NULL;
	Oid			database;
	ListCell   *lc;

	switch (nodeTag(stmt))
	{
		case T_DropdbStmt:
			name = ((DropdbStmt *) stmt)->dbname;
			break;
		case T_RenameStmt:
			if (((RenameStmt *) stmt)->renameType == OBJECT_DATABASE)
				name = ((RenameStmt *) stmt)->subname;
			break;
		case T_AlterDatabaseStmt:
			foreach(lc, ((AlterDatabaseStmt *) stmt)->options)
			{
				if (strcmp(((DefElem *) lfirst(lc))->defname, "tablespace") == 0)
					name = ((AlterDatabaseStmt *) stmt)->dbname;
			}
			break;
		case T_CreatedbStmt:
			name = "template1";
			foreach(lc, ((CreatedbStmt *) stmt)->options)
			{
				DefElem    *option = lfirst(lc);

				if (strcmp(option->defname, "template") == 0 &&
					option->arg != NULL)
					name = defGetString(option);
			}
			break;
		default:
			break;
	}
	if (name == NULL)
		return InvalidOid;
	database = get_database_oid(name, true);
	/* The current one is refused by each of them. */
	return (database == MyDatabaseId && !IsA(stmt, CreatedbStmt)) ?
		InvalidOid : database;
}

static bool
may_create_databases(void)
{
	bool		result = false;
	HeapTuple	tuple;

	if (superuser())
		return true;
	tuple = SearchSysCache1(AUTHOID, ObjectIdGetDatum(GetUserId()));
	if (HeapTupleIsValid(tuple))
	{
		result = ((Form_pg_authid) GETSTRUCT(tuple))->rolcreatedb;
		ReleaseSysCache(tuple);
	}
	return result;
}

static bool
may_copy(Oid database)
{
	bool		is_template = false;
	HeapTuple	tuple;

	if (!may_create_databases())
		return false;
	tuple = SearchSysCache1(DATABASEOID, ObjectIdGetDatum(database));
	if (HeapTupleIsValid(tuple))
	{
		is_template = ((Form_pg_database) GETSTRUCT(tuple))->datistemplate;
		ReleaseSysCache(tuple);
	}
	return is_template ||
		saga_compat_owns(DatabaseRelationId, database, GetUserId());
}

/*
 * Of a statement about a database that its user may carry out, and that is
 * not refused for standing in a transaction: the database to keep away from.
 */
static Oid
database_to_free(Node *stmt, ProcessUtilityContext context)
{
	Oid			database;
	bool		allowed;

	if (context != PROCESS_UTILITY_TOPLEVEL || IsTransactionBlock())
		return InvalidOid;
	database = database_of(stmt);
	if (!OidIsValid(database))
		return InvalidOid;

	if (IsA(stmt, CreatedbStmt))
		allowed = may_copy(database);
	else
		allowed = saga_compat_owns(DatabaseRelationId, database, GetUserId()) &&
			(!IsA(stmt, RenameStmt) || may_create_databases());
	return allowed ? database : InvalidOid;
}

static bool
names(List *objects, const char *name)
{
	ListCell   *lc;

	foreach(lc, objects)
	{
		Node	   *object = lfirst(lc);

		if (IsA(object, String) && strcmp(strVal(object), name) == 0)
			return true;
	}
	return false;
}

/*
 * Does a statement that its user may carry out drop or alter the extension in
 * the current database?
 */
static bool
concerns_extension(Node *stmt)
{
	Oid			extension;
	Oid			schema;
	ListCell   *lc;

	switch (nodeTag(stmt))
	{
		case T_DropStmt:
			{
				DropStmt   *drop = (DropStmt *) stmt;

				if (drop->removeType == OBJECT_EXTENSION)
				{
					if (!names(drop->objects, EXTENSION))
						return false;
					break;
				}
				if (drop->removeType != OBJECT_SCHEMA ||
					drop->behavior != DROP_CASCADE ||
					!names(drop->objects, SCHEMA))
					return false;
				schema = get_namespace_oid(SCHEMA, true);
				return OidIsValid(schema) &&
					OidIsValid(get_extension_oid(EXTENSION, true)) &&
					saga_compat_owns(NamespaceRelationId, schema, GetUserId());
			}
		case T_AlterExtensionStmt:
			if (strcmp(((AlterExtensionStmt *) stmt)->extname, EXTENSION) != 0)
				return false;
			break;
		case T_DropOwnedStmt:
			extension = get_extension_oid(EXTENSION, true);
			if (!OidIsValid(extension))
				return false;
			foreach(lc, ((DropOwnedStmt *) stmt)->roles)
			{
				Oid			role = get_rolespec_oid(lfirst(lc), true);

				if (OidIsValid(role) &&
					has_privs_of_role(GetUserId(), role) &&
					saga_compat_owns(ExtensionRelationId, extension, role))
					return true;
			}
			return false;
		default:
			return false;
	}

	extension = get_extension_oid(EXTENSION, true);
	return OidIsValid(extension) &&
		saga_compat_owns(ExtensionRelationId, extension, GetUserId());
}

/*
 * Something prepared is committed in this database, perhaps by a session that
 * knows nothing of it.  Where the worker polls, it need not wait for its next
 * turn; where the extension was created in a prepared transaction, somebody
 * must look now.  What waits for listeners may have another owner by it, and a
 * saga that is waited for another state.
 */
static void
after_commit_prepared(void)
{
	SagaDatabaseSlot *slot = saga_shmem_my_database();

	saga_wakeup_all_waiting();
	saga_front_post(DT_NOBEGIN);
	if (slot != NULL && pg_atomic_read_u32(&slot->prepared) > 0)
		saga_wakeup_post(slot, saga_clock_now());
}

static void
keepaway_utility(PlannedStmt *pstmt, const char *query, bool read_only_tree,
				 ProcessUtilityContext context, ParamListInfo params,
				 QueryEnvironment *query_env, DestReceiver *dest,
				 QueryCompletion *qc)
{
	Node	   *stmt = pstmt->utilityStmt;
	Oid			database;
	TransactionStmt *transaction = NULL;
	bool		alter_database = IsA(stmt, AlterDatabaseStmt);

	switch (nodeTag(stmt))
	{
		case T_RenameStmt:
		case T_DropdbStmt:
		case T_AlterDatabaseStmt:
		case T_CreatedbStmt:
			database = database_to_free(stmt, context);
			if (OidIsValid(database))
				keep_away(database, false);
			break;
		case T_DropStmt:
		case T_AlterExtensionStmt:
		case T_DropOwnedStmt:
			if (concerns_extension(stmt))
				keep_away(MyDatabaseId, true);
			break;
		case T_TransactionStmt:
			transaction = (TransactionStmt *) stmt;
			if (transaction->kind == TRANS_STMT_PREPARE)
				saga_tally_prepare(transaction->gid);
			break;
		default:
			break;
	}

	if (prev_utility_hook)
		prev_utility_hook(pstmt, query, read_only_tree, context, params,
						  query_env, dest, qc);
	else
		standard_ProcessUtility(pstmt, query, read_only_tree, context, params,
								query_env, dest, qc);

	/* ALLOW_CONNECTIONS, IS_TEMPLATE: whether our processes may be there. */
	if (alter_database)
		saga_wakeup_databases();
	if (transaction != NULL && transaction->kind == TRANS_STMT_COMMIT_PREPARED)
	{
		saga_tally_finish_prepared(transaction->gid, true);
		after_commit_prepared();
	}
	else if (transaction != NULL &&
			 transaction->kind == TRANS_STMT_ROLLBACK_PREPARED)
		saga_tally_finish_prepared(transaction->gid, false);
}

void
saga_keepaway_init(void)
{
	if (!process_shared_preload_libraries_in_progress)
		return;
	RegisterXactCallback(at_end_of_transaction, NULL);
	prev_utility_hook = ProcessUtility_hook;
	ProcessUtility_hook = keepaway_utility;
}
