/*-------------------------------------------------------------------------
 *
 * arguments.c
 *	  The usual arguments, the odd ones, and whole calls of them.
 *
 * Four calls of five have the usual arguments only, since most odd ones are
 * refused before anything else happens.  What a step is made of follows from
 * its saga and its key, so that whoever calls saga.step for it again says the
 * same.
 *
 *-------------------------------------------------------------------------
 */
#include <ctype.h>
#include <stdio.h>
#include <string.h>

#include "fuzz.h"

/* The words of the vocabulary, wherever they belong: 0 to 5 are a saga's states. */
const char *const words[] = {
	"running", "completed", "compensating", "compensated", "needs_review",
	"abandoned", "started", "failed", "none", "registered", "pending",
	"dispatched", "skipped", "failed", "cancelled", "timed out",
	"compensatable", "pivot", "retriable", "constant", "linear",
	"exponential", "halt", "continue", "error", "record", "retry", "done",
	"skip", "approve", "refuse", "waiting", "fail", "review", "succeeded", "interrupted", "deferred", "stale", "Retry", "DONE",
	"retry ", "pivot\n", "NULL", "r", "d", "u", "c", "p", "a"
};

const int	word_count = (int) lengthof(words);

enum
{
	ACTION_NONE, ACTION_WITNESS, ACTION_UNDO, ACTION_SQL, ACTION_NOTIFY,
	ACTION_REVIEW, ACTION_REVIEW_SQL, ACTION_REVIEW_NOTIFY,
	ACTIONS
};

/* The works of steps that saga runs, and their gates */
enum
{
	WORK_OF_APPLICATION, WORK_WITNESS, WORK_ACT, WORK_SQL, WORK_TASK, WORK_NONE
};

#define GATE_LIST		0x01
#define GATE_DELAY		0x02
#define GATE_NOT_BEFORE	0x04
#define GATE_SIGNALS	0x08
#define GATE_APPROVAL	0x10
#define GATE_TIMEOUT	0x20

static const char *const act_witness_sql =
	"INSERT INTO fuzz.done SELECT ($1->'saga'->>'id')::uuid, ($1->'step'->>'seq')::bigint RETURNING seq";

static const char *const other_action_sql[] = {
	"SELECT 1", "SELECT 1/0", "SELECT no_such_function()", "SELECT FROM pg_catalog.generate_series(1, 2)",
	"SELECT g FROM pg_catalog.generate_series(1, 2) g", "SELECT 1 AS a, $1->'outputs' AS b, NULL AS a",
	"SELECT saga.output('s1')", "SELECT saga.current()", "SELECT saga.fail(saga.current())",
	"SELECT saga.complete(saga.current(), when_done => true)", "SELECT saga.complete_step(saga.current(), 's0')",
	"SELECT saga.rollback_to(saga.current(), NULL)", "SELECT saga.begin('nested')",
	"SELECT saga.fail(saga.begin('inner'))", "SET ROLE NONE", "CREATE TEMP TABLE t (a int)",
	"SELECT pg_catalog.pg_sleep(1)", "SELECT pg_catalog.pg_sleep(0.002)",
	"SELECT saga.require(false, 'never')", "DO $$BEGIN RAISE EXCEPTION 'x' USING ERRCODE = 'SG009'; END$$",
	"SELECT pg_catalog.repeat('long', 100000)", "COPY fuzz.sink FROM '/dev/null'",
	"INSERT INTO fuzz.at_commit VALUES ($1->'saga'->>'id')",
	"SELECT saga.step(saga.current(), 'same'), saga.step(saga.current(), 'same')",
	"SELECT saga.step(saga.current(), 'after', after => '{s0,s1}', action => 'SELECT 1')",
	"SELECT saga.wait_step(saga.current(), 's0', '1 ms')", "SELECT saga.plan(saga.current())",
	"SELECT saga.pause(saga.current(), 'wait'), saga.redact(saga.current())",
	"SELECT saga.again('3 ms') WHERE ($1->>'round')::int < 3",
	"SELECT saga.again(state => $1->'state') FROM pg_catalog.generate_series(1, 2) WHERE random() < 0.8",
	"SELECT saga.again(not_before => now() + '5 ms'), saga.step(saga.current(), 'round') WHERE random() < 0.5",
	"SELECT saga.again('-1 s')", "SELECT saga.signal(saga.current(), 'paid', '1')"
};

static const char *const witness_sql =
	"INSERT INTO fuzz.undone SELECT ($1->'saga'->>'id')::uuid, ($1->'step'->>'seq')::bigint";

static const char *const other_sql[] = {
	"SELECT 1", "SELECT 1/0", "SELECT no_such_function()",
	"SELECT 1; SELECT 2; SELECT $1", "CREATE TEMP TABLE t (a int); INSERT INTO t VALUES (1)",
	"SELECT pg_sleep(1)", "SET ROLE NONE", "SELECT saga.begin('nested')",
	"SELECT saga.fail(($1->'saga'->>'id')::uuid)",
	"DO $$BEGIN RAISE EXCEPTION 'x' USING ERRCODE = 'SG006'; END$$",
	"SELECT saga.fail(saga.begin('inner'))",
	"INSERT INTO fuzz.at_commit VALUES ($1->'saga'->>'id')",
	"SELECT pg_sleep(0.002)"
};

static const char *const undo_modes[] = {
	"ok", "ok", "ok", "ok", "error", "SG006", "SG007", "40001", "sleep",
	"long", "words", "lock", "once", "once", "terminate"
};

const char *const channels[4] = {
	"fuzz_x", "fuzz_y", "Fuzz \"z\"; --", "xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx"
};

static Spec
spec_of(uint32_t salt, int key)
{
	Chance		c = {((uint64_t) salt << 8) + (uint64_t) key};
	Spec		spec;
	int			n;

	(void) next_random(&c);
	n = below(&c, 100);
	spec.action = n < 12 ? ACTION_NONE : n < 32 ? ACTION_WITNESS :
		n < 52 ? ACTION_UNDO : n < 60 ? ACTION_SQL : n < 82 ? ACTION_NOTIFY :
		n < 88 ? ACTION_REVIEW : n < 94 ? ACTION_REVIEW_SQL : ACTION_REVIEW_NOTIFY;
	n = below(&c, 100);
	spec.kind = n < 84 ? 0 : n < 93 ? 1 : 2;
	spec.on_completed = percent(&c, 20);
	spec.acknowledge = percent(&c, 85);
	spec.args = below(&c, 1000);
	/* Half of the sagas are run by saga, but for some of their steps. */
	spec.work = WORK_OF_APPLICATION;
	spec.gates = 0;
	if (salt % 2 == 0 && percent(&c, 75))
	{
		n = below(&c, 100);
		spec.work = n < 28 ? WORK_WITNESS : n < 55 ? WORK_ACT : n < 75 ? WORK_SQL :
			n < 88 ? WORK_TASK : WORK_NONE;
		spec.gates = (percent(&c, 25) ? GATE_LIST : 0) | (percent(&c, 15) ? GATE_DELAY : 0) |
			(percent(&c, 8) ? GATE_NOT_BEFORE : 0) | (percent(&c, 8) ? GATE_SIGNALS : 0) |
			(percent(&c, 15) ? GATE_APPROVAL : 0) | (percent(&c, 20) ? GATE_TIMEOUT : 0);
		if (spec.work == WORK_NONE && (spec.gates & ~GATE_TIMEOUT) == 0)
			spec.gates |= GATE_DELAY;
	}
	return spec;
}

/* What is known of a saga of the pool. */
void
look_up(Session *s, int index, Slot *copy)
{
	pthread_mutex_lock(&shared->mutex);
	*copy = shared->pool[s->database].slot[index];
	pthread_mutex_unlock(&shared->mutex);
}

/* A claim of late; false if there is none. */
static bool
look_up_claim(Session *s, Claim *claim)
{
	Pool	   *pool = &shared->pool[s->database];
	bool		found;

	pthread_mutex_lock(&shared->mutex);
	found = pool->claims > 0;
	if (found)
	{
		uint32_t	back = percent(&s->chance, 70) ? (uint32_t) below(&s->chance, 6) :
			(uint32_t) below(&s->chance, RING);

		if (back >= pool->claims)
			back = pool->claims - 1;
		*claim = pool->claim[(pool->claims - 1 - back) % RING];
	}
	pthread_mutex_unlock(&shared->mutex);
	return found;
}

static void
put_key(Session *s, Statement *st, int key)
{
	char		name[16];

	snprintf(name, sizeof(name), "s%d", key);
	put(s, st, name, "text");
}

/*
 * Writes the usual value of an argument.  False: it has none, and is left out.
 */
static bool
put_usual(Session *s, Statement *st, Call *call, Kind kind, bool required,
		  const Claim *claim)
{
	Chance	   *c = &s->chance;
	char		buffer[128];

	switch (kind)
	{
		case K_SAGA_ID:
			if (call->slot >= 0)
				put(s, st, call->id, "uuid");
			else
				put_odd_id(s, st);
			return true;
		case K_SAGA_NAME:
			{
				static const char *const names[] = {"order", "trip", "transfer"};

				put(s, st, ONE_OF(c, names), "text");
				return true;
			}
		case K_SAGA_KEY:
			if (percent(c, 70))
				return false;
			snprintf(buffer, sizeof(buffer), "key %d", below(c, 40));
			put(s, st, buffer, "text");
			return true;
		case K_INPUT:
			if (percent(c, 85))
				return false;
			put(s, st, "{\"what\": \"input\"}", "jsonb");
			return true;
		case K_SUBJECT:
			if (percent(c, 90))
				return false;
			snprintf(buffer, sizeof(buffer), "customer-%d", below(c, 3));
			put(s, st, buffer, "text");
			return true;
		case K_TIMEOUT:
			{
				static const char *const timeouts[] = {
					"0", "1 ms", "30 ms", "100 ms", "500 ms", "1 hour", "100 years"
				};

				if (percent(c, 75))
					return false;
				put(s, st, ONE_OF(c, timeouts), "interval");
				return true;
			}
		case K_ON_FAILURE:
			if (percent(c, 60))
				return false;
			put(s, st, percent(c, 70) ? "continue" : "halt", "text");
			return true;
		case K_ANNOUNCE:
			if (percent(c, 75))
				return false;
			put(s, st, ONE_OF(c, channels), "text");
			return true;

		case K_STEP_NAME:
		case K_STEP:
			put_key(s, st, call->key);
			return true;
		case K_STEP_KEY:
			return false;
		case K_COMPENSATION:
			switch (call->spec.action)
			{
				case ACTION_WITNESS:
				case ACTION_REVIEW_SQL:
					put(s, st, witness_sql, "text");
					return true;
				case ACTION_UNDO:
					put(s, st, "SELECT fuzz.undo($1)", "text");
					return true;
				case ACTION_SQL:
					put(s, st, other_sql[(size_t) call->spec.args % lengthof(other_sql)], "text");
					return true;
			}
			return false;
		case K_ARGS:
			snprintf(buffer, sizeof(buffer), "{\"mode\": \"%s\", \"n\": %d}",
					 undo_modes[(size_t) call->spec.args % lengthof(undo_modes)],
					 call->spec.args % 8);
			put(s, st, buffer, "jsonb");
			return true;
		case K_NOTIFY:
			if (call->spec.action != ACTION_NOTIFY &&
				call->spec.action != ACTION_REVIEW_NOTIFY)
				return false;
			put(s, st, channels[(size_t) call->spec.args % lengthof(channels)], "text");
			return true;
		case K_ACKNOWLEDGE:
			if (call->spec.acknowledge)
				return false;
			text_add(&st->sql, "false");
			return true;
		case K_REVIEW:
			if (call->spec.action < ACTION_REVIEW)
				return false;
			put(s, st, "look at it", "text");
			return true;
		case K_STEP_OUTPUT:
			if (call->spec.work != WORK_OF_APPLICATION || percent(c, 80))
				return false;
			put(s, st, "{\"out\": 1}", "jsonb");
			return true;
		case K_STEP_COMPLETED:
			if (call->spec.work != WORK_OF_APPLICATION || percent(c, 60))
				return false;
			text_add(&st->sql, "true");
			return true;
		case K_KIND:
			if (call->spec.kind == 0 && percent(c, 80))
				return false;
			put(s, st, call->spec.kind == 0 ? "compensatable" :
				call->spec.kind == 1 ? "pivot" : "retriable", "text");
			return true;
		case K_COMPENSATE_ON:
			if (!call->spec.on_completed && percent(c, 80))
				return false;
			put(s, st, call->spec.on_completed ? "completed" : "started", "text");
			return true;
		case K_RETRY:
			if (percent(c, call->spec.work != WORK_OF_APPLICATION ? 20 : 85))
				return false;
			put_policy(s, st, false);
			return true;
		case K_COMPENSATION_RETRY:
			if (percent(c, 10))
				return false;
			put_policy(s, st, false);
			return true;

		case K_SAVEPOINT:
			if (percent(c, 25))
				put_null(st, "text");
			else
				put_key(s, st, call->key);
			return true;
		case K_POLICY_JSON:
			{
				static const char *const policies[] = {
					"{}", "{\"max_attempts\": 3}", "{\"delay\": \"5 s\", \"jitter\": 0.5}",
					"{\"backoff\": \"linear\", \"timeout\": null}"
				};

				put(s, st, ONE_OF(c, policies), "jsonb");
				return true;
			}
		case K_JSON:
			if (percent(c, 50))
				return false;
			put(s, st, percent(c, 50) ? "{\"out\": 1}" : "[1, 2, 3]", "jsonb");
			return true;
		case K_LATE:
			if (percent(c, 50))
				return false;
			put(s, st, percent(c, 80) ? "record" : "error", "text");
			return true;
		case K_FORWARD_KEY:
			{
				Slot		slot;

				if (percent(c, 80) || call->slot < 0)
					return false;
				look_up(s, call->slot, &slot);
				if (slot.seq[call->key][0] == '\0')
					return false;
				snprintf(buffer, sizeof(buffer), "%s-%s", call->id, slot.seq[call->key]);
				put(s, st, buffer, "text");
				return true;
			}
		case K_NOTE:
			put(s, st, "because", "text");
			return true;
		case K_REASON:
			if (percent(c, 50) && !required)
				return false;
			put(s, st, "for a reason", "text");
			return true;
		case K_RETRYABLE:
			if (percent(c, 60))
				return false;
			text_add(&st->sql, percent(c, 60) ? "true" : "false");
			return true;
		case K_BOOL:
			if (percent(c, 40) && !required)
				return false;
			text_add(&st->sql, percent(c, 50) ? "true" : "false");
			return true;
		case K_WAIT:
			{
				static const char *const waits[] = {"0", "1 us", "1 ms", "15 ms"};

				put(s, st, ONE_OF(c, waits), "interval");
				return true;
			}
		case K_UNTIL:
			if (percent(c, 50))
				return false;
			put(s, st, words[below(c, 6)], "text");
			return true;

		case K_MAX_ATTEMPTS:
			if (percent(c, 40))
				return false;
			text_add(&st->sql, "%d", 1 + below(c, 5));
			return true;
		case K_DELAY:
		case K_MAX_DELAY:
		case K_ATTEMPT_TIMEOUT:
			if (percent(c, 40))
				return false;
			text_add(&st->sql, "'%d ms'::interval", 10 + below(c, 50));
			return true;
		case K_BACKOFF:
			if (percent(c, 40))
				return false;
			put(s, st, words[19 + below(c, 3)], "text");
			return true;
		case K_JITTER:
			if (percent(c, 40))
				return false;
			text_add(&st->sql, "0.%d", below(c, 100));
			return true;

		case K_CHANNEL:
			put(s, st, ONE_OF(c, channels), "text");
			return true;
		case K_MAX_CLAIMS:
			if (percent(c, 30))
				return false;
			text_add(&st->sql, "%d", 1 + below(c, 4));
			return true;
		case K_LEASE:
			{
				static const char *const leases[] = {
					"1 ms", "20 ms", "200 ms", "2 s", "1 minute"
				};

				if (percent(c, 20) && !required)
					return false;
				put(s, st, ONE_OF(c, leases), "interval");
				return true;
			}
		case K_CONSUMER:
			if (percent(c, 50))
				return false;
			put(s, st, "consumer 1", "text");
			return true;
		case K_COMPENSATION_KEY:
		case K_TASK_KEY:
			if (claim != NULL && (kind == K_COMPENSATION_KEY || percent(c, 60)))
				put(s, st, claim->key, "text");
			else
			{
				Slot		slot;
				int			i = below(c, POOL);
				int			key = below(c, KEYS);

				look_up(s, i, &slot);
				if (slot.seq[key][0] == '\0')
					put_odd_text(s, st);
				else
				{
					snprintf(buffer, sizeof(buffer), "%s-%s%s", slot.id, slot.seq[key],
							 kind == K_TASK_KEY && percent(c, 80) ? "" : "-undo");
					put(s, st, buffer, "text");
				}
			}
			return true;
		case K_ATTEMPT:
			if (percent(c, 80) && claim != NULL)
				text_add(&st->sql, "%d", claim->attempt);
			else
				text_add(&st->sql, "%d", 1 + below(c, 3));
			return true;
		case K_RETRY_AFTER:
			if (percent(c, 60))
				return false;
			text_add(&st->sql, "'%d ms'::interval", below(c, 50));
			return true;

		case K_RESOLUTION:
			put(s, st, words[26 + below(c, 5)], "text");
			return true;
		case K_OLDER_THAN:
			put(s, st, percent(c, 80) ? "4 s" : "0", "interval");
			return true;
		case K_MAX_SAGAS:
			text_add(&st->sql, "%d", 1 + below(c, 200));
			return true;
		case K_ROLE_OID:
		case K_OID:
			text_add(&st->sql, "(SELECT oid FROM pg_catalog.pg_roles WHERE rolname = '%s')",
					 roles[1 + below(c, role_count - 1)].name);
			return true;
		case K_ROLE:
			text_add(&st->sql, "'fuzz_%c'::regrole", 'a' + below(c, 2));
			return true;
		case K_ROLE_NAME:
			put(s, st, roles[1 + below(c, role_count - 1)].name, "text");
			return true;
		case K_STATE_CHAR:
			text_add(&st->sql, "'%c'::\"char\"", "rducpa"[below(c, 6)]);
			return true;
		case K_POLICY_TEXT:
			text_add(&st->sql, "'%d %d %c %d 0.%d %d'::text", 1 + below(c, 5), below(c, 1000),
					 "cle"[below(c, 3)], below(c, 100000), below(c, 10), below(c, 10000));
			return true;
		case K_SEQ:
			text_add(&st->sql, "%d::bigint", 1 + below(c, 10000));
			return true;
		case K_TIME:
			if (percent(c, 50) && !required)
				return false;
			text_add(&st->sql, "pg_catalog.now() + '%d s'", below(c, 20) - 10);
			return true;

		case K_ACTION:
			switch (call->spec.work)
			{
				case WORK_WITNESS:
					put(s, st, act_witness_sql, "text");
					return true;
				case WORK_ACT:
					put(s, st, "SELECT fuzz.act($1)", "text");
					return true;
				case WORK_SQL:
					put(s, st, other_action_sql[(size_t) call->spec.args % lengthof(other_action_sql)], "text");
					return true;
			}
			return false;
		case K_TASK:
			if (call->spec.work != WORK_TASK)
				return false;
			put(s, st, channels[(size_t) call->spec.args % lengthof(channels)], "text");
			return true;
		case K_AFTER:
			if ((call->spec.gates & GATE_LIST) == 0)
				return false;
			if (call->key == 0 || call->spec.args % 3 == 0)
				put(s, st, "{}", "text[]");
			else
			{
				snprintf(buffer, sizeof(buffer), call->spec.args % 3 == 1 ? "{s%d}" : "{s0,s%d}",
						 call->spec.args % call->key);
				put(s, st, buffer, "text[]");
			}
			return true;
		case K_GATE_DELAY:
			if ((call->spec.gates & GATE_DELAY) == 0)
				return false;
			snprintf(buffer, sizeof(buffer), "%d ms", call->spec.args);
			put(s, st, buffer, "interval");
			return true;
		case K_NOT_BEFORE:
			if ((call->spec.gates & GATE_NOT_BEFORE) == 0)
				return false;
			text_add(&st->sql, "pg_catalog.now() + '%d ms'", call->spec.args);
			return true;
		case K_SIGNAL:
			put(s, st, percent(c, 70) ? "paid" : "cancelled", "text");
			return true;
		case K_SIGNALS:
			if ((call->spec.gates & GATE_SIGNALS) == 0)
				return false;
			put(s, st, call->spec.args % 2 ? "{paid}" : "{paid,cancelled}", "text[]");
			return true;
		case K_APPROVAL:
			if ((call->spec.gates & GATE_APPROVAL) == 0)
				return false;
			put(s, st, "is it right?", "text");
			return true;
		case K_STEP_TIMEOUT:
			if (call->spec.work == WORK_OF_APPLICATION || (call->spec.gates & GATE_TIMEOUT) == 0)
				return false;
			snprintf(buffer, sizeof(buffer), "%d ms", 20 + 5 * call->spec.args);
			put(s, st, buffer, "interval");
			return true;
		case K_GIVE_UP:
			{
				static const char *const give_ups[] = {"fail", "skip", "review"};

				if (call->spec.work == WORK_OF_APPLICATION || call->spec.args % 4 == 3)
					return false;
				put(s, st, give_ups[call->spec.args % 4], "text");
				return true;
			}
		case K_SEAL:
			if (percent(c, 50))
				return false;
			text_add(&st->sql, percent(c, 70) ? "true" : "false");
			return true;
	}
	return false;
}

static void
put_odd(Session *s, Statement *st, Call *call, Kind kind)
{
	Chance	   *c = &s->chance;
	const char *type = type_of_kind[kind];
	Claim		claim;

	switch (kind)
	{
		case K_COMPENSATION:
		case K_ACTION:
			{
				static const char *const odd[] = {
					"", ";", " ", "--", "/* */", "COMMIT", "BEGIN; SELECT 1", "ROLLBACK",
					"SAVEPOINT x", "SELECT", "SELEC", "VACUUM", "SELECT $2", "SELECT $1::int",
					"SELECT 'unterminated", "CREATE TABLE", "COPY fuzz.undone TO STDOUT",
					"LISTEN x", "PREPARE TRANSACTION 'x'", "SELECT (1", "DECLARE c CURSOR WITH HOLD FOR SELECT 1",
					"SET search_path = nowhere; SELECT 1", "RESET ALL", "LOAD 'saga'", "SELECT\x01", "DO 'x' LANGUAGE nope"
				};

				if (percent(c, 60))
					put(s, st, ONE_OF(c, odd), "text");
				else if (percent(c, 50))
					text_add(&st->sql, "'SELECT ' || pg_catalog.repeat('1 + ', %d) || '1'", 1 + below(c, 1500));
				else if (percent(c, 50))
					text_add(&st->sql, "pg_catalog.repeat('SELECT 1;', %d)", 1 + below(c, 1000));
				else
					put_odd_text(s, st);
				return;
			}
		case K_COMPENSATION_KEY:
		case K_TASK_KEY:
			if (!look_up_claim(s, &claim))
				put_odd_text(s, st);
			else
			{
				char		id[37];
				const char *rest = claim.key + 36;

				memcpy(id, claim.key, 36);
				id[36] = '\0';
				text_add(&st->sql, "'");
				switch (below(c, 9))
				{
					case 0:
						text_add(&st->sql, "%.*s", below(c, (int) strlen(claim.key)), claim.key);
						break;
					case 1:
						text_add(&st->sql, "%s0", claim.key);
						break;
					case 2:
						for (char *p = id; *p; p++)
							*p = (char) toupper((unsigned char) *p);
						text_add(&st->sql, "%s%s", id, rest);
						break;
					case 3:
						text_add(&st->sql, "%s-0%s", id, rest + 1);
						break;
					case 4:
						text_add(&st->sql, "%s-99999999999999999999-undo", id);
						break;
					case 5:
						text_add(&st->sql, "%s-9223372036854775807-undo", id);
						break;
					case 6:
						text_add(&st->sql, "%s--1-undo", id);
						break;
					case 7:
						text_add(&st->sql, "00000000-0000-0000-0000-000000000000-1-undo");
						break;
					default:
						text_add(&st->sql, "%s-%d-undo", id, 1 + below(c, 100000));
				}
				text_add(&st->sql, "'::text");
			}
			return;
		case K_POLICY_TEXT:
			{
				static const char *const odd[] = {
					"", "5", "a b c d e f", "5 1000 x 300000 0.1 600000",
					"99999999999999999999 1 e 1 1 1", "-1 -1 c -1 -1 -1",
					"5 9223372036854775807 e 9223372036854775807 nan 9223372036854775807",
					"5 1000 e 300000 inf -9223372036854775808", "5 1000 e 300000 0.1 600000 7",
					"5 1000 e 300000 1e999 1", "1 1 \xff 1 1 1"
				};

				if (percent(c, 75))
					put(s, st, ONE_OF(c, odd), "text");
				else
					put_odd_text(s, st);
				return;
			}
		case K_ROLE_OID:
		case K_OID:
			{
				static const char *const odd[] = {
					"0", "1", "10", "6171", "4294967295", "123456", "-1", "NULL"
				};

				text_add(&st->sql, "(%s)::oid", ONE_OF(c, odd));
				return;
			}
		case K_ROLE:
			{
				static const char *const odd[] = {
					"fuzz_a", "no_such_role", "0", "4294967295", "", "\"", "-"
				};

				if (percent(c, 20))
					put_null(st, "regrole");
				else
					put(s, st, ONE_OF(c, odd), "regrole");
				return;
			}
		case K_STATE_CHAR:
			{
				static const char *const odd[] = {
					"''", "'x'", "NULL", "E'\\001'", "'\\377'", "'R'", "' '"
				};

				text_add(&st->sql, "%s::\"char\"", ONE_OF(c, odd));
				return;
			}
		case K_SEQ:
			{
				static const char *const odd[] = {
					"0", "-1", "9223372036854775807", "-9223372036854775807 - 1", "NULL"
				};

				text_add(&st->sql, "(%s)::bigint", ONE_OF(c, odd));
				return;
			}
		case K_JITTER:
			{
				static const char *const odd[] = {
					"0", "1", "-0.0", "'NaN'", "'Infinity'", "'-Infinity'", "1e308",
					"4.9e-324", "1.0000000000000002", "-1", "NULL"
				};

				text_add(&st->sql, "%s::double precision", ONE_OF(c, odd));
				return;
			}
		case K_WAIT:
			/* What could last long is for a unit of its own. */
			put(s, st, percent(c, 50) ? "-1 s" : "2147483647 mons", "interval");
			return;
		case K_OLDER_THAN:
			{
				static const char *const odd[] = {
					"-1 s", "100 years", "101 years", "2147483647 days", "0"
				};

				if (percent(c, 20))
					put_null(st, "interval");
				else
					put(s, st, ONE_OF(c, odd), "interval");
				return;
			}
		case K_AFTER:
		case K_SIGNALS:
			{
				static const char *const odd[] = {
					"'{}'::text[]", "NULL::text[]", "'{NULL}'::text[]", "'{\"\"}'::text[]", "'{{a,b},{c,d}}'::text[]",
					"'[5:6]={s0,s1}'::text[]", "'{no such step}'::text[]", "'{s0,s0,s0}'::text[]",
					"pg_catalog.array_fill('s0'::text, ARRAY[10000])", "ARRAY[pg_catalog.repeat('k', 100000)]",
					"(SELECT pg_catalog.array_agg('s' || g) FROM pg_catalog.generate_series(0, 7) g)",
					"ARRAY(SELECT t FROM fuzz.value ORDER BY i)"
				};

				text_add(&st->sql, "%s", ONE_OF(c, odd));
				return;
			}
		case K_CHANNEL:
		case K_NOTIFY:
		case K_ANNOUNCE:
		case K_TASK:
			if (percent(c, 30))
			{
				text_add(&st->sql, "pg_catalog.repeat('c', %d)", 62 + below(c, 4));
				return;
			}
			put_odd_text(s, st);
			return;
		default:
			break;
	}
	(void) call;
	if (strcmp(type, "text") == 0)
		put_odd_text(s, st);
	else if (strcmp(type, "jsonb") == 0)
		put_odd_json(s, st);
	else if (strcmp(type, "interval") == 0)
		put_odd_interval(s, st);
	else if (strcmp(type, "integer") == 0)
		put_odd_integer(s, st);
	else if (strcmp(type, "uuid") == 0)
		put_odd_id(s, st);
	else if (strcmp(type, "timestamptz") == 0)
		put_odd_time(s, st);
	else if (strcmp(type, "saga.retry_policy") == 0)
		put_policy(s, st, true);
	else
		put_null(st, type);		/* boolean */
}

/* A function of the mix. */
int
any_function(Session *s)
{
	static int	total = 0;
	int			n;

	if (total == 0)
		for (int i = 0; i < FUNCTIONS; i++)
			total += functions[i].weight;
	n = below(&s->chance, total);
	for (int i = 0; i < FUNCTIONS; i++)
	{
		n -= functions[i].weight;
		if (n < 0)
			return i;
	}
	return 0;
}

/* A saga of the pool; most often one that the role may do something with. */
int
any_slot(Session *s)
{
	int			slot = below(&s->chance, POOL);

	if (percent(&s->chance, 8) || roles[s->role].others == REACH_OPERATE)
		return slot;
	for (int i = 0; i < POOL; i++)
	{
		Slot		copy;

		look_up(s, slot, &copy);
		if (copy.id[0] != '\0' && has_rights(s->role, copy.owner))
			break;
		slot = (slot + 1) % POOL;
	}
	return slot;
}

/* Which saga a call is about, and which step. */
void
aim(Session *s, Call *call, int function, int slot)
{
	Chance	   *c = &s->chance;
	Slot		copy;

	memset(call, 0, sizeof(*call));
	call->function = function;
	call->odd = percent(c, 20);
	call->slot = slot >= 0 ? slot : any_slot(s);
	look_up(s, call->slot, &copy);
	if (copy.id[0] == '\0')
		call->slot = -1;
	memcpy(call->id, copy.id, sizeof(call->id));
	call->salt = copy.salt;
	call->key = below(c, KEYS);
	/* Most calls about steps are about one that is there. */
	if (strcmp(functions[function].name, "step") != 0 && copy.started != 0 &&
		percent(c, 85))
		while ((copy.started & (1u << call->key)) == 0)
			call->key = (call->key + 1) % KEYS;
	if (s->key >= 0 && percent(c, 80))
		call->key = s->key;
	call->spec = spec_of(call->salt, call->key);
	if (percent(c, 4))
		call->spec = spec_of((uint32_t) next_random(c), call->key);
}

/* Writes a call into a statement; "first", if given, stands for the saga. */
void
put_call(Session *s, Statement *st, int function, int slot, const char *first)
{
	const Function *f = &functions[function];
	Call	   *call = &st->call[st->ncalls++];
	Chance	   *c = &s->chance;
	bool		positional;
	bool		any = false;
	Claim		claim;
	bool		have_claim = look_up_claim(s, &claim);

	aim(s, call, function, slot);
	if (strcmp(f->name, "wait") == 0 || strcmp(f->name, "wait_step") == 0)
		st->where |= W_WAIT;
	if (strcmp(f->name, "reassign") == 0)
		st->where |= W_REASSIGN;
	positional = f->args[0].name == NULL || percent(c, 8);
	text_add(&st->sql, "saga.%s(", f->name);
	for (int i = 0; i < f->nargs; i++)
	{
		size_t		before = st->sql.length;
		bool		required = f->args[i].required || positional;
		bool		odd = call->odd && percent(c, 30);

		if (any)
			text_add(&st->sql, ", ");
		if (!positional)
			text_add(&st->sql, "%s => ", f->args[i].name);
		if (i == 0 && first != NULL)
			text_add(&st->sql, "%s", first);
		else if (odd)
			put_odd(s, st, call, f->args[i].kind);
		else if (!put_usual(s, st, call, f->args[i].kind, required,
							have_claim ? &claim : NULL))
		{
			if (required)
				put_null(st, type_of_kind[f->args[i].kind]);
			else
			{
				st->sql.length = before;
				st->sql.data[before] = '\0';
				continue;
			}
		}
		any = true;
	}
	text_add(&st->sql, ")");
	if (first != NULL)
		call->slot = -1;
}
