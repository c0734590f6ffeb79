/*-------------------------------------------------------------------------
 *
 * ledger.c
 *	  Looking at the ledger as a whole; the queries are in invariants.sql.
 *
 *-------------------------------------------------------------------------
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "fuzz.h"

static PGresult *
query(PGconn *conn, const char *sql)
{
	PGresult   *result = PQexec(conn, sql);
	ExecStatusType status = PQresultStatus(result);

	if (status != PGRES_TUPLES_OK && status != PGRES_COMMAND_OK)
	{
		finding(NULL, NULL, "%.200s: %s", sql, PQerrorMessage(conn));
		PQclear(result);
		return NULL;
	}
	return result;
}

void
command(PGconn *conn, const char *sql)
{
	PQclear(query(conn, sql));
}

/* Everything that the ledger holds of the saga that a finding is about. */
static void
tell_story(PGconn *conn, const char *saga)
{
	const char *values[1] = {saga};
	PGresult   *result;

	result = PQexecParams(conn, "SELECT fuzz.story($1)", 1, NULL, values, NULL, NULL, 0);
	for (int i = 0; i < PQntuples(result) && i < 100; i++)
		printf("  %.1500s\n", PQgetvalue(result, i, 0));
	fflush(stdout);
	PQclear(result);
}

/* Each row of a function of violations is a finding. */
void
look_for_violations(PGconn *conn, const char *function, const char *when)
{
	char		sql[200];
	PGresult   *result;

	command(conn, "SELECT fuzz.note_ends()");
	command(conn, "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY");
	snprintf(sql, sizeof(sql), "SELECT * FROM fuzz.%s()", function);
	result = query(conn, sql);
	if (result != NULL)
	{
		for (int i = 0; i < PQntuples(result); i++)
			if (finding(NULL, NULL, "broken: %s -- %s, database %s, saga %s: %s", PQgetvalue(result, i, 0), when,
						PQdb(conn), PQgetvalue(result, i, 1), PQgetvalue(result, i, 2)))
				tell_story(conn, PQgetvalue(result, i, 1));
	}
	PQclear(result);
	command(conn, "COMMIT");
}

PGconn *
connect_superuser(int database)
{
	PGconn	   *conn = PQconnectdb(conninfo[database]);

	if (PQstatus(conn) != CONNECTION_OK)
	{
		finding(NULL, NULL, "no connection: %s", PQerrorMessage(conn));
		PQfinish(conn);
		return NULL;
	}
	command(conn, "SET enable_nestloop = off; SET client_min_messages = warning");
	PQsetNoticeReceiver(conn, take_notice, NULL);
	return conn;
}

/* Are the functions of the schema the ones that we know? */
void
compare_functions(PGconn *conn)
{
	PGresult   *result = query(conn,
							   "SELECT p.proname, p.pronargs, "
							   "pg_catalog.array_to_string(ARRAY(SELECT t::regtype FROM pg_catalog.unnest(p.proargtypes) t), ',') "
							   "FROM pg_catalog.pg_proc p WHERE p.pronamespace = 'saga'::regnamespace ORDER BY 1");
	bool		seen[FUNCTIONS] = {false};

	if (result == NULL)
		return;
	for (int i = 0; i < PQntuples(result); i++)
	{
		const char *name = PQgetvalue(result, i, 0);
		Text		types = {0};
		int			k;

		for (k = 0; k < FUNCTIONS; k++)
			if (strcmp(functions[k].name, name) == 0 &&
				functions[k].nargs == atoi(PQgetvalue(result, i, 1)))
				break;
		/* Not with as many arguments: the first of that name is compared. */
		for (int j = 0; k == FUNCTIONS && j < FUNCTIONS; j++)
			if (strcmp(functions[j].name, name) == 0)
				k = j;
		if (k == FUNCTIONS)
		{
			finding(NULL, NULL, "the fuzzer does not know function %s", name);
			continue;
		}
		seen[k] = true;
		text_add(&types, "%s", "");
		for (int j = 0; j < functions[k].nargs; j++)
		{
			const char *type = type_of_kind[functions[k].args[j].kind];

			text_add(&types, "%s%s", j ? "," : "",
					 strcmp(type, "timestamptz") == 0 ? "timestamp with time zone" : type);
		}
		if (strcmp(types.data, PQgetvalue(result, i, 2)) != 0)
			finding(NULL, NULL, "function %s takes (%s), not (%s)", name, PQgetvalue(result, i, 2), types.data);
		free(types.data);
	}
	for (int k = 0; k < FUNCTIONS; k++)
		if (!seen[k])
			finding(NULL, NULL, "there is no function %s any more", functions[k].name);
	PQclear(result);
}

/*
 * When all is quiet: what is open is brought to its end by the ways that the
 * ledger itself offers.  Nothing may be left that nobody can move.
 */
void
settle(PGconn *conn)
{
	time_t		end = now_seconds() + 240 + 60 * slow;
	PGresult   *result = NULL;

	while (now_seconds() < end)
	{
		struct timespec nap = {0, 50 * 1000 * 1000};

		PQclear(result);
		result = query(conn, "SELECT * FROM fuzz.settle()");
		if (result == NULL || PQntuples(result) == 0)
			break;
		PQclear(query(conn, "SELECT pg_catalog.pg_stat_clear_snapshot()"));
		/* Delays and leases need not be waited for. */
		if (has_clock)
			PQclear(query(conn, "SELECT fuzz.advance_clock('1 s')"));
		nanosleep(&nap, NULL);
	}
	if (result == NULL)
		return;
	for (int i = 0; i < PQntuples(result); i++)
		if (finding(NULL, NULL, "not to be settled -- %s %s", PQgetvalue(result, i, 0), PQgetvalue(result, i, 1)))
			tell_story(conn, PQgetvalue(result, i, 0));
	PQclear(result);
}
