/*-------------------------------------------------------------------------
 *
 * health.c
 *	  What is wrong with the server, as far as saga goes: for saga.health.
 *
 * What follows from the ledger's rows is in the view itself.  Here is what only
 * the server's processes know: read from shared memory, it was true a moment
 * ago.  Everything is read in the snapshot of the query that asks.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/htup_details.h"
#include "access/xlog.h"
#include "base/clock.h"
#include "base/guc.h"
#include "base/ids.h"
#include "base/rights.h"
#include "catalog/pg_class.h"
#include "commands/dbcommands.h"
#include "funcapi.h"
#include "ledger/home.h"
#include "ledger/ledger.h"
#include "ledger/oids.h"
#include "miscadmin.h"
#include "shared/failing.h"
#include "shared/shmem.h"
#include "utils/builtins.h"
#include "utils/lsyscache.h"
#include "utils/snapmgr.h"
#include "utils/syscache.h"
#include "utils/timestamp.h"
#include "utils/tuplestore.h"

PG_FUNCTION_INFO_V1(saga_sql_health);
PG_FUNCTION_INFO_V1(saga_sql_now);

/* Time a role waits for an executor before that is a finding (us) */
#define EXHAUSTED_AFTER		(5 * USECS_PER_SEC)
/* Number of sagas from which on a ledger without retention is a finding */
#define MANY_SAGAS			1000000

/* A finding; since 0: not known. */
static void
find(ReturnSetInfo *result, const char *severity, const char *code,
	 const char *finding, const char *hint, TimestampTz since)
{
	Datum		values[5];
	bool		nulls[5] = {false};

	values[0] = CStringGetTextDatum(severity);
	values[1] = CStringGetTextDatum(code);
	values[2] = CStringGetTextDatum(finding);
	values[3] = CStringGetTextDatum(hint);
	values[4] = TimestampTzGetDatum(since);
	nulls[4] = since == 0;
	tuplestore_putvalues(result->setResult, result->setDesc, values, nulls);
}

/* What keeps this database from being served; true: something does. */
static bool
find_idle(ReturnSetInfo *result)
{
	const char *away = NULL;
	const char *hint;
	const char *misfit = saga_oids_misfit(&hint);
	bool		idle = true;

	if (saga_shmem == NULL)
		find(result, "error", "not preloaded",
			 "saga is not preloaded: nothing is run or undone in this server",
			 psprintf("Set %s in postgresql.conf and restart the server.",
					  saga_home_preload_line()), 0);
	else if (RecoveryInProgress())
		find(result, "notice", "standby",
			 "this server is a standby: nothing is run or undone here",
			 "That is as it should be; it goes on by itself once promoted.", 0);
	else if (!saga_guc_enabled)
		find(result, "error", "disabled",
			 "saga.enabled is off: nothing is run or undone in this server",
			 "Set saga.enabled = on and reload the configuration.", 0);
	else if (!saga_guc_serves(get_database_name(MyDatabaseId)))
		find(result, "error", "not served",
			 "saga.databases does not name this database: nothing is run or undone in it",
			 "Add it to saga.databases and reload the configuration.", 0);
	else
		idle = false;

	if (misfit != NULL)
		find(result, "error", "wrong version",
			 psprintf("%s: nothing is run or undone in it", misfit), hint, 0);
	else
		away = saga_home_away_at(GetActiveSnapshot());
	if (away != NULL)
		find(result, "error", "not adopted",
			 psprintf("this copy of the database is not adopted (%s): nothing is run or undone in it",
					  away),
			 "If no other copy is to run and undo, call saga.adopt().", 0);
	return idle || misfit != NULL || away != NULL;
}

/* What the processes lack */
static void
find_processes(ReturnSetInfo *result)
{
	SagaDatabaseSlot *slot = saga_shmem_my_database();
	TimestampTz now = saga_clock_now();
	int64		steady = saga_clock_steady();
	SagaWaiter	waiting[SAGA_MAX_EXECUTORS];
	bool		launcher;
	bool		no_process;
	bool		worker;

	LWLockAcquire(saga_shmem->lock, LW_SHARED);
	launcher = saga_shmem->launcher_pid != 0;
	no_process = saga_shmem->no_process;
	/* A database without work needs no worker. */
	worker = slot == NULL || slot->worker_pid > 0 ||
		!(slot->wanted || slot->worker_failed ||
		  pg_atomic_read_u32(&slot->poked) != 0 ||
		  (TimestampTz) pg_atomic_read_u64(&slot->posted_due) <= now);
	memcpy(waiting, saga_shmem->waiting, sizeof(waiting));
	LWLockRelease(saga_shmem->lock);

	if (!launcher)
		find(result, "error", "no launcher",
			 "saga's launcher is not running: nothing is run or undone in this server",
			 "Increase max_worker_processes and restart the server, if this does not pass.", 0);
	else if (!worker)
		find(result, "error", "no worker",
			 "this database has work to be done, and no worker that sees to it",
			 "Increase max_worker_processes, or saga.max_databases, if this does not pass.", 0);
	if (no_process)
		find(result, "warning", "no process",
			 "the server has no room for another executor",
			 "Increase max_worker_processes and restart the server.", 0);
	for (int i = 0; i < SAGA_MAX_EXECUTORS; i++)
	{
		SagaWaiter *w = &waiting[i];
		char	   *role;

		if (w->database != MyDatabaseId ||
			steady - w->seen > SAGA_WAITER_LIFE_MS * SAGA_CLOCK_MS ||
			steady - w->since < EXHAUSTED_AFTER)
			continue;
		role = GetUserNameFromId(w->role, true);
		find(result, "warning", "executors exhausted",
			 psprintf("role \"%s\" waits for an executor, as all are busy",
					  role ? role : psprintf("%u", w->role)),
			 "Increase saga.max_executors; saga.running shows what they are at.",
			 now - (steady - w->since));
	}
}

/* Sagas that the worker passes over, since they are an error each time */
static void
find_failing(ReturnSetInfo *result)
{
	SagaFailing *failing = palloc(SAGA_MAX_FAILING * sizeof(SagaFailing));
	int			count = saga_failing_all(failing);

	for (int i = 0; i < count; i++)
	{
		const SagaFailing *f = &failing[i];
		Oid			owner;
		text	   *owner_name;

		if (!saga_ledger_owner_of(&f->saga, &owner, &owner_name) ||
			saga_rights_reach(owner, owner_name) < SAGA_REACH_OUTLINE)
			continue;
		find(result, "warning", "failing",
			 psprintf("the worker cannot %s saga %s: SQLSTATE %s, %d times",
					  f->at == SAGA_FAILING_PURGE ? "purge" : "go on with",
					  saga_ids_string(&f->saga), unpack_sql_state(f->sqlstate),
					  f->times),
			 "The server's log has the error. It is tried again, ever less often; others go on meanwhile.",
			 f->since);
	}
}

/* How many rows a table has, as VACUUM and ANALYZE last knew; -1: not known */
static double
estimated_rows(Oid relid)
{
	HeapTuple	tuple = SearchSysCache1(RELOID, ObjectIdGetDatum(relid));
	double		rows = -1;

	if (HeapTupleIsValid(tuple))
	{
		rows = ((Form_pg_class) GETSTRUCT(tuple))->reltuples;
		ReleaseSysCache(tuple);
	}
	return rows;
}

/* internal_health() */
Datum
saga_sql_health(PG_FUNCTION_ARGS)
{
	ReturnSetInfo *result = (ReturnSetInfo *) fcinfo->resultinfo;
	const char *hint;
	double		rows;

	InitMaterializedSRF(fcinfo, 0);
	if (!find_idle(result))
		find_processes(result);
	/* The tables of another version are not to be read here. */
	if (saga_oids_misfit(&hint) != NULL)
		return (Datum) 0;
	find_failing(result);
	rows = estimated_rows(saga_oids_get()->saga);
	if (saga_guc_retention == 0 && rows >= MANY_SAGAS)
		find(result, "notice", "no retention",
			 psprintf("the ledger holds about %.0f million sagas, and saga.retention deletes none",
					  rows / 1000000),
			 "Set saga.retention, or call saga.purge() from time to time.", 0);
	return (Datum) 0;
}

/* internal_now(): the clock that the ledger goes by */
Datum
saga_sql_now(PG_FUNCTION_ARGS)
{
	PG_RETURN_TIMESTAMPTZ(saga_clock_now());
}
