/*-------------------------------------------------------------------------
 *
 * answers.c
 *	  What an answer must be, and findings.
 *
 *-------------------------------------------------------------------------
 */
#include <ctype.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#include "fuzz.h"

/* A statement as psql would take it, with its parameters written out. */
void
write_out(const Statement *st, Text *to)
{
	size_t		at = 0;

	text_clear(to);
	for (int i = 0; i < st->nparams; i++)
	{
		const Parameter *p = &st->param[i];

		text_bytes(to, st->sql.data + at, p->at - at);
		text_bytes(to, "E'", 2);
		for (size_t j = 0; j < p->value.length; j++)
		{
			char		c = p->value.data[j];

			if (c == '\'' || c == '\\')
				text_bytes(to, "\\", 1);
			if (c == '\0')
				text_bytes(to, "\\000", 4);
			else
				text_bytes(to, &c, 1);
		}
		text_add(to, "'::%s%s", p->type, p->binary ? " /* binary */" : "");
		at = p->at + p->length;
	}
	text_bytes(to, text_string(&st->sql) + at, st->sql.length - at);
}

static void
write_history(Session *s, FILE *f, int count)
{
	long		from = s->history_count - count;

	if (from < 0)
		from = 0;
	for (long i = from; i < s->history_count; i++)
	{
		const Text *t = &s->history[i % HISTORY];

		if (t->length > 20000)
			fprintf(f, "%.20000s ... (%zu bytes);\n", t->data, t->length);
		else
			fprintf(f, "%s;\n", t->data);
	}
}

/*
 * Tells of something that must not be.  Of findings of a kind (the same words,
 * but for numbers and what stands behind "--") the first is told in full, and
 * answered with true.
 */
bool
finding(Session *s, const Statement *st, const char *format,...)
{
	char		what[2000];
	char		name[512];
	uint64_t	hash = UINT64_C(1469598103934665603);
	va_list		args;
	int			known;
	FILE	   *f;
	Text		sql = {0};

	va_start(args, format);
	vsnprintf(what, sizeof(what), format, args);
	va_end(args);

	for (const char *p = what; *p && strncmp(p, " -- ", 4) != 0; p++)
		if (!isxdigit((unsigned char) *p))
			hash = (hash ^ (unsigned char) *p) * UINT64_C(1099511628211);
	pthread_mutex_lock(&shared->mutex);
	known = atomic_load(&shared->findings);
	for (int i = 0; i < known; i++)
		if (shared->signature[i] == hash)
			known = -1;
	if (known < 0 || known >= FINDINGS)
	{
		atomic_fetch_add(&shared->repeated, 1);
		pthread_mutex_unlock(&shared->mutex);
		return false;
	}
	shared->signature[known] = hash;
	atomic_fetch_add(&shared->findings, 1);
	pthread_mutex_unlock(&shared->mutex);

	printf("FINDING %d: %s\n", known + 1, what);
	if (s != NULL)
		printf("  seed %llu, session %d, unit %ld, role %s, database %d\n",
			   (unsigned long long) seed, s->number, s->unit,
			   roles[s->role].name ? roles[s->role].name : "superuser",
			   s->database);
	if (st != NULL)
	{
		write_out(st, &sql);
		printf("  %.3000s\n", text_string(&sql));
	}
	fflush(stdout);
	snprintf(name, sizeof(name), "%s/finding-%d.sql", out_dir, known + 1);
	f = fopen(name, "w");
	if (f != NULL)
	{
		fprintf(f, "-- %s\n", what);
		if (st != NULL)
			fprintf(f, "-- by: %.3000s\n", text_string(&sql));
		if (s != NULL)
			write_history(s, f, HISTORY);
		fclose(f);
	}
	free(sql.data);
	return true;
}

static void
count_sqlstate(const char *state)
{
	for (int i = 0; i < SQLSTATES; i++)
	{
		if (shared->sqlstates[i].state[0] == '\0')
		{
			pthread_mutex_lock(&shared->mutex);
			if (shared->sqlstates[i].state[0] == '\0')
				snprintf(shared->sqlstates[i].state, 6, "%s", state);
			pthread_mutex_unlock(&shared->mutex);
		}
		if (strcmp(shared->sqlstates[i].state, state) == 0)
		{
			atomic_fetch_add(&shared->sqlstates[i].count, 1);
			return;
		}
	}
}

static bool
is_word(const char *word, int from, int to)
{
	for (int i = from; i <= to; i++)
		if (strcmp(words[i], word) == 0)
			return true;
	return false;
}

static bool
is_uuid(const char *string)
{
	if (strlen(string) < 36)
		return false;
	for (int i = 0; i < 36; i++)
	{
		bool		hyphen = i == 8 || i == 13 || i == 18 || i == 23;

		if (hyphen ? string[i] != '-' : !isxdigit((unsigned char) string[i]))
			return false;
	}
	return true;
}

void
add_claim(Session *s, const char *key, int attempt)
{
	Pool	   *pool = &shared->pool[s->database];
	Claim	   *claim;

	if (strlen(key) >= sizeof(claim->key))
		return;
	pthread_mutex_lock(&shared->mutex);
	claim = &pool->claim[pool->claims++ % RING];
	strcpy(claim->key, key);
	claim->attempt = attempt;
	pthread_mutex_unlock(&shared->mutex);
}

/* A saga was begun, or known: it is one of the pool from now on. */
static void
add_saga(Session *s, int role, const char *id)
{
	Pool	   *pool = &shared->pool[s->database];
	Slot	   *slot = NULL;
	bool		known = false;

	pthread_mutex_lock(&shared->mutex);
	for (int i = 0; i < POOL; i++)
	{
		if (strcmp(pool->slot[i].id, id) == 0)
			known = true;
		if (pool->slot[i].id[0] == '\0' && slot == NULL)
			slot = &pool->slot[i];
	}
	if (!known)
	{
		if (slot == NULL)
			slot = &pool->slot[below(&s->chance, POOL)];
		memset(slot, 0, sizeof(*slot));
		memcpy(slot->id, id, 36);
		/* From a few kinds only: a whole life is to be seen more than once. */
		slot->owner = role;
		slot->salt = (uint32_t) below(&s->chance, 500);
	}
	pthread_mutex_unlock(&shared->mutex);
}

/* What a successful call must have answered, and what is learnt from it. */
static void
take_answer(Session *s, const Statement *st, const Call *call,
			const char *value, bool is_null)
{
	const Function *f = &functions[call->function];
	const Role *role = &roles[st->role];

	atomic_fetch_add(&shared->ok[call->function], 1);
	if (call->slot >= 0 && !call->odd && f->reach > REACH_ANY &&
		role->others < f->reach && strncmp(f->args[0].name, "saga_id", 7) == 0)
		finding(s, st, "%s() by %s succeeded on another's saga", f->name, role->name);
	if (f->dba && st->role != SUPERUSER && strcmp(role->name, "fuzz_dba") != 0)
		finding(s, st, "%s() succeeded for %s", f->name, role->name);

	switch (f->answer)
	{
		case A_ANY:
			return;
		case A_VOID:
			if (!is_null && value[0] != '\0')
				finding(s, st, "%s() answered \"%.60s\"", f->name, value);
			return;
		default:
			break;
	}
	if (is_null)
	{
		finding(s, st, "%s() answered null", f->name);
		return;
	}
	switch (f->answer)
	{
		case A_UUID:
			if (!is_uuid(value) || strlen(value) != 36)
				finding(s, st, "%s() answered \"%.60s\"", f->name, value);
			else if (role->owns)
				add_saga(s, st->role, value);
			break;
		case A_STEP:
			/* (id,seq,key,status,attempt,...) */
			if (value[0] != '(' || !is_uuid(value + 1) || value[37] != ',' ||
				!isdigit((unsigned char) value[38]))
				finding(s, st, "%s() answered \"%.80s\"", f->name, value);
			else if (call->slot >= 0)
			{
				Slot	   *slot = &shared->pool[s->database].slot[call->slot];
				char		seq[20];
				int			key;

				if (sscanf(value + 38, "%19[0-9],s%d,", seq, &key) == 2 &&
					key >= 0 && key < KEYS)
				{
					pthread_mutex_lock(&shared->mutex);
					if (memcmp(slot->id, value + 1, 36) == 0)
					{
						slot->started |= 1u << key;
						strcpy(slot->seq[key], seq);
					}
					pthread_mutex_unlock(&shared->mutex);
				}
			}
			break;
		case A_STATE:
			if (!is_word(value, 0, 5))
				finding(s, st, "%s() answered \"%.60s\"", f->name, value);
			break;
		case A_COMP_STATUS:
			if (strcmp(value, "compensated") != 0 && strcmp(value, "skipped") != 0)
				finding(s, st, "%s() answered \"%.60s\"", f->name, value);
			break;
		case A_FAIL_STATUS:
			if (strcmp(value, "pending") != 0 && strcmp(value, "failed") != 0 &&
				strcmp(value, "stale") != 0)
				finding(s, st, "%s() answered \"%.60s\"", f->name, value);
			break;
		case A_TASK_STATUS:
			if (!is_word(value, 1, 1) && !is_word(value, 3, 3) && !is_word(value, 6, word_count - 1))
				finding(s, st, "%s() answered \"%.60s\"", f->name, value);
			break;
		case A_COUNT:
			if (value[0] == '-')
				finding(s, st, "%s() answered \"%.60s\"", f->name, value);
			break;
		default:
			break;
	}
}

/* Is the error one that may be, and does it say what one must say? */
static void
take_error(Session *s, const Statement *st, const char *sqlstate,
		   const char *message, const char *hint)
{
	bool		may_be = error_is_allowed(sqlstate, st->where);

	count_sqlstate(sqlstate);
	for (int i = 0; i < st->ncalls; i++)
		atomic_fetch_add(&shared->failed[st->call[i].function], 1);
	if (st->waits && strcmp(sqlstate, "57014") == 0)
		may_be = true;
	if (strcmp(sqlstate, "XX000") == 0 && strstr(message, "tuple concurrently") == NULL)
		may_be = false;
	if (!may_be)
		finding(s, st, "SQLSTATE %s: %s", sqlstate, message);
	if (strncmp(sqlstate, "SG", 2) == 0 && (hint == NULL || hint[0] == '\0'))
		finding(s, st, "SQLSTATE %s without a hint: %s", sqlstate, message);
}

void
take_result(Session *s, const Statement *st, const PGresult *result)
{
	ExecStatusType status = PQresultStatus(result);

	if (status == PGRES_FATAL_ERROR)
	{
		const char *sqlstate = PQresultErrorField(result, PG_DIAG_SQLSTATE);
		const char *message = PQresultErrorField(result, PG_DIAG_MESSAGE_PRIMARY);
		const char *severity = PQresultErrorField(result, PG_DIAG_SEVERITY_NONLOCALIZED);
		const char *hint = PQresultErrorField(result, PG_DIAG_MESSAGE_HINT);

		if (sqlstate == NULL || (severity != NULL && strcmp(severity, "ERROR") != 0))
		{
			finding(s, st, "the connection was lost: %s", PQresultErrorMessage(result));
			return;
		}
		take_error(s, st, sqlstate, message ? message : "", hint);
		return;
	}
	if (status == PGRES_PIPELINE_ABORTED)
		return;
	if (status != PGRES_TUPLES_OK && status != PGRES_COMMAND_OK &&
		status != PGRES_EMPTY_QUERY)
	{
		finding(s, st, "result status %s", PQresStatus(status));
		return;
	}
	if (st->must_fail && strcmp(PQcmdTuples((PGresult *) result), "0") != 0)
		finding(s, st, "it succeeded, for %s", roles[st->role].name);
	if (st->columns > 0)
		for (int row = 0; row < PQntuples(result); row++)
			for (int i = 0; i < st->columns && i < PQnfields(result); i++)
				take_answer(s, st, &st->call[i], PQgetvalue(result, row, i),
							PQgetisnull(result, row, i));
	else
		for (int i = 0; i < st->ncalls; i++)
			atomic_fetch_add(&shared->ok[st->call[i].function], 1);
	if (st->claims)
		for (int row = 0; row < PQntuples(result); row++)
			add_claim(s, PQgetvalue(result, row, 0), atoi(PQgetvalue(result, row, 1)));
	if (st->attempted)
	{
		/* What fuzz.attempt caught, as SQLSTATE|hint|message. */
		for (int row = 0; row < PQntuples(result); row++)
		{
			char	   *value = PQgetvalue(result, row, 0);
			char		sqlstate[6];
			char	   *message;

			if (strlen(value) < 6 || value[5] != '|')
				continue;
			memcpy(sqlstate, value, 5);
			sqlstate[5] = '\0';
			message = strchr(value + 6, '|');
			if (message == NULL)
				continue;
			*message++ = '\0';
			take_error(s, st, sqlstate, message, value + 6);
		}
	}
	if (st->fingerprint && PQntuples(result) == 1)
	{
		if (st->compare && s->fingerprint[0] != '\0')
		{
			atomic_fetch_add(&shared->checks, 1);
			if (strcmp(s->fingerprint, PQgetvalue(result, 0, 0)) != 0)
				finding(s, st, "a call changed what it must not change; it is the one before this");
		}
		snprintf(s->fingerprint, sizeof(s->fingerprint), "%s", PQgetvalue(result, 0, 0));
	}
}

void
take_notice(void *arg, const PGresult *result)
{
	Session    *s = arg;
	const char *severity = PQresultErrorField(result, PG_DIAG_SEVERITY_NONLOCALIZED);
	const char *message = PQresultErrorField(result, PG_DIAG_MESSAGE_PRIMARY);

	if (severity == NULL || message == NULL || strcmp(severity, "WARNING") != 0)
		return;
	if (strstr(message, "leak") || strstr(message, "still referenced") ||
		strstr(message, "problem in") || strstr(message, "you don't own") ||
		strstr(message, "detected write past"))
		finding(s, NULL, "WARNING: %s", message);
}
