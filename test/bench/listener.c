/*-------------------------------------------------------------------------
 *
 * listener.c
 *	  The listeners of the figures: claim and acknowledge, and do nothing
 *	  between the two.
 *
 *	listener CONNINFO work BATCH HOW [async]
 *				prints "ready" and its backend's process id; when channel
 *				bench_go is notified, claims up to BATCH tasks at a time from
 *				channel "work" and acknowledges them, until bench_stop is;
 *				prints how many, and the microseconds at the first claim and
 *				behind the last acknowledgement
 *	listener CONNINFO claims COUNT
 *				claims COUNT tasks, one at a time, and does not acknowledge them;
 *				prints its backend's process id
 *	listener CONNINFO woken COUNT PAUSE_MS [async|hand]
 *				fails COUNT sagas one by one; prints the microseconds from COMMIT
 *				to the notification, one a line.  "hand": without saga, a
 *				transaction that inserts a row and notifies by itself
 *
 * HOW a batch is acknowledged: each, a transaction and a round trip for each
 * task; pipeline, a transaction for each, sent without waiting for the one
 * before; together, one statement for all.  "async": without waiting for the
 * disk.
 *
 *-------------------------------------------------------------------------
 */
#include <errno.h>
#include <poll.h>
#include <stdbool.h>
#include <unistd.h>

#include "pq.h"

/* Notifications that were read and not looked at yet. */
static bool go = false;
static bool stop = false;

static void
look_at_notifications(void)
{
	PGnotify   *notify;

	while ((notify = PQnotifies(conn)) != NULL)
	{
		go |= strcmp(notify->relname, "bench_go") == 0;
		stop |= strcmp(notify->relname, "bench_stop") == 0;
		PQfreemem(notify);
	}
}

/* Until something comes in, of any connection. */
static void
wait_for(PGconn *const *conns, int count, int timeout_ms)
{
	struct pollfd fds[2];

	for (int i = 0; i < count; i++)
	{
		fds[i].fd = PQsocket(conns[i]);
		fds[i].events = POLLIN;
	}
	if (poll(fds, count, timeout_ms) < 0 && errno != EINTR)
		die("poll");
	for (int i = 0; i < count; i++)
		if (!PQconsumeInput(conns[i]))
			die("connection");
}

/* ------------------------------------------------------------------------
 * How much
 * ------------------------------------------------------------------------ */

static void
expect(PGresult *result, const char *status)
{
	check(result, "complete_compensation");
	if (strcmp(PQgetvalue(result, 0, 0), status) != 0)
	{
		fprintf(stderr, "listener: a task is %s\n", PQgetvalue(result, 0, 0));
		exit(1);
	}
	PQclear(result);
}

static void
acknowledge_each(PGresult *claims)
{
	for (int i = 0; i < PQntuples(claims); i++)
	{
		const char *const values[] = {PQgetvalue(claims, i, 0)};

		expect(call("complete", 1, values), "compensated");
	}
}

static void
acknowledge_pipeline(PGresult *claims)
{
	if (!PQenterPipelineMode(conn))
		die("pipeline");
	for (int i = 0; i < PQntuples(claims); i++)
	{
		const char *const values[] = {PQgetvalue(claims, i, 0)};

		if (!PQsendQueryPrepared(conn, "complete", 1, values, NULL, NULL, 0) ||
			!PQpipelineSync(conn))
			die("pipeline");
	}
	for (int i = 0; i < PQntuples(claims); i++)
	{
		PGresult   *result;

		expect(PQgetResult(conn), "compensated");
		while ((result = PQgetResult(conn)) == NULL)
			;
		if (PQresultStatus(result) != PGRES_PIPELINE_SYNC)
			die("pipeline");
		PQclear(result);
	}
	if (!PQexitPipelineMode(conn))
		die("pipeline");
}

static void
acknowledge_together(PGresult *claims)
{
	int			count = PQntuples(claims);
	char	   *keys = malloc(count * 80 + 16);
	char	   *to = keys;
	const char *const values[] = {keys};

	for (int i = 0; i < count; i++)
		to += sprintf(to, "%c%s", i == 0 ? '{' : ',', PQgetvalue(claims, i, 0));
	strcpy(to, "}");
	expect(call("complete_all", 1, values), "compensated");
	free(keys);
}

static void
prepare_claim(void)
{
	prepare("claim", "SELECT compensation_key, attempt, context"
			" FROM saga.claim_compensations('work', $1::text::integer, consumer => 'bench')");
}

static void
claims(int count)
{
	const char *const values[] = {"1"};

	prepare_claim();
	for (int i = 0; i < count; i++)
	{
		PGresult   *claimed = call("claim", 1, values);

		if (PQntuples(claimed) != 1)
		{
			fprintf(stderr, "listener: there is nothing to claim\n");
			exit(1);
		}
		PQclear(claimed);
	}
	printf("%d\n", PQbackendPID(conn));
}

static void
work(const char *batch, const char *how)
{
	const char *const values[] = {batch};
	int64_t		first = 0;
	int64_t		last = 0;
	int			count = 0;

	prepare_claim();
	prepare("complete", "SELECT saga.complete_compensation($1)");
	prepare("complete_all", "SELECT min(saga.complete_compensation(k)) FROM unnest($1::text[]) AS k");
	run("LISTEN work; LISTEN bench_go; LISTEN bench_stop");
	printf("ready %d\n", PQbackendPID(conn));
	fflush(stdout);
	while (!go)
	{
		wait_for(&conn, 1, -1);
		look_at_notifications();
	}
	while (!stop)
	{
		PGresult   *claims;
		int64_t		at = now_us();

		claims = PQexecPrepared(conn, "claim", 1, values, NULL, NULL, 0);
		if (PQresultStatus(claims) == PGRES_FATAL_ERROR &&
			strcmp(PQresultErrorField(claims, PG_DIAG_SQLSTATE), "SG008") == 0)
		{
			/* It is being turned on. */
			PQclear(claims);
			usleep(1000);
			continue;
		}
		check(claims, "claim");
		if (PQntuples(claims) > 0)
		{
			if (strcmp(how, "each") == 0)
				acknowledge_each(claims);
			else if (strcmp(how, "pipeline") == 0)
				acknowledge_pipeline(claims);
			else
				acknowledge_together(claims);
			if (count == 0)
				first = at;
			count += PQntuples(claims);
			last = now_us();
		}
		else
			wait_for(&conn, 1, 1000);
		PQclear(claims);
		look_at_notifications();
	}
	printf("%d %lld %lld\n", count, (long long) first, (long long) last);
}

/* ------------------------------------------------------------------------
 * How soon
 * ------------------------------------------------------------------------ */

/* Reads what came in; has the saga been announced? */
static bool
announced(PGconn *on, const char *id)
{
	PGnotify   *notify;
	bool		found = false;

	while ((notify = PQnotifies(on)) != NULL)
	{
		found |= strstr(notify->extra, id) != NULL;
		PQfreemem(notify);
	}
	return found;
}

static void
woken(const char *conninfo, int count, int pause_ms, bool async, bool hand)
{
	int64_t    *took = calloc(count, sizeof(int64_t));
	PGconn	   *listening = conn;
	PGconn	   *application = PQconnectdb(conninfo);
	PGconn	   *both[2] = {listening, application};

	run("LISTEN work");
	prepare("done", "SELECT min(saga.complete_compensation(compensation_key))"
			" FROM saga.claim_compensations('work', 10)");
	conn = application;
	if (PQstatus(conn) != CONNECTION_OK)
		die("connect");
	run(async ? "SET synchronous_commit = off" : "SET synchronous_commit = on");
	prepare("start", hand ? "SELECT gen_random_uuid()" :
			"SELECT st.saga_id FROM saga.begin('woken') AS s,"
			" LATERAL saga.step(s, 'task', completed => true, notify => 'work') AS st");
	prepare("fail", hand ?
			"WITH i AS (INSERT INTO bench.mark VALUES ($1::uuid, now()))"
			" SELECT pg_notify('work', $1::text)" :
			"SELECT saga.fail($1)");
	for (int i = 0; i < count; i++)
	{
		PGresult   *result = call("start", 0, NULL);
		char		id[64];
		int64_t		at;

		strcpy(id, PQgetvalue(result, 0, 0));
		PQclear(result);
		usleep(pause_ms * 1000);
		run("BEGIN");
		CALL("fail", id);
		at = now_us();
		if (!PQsendQuery(conn, "COMMIT"))
			die("COMMIT");
		do
			wait_for(both, 2, -1);
		while (!announced(listening, id));
		took[i] = now_us() - at;
		while ((result = PQgetResult(conn)) != NULL)
			PQclear(check(result, "COMMIT"));
		if (hand)
			continue;
		conn = listening;
		PQclear(call("done", 0, NULL));
		conn = application;
	}
	qsort(took, count, sizeof(int64_t), by_value);
	for (int i = 0; i < count; i++)
		printf("%lld\n", (long long) took[i]);
	PQfinish(application);
	conn = listening;
}

int
main(int argc, char **argv)
{
	bool		async = argc >= 6 && strcmp(argv[5], "async") == 0;
	bool		hand = argc >= 6 && strcmp(argv[5], "hand") == 0;

	if (argc < 4 || (argc < 5 && strcmp(argv[2], "claims") != 0))
	{
		fprintf(stderr, "usage: listener CONNINFO work|claims|woken ...\n");
		return 2;
	}
	conn = PQconnectdb(argv[1]);
	if (PQstatus(conn) != CONNECTION_OK)
		die("connect");
	if (strcmp(argv[2], "work") == 0)
	{
		run(async ? "SET synchronous_commit = off" : "SET synchronous_commit = on");
		work(argv[3], argv[4]);
	}
	else if (strcmp(argv[2], "claims") == 0)
		claims(atoi(argv[3]));
	else if (strcmp(argv[2], "woken") == 0)
		woken(argv[1], atoi(argv[3]), atoi(argv[4]), async, hand);
	else
		return 2;
	PQfinish(conn);
	return 0;
}
