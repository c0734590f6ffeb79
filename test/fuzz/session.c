/*-------------------------------------------------------------------------
 *
 * session.c
 *	  Sending statements, and taking their answers.
 *
 * Statements are sent in a pipeline, each with a synchronisation of its own, so
 * that each is a transaction of its own where there is no other.
 *
 *-------------------------------------------------------------------------
 */
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#include "fuzz.h"

static void
remember(Session *s, const Statement *st)
{
	Text	   *to = &s->history[s->history_count++ % HISTORY];

	write_out(st, to);
	if (s->log != NULL)
	{
		fwrite(to->data, 1, to->length, s->log);
		fputs(";\n", s->log);
	}
	snprintf(shared->doing[s->number], sizeof(shared->doing[0]), "%.*s",
			 (int) sizeof(shared->doing[0]) - 1, to->data);
}



Statement *
new_statement(Session *s, int where)
{
	Statement  *st = &s->batch[s->queued];
	Text		sql = st->sql;
	Parameter	param[PARAMS];

	memcpy(param, st->param, sizeof(param));
	memset(st, 0, sizeof(*st));
	st->sql = sql;
	memcpy(st->param, param, sizeof(param));
	text_clear(&st->sql);
	text_add(&st->sql, "%s", "");
	st->where = where;
	st->role = s->role;
	return st;
}

void
lost(Session *s, const Statement *st)
{
	finding(s, st, "the connection was lost: %s", PQerrorMessage(s->conn));
	atomic_store(&shared->stop, true);
	exit(3);
}

/* Sends the statement that new_statement gave. */
void
queue(Session *s)
{
	Statement  *st = &s->batch[s->queued];
	const char *values[PARAMS];
	int			lens[PARAMS];
	int			formats[PARAMS];

	for (int i = 0; i < st->nparams; i++)
	{
		Parameter  *p = &st->param[i];

		/* A text ends at a zero byte; only binary ones may have it within. */
		values[i] = text_string(&p->value);
		lens[i] = (int) p->value.length;
		formats[i] = p->binary ? 1 : 0;
	}
	remember(s, st);
	atomic_fetch_add(&shared->statements, 1);
	atomic_fetch_add(&shared->calls, st->ncalls);
	if (PQsendQueryParams(s->conn, text_string(&st->sql), st->nparams, NULL,
						  values, lens, formats, 0) != 1 ||
		PQpipelineSync(s->conn) != 1)
		lost(s, st);
	s->queued++;
	if (s->queued == BATCH)
		collect(s);
}

/* Takes the answers to all that was sent. */
void
collect(Session *s)
{
	for (int i = 0; i < s->queued; i++)
	{
		Statement  *st = &s->batch[i];
		PGresult   *result;

		snprintf(shared->doing[s->number], sizeof(shared->doing[0]), "%.*s",
				 (int) sizeof(shared->doing[0]) - 1, st->sql.data);
		/*
		 * What is deferred to the commit may fail behind the statement's own
		 * result; so up to the end of the pipeline's part.
		 */
		for (int nothing = 0; nothing < 3;)
		{
			result = PQgetResult(s->conn);
			if (PQstatus(s->conn) == CONNECTION_BAD)
			{
				if (result != NULL)
					take_result(s, st, result);
				lost(s, st);
			}
			if (result == NULL)
			{
				nothing++;
				continue;
			}
			nothing = 0;
			if (PQresultStatus(result) == PGRES_PIPELINE_SYNC)
			{
				PQclear(result);
				break;
			}
			take_result(s, st, result);
			PQclear(result);
		}
	}
	s->queued = 0;
	atomic_store(&shared->heartbeat[s->number], now_seconds());
}

void
queue_sql(Session *s, int where, const char *format,...)
{
	Statement  *st = new_statement(s, where);
	char		buffer[2000];
	va_list		args;

	va_start(args, format);
	vsnprintf(buffer, sizeof(buffer), format, args);
	va_end(args);
	text_add(&st->sql, "%s", buffer);
	queue(s);
}

/*
 * Runs a command that a statement_timeout of moments may cut short, until it
 * does not.
 */
void
insist(Session *s, const char *sql)
{
	bool		again = true;

	while (again)
	{
		PGresult   *result;

		again = false;
		if (PQsendQueryParams(s->conn, sql, 0, NULL, NULL, NULL, NULL, 0) != 1 ||
			PQpipelineSync(s->conn) != 1)
			lost(s, NULL);
		while ((result = PQgetResult(s->conn)) != NULL)
		{
			const char *sqlstate = PQresultErrorField(result, PG_DIAG_SQLSTATE);

			if (PQstatus(s->conn) == CONNECTION_BAD)
				lost(s, NULL);
			if (sqlstate != NULL && strcmp(sqlstate, "57014") == 0)
				again = true;
			else if (PQresultStatus(result) != PGRES_COMMAND_OK)
				finding(s, NULL, "%s: %s", sql, PQresultErrorMessage(result));
			PQclear(result);
		}
		PQclear(PQgetResult(s->conn));
	}
}

PGresult *
ask(Session *s, const char *sql)
{
	PGresult   *result;
	PGresult   *next;

	if (PQsendQueryParams(s->conn, sql, 0, NULL, NULL, NULL, NULL, 0) != 1 ||
		PQpipelineSync(s->conn) != 1)
		lost(s, NULL);
	result = PQgetResult(s->conn);
	if (PQresultStatus(result) != PGRES_TUPLES_OK)
		finding(s, NULL, "%s: %s", sql, PQerrorMessage(s->conn));
	while ((next = PQgetResult(s->conn)) != NULL)
		PQclear(next);
	PQclear(PQgetResult(s->conn));
	return result;
}

/* Without them, a session could wait for ever: for its own prepared transaction. */
void
timeouts(Session *s)
{
	queue_sql(s, W_CONTROL, "SET lock_timeout = '%d ms'", 60 * slow);
	queue_sql(s, W_CONTROL, "SET statement_timeout = '%d s'", 50 + 10 * slow);
}

void
settings(Session *s)
{
	timeouts(s);
	queue_sql(s, W_CONTROL, "SET saga.retry_delay = '10 ms'");
	queue_sql(s, W_CONTROL, "SET saga.retry_max_delay = '100 ms'");
	queue_sql(s, W_CONTROL, "SET saga.max_attempts = 3");
	queue_sql(s, W_CONTROL, "SET client_min_messages = 'warning'");
	collect(s);
}

void
open_session(Session *s)
{
	s->conn = PQconnectdb(conninfo[s->database]);
	if (PQstatus(s->conn) != CONNECTION_OK)
	{
		finding(s, NULL, "no connection: %s", PQerrorMessage(s->conn));
		atomic_store(&shared->stop, true);
		exit(3);
	}
	s->server_version = PQserverVersion(s->conn);
	s->one_byte = strcmp(PQparameterStatus(s->conn, "server_encoding"), "SQL_ASCII") == 0;
	PQsetNoticeReceiver(s->conn, take_notice, s);
	if (PQenterPipelineMode(s->conn) != 1)
		abort();
	s->role = SUPERUSER;
	s->queued = 0;
	settings(s);
}

void
take_role(Session *s, int role)
{
	if (role == SUPERUSER)
		queue_sql(s, W_CONTROL, "RESET SESSION AUTHORIZATION");
	else if (percent(&s->chance, 80))
		queue_sql(s, W_CONTROL, "SET SESSION AUTHORIZATION %s", roles[role].name);
	else
	{
		queue_sql(s, W_CONTROL, "RESET SESSION AUTHORIZATION");
		queue_sql(s, W_CONTROL, "SET ROLE %s", roles[role].name);
	}
	collect(s);
	/* One that is renamed at this moment cannot be taken. */
	{
		PGresult   *result;

		if (PQsendQueryParams(s->conn, "SELECT current_user", 0, NULL, NULL, NULL, NULL, 0) != 1 ||
			PQpipelineSync(s->conn) != 1)
			lost(s, NULL);
		while ((result = PQgetResult(s->conn)) != NULL)
		{
			s->role = SUPERUSER;
			for (int i = 1; i < role_count; i++)
				if (PQntuples(result) == 1 && strcmp(PQgetvalue(result, 0, 0), roles[i].name) == 0)
					s->role = i;
			PQclear(result);
			if (PQstatus(s->conn) == CONNECTION_BAD)
				lost(s, NULL);
		}
		PQclear(PQgetResult(s->conn));
	}
}

void
take_any_role(Session *s)
{
	int			total = 0;
	int			n;

	for (int i = 0; i < role_count; i++)
		total += roles[i].weight;
	n = below(&s->chance, total);
	for (int i = 0; i < role_count; i++)
	{
		n -= roles[i].weight;
		if (n < 0)
		{
			take_role(s, i);
			return;
		}
	}
}
