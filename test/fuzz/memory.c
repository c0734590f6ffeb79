/*-------------------------------------------------------------------------
 *
 * memory.c
 *	  What a session holds, after so many calls of each kind.
 *
 *-------------------------------------------------------------------------
 */
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "fuzz.h"

/*
 * What a session holds, in bytes: by its memory contexts, and by the kernel's
 * count of its data segment.
 */
typedef struct Memory
{
	long		top;			/* TopMemoryContext itself */
	long		cache;			/* CacheMemoryContext itself */
	long		all;			/* all contexts */
	long		data;			/* VmData */
	int			worker_pid;
	long		worker;			/* VmData of the database's worker */
} Memory;

static long
data_segment(int pid)
{
	char		name[64];
	char		line[256];
	long		kilobytes = 0;
	FILE	   *f;

	snprintf(name, sizeof(name), "/proc/%d/status", pid);
	f = fopen(name, "r");
	if (f == NULL)
		return 0;
	while (fgets(line, sizeof(line), f) != NULL)
		if (sscanf(line, "VmData: %ld", &kilobytes) == 1)
			break;
	fclose(f);
	return kilobytes * 1024;
}

static Memory
measure(Session *s)
{
	Memory		m;
	PGresult   *result;

	result = ask(s,
				 "SELECT sum(used_bytes) FILTER (WHERE name = 'TopMemoryContext'), "
				 "sum(used_bytes) FILTER (WHERE name = 'CacheMemoryContext'), "
				 /* what this statement needs is the same each time */
				 "sum(used_bytes), "
				 "pg_catalog.pg_backend_pid(), "
				 "(SELECT max(pid) FROM pg_catalog.pg_stat_activity WHERE backend_type = 'saga worker' AND datname = pg_catalog.current_database()) "
				 "FROM pg_catalog.pg_backend_memory_contexts");
	m.top = atol(PQgetvalue(result, 0, 0));
	m.cache = atol(PQgetvalue(result, 0, 1));
	m.all = atol(PQgetvalue(result, 0, 2));
	m.data = data_segment(atoi(PQgetvalue(result, 0, 3)));
	m.worker_pid = atoi(PQgetvalue(result, 0, 4));
	m.worker = data_segment(m.worker_pid);
	PQclear(result);
	return m;
}

/* Where it grew, for whoever looks into it. */
static void
print_contexts(Session *s)
{
	PGresult   *result = ask(s,
							 "SELECT name, coalesce(left(ident, 60), ''), count(*), sum(used_bytes), sum(total_bytes) "
							 "FROM pg_catalog.pg_backend_memory_contexts GROUP BY 1, 2 ORDER BY 4 DESC LIMIT 15");

	for (int i = 0; i < PQntuples(result); i++)
		printf("    %-30s %-40s %5s %12s %12s\n", PQgetvalue(result, i, 0), PQgetvalue(result, i, 1),
			   PQgetvalue(result, i, 2), PQgetvalue(result, i, 3), PQgetvalue(result, i, 4));
	PQclear(result);
}

/* One statement of a loop over one function: as often as can be, a success. */
static void
loop_statement(Session *s, int function)
{
	const Function *f = &functions[function];
	Chance	   *c = &s->chance;
	Statement  *st;
	/* On a saga made for it: what comes before the call, with "s" for its id. */
	static const struct
	{
		const char *function;
		const char *sql;
	}			made[] = {
		{"complete_step", "SELECT saga.complete_step(s, 'a', '{}') FROM saga.begin('m') s, LATERAL saga.step(s, 'a') x"},
		{"fail_step", "SELECT saga.fail_step(s, 'a', 'e') FROM saga.begin('m') s, LATERAL saga.step(s, 'a') x"},
		{"complete", "SELECT saga.complete(s, '{}') FROM saga.begin('m') s"},
		{"fail", "SELECT saga.fail(s, 'r', '{}') FROM saga.begin('m') s"},
		{"cancel", "SELECT saga.cancel(s, 'r') FROM saga.begin('m') s"},
		{"step", "SELECT saga.step(s, 'a', compensation => 'SELECT 1', args => '{\"a\": 1}', review => 'x', completed => true) FROM saga.begin('m') s"},
		{"rollback_to", "SELECT saga.rollback_to(s, NULL, 'r') FROM saga.begin('m') s, LATERAL saga.step(s, 'a', completed => true) x"},
		{"plan", "SELECT p.* FROM saga.begin('m') s, LATERAL saga.step(s, 'a', compensation => 'SELECT 1') x, LATERAL saga.plan(s) p"},
		{"redact", "SELECT saga.redact(s) FROM saga.begin('m', NULL, '{\"secret\": 1}') s, LATERAL saga.complete(s) x"},
		{"pause", "SELECT saga.pause(s, 'n') FROM saga.begin('m') s"},
		{"resume", "SELECT saga.resume(s, 'n') FROM saga.begin('m') s, LATERAL saga.pause(s, 'n') x"},
		{"reopen", "SELECT saga.reopen(s, 'n') FROM saga.begin('m') s, LATERAL saga.step(s, 'a', kind => 'pivot', completed => true) x, LATERAL saga.fail(s) y"},
		{"abandon", "SELECT saga.abandon(s, 'n') FROM saga.begin('m') s, LATERAL saga.step(s, 'a', kind => 'pivot', completed => true) x, LATERAL saga.fail(s) y"},
		/* Recorded late, a step waits for a decision without any process of ours. */
		{"resolve", "SELECT saga.resolve(s, 'a', 'skip', 'n') FROM saga.begin('m') s, LATERAL saga.step(s, 'a', compensation => 'SELECT 1', compensate_on => 'completed') x, LATERAL saga.cancel(s) y, LATERAL saga.complete_step(s, 'a', late => 'record') z"},
		{"set_timeout", "SELECT saga.set_timeout(s, '1 day', 'n') FROM saga.begin('m') s"},
		{"amend", "SELECT saga.amend(s, 'a', 'n', compensation => 'SELECT 1') FROM saga.begin('m') s, LATERAL saga.step(s, 'a') x"},
		{"purge", "SELECT saga.purge('0', 3) FROM saga.begin('m') s, LATERAL saga.complete(s) x"},
	};

	if (percent(c, 50))
		for (size_t i = 0; i < lengthof(made); i++)
			if (strcmp(made[i].function, f->name) == 0)
			{
				st = new_statement(s, W_CALL);
				text_add(&st->sql, "%s", made[i].sql);
				st->ncalls = 1;
				st->call[0].function = function;
				st->call[0].slot = -1;
				queue(s);
				return;
			}
	one_call(s, function, -1);
}

/*
 * Runs a loop, and compares what the session holds after its first part with
 * what it holds at its end.
 */
static void
loop(Session *s, const char *what, int function, long warm_up, long count)
{
	Memory		before = {0};
	Memory		after;
	long		from = atomic_load(&shared->calls);
	long		ok = function >= 0 ? atomic_load(&shared->ok[function]) : 0;
	bool		warm = false;
	long		limit;

	for (;;)
	{
		long		done = atomic_load(&shared->calls) - from;

		if (!warm && done >= warm_up)
		{
			before = measure(s);
			/* What measuring itself leaves behind is not counted. */
			before = measure(s);
			warm = true;
		}
		if (done >= warm_up + count || atomic_load(&shared->stop))
			break;
		s->unit++;
		if (function < 0)
			unit(s);
		else
		{
			s->chance.state = seed * UINT64_C(0xD1B54A32D192ED03) + (uint64_t) s->unit * 977;
			/* A full batch is collected by itself. */
			for (int i = 0; i < BATCH; i++)
				loop_statement(s, function);
			collect(s);
		}
	}
	after = measure(s);
	/* One that came after another left is not the one measured before. */
	if (after.worker_pid != before.worker_pid)
		after.worker = before.worker;
	/* Less than a byte a call, and room for what comes late to a cache. */
	limit = 40 * 1024 + count / 4;
	printf("%-28s %8ld calls, %8ld ok: Top %+ld, Cache %+ld, all %+ld, data segment %+ld kB, the worker's %+ld kB\n",
		   what, count, function >= 0 ? (long) atomic_load(&shared->ok[function]) - ok : 0,
		   after.top - before.top, after.cache - before.cache, after.all - before.all,
		   (after.data - before.data) / 1024, (after.worker - before.worker) / 1024);
	fflush(stdout);
	if (after.top - before.top > limit || after.all - before.all > limit ||
		after.data - before.data > 16 * 1024 * 1024 + limit ||
		after.worker - before.worker > 16 * 1024 * 1024 + limit)
	{
		finding(s, NULL, "memory grows: %s: %ld calls, Top %ld, Cache %ld, all %ld, data segment %ld bytes",
				what, count, after.top - before.top, after.cache - before.cache,
				after.all - before.all, after.data - before.data);
		print_contexts(s);
	}
}

/* Does a function look at the whole ledger? */
static bool
looks_at_all(const Function *f)
{
	return f->dba || strcmp(f->name, "purge") == 0;
}

int
memory(void)
{
	Session    *s = calloc(1, sizeof(Session));
	time_t		start = now_seconds();
	long		count = max_calls == LONG_MAX ? 100000 : max_calls;

	session_count = 1;
	s->key = -1;
	s->calls_only = true;
	open_session(s);
	/* Sagas for calls about any. */
	for (int i = 0; i < POOL; i++)
	{
		loop_statement(s, function_named("begin"));
		collect(s);
	}
	loop(s, "the mix", -1, count / 4 + 5000, count);
	/* Those that look at the whole ledger come first, while it is small. */
	for (int i = 0; i < FUNCTIONS; i++)
		if (looks_at_all(&functions[i]))
			loop(s, functions[i].name, i, count / 100 + 100, count / 100 + 100);
	for (int i = 0; i < FUNCTIONS; i++)
		if (!looks_at_all(&functions[i]))
			loop(s, functions[i].name, i, count / 20 + 500, count);
	PQfinish(s->conn);
	print_statistics(now_seconds() - start);
	return shared->findings > 0 ? 1 : 0;
}
