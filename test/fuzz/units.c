/*-------------------------------------------------------------------------
 *
 * units.c
 *	  Units of work, and the life of a session.
 *
 * What a unit does follows from the seed, the session and the unit's number, and
 * from what the pool holds.
 *
 *-------------------------------------------------------------------------
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "fuzz.h"

/* A statement of one call. */
void
one_call(Session *s, int function, int slot)
{
	Statement  *st = new_statement(s, W_CALL);
	const Function *f = &functions[function];

	if (strcmp(f->name, "claim_compensations") == 0 && percent(&s->chance, 90))
	{
		text_add(&st->sql, "SELECT compensation_key, attempt FROM ");
		put_call(s, st, function, slot, NULL);
		st->claims = true;
	}
	else if (strcmp(f->name, "claim_tasks") == 0 && percent(&s->chance, 90))
	{
		text_add(&st->sql, "SELECT task_key, attempt FROM ");
		put_call(s, st, function, slot, NULL);
		st->claims = true;
	}
	else if (f->set && percent(&s->chance, 50))
	{
		text_add(&st->sql, "SELECT * FROM ");
		put_call(s, st, function, slot, NULL);
	}
	else if (f->answer == A_STEP && percent(&s->chance, 10))
	{
		text_add(&st->sql, "SELECT (");
		put_call(s, st, function, slot, NULL);
		text_add(&st->sql, ").*");
	}
	else
	{
		text_add(&st->sql, "SELECT ");
		put_call(s, st, function, slot, NULL);
		st->columns = 1;
	}
	queue(s);
}

static void
unit_batch(Session *s)
{
	int			n = 1 + below(&s->chance, BATCH);
	/* A run of calls about one saga brings it far. */
	int			slot = percent(&s->chance, 60) ? any_slot(s) : -1;

	for (int i = 0; i < n; i++)
		one_call(s, any_function(s), slot);
	collect(s);
}

/* What fits a saga in each state, so that it goes far. */
static const struct
{
	char		state;
	const char *functions[36];
}			fitting[] =
{
	{'r', {"step", "step", "step", "step", "step", "complete_step", "complete_step",
			"complete_step", "complete_step", "fail_step", "rollback_to", "complete",
			"fail", "amend", "pause", "resume", "step", "step", "resolve", "resolve",
			"resolve", "resolve", "resolve", "resume", "complete", "complete", "wait_step", "output",
			"claim_tasks", "claim_tasks", "complete_task", "complete_task", "complete_task", "fail_task",
			"signal", "signal"}},
	{'u', {"pause", "resume", "resume", "claim_compensations", "complete_compensation",
			"fail_compensation", "complete_step", "rollback_to", "rollback_to", "cancel",
			"fail_step", "extend_claim", "plan", "amend", "step", "fail", "claim_tasks", "complete_task",
			"fail_task"}},
	{'p', {"resolve", "resolve", "resolve", "resolve", "resolve", "amend", "abandon",
			"reopen", "reopen", "reopen", "rollback_to", "complete_step", "fail", "pause",
			"resume", "complete_compensation"}},
	{'c', {"complete_step", "complete_step", "complete_step", "redact", "step", "fail_step",
			"fail", "cancel", "plan", "abandon", "complete", "rollback_to",
			"complete_compensation", "reopen", "resolve", "pause"}},
	{'d', {"step", "complete_step", "redact", "complete", "plan", "fail", "rollback_to",
			"resume", "fail_step", "complete_step", "step", "redact", "complete", "abandon",
			"cancel", "step"}},
	{'a', {"redact", "complete_step", "complete_step", "complete_compensation",
			"fail_compensation", "step", "reopen", "resolve", "redact", "fail", "rollback_to",
			"plan", "complete_step", "extend_claim", "complete_compensation", "cancel"}},
};

/* Calls that fit the state that a saga is in, one after the other. */
static void
unit_deep(Session *s)
{
	Chance	   *c = &s->chance;
	int			slot = any_slot(s);
	int			n = 2 + below(c, 8);
	Slot		copy;

	look_up(s, slot, &copy);
	if (copy.id[0] == '\0')
		return;
	for (int i = 0; i < n; i++)
	{
		char		sql[100];
		PGresult   *result;
		const char *function = NULL;

		snprintf(sql, sizeof(sql), "SELECT * FROM fuzz.look('%s')", copy.id);
		result = ask(s, sql);
		if (PQntuples(result) == 0)
		{
			PQclear(result);
			break;
		}
		for (size_t j = 0; j < lengthof(fitting); j++)
			if (fitting[j].state == PQgetvalue(result, 0, 0)[0])
			{
				int			count = 0;

				while (count < (int) lengthof(fitting[j].functions) && fitting[j].functions[count] != NULL)
					count++;
				function = fitting[j].functions[below(c, count)];
			}
		/* the step that somebody must decide about, or a listener undo */
		if (sscanf(PQgetvalue(result, 0, 1), "s%d", &s->key) != 1 || s->key >= KEYS)
			s->key = -1;
		if (!PQgetisnull(result, 0, 2) && percent(c, 50))
			add_claim(s, PQgetvalue(result, 0, 2), atoi(PQgetvalue(result, 0, 3)));
		PQclear(result);
		for (int j = 1 + below(c, 3); j > 0 && function != NULL; j--)
			one_call(s, function_named(function), slot);
		collect(s);
	}
	s->key = -1;
}

/* Several calls in one statement. */
static void
many_calls(Session *s)
{
	Chance	   *c = &s->chance;
	Statement  *st = new_statement(s, W_CALL);
	int			n = 2 + below(c, 4);
	int			slot = any_slot(s);
	int			begin = function_named("begin");

	switch (below(c, 7))
	{
		case 0:
		case 1:
			/* in a select list */
			text_add(&st->sql, "SELECT ");
			for (int i = 0; i < n; i++)
			{
				text_add(&st->sql, i ? ", " : "");
				put_call(s, st, any_function(s), slot, NULL);
			}
			st->columns = n;
			for (int i = 0; i < n; i++)
				if (functions[st->call[i].function].set)
					st->columns = 0;
			break;
		case 2:
			{
				/* laterally, on a saga begun here */
				static const char *const then[] = {
					"step", "complete_step", "fail_step", "complete", "fail",
					"cancel", "rollback_to", "plan", "pause", "resume", "step",
					"resolve", "abandon", "reopen", "redact", "amend"
				};

				text_add(&st->sql, "SELECT s, f::text FROM ");
				put_call(s, st, begin, -1, NULL);
				text_add(&st->sql, " AS s");
				for (int i = 1; i < n; i++)
				{
					text_add(&st->sql, ", LATERAL ");
					put_call(s, st, function_named(i < 3 ? then[0] : ONE_OF(c, then)), slot, "s");
					text_add(&st->sql, " AS f%d", i);
				}
				text_add(&st->sql, ", LATERAL ");
				put_call(s, st, function_named(ONE_OF(c, then)), slot, "s");
				text_add(&st->sql, " AS f");
				/* The first column is the first call's. */
				if (!st->call[0].odd && roles[s->role].owns)
					st->columns = 1;
				break;
			}
		case 3:
			/* over and over */
			text_add(&st->sql, "SELECT ");
			put_call(s, st, any_function(s), slot, NULL);
			text_add(&st->sql, " FROM pg_catalog.generate_series(1, %d)", 1 + below(c, 20));
			st->columns = functions[st->call[0].function].set ? 0 : 1;
			break;
		case 4:
			/* where nobody expects it */
			text_add(&st->sql, "WITH x AS MATERIALIZED (SELECT (");
			put_call(s, st, any_function(s), slot, NULL);
			text_add(&st->sql, ")::text AS y) INSERT INTO fuzz.sink SELECT y FROM x RETURNING (SELECT count(*) FROM (SELECT ");
			put_call(s, st, any_function(s), slot, NULL);
			text_add(&st->sql, ") z)");
			break;
		case 5:
			/* whole lives, from nothing */
			text_add(&st->sql, "SELECT saga.fail(s, 'life'), st.seq FROM pg_catalog.generate_series(1, %d) g, "
					 "LATERAL saga.begin('life', NULL, pg_catalog.to_jsonb(g)) AS s, "
					 "LATERAL saga.step(s, 'a', compensation => 'SELECT 1', completed => true) AS st",
					 1 + below(c, 10));
			st->ncalls = 3;
			st->call[0].function = function_named("fail");
			st->call[1].function = begin;
			st->call[2].function = function_named("step");
			for (int i = 0; i < 3; i++)
				st->call[i].slot = -1;
			break;
		default:
			/* at commit, by a deferred trigger */
			{
				Call		call;

				aim(s, &call, function_named("fail"), slot);
				text_add(&st->sql, "INSERT INTO fuzz.at_commit VALUES ('%s')", call.id);
				st->call[st->ncalls++] = call;
			}
	}
	queue(s);
}

static void
unit_statement(Session *s)
{
	int			n = 1 + below(&s->chance, 6);

	for (int i = 0; i < n; i++)
		many_calls(s);
	collect(s);
}

/* Calls whose errors are caught within the statement. */
static void
unit_attempt(Session *s)
{
	int			n = 1 + below(&s->chance, 4);
	int			slot = any_slot(s);

	for (int i = 0; i < n; i++)
	{
		Statement  *st = new_statement(s, W_CALL);
		Statement  *inner = calloc(1, sizeof(Statement));

		inner->no_params = true;
		text_add(&inner->sql, "SELECT ");
		put_call(s, inner, any_function(s), slot, NULL);
		st->ncalls = inner->ncalls;
		memcpy(st->call, inner->call, sizeof(st->call));
		st->where |= inner->where;
		text_add(&st->sql, "SELECT fuzz.attempt(");
		st->no_params = true;
		put_bytes(s, st, inner->sql.data, inner->sql.length, "text");
		text_add(&st->sql, ")");
		st->attempted = true;
		queue(s);
		free(inner->sql.data);
		free(inner);
	}
	collect(s);
}

static void
unit_transaction(Session *s)
{
	Chance	   *c = &s->chance;
	static const char *const levels[] = {
		"", "", "", "", " ISOLATION LEVEL REPEATABLE READ",
		" ISOLATION LEVEL SERIALIZABLE", " ISOLATION LEVEL READ UNCOMMITTED",
		" READ ONLY", " ISOLATION LEVEL SERIALIZABLE READ ONLY"
	};
	int			n = 2 + below(c, 14);
	int			slot = percent(c, 70) ? any_slot(s) : -1;
	int			depth = 0;

	queue_sql(s, W_CONTROL, "BEGIN%s", ONE_OF(c, levels));
	for (int i = 0; i < n; i++)
	{
		collect(s);
		/* Most of what fails is taken back, and the transaction goes on. */
		if (PQtransactionStatus(s->conn) == PQTRANS_INERROR && percent(c, 85))
		{
			if (depth == 0)
				break;
			depth = 1 + below(c, depth);
			queue_sql(s, W_CONTROL, "ROLLBACK TO p%d", depth);
		}
		switch (below(c, 10))
		{
			case 0:
			case 1:
			case 2:
				queue_sql(s, W_CONTROL, "SAVEPOINT p%d", ++depth);
				break;
			case 3:
				if (depth > 0)
				{
					depth = 1 + below(c, depth);
					queue_sql(s, W_CONTROL, "ROLLBACK TO p%d", depth);
				}
				break;
			case 4:
				if (depth > 0)
				{
					int			to = 1 + below(c, depth);

					queue_sql(s, W_CONTROL, "RELEASE p%d", to);
					depth = to - 1;
				}
				break;
			case 5:
				many_calls(s);
				break;
			default:
				one_call(s, any_function(s), slot);
		}
	}
	if (percent(c, 12) && s->prepared_count < (int) lengthof(s->prepared))
	{
		char	   *gid = s->prepared[s->prepared_count++];

		snprintf(gid, sizeof(s->prepared[0]), "fuzz-%d-%d-%ld", s->database, s->number, s->unit);
		queue_sql(s, W_CONTROL | W_CALL, "PREPARE TRANSACTION '%s'", gid);
		/* If it failed, there is none, and the transaction is over. */
	}
	else
		queue_sql(s, W_CONTROL | W_CALL, percent(c, 75) ? "COMMIT" : "ROLLBACK");
	collect(s);
}

/* Ends one of the prepared transactions of this session. */
static void
unit_finish_prepared(Session *s)
{
	int			role = s->role;

	if (s->prepared_count == 0)
		return;
	if (role != SUPERUSER)
		take_role(s, SUPERUSER);
	queue_sql(s, W_CONTROL, "%s PREPARED '%s'", percent(&s->chance, 60) ? "COMMIT" : "ROLLBACK",
			  s->prepared[--s->prepared_count]);
	collect(s);
	if (role != SUPERUSER)
		take_role(s, role);
}

/* Is a function about a single saga, which its first argument names? */
static bool
is_about_one(const Function *f)
{
	return f->args[0].name != NULL && strcmp(f->args[0].name, "saga_id") == 0;
}

/*
 * A call must not change a saga that it is not about, and not its own where it
 * only reads.  One snapshot shows what this transaction does and nothing else.
 */
static void
unit_fingerprint(Session *s)
{
	Chance	   *c = &s->chance;
	int			function = any_function(s);
	const Function *f = &functions[function];
	int			slot = any_slot(s);
	int			other = f->reads ? slot : (slot + 1 + below(c, POOL - 1)) % POOL;
	Slot		copy;

	bool		reads = f->reads;

	if (!is_about_one(f))
		return;
	look_up(s, other, &copy);
	if (copy.id[0] == '\0')
		return;
	queue_sql(s, W_CONTROL, "BEGIN ISOLATION LEVEL REPEATABLE READ");
	s->fingerprint[0] = '\0';
	for (int i = 1 + below(c, 6); i >= 0; i--)
	{
		Statement  *st = new_statement(s, W_CONTROL | W_CALL);

		text_add(&st->sql, "SELECT fuzz.fingerprint('%s')", copy.id);
		st->fingerprint = true;
		st->compare = true;
		queue(s);
		if (i == 0)
			break;
		queue_sql(s, W_CONTROL, "SAVEPOINT p");
		one_call(s, function, slot);
		/* It may be that its slot holds that saga by now. */
		if (!f->reads && strcmp(s->batch[s->queued - 1].call[0].id, copy.id) == 0)
			s->fingerprint[0] = '\0';
		collect(s);
		if (PQtransactionStatus(s->conn) == PQTRANS_INERROR)
			queue_sql(s, W_CONTROL, "ROLLBACK TO p");
		do
		{
			function = any_function(s);
			f = &functions[function];
		} while (f->reads != reads || !is_about_one(f));
	}
	queue_sql(s, W_CONTROL | W_CALL, percent(c, 50) ? "COMMIT" : "ROLLBACK");
	collect(s);
}

static void
unit_views(Session *s)
{
	Chance	   *c = &s->chance;
	static const char *const views[] = {
		"sagas", "steps", "attempts", "events", "review_queue", "pending_compensations", "pending_tasks",
		"signals",
		"undoing", "running"
	};
	int			n = 1 + below(c, 4);

	for (int i = 0; i < n; i++)
	{
		Statement  *st = new_statement(s, W_VIEW);
		Call		call;
		const char *view = ONE_OF(c, views);

		aim(s, &call, function_named("plan"), -1);
		text_add(&st->sql, "SELECT * FROM saga.%s WHERE %s = ", view,
				 strcmp(view, "sagas") == 0 || strcmp(view, "undoing") == 0 ?
				 "id" : "saga_id");
		if (call.slot >= 0)
			put(s, st, call.id, "uuid");
		else
			put_odd_id(s, st);
		queue(s);
	}
	collect(s);
}

/* Settings that everybody may set, and some that not everybody may. */
static void
unit_settings(Session *s)
{
	Chance	   *c = &s->chance;
	static const char *const odd[] = {
		"SET saga.retry_delay = '%d ms'", "SET saga.retry_delay = '%d'",
		"SET saga.max_attempts = %d", "SET saga.retry_jitter = %d",
		"SET saga.retry_backoff = 'linear'", "SET saga.retry_backoff = 'x%d'",
		"SET saga.compensation_timeout = %d", "SET saga.default_timeout = '%d s'",
		"SET saga.capture_settings = 'app.tenant, search_path, TimeZone, no.such'",
		"SET saga.capture_settings = '\"'", "SET saga.capture_settings = ''",
		"SET app.tenant = 'tenant %d'", "SET saga.nothing = %d",
		"SET saga.enabled = off", "SET saga.allow_superuser = off",
		"SET saga.max_steps = %d", "SET saga.max_open_sagas = %d",
		"SET saga.max_payload = %d", "SET saga.operator_role = 'fuzz_outsider'",
		"SET search_path = nowhere, fuzz", "SET search_path = ''",
		"SET TimeZone = 'Asia/Kathmandu'", "SET DateStyle = 'SQL, DMY'",
		"SET IntervalStyle = 'iso_8601'", "SET bytea_output = 'escape'",
		"SET force_parallel_mode = on", "SET plan_cache_mode = force_generic_plan",
		"SET default_transaction_isolation = 'serializable'",
		"SET client_encoding = 'LATIN1'", "SET client_encoding = 'SQL_ASCII'",
		"SET extra_float_digits = %d", "SET synchronous_commit = off",
		"DISCARD ALL", "RESET ALL", "SET work_mem = '64kB'",
		"SET default_transaction_read_only = on", "SET row_security = off",
		"SET xmloption = document", "SET transform_null_equals = on",
		"SET max_stack_depth = '100kB'"
	};
	int			n = 1 + below(c, 3);
	int			numbers[] = {0, 1, 2, 3, 10, 11, 999, 1000, 1001, -1, 1000000};

	for (int i = 0; i < n; i++)
	{
		char		sql[200];
		const char *format = ONE_OF(c, odd);

		/* Those that a session must not stay with end with the unit. */
		snprintf(sql, sizeof(sql), format, ONE_OF(c, numbers));
		queue_sql(s, W_CONTROL, "%s", sql);
	}
	collect(s);
	/* DISCARD ALL takes the role away, too. */
	timeouts(s);
	take_role(s, s->role);
	for (int i = below(c, 3); i >= 0; i--)
	{
		unit_batch(s);
		unit_statement(s);
	}
	queue_sql(s, W_CONTROL, "RESET ALL");
	collect(s);
	settings(s);
}

/* Waits that would last for ever are cut short. */
static void
unit_wait(Session *s)
{
	Chance	   *c = &s->chance;
	static const char *const timeouts[] = {
		"NULL", "'100 years'", "'1 minute'", "'50 ms'", "'0'"
	};
	Statement  *st;
	Call		call;

	aim(s, &call, function_named("wait"), -1);
	if (call.slot < 0)
		return;
	queue_sql(s, W_CONTROL, "SET statement_timeout = '%d ms'", 5 + below(c, 40));
	st = new_statement(s, W_CALL | W_WAIT);
	text_add(&st->sql, "SELECT saga.wait('%s', %s%s)", call.id, ONE_OF(c, timeouts),
			 percent(c, 50) ? "" : ", 'abandoned'");
	st->waits = true;
	st->columns = 1;
	st->call[st->ncalls++] = call;
	queue(s);
	collect(s);
	insist(s, "RESET statement_timeout");
	settings(s);
}

/* What a superuser or database owner does once in a while. */
static void
unit_dba(Session *s)
{
	Chance	   *c = &s->chance;
	int			role = s->role;
	int			n = below(c, 12);
	Slot		copy;

	look_up(s, below(c, POOL), &copy);
	if (role != SUPERUSER)
		take_role(s, n == 0 ? role_named("fuzz_dba") : SUPERUSER);
	switch (n)
	{
		case 0:
		case 1:
			one_call(s, function_named("adopt"), -1);
			break;
		case 2:
			one_call(s, function_named("reassign"), -1);
			break;
		case 3:
			one_call(s, function_named("internal_settle_home"), -1);
			break;
		case 4:
			queue_sql(s, W_CONTROL, "ALTER ROLE fuzz_c RENAME TO fuzz_c2");
			collect(s);
			for (int i = 0; i < 3; i++)
				unit_batch(s);
			queue_sql(s, W_CONTROL, "ALTER ROLE fuzz_c2 RENAME TO fuzz_c");
			break;
		case 5:
			queue_sql(s, W_CONTROL, "ALTER ROLE fuzz_c NOLOGIN");
			collect(s);
			for (int i = 0; i < 3; i++)
				unit_batch(s);
			queue_sql(s, W_CONTROL, "ALTER ROLE fuzz_c LOGIN");
			break;
		case 6:
			if (copy.id[0] == '\0')
				break;
			/* the ledger is marked as a copy by this, and adopted again */
			queue_sql(s, W_WRITE, "UPDATE saga.ledger_saga SET reason = reason WHERE id = '%s'", copy.id);
			collect(s);
			unit_batch(s);
			one_call(s, function_named("adopt"), -1);
			break;
		case 7:
			queue_sql(s, W_CONTROL, "VACUUM saga.ledger_saga, saga.ledger_step, saga.ledger_due, saga.ledger_queue");
			break;
		case 8:
			queue_sql(s, W_CONTROL, "TRUNCATE fuzz.sink");
			break;
		default:
			/* far enough to make leases and deadlines end, not retries in years */
			if (has_clock)
				queue_sql(s, W_CONTROL, "SELECT fuzz.advance_clock('%d ms')", 1 << below(c, 14));
	}
	collect(s);
	if (s->role != role)
		take_role(s, role);
}

/* Nobody but superusers writes to the tables. */
static void
unit_write(Session *s)
{
	Chance	   *c = &s->chance;
	static const char *const writes[] = {
		"UPDATE saga.ledger_saga SET state = 'd'", "DELETE FROM saga.ledger_step",
		"DELETE FROM saga.ledger_saga", "UPDATE saga.ledger_step SET comp_status = 'c'",
		"INSERT INTO saga.ledger_due VALUES (0, now(), '00000000-0000-0000-0000-000000000000', 0)",
		"INSERT INTO saga.ledger_queue VALUES ('fuzz_x', 'c', 10, now(), '00000000-0000-0000-0000-000000000000', 1)",
		"TRUNCATE saga.ledger_attempt", "DELETE FROM saga.ledger_event",
		"UPDATE saga.ledger_home SET copied = false",
		"DELETE FROM saga.ledger_attempt", "TRUNCATE saga.ledger_home, saga.ledger_queue"
	};
	Statement  *st;

	if (s->role == SUPERUSER)
		return;
	if (percent(c, 30))
		take_role(s, role_named("fuzz_writer"));
	st = new_statement(s, W_WRITE);
	text_add(&st->sql, "%s", ONE_OF(c, writes));
	st->must_fail = true;
	queue(s);
	if (percent(c, 20))
		queue_sql(s, W_CONTROL | W_WRITE, "SELECT setval('saga.start_order', %d)", 1 + below(c, 5000));
	collect(s);
}

/* A consumer's turn: claims, and reports what it claimed. */
static void
unit_consumer(Session *s)
{
	Chance	   *c = &s->chance;

	bool		tasks = percent(c, 50);

	one_call(s, function_named(tasks ? "claim_tasks" : "claim_compensations"), -1);
	collect(s);
	for (int i = below(c, 5); i > 0; i--)
	{
		int			n = below(c, 10);

		one_call(s, function_named(n >= 9 ? "extend_claim" : tasks ? (n < 6 ? "complete_task" : "fail_task") :
								   n < 6 ? "complete_compensation" : "fail_compensation"), -1);
	}
	collect(s);
}

void
unit(Session *s)
{
	Chance	   *c = &s->chance;
	int			n;

	/* What this unit does follows from these three. */
	c->state = seed * UINT64_C(0xD1B54A32D192ED03) +
		(uint64_t) s->number * UINT64_C(0x8CB92BA72F3D8DD7) + (uint64_t) s->unit;
	(void) next_random(c);

	if (s->calls_only)
	{
		n = below(c, 100);
		if (n < 60)
			unit_batch(s);
		else if (n < 75)
			unit_statement(s);
		else if (n < 85)
			unit_transaction(s);
		else if (n < 93)
			unit_attempt(s);
		else if (n < 97)
			unit_consumer(s);
		else
			unit_fingerprint(s);
		if (s->prepared_count > 0)
			unit_finish_prepared(s);
		return;
	}
	if (percent(c, 4))
		take_any_role(s);
	if (s->claimer && percent(c, 70))
	{
		if (roles[s->role].others != REACH_OWN)
			take_role(s, role_named("fuzz_team"));
		unit_consumer(s);
		return;
	}
	n = below(c, 1000);
	if (n < 270)
		unit_batch(s);
	else if (n < 470)
		unit_deep(s);
	else if (n < 600)
		unit_statement(s);
	else if (n < 770)
		unit_transaction(s);
	else if (n < 830)
		unit_attempt(s);
	else if (n < 880)
		unit_fingerprint(s);
	else if (n < 905)
		unit_views(s);
	else if (n < 920)
		unit_settings(s);
	else if (n < 935)
		unit_wait(s);
	else if (n < 945)
		unit_dba(s);
	else if (n < 955)
		unit_write(s);
	else if (n < 985)
		unit_consumer(s);
	else if (n < 987)
	{
		/* another process */
		collect(s);
		PQfinish(s->conn);
		open_session(s);
		take_any_role(s);
	}
	if (s->prepared_count > 0 && percent(c, 30))
		unit_finish_prepared(s);
}

void
run_session(int number)
{
	Session    *s = calloc(1, sizeof(Session));
	long		end = now_seconds() + seconds;

	s->number = number;
	s->key = -1;
	s->database = number % database_count;
	s->claimer = number % 4 == 3;
	s->chance.state = seed + (uint64_t) number;
	if (log_all)
	{
		char		name[512];

		snprintf(name, sizeof(name), "%s/session-%d.sql", out_dir, number);
		s->log = fopen(name, "w");
	}
	open_session(s);
	take_any_role(s);
	while (!atomic_load(&shared->stop) && now_seconds() < end &&
		   atomic_load(&shared->calls) < max_calls)
	{
		unit(s);
		s->unit++;
	}
	take_role(s, SUPERUSER);
	while (s->prepared_count > 0)
		unit_finish_prepared(s);
	PQfinish(s->conn);
	if (s->log != NULL)
		fclose(s->log);
	exit(0);
}
