/*-------------------------------------------------------------------------
 *
 * pq.h
 *	  What the clients of the figures do with libpq alike: one connection,
 *	  prepared statements, and no error that is survived.
 *
 *-------------------------------------------------------------------------
 */
#ifndef PQ_H
#define PQ_H

#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include <libpq-fe.h>

static PGconn *conn;			/* the one that is meant unless another is named */

static inline void
die(const char *what)
{
	fprintf(stderr, "client: %s: %s", what, PQerrorMessage(conn));
	exit(1);
}

static inline PGresult *
check(PGresult *result, const char *what)
{
	ExecStatusType status = PQresultStatus(result);

	if (status != PGRES_TUPLES_OK && status != PGRES_COMMAND_OK)
		die(what);
	return result;
}

static inline void
run(const char *sql)
{
	PQclear(check(PQexec(conn, sql), sql));
}

static inline char *
value(const char *sql)
{
	PGresult   *result = check(PQexec(conn, sql), sql);
	char	   *copy = strdup(PQgetvalue(result, 0, 0));

	PQclear(result);
	return copy;
}

static inline void
prepare(const char *name, const char *sql)
{
	PQclear(check(PQprepare(conn, name, sql, 0, NULL), sql));
}

/* How many rows it answers, or wrote if it answers none */
static inline int
rows_of(PGresult *result)
{
	return PQresultStatus(result) == PGRES_TUPLES_OK ?
		PQntuples(result) : atoi(PQcmdTuples(result));
}

/* What should be about one row must be. */
static inline PGresult *
check_row(PGresult *result, const char *name)
{
	check(result, name);
	if (rows_of(result) != 1)
	{
		fprintf(stderr, "client: %s: %d rows\n", name, rows_of(result));
		exit(1);
	}
	return result;
}

static inline PGresult *
call(const char *name, int count, const char *const *values)
{
	return check_row(PQexecPrepared(conn, name, count, values, NULL, NULL, 0),
					 name);
}

#define CALL(name, ...) \
	do { \
		const char *const values[] = {__VA_ARGS__}; \
		PQclear(call(name, sizeof(values) / sizeof(values[0]), values)); \
	} while (0)

static inline int64_t
now_us(void)
{
	struct timespec t;

	clock_gettime(CLOCK_REALTIME, &t);
	return (int64_t) t.tv_sec * 1000000 + t.tv_nsec / 1000;
}

static inline int
by_value(const void *a, const void *b)
{
	int64_t		left = *(const int64_t *) a;
	int64_t		right = *(const int64_t *) b;

	return left < right ? -1 : left > right;
}

#endif							/* PQ_H */
