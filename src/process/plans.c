/*-------------------------------------------------------------------------
 *
 * plans.c
 *	  The plans that an executor keeps, and when they may be used again.
 *
 * Parsing, analyzing and planning the SQL of an action or a compensation costs as
 * much as running it, so an executor keeps the plans of the texts that it ran last;
 * and the functions that they call keep plans of their own (PL/pgSQL; from 18 on,
 * SQL).  All of those are saved plans of the server's plan cache.
 *
 * No run may notice.  What was decided when a text was analyzed and planned holds
 * for another run only if it would be decided in the same way again.  The plan cache
 * takes care of objects that a plan refers to and that change, of search_path, and of
 * row security.  The rest is here, and always ends in ResetPlanCache, as DISCARD PLANS
 * does, after which every saved plan is analyzed again before its next use:
 *
 *	- Names.  An object that is created may come before another in the
 *	  search_path, or be a better match.  So a change of any object that can be
 *	  found by its name discards the plans, at once (catalog_changed).  Those
 *	  of the OIDs that literals of the reg* types and of enums become are among
 *	  them.
 *
 *	- Captured settings.  When those of a step differ from those of the step
 *	  before, the plans are discarded before it runs (saga_plans_find).
 *
 *	- Passing constants.  A literal becomes a constant when a text is analyzed,
 *	  by the input function of its type.  If that is not immutable, the constant
 *	  may depend on the time ('now'), on settings (TimeZone, DateStyle) or on
 *	  anything else.  A call of a function that its author declared immutable
 *	  becomes a constant when it is planned, if its arguments are constants; an
 *	  author may be wrong ("the tenant of this session").  Hooks of the analysis
 *	  and of the planner look for both, the latter also into functions in SQL
 *	  that may be inlined.  Where they find any, or cannot be sure, the plans
 *	  are discarded after the run (saga_plans_end).
 *
 * Whether something is "passing" is always decided on the safe side: to be
 * wrong in that direction only costs a run its analysis.
 *
 * Constants that were stored with an object (a view, a column's default, a
 * function's body in SQL-standard form) were decided when it was created;
 * read from the catalog, they have no location in a text.
 *
 * The kept texts are found by text and search_path; there is room for a fixed
 * number of them, and of bytes; the least recently used goes.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include <ctype.h>

#include "access/htup_details.h"
#include "access/transam.h"
#include "base/compat.h"
#include "catalog/pg_language.h"
#include "catalog/pg_proc.h"
#include "catalog/pg_type.h"
#include "common/hashfn.h"
#include "executor/functions.h"
#include "nodes/nodeFuncs.h"
#include "nodes/parsenodes.h"
#include "nodes/readfuncs.h"
#include "optimizer/planner.h"
#include "parser/analyze.h"
#include "parser/parse_expr.h"
#include "parser/parser.h"
#include "parser/parsetree.h"
#include "process/plans.h"
#include "tcop/tcopprot.h"
#include "tcop/utility.h"
#include "utils/array.h"
#include "utils/builtins.h"
#include "utils/inval.h"
#include "utils/lsyscache.h"
#include "utils/memutils.h"
#include "utils/plancache.h"
#include "utils/syscache.h"

#define SAGA_PLANS_TEXTS		256
/* Memory of all kept texts, with their plans */
#define SAGA_PLANS_BYTES		(16 * 1024 * 1024)
/* How deep functions in SQL are looked into */
#define SAGA_PLANS_DEPTH		8

typedef struct KeptText
{
	MemoryContext context;		/* of what follows; NULL: free */
	uint64		hash;
	uint64		last_used;
	Size		bytes;
	char	   *sql;
	char	   *search_path;
	SagaKept	kept;
} KeptText;

/* State of the walk through a query. */
typedef struct Reading
{
	const char *source;			/* that locations point into, or NULL */
	Query	   *query;			/* the innermost, or NULL */
	struct Reading *outer;
	bool		planning;		/* functions in SQL may be inlined */
	int			depth;			/* of functions whose body is looked at */
} Reading;

static bool find_passing(Node *node, Reading *reading);

static KeptText texts[SAGA_PLANS_TEXTS];
static Size total_bytes = 0;
static uint64 use_counter = 0;

/* The text that is running; NULL: not kept (yet). */
static KeptText *current = NULL;

/* Something was decided that holds for the present run only. */
static bool passing = false;

/* The captured settings of the last run; NULL: there was none yet. */
static char *last_settings = NULL;

static post_parse_analyze_hook_type prev_analyze_hook = NULL;
static planner_hook_type prev_planner_hook = NULL;

/*
 * Caches on the catalogs of what can be found by name when a text is analyzed,
 * and of what its choice depends on.  Those that the plan cache watches in the
 * same way (schemas, operators) are not repeated.
 */
static const int watched_caches[] = {
	PROCOID, RELOID, TYPEOID, ENUMOID, CASTSOURCETARGET, COLLOID, CLAOID,
	AUTHOID, TSCONFIGOID, TSDICTOID
};

/* ------------------------------------------------------------------------
 * What holds for one run only
 * ------------------------------------------------------------------------ */

/*
 * An interval's sign may depend on IntervalStyle, and only if the text begins
 * with it.
 */
static bool
is_plain_interval(const Const *constant, const char *source)
{
	const char *literal;

	if (source == NULL || (size_t) constant->location + 1 >= strlen(source))
		return false;
	literal = source + constant->location;
	return literal[0] == '\'' && isalnum((unsigned char) literal[1]);
}

/*
 * Does the input function of a type, for the given literal, depend on nothing
 * but the literal, and on catalogs that are watched?
 */
static bool
is_plain_type(Oid type, const Const *constant, const char *source)
{
	Oid			input;
	Oid			param;
	Oid			part;

	switch (type)
	{
		case UNKNOWNOID:
		case TEXTOID:
		case BOOLOID:
		case INT4OID:
		case INT8OID:
		case NUMERICOID:
		case JSONBOID:
		case REGPROCOID:
		case REGPROCEDUREOID:
		case REGOPEROID:
		case REGOPERATOROID:
		case REGCLASSOID:
		case REGTYPEOID:
		case REGROLEOID:
		case REGNAMESPACEOID:
		case REGCOLLATIONOID:
		case REGCONFIGOID:
		case REGDICTIONARYOID:
			return true;
		case INTERVALOID:
			return is_plain_interval(constant, source);
		default:
			break;
	}

	/* An element need not stand at the beginning of the literal. */
	if (OidIsValid(part = get_element_type(type)) ||
		OidIsValid(part = get_range_subtype(type)) ||
		OidIsValid(part = get_multirange_range(type)))
		return part != INTERVALOID && is_plain_type(part, constant, source);
	switch (get_typtype(type))
	{
		case TYPTYPE_ENUM:
			return true;
		case TYPTYPE_DOMAIN:
			part = getBaseType(type);
			return part != INTERVALOID && is_plain_type(part, constant, source);
		default:
			getTypeInputInfo(type, &input, &param);
			return func_volatile(input) == PROVOLATILE_IMMUTABLE;
	}
}

static bool
is_passing_constant(const Const *constant, const char *source)
{
	/* Not from a text: it was stored. */
	if (constant->location < 0 || constant->constisnull)
		return false;
	/* array_nulls says whether that is a null. */
	if (OidIsValid(get_element_type(constant->consttype)) &&
		array_contains_nulls(DatumGetArrayTypeP(constant->constvalue)))
		return true;
	return !is_plain_type(constant->consttype, constant, source);
}

static bool
is_null_constant(const Node *node)
{
	return node != NULL && IsA(node, Const) && ((const Const *) node)->constisnull;
}

/* Is one of them a null?  transform_null_equals says what "x = NULL" means. */
static bool
has_null_constant(List *arguments)
{
	ListCell   *lc;

	foreach(lc, arguments)
	{
		if (is_null_constant(lfirst(lc)))
			return true;
	}
	return false;
}

/*
 * Is it certain that the planner cannot make this expression a constant?
 */
static bool
surely_varies(Node *node, const Reading *reading)
{
	List	   *arguments;
	ListCell   *lc;
	bool		varies = false;

	if (node == NULL)
		return false;
	switch (nodeTag(node))
	{
		case T_Param:
			/* Of a function's body, it is replaced by the argument. */
			return reading->depth == 0;
		case T_Var:
			{
				Var		   *var = (Var *) node;

				for (Index up = var->varlevelsup; up > 0 && reading != NULL; up--)
					reading = reading->outer;
				return reading != NULL && reading->query != NULL &&
					reading->depth == 0 &&
					var->varno > 0 &&
					var->varno <= list_length(reading->query->rtable) &&
					rt_fetch(var->varno, reading->query->rtable)->rtekind == RTE_RELATION;
			}
		case T_RelabelType:
			return surely_varies((Node *) ((RelabelType *) node)->arg, reading);
		case T_CoerceViaIO:
			return surely_varies((Node *) ((CoerceViaIO *) node)->arg, reading);
		case T_OpExpr:
			arguments = ((OpExpr *) node)->args;
			if (((OpExpr *) node)->opno >= FirstNormalObjectId)
				return false;
			break;
		case T_FuncExpr:
			arguments = ((FuncExpr *) node)->args;
			/* Inlined, it may leave its arguments out. */
			if (((FuncExpr *) node)->funcid >= FirstNormalObjectId)
				return false;
			break;
		default:
			return false;
	}

	/* Strict, it is null as soon as one of them is. */
	foreach(lc, arguments)
	{
		Node	   *argument = (Node *) lfirst(lc);

		if (surely_varies(argument, reading))
			varies = true;
		else if (!IsA(argument, Const) || is_null_constant(argument))
			return false;
	}
	return varies;
}

static bool
is_declared_immutable(Oid function, void *context)
{
	return function >= FirstNormalObjectId &&
		func_volatile(function) == PROVOLATILE_IMMUTABLE;
}

/*
 * May the planner call a function here, because somebody declared it immutable?
 * What the server brings along is.
 */
static bool
may_be_folded(Node *node, const Reading *reading)
{
	List	   *arguments;
	ListCell   *lc;

	switch (nodeTag(node))
	{
		case T_FuncExpr:
			arguments = ((FuncExpr *) node)->args;
			break;
		case T_OpExpr:
		case T_DistinctExpr:
		case T_NullIfExpr:
			arguments = ((OpExpr *) node)->args;
			break;
		case T_ScalarArrayOpExpr:
			arguments = ((ScalarArrayOpExpr *) node)->args;
			break;
		case T_CoerceViaIO:
			arguments = list_make1(((CoerceViaIO *) node)->arg);
			break;
		default:
			return false;
	}
	if (!check_functions_in_node(node, is_declared_immutable, NULL))
		return false;
	foreach(lc, arguments)
	{
		if (surely_varies((Node *) lfirst(lc), reading))
			return false;
	}
	return true;
}

/*
 * Is there anything that holds for one run only in a function in SQL
 * that the planner may inline?  It may be one if it consists of one SELECT; if
 * it returns a set, it must not be volatile, otherwise select from nothing.
 * (The planner analyzes those, too; of others, no error is to be brought about.)
 */
static bool
find_passing_in_body(HeapTuple tuple, Node *call, const Reading *reading)
{
	Form_pg_proc function = (Form_pg_proc) GETSTRUCT(tuple);
	Reading		inner;
	Datum		body;
	bool		isnull;
	char	   *source;
	List	   *queries;
	ListCell   *lc;

	if (function->proretset && function->provolatile == PROVOLATILE_VOLATILE)
		return false;
	if (reading->depth >= SAGA_PLANS_DEPTH)
		return true;
	memset(&inner, 0, sizeof(inner));
	inner.planning = true;
	inner.depth = reading->depth + 1;

	body = SysCacheGetAttr(PROCOID, tuple, Anum_pg_proc_prosqlbody, &isnull);
	if (!isnull)
		return find_passing(stringToNode(TextDatumGetCString(body)), &inner);

	body = SysCacheGetAttr(PROCOID, tuple, Anum_pg_proc_prosrc, &isnull);
	if (isnull)
		return false;
	source = TextDatumGetCString(body);
	queries = raw_parser(source, RAW_PARSE_DEFAULT);
	if (list_length(queries) != 1)
		return false;
	else
	{
		RawStmt    *raw = linitial_node(RawStmt, queries);
		SQLFunctionParseInfoPtr info;

		if (!IsA(raw->stmt, SelectStmt) ||
			(((SelectStmt *) raw->stmt)->fromClause != NIL && !function->proretset))
			return false;
		info = prepare_sql_fn_parse_info(tuple, call, InvalidOid);
		queries = pg_analyze_and_rewrite_withcb(raw, source,
												(ParserSetupHook) sql_fn_parser_setup,
												info, NULL);
	}
	inner.source = source;
	foreach(lc, queries)
	{
		if (find_passing((Node *) lfirst(lc), &inner))
			return true;
	}
	return false;
}

typedef struct BodySearch
{
	Node	   *call;
	const Reading *reading;
	bool		found;
} BodySearch;

/* May a function that is called somewhere be inlined? */
static bool
look_into(Oid function, void *context)
{
	BodySearch *search = context;
	HeapTuple	tuple;
	Form_pg_proc form;

	if (function < FirstNormalObjectId)
		return false;
	tuple = SearchSysCache1(PROCOID, ObjectIdGetDatum(function));
	if (!HeapTupleIsValid(tuple))
		return false;
	form = (Form_pg_proc) GETSTRUCT(tuple);
	if (form->prolang == SQLlanguageId && form->prokind == PROKIND_FUNCTION &&
		!form->prosecdef && heap_attisnull(tuple, Anum_pg_proc_proconfig, NULL))
		search->found = find_passing_in_body(tuple, search->call,
											 search->reading);
	ReleaseSysCache(tuple);
	return search->found;
}

/* The same of the functions that a node calls. */
static bool
calls_passing_body(Node *node, const Reading *reading)
{
	BodySearch	search;

	if (!reading->planning)
		return false;
	search.call = node;
	search.reading = reading;
	search.found = false;
	return check_functions_in_node(node, look_into, &search);
}

/* Is there anything in the query that holds for one run only? */
static bool
find_passing(Node *node, Reading *reading)
{
	if (node == NULL)
		return false;
	if (IsA(node, Query))
	{
		Query	   *query = (Query *) node;
		Reading		inner;

		inner = *reading;
		inner.query = query;
		inner.outer = reading;
		if (query->commandType != CMD_UTILITY)
			return query_tree_walker(query, find_passing, &inner, 0);
		if (IsA(query->utilityStmt, CallStmt))
		{
			CallStmt   *call = (CallStmt *) query->utilityStmt;

			return find_passing((Node *) call->funcexpr, &inner);
		}
		return find_passing((Node *) UtilityContainsQuery(query->utilityStmt),
							reading);
	}
	if (IsA(node, Const))
		return is_passing_constant((Const *) node, reading->source);
	if (IsA(node, OpExpr) && has_null_constant(((OpExpr *) node)->args))
		return true;
	if (may_be_folded(node, reading) || calls_passing_body(node, reading))
		return true;
	return expression_tree_walker(node, find_passing, reading);
}

static void
note_passing(Query *query, const char *source, bool planning)
{
	Reading		reading;

	memset(&reading, 0, sizeof(reading));
	reading.source = source;
	reading.planning = planning;
	if (!passing)
		passing = find_passing((Node *) query, &reading);
}

static void
note_analyzed(ParseState *pstate, Query *query,
			  SAGA_COMPAT_ANALYZE_JUMBLE jumble)
{
	if (prev_analyze_hook)
		prev_analyze_hook(pstate, query, jumble);
	/* With these, other queries than those we look for mean something else. */
	if (Transform_null_equals || !Array_nulls)
		passing = true;
	note_passing(query, pstate->p_sourcetext, false);
}

static PlannedStmt *
note_planned(SAGA_COMPAT_PLANNER_PARAMS)
{
	/* The query as rewritten, with views and policies. */
	note_passing(query, source, true);
	return prev_planner_hook != NULL ?
		prev_planner_hook(SAGA_COMPAT_PLANNER_ARGS) :
		standard_planner(SAGA_COMPAT_PLANNER_ARGS);
}

static void
catalog_changed(Datum arg, SAGA_COMPAT_SYSCACHE_ID cache, uint32 hash)
{
	ResetPlanCache();
}

/* Once per executor, after it has connected. */
void
saga_plans_init(void)
{
	for (size_t i = 0; i < lengthof(watched_caches); i++)
		CacheRegisterSyscacheCallback(watched_caches[i], catalog_changed,
									  (Datum) 0);
	prev_analyze_hook = post_parse_analyze_hook;
	post_parse_analyze_hook = note_analyzed;
	prev_planner_hook = planner_hook;
	planner_hook = note_planned;
}

/* SQL is about to run with these captured settings of the server. */
static void
use_settings(const char *settings)
{
	char	   *copy;

	if (last_settings != NULL && strcmp(settings, last_settings) == 0)
		return;
	ResetPlanCache();
	copy = MemoryContextStrdup(TopMemoryContext, settings);
	if (last_settings != NULL)
		pfree(last_settings);
	last_settings = copy;
}

/* ------------------------------------------------------------------------
 * Kept texts
 * ------------------------------------------------------------------------ */

static uint64
hash_text(const char *sql, const char *search_path)
{
	uint64		hash;

	hash = hash_bytes_extended((const unsigned char *) sql, strlen(sql), 0);
	return hash_bytes_extended((const unsigned char *) search_path,
							   strlen(search_path), hash);
}

static void
forget(KeptText *k)
{
	MemoryContext context = k->context;

	k->context = NULL;
	total_bytes -= k->bytes;
	for (int i = 0; i < k->kept.count; i++)
		SPI_freeplan(k->kept.plans[i]);
	MemoryContextDelete(context);
}

/* The text used least recently of all, or the first place that is free. */
static KeptText *
oldest(void)
{
	KeptText   *k = &texts[0];

	for (int i = 1; i < SAGA_PLANS_TEXTS && k->context != NULL; i++)
	{
		if (texts[i].context == NULL || texts[i].last_used < k->last_used)
			k = &texts[i];
	}
	return k;
}

/*
 * The plans of a text, to be run now with these captured settings of the server,
 * written as one string; NULL if there are none.
 */
const SagaKept *
saga_plans_find(const char *sql, const char *search_path, const char *settings)
{
	uint64		hash = hash_text(sql, search_path);

	use_settings(settings);
	current = NULL;
	for (int i = 0; i < SAGA_PLANS_TEXTS; i++)
	{
		KeptText   *k = &texts[i];

		if (k->hash == hash && k->context != NULL &&
			strcmp(k->sql, sql) == 0 &&
			strcmp(k->search_path, search_path) == 0)
		{
			k->last_used = ++use_counter;
			current = k;
			return &k->kept;
		}
	}
	return NULL;
}

/* Keeps the plans of a text that was run from beginning to end. */
void
saga_plans_keep(const char *sql, const char *search_path, int count,
				SPIPlanPtr *plans, const bool *takes_context)
{
	KeptText   *k = oldest();
	MemoryContext context;
	MemoryContext caller;

	context = AllocSetContextCreate(TopMemoryContext, "saga kept plans",
									ALLOCSET_SMALL_SIZES);
	if (k->context != NULL)
		forget(k);

	caller = MemoryContextSwitchTo(context);
	k->sql = pstrdup(sql);
	k->search_path = pstrdup(search_path);
	k->kept.plans = palloc(count * sizeof(SPIPlanPtr));
	k->kept.takes_context = palloc(count * sizeof(bool));
	MemoryContextSwitchTo(caller);
	for (int i = 0; i < count; i++)
	{
		/* Cannot fail: the plan is no kept one yet. */
		(void) SPI_keepplan(plans[i]);
		k->kept.plans[i] = plans[i];
		k->kept.takes_context[i] = takes_context[i];
	}
	k->kept.count = count;
	k->hash = hash_text(sql, search_path);
	k->last_used = ++use_counter;
	k->bytes = 0;
	k->context = context;
	current = k;
}

static Size
measure(const KeptText *k)
{
	Size		bytes = MemoryContextMemAllocated(k->context, true);

	for (int i = 0; i < k->kept.count; i++)
	{
		ListCell   *lc;

		foreach(lc, SPI_plan_get_plan_sources(k->kept.plans[i]))
		{
			CachedPlanSource *source = lfirst(lc);

			bytes += MemoryContextMemAllocated(source->context, true);
			if (source->gplan != NULL)
				bytes += MemoryContextMemAllocated(source->gplan->context, true);
		}
	}
	return bytes;
}

/*
 * The run is over, and its transaction.  Forgets what held for it only, and what
 * there is no room for.
 */
void
saga_plans_end(void)
{
	if (current != NULL)
	{
		total_bytes -= current->bytes;
		current->bytes = measure(current);
		total_bytes += current->bytes;
		/* By itself too large, it would drive out all others first. */
		if (current->bytes > SAGA_PLANS_BYTES)
			forget(current);
		current = NULL;
		while (total_bytes > SAGA_PLANS_BYTES)
		{
			KeptText   *k = NULL;

			for (int i = 0; i < SAGA_PLANS_TEXTS; i++)
			{
				if (texts[i].context != NULL &&
					(k == NULL || texts[i].last_used < k->last_used))
					k = &texts[i];
			}
			forget(k);
		}
	}
	if (passing)
	{
		ResetPlanCache();
		passing = false;
	}
}
