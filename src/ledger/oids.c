/*-------------------------------------------------------------------------
 *
 * oids.c
 *	  The OIDs of the extension's objects in the current database.
 *
 * Looked up once and forgotten when any of the relations changes: DROP
 * EXTENSION, CREATE EXTENSION and ALTER EXTENSION UPDATE, in this session or
 * another.  (An update that changes no relation leaves a version that this
 * library serves: see version.c.)  So a caller that has a lock on one of the
 * relations may rely on what this returns, and one that has none asks again.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "base/errors.h"
#include "catalog/namespace.h"
#include "catalog/pg_type_d.h"
#include "ledger/oids.h"
#include "ledger/rows.h"
#include "ledger/version.h"
#include "utils/inval.h"
#include "utils/lsyscache.h"
#include "utils/syscache.h"

static SagaOids oids;
static bool valid = false;
static bool callback_registered = false;

/* Counts what may have changed about the relations. */
static uint64 generation = 0;

static void
forget_oids(Datum arg, Oid relid)
{
	if (!OidIsValid(relid) || relid == oids.saga || relid == oids.step ||
		relid == oids.attempt || relid == oids.event || relid == oids.due ||
		relid == oids.queue || relid == oids.held || relid == oids.signal ||
		relid == oids.limit || relid == oids.claimed || relid == oids.home ||
		relid == oids.start_order)
	{
		valid = false;
		generation++;
	}
}

static Oid
lookup_relation(const char *name, Oid schema)
{
	return get_relname_relid(name, schema);
}

static Oid
lookup_type(const char *name, Oid schema)
{
	return GetSysCacheOid2(TYPENAMENSP, Anum_pg_type_oid,
						   CStringGetDatum(name), ObjectIdGetDatum(schema));
}

/*
 * Does a table of the installed version have the columns that this library
 * knows?
 */
static bool
has_columns(Oid relid, int natts)
{
	return get_attname(relid, natts, true) != NULL &&
		get_attname(relid, natts + 1, true) == NULL;
}

/* Finds them, whether or not they fit this library. */
static bool
find_oids(void)
{
	Oid			schema;

	if (!callback_registered)
	{
		CacheRegisterRelcacheCallback(forget_oids, (Datum) 0);
		callback_registered = true;
	}

	schema = get_namespace_oid("saga", true);
	if (!OidIsValid(schema))
		return false;
	oids.saga = lookup_relation("ledger_saga", schema);
	oids.saga_pkey = lookup_relation("ledger_saga_id_key", schema);
	oids.saga_by_key = lookup_relation("ledger_saga_key_name_owner", schema);
	oids.saga_by_subject = lookup_relation("ledger_saga_owner_subject", schema);
	oids.step = lookup_relation("ledger_step", schema);
	oids.step_pkey = lookup_relation("ledger_step_key", schema);
	oids.step_by_task = lookup_relation("ledger_step_task", schema);
	oids.attempt = lookup_relation("ledger_attempt", schema);
	oids.event = lookup_relation("ledger_event", schema);
	oids.attempt_pkey = lookup_relation("ledger_attempt_key", schema);
	oids.event_by_saga = lookup_relation("ledger_event_saga_at", schema);
	oids.due = lookup_relation("ledger_due", schema);
	oids.due_pkey = lookup_relation("ledger_due_key", schema);
	oids.queue = lookup_relation("ledger_queue", schema);
	oids.queue_pkey = lookup_relation("ledger_queue_key", schema);
	oids.held = lookup_relation("ledger_held", schema);
	oids.held_pkey = lookup_relation("ledger_held_key", schema);
	oids.signal = lookup_relation("ledger_signal", schema);
	oids.signal_pkey = lookup_relation("ledger_signal_key", schema);
	oids.signal_by_key = lookup_relation("ledger_signal_key_name_saga", schema);
	oids.signal_unused = lookup_relation("ledger_signal_unused", schema);
	oids.limit = lookup_relation("ledger_limit", schema);
	oids.limit_pkey = lookup_relation("ledger_limit_key", schema);
	oids.claimed = lookup_relation("ledger_claimed", schema);
	oids.claimed_pkey = lookup_relation("ledger_claimed_key", schema);
	oids.home = lookup_relation("ledger_home", schema);
	oids.start_order = lookup_relation("start_order", schema);
	oids.step_result = lookup_type("step_result", schema);
	oids.retry_policy = lookup_type("retry_policy", schema);
	return OidIsValid(oids.saga) && OidIsValid(oids.saga_pkey) &&
		OidIsValid(oids.saga_by_key) &&
		OidIsValid(oids.saga_by_subject) && OidIsValid(oids.step) &&
		OidIsValid(oids.step_pkey) && OidIsValid(oids.step_by_task) &&
		OidIsValid(oids.attempt) &&
		OidIsValid(oids.attempt_pkey) && OidIsValid(oids.event_by_saga) &&
		OidIsValid(oids.event) && OidIsValid(oids.due) &&
		OidIsValid(oids.due_pkey) && OidIsValid(oids.queue) &&
		OidIsValid(oids.queue_pkey) && OidIsValid(oids.held) &&
		OidIsValid(oids.held_pkey) && OidIsValid(oids.signal) &&
		OidIsValid(oids.signal_pkey) && OidIsValid(oids.signal_by_key) &&
		OidIsValid(oids.signal_unused) && OidIsValid(oids.limit) &&
		OidIsValid(oids.limit_pkey) && OidIsValid(oids.claimed) &&
		OidIsValid(oids.claimed_pkey) && OidIsValid(oids.home) &&
		OidIsValid(oids.start_order) &&
		OidIsValid(oids.step_result) && OidIsValid(oids.retry_policy);
}

/* Have the tables that were found the columns that this library knows? */
static bool
have_columns(void)
{
	return has_columns(oids.saga, Saga_natts) &&
		has_columns(oids.step, Step_natts) &&
		has_columns(oids.attempt, Attempt_natts) &&
		has_columns(oids.event, Event_natts) &&
		has_columns(oids.due, Due_natts) &&
		has_columns(oids.queue, Queue_natts) &&
		has_columns(oids.held, Held_natts) &&
		has_columns(oids.signal, Signal_natts) &&
		has_columns(oids.limit, Limit_natts) &&
		has_columns(oids.claimed, Claimed_natts);
}

/*
 * Why this library must leave the ledger of this database alone, and what to do
 * about it; NULL: it fits, or the extension is not created here.
 */
const char *
saga_oids_misfit(const char **hint)
{
	const char *why;
	uint64		before;
	bool		found;

	if (valid)
		return NULL;

	/* Again, if a relation changed between two looks. */
	do
	{
		before = generation;
		found = find_oids();
		/* Another version may lack a table, or have another one. */
		why = saga_version_misfit(hint);
		valid = found && why == NULL && have_columns();
	} while (before != generation);

	if (why != NULL || valid || !found)
		return why;
	*hint = "Run ALTER EXTENSION saga UPDATE.";
	return "the tables of extension \"saga\" do not fit its library";
}

static bool
lookup_oids(void)
{
	const char *hint = NULL;
	const char *why;

	if (valid)
		return true;
	why = saga_oids_misfit(&hint);
	if (why != NULL)
		ereport(ERROR,
				(errcode(ERRCODE_SAGA_UNAVAILABLE),
				 errmsg("%s", why),
				 errhint("%s", hint)));
	return valid;
}

/*
 * The tables of the ledger, of whatever version; false if the extension is not
 * created here.  From then on, saga_oids_generation follows what becomes of
 * them.
 */
bool
saga_oids_tables(Oid *relids)
{
	if (!valid && !find_oids())
		return false;
	relids[0] = oids.saga;
	relids[1] = oids.step;
	relids[2] = oids.attempt;
	relids[3] = oids.event;
	relids[4] = oids.due;
	relids[5] = oids.queue;
	relids[6] = oids.held;
	relids[7] = oids.signal;
	relids[8] = oids.limit;
	relids[9] = oids.claimed;
	relids[10] = oids.home;
	return true;
}

/* Is the extension created in the current database? */
bool
saga_oids_exist(void)
{
	return lookup_oids();
}

/*
 * Another number than before says that a relation may have changed, its file
 * included (VACUUM FULL, CLUSTER): row versions found before are nowhere now.
 * Call it with a lock on the relation held.
 */
uint64
saga_oids_generation(void)
{
	return generation;
}

/* All of them; an error if the extension is not created here. */
const SagaOids *
saga_oids_get(void)
{
	if (!valid && !lookup_oids())
		ereport(ERROR,
				(errcode(ERRCODE_SAGA_UNAVAILABLE),
				 errmsg("extension \"saga\" is not created in this database"),
				 errhint("Run CREATE EXTENSION saga.")));
	return &oids;
}

/*
 * The relations that every process of ours opens, for the one that must not
 * wait for them; returns how many.
 */
int
saga_oids_opened(Oid *relids)
{
	const SagaOids *all = saga_oids_get();
	int			n = 0;

	relids[n++] = all->saga;
	relids[n++] = all->step;
	relids[n++] = all->attempt;
	relids[n++] = all->event;
	relids[n++] = all->due;
	relids[n++] = all->queue;
	relids[n++] = all->held;
	relids[n++] = all->signal;
	return n;
}
