/*-------------------------------------------------------------------------
 *
 * roles.c
 *	  saga.reassign: what a role had, another has from now on.
 *
 * A right does not move by itself: neither with a name, when a role is
 * renamed or another takes its name, nor with an OID (rights.c).  Here the DBA
 * moves it: sagas, the roles that actions and compensations run as, and what of
 * them is due or waits for services.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "base/errors.h"
#include "base/fault.h"
#include "base/rights.h"
#include "calls/access.h"
#include "catalog/pg_type_d.h"
#include "executor/spi.h"
#include "fmgr.h"
#include "ledger/home.h"
#include "ledger/ledger.h"
#include "shared/queue_front.h"
#include "miscadmin.h"
#include "shared/evict.h"
#include "shared/tally.h"
#include "shared/wakeup.h"
#include "utils/builtins.h"

PG_FUNCTION_INFO_V1(saga_sql_reassign);

typedef struct Reassignment
{
	Oid			from;
	Oid			to;
	const char *name;			/* that "from" had then; NULL: whatever it was */
	const char *actor;
	int64		sagas;			/* moved */
	int64		left;			/* because their keys are taken */
	int64		open;			/* unfinished ones, of those moved */
} Reassignment;

static int64
run_reassignment(const Reassignment *what, const char *sql, int expected)
{
	Oid			types[5] = {OIDOID, OIDOID, TEXTOID, TEXTOID, TEXTOID};
	Datum		values[5];
	char		nulls[5] = {' ', ' ', ' ', ' ', what->name != NULL ? ' ' : 'n'};

	values[0] = ObjectIdGetDatum(what->from);
	values[1] = ObjectIdGetDatum(what->to);
	values[2] = CStringGetTextDatum(saga_rights_role_name(what->to));
	values[3] = CStringGetTextDatum(what->actor);
	if (what->name != NULL)
		values[4] = CStringGetTextDatum(what->name);
	if (SPI_execute_with_args(sql, 5, types, values, nulls, false, 0) != expected)
		elog(ERROR, "could not reassign the sagas of a role");
	SAGA_FAULT_WRITE();
	return (int64) SPI_processed;
}

/*
 * An OID may stand for several names: its role was renamed, or was another in the
 * server that this ledger was copied from.  Whose rows are meant, the DBA must say
 * then, or a role would get what is rightly another's.
 */
static void
check_one_name(const Reassignment *what)
{
	StringInfoData names;

	(void) run_reassignment(what,
							"SELECT n.name FROM ("
							"SELECT s.owner_name FROM saga.ledger_saga s"
							" WHERE s.owner OPERATOR(pg_catalog.=) $1"
							" UNION SELECT t.run_as_name FROM saga.ledger_step t"
							" WHERE t.run_as OPERATOR(pg_catalog.=) $1) AS n(name)"
							" WHERE ($1 OPERATOR(pg_catalog.<>) $2"
							" OR n.name OPERATOR(pg_catalog.<>) $3)"
							" AND $5 IS NULL ORDER BY n.name",
							SPI_OK_SELECT);
	if (SPI_processed <= 1)
		return;
	initStringInfo(&names);
	for (uint64 i = 0; i < SPI_processed; i++)
		appendStringInfo(&names, "%s\"%s\"", i > 0 ? ", " : "",
						 SPI_getvalue(SPI_tuptable->vals[i],
									  SPI_tuptable->tupdesc, 1));
	ereport(ERROR,
			(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
			 errmsg("sagas and steps of several roles have OID %u", what->from),
			 errdetail("The names of these roles: %s.", names.data),
			 errhint("Give the name of the one that is meant, as from_name. After a copy of the database, saga.adopt() gives each role its own.")));
}

static void
reassign(void *arg)
{
	Reassignment *what = arg;

	/*
	 * Nobody may be between updating a saga's row and its dependent rows.  If
	 * we let a compensation finish first, every call would queue behind us
	 * until it did, and it would end as the role that has lost it.
	 */
	saga_evict_here();
	if (SPI_execute("LOCK TABLE saga.ledger_saga, saga.ledger_step,"
					" saga.ledger_due, saga.ledger_queue, saga.ledger_held"
					" IN SHARE ROW EXCLUSIVE MODE", false, 0) != SPI_OK_UTILITY)
		elog(ERROR, "could not lock the ledger");
	check_one_name(what);
	what->open = saga_ledger_count_open(what->from);
	what->sagas = run_reassignment(what,
								   "WITH moved AS ("
								   "UPDATE saga.ledger_saga s SET owner = $2, owner_name = $3"
								   " FROM saga.ledger_saga old"
								   " WHERE old.id OPERATOR(pg_catalog.=) s.id"
								   " AND s.owner OPERATOR(pg_catalog.=) $1"
								   " AND (s.owner OPERATOR(pg_catalog.<>) $2"
								   " OR s.owner_name OPERATOR(pg_catalog.<>) $3)"
								   " AND ($5 IS NULL OR s.owner_name OPERATOR(pg_catalog.=) $5)"
								   " AND NOT EXISTS (SELECT FROM saga.ledger_saga o"
								   " WHERE $1 OPERATOR(pg_catalog.<>) $2"
								   " AND o.owner OPERATOR(pg_catalog.=) $2"
								   " AND o.name OPERATOR(pg_catalog.=) s.name"
								   " AND o.key OPERATOR(pg_catalog.=) s.key)"
								   " RETURNING s.id, old.owner_name)"
								   " INSERT INTO saga.ledger_event (saga, at, event, actor, detail)"
								   " SELECT m.id, pg_catalog.clock_timestamp(), 'reassigned', $4,"
								   " pg_catalog.jsonb_build_object('from', m.owner_name, 'to', $3)"
								   " FROM moved m",
								   SPI_OK_INSERT);
	(void) run_reassignment(what,
							"UPDATE saga.ledger_due d SET lane = $2"
							" WHERE d.lane OPERATOR(pg_catalog.=) $1"
							" AND ($5 IS NULL OR EXISTS (SELECT FROM saga.ledger_step t"
							" WHERE t.saga OPERATOR(pg_catalog.=) d.saga"
							" AND (d.seq OPERATOR(pg_catalog.=) 0"
							" OR t.seq OPERATOR(pg_catalog.=) d.seq)"
							" AND t.run_as OPERATOR(pg_catalog.=) $1"
							" AND t.run_as_name OPERATOR(pg_catalog.=) $5))",
							SPI_OK_UPDATE);
	(void) run_reassignment(what,
							"UPDATE saga.ledger_saga s SET lane = d.lane"
							" FROM saga.ledger_due d"
							" WHERE d.saga OPERATOR(pg_catalog.=) s.id"
							" AND d.seq OPERATOR(pg_catalog.=) 0"
							" AND s.lane OPERATOR(pg_catalog.=) $1"
							" AND d.lane OPERATOR(pg_catalog.<>) s.lane",
							SPI_OK_UPDATE);
	(void) run_reassignment(what,
							"UPDATE saga.ledger_step t SET run_as = $2, run_as_name = $3"
							" WHERE t.run_as OPERATOR(pg_catalog.=) $1"
							" AND ($5 IS NULL OR t.run_as_name OPERATOR(pg_catalog.=) $5)",
							SPI_OK_UPDATE);
	(void) run_reassignment(what,
							"UPDATE saga.ledger_queue q SET owner = s.owner"
							" FROM saga.ledger_saga s"
							" WHERE s.id OPERATOR(pg_catalog.=) q.saga"
							" AND q.owner OPERATOR(pg_catalog.=) $1"
							" AND s.owner OPERATOR(pg_catalog.<>) q.owner",
							SPI_OK_UPDATE);
	what->open -= saga_ledger_count_open(what->from);
	what->left = run_reassignment(what,
								  "SELECT FROM saga.ledger_saga s"
								  " WHERE s.owner OPERATOR(pg_catalog.=) $1"
								  " AND $1 OPERATOR(pg_catalog.<>) $2"
								  " AND ($5 IS NULL OR s.owner_name OPERATOR(pg_catalog.=) $5)",
								  SPI_OK_SELECT);
}

/* saga.reassign(from_role, to_role, from_name) */
Datum
saga_sql_reassign(PG_FUNCTION_ARGS)
{
	Reassignment what;

	saga_access_call("saga.reassign()");
	if (!saga_rights_is_dba())
		ereport(ERROR,
				(errcode(ERRCODE_SAGA_PERMISSION_DENIED),
				 errmsg("permission denied to reassign sagas"),
				 errhint("Only superusers and the owner of the database may.")));
	if (PG_ARGISNULL(0) || PG_ARGISNULL(1))
		ereport(ERROR,
				(errcode(ERRCODE_NULL_VALUE_NOT_ALLOWED),
				 errmsg("the roles must not be null"),
				 errhint("Give the OID of the role that had the sagas, which may be gone, and the role that shall have them.")));
	what.from = PG_GETARG_OID(0);
	what.to = PG_GETARG_OID(1);
	if (!OidIsValid(what.from) || !OidIsValid(what.to))
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("there is no role with OID 0"),
				 errhint("Give the OID of the role that had the sagas, which may be gone, and the role that shall have them.")));
	what.name = PG_ARGISNULL(2) ? NULL : text_to_cstring(PG_GETARG_TEXT_PP(2));
	what.actor = saga_rights_role_name(GetUserId());
	if (!superuser())
		saga_rights_check_member(what.to);
	saga_home_rewrite("saga.reassign()", reassign, &what);
	if (what.left > 0)
		ereport(WARNING,
				(errcode(ERRCODE_SAGA_IDEMPOTENCY_CONFLICT),
				 errmsg(INT64_FORMAT " sagas keep their owner because the other role has sagas with the same names and keys",
						what.left),
				 errhint("Purge the finished ones of either, and call it again.")));
	saga_tally_add(what.from, -what.open);
	saga_tally_add(what.to, what.open);
	/* Whatever is due or waits anywhere may be somebody else's now. */
	saga_wakeup_due(DT_NOBEGIN);
	saga_queue_front_queued(DT_NOBEGIN);
	PG_RETURN_INT64(what.sagas);
}
