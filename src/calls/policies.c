/*-------------------------------------------------------------------------
 *
 * policies.c
 *	  Retry policies as SQL has them: the type saga.retry_policy, and arguments
 *	  of it.
 *
 * A field that is null leaves open what it says; where the policy is used, the
 * settings of the calling session say it then.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/htup_details.h"
#include "base/guc.h"
#include "calls/arguments.h"
#include "calls/policies.h"
#include "executor/executor.h"
#include "funcapi.h"
#include "utils/builtins.h"
#include "utils/fmgrprotos.h"
#include "utils/jsonb.h"
#include "utils/lsyscache.h"
#include "utils/numeric.h"
#include "utils/timestamp.h"

PG_FUNCTION_INFO_V1(saga_sql_retry_policy);
PG_FUNCTION_INFO_V1(saga_sql_retry_policy_json);
PG_FUNCTION_INFO_V1(saga_sql_policy);

/* The fields of the type saga.retry_policy */
enum
{
	POLICY_MAX_ATTEMPTS,
	POLICY_DELAY,
	POLICY_BACKOFF,
	POLICY_MAX_DELAY,
	POLICY_JITTER,
	POLICY_TIMEOUT,
	POLICY_FIELDS
};

/* The policy of a step whose call names none. */
static void
default_policy(SagaPolicy *policy)
{
	policy->max_attempts = saga_guc_max_attempts;
	policy->delay = saga_guc_retry_delay;
	policy->backoff = (SagaBackoff) saga_guc_retry_backoff;
	policy->max_delay = saga_guc_retry_max_delay;
	policy->jitter = saga_guc_retry_jitter;
	policy->timeout = saga_guc_compensation_timeout;
}

/*
 * Puts the six fields of a retry policy into one; what they leave open, stays
 * as it is.
 */
static void
replace_policy(const Datum *values, const bool *nulls, SagaPolicy *policy)
{
	if (!nulls[POLICY_MAX_ATTEMPTS])
	{
		policy->max_attempts = DatumGetInt32(values[POLICY_MAX_ATTEMPTS]);
		if (policy->max_attempts < 1 ||
			policy->max_attempts > SAGA_MAX_ATTEMPTS_LIMIT)
			ereport(ERROR,
					(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
					 errmsg("max_attempts must be between 1 and %d",
							SAGA_MAX_ATTEMPTS_LIMIT),
					 errdetail("It is %d.", policy->max_attempts),
					 errhint("1 means that it is tried once.")));
	}
	if (!nulls[POLICY_DELAY])
	{
		policy->delay = saga_arguments_milliseconds(DatumGetIntervalP(values[POLICY_DELAY]),
													"delay");
		if (policy->delay < SAGA_MIN_DELAY_MS)
			ereport(ERROR,
					(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
					 errmsg("delay must be at least %d ms", SAGA_MIN_DELAY_MS),
					 errhint("Give an attempt time to find things changed.")));
	}
	if (!nulls[POLICY_BACKOFF])
		policy->backoff = saga_arguments_parse_word(text_to_cstring(DatumGetTextPP(values[POLICY_BACKOFF])),
													"backoff", saga_policy_backoffs);
	if (nulls[POLICY_MAX_DELAY])
	{
		/* Nobody meant to cut short the delay that is asked for. */
		policy->max_delay = Max(policy->max_delay, policy->delay);
	}
	else
	{
		policy->max_delay = saga_arguments_milliseconds(DatumGetIntervalP(values[POLICY_MAX_DELAY]),
														"max_delay");
		if (policy->max_delay < SAGA_MIN_DELAY_MS)
			ereport(ERROR,
					(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
					 errmsg("max_delay must be at least %d ms",
							SAGA_MIN_DELAY_MS),
					 errhint("Pass the longest delay, at least as long as the first one.")));
	}
	if (!nulls[POLICY_JITTER])
	{
		policy->jitter = DatumGetFloat8(values[POLICY_JITTER]);
		if (!(policy->jitter >= 0.0 && policy->jitter <= 1.0))
			ereport(ERROR,
					(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
					 errmsg("jitter must be between 0 and 1"),
					 errdetail("It is %g.", policy->jitter),
					 errhint("0.1 spreads a delay over 0.9 to 1.1 times its value.")));
	}
	if (!nulls[POLICY_TIMEOUT])
	{
		policy->timeout = saga_arguments_milliseconds(DatumGetIntervalP(values[POLICY_TIMEOUT]),
													  "timeout");
		if (policy->timeout > PG_INT32_MAX)
			ereport(ERROR,
					(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
					 errmsg("timeout of an attempt is too long"),
					 errhint("Up to 24 days are allowed; 0 sets no limit.")));
	}
}

/* Puts a retry policy that is an argument into one; NULL changes nothing. */
void
saga_policies_replace(FunctionCallInfo fcinfo, int arg, SagaPolicy *policy)
{
	HeapTupleHeader given = PG_ARGISNULL(arg) ? NULL :
		PG_GETARG_HEAPTUPLEHEADER(arg);
	Datum		values[POLICY_FIELDS];
	bool		nulls[POLICY_FIELDS];

	memset(nulls, true, sizeof(nulls));
	if (given != NULL)
		for (int i = 0; i < POLICY_FIELDS; i++)
			values[i] = GetAttributeByNum(given, i + 1, &nulls[i]);
	replace_policy(values, nulls, policy);
}

/* A retry policy as an argument; what it leaves open, the settings say. */
void
saga_policies_get(FunctionCallInfo fcinfo, int arg, SagaPolicy *policy)
{
	default_policy(policy);
	saga_policies_replace(fcinfo, arg, policy);
}

/* Checks the fields of a policy that is being made. */
static void
check_policy(const Datum *values, const bool *nulls)
{
	SagaPolicy	policy;

	default_policy(&policy);
	replace_policy(values, nulls, &policy);
}

/*
 * saga.retry_policy(...): the arguments as a composite, checked now, so that
 * the error names the call that is wrong.
 */
Datum
saga_sql_retry_policy(PG_FUNCTION_ARGS)
{
	TupleDesc	desc;
	Datum		values[POLICY_FIELDS];
	bool		nulls[POLICY_FIELDS];

	if (get_call_result_type(fcinfo, NULL, &desc) != TYPEFUNC_COMPOSITE)
		elog(ERROR, "return type must be a row type");
	for (int i = 0; i < POLICY_FIELDS; i++)
	{
		values[i] = fcinfo->args[i].value;
		nulls[i] = fcinfo->args[i].isnull;
	}
	check_policy(values, nulls);
	return HeapTupleGetDatum(heap_form_tuple(desc, values, nulls));
}

/* Which field of a policy has a name; -1: none. */
static int
policy_field(TupleDesc desc, const JsonbValue *name)
{
	for (int i = 0; i < desc->natts; i++)
	{
		const char *field = NameStr(TupleDescAttr(desc, i)->attname);

		if (strlen(field) == (size_t) name->val.string.len &&
			memcmp(field, name->val.string.val, name->val.string.len) == 0)
			return i;
	}
	return -1;
}

/* What a field's type makes of a number or string. */
static Datum
policy_value(TupleDesc desc, int field, const JsonbValue *value)
{
	Oid			type = TupleDescAttr(desc, field)->atttypid;
	Oid			input;
	Oid			param;
	char	   *string;

	if (value->type == jbvString)
		string = pnstrdup(value->val.string.val, value->val.string.len);
	else if (value->type == jbvNumeric)
		string = DatumGetCString(DirectFunctionCall1(numeric_out,
													 NumericGetDatum(value->val.numeric)));
	else
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("invalid value for \"%s\" of a retry policy",
						NameStr(TupleDescAttr(desc, field)->attname)),
				 errhint("Give a number, a string, or null.")));
	getTypeInputInfo(type, &input, &param);
	return OidInputFunctionCall(input, string, param, -1);
}

/* saga.retry_policy(policy jsonb): the same from an object. */
Datum
saga_sql_retry_policy_json(PG_FUNCTION_ARGS)
{
	Jsonb	   *policy = PG_GETARG_JSONB_P(0);
	TupleDesc	desc;
	Datum		values[POLICY_FIELDS];
	bool		nulls[POLICY_FIELDS];
	JsonbIterator *it = JsonbIteratorInit(&policy->root);
	JsonbIteratorToken token;
	JsonbValue	value;
	int			field = -1;

	memset(nulls, true, sizeof(nulls));
	if (get_call_result_type(fcinfo, NULL, &desc) != TYPEFUNC_COMPOSITE)
		elog(ERROR, "return type must be a row type");
	if (!JB_ROOT_IS_OBJECT(policy))
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("a retry policy as jsonb must be an object"),
				 errhint("Give an object such as {\"max_attempts\": 3, \"delay\": \"5 s\"}.")));
	while ((token = JsonbIteratorNext(&it, &value, true)) != WJB_DONE)
	{
		if (token == WJB_KEY)
		{
			field = policy_field(desc, &value);
			if (field < 0)
				ereport(ERROR,
						(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
						 errmsg("a retry policy has no field \"%.*s\"",
								value.val.string.len, value.val.string.val),
						 errhint("Its fields are max_attempts, delay, backoff, max_delay, jitter and timeout.")));
		}
		else if (token == WJB_VALUE && value.type != jbvNull)
		{
			values[field] = policy_value(desc, field, &value);
			nulls[field] = false;
		}
	}
	check_policy(values, nulls);
	return HeapTupleGetDatum(heap_form_tuple(desc, values, nulls));
}

static Datum
interval_of(int64 milliseconds)
{
	Interval   *interval = palloc0(sizeof(Interval));

	interval->time = milliseconds * 1000;
	return IntervalPGetDatum(interval);
}

/* internal_policy(stored) */
Datum
saga_sql_policy(PG_FUNCTION_ARGS)
{
	SagaPolicy	policy;
	TupleDesc	desc;
	Datum		values[POLICY_FIELDS];
	bool		nulls[POLICY_FIELDS] = {false};

	if (!saga_policy_decode(text_to_cstring(PG_GETARG_TEXT_PP(0)),
							&policy))
		PG_RETURN_NULL();
	if (get_call_result_type(fcinfo, NULL, &desc) != TYPEFUNC_COMPOSITE)
		elog(ERROR, "return type must be a row type");
	values[POLICY_MAX_ATTEMPTS] = Int32GetDatum(policy.max_attempts);
	values[POLICY_DELAY] = interval_of(policy.delay);
	values[POLICY_BACKOFF] = CStringGetTextDatum(saga_policy_backoff_name(policy.backoff));
	values[POLICY_MAX_DELAY] = interval_of(policy.max_delay);
	values[POLICY_JITTER] = Float8GetDatum(policy.jitter);
	values[POLICY_TIMEOUT] = interval_of(policy.timeout);
	return HeapTupleGetDatum(heap_form_tuple(desc, values, nulls));
}
