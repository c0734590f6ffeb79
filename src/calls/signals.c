/*-------------------------------------------------------------------------
 *
 * signals.c
 *	  saga.signal: what the outside tells a saga.
 *
 * A signal is a row, and stays there until a step uses it, so it may come before,
 * while or after the step waits for it.  Its sender takes no lock on the saga and
 * goes by the saga's row as it is committed: a saga may fail or end while a signal
 * is on its way, and then keeps it unused.  The sender waits only for a transaction
 * that sends the same key at the same time.
 *
 * With the signal goes a row that asks for a look at the saga (flow/look.c): also
 * where nothing waits, because a step that does may be on its way in; and where the
 * saga does not run, because it may be gone by the time the sender commits, and the
 * look then deletes what was sent to it.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "base/clock.h"
#include "base/errors.h"
#include "base/json.h"
#include "calls/access.h"
#include "calls/arguments.h"
#include "calls/quota.h"
#include "ledger/ledger.h"
#include "ledger/start_order.h"
#include "miscadmin.h"
#include "shared/current.h"
#include "shared/durable.h"
#include "shared/wakeup.h"
#include "utils/builtins.h"

PG_FUNCTION_INFO_V1(saga_sql_signal);

enum
{
	SIGNAL_ARG_SAGA, SIGNAL_ARG_NAME, SIGNAL_ARG_PAYLOAD, SIGNAL_ARG_KEY,
	SIGNAL_ARG_LATE
};

/* A key that was sent before comes with the payload it came with. */
static void
check_same_payload(const SagaSignal *signal, Jsonb *payload)
{
	if (signal->content_hash != NULL ?
		saga_arguments_same_hash(signal->content_hash, 0, payload) :
		saga_arguments_same_jsonb(signal->payload, payload))
		return;
	ereport(ERROR,
			(errcode(ERRCODE_SAGA_IDEMPOTENCY_CONFLICT),
			 errmsg("signal \"%s\" was sent with another payload under the key \"%s\"",
					text_to_cstring(signal->name), text_to_cstring(signal->key)),
			 errhint("Send another signal under another key.")));
}

/* May the saga get a new signal, as its row is?  Returns whether it comes late. */
static bool
admit(const SagaRow *saga, bool record_late)
{
	if (saga_state_is_final(saga->state))
		saga_access_refuse_state(saga, "a finished saga takes no signals",
								 "Nothing waits for it any more.");
	if (saga->state == SAGA_RUNNING)
		return false;
	if (!record_late)
		saga_access_refuse_late(saga, saga_rows_is_rolling_back(saga) ?
								"It is being rolled back to a savepoint: try again once it is running, or keep the signal with saga.signal(..., late => 'record')." :
								"Keep the signal nevertheless with saga.signal(..., late => 'record').");
	return true;
}

static void
note_late(const SagaSignal *signal)
{
	SagaJson	json;

	saga_json_begin(&json);
	saga_json_text(&json, "signal", signal->name);
	saga_json_text(&json, "key", signal->key);
	saga_ledger_insert_event(&signal->saga, "late signal", 0,
							 saga_json_end(&json), signal->at);
}

/* saga.signal(saga_id, signal, payload, idempotency_key, late) */
Datum
saga_sql_signal(PG_FUNCTION_ARGS)
{
	const pg_uuid_t *id = saga_access_id(fcinfo, SIGNAL_ARG_SAGA);
	text	   *name;
	text	   *key;
	Jsonb	   *payload;
	bool		record_late;
	SagaRow		saga;
	SagaSignal	signal;

	saga_access_call("saga.signal()");
	name = saga_arguments_name(fcinfo, SIGNAL_ARG_NAME, "signal", SAGA_MAX_NAME, true);
	payload = saga_arguments_jsonb(fcinfo, SIGNAL_ARG_PAYLOAD, "payload");
	key = saga_arguments_name(fcinfo, SIGNAL_ARG_KEY, "idempotency_key",
							  SAGA_MAX_KEY, false);
	record_late = saga_arguments_record_late(fcinfo, SIGNAL_ARG_LATE);
	if (saga_current_action(id) != 0)
		saga_access_read_own(id, &saga);
	else
		saga_access_read(id, SAGA_REACH_OWN, &saga);

	for (;;)
	{
		bool		late;

		/* A repeated signal is accepted in whatever state the saga is now. */
		if (key != NULL &&
			saga_ledger_get_signal_by_key(id, name, key, &signal) == SAGA_FOUND)
		{
			check_same_payload(&signal, payload);
			saga_durable_answered();
			break;
		}
		late = admit(&saga, record_late);
		saga_quota_check_signals(&saga);
		memset(&signal, 0, sizeof(signal));
		signal.saga = *id;
		signal.seq = saga_start_order_next(id);
		signal.at = saga_clock_now();
		signal.name = name;
		signal.key = key;
		signal.sent_by = cstring_to_text(saga_rights_role_name(GetUserId()));
		signal.payload = payload;
		if (saga_ledger_insert_signal(&signal))
		{
			saga_ledger_insert_look(id, -signal.seq, signal.at);
			saga_wakeup_due(signal.at);
			if (late)
				note_late(&signal);
			break;
		}
		CHECK_FOR_INTERRUPTS();
	}
	PG_RETURN_TEXT_P(cstring_to_text(saga_state_name(saga.state)));
}
