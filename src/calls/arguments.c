/*-------------------------------------------------------------------------
 *
 * arguments.c
 *	  What callers give: is it allowed, and what does it mean?
 *
 * Everything is checked before anything is stored: bad input gets an error
 * and changes nothing.  What is wrong with a value by itself gets one of
 * the standard SQLSTATEs, what exceeds a limit of ours with SG009.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/detoast.h"
#include "access/htup_details.h"
#include "base/compat.h"
#include "base/errors.h"
#include "base/guc.h"
#include "base/json.h"
#include "base/policy.h"
#include "base/state.h"
#include "base/words.h"
#include "calls/arguments.h"
#include "catalog/pg_type_d.h"
#include "common/cryptohash.h"
#include "common/hashfn.h"
#include "common/sha2.h"
#include "executor/executor.h"
#include "funcapi.h"
#include "mb/pg_wchar.h"
#include "nodes/parsenodes.h"
#include "parser/parser.h"
#include "utils/builtins.h"
#include "utils/fmgrprotos.h"
#include "utils/memutils.h"
#include "utils/numeric.h"

/*
 * SQL texts found good lately, so that the action or compensation of a step that
 * is recorded again and again is parsed once per session.
 */
#define GOOD_SQL_TEXTS		64
#define GOOD_SQL_MAX_LEN	4096

static char *good_sql[GOOD_SQL_TEXTS];

text *
saga_arguments_text(FunctionCallInfo fcinfo, int arg)
{
	return PG_ARGISNULL(arg) ? NULL : PG_GETARG_TEXT_PP(arg);
}

static void
refuse_long(const char *what, Size size, int limit, const char *hint)
{
	ereport(ERROR,
			(errcode(ERRCODE_SAGA_LIMIT_EXCEEDED),
			 errmsg("%s is too long", what),
			 errdetail("It has %zu bytes; %d are allowed.", size, limit),
			 errhint("%s", hint)));
}

/* Words for a person; SG009 if they are too long to be kept. */
text *
saga_arguments_words(FunctionCallInfo fcinfo, int arg, const char *what)
{
	text	   *words = saga_arguments_text(fcinfo, arg);

	if (words != NULL && VARSIZE_ANY_EXHDR(words) > SAGA_MAX_WORDS)
		refuse_long(what, VARSIZE_ANY_EXHDR(words), SAGA_MAX_WORDS,
					"Keep long documents in a table of yours, and their key here.");
	return words;
}

/*
 * Words that say how something ended, or why it is to end: cut if they are too long,
 * since the call must not fail for that.
 */
text *
saga_arguments_outcome(FunctionCallInfo fcinfo, int arg)
{
	return saga_words_cut(saga_arguments_text(fcinfo, arg));
}

/* A list of names or keys; SG009 if it is too long. */
void
saga_arguments_check_list(const ArrayType *list, const char *what,
						  const char *hint)
{
	if (VARSIZE(list) > SAGA_MAX_LIST)
		refuse_long(what, VARSIZE(list), SAGA_MAX_LIST, hint);
}

/* A jsonb within saga.max_payload; SG009 above it. */
Jsonb *
saga_arguments_jsonb(FunctionCallInfo fcinfo, int arg, const char *what)
{
	Jsonb	   *value;
	Size		size;
	const char *misfit;

	if (PG_ARGISNULL(arg))
		return NULL;
	size = toast_raw_datum_size(PG_GETARG_DATUM(arg)) - VARHDRSZ;
	if (size > (Size) saga_guc_max_payload * 1024)
		ereport(ERROR,
				(errcode(ERRCODE_SAGA_LIMIT_EXCEEDED),
				 errmsg("%s is too large", what),
				 errdetail("It has %zu bytes; saga.max_payload allows %d kB.",
						   size, saga_guc_max_payload),
				 errhint("Keep large documents in a table of yours, and their key here.")));
	value = PG_GETARG_JSONB_P(arg);
	misfit = saga_json_misfit(value, (Size) saga_guc_max_payload * 1024);
	if (misfit != NULL)
		ereport(ERROR,
				(errcode(ERRCODE_SAGA_LIMIT_EXCEEDED),
				 errmsg("%s is too large", what),
				 errdetail("%s", misfit),
				 errhint("Write it as a string.")));
	return value;
}

/*
 * Writes a value so that two are written the same if and only if jsonb compares
 * them as equal: 1 and 1.0 are, and [[1, 2], 3] and [[1, 2, 3]] are not.
 *
 * Each scalar has its type and length before it, so that no string can be
 * taken for what follows it.  Keys need no mark of their own: in an object, keys
 * and values take turns.  What is written is stored as a hash: it must not
 * change.
 */
static void
write_canonical(StringInfo buffer, Jsonb *value)
{
	JsonbIterator *iterator = JsonbIteratorInit(&value->root);
	JsonbIteratorToken token;
	JsonbValue	part;

	while ((token = JsonbIteratorNext(&iterator, &part, false)) != WJB_DONE)
	{
		const char *bytes = "";
		int			length = 0;
		char		type = 'n';

		switch (token)
		{
			case WJB_BEGIN_ARRAY:
				/* A scalar by itself is stored as an array of one. */
				appendStringInfoChar(buffer, part.val.array.rawScalar ? '=' : '[');
				continue;
			case WJB_END_ARRAY:
				appendStringInfoChar(buffer, ']');
				continue;
			case WJB_BEGIN_OBJECT:
				appendStringInfoChar(buffer, '{');
				continue;
			case WJB_END_OBJECT:
				appendStringInfoChar(buffer, '}');
				continue;
			default:
				break;
		}
		switch (part.type)
		{
			case jbvNull:
				break;
			case jbvBool:
				type = part.val.boolean ? 't' : 'f';
				break;
			case jbvString:
				type = 's';
				bytes = part.val.string.val;
				length = part.val.string.len;
				break;
			case jbvNumeric:
				type = '#';
				bytes = numeric_normalize(part.val.numeric);
				length = strlen(bytes);
				break;
			default:
				elog(ERROR, "unexpected type of jsonb value: %d",
					 (int) part.type);
		}
		appendStringInfo(buffer, "%c%d:", type, length);
		appendBinaryStringInfo(buffer, bytes, length);
	}
}

static void
hash_value(Jsonb *value, uint8 *hash)
{
	pg_cryptohash_ctx *context = pg_cryptohash_create(PG_SHA256);
	StringInfoData buffer;

	initStringInfo(&buffer);
	if (value != NULL)
		write_canonical(&buffer, DatumGetJsonbP(PointerGetDatum(value)));
	if (pg_cryptohash_init(context) < 0 ||
		pg_cryptohash_update(context, (uint8 *) buffer.data, buffer.len) < 0 ||
		pg_cryptohash_final(context, hash, PG_SHA256_DIGEST_LENGTH) < 0)
		elog(ERROR, "could not compute SHA-256 hash: %s",
			 pg_cryptohash_error(context));
	pg_cryptohash_free(context);
	pfree(buffer.data);
}

/*
 * What is kept of values that are forgotten: enough to know the same ones when
 * they are given again.  They are compared by it alone, so it is a
 * cryptographic hash.  Of a NULL value that was forgotten before, "known" has
 * the hash.
 */
bytea *
saga_arguments_hash(const bytea *known, Jsonb **values, int count)
{
	Size		size = VARHDRSZ + count * PG_SHA256_DIGEST_LENGTH;
	bytea	   *result = palloc(size);

	SET_VARSIZE(result, size);
	for (int i = 0; i < count; i++)
	{
		int			at = i * PG_SHA256_DIGEST_LENGTH;

		if (values[i] == NULL && known != NULL)
			memcpy(VARDATA(result) + at, VARDATA_ANY(known) + at,
				   PG_SHA256_DIGEST_LENGTH);
		else
			hash_value(values[i], (uint8 *) VARDATA(result) + at);
	}
	return result;
}

/* Is a value the one of that number that was forgotten? */
bool
saga_arguments_same_hash(const bytea *known, int number, Jsonb *value)
{
	uint8		hash[PG_SHA256_DIGEST_LENGTH];

	Assert(VARSIZE_ANY_EXHDR(known) >= (number + 1) * sizeof(hash));
	hash_value(value, hash);
	return memcmp(VARDATA_ANY(known) + number * sizeof(hash), hash,
				  sizeof(hash)) == 0;
}

/* A name or key of 1 to "limit" characters. */
text *
saga_arguments_name(FunctionCallInfo fcinfo, int arg, const char *what, int limit,
					bool required)
{
	text	   *value = saga_arguments_text(fcinfo, arg);
	int			length;

	if (value == NULL)
	{
		if (required)
			ereport(ERROR,
					(errcode(ERRCODE_NULL_VALUE_NOT_ALLOWED),
					 errmsg("%s must not be null", what),
					 errhint("Give it 1 to %d characters.", limit)));
		return NULL;
	}
	length = pg_mbstrlen_with_len(VARDATA_ANY(value), VARSIZE_ANY_EXHDR(value));
	if (length == 0)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("%s must not be empty", what),
				 errhint("Give it 1 to %d characters.", limit)));
	if (length > limit)
		ereport(ERROR,
				(errcode(ERRCODE_SAGA_LIMIT_EXCEEDED),
				 errmsg("%s is too long", what),
				 errdetail("It has %d characters; %d are allowed.",
						   length, limit),
				 errhint("Use a shorter one, or a hash of it.")));
	return value;
}

/* Words in quotes, as in: "a", "b", and "c" */
static char *
list_words(const struct config_enum_entry *words)
{
	StringInfoData list;
	int			i;

	initStringInfo(&list);
	for (i = 0; words[i].name != NULL; i++)
	{
		if (i > 0 && words[i + 1].name != NULL)
			appendStringInfoString(&list, ", ");
		else if (i > 0)
			appendStringInfoString(&list, i > 1 ? ", and " : " and ");
		appendStringInfo(&list, "\"%s\"", words[i].name);
	}
	return list.data;
}

/* The code for a word, which must be one of those listed. */
int
saga_arguments_parse_word(const char *word, const char *what,
						  const struct config_enum_entry *words)
{
	int			code = saga_state_code(words, word);

	if (code == 0)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("invalid value for \"%s\": \"%s\"", what, word),
				 errhint("Valid values are %s.", list_words(words))));
	return code;
}

/* The code for a word that is an argument; 0 if it is not given. */
int
saga_arguments_word(FunctionCallInfo fcinfo, int arg, const char *what,
					const struct config_enum_entry *words, bool required)
{
	if (!PG_ARGISNULL(arg))
		return saga_arguments_parse_word(text_to_cstring(PG_GETARG_TEXT_PP(arg)), what, words);
	if (required)
		ereport(ERROR,
				(errcode(ERRCODE_NULL_VALUE_NOT_ALLOWED),
				 errmsg("%s must not be null", what),
				 errhint("Valid values are %s.", list_words(words))));
	return 0;
}

/* Why a person decides something; it must say something. */
text *
saga_arguments_note(FunctionCallInfo fcinfo, int arg)
{
	text	   *note = saga_arguments_words(fcinfo, arg, "note");

	if (note == NULL)
		ereport(ERROR,
				(errcode(ERRCODE_NULL_VALUE_NOT_ALLOWED),
				 errmsg("note must not be null"),
				 errhint("Say why, for those who read the history.")));
	if (strspn(text_to_cstring(note), " \t\r\n\f\v") == strlen(text_to_cstring(note)))
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("note must not be empty"),
				 errhint("Say why, for those who read the history.")));
	return note;
}

/* The name of a notification channel: what NOTIFY itself would take. */
text *
saga_arguments_channel(FunctionCallInfo fcinfo, int arg, const char *what)
{
	text	   *value = saga_arguments_text(fcinfo, arg);
	int			bytes;

	if (value == NULL)
		return NULL;
	bytes = VARSIZE_ANY_EXHDR(value);
	if (bytes == 0)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("%s must not be empty", what),
				 errhint("A channel has a name of 1 to %d bytes.", NAMEDATALEN - 1)));
	if (bytes >= NAMEDATALEN)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("%s is too long", what),
				 errdetail("It has %d bytes; a channel may have %d.",
						   bytes, NAMEDATALEN - 1),
				 errhint("Use a channel with a shorter name.")));
	return value;
}

/*
 * LISTEN folds what is not quoted to lower case, and nothing shows a listener
 * that it listens on another channel than the one that is notified.
 */
void
saga_arguments_notice_channel(const text *channel)
{
	char	   *name;

	if (channel == NULL)
		return;
	name = text_to_cstring(channel);
	if (strpbrk(name, "ABCDEFGHIJKLMNOPQRSTUVWXYZ") != NULL)
		ereport(NOTICE,
				(errmsg("channel \"%s\" is not in lower case", name),
				 errhint("LISTEN folds a name that is not quoted to lower case; listeners must say LISTEN %s.",
						 quote_identifier(name))));
	pfree(name);
}

/*
 * An interval as milliseconds: a year counts 365.25 days, a month 30 days and
 * a day 24 hours, as EXTRACT (epoch) has it.  Negative and infinite ones are
 * refused.  Less than a millisecond counts as one, since 0 often means "none".
 */
int64
saga_arguments_milliseconds(const Interval *interval, const char *what)
{
	double		ms;

	ms = (double) interval->time / 1000.0 +
		(double) interval->day * SECS_PER_DAY * 1000.0 +
		(double) (interval->month / MONTHS_PER_YEAR) * DAYS_PER_YEAR * SECS_PER_DAY * 1000.0 +
		(double) (interval->month % MONTHS_PER_YEAR) * DAYS_PER_MONTH * SECS_PER_DAY * 1000.0;
	if (saga_compat_interval_is_infinite(interval) ||
		ms > (double) SAGA_MAX_DELAY_MS)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("%s is too long", what),
				 errhint("Up to 100 years are allowed.")));
	if (ms < 0)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("%s must not be negative", what),
				 errhint("Give a time of 0 or more.")));
	if (ms > 0 && ms < 1)
		return 1;
	return (int64) ms;
}

/*
 * Refuses an interval that leads out of the calendar, added to any moment that may
 * come, in each of its parts.  It may be negative, or infinite.
 */
void
saga_arguments_check_delay(const Interval *interval, const char *what)
{
	int64		part = SAGA_MAX_DELAY_MS * 1000;

	if (saga_compat_interval_is_infinite(interval) ||
		(abs(interval->month) <= SAGA_MAX_DELAY_YEARS * MONTHS_PER_YEAR &&
		 abs(interval->day) <= SAGA_MAX_DELAY_YEARS * 366 &&
		 interval->time <= part && interval->time >= -part))
		return;
	ereport(ERROR,
			(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
			 errmsg("%s is too long", what),
			 errhint("Up to %d years are allowed.", SAGA_MAX_DELAY_YEARS)));
}

/* The SQL that is being parsed */
typedef struct SqlArgument
{
	const char *sql;
	const char *what;			/* "action" or "compensation" */
} SqlArgument;

/*
 * A syntax error in an action or compensation is reported with its position in
 * that text, not in the statement that records it.
 */
static void
move_error_position(void *arg)
{
	const SqlArgument *argument = (const SqlArgument *) arg;
	int			position = geterrposition();

	if (position > 0)
	{
		errposition(0);
		internalerrposition(position);
		internalerrquery(argument->sql);
	}
	errcontext("%s", argument->what);
}

/*
 * Refuses an action or compensation that could not run whatever the database
 * holds: no statement in it, bad syntax, transaction control.  Names are not
 * resolved; what they mean is the business of the day it runs.
 */
void
saga_arguments_check_sql(const text *sql, const char *what)
{
	uint32		hash = hash_bytes((const unsigned char *) VARDATA_ANY(sql),
								  VARSIZE_ANY_EXHDR(sql));
	char	  **good = &good_sql[hash % GOOD_SQL_TEXTS];
	size_t		length = VARSIZE_ANY_EXHDR(sql);
	ErrorContextCallback callback;
	SqlArgument argument;
	char	   *string;
	List	   *statements;
	ListCell   *lc;

	if (*good != NULL && strlen(*good) == length &&
		memcmp(*good, VARDATA_ANY(sql), length) == 0)
		return;
	if (length > SAGA_MAX_SQL)
		refuse_long(what, length, SAGA_MAX_SQL,
					"Put it into a function, and call that.");

	string = text_to_cstring(sql);
	callback.callback = move_error_position;
	argument.sql = string;
	argument.what = what;
	callback.arg = &argument;
	callback.previous = error_context_stack;
	error_context_stack = &callback;
	statements = raw_parser(string, RAW_PARSE_DEFAULT);
	error_context_stack = callback.previous;

	if (statements == NIL)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("%s holds no statement", what),
				 errhint("Leave it null for a step that has none.")));
	foreach(lc, statements)
	{
		RawStmt    *statement = lfirst_node(RawStmt, lc);

		if (IsA(statement->stmt, TransactionStmt))
			ereport(ERROR,
					(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
					 errmsg("%s must not hold transaction control", what),
					 errdetail("It runs, as a whole, in the transaction that marks the step as done."),
					 errhint("Leave out BEGIN, COMMIT, ROLLBACK and SAVEPOINT.")));
	}
	list_free_deep(statements);

	if (length <= GOOD_SQL_MAX_LEN)
	{
		if (*good != NULL)
			pfree(*good);
		*good = NULL;
		*good = MemoryContextStrdup(TopMemoryContext, string);
	}
	pfree(string);
}

/* What to do about what comes after the undo has begun */
enum
{
	LATE_ERROR = 1,
	LATE_RECORD
};

static const struct config_enum_entry late_words[] = {
	{"error", LATE_ERROR, false},
	{"record", LATE_RECORD, false},
	{NULL, 0, false}
};

/* Shall what comes after the undo has begun be kept, and not be an error? */
bool
saga_arguments_record_late(FunctionCallInfo fcinfo, int arg)
{
	return saga_arguments_word(fcinfo, arg, "late", late_words, false) == LATE_RECORD;
}

/* Are two values the same, or both not given? */
bool
saga_arguments_same_jsonb(Jsonb *a, Jsonb *b)
{
	if (a == NULL || b == NULL)
		return a == b;
	a = DatumGetJsonbP(PointerGetDatum(a));
	b = DatumGetJsonbP(PointerGetDatum(b));
	return compareJsonbContainers(&a->root, &b->root) == 0;
}
