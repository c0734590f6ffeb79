/*-------------------------------------------------------------------------
 *
 * values.c
 *	  Values of all types, the odd ones.
 *
 * A value is written into a statement as a literal, as a parameter (in text or
 * binary format), as an expression that makes it in the server (what is large),
 * or as a column of a table (what is compressed or stored out of line).
 *
 *-------------------------------------------------------------------------
 */
#include <stdio.h>
#include <string.h>

#include "fuzz.h"

/* A parameter or literal of that type. */
void
put_bytes(Session *s, Statement *st, const char *bytes, size_t n,
		  const char *type)
{
	if (!st->no_params && st->nparams < PARAMS && percent(&s->chance, 30))
	{
		Parameter  *p = &st->param[st->nparams++];
		char		name[96];

		text_clear(&p->value);
		text_bytes(&p->value, bytes, n);
		p->binary = strcmp(type, "text") == 0 && percent(&s->chance, 20);
		p->at = st->sql.length;
		p->type = type;
		p->length = (size_t) snprintf(name, sizeof(name), "$%d::%s",
									  st->nparams, type);
		text_bytes(&st->sql, name, p->length);
		return;
	}
	text_bytes(&st->sql, "E'", 2);
	for (size_t i = 0; i < n; i++)
	{
		if (bytes[i] == '\0')
			continue;
		if (bytes[i] == '\'' || bytes[i] == '\\')
			text_bytes(&st->sql, "\\", 1);
		text_bytes(&st->sql, bytes + i, 1);
	}
	text_add(&st->sql, "'::%s", type);
}

void
put(Session *s, Statement *st, const char *string, const char *type)
{
	put_bytes(s, st, string, strlen(string), type);
}

void
put_null(Statement *st, const char *type)
{
	text_add(&st->sql, "NULL::%s", type);
}

static const char *const lengths[] = {
	"1", "63", "64", "255", "256", "257", "511", "512", "513", "2087", "2088",
	"2089", "2600", "2601", "10000"
};

void
put_odd_text(Session *s, Statement *st)
{
	Chance	   *c = &s->chance;
	char		buffer[256];
	int			n;

	switch (below(c, 20))
	{
		case 0:
		case 1:
			put_null(st, "text");
			break;
		case 2:
			put(s, st, "", "text");
			break;
		case 3:
			{
				static const char *const blanks[] = {
					" ", "\t", "\n", "\r\n", "\v\f", "   \t\n  ", "\xc2\xa0",
					"\xe2\x80\x8b", "\xef\xbb\xbf"
				};

				put(s, st, ONE_OF(c, blanks), "text");
				break;
			}
		case 4:
			/* control characters */
			n = 1 + below(c, 40);
			for (int i = 0; i < n; i++)
				buffer[i] = (char) (1 + below(c, 31));
			put_bytes(s, st, buffer, (size_t) n, "text");
			break;
		case 5:
			/* any bytes: no text in most encodings */
			n = 1 + below(c, 40);
			for (int i = 0; i < n; i++)
				buffer[i] = (char) below(c, 256);
			put_bytes(s, st, buffer, (size_t) n, "text");
			break;
		case 6:
			{
				static const char *const broken[] = {
					"\xc3", "a\xe2\x82", "\xf0\x9f\x98", "\xc0\x80",
					"\xed\xa0\x80", "\xf4\x90\x80\x80", "\xff\xfe", "x\x80y"
				};

				put(s, st, ONE_OF(c, broken), "text");
				break;
			}
		case 7:
			{
				static const char *const foreign[] = {
					"\xc3\xa4\xe2\x82\xac\xf0\x9d\x84\x9e",
					"e\xcc\x81\xcc\x81\xcc\x81\xcc\x81",
					"\xd8\xb9\xd8\xb1\xd8\xa8\xd9\x8a",
					"\xf0\x9f\x91\xa9\xe2\x80\x8d\xf0\x9f\x91\xa7",
					"\xe2\x80\xae" "desrever", "\xef\xbf\xbf"
				};

				put(s, st, ONE_OF(c, foreign), "text");
				break;
			}
		case 8:
			{
				static const char *const nasty[] = {
					"%s%n%x%d", "%", "'; DROP SCHEMA saga CASCADE; --",
					"\\", "\\\\'", "\"", "$1", "$$", "{}", "[", "null",
					"${jndi:x}", "<script>", "../../x", "a\"b", "x';x",
					"\x7f", "-", "-undo", "0", "1e999", "NaN"
				};

				put(s, st, ONE_OF(c, nasty), "text");
				break;
			}
		case 9:
		case 10:
		case 11:
			put(s, st, words[below(c, word_count)], "text");
			break;
		case 12:
			text_add(&st->sql, "pg_catalog.repeat('x', %s)", ONE_OF(c, lengths));
			break;
		case 13:
			/* of two bytes each, where the encoding knows of them */
			text_add(&st->sql, "pg_catalog.repeat(E'\xc3\xa4', %s)", ONE_OF(c, lengths));
			break;
		case 14:
			if (percent(c, 80))
				text_add(&st->sql, "pg_catalog.repeat('long ', 2000)");
			else
				text_add(&st->sql, "pg_catalog.repeat('h', %d)", 1024 * 1024 + below(c, 3) - 1);
			break;
		case 15:
			/* stored out of line, compressed, or with a short header */
			text_add(&st->sql, "(SELECT t FROM fuzz.value WHERE i = %d)", 1 + below(c, 8));
			break;
		case 16:
			text_add(&st->sql, "pg_catalog.convert_from('\\x%02x%02x%02x'::bytea, 'SQL_ASCII')",
					 below(c, 256), below(c, 256), below(c, 256));
			break;
		case 17:
			snprintf(buffer, sizeof(buffer), "%d", below(c, 1000));
			put(s, st, buffer, "text");
			break;
		default:
			n = 1 + below(c, 60);
			for (int i = 0; i < n; i++)
				buffer[i] = (char) (' ' + below(c, 95));
			put_bytes(s, st, buffer, (size_t) n, "text");
	}
}

void
put_odd_json(Session *s, Statement *st)
{
	Chance	   *c = &s->chance;

	switch (below(c, 16))
	{
		case 0:
			put_null(st, "jsonb");
			break;
		case 1:
		case 2:
			{
				static const char *const scalars[] = {
					"null", "true", "false", "0", "-0", "1.0", "1e400",
					"-1e-400", "123456789012345678901234567890", "\"\"",
					"\"\\u00e4\"", "\"\\ud83d\\ude00\"", "{}", "[]", "[{}]",
					"[[]]", "{\"\": \"\"}", "{\"a\": {\"a\": {\"a\": null}}}",
					"{\"a\": 1, \"a\": 2}", "[null, null]", " [ 1 , 2 ] "
				};

				put(s, st, ONE_OF(c, scalars), "jsonb");
				break;
			}
		case 3:
			{
				static const char *const broken[] = {
					"", "{", "[1,]", "nul", "\"\\u0000\"", "\"\\ud800\"",
					"{\"a\"}", "'", "\"\t\"", "1 2", "\"\\x\"", "\xff",
					"\"\xc3\"", "NaN", "1e99999"
				};

				put(s, st, ONE_OF(c, broken), "jsonb");
				break;
			}
		case 4:
		case 5:
			{
				static const char *const depths[] = {
					"10", "100", "1000", "3000", "5000", "6000", "8000"
				};
				const char *n = ONE_OF(c, depths);

				if (percent(c, 50))
					text_add(&st->sql, "(pg_catalog.repeat('[', %s) || pg_catalog.repeat(']', %s))::jsonb", n, n);
				else
					text_add(&st->sql, "(pg_catalog.repeat('{\"a\":', %s) || '1' || pg_catalog.repeat('}', %s))::jsonb", n, n);
				break;
			}
		case 6:
			/* around saga.max_payload */
			text_add(&st->sql, "pg_catalog.to_jsonb(pg_catalog.repeat('j', %d))",
					 1024 * 1024 - 24 + below(c, 32));
			break;
		case 7:
			text_add(&st->sql, "(SELECT pg_catalog.jsonb_object_agg('k' || g, g) FROM pg_catalog.generate_series(1, %d) g)",
					 1 + below(c, 2000));
			break;
		case 8:
			text_add(&st->sql, "(SELECT pg_catalog.jsonb_agg(g) FROM pg_catalog.generate_series(1, %d) g)",
					 1 + below(c, 3000));
			break;
		case 9:
		case 10:
			text_add(&st->sql, "(SELECT j FROM fuzz.value WHERE i = %d)", 1 + below(c, 8));
			break;
		case 11:
			text_add(&st->sql, "pg_catalog.to_jsonb(pg_catalog.repeat('10k', 3500))");
			break;
		default:
			{
				char		buffer[64];

				snprintf(buffer, sizeof(buffer), "{\"n\": %d}", below(c, 100));
				put(s, st, buffer, "jsonb");
			}
	}
}

void
put_odd_interval(Session *s, Statement *st)
{
	Chance	   *c = &s->chance;
	static const char *const odd[] = {
		"0", "-1 s", "-1 us", "1 us", "999 us", "1 ms", "9 ms", "9.999 ms",
		"10 ms", "10.001 ms", "24 days 20:31:23.647", "24 days 20:31:23.648",
		"49 days 17:02:47.295", "100 years", "100 years 1 ms", "99 years",
		"178000000 years", "-178000000 years", "1 mon -30 days",
		"-1 mon 30 days", "1 mon -31 days", "2147483647 days",
		"-2147483648 days", "2147483647 mons", "-2147483648 mons",
		"2562047788:00:54.775807", "-2562047788:00:54.775808",
		"1 year -12 mons", "-11 mons 1 year", "1 day -24:00:00",
		"1 day -23:59:59.999", "P1Y", "3 weeks"
	};
	static const char *const malformed[] = {
		"", "soon", "1 fortnight", "999999999999 years", "1 s 1 s",
		"infinity", "-infinity"
	};

	switch (below(c, 10))
	{
		case 0:
			put_null(st, "interval");
			break;
		case 1:
			if (s->server_version >= 170000 || percent(c, 80))
				put(s, st, ONE_OF(c, malformed), "interval");
			else
				put_null(st, "interval");
			break;
		case 2:
			text_add(&st->sql, "pg_catalog.make_interval(months => %d, days => %d)",
					 (int) (uint32_t) next_random(c), (int) (uint32_t) next_random(c));
			break;
		default:
			put(s, st, ONE_OF(c, odd), "interval");
	}
}

void
put_odd_integer(Session *s, Statement *st)
{
	static const char *const odd[] = {
		"0", "-1", "1", "2", "3", "999", "1000", "1001", "2147483647",
		"(-2147483648)", "-2147483647", "65536", "NULL"
	};

	text_add(&st->sql, "(%s)::integer", ONE_OF(&s->chance, odd));
}

void
put_odd_id(Session *s, Statement *st)
{
	Chance	   *c = &s->chance;
	static const char *const odd[] = {
		"00000000-0000-0000-0000-000000000000",
		"ffffffff-ffff-ffff-ffff-ffffffffffff",
		"{01890a5d-ac96-774b-bcce-b302099a8057}", "", "x",
		"01890a5d-ac96-774b-bcce-b302099a805",
		"01890a5d-ac96-774b-bcce-b302099a80577"
	};

	switch (below(c, 5))
	{
		case 0:
			put_null(st, "uuid");
			break;
		case 1:
		case 2:
			text_add(&st->sql, "'%08x-%04x-7%03x-8%03x-%012llx'::uuid",
					 (unsigned) next_random(c), (unsigned) below(c, 65536),
					 (unsigned) below(c, 4096), (unsigned) below(c, 4096),
					 (unsigned long long) (next_random(c) >> 16));
			break;
		default:
			put(s, st, ONE_OF(c, odd), "uuid");
	}
}

void
put_odd_time(Session *s, Statement *st)
{
	static const char *const odd[] = {
		"infinity", "-infinity", "epoch", "294276-12-31 23:59:59.999999+00",
		"4713-01-01 00:00:00+00 BC", "2000-01-01 00:00:00+00", "now", "tomorrow",
		"1999-12-31 23:59:60+15:59"
	};

	if (percent(&s->chance, 30))
		put_null(st, "timestamptz");
	else
		put(s, st, ONE_OF(&s->chance, odd), "timestamptz");
}

/* A retry policy whose fields are as odd as can be, or short and usual. */
void
put_policy(Session *s, Statement *st, bool odd)
{
	Chance	   *c = &s->chance;
	static const char *const usual[] = {
		"NULL", "1", "2", "3", "1000"
	};
	static const char *const jitters[] = {
		"NULL", "0", "-0.0", "1", "0.5", "1.0000000001", "-0.1", "'NaN'",
		"'Infinity'", "'-Infinity'", "1e308", "4.9e-324", "0.9999999999999999"
	};
	static const char *const backoffs[] = {
		"constant", "linear", "exponential"
	};

	if (!odd)
	{
		switch (below(c, 4))
		{
			case 0:
				put_null(st, "saga.retry_policy");
				break;
			case 1:
				text_add(&st->sql, "ROW(%s, '10 ms', 'constant', '20 ms', 0, '1 s')::saga.retry_policy",
						 ONE_OF(c, usual));
				break;
			case 2:
				text_add(&st->sql, "saga.retry_policy(%d, '10 ms', timeout => '50 ms')", 1 + below(c, 4));
				break;
			default:
				text_add(&st->sql, "ROW(%d, '%d ms', '%s', '30 ms', 0.5, NULL)::saga.retry_policy",
						 1 + below(c, 4), 10 + below(c, 10), ONE_OF(c, backoffs));
		}
		return;
	}
	switch (below(c, 5))
	{
		case 0:
			text_add(&st->sql, "(SELECT p FROM fuzz.value WHERE i = %d)", 1 + below(c, 8));
			return;
		case 1:
			text_add(&st->sql, "ROW(NULL, NULL, NULL, NULL, NULL, NULL)::saga.retry_policy");
			return;
		default:
			break;
	}
	text_add(&st->sql, "ROW(");
	if (percent(c, 40))
		put_odd_integer(s, st);
	else
		text_add(&st->sql, "%s", ONE_OF(c, usual));
	text_add(&st->sql, ", ");
	if (percent(c, 40))
		put_odd_interval(s, st);
	else
		text_add(&st->sql, "'%d ms'", below(c, 40));
	text_add(&st->sql, ", ");
	if (percent(c, 40))
		put_odd_text(s, st);
	else
		text_add(&st->sql, "'%s'", ONE_OF(c, backoffs));
	text_add(&st->sql, ", ");
	if (percent(c, 40))
		put_odd_interval(s, st);
	else
		text_add(&st->sql, "'%d ms'", below(c, 60));
	text_add(&st->sql, ", %s, ", ONE_OF(c, jitters));
	if (percent(c, 40))
		put_odd_interval(s, st);
	else
		text_add(&st->sql, "'%d ms'", below(c, 100));
	text_add(&st->sql, ")::saga.retry_policy");
}
