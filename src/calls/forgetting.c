/*-------------------------------------------------------------------------
 *
 * forgetting.c
 *	  saga.purge and saga.redact.
 *
 * Both are about finished sagas only.  What a purge deletes is as if it had
 * never been, its keys included; what is redacted keeps its story and its
 * keys, but not what was in it.
 *
 * A redacted saga keeps SHA-256 hashes of its input, of its steps' args and
 * outputs, and of the payloads of its signals, with which calls that repeat a key
 * are still compared.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "base/clock.h"
#include "calls/access.h"
#include "calls/arguments.h"
#include "calls/call.h"
#include "fmgr.h"
#include "ledger/ledger.h"
#include "ledger/purge.h"
#include "miscadmin.h"
#include "utils/builtins.h"

PG_FUNCTION_INFO_V1(saga_sql_purge);
PG_FUNCTION_INFO_V1(saga_sql_redact);

#define DEFAULT_MAX_SAGAS	10000

/* saga.purge(older_than, max_sagas) */
Datum
saga_sql_purge(PG_FUNCTION_ARGS)
{
	SagaPurge	purge = {
		.all = saga_rights_is_dba(),
		.max_looks = PG_INT64_MAX,
		.max_sagas = DEFAULT_MAX_SAGAS,
		.patience = SAGA_WAIT
	};

	saga_access_call("saga.purge()");
	if (PG_ARGISNULL(0))
		ereport(ERROR,
				(errcode(ERRCODE_NULL_VALUE_NOT_ALLOWED),
				 errmsg("older_than must not be null"),
				 errhint("Say how long finished sagas are to be kept.")));
	purge.limit = saga_clock_now() -
		saga_arguments_milliseconds(PG_GETARG_INTERVAL_P(0), "older_than") * SAGA_CLOCK_MS;
	if (!PG_ARGISNULL(1))
		purge.max_sagas = PG_GETARG_INT32(1);
	if (purge.max_sagas < 1)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("max_sagas must be at least 1"),
				 errhint("It bounds what one transaction does; call it again for more.")));
	PG_RETURN_INT64(saga_purge(&purge));
}

/* Has a saga been redacted, and nothing to forget come in since? */
static bool
is_redacted(const SagaRow *saga, const SagaSteps *steps,
			const SagaSignal *signals, int signals_count)
{
	if (saga->content_hash == NULL || saga->parked != NULL)
		return false;
	for (int i = 0; i < signals_count; i++)
		if (signals[i].payload != NULL)
			return false;
	for (int i = 0; i < steps->count; i++)
		if (steps->step[i].forward.output != NULL || steps->step[i].undo.output != NULL ||
			steps->step[i].undo.error != NULL || steps->step[i].parked != NULL)
			return false;
	return true;
}

/* Replaces what a saga holds by its hashes. */
static void
redact_saga(SagaRow *saga)
{
	if (saga->content_hash == NULL)
		saga->content_hash = saga_arguments_hash(NULL, &saga->input, 1);
	saga->input = NULL;
	saga->subject = NULL;
	saga->details = NULL;
	saga->result = NULL;
	saga->parked = NULL;
	if (saga->reason != NULL &&
		saga_ledger_repeats_error(&saga->id, saga->failed_seq,
								  text_to_cstring(saga->reason)))
		saga->reason = NULL;
}

static void
redact_step(SagaStep *step)
{
	Jsonb	   *forgotten[SAGA_STEP_HASHES];

	forgotten[SAGA_HASH_ARGS] = step->args;
	forgotten[SAGA_HASH_OUTPUT] = step->forward.output;
	step->content_hash = saga_arguments_hash(step->content_hash, forgotten,
											 SAGA_STEP_HASHES);
	step->args = NULL;
	step->settings = NULL;
	step->forward.output = NULL;
	step->undo.output = NULL;
	step->signal = NULL;
	step->state = NULL;
	step->forward.error = NULL;
	step->undo.error = NULL;
	step->parked = NULL;
}

static void
redact_signal(SagaChange *change, SagaSignal *signal)
{
	if (signal->payload == NULL)
		return;
	signal->content_hash = saga_arguments_hash(NULL, &signal->payload, 1);
	signal->payload = NULL;
	change->signals = lappend(change->signals, signal);
}

static SagaVerdict
decide_redact(SagaChange *change, void *arg)
{
	bool	   *redacted = arg;
	SagaRow    *saga = change->saga;
	SagaSteps  *steps;
	SagaSignal *signals;
	int			signals_count;

	if (!saga_state_is_final(saga->state) ||
		(saga->due != 0 && saga->to_announce == NULL))
		saga_access_refuse_state(saga, "only a finished saga can be redacted",
								 "What it holds may still be needed to undo it.");
	/* A late result or signal may have come in since it was redacted before. */
	steps = saga_change_steps(change);
	signals_count = saga_ledger_get_signals(&saga->id, &signals);
	if (is_redacted(saga, steps, signals, signals_count))
		return SAGA_NOTHING_TO_WRITE;
	redact_saga(saga);
	for (int i = 0; i < steps->count; i++)
	{
		redact_step(&steps->step[i]);
		saga_change_step(change, &steps->step[i]);
	}
	for (int i = 0; i < signals_count; i++)
		redact_signal(change, &signals[i]);
	saga_change_event(change, "redacted", 0, NULL);
	*redacted = true;
	return SAGA_WRITE;
}

/* saga.redact(saga_id) */
Datum
saga_sql_redact(PG_FUNCTION_ARGS)
{
	const pg_uuid_t *id = saga_access_id(fcinfo, 0);
	bool		redacted = false;

	saga_access_call("saga.redact()");
	saga_call(id, SAGA_REACH_OWN, SAGA_CALL_NO_LOCK, decide_redact, &redacted);
	if (redacted)
		saga_ledger_forget_errors(id);
	PG_RETURN_VOID();
}
