/*-------------------------------------------------------------------------
 *
 * leftover.c
 *	  What the SQL of a step leaves in its process that no reset takes back.
 *
 * session.c resets what the server knows how to reset.  Only the end of the process
 * takes back the rest.  So an executor leaves, and the worker starts another for what
 * is due, a matter of some 5 ms:
 *
 *	- After SQL that used a library which may remember something:
 *	  connections of dblink and postgres_fdw, with their remote transactions;
 *	  global variables of PL/Python and PL/Perl.  That it was used is noted when
 *	  the server looks up one of its functions, or a function of its language;
 *	  that it was loaded otherwise (LOAD), from the server's list of libraries.
 *	  The libraries named below are known to keep nothing between transactions
 *	  that the SQL of another step could see; a DBA may know of others
 *	  (saga.stateless_libraries).
 *
 *	- After SQL that made the session one of a replication origin.
 *
 *	- Before SQL runs, if ALTER ROLE or ALTER DATABASE changed the
 *	  settings that its session would begin with.
 *
 *	- Before SQL whose text, or whose functions' texts, would be read by other
 *	  rules than the texts before it were: the texts of functions are read once in
 *	  a process.
 *
 *	- Before SQL to which a captured setting of another step would
 *	  be visible, if only as an empty one: a custom setting cannot be removed.
 *
 * The last two are properties of the steps; where all steps of a role are
 * alike, no process leaves for them.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/genam.h"
#include "access/htup_details.h"
#include "access/table.h"
#include "access/transam.h"
#include "base/compat.h"
#include "base/guc.h"
#include "catalog/pg_db_role_setting.h"
#include "catalog/pg_language.h"
#include "catalog/pg_proc.h"
#include "common/hashfn.h"
#include "fmgr.h"
#include "lib/stringinfo.h"
#include "miscadmin.h"
#include "process/leftover.h"
#include "utils/builtins.h"
#include "utils/guc.h"
#include "utils/memutils.h"
#include "utils/rel.h"
#include "utils/syscache.h"
#include "utils/varlena.h"

/*
 * PL/pgSQL, whose functions keep plans (plans.c) and nothing else; ours; what
 * the server loads by itself; and of its contributed modules those that only
 * compute.
 */
static const char *const stateless_libraries[] = {
	"plpgsql", "saga",
	"dict_snowball", "llvmjit",
	"bloom", "btree_gin", "btree_gist", "citext", "cube", "dict_int",
	"earthdistance", "fuzzystrmatch", "hstore", "_int", "lo", "ltree",
	"pg_trgm", "pgcrypto", "seg", "tablefunc", "tcn", "tsm_system_rows",
	"tsm_system_time", "unaccent", "uuid-ossp"
};

static Oid	my_role = InvalidOid;

/* Libraries that were there when the process had connected. */
static int	preloaded = 0;

/* Size of the server's list when it was looked at last */
static Size list_size = 0;

/* A library that may remember something was used. */
static bool library_used = false;

/* A language whose library does not. */
static Oid	stateless_language = InvalidOid;

/* By which rules texts are read in this process; NULL: none was yet. */
static char *reading = NULL;

/* Custom settings that are there because a step had captured them. */
static List *captured = NIL;

/* The settings that the role's sessions begin with, when this one did. */
static uint64 role_settings = 0;

static needs_fmgr_hook_type prev_needs_fmgr_hook = NULL;
static fmgr_hook_type prev_fmgr_hook = NULL;

/* ------------------------------------------------------------------------
 * Libraries
 * ------------------------------------------------------------------------ */

/* Is a library, named by a path or in pg_proc, one that keeps nothing? */
static bool
is_stateless(const char *library)
{
	const char *from = strrchr(library, '/');
	char	   *name;
	char	   *dot;
	List	   *more;
	ListCell   *lc;
	bool		found = false;

	name = pstrdup(from != NULL ? from + 1 : library);
	if ((dot = strrchr(name, '.')) != NULL)
		*dot = '\0';
	for (size_t i = 0; i < lengthof(stateless_libraries) && !found; i++)
		found = strcmp(name, stateless_libraries[i]) == 0;
	/* Conversions of encodings: utf8_and_win. */
	if (!found)
		found = strstr(name, "_and_") != NULL ||
			strcmp(name, "euc2004_sjis2004") == 0;
	if (!found && SplitGUCList(pstrdup(saga_guc_stateless_libraries), ',', &more))
	{
		foreach(lc, more)
			found = found || strcmp(name, lfirst(lc)) == 0;
	}
	pfree(name);
	return found;
}

/* The library of a C function, or of its language's handler; or NULL. */
static char *
library_of(Oid function)
{
	HeapTuple	tuple = SearchSysCache1(PROCOID, ObjectIdGetDatum(function));
	char	   *library = NULL;
	Oid			language;

	if (!HeapTupleIsValid(tuple))
		return NULL;
	language = ((Form_pg_proc) GETSTRUCT(tuple))->prolang;
	if (language == ClanguageId)
	{
		bool		isnull;
		Datum		value = SysCacheGetAttr(PROCOID, tuple,
											Anum_pg_proc_probin, &isnull);

		if (!isnull)
			library = TextDatumGetCString(value);
	}
	ReleaseSysCache(tuple);

	if (language != ClanguageId && language != INTERNALlanguageId &&
		language != SQLlanguageId && language != stateless_language)
	{
		Oid			handler = InvalidOid;

		tuple = SearchSysCache1(LANGOID, ObjectIdGetDatum(language));
		if (HeapTupleIsValid(tuple))
		{
			handler = ((Form_pg_language) GETSTRUCT(tuple))->lanplcallfoid;
			ReleaseSysCache(tuple);
		}
		/* A handler is a function in C. */
		library = OidIsValid(handler) && handler != function ?
			library_of(handler) : NULL;
		if (library == NULL || is_stateless(library))
		{
			stateless_language = language;
			library = NULL;
		}
	}
	return library;
}

/* Functions that were created with the cluster are the server's own. */
static void
note_function(Oid function)
{
	char	   *library;

	if (library_used || function < FirstNormalObjectId)
		return;
	library = library_of(function);
	if (library != NULL && !is_stateless(library))
		library_used = true;
}

/* The server sets up a call, and asks whether to report it. */
static bool
note_setup(Oid function)
{
	note_function(function);
	return prev_needs_fmgr_hook != NULL && prev_needs_fmgr_hook(function);
}

/* It does not ask where it reports anyway: SECURITY DEFINER, SET. */
static void
note_call(FmgrHookEventType event, FmgrInfo *function, Datum *arg)
{
	if (event == FHET_START)
		note_function(function->fn_oid);
	if (prev_fmgr_hook != NULL)
		prev_fmgr_hook(event, function, arg);
}

/*
 * Looks at the libraries that came since the process had connected.  The list
 * only grows: what was there is where it was.
 */
static bool
find_loaded(int *count)
{
	Size		size = EstimateLibraryStateSpace();
	char	   *list;
	const char *name;
	bool		found = false;

	*count = 0;
	list_size = size;
	list = palloc(size);
	SerializeLibraryState(size, list);
	for (name = list; *name != '\0'; name += strlen(name) + 1)
	{
		if ((*count)++ >= preloaded && !is_stateless(name))
			found = true;
	}
	pfree(list);
	return found;
}

/* ------------------------------------------------------------------------
 * Settings of the role and the database
 * ------------------------------------------------------------------------ */

/* A number for what pg_db_role_setting holds for the sessions of this role. */
static uint64
hash_role_settings(void)
{
	Relation	rel = table_open(DbRoleSettingRelationId, AccessShareLock);
	SysScanDesc scan = systable_beginscan(rel, InvalidOid, false, NULL, 0, NULL);
	HeapTuple	tuple;
	uint64		hash = 0;

	while (HeapTupleIsValid(tuple = systable_getnext(scan)))
	{
		Form_pg_db_role_setting row = (Form_pg_db_role_setting) GETSTRUCT(tuple);
		bool		isnull;
		Datum		value;
		struct varlena *config;
		uint64		one;

		if ((OidIsValid(row->setdatabase) && row->setdatabase != MyDatabaseId) ||
			(OidIsValid(row->setrole) && row->setrole != my_role))
			continue;
		value = heap_getattr(tuple, Anum_pg_db_role_setting_setconfig,
							 RelationGetDescr(rel), &isnull);
		if (isnull)
			continue;
		config = PG_DETOAST_DATUM(value);
		one = hash_bytes_extended((const unsigned char *) VARDATA_ANY(config),
								  VARSIZE_ANY_EXHDR(config),
								  (uint64) row->setdatabase << 32 | row->setrole);
		/* In any order */
		hash += one;
	}
	systable_endscan(scan);
	table_close(rel, AccessShareLock);
	return hash;
}

/*
 * Did ALTER ROLE or ALTER DATABASE change what a session of the role begins
 * with, since this one began?
 */
static bool
role_settings_changed(void)
{
	return hash_role_settings() != role_settings;
}

/* ------------------------------------------------------------------------
 * Settings kept with steps
 * ------------------------------------------------------------------------ */

/* Does a setting say how a text is read? */
static bool
is_about_reading(const char *name)
{
	return strcmp(name, "standard_conforming_strings") == 0 ||
		strcmp(name, "backslash_quote") == 0 ||
		strncmp(name, "plpgsql.", strlen("plpgsql.")) == 0;
}

/* The settings about reading among those of a step, as one string. */
static char *
find_reading(Jsonb *settings)
{
	StringInfoData string;
	JsonbIterator *it;
	JsonbIteratorToken token;
	JsonbValue	value;
	bool		take = false;

	initStringInfo(&string);
	if (settings == NULL)
		return string.data;
	it = JsonbIteratorInit(&settings->root);
	while ((token = JsonbIteratorNext(&it, &value, true)) != WJB_DONE)
	{
		if (token == WJB_KEY)
		{
			char	   *name = pnstrdup(value.val.string.val,
										value.val.string.len);

			take = is_about_reading(name);
			if (take)
				appendStringInfo(&string, "%s=", name);
		}
		else if (token == WJB_VALUE && take && value.type == jbvString)
		{
			appendBinaryStringInfo(&string, value.val.string.val,
								   value.val.string.len);
			appendStringInfoChar(&string, '\n');
		}
	}
	return string.data;
}

/*
 * May a step with these settings (NULL: none) run in this process, as far as
 * the settings of the steps before it are concerned?
 */
static bool
fits_steps_before(Jsonb *settings)
{
	char	   *own;
	ListCell   *lc;

	if (settings == NULL)
	{
		if (captured != NIL)
			return false;
		if (reading != NULL)
			return reading[0] == '\0';
	}
	foreach(lc, captured)
	{
		JsonbValue	key;
		JsonbValue	found;

		key.type = jbvString;
		key.val.string.val = lfirst(lc);
		key.val.string.len = strlen(lfirst(lc));
		if (getKeyJsonValueFromContainer(&settings->root, key.val.string.val,
										 key.val.string.len, &found) == NULL)
			return false;
	}
	own = find_reading(settings);
	if (reading == NULL)
		reading = MemoryContextStrdup(TopMemoryContext, own);
	return strcmp(reading, own) == 0;
}

/*
 * Would a new process begin with the settings that this one has, before a step with
 * these settings (NULL: none) runs?
 */
bool
saga_leftover_fits(Jsonb *settings)
{
	return fits_steps_before(settings) && !role_settings_changed();
}

/* A captured setting is about to be set. */
void
saga_leftover_note_setting(const char *name)
{
	MemoryContext caller;
	ListCell   *lc;

	/* Others are known to the server, and their libraries are looked at. */
	if (strchr(name, '.') == NULL)
		return;
	foreach(lc, captured)
	{
		if (strcmp(lfirst(lc), name) == 0)
			return;
	}
	if (GetConfigOption(name, true, false) != NULL)
		return;
	caller = MemoryContextSwitchTo(TopMemoryContext);
	captured = lappend(captured, pstrdup(name));
	MemoryContextSwitchTo(caller);
}

/* ------------------------------------------------------------------------
 * The process
 * ------------------------------------------------------------------------ */

/* Once per executor, after it has connected, in a transaction. */
void
saga_leftover_init(void)
{
	my_role = GetSessionUserId();
	role_settings = hash_role_settings();
	preloaded = INT_MAX;
	(void) find_loaded(&preloaded);
	prev_needs_fmgr_hook = needs_fmgr_hook;
	needs_fmgr_hook = note_setup;
	prev_fmgr_hook = fmgr_hook;
	fmgr_hook = note_call;
}

/* Must the process leave, after what ran in it? */
bool
saga_leftover_found(void)
{
	int			count;

	if (!library_used && EstimateLibraryStateSpace() != list_size)
		library_used = find_loaded(&count);
	return library_used || saga_compat_has_replication_origin();
}
