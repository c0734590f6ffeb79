/*-------------------------------------------------------------------------
 *
 * context.c
 *	  The jsonb context of a step's work or of its undo, and the keys in it.
 *
 * SQL gets it as $1, and listeners get the same with their claim; see
 * doc/reference.md.
 *
 * The keys are made of the saga's id, which is unique beyond this database,
 * and the step's number in the start order, which is another for every run:
 * so they are stable over every attempt and need not be stored.  They use only
 * letters, digits and hyphens, which every payment provider accepts.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/detoast.h"
#include "base/guc.h"
#include "base/ids.h"
#include "base/json.h"
#include "base/policy.h"
#include "flow/context.h"
#include "flow/gates.h"
#include "flow/next.h"
#include "ledger/ledger.h"
#include "utils/builtins.h"
#include "utils/fmgrprotos.h"
#include "utils/memutils.h"

static text *
make_key(const pg_uuid_t *saga, int64 seq, const char *suffix)
{
	size_t		suffix_size = strlen(suffix) + 1;
	text	   *key = palloc(VARHDRSZ + SAGA_IDS_LENGTH + 1 + MAXINT8LEN + suffix_size);
	char	   *end = saga_ids_write(saga, VARDATA(key));

	*end++ = '-';
	end += pg_lltoa(seq, end);
	memcpy(end, suffix, suffix_size);
	SET_VARSIZE(key, end + suffix_size - 1 - (char *) key);
	return key;
}

/* The idempotency key for the forward effect of a run of a step. */
text *
saga_context_forward_key(const pg_uuid_t *saga, int64 seq)
{
	return make_key(saga, seq, "");
}

/* The idempotency key for undoing it, which also names its task. */
text *
saga_context_compensation_key(const pg_uuid_t *saga, int64 seq)
{
	return make_key(saga, seq, "-undo");
}

static int
hex_value(char c)
{
	if (c >= '0' && c <= '9')
		return c - '0';
	if (c >= 'a' && c <= 'f')
		return c - 'a' + 10;
	return -1;
}

/*
 * Parses the key of a task: the forward key, or the compensation key.  False if it
 * was not made here.
 */
bool
saga_context_parse_key(const text *key, pg_uuid_t *saga, int64 *seq,
					   SagaPhase *phase)
{
	char	   *string = text_to_cstring(key);
	const char *c = string;
	char	   *end;
	const text *made;

	for (int i = 0; i < UUID_LEN; i++)
	{
		int			high;
		int			low;

		if (*c == '-')
			c++;
		high = hex_value(c[0]);
		low = high < 0 ? -1 : hex_value(c[1]);
		if (low < 0)
			return false;
		saga->data[i] = (unsigned char) (high << 4 | low);
		c += 2;
	}
	if (*c++ != '-' || *c < '1' || *c > '9')
		return false;
	*seq = strtoll(c, &end, 10);
	*phase = *end == '\0' ? SAGA_PHASE_FORWARD : SAGA_PHASE_COMPENSATION;

	/* There is one way to write it. */
	made = *phase == SAGA_PHASE_FORWARD ?
		saga_context_forward_key(saga, *seq) :
		saga_context_compensation_key(saga, *seq);
	return VARSIZE_ANY_EXHDR(made) == strlen(string) &&
		memcmp(VARDATA_ANY(made), string, strlen(string)) == 0;
}

static Jsonb *
build_policy(const char *encoded)
{
	SagaPolicy	policy;
	SagaJson	json;

	if (!saga_policy_decode(encoded, &policy))
		elog(ERROR, "could not read the retry policy of a step");
	saga_json_begin(&json);
	saga_json_int(&json, "max_attempts", policy.max_attempts);
	saga_json_milliseconds(&json, "delay", policy.delay);
	saga_json_string(&json, "backoff", saga_policy_backoff_name(policy.backoff));
	saga_json_milliseconds(&json, "max_delay", policy.max_delay);
	saga_json_float(&json, "jitter", policy.jitter);
	saga_json_milliseconds(&json, "timeout", policy.timeout);
	return saga_json_end(&json);
}

/*
 * Policies repeat from step to step, and building one costs as much as the rest
 * of the context, so the last one is cached.
 */
static void
add_policy(SagaJson *json, const char *key, const text *encoded)
{
	static char *last_text = NULL;
	static Jsonb *last = NULL;
	char	   *string = text_to_cstring(encoded);

	if (last == NULL || strcmp(last_text, string) != 0)
	{
		Jsonb	   *built = build_policy(string);

		if (last != NULL)
		{
			pfree(last);
			pfree(last_text);
			last = NULL;
		}
		last_text = MemoryContextStrdup(TopMemoryContext, string);
		last = memcpy(MemoryContextAlloc(TopMemoryContext, VARSIZE(built)),
					  built, VARSIZE(built));
	}
	/* The builder points into its values until the object is finished. */
	saga_json_value(json, key, memcpy(palloc(VARSIZE(last)), last,
									  VARSIZE(last)));
}

/* What both contexts have: the saga, and the step so far. */
static void
add_common(SagaJson *json, const SagaRow *saga, const SagaStep *step)
{
	saga_json_open(json, "saga");
	saga_json_string(json, "id", saga_ids_string(&saga->id));
	saga_json_text(json, "name", saga->name);
	saga_json_text(json, "idempotency_key", saga->key);
	saga_json_value(json, "input", saga->input);
	saga_json_text(json, "reason", saga->reason);
	saga_json_value(json, "details", saga->details);
	saga_json_string(json, "failure_kind",
					 saga_state_failure_kind_name(saga->failure_kind));
	saga_json_close(json);

	saga_json_open(json, "step");
	saga_json_text(json, "name", step->name ? step->name : step->key);
	saga_json_text(json, "key", step->key);
	saga_json_int(json, "seq", step->seq);
	saga_json_int(json, "run", step->run);
	saga_json_string(json, "status", saga_state_step_status_name(step->status));
	saga_json_int(json, "attempts", step->forward.attempts);
	saga_json_time(json, "started_at", step->started_at);
	saga_json_time(json, "completed_at", step->completed_at);
	add_policy(json, "retry",
			   step->retry ? step->retry : step->compensation_retry);
	saga_json_close(json);

	saga_json_value(json, "args", step->args);
	saga_json_value(json, "output", step->forward.output);
	saga_json_text(json, "error", step->forward.error);
}

static void
add_keys(SagaJson *json, const SagaStep *step)
{
	saga_json_text(json, "forward_key",
				   saga_context_forward_key(&step->saga, step->seq));
	saga_json_text(json, "compensation_key",
				   saga_context_compensation_key(&step->saga, step->seq));
}

/*
 * The context of the given attempt of a step's compensation.  "task": it was
 * claimed with tasks.
 */
Jsonb *
saga_context_build(const SagaRow *saga, const SagaStep *step, int attempt,
				   bool task)
{
	SagaJson	json;

	saga_json_begin(&json);
	add_common(&json, saga, step);
	saga_json_int(&json, "attempt", attempt);
	add_policy(&json, "retry", step->compensation_retry);
	add_keys(&json, step);
	if (step->rounds > 0)
	{
		saga_json_value(&json, "state", step->state);
		saga_json_int(&json, "rounds", step->rounds);
	}
	if (task)
		saga_json_text(&json, "task_key",
					   saga_context_compensation_key(&step->saga, step->seq));
	return saga_json_end(&json);
}

/* What a context takes of other steps, as far as it fits */
typedef struct Inputs
{
	Size		limit;			/* bytes; likewise of the keys of those left
								 * out */
	Size		used;
	Size		digits;			/* of their numbers, as far as they count */
	Size		omitted_used;
	List	   *omitted;		/* keys, and "..." if there are more */
} Inputs;

/* Does a value of that size fit? */
static bool
takes(Inputs *inputs, const text *key, Size size)
{
	size += toast_raw_datum_size(PointerGetDatum(key));
	if (size > inputs->limit - inputs->used)
		return false;
	inputs->used += size;
	return true;
}

/* Small outputs are many before their numbers count (json.c). */
#define UNCOUNTED	(8 * SAGA_JSON_SMALL)

static bool
takes_output(Inputs *inputs, const SagaStep *input)
{
	Jsonb	   *output = input->forward.output;
	Size		digits = 0;

	if (inputs->used > UNCOUNTED)
	{
		Jsonb	   *flat = DatumGetJsonbP(PointerGetDatum(output));

		digits = saga_json_digits(flat, inputs->limit);
		if (digits > inputs->limit - inputs->digits)
			return false;
	}
	if (!takes(inputs, input->key, toast_raw_datum_size(PointerGetDatum(output))))
		return false;
	inputs->digits += digits;
	return true;
}

static void
omit(Inputs *inputs, const text *key)
{
	if (inputs->omitted_used > inputs->limit)
		return;
	inputs->omitted_used += toast_raw_datum_size(PointerGetDatum(key));
	inputs->omitted = lappend(inputs->omitted,
							  inputs->omitted_used > inputs->limit ?
							  pstrdup("...") : text_to_cstring(key));
}

/*
 * The outputs of the steps that the work builds on, by key, and the errors of those
 * that failed, as far as they fit.
 */
static void
add_inputs(SagaJson *json, const List *steps, Inputs *inputs)
{
	ListCell   *lc;

	saga_json_open(json, "outputs");
	foreach(lc, steps)
	{
		const SagaStep *input = lfirst(lc);

		if (input->status != SAGA_STEP_COMPLETED || input->forward.output == NULL)
			continue;
		if (takes_output(inputs, input))
			saga_json_value(json, text_to_cstring(input->key), input->forward.output);
		else
			omit(inputs, input->key);
	}
	saga_json_close(json);
	saga_json_open(json, "errors");
	foreach(lc, steps)
	{
		const SagaStep *input = lfirst(lc);
		const text *error = input->forward.error;

		if (input->status != SAGA_STEP_FAILED)
			continue;
		if (takes(inputs, input->key,
				  error == NULL ? 0 : toast_raw_datum_size(PointerGetDatum(error))))
			saga_json_text(json, text_to_cstring(input->key), error);
		else
			omit(inputs, input->key);
	}
	saga_json_close(json);
}

/* The steps with such keys (of SagaStep *), read one by one. */
List *
saga_context_inputs_of(const SagaRow *saga, const List *keys)
{
	List	   *inputs = NIL;
	ListCell   *lc;

	foreach(lc, keys)
	{
		SagaStep   *input = palloc(sizeof(SagaStep));

		if (saga_ledger_get_newest_run(&saga->id, lfirst(lc), input) == SAGA_FOUND)
			inputs = lappend(inputs, input);
	}
	return inputs;
}

/*
 * The steps whose outputs the work of a step gets (of SagaStep *).  Those of a list
 * are read one by one: the saga may have very many.
 */
List *
saga_context_inputs(const SagaRow *saga, const SagaStep *step)
{
	List	   *inputs = NIL;
	ListCell   *lc;

	if (step->after != NULL)
		inputs = saga_context_inputs_of(saga, saga_gates_keys(step->after));
	else
	{
		SagaSteps  *steps = palloc(sizeof(SagaSteps));
		SagaGates	gates;
		int			index;
		List	   *indexes;

		saga_ledger_get_steps_now(&saga->id, steps);
		index = saga_next_find(steps, step->seq);
		if (index < 0)
			return NIL;
		saga_gates_read(&gates, steps);
		indexes = saga_gates_inputs(&gates, index);
		foreach(lc, indexes)
			inputs = lappend(inputs, &steps->step[lfirst_int(lc)]);
	}
	return inputs;
}

/*
 * The context of the given attempt of a step's work.  "inputs": the steps that it
 * builds on (of SagaStep *).
 */
Jsonb *
saga_context_build_forward(const SagaRow *saga, const SagaStep *step,
						   int attempt, const List *inputs)
{
	SagaJson	json;
	Inputs		taken = {.limit = (Size) saga_guc_max_payload * 1024};

	saga_json_begin(&json);
	add_common(&json, saga, step);
	saga_json_int(&json, "attempt", attempt);
	add_policy(&json, "retry",
			   step->retry ? step->retry : step->compensation_retry);
	add_keys(&json, step);
	if (step->task != NULL)
		saga_json_text(&json, "task_key",
					   saga_context_forward_key(&step->saga, step->seq));
	add_inputs(&json, inputs, &taken);
	saga_json_strings(&json, "outputs_omitted", taken.omitted);
	saga_json_value(&json, "signal", step->signal);
	saga_json_value(&json, "state", step->state);
	saga_json_int(&json, "round", step->rounds + 1);
	return saga_json_end(&json);
}
