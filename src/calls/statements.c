/*-------------------------------------------------------------------------
 *
 * statements.c
 *	  What saga does before and after statements of the server.
 *
 * - Before a statement that needs a database, or the extension, for itself, our
 *	 processes leave the database (evict.c).  A statement that its user may
 *	 not carry out disturbs nobody: it runs into its own error.  The check is the
 *	 server's own one, made in advance and again by the statement itself.
 *
 * - CREATE EXTENSION and ALTER EXTENSION UPDATE are refused if they would make the
 *	 extension newer than the library that is loaded (version.c).
 *
 * - PREPARE TRANSACTION hands over what the transaction counts (commit.c), and
 *	 COMMIT PREPARED and ROLLBACK PREPARED take it from there.  COMMIT PREPARED
 *	 may also make something due, and is perhaps executed by a session that knows
 *	 nothing of it.
 *
 * - After ALTER DATABASE, the launcher looks at the databases again; also if that
 *	 was prepared, and is committed by COMMIT PREPARED.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/htup_details.h"
#include "access/xact.h"
#include "base/clock.h"
#include "base/compat.h"
#include "base/guc.h"
#include "calls/statements.h"
#include "catalog/namespace.h"
#include "catalog/pg_authid.h"
#include "catalog/pg_database.h"
#include "commands/dbcommands.h"
#include "commands/defrem.h"
#include "commands/extension.h"
#include "executor/spi.h"
#include "ledger/version.h"
#include "shared/queue_front.h"
#include "miscadmin.h"
#include "nodes/parsenodes.h"
#include "shared/commit.h"
#include "shared/evict.h"
#include "shared/shmem.h"
#include "shared/wakeup.h"
#include "tcop/utility.h"
#include "utils/acl.h"
#include "utils/inval.h"
#include "utils/syscache.h"

#define SCHEMA				"saga"

static ProcessUtility_hook_type prev_utility_hook = NULL;

/* The database that must be free for a statement about databases. */
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
 * not refused for standing in a transaction (RENAME is not): the database to keep
 * away from.
 */
static Oid
database_to_free(Node *stmt, ProcessUtilityContext context)
{
	Oid			database;
	bool		allowed;

	if (!IsA(stmt, RenameStmt) &&
		(context != PROCESS_UTILITY_TOPLEVEL || IsTransactionBlock()))
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
					if (!names(drop->objects, SAGA_EXTENSION))
						return false;
					break;
				}
				if (drop->removeType != OBJECT_SCHEMA ||
					drop->behavior != DROP_CASCADE ||
					!names(drop->objects, SCHEMA))
					return false;
				schema = get_namespace_oid(SCHEMA, true);
				return OidIsValid(schema) &&
					OidIsValid(get_extension_oid(SAGA_EXTENSION, true)) &&
					saga_compat_owns(NamespaceRelationId, schema, GetUserId());
			}
		case T_AlterExtensionStmt:
			if (strcmp(((AlterExtensionStmt *) stmt)->extname, SAGA_EXTENSION) != 0)
				return false;
			break;
		case T_DropOwnedStmt:
			extension = get_extension_oid(SAGA_EXTENSION, true);
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

	extension = get_extension_oid(SAGA_EXTENSION, true);
	return OidIsValid(extension) &&
		saga_compat_owns(ExtensionRelationId, extension, GetUserId());
}

/* The version that a statement without one means: the control file's. */
static char *
default_version(void)
{
	char	   *version = NULL;

	if (SPI_connect() != SPI_OK_CONNECT)
		elog(ERROR, "could not connect to SPI");
	if (SPI_execute("SELECT e.default_version FROM pg_catalog.pg_available_extensions() AS e"
					" WHERE e.name OPERATOR(pg_catalog.=) '" SAGA_EXTENSION "'",
					true, 1) != SPI_OK_SELECT)
		elog(ERROR, "could not look for the control file");
	if (SPI_processed > 0)
	{
		char	   *found = SPI_getvalue(SPI_tuptable->vals[0], SPI_tuptable->tupdesc, 1);

		if (found != NULL)
		{
			version = SPI_palloc(strlen(found) + 1);
			strcpy(version, found);
		}
	}
	SPI_finish();
	return version;
}

/* Of a statement that makes the extension, or brings it to a version: which? */
static char *
version_wanted(Node *stmt)
{
	const char *name;
	List	   *options;
	ListCell   *lc;

	if (IsA(stmt, CreateExtensionStmt))
	{
		name = ((CreateExtensionStmt *) stmt)->extname;
		options = ((CreateExtensionStmt *) stmt)->options;
	}
	else
	{
		name = ((AlterExtensionStmt *) stmt)->extname;
		options = ((AlterExtensionStmt *) stmt)->options;
	}

	/*
	 * What will not be carried out runs into the server's own error or
	 * notice.
	 */
	if (strcmp(name, SAGA_EXTENSION) != 0 || !superuser() ||
		OidIsValid(get_extension_oid(SAGA_EXTENSION, true)) == IsA(stmt, CreateExtensionStmt))
		return NULL;
	foreach(lc, options)
	{
		if (strcmp(((DefElem *) lfirst(lc))->defname, "new_version") == 0)
			return defGetString(lfirst(lc));
	}
	return default_version();
}

static void
check_version(Node *stmt)
{
	char	   *version = version_wanted(stmt);

	if (version != NULL)
		saga_version_refuse_newer(version);
}

/* Has somebody changed pg_database, as far as this process was told? */
static bool databases_changed = false;

static void
note_databases(Datum arg, SAGA_COMPAT_SYSCACHE_ID cache, uint32 hash)
{
	databases_changed = true;
}

/* A prepared transaction is about to be committed. */
static void
before_commit_prepared(void)
{
	static bool registered = false;

	if (!registered)
		CacheRegisterSyscacheCallback(DATABASEOID, note_databases, (Datum) 0);
	registered = true;
	databases_changed = false;
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

	/* The commit tells all processes what it changed, this one included. */
	AcceptInvalidationMessages();
	if (databases_changed)
		saga_shmem_poke_launcher(true);
	saga_wakeup_all_waiting();
	saga_queue_front_post(DT_NOBEGIN);
	if (slot != NULL && pg_atomic_read_u32(&slot->prepared) > 0)
		saga_wakeup_post(slot, saga_clock_now());
}

static void
statements_utility(PlannedStmt *pstmt, const char *query, bool read_only_tree,
				   ProcessUtilityContext context, ParamListInfo params,
				   QueryEnvironment *query_env, DestReceiver *dest,
				   QueryCompletion *qc)
{
	Node	   *stmt = pstmt->utilityStmt;
	Oid			database;
	TransactionStmt *transaction = NULL;
	bool		alter_database = IsA(stmt, AlterDatabaseStmt);

	if (IsA(stmt, CreateExtensionStmt) || IsA(stmt, AlterExtensionStmt))
		check_version(stmt);
	switch (nodeTag(stmt))
	{
		case T_RenameStmt:
		case T_DropdbStmt:
		case T_AlterDatabaseStmt:
		case T_CreatedbStmt:
			database = database_to_free(stmt, context);
			if (OidIsValid(database))
				saga_evict_from(database, false);
			break;
		case T_DropStmt:
		case T_AlterExtensionStmt:
		case T_DropOwnedStmt:
			if (concerns_extension(stmt))
				saga_evict_from(MyDatabaseId, true);
			break;
		case T_TransactionStmt:
			transaction = (TransactionStmt *) stmt;
			if (transaction->kind == TRANS_STMT_PREPARE)
				saga_commit_prepare(transaction->gid);
			else if (transaction->kind == TRANS_STMT_COMMIT_PREPARED)
				before_commit_prepared();
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
		saga_commit_finish_prepared(transaction->gid, true);
		after_commit_prepared();
	}
	else if (transaction != NULL &&
			 transaction->kind == TRANS_STMT_ROLLBACK_PREPARED)
		saga_commit_finish_prepared(transaction->gid, false);
}

void
saga_statements_init(void)
{
	if (!process_shared_preload_libraries_in_progress)
		return;
	prev_utility_hook = ProcessUtility_hook;
	ProcessUtility_hook = statements_utility;
}
