/*-------------------------------------------------------------------------
 *
 * json.c
 *	  Builds jsonb objects.
 *
 * A thin layer over the server's own builder, which wants a JsonbValue for
 * every key and every value.  Everything is allocated in the context that is
 * current at the call.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "base/json.h"
#include "catalog/pg_type_d.h"
#include "utils/builtins.h"
#include "utils/datetime.h"
#include "utils/fmgrprotos.h"
#include "utils/json.h"
#include "utils/numeric.h"
#include "utils/timestamp.h"

static void
push_string(SagaJson *json, JsonbIteratorToken token, const char *string)
{
	JsonbValue	value;

	value.type = jbvString;
	value.val.string.len = strlen(string);
	value.val.string.val = unconstify(char *, string);
	saga_compat_push_jsonb(&json->state, token, &value);
}

static void
push_null(SagaJson *json)
{
	JsonbValue	value;

	value.type = jbvNull;
	saga_compat_push_jsonb(&json->state, WJB_VALUE, &value);
}

static void
push_numeric(SagaJson *json, Numeric number)
{
	JsonbValue	value;

	value.type = jbvNumeric;
	value.val.numeric = number;
	saga_compat_push_jsonb(&json->state, WJB_VALUE, &value);
}

void
saga_json_begin(SagaJson *json)
{
	memset(json, 0, sizeof(SagaJson));
	saga_compat_push_jsonb(&json->state, WJB_BEGIN_OBJECT, NULL);
}

Jsonb *
saga_json_end(SagaJson *json)
{
	saga_compat_push_jsonb(&json->state, WJB_END_OBJECT, NULL);
	return JsonbValueToJsonb(json->state.result);
}

/* Opens an object as a member. */
void
saga_json_open(SagaJson *json, const char *key)
{
	push_string(json, WJB_KEY, key);
	saga_compat_push_jsonb(&json->state, WJB_BEGIN_OBJECT, NULL);
}

void
saga_json_close(SagaJson *json)
{
	saga_compat_push_jsonb(&json->state, WJB_END_OBJECT, NULL);
}

void
saga_json_string(SagaJson *json, const char *key, const char *value)
{
	push_string(json, WJB_KEY, key);
	if (value != NULL)
		push_string(json, WJB_VALUE, value);
	else
		push_null(json);
}

void
saga_json_text(SagaJson *json, const char *key, const text *value)
{
	saga_json_string(json, key, value ? text_to_cstring(value) : NULL);
}

void
saga_json_int(SagaJson *json, const char *key, int64 value)
{
	push_string(json, WJB_KEY, key);
	push_numeric(json, int64_to_numeric(value));
}

void
saga_json_float(SagaJson *json, const char *key, double value)
{
	push_string(json, WJB_KEY, key);
	push_numeric(json,
				 DatumGetNumeric(DirectFunctionCall1(float8_numeric,
													 Float8GetDatum(value))));
}

/* A time as to_jsonb() writes it. */
void
saga_json_time(SagaJson *json, const char *key, TimestampTz value)
{
	/* Kept by reference until the object is finished. */
	char	   *buffer = NULL;

	if (value != 0)
		buffer = JsonEncodeDateTime(palloc(MAXDATELEN + 1),
									TimestampTzGetDatum(value),
									TIMESTAMPTZOID, NULL);
	saga_json_string(json, key, buffer);
}

/* Milliseconds as the text of an interval, whatever IntervalStyle says. */
void
saga_json_milliseconds(SagaJson *json, const char *key, int64 value)
{
	int64		seconds = value / 1000;
	int			fraction = (int) (value % 1000);
	char	   *interval = psprintf("%02lld:%02d:%02d",
									(long long) (seconds / SECS_PER_HOUR),
									(int) (seconds / SECS_PER_MINUTE % 60),
									(int) (seconds % SECS_PER_MINUTE));

	if (fraction != 0)
		interval = psprintf("%s.%03d", interval, fraction);
	saga_json_string(json, key, interval);
}

/* A jsonb of any kind as a member. */
void
saga_json_value(SagaJson *json, const char *key, Jsonb *value)
{
	push_string(json, WJB_KEY, key);
	if (value == NULL)
		push_null(json);
	else
	{
		Jsonb	   *flat = DatumGetJsonbP(PointerGetDatum(value));
		JsonbValue	member;

		/* A scalar is stored as an array of one. */
		if (JB_ROOT_IS_SCALAR(flat))
			(void) JsonbExtractScalar(&flat->root, &member);
		else
		{
			member.type = jbvBinary;
			member.val.binary.data = &flat->root;
			member.val.binary.len = VARSIZE(flat) - VARHDRSZ;
		}
		saga_compat_push_jsonb(&json->state, WJB_VALUE, &member);
	}
}

/* An array of strings as a member. */
void
saga_json_strings(SagaJson *json, const char *key, const List *strings)
{
	ListCell   *lc;

	push_string(json, WJB_KEY, key);
	saga_compat_push_jsonb(&json->state, WJB_BEGIN_ARRAY, NULL);
	foreach(lc, strings)
		push_string(json, WJB_ELEM, lfirst(lc));
	saga_compat_push_jsonb(&json->state, WJB_END_ARRAY, NULL);
}

Jsonb *
saga_json_pair(const char *key, const char *value)
{
	SagaJson	json;

	saga_json_begin(&json);
	saga_json_string(&json, key, value);
	return saga_json_end(&json);
}

/*
 * Number of characters of the numbers in a value, as text.  Not counted further than
 * "enough".
 */
Size
saga_json_digits(Jsonb *value, Size enough)
{
	JsonbIterator *iterator = JsonbIteratorInit(&value->root);
	JsonbIteratorToken token;
	JsonbValue	part;
	Size		digits = 0;

	while (digits <= enough &&
		   (token = JsonbIteratorNext(&iterator, &part, false)) != WJB_DONE)
	{
		char	   *string;

		if ((token != WJB_VALUE && token != WJB_ELEM) || part.type != jbvNumeric)
			continue;
		string = DatumGetCString(DirectFunctionCall1(numeric_out,
													 NumericGetDatum(part.val.numeric)));
		digits += strlen(string);
		pfree(string);
	}
	return digits;
}

/* Is it nested deeper than a value may be? */
static bool
is_too_deep(Jsonb *value)
{
	JsonbIterator *iterator = JsonbIteratorInit(&value->root);
	JsonbIteratorToken token;
	JsonbValue	part;
	int			depth = 0;

	while (depth <= SAGA_JSON_DEPTH &&
		   (token = JsonbIteratorNext(&iterator, &part, false)) != WJB_DONE)
	{
		if (token == WJB_BEGIN_ARRAY || token == WJB_BEGIN_OBJECT)
			depth++;
		else if (token == WJB_END_ARRAY || token == WJB_END_OBJECT)
			depth--;
	}
	return depth > SAGA_JSON_DEPTH;
}

/*
 * Why a value whose size is within a limit is too much nevertheless for those who
 * come to it later, in words; NULL: it is not.  A number like 1e100000 takes a few
 * bytes, and its text as many as it has digits: a list of such would be a value that
 * nobody can be sent.  What is nested very deep takes more stack in a context than it
 * did alone.  Small values can be neither.
 */
const char *
saga_json_misfit(Jsonb *value, Size limit)
{
	if (VARSIZE(value) <= SAGA_JSON_SMALL)
		return NULL;
	if (saga_json_digits(value, limit) > limit)
		return psprintf("Its numbers have more digits, written out, than saga.max_payload allows bytes, which is %zu kB.",
						limit / 1024);
	if (is_too_deep(value))
		return psprintf("It is nested more than %d levels deep.", SAGA_JSON_DEPTH);
	return NULL;
}
