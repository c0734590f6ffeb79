/*-------------------------------------------------------------------------
 *
 * client.c
 *	  The application of the figures: records sagas over libpq, in prepared
 *	  statements, one transaction a call or neighbouring calls in one.
 *
 *	client CONNINFO sagas VARIANT COUNT		records COUNT sagas; prints its
 *											backend's process id
 *	client CONNINFO latency COUNT PAUSE_MS [durable] [cold]
 *											fails COUNT sagas one by one;
 *											prints microseconds, one a line
 *	client CONNINFO forward STEPS COUNT PAUSE_MS [durable] [cold]
 *											the same, from the recording of
 *											so many actions to the last
 *	client CONNINFO signal COUNT PAUSE_MS [durable]
 *											the same, from a signal to the
 *											action that waited for it
 *	client CONNINFO hold					an old snapshot, until stdin ends
 *	client - constants						what pgbench's scripts write, a
 *											NAME=VALUE a line
 *
 * The variants write the same rows and get the same answers; see README.md.
 *
 *-------------------------------------------------------------------------
 */
#include <stdbool.h>
#include <unistd.h>

#include "pq.h"

static uint64_t
random64(void)
{
	static uint64_t x = 0;

	if (x == 0)
		x = (uint64_t) now_us() * 0x9E3779B97F4A7C15 ^ (uint64_t) getpid() << 32;
	x ^= x << 13;
	x ^= x >> 7;
	x ^= x << 17;
	return x;
}

/* A version 7 UUID, as an application would make it. */
static void
make_uuid(char *to)
{
	static int64_t last_ms = 0;
	static unsigned counter = 0;
	int64_t		ms = now_us() / 1000;
	uint64_t	r = random64();

	if (ms <= last_ms)
		ms = last_ms, counter++;
	else
		counter = 0;
	if (counter > 0xfff)
		ms++, counter = 0;
	last_ms = ms;
	sprintf(to, "%08x-%04x-7%03x-%04x-%012llx",
			(unsigned) (ms >> 16), (unsigned) (ms & 0xffff), counter,
			(unsigned) (0x8000 | (r >> 50)),
			(unsigned long long) (r & 0xffffffffffff));
}

/* ------------------------------------------------------------------------
 * The saga of the figures
 * ------------------------------------------------------------------------ */

/* Three steps, with compensations of about 60 bytes, args and outputs of 80 */
static const char *const step_key[] = {"reserve", "charge", "ship"};
static const char *const compensation[] = {
	"SELECT stock.release(($1->'output'->>'reservation')::uuid)",
	"SELECT payment.refund(($1->'output'->>'payment')::uuid, $1)",
	"SELECT carrier.unbook(($1->'output'->>'booking')::uuid, $1)"
};
static const char *const args[] = {
	"{\"sku\": \"A-4711\", \"quantity\": 3, \"warehouse\": \"north\", \"customer\": 81723981}",
	"{\"amount\": 12990, \"currency\": \"EUR\", \"card\": \"tok_9f8s7df98s7\", \"customer\": 817}",
	"{\"weight\": 1250, \"street\": \"Long Lane 14\", \"city\": \"Utrecht\", \"country\": \"NL\"}"
};
static const char *const output[] = {
	"{\"reservation\": \"0191d0e2-7a53-7c1c-9f5a-2f6a1c9b7e11\", \"until\": \"2024-09-08\"}",
	"{\"payment\": \"0191d0e2-7a53-7c1c-9f5a-2f6a1c9b7e22\", \"receipt\": \"R-2024-99812\"}",
	"{\"booking\": \"0191d0e2-7a53-7c1c-9f5a-2f6a1c9b7e33\", \"label\": \"JD014600003SE\"}"
};

static const char *const failure = "the third step failed";

/* What a ledger written by hand keeps with each row, to be equal to ours */
static char *role_oid;
static char *role_name;
static char *policy;

typedef struct Variant
{
	const char *name;
	void		(*prepare) (void);
	void		(*saga) (const char *id, const char *key);
} Variant;

#define STEP_ANSWER \
	" RETURNING saga, seq, key, status, attempts, output, error, retry_at"

static const char *schema = "raw";

/* Does the ledger written by hand answer what ours does? */
static bool answers = false;

/*
 * Prepares a statement in which every @ is the schema of the tables, and # the
 * answer, for those that ask for more than the number of rows.
 */
static void
prepare_in(const char *name, const char *sql)
{
	char		text[8192];
	char	   *to = text;

	for (; *sql; sql++)
	{
		if (*sql == '@')
			to += sprintf(to, "%s", schema);
		else if (*sql == '#')
			to += sprintf(to, "%s", answers ? STEP_ANSWER : "");
		else
			*to++ = *sql;
	}
	*to = '\0';
	prepare(name, text);
}

/* ---- nothing at all: what eight statements cost */

static void
empty_prepare(void)
{
	prepare("empty", "SELECT 1");
}

static void
empty_saga(const char *id, const char *key)
{
	for (int i = 0; i < 8; i++)
		PQclear(call("empty", 0, NULL));
}

/* ---- the same arguments, read and thrown away */

static void
arguments_prepare(void)
{
	prepare("begin", "SELECT $1::uuid IS NULL OR $2::text IS NULL");
	prepare("step", "SELECT $1::uuid IS NULL OR $2::text IS NULL OR $3::text IS NULL OR $4::jsonb IS NULL");
	prepare("complete_step", "SELECT $1::uuid IS NULL OR $2::text IS NULL OR $3::jsonb IS NULL");
	prepare("complete", "SELECT $1::uuid IS NULL");
}

static void
arguments_saga(const char *id, const char *key)
{
	CALL("begin", id, key);
	for (int i = 0; i < 3; i++)
	{
		CALL("step", id, step_key[i], compensation[i], args[i]);
		CALL("complete_step", id, step_key[i], output[i]);
	}
	CALL("complete", id);
}

/* ---- plain SQL with the same guards */

#define STEP_COLUMNS \
	"(saga, seq, started_at, run, run_as, kind, compensate_on, acknowledge," \
	" run_as_name, key, compensation, args, compensation_retry, attempts," \
	" status, comp_status)"
static void
raw_prepare(void)
{
	/* No row: the key is known; the application reads that saga. */
	prepare_in("begin",
			   "INSERT INTO @.saga (id, owner, started_at, on_failure,"
			   " owner_name, name, key, updated_at, state, paused)"
			   " VALUES ($1, $3, now(), 'h', $4, 'order', $2, now(), 'r', false)"
			   " ON CONFLICT (owner, name, key) WHERE key IS NOT NULL DO NOTHING");

	/*
	 * The saga's row, locked: nobody can fail it before this commits.  If it
	 * is not running, the null is refused.  (INSERT ... SELECT ... FOR SHARE
	 * costs a third more.)
	 */
	prepare_in("step",
			   "INSERT INTO @.step " STEP_COLUMNS
			   " VALUES ((SELECT id FROM @.saga WHERE id = $1 AND owner = $5 AND state = 'r' FOR SHARE),"
			   " nextval('@.start_order'), now(), 1, $5, 'c', 's', true,"
			   " $6, $2, $3, $4, $7, 1, 's', 'r')"
			   " ON CONFLICT (saga, key, run) DO NOTHING#");
	/* Whoever fails the saga marks its steps pending: no second lock here. */
	prepare_in("complete_step",
			   "UPDATE @.step SET status = 'c', completed_at = now(), output = $3"
			   " WHERE saga = $1 AND key = $2 AND run = 1 AND run_as = $4"
			   " AND status = 's' AND comp_status IN ('n', 'r')#");
	prepare_in("complete",
			   "UPDATE @.saga SET state = 'd', finished_at = now(), updated_at = now()"
			   " WHERE id = $1 AND owner = $2 AND state = 'r'"
			   " AND NOT EXISTS (SELECT FROM @.step WHERE saga = $1"
			   " AND (status = 's' OR status = 'f' AND comp_status <> 'n'))");
}

static void
answering_prepare(void)
{
	answers = true;
	raw_prepare();
}

static void
checked_prepare(void)
{
	schema = "checked";
	raw_prepare();
}

static void
lean_prepare(void)
{
	schema = "lean";
	raw_prepare();
}

static void
raw_saga(const char *id, const char *key)
{
	CALL("begin", id, key, role_oid, role_name);
	for (int i = 0; i < 3; i++)
	{
		CALL("step", id, step_key[i], compensation[i], args[i], role_oid,
			 role_name, policy);
		CALL("complete_step", id, step_key[i], output[i], role_oid);
	}
	CALL("complete", id, role_oid);
}

/* ---- the same, up to the commit of the failure */

/*
 * Two prepared statements in one round trip and one transaction; the second
 * sees what was committed while the first waited for a lock.
 */
static void
call_both(const char *const *names, const int *counts,
		  const char *const *const *values)
{
	if (!PQenterPipelineMode(conn))
		die("pipeline");
	for (int i = 0; i < 2; i++)
		if (!PQsendQueryPrepared(conn, names[i], counts[i], values[i], NULL, NULL, 0))
			die(names[i]);
	if (!PQpipelineSync(conn))
		die("sync");
	for (int i = 0; i < 2; i++)
	{
		PQclear(check_row(PQgetResult(conn), names[i]));
		PQgetResult(conn);		/* the null behind each result */
	}
	PQclear(PQgetResult(conn));
	if (!PQexitPipelineMode(conn))
		die("end of the pipeline");
}

static void
raw_fail_prepare(void)
{
	raw_prepare();
	/* Waits for the steps that are on their way in, and lets in no other. */
	prepare_in("fail",
			   "UPDATE @.saga SET state = 'u', failure_kind = 'f', undo = 'f',"
			   " reason = $3, due = now(), lane = $2, updated_at = now()"
			   " WHERE id = $1 AND owner = $2 AND state = 'r'");

	/*
	 * All of those steps, marked, so that none completes any more.  It is due
	 * now if the statement before made it so.
	 */
	prepare_in("mark",
			   "WITH p AS (UPDATE @.step SET comp_status = 'p'"
			   " WHERE saga = $1 AND comp_status = 'r' RETURNING seq, status),"
			   " d AS (INSERT INTO @.due (lane, due, saga)"
			   " SELECT lane, due, id FROM @.saga WHERE id = $1 AND due = now())"
			   " INSERT INTO @.event (saga, at, seq, event, actor, detail)"
			   " SELECT $1, now(), max(seq) FILTER (WHERE status <> 'c'), 'failing', $3,"
			   " jsonb_build_object('kind', 'failed', 'reason', $2::text, 'to_undo', count(*))"
			   " FROM p HAVING count(*) > 0");
}

static void
raw_steps_to_fail(const char *id, const char *key)
{
	CALL("begin", id, key, role_oid, role_name);
	for (int i = 0; i < 3; i++)
	{
		CALL("step", id, step_key[i], compensation[i], args[i], role_oid,
			 role_name, policy);
		if (i < 2)
			CALL("complete_step", id, step_key[i], output[i], role_oid);
	}
}

static void
raw_fail_saga(const char *id, const char *key)
{
	const char *const fail[] = {id, role_oid, failure};
	const char *const mark[] = {id, failure, role_name};

	raw_steps_to_fail(id, key);
	call_both((const char *const[]) {"fail", "mark"}, (const int[]) {3, 3},
			  (const char *const *const[]) {fail, mark});
}

/* ---- the same, neighbours in one statement */

static void
raw4_prepare(void)
{
	prepare_in("begin_step",
			   "WITH s AS (INSERT INTO @.saga (id, owner, started_at, on_failure,"
			   " owner_name, name, key, updated_at, state, paused)"
			   " VALUES ($1, $6, now(), 'h', $7, 'order', $2, now(), 'r', false)"
			   " ON CONFLICT (owner, name, key) WHERE key IS NOT NULL DO NOTHING"
			   " RETURNING id)"
			   " INSERT INTO @.step " STEP_COLUMNS
			   " VALUES ((SELECT id FROM s), nextval('@.start_order'), now(), 1, $6,"
			   " 'c', 's', true, $7, $3, $4, $5, $8, 1, 's', 'r')"
			   " ON CONFLICT (saga, key, run) DO NOTHING");
	prepare_in("complete_step_step",
			   "WITH c AS (UPDATE @.step SET status = 'c', completed_at = now(), output = $3"
			   " WHERE saga = $1 AND key = $2 AND run = 1 AND run_as = $7"
			   " AND status = 's' AND comp_status IN ('n', 'r')"
			   " RETURNING seq)"
			   " INSERT INTO @.step " STEP_COLUMNS
			   " VALUES ((SELECT id FROM @.saga WHERE id = $1 AND owner = $7 AND state = 'r' FOR SHARE),"
			   " nextval('@.start_order'), now(), 1, $7, 'c', 's', true,"
			   " $8, $4, $5, $6, $9, 1, 's', 'r')"
			   " ON CONFLICT (saga, key, run) DO NOTHING"
			   " RETURNING (SELECT seq FROM c)");
	prepare_in("complete_step_complete",
			   "WITH c AS (UPDATE @.step SET status = 'c', completed_at = now(), output = $3"
			   " WHERE saga = $1 AND key = $2 AND run = 1 AND run_as = $4"
			   " AND status = 's' AND comp_status IN ('n', 'r')"
			   " RETURNING seq)"
			   " UPDATE @.saga SET state = 'd', finished_at = now(), updated_at = now()"
			   " WHERE id = $1 AND owner = $4 AND state = 'r'"
			   " AND NOT EXISTS (SELECT FROM @.step WHERE saga = $1 AND key <> $2"
			   " AND (status = 's' OR status = 'f' AND comp_status <> 'n'))"
			   " RETURNING (SELECT seq FROM c)");
}

static void
raw4_saga(const char *id, const char *key)
{
	CALL("begin_step", id, key, step_key[0], compensation[0], args[0],
		 role_oid, role_name, policy);
	for (int i = 0; i < 2; i++)
		CALL("complete_step_step", id, step_key[i], output[i], step_key[i + 1],
			 compensation[i + 1], args[i + 1], role_oid, role_name, policy);
	CALL("complete_step_complete", id, step_key[2], output[2], role_oid);
}

static void
lean4_prepare(void)
{
	schema = "lean";
	raw4_prepare();
}

/* ---- functions in plpgsql */

static void
plpgsql_prepare(void)
{
	/* The functions name their tables without a schema. */
	run(strcmp(schema, "lean") == 0 ? "SET search_path = lean" : "SET search_path = raw");
	prepare_in("begin", "SELECT @.begin($1, 'order', $2, $3, $4)");
	prepare_in("step", "SELECT @.start_step($1, $2, $3, $4, $5, $6, $7)");
	prepare_in("complete_step", "SELECT @.complete_step($1, $2, $3, $4)");
	prepare_in("complete", "SELECT @.complete($1, $2)");
}

static void
plpgsql_fail_prepare(void)
{
	plpgsql_prepare();
	prepare_in("fail", "SELECT @.fail($1, $2, $3, $4)");
}

static void
plpgsql_fail_saga(const char *id, const char *key)
{
	raw_steps_to_fail(id, key);
	CALL("fail", id, role_oid, role_name, failure);
}

static void
lean_plpgsql_prepare(void)
{
	schema = "lean";
	plpgsql_prepare();
}

/* ---- ours */

static char id_of_ours[64];

static void
saga_prepare(void)
{
	prepare("begin", "SELECT saga.begin('order', $1)");
	prepare("step", "SELECT saga.step($1, $2, compensation => $3, args => $4)");
	prepare("complete_step", "SELECT saga.complete_step($1, $2, $3)");
	prepare("complete", "SELECT saga.complete($1)");
}

static void
saga_columns_prepare(void)
{
	prepare("begin", "SELECT saga.begin('order', $1)");
	prepare("step", "SELECT * FROM saga.step($1, $2, compensation => $3, args => $4)");
	prepare("complete_step", "SELECT * FROM saga.complete_step($1, $2, $3)");
	prepare("complete", "SELECT saga.complete($1)");
}

/* What an application asks for that wants no more than the status. */
static void
saga_status_prepare(void)
{
	prepare("begin", "SELECT saga.begin('order', $1)");
	prepare("step", "SELECT (saga.step($1, $2, compensation => $3, args => $4)).status");
	prepare("complete_step", "SELECT (saga.complete_step($1, $2, $3)).status");
	prepare("complete", "SELECT saga.complete($1)");
}

static void
saga_begin_only(const char *key)
{
	const char *const values[] = {key};
	PGresult   *result = call("begin", 1, values);

	strcpy(id_of_ours, PQgetvalue(result, 0, 0));
	PQclear(result);
}

static void
saga_saga(const char *id, const char *key)
{
	saga_begin_only(key);
	for (int i = 0; i < 3; i++)
	{
		CALL("step", id_of_ours, step_key[i], compensation[i], args[i]);
		CALL("complete_step", id_of_ours, step_key[i], output[i]);
	}
	CALL("complete", id_of_ours);
}

/* ---- ours, undone by listeners */

static void
notify_prepare(void)
{
	saga_prepare();
	run("DEALLOCATE step");
	prepare("step", "SELECT saga.step($1, $2, notify => $3, args => $4)");
	prepare("fail", "SELECT saga.fail($1, $2)");
}

static void
notify_saga(const char *id, const char *key)
{
	saga_begin_only(key);
	for (int i = 0; i < 3; i++)
	{
		CALL("step", id_of_ours, step_key[i], "refunds", args[i]);
		CALL("complete_step", id_of_ours, step_key[i], output[i]);
	}
	CALL("complete", id_of_ours);
}

/* ---- up to the commit of the failure */

static void
fail_prepare(void)
{
	saga_prepare();
	prepare("fail", "SELECT saga.fail($1, $2)");
}

static void
fail_by(const char *key, const char *const *how)
{
	saga_begin_only(key);
	for (int i = 0; i < 3; i++)
	{
		CALL("step", id_of_ours, step_key[i], how[i], args[i]);
		if (i < 2)
			CALL("complete_step", id_of_ours, step_key[i], output[i]);
	}
	CALL("fail", id_of_ours, failure);
}

static void
fail_saga(const char *id, const char *key)
{
	fail_by(key, compensation);
}

static void
notify_fail_saga(const char *id, const char *key)
{
	static const char *const channel[] = {"refunds", "refunds", "refunds"};

	fail_by(key, channel);
}

static void
saga4_prepare(void)
{
	prepare("begin_step",
			"SELECT st.* FROM saga.begin('order', $1) AS s,"
			" LATERAL saga.step(s, $2, compensation => $3, args => $4) AS st");
	prepare("complete_step_step",
			"SELECT saga.complete_step($1, $2, $3),"
			" saga.step($1, $4, compensation => $5, args => $6)");
	prepare("complete_step_complete",
			"SELECT saga.complete_step($1, $2, $3), saga.complete($1)");
}

static void
saga4_saga(const char *id, const char *key)
{
	const char *const values[] = {key, step_key[0], compensation[0], args[0]};
	PGresult   *result = call("begin_step", 4, values);

	strcpy(id_of_ours, PQgetvalue(result, 0, 0));
	PQclear(result);
	for (int i = 0; i < 2; i++)
		CALL("complete_step_step", id_of_ours, step_key[i], output[i],
			 step_key[i + 1], compensation[i + 1], args[i + 1]);
	CALL("complete_step_complete", id_of_ours, step_key[2], output[2]);
}

/* ---- parts of ours, for profiles: one call more each */

static void
part_begin(const char *id, const char *key)
{
	saga_begin_only(key);
}

static void
part_step(const char *id, const char *key)
{
	saga_begin_only(key);
	CALL("step", id_of_ours, step_key[0], compensation[0], args[0]);
}

static void
part_complete_step(const char *id, const char *key)
{
	part_step(id, key);
	CALL("complete_step", id_of_ours, step_key[0], output[0]);
}

static void
part_complete(const char *id, const char *key)
{
	part_complete_step(id, key);
	CALL("complete", id_of_ours);
}

static const Variant variants[] = {
	{"empty", empty_prepare, empty_saga},
	{"arguments", arguments_prepare, arguments_saga},
	{"raw", raw_prepare, raw_saga},
	{"raw_answers", answering_prepare, raw_saga},
	{"checked", checked_prepare, raw_saga},
	{"raw4", raw4_prepare, raw4_saga},
	{"plpgsql", plpgsql_prepare, raw_saga},
	{"lean", lean_prepare, raw_saga},
	{"lean4", lean4_prepare, raw4_saga},
	{"lean_plpgsql", lean_plpgsql_prepare, raw_saga},
	{"saga", saga_prepare, saga_saga},
	{"saga_columns", saga_columns_prepare, saga_saga},
	{"saga_status", saga_status_prepare, saga_saga},
	{"saga4", saga4_prepare, saga4_saga},
	{"notify", notify_prepare, notify_saga},
	{"raw_fail", raw_fail_prepare, raw_fail_saga},
	{"plpgsql_fail", plpgsql_fail_prepare, plpgsql_fail_saga},
	{"fail", fail_prepare, fail_saga},
	{"notify_fail", notify_prepare, notify_fail_saga},
	{"part_begin", saga_prepare, part_begin},
	{"part_step", saga_prepare, part_step},
	{"part_complete_step", saga_prepare, part_complete_step},
	{"part_complete", saga_prepare, part_complete},
};

static void
sagas(const char *name, int count)
{
	const Variant *variant = NULL;

	for (size_t i = 0; i < sizeof(variants) / sizeof(variants[0]); i++)
		if (strcmp(variants[i].name, name) == 0)
			variant = &variants[i];
	if (variant == NULL)
	{
		fprintf(stderr, "client: unknown variant %s\n", name);
		exit(2);
	}
	role_oid = value("SELECT oid FROM pg_roles WHERE rolname = current_user");
	role_name = value("SELECT current_user");
	policy = value("SELECT policy FROM bench.policy");
	variant->prepare();
	for (int i = 0; i < count; i++)
	{
		char		id[64];
		char		key[64];

		make_uuid(id);
		sprintf(key, "order-%016llx", (unsigned long long) random64());
		variant->saga(id, key);
	}
	printf("%d\n", PQbackendPID(conn));
}

static void
constants(void)
{
	for (int i = 0; i < 3; i++)
		printf("step%d=%s\ncompensation%d=%s\nargs%d=%s\noutput%d=%s\n",
			   i, step_key[i], i, compensation[i], i, args[i], i, output[i]);
	printf("failure=%s\n", failure);
}

/* ------------------------------------------------------------------------
 * From the failure to the first compensation, or from the recording to the last
 * action
 * ------------------------------------------------------------------------ */

static void
wait_for_compensation(const char *id)
{
	for (;;)
	{
		const char *const values[] = {id};
		PGresult   *result = call("done", 1, values);
		bool		done = strcmp(PQgetvalue(result, 0, 0), "t") == 0;

		PQclear(result);
		if (done)
			return;
		usleep(1000);
	}
}

#define MARK	"INSERT INTO bench.mark SELECT ($1->''saga''->>''id'')::uuid, clock_timestamp()"

/* In place of a number of steps: one that waits for a signal */
#define SIGNAL		(-1)

/* A saga that fails later, or one that gets actions later. */
static void
latency_prepare(int steps)
{
	char		sql[4096] = "SELECT 0";

	if (steps == 0)
	{
		prepare("start",
				"SELECT st.saga_id FROM saga.begin('latency') AS s,"
				" LATERAL saga.step(s, 'mark', completed => true, compensation => '" MARK "') AS st");
		prepare("fail", "SELECT saga.fail($1)");
		return;
	}
	if (steps == SIGNAL)
	{
		prepare("start",
				"SELECT s FROM (SELECT s, saga.step(s, 'mark', signals => '{go}', action => '" MARK "'),"
				" saga.complete(s, when_done => true) FROM saga.begin('latency') AS s) x");
		prepare("fail", "SELECT saga.signal($1, 'go')");
		return;
	}
	prepare("start", "SELECT saga.begin('latency')");
	for (int i = 1; i < steps; i++)
		sprintf(sql + strlen(sql), ", saga.step($1, 'step %d', action => 'SELECT 1')", i);
	strcat(sql, ", saga.step($1, 'mark', action => '" MARK "'), saga.complete($1, when_done => true)");
	prepare("fail", sql);
}

static void
latency(int steps, int count, int pause_ms, bool durable, bool cold)
{
	int64_t    *took = calloc(count, sizeof(int64_t));

	run(durable ? "SET synchronous_commit = on" : "SET synchronous_commit = off");
	latency_prepare(steps);
	prepare("done", "SELECT EXISTS (SELECT FROM bench.mark WHERE saga = $1)");
	prepare("took", "SELECT (extract(epoch FROM at) * 1000000)::bigint - $2::bigint"
			" FROM bench.mark WHERE saga = $1");
	prepare("executors", "SELECT count(*) FROM pg_stat_activity WHERE backend_type = 'saga executor'");

	for (int i = 0; i < count; i++)
	{
		PGresult   *result = call("start", 0, NULL);
		char		id[64];
		char		at[32];

		strcpy(id, PQgetvalue(result, 0, 0));
		PQclear(result);
		if (cold)
		{
			char	   *n;

			while (strcmp(n = value("EXECUTE executors"), "0") != 0)
			{
				free(n);
				usleep(20000);
			}
			free(n);
		}
		usleep(pause_ms * 1000);
		run("BEGIN");
		CALL("fail", id);
		sprintf(at, "%lld", (long long) now_us());
		run("COMMIT");
		usleep(1000);
		wait_for_compensation(id);
		{
			const char *const values[] = {id, at};

			result = call("took", 2, values);
			took[i] = atoll(PQgetvalue(result, 0, 0));
			PQclear(result);
		}
	}
	qsort(took, count, sizeof(int64_t), by_value);
	for (int i = 0; i < count; i++)
		printf("%lld\n", (long long) took[i]);
}

static void
hold(void)
{
	char		c;

	run("BEGIN ISOLATION LEVEL REPEATABLE READ");
	/* It has a number, too, as one that has written. */
	free(value("SELECT txid_current()"));
	puts("holding");
	fflush(stdout);
	while (read(0, &c, 1) > 0)
		;
}

int
main(int argc, char **argv)
{
	if (argc < 3)
	{
		fprintf(stderr, "usage: client CONNINFO sagas|latency|forward|signal|hold|constants ...\n");
		return 2;
	}
	if (strcmp(argv[2], "constants") == 0)
	{
		constants();
		return 0;
	}
	conn = PQconnectdb(argv[1]);
	if (PQstatus(conn) != CONNECTION_OK)
		die("connect");
	if (strcmp(argv[2], "sagas") == 0 && argc == 5)
		sagas(argv[3], atoi(argv[4]));
	else if (((strcmp(argv[2], "latency") == 0 || strcmp(argv[2], "signal") == 0) && argc >= 5) ||
			 (strcmp(argv[2], "forward") == 0 && argc >= 6))
	{
		int			steps = strcmp(argv[2], "forward") == 0 ? atoi(argv[3]) :
			strcmp(argv[2], "signal") == 0 ? SIGNAL : 0;
		int			i = steps > 0 ? 4 : 3;
		bool		durable = false;
		bool		cold = false;

		for (int j = i + 2; j < argc; j++)
		{
			durable |= strcmp(argv[j], "durable") == 0;
			cold |= strcmp(argv[j], "cold") == 0;
		}
		latency(steps, atoi(argv[i]), atoi(argv[i + 1]), durable, cold);
	}
	else if (strcmp(argv[2], "hold") == 0)
		hold();
	else
		return 2;
	PQfinish(conn);
	return 0;
}
