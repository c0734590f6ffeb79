/*-------------------------------------------------------------------------
 *
 * citus.c
 *	  What the catalog of Citus says of this node, where Citus is.
 *
 * Citus makes one database of several servers, its nodes.  Nothing of ours is
 * distributed: each node has a ledger of its own (doc/citus.md).  So all that
 * needs to be known is which node this is, and whether data is elsewhere.
 *
 * Citus is neither linked to nor compiled against.  Its tables are found by name
 * in pg_catalog, where only superusers make any, and their columns by name, since
 * versions of Citus differ; what is not there reads as zero or false.  They are
 * small, and read by plain scans: no planner and no search_path has a part in it,
 * and our processes, which run no SQL of their own, can read them, too.
 *
 * Where there is no Citus, it costs nothing: whether it is created in this
 * database is asked again only when a relation of it has changed in some way.
 * What was found about shards is kept for as long; whatever Citus changes in its
 * catalog, it makes all sessions forget what they cached of the relation.
 *
 * Used by any process for itself; no lock but on the tables that are read.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/genam.h"
#include "access/htup_details.h"
#include "access/table.h"
#include "base/citus.h"
#include "catalog/pg_namespace_d.h"
#include "catalog/pg_type_d.h"
#include "commands/extension.h"
#include "utils/guc.h"
#include "utils/inval.h"
#include "utils/lsyscache.h"
#include "utils/rel.h"

/* What pg_dist_partition says of a reference table, which all nodes hold */
#define METHOD_NONE			'n'
#define MODEL_TWO_PHASE		't'

/* Is Citus created in this database?  As of the last change of a relation. */
static enum
{
	CATALOG_UNKNOWN, CATALOG_ABSENT, CATALOG_PRESENT
}			known = CATALOG_UNKNOWN;

/* Are there shards elsewhere?  Likewise. */
static enum
{
	SHARDS_UNKNOWN, SHARDS_HERE, SHARDS_ELSEWHERE
}			shards = SHARDS_UNKNOWN;

/* A scan of one of the tables */
typedef struct Reading
{
	Relation	heap;			/* NULL: there is no such table */
	SysScanDesc scan;
	HeapTuple	row;
} Reading;

static void
forget_known(Datum arg, Oid relid)
{
	known = CATALOG_UNKNOWN;
	shards = SHARDS_UNKNOWN;
}

/* Is Citus created in this database? */
bool
saga_citus_is_here(void)
{
	static bool registered = false;
	bool		here;

	if (known != CATALOG_UNKNOWN)
		return known == CATALOG_PRESENT;
	if (!registered)
	{
		CacheRegisterRelcacheCallback(forget_known, (Datum) 0);
		registered = true;
	}
	here = OidIsValid(get_relname_relid("pg_dist_local_group",
										PG_CATALOG_NAMESPACE)) &&
		OidIsValid(get_extension_oid("citus", true));
	known = here ? CATALOG_PRESENT : CATALOG_ABSENT;
	return here;
}

/*
 * Did this server load the library of Citus?  That insists on being the first of
 * shared_preload_libraries, so it is known when ours is loaded.
 */
bool
saga_citus_is_loaded(void)
{
	return GetConfigOption("citus.version", true, false) != NULL;
}

/* ------------------------------------------------------------------------
 * Reading its tables
 * ------------------------------------------------------------------------ */

static void
read_begin(Reading *reading, const char *table, Snapshot snapshot)
{
	Oid			relid = get_relname_relid(table, PG_CATALOG_NAMESPACE);

	memset(reading, 0, sizeof(*reading));
	if (!OidIsValid(relid))
		return;
	reading->heap = table_open(relid, AccessShareLock);
	reading->scan = systable_beginscan(reading->heap, InvalidOid, false,
									   snapshot, 0, NULL);
}

static bool
read_row(Reading *reading)
{
	if (reading->heap == NULL)
		return false;
	reading->row = systable_getnext(reading->scan);
	return HeapTupleIsValid(reading->row);
}

static void
read_end(Reading *reading)
{
	if (reading->heap == NULL)
		return;
	systable_endscan(reading->scan);
	table_close(reading->heap, AccessShareLock);
}

/* A column of the row, which is to be of a type; 0 if it is not there. */
static Datum
column(const Reading *reading, const char *name, Oid type)
{
	AttrNumber	attnum = get_attnum(RelationGetRelid(reading->heap), name);
	TupleDesc	desc = RelationGetDescr(reading->heap);
	Datum		value;
	bool		isnull;

	if (attnum <= 0 || TupleDescAttr(desc, attnum - 1)->atttypid != type)
		return (Datum) 0;
	value = heap_getattr(reading->row, attnum, desc, &isnull);
	return isnull ? (Datum) 0 : value;
}

/* ------------------------------------------------------------------------
 * What they say
 * ------------------------------------------------------------------------ */

/*
 * The group of this node, which is what Citus calls the servers that hold the same
 * data.  "snapshot" NULL: the newest.
 */
int32
saga_citus_group(Snapshot snapshot)
{
	Reading		reading;
	int32		group = SAGA_CITUS_COORDINATOR;

	if (!saga_citus_is_here())
		return SAGA_CITUS_COORDINATOR;
	read_begin(&reading, "pg_dist_local_group", snapshot);
	if (read_row(&reading))
		group = DatumGetInt32(column(&reading, "groupid", INT4OID));
	read_end(&reading);
	return group;
}

/* The numbers of the nodes that hold a group's data */
static List *
nodes_of_group(int32 group, Snapshot snapshot)
{
	Reading		reading;
	List	   *nodes = NIL;

	read_begin(&reading, "pg_dist_node", snapshot);
	while (read_row(&reading))
	{
		if (DatumGetInt32(column(&reading, "groupid", INT4OID)) == group)
			nodes = lappend_int(nodes,
								DatumGetInt32(column(&reading, "nodeid", INT4OID)));
	}
	read_end(&reading);
	return nodes;
}

/*
 * Is there a clone of a node of that group: a standby that is to become a node
 * of its own by citus_promote_clone_and_rebalance()?  Until then, it has another
 * group in the list of nodes, but says that it is of this one.
 */
bool
saga_citus_has_clone(int32 group, Snapshot snapshot)
{
	Reading		reading;
	List	   *nodes;
	bool		clone = false;

	if (!saga_citus_is_here())
		return false;
	nodes = nodes_of_group(group, snapshot);
	read_begin(&reading, "pg_dist_node", snapshot);
	while (!clone && read_row(&reading))
		clone = DatumGetBool(column(&reading, "nodeisclone", BOOLOID)) &&
			list_member_int(nodes,
							DatumGetInt32(column(&reading, "nodeprimarynodeid",
												 INT4OID)));
	read_end(&reading);
	list_free(nodes);
	return clone;
}

/* The reference tables, which all nodes hold */
static List *
reference_tables(void)
{
	Reading		reading;
	List	   *tables = NIL;

	read_begin(&reading, "pg_dist_partition", NULL);
	while (read_row(&reading))
	{
		if (DatumGetChar(column(&reading, "partmethod", CHAROID)) == METHOD_NONE &&
			DatumGetChar(column(&reading, "repmodel", CHAROID)) == MODEL_TWO_PHASE)
			tables = lappend_oid(tables,
								 DatumGetObjectId(column(&reading, "logicalrelid",
														 REGCLASSOID)));
	}
	read_end(&reading);
	return tables;
}

/* Their shards: they are few. */
static int64 *
reference_shards(int *count)
{
	List	   *tables = reference_tables();
	int			room = 16;
	int64	   *ids = palloc(room * sizeof(int64));
	Reading		reading;

	*count = 0;
	read_begin(&reading, "pg_dist_shard", NULL);
	while (tables != NIL && read_row(&reading))
	{
		if (!list_member_oid(tables,
							 DatumGetObjectId(column(&reading, "logicalrelid",
													 REGCLASSOID))))
			continue;
		if (*count == room)
			ids = repalloc(ids, (room *= 2) * sizeof(int64));
		ids[(*count)++] = DatumGetInt64(column(&reading, "shardid", INT8OID));
	}
	read_end(&reading);
	list_free(tables);
	return ids;
}

static bool
is_among(int64 id, const int64 *ids, int count)
{
	for (int i = 0; i < count; i++)
		if (ids[i] == id)
			return true;
	return false;
}

static bool
find_shard_elsewhere(int32 group)
{
	int			count;
	int64	   *everywhere = reference_shards(&count);
	Reading		reading;
	bool		found = false;

	read_begin(&reading, "pg_dist_placement", NULL);
	while (!found && read_row(&reading))
		found = DatumGetInt32(column(&reading, "groupid", INT4OID)) != group &&
			!is_among(DatumGetInt64(column(&reading, "shardid", INT8OID)),
					  everywhere, count);
	read_end(&reading);
	pfree(everywhere);
	return found;
}

/* Is this the coordinator of a cluster that holds data on other nodes? */
bool
saga_citus_shards_elsewhere(void)
{
	if (!saga_citus_is_here())
		return false;
	if (shards == SHARDS_UNKNOWN)
	{
		bool		found = saga_citus_group(NULL) == SAGA_CITUS_COORDINATOR &&
			find_shard_elsewhere(SAGA_CITUS_COORDINATOR);

		/* Unless opening the tables has brought news of them. */
		if (known != CATALOG_PRESENT)
			return found;
		shards = found ? SHARDS_ELSEWHERE : SHARDS_HERE;
	}
	return shards == SHARDS_ELSEWHERE;
}
