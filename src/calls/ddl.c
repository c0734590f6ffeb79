/*-------------------------------------------------------------------------
 *
 * ddl.c
 *	  Keeping from the ledger's tables what direct writes do not honor.
 *
 * The ledger is written as the server writes its catalogs (table.c): no
 * trigger fires, no rule or policy applies, no constraint is checked, no
 * foreign key is enforced.  A tool that copies a table and relies on a row
 * trigger for what is written meanwhile, as pg_repack does, would lose sagas
 * without a word.  So a hook refuses statements that add such things to the
 * ledger's tables or change what the tables are; as with catalogs, the setting
 * allow_system_table_mods lifts that.  What direct writes do honor is allowed:
 * indexes, whatever rewrites a table as it is (VACUUM FULL, CLUSTER, SET
 * TABLESPACE), storage parameters, statistics, publications and the replica
 * identity.
 *
 * Twice.  Before the statement, by what it says, so that it does not first wait
 * for a lock behind which all sagas would wait.  And after it, by what became
 * of the tables, since there are many ways to say it (a foreign key in a new
 * table, a new child, a script of another extension).  A look at the tables
 * costs something, so it is taken only if the statement changed one of them;
 * its error takes the statement back.
 *
 * The guards of the ledger may be disabled and enabled, which pg_restore does:
 * then the ledger is a copy (home.c).
 *
 * A session that has not loaded this library, in a server that does not preload
 * it, goes unseen.  For that, table.c refuses to write where there is a foreign
 * trigger or rule.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/relation.h"
#include "access/xact.h"
#include "base/compat.h"
#include "base/guc.h"
#include "calls/ddl.h"
#include "catalog/dependency.h"
#include "catalog/namespace.h"
#include "catalog/pg_inherits.h"
#include "commands/extension.h"
#include "ledger/oids.h"
#include "ledger/table.h"
#include "miscadmin.h"
#include "nodes/parsenodes.h"
#include "storage/lmgr.h"
#include "tcop/utility.h"
#include "utils/lsyscache.h"
#include "utils/rel.h"

static ProcessUtility_hook_type prev_utility_hook = NULL;

/* "what" completes "cannot ... table"; "name" of the table without its schema. */
static void
refuse(const char *what, const char *name)
{
	ereport(ERROR,
			(errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
			 errmsg("cannot %s table \"%s\" of the ledger", what, name),
			 errdetail("Saga writes the ledger directly: no trigger fires, no rule or policy applies, and no constraint but saga's own is checked."),
			 errhint("VACUUM FULL and CLUSTER compact the ledger while sagas run; let pg_repack leave it out (--exclude-extension=saga). Logical replication sees all that is written.")));
}

/* Is a relation a table of the ledger? */
static bool
is_ledger(Oid relid)
{
	Oid			tables[SAGA_OIDS_TABLES];

	if (!OidIsValid(relid) || !saga_oids_tables(tables))
		return false;
	for (int i = 0; i < SAGA_OIDS_TABLES; i++)
		if (tables[i] == relid)
			return true;
	return false;
}

/*
 * Refuses something about a table of the ledger, if the user may change it:
 * others get the server's own error.
 */
static void
refuse_if_ledger(const RangeVar *name, const char *what)
{
	Oid			relid;

	if (name == NULL)
		return;
	relid = RangeVarGetRelid(name, NoLock, true);
	if (is_ledger(relid) &&
		saga_compat_owns(RelationRelationId, relid, GetUserId()))
		refuse(what, name->relname);
}

/* Refuses foreign keys that refer to the ledger. */
static void
check_constraints(List *constraints)
{
	ListCell   *lc;

	foreach(lc, constraints)
	{
		Node	   *node = lfirst(lc);

		if (IsA(node, Constraint) &&
			((Constraint *) node)->contype == CONSTR_FOREIGN)
			refuse_if_ledger(((Constraint *) node)->pktable,
							 "create a foreign key that refers to");
	}
}

static void
check_create_table(const CreateStmt *stmt)
{
	ListCell   *lc;

	foreach(lc, stmt->inhRelations)
		refuse_if_ledger(lfirst_node(RangeVar, lc), "inherit from");
	check_constraints(stmt->constraints);
	check_constraints(stmt->tableElts);
	foreach(lc, stmt->tableElts)
	{
		Node	   *node = lfirst(lc);

		if (IsA(node, ColumnDef))
			check_constraints(((ColumnDef *) node)->constraints);
	}
}

/* Does a change of a table leave alone what its rows are? */
static bool
is_harmless(const AlterTableCmd *cmd)
{
	switch (cmd->subtype)
	{
		case AT_SetStatistics:
		case AT_SetOptions:
		case AT_ResetOptions:
		case AT_SetStorage:
		case AT_SetCompression:
		case AT_SetRelOptions:
		case AT_ResetRelOptions:
		case AT_ReplaceRelOptions:
		case AT_ClusterOn:
		case AT_DropCluster:
		case AT_SetTableSpace:
		case AT_ReplicaIdentity:
		case AT_SetLogged:
		case AT_ChangeOwner:
			/* Disables the guards, as pg_restore does. */
		case AT_EnableTrig:
		case AT_EnableAlwaysTrig:
		case AT_EnableReplicaTrig:
		case AT_DisableTrig:
		case AT_EnableTrigAll:
		case AT_DisableTrigAll:
		case AT_EnableTrigUser:
		case AT_DisableTrigUser:
			return true;
		default:
			return false;
	}
}

static void
check_alter_table(const AlterTableStmt *stmt)
{
	ListCell   *lc;

	foreach(lc, stmt->cmds)
	{
		AlterTableCmd *cmd = lfirst_node(AlterTableCmd, lc);

		if (!is_harmless(cmd))
			refuse_if_ledger(stmt->relation, "change the structure of");
		if (cmd->def == NULL)
			continue;
		if (cmd->subtype == AT_AddConstraint)
			check_constraints(list_make1(cmd->def));
		else if (cmd->subtype == AT_AddColumn && IsA(cmd->def, ColumnDef))
			check_constraints(((ColumnDef *) cmd->def)->constraints);
		else if (cmd->subtype == AT_AddInherit && IsA(cmd->def, RangeVar))
			refuse_if_ledger((RangeVar *) cmd->def, "inherit from");
		else if (cmd->subtype == AT_AttachPartition &&
				 IsA(cmd->def, PartitionCmd))
			refuse_if_ledger(((PartitionCmd *) cmd->def)->name,
							 "attach");
	}
}

/* What a statement says it would do. */
static void
check_statement(Node *stmt)
{
	switch (nodeTag(stmt))
	{
		case T_CreateTrigStmt:
			refuse_if_ledger(((CreateTrigStmt *) stmt)->relation,
							 "create a trigger on");
			refuse_if_ledger(((CreateTrigStmt *) stmt)->constrrel,
							 "create a constraint trigger that refers to");
			break;
		case T_RuleStmt:
			refuse_if_ledger(((RuleStmt *) stmt)->relation,
							 "create a rule on");
			break;
		case T_CreatePolicyStmt:
			refuse_if_ledger(((CreatePolicyStmt *) stmt)->table,
							 "create a policy on");
			break;
		case T_CreateStmt:
			check_create_table((CreateStmt *) stmt);
			break;
		case T_AlterTableStmt:
			check_alter_table((AlterTableStmt *) stmt);
			break;
		case T_RenameStmt:
			if (((RenameStmt *) stmt)->renameType != OBJECT_TRIGGER)
				refuse_if_ledger(((RenameStmt *) stmt)->relation,
								 "rename anything of");
			break;
		case T_AlterObjectSchemaStmt:
			refuse_if_ledger(((AlterObjectSchemaStmt *) stmt)->relation,
							 "move");
			break;
		default:
			break;
	}
}

/* May a statement of this kind add something to a table, its own or another? */
static bool
may_concern_tables(Node *stmt)
{
	switch (nodeTag(stmt))
	{
		case T_CreateTrigStmt:
		case T_RuleStmt:
		case T_CreatePolicyStmt:
		case T_CreateStmt:
		case T_CreateForeignTableStmt:
		case T_AlterTableStmt:
		case T_RenameStmt:
		case T_AlterObjectSchemaStmt:
			return true;
		default:
			return false;
	}
}

/* What became of a table that the statement may have changed. */
static void
check_table(Oid relid)
{
	Relation	heap;

	/*
	 * The transaction that changed it holds a lock on it; do not wait for
	 * others.
	 */
	if (!ConditionalLockRelationOid(relid, AccessShareLock))
		return;
	heap = try_relation_open(relid, NoLock);
	if (heap != NULL)
	{
		const char *name = RelationGetRelationName(heap);

		if (saga_table_foreign_trigger(heap) != NULL)
			refuse("create a trigger or foreign key on", name);
		if (heap->rd_rules != NULL)
			refuse("create a rule on", name);
		if (heap->rd_rel->relrowsecurity)
			refuse("enable row security on", name);
		if (has_superclass(relid) ||
			(heap->rd_rel->relhassubclass &&
			 find_inheritance_children(relid, NoLock) != NIL))
			refuse("inherit from", name);
		relation_close(heap, NoLock);
	}
	UnlockRelationOid(relid, AccessShareLock);
}

/* Is this our own install or upgrade script? */
static bool
in_own_script(void)
{
	return creating_extension &&
		CurrentExtensionObject == get_extension_oid(SAGA_EXTENSION, true);
}

static void
ddl_utility(PlannedStmt *pstmt, const char *query, bool read_only_tree,
			ProcessUtilityContext context, ParamListInfo params,
			QueryEnvironment *query_env, DestReceiver *dest,
			QueryCompletion *qc)
{
	Node	   *stmt = pstmt->utilityStmt;
	bool		look = may_concern_tables(stmt) && !allowSystemTableMods &&
		!IsBinaryUpgrade && IsTransactionState() && !in_own_script();
	Oid			tables[SAGA_OIDS_TABLES];
	uint64		generation = 0;

	if (look)
	{
		look = saga_oids_tables(tables);
		generation = saga_oids_generation();
	}
	if (look)
		check_statement(stmt);

	if (prev_utility_hook)
		prev_utility_hook(pstmt, query, read_only_tree, context, params,
						  query_env, dest, qc);
	else
		standard_ProcessUtility(pstmt, query, read_only_tree, context, params,
								query_env, dest, qc);

	if (!look)
		return;
	/* This process gets invalidations only at a command counter. */
	CommandCounterIncrement();
	if (saga_oids_generation() != generation)
	{
		for (int i = 0; i < SAGA_OIDS_TABLES; i++)
			check_table(tables[i]);
	}
}

void
saga_ddl_init(void)
{
	prev_utility_hook = ProcessUtility_hook;
	ProcessUtility_hook = ddl_utility;
}
