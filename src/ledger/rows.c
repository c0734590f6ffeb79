/*-------------------------------------------------------------------------
 *
 * rows.c
 *	  What the rows of the ledger are: their fields, and the rules they keep.
 *
 * Direct writes skip the constraints of the install script, so every row is
 * verified here before it is packed: what may not be NULL, which codes exist,
 * which transition of a saga's state or of a compensation's status there is.
 *
 * Each SPOIL names a rule; the test build breaks one rule at a time there, to
 * prove that the row is refused.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/htup_details.h"
#include "base/fault.h"
#include "catalog/pg_collation_d.h"
#include "ledger/rows.h"
#include "utils/builtins.h"
#include "utils/fmgrprotos.h"
#include "utils/timestamp.h"

typedef struct Packer
{
	Datum	   *values;
	bool	   *nulls;
} Packer;

static inline void
pack(Packer *p, int att, Datum value)
{
	p->values[att - 1] = value;
	p->nulls[att - 1] = false;
}

static inline void
pack_pointer(Packer *p, int att, const void *pointer)
{
	p->values[att - 1] = PointerGetDatum(pointer);
	p->nulls[att - 1] = (pointer == NULL);
}

/* Times, numbers and codes for which 0 stands for NULL. */
static inline void
pack_int64(Packer *p, int att, int64 value)
{
	p->values[att - 1] = Int64GetDatum(value);
	p->nulls[att - 1] = (value == 0);
}

static inline void
pack_int32(Packer *p, int att, int32 value)
{
	p->values[att - 1] = Int32GetDatum(value);
	p->nulls[att - 1] = (value == 0);
}

static inline void
pack_char(Packer *p, int att, char value)
{
	p->values[att - 1] = CharGetDatum(value);
	p->nulls[att - 1] = (value == 0);
}

/* A boolean whose false is NULL, as it is mostly. */
static inline void
pack_true(Packer *p, int att, bool value)
{
	p->values[att - 1] = BoolGetDatum(true);
	p->nulls[att - 1] = !value;
}

static inline void
pack_cstring(Packer *p, int att, const char *string)
{
	p->nulls[att - 1] = (string == NULL);
	p->values[att - 1] = string ? CStringGetTextDatum(string) : (Datum) 0;
}

static inline void *
unpack_pointer(Packer *p, int att)
{
	return p->nulls[att - 1] ? NULL : DatumGetPointer(p->values[att - 1]);
}

static inline int64
unpack_int64(Packer *p, int att)
{
	return p->nulls[att - 1] ? 0 : DatumGetInt64(p->values[att - 1]);
}

static inline int32
unpack_int32(Packer *p, int att)
{
	return p->nulls[att - 1] ? 0 : DatumGetInt32(p->values[att - 1]);
}

static inline char
unpack_char(Packer *p, int att)
{
	return p->nulls[att - 1] ? 0 : DatumGetChar(p->values[att - 1]);
}

static void
require(bool holds, const char *table, const char *rule)
{
	if (!holds)
		ereport(ERROR,
				(errcode(ERRCODE_INTEGRITY_CONSTRAINT_VIOLATION),
				 errmsg("refused to write a row of \"%s\" that breaks rule \"%s\"",
						table, rule),
				 errhint("This is a bug in saga, or the ledger was tampered with.")));
}

static void
verify_saga(SagaRow *row)
{
	if (SAGA_FAULT_SET("ledger_saga.owner"))
		row->owner = InvalidOid;
	if (SAGA_FAULT_SET("ledger_saga.started_at"))
		row->started_at = 0;
	if (SAGA_FAULT_SET("ledger_saga.on_failure"))
		row->on_failure = 'x';
	if (SAGA_FAULT_SET("ledger_saga.owner_name"))
		row->owner_name = NULL;
	if (SAGA_FAULT_SET("ledger_saga.name"))
		row->name = NULL;
	if (SAGA_FAULT_SET("ledger_saga.updated_at"))
		row->updated_at = 0;
	if (SAGA_FAULT_SET("ledger_saga.state"))
		row->state = 'x';
	if (SAGA_FAULT_SET("ledger_saga.transition"))
		row->state = row->stored_state ? SAGA_ABANDONED : SAGA_COMPENSATING;
	if (SAGA_FAULT_SET("ledger_saga.failure_kind"))
		row->failure_kind = 'x';
	if (SAGA_FAULT_SET("ledger_saga.finished"))
		row->finished_at = row->finished_at ? 0 : 1;
	if (SAGA_FAULT_SET("ledger_saga.runs"))
		row->runs = 'x';
	if (SAGA_FAULT_SET("ledger_saga.undo"))
		row->undo = SAGA_UNDO_NONE;

	require(OidIsValid(row->owner), "ledger_saga", "owner");
	require(row->started_at != 0, "ledger_saga", "started_at");
	require(row->on_failure == SAGA_ON_FAILURE_HALT ||
			row->on_failure == SAGA_ON_FAILURE_CONTINUE,
			"ledger_saga", "on_failure");
	require(row->owner_name != NULL, "ledger_saga", "owner_name");
	require(row->name != NULL, "ledger_saga", "name");
	require(row->updated_at != 0, "ledger_saga", "updated_at");
	require(saga_state_is_known((char) row->state), "ledger_saga", "state");
	require(row->stored_state == 0 ? row->state == SAGA_RUNNING :
			(row->state == row->stored_state ||
			 saga_state_can(row->stored_state, row->state)),
			"ledger_saga", "transition");
	require(row->failure_kind == SAGA_FAILURE_NONE ||
			saga_state_failure_kind_name(row->failure_kind) != NULL,
			"ledger_saga", "failure_kind");
	require((row->finished_at != 0) == saga_state_is_final(row->state),
			"ledger_saga", "finished");
	require(row->runs == SAGA_RUNS_NONE || row->runs == SAGA_RUNS_STEPS ||
			row->runs == SAGA_RUNS_SEALED, "ledger_saga", "runs");
	require(saga_state_is_undo((char) row->undo) ||
			(row->undo == SAGA_UNDO_NONE && row->state != SAGA_COMPENSATING),
			"ledger_saga", "undo");
}

static void
verify_step(SagaStep *row)
{
	if (SAGA_FAULT_SET("ledger_step.seq"))
		row->seq = 0;
	if (SAGA_FAULT_SET("ledger_step.started_at"))
		row->started_at = 0;
	if (SAGA_FAULT_SET("ledger_step.run"))
		row->run = 0;
	if (SAGA_FAULT_SET("ledger_step.run_as"))
		row->run_as = InvalidOid;
	if (SAGA_FAULT_SET("ledger_step.kind"))
		row->kind = 'x';
	if (SAGA_FAULT_SET("ledger_step.compensate_on"))
		row->compensate_on = 'x';
	if (SAGA_FAULT_SET("ledger_step.run_as_name"))
		row->run_as_name = NULL;
	if (SAGA_FAULT_SET("ledger_step.key"))
		row->key = NULL;
	if (SAGA_FAULT_SET("ledger_step.compensation_retry"))
		row->compensation_retry = NULL;
	if (SAGA_FAULT_SET("ledger_step.attempts"))
		row->forward.attempts = -1;
	if (SAGA_FAULT_SET("ledger_step.status"))
		row->status = 'x';
	if (SAGA_FAULT_SET("ledger_step.comp_status"))
		row->comp_status = 'x';
	if (SAGA_FAULT_SET("ledger_step.comp_transition"))
		row->comp_status = row->stored_comp_status ? SAGA_COMP_NONE : SAGA_COMP_SKIPPED;
	if (SAGA_FAULT_SET("ledger_step.one_action"))
		row->compensation = row->channel = row->key;
	if (SAGA_FAULT_SET("ledger_step.one_work"))
		row->action = row->task = row->key;
	if (SAGA_FAULT_SET("ledger_step.give_up"))
		row->give_up = 'x';
	if (SAGA_FAULT_SET("ledger_step.waiting"))
	{
		row->status = SAGA_STEP_WAITING;
		row->completed_at = 0;
		row->give_up = 0;
	}
	if (SAGA_FAULT_SET("ledger_step.completed"))
		row->completed_at = row->completed_at ? 0 : 1;
	if (SAGA_FAULT_SET("ledger_step.dispatched"))
	{
		row->comp_status = SAGA_COMP_DISPATCHED;
		row->dispatched_at = 0;
	}
	if (SAGA_FAULT_SET("ledger_step.claimed"))
		row->claimed_at = row->lease_until = 1;
	if (SAGA_FAULT_SET("ledger_step.lease"))
		row->lease_until = row->lease_until ? 0 : 1;

	require(row->seq > 0, "ledger_step", "seq");
	require(row->started_at != 0, "ledger_step", "started_at");
	require(row->run > 0, "ledger_step", "run");
	require(OidIsValid(row->run_as), "ledger_step", "run_as");
	require(saga_state_kind_name(row->kind) != NULL, "ledger_step", "kind");
	require(row->compensate_on == SAGA_COMPENSATE_ON_STARTED ||
			row->compensate_on == SAGA_COMPENSATE_ON_COMPLETED,
			"ledger_step", "compensate_on");
	require(row->run_as_name != NULL, "ledger_step", "run_as_name");
	require(row->key != NULL, "ledger_step", "key");
	require(row->compensation_retry != NULL,
			"ledger_step", "compensation_retry");
	require(row->forward.attempts > 0 ||
			(row->forward.attempts == 0 && saga_rows_is_run(row)),
			"ledger_step", "attempts");
	require(saga_state_step_status_is_known((char) row->status),
			"ledger_step", "status");
	require(saga_state_comp_status_is_known((char) row->comp_status),
			"ledger_step", "comp_status");
	require(row->stored_comp_status == 0 ?
			(row->comp_status == SAGA_COMP_NONE ||
			 row->comp_status == SAGA_COMP_REGISTERED) :
			saga_state_comp_can(row->stored_comp_status, row->comp_status),
			"ledger_step", "comp_transition");
	require(row->compensation == NULL || row->channel == NULL,
			"ledger_step", "one_action");
	require(row->action == NULL || row->task == NULL,
			"ledger_step", "one_work");
	require(row->give_up == 0 ||
			saga_state_word(saga_state_give_ups, row->give_up) != NULL,
			"ledger_step", "give_up");
	require(saga_rows_is_run(row) ||
			(row->action == NULL && row->task == NULL &&
			 row->status != SAGA_STEP_WAITING &&
			 row->status != SAGA_STEP_SKIPPED),
			"ledger_step", "waiting");
	require((row->completed_at != 0) == (row->status == SAGA_STEP_COMPLETED),
			"ledger_step", "completed");
	require(row->comp_status != SAGA_COMP_DISPATCHED ||
			(row->dispatched_at != 0 && row->channel != NULL),
			"ledger_step", "dispatched");
	require(row->claimed_at == 0 || row->comp_status == SAGA_COMP_DISPATCHED ||
			(row->task != NULL && row->status == SAGA_STEP_STARTED),
			"ledger_step", "claimed");
	require((row->claimed_at != 0) == (row->lease_until != 0),
			"ledger_step", "lease");
}

/* Are two texts of rows, or of a caller, the same, byte for byte? */
bool
saga_rows_same_text(const text *a, const text *b)
{
	if (a == NULL || b == NULL)
		return a == b;
	return DatumGetBool(DirectFunctionCall2Coll(texteq, C_COLLATION_OID,
												PointerGetDatum(a),
												PointerGetDatum(b)));
}

/* Verifies a saga's row and packs it for table.c. */
void
saga_rows_pack_saga(SagaRow *row, Datum *values, bool *nulls)
{
	Packer		packer = {values, nulls};
	Packer	   *p = &packer;

	verify_saga(row);
	pack(p, Saga_id, UUIDPGetDatum(&row->id));
	pack(p, Saga_owner, ObjectIdGetDatum(row->owner));
	pack(p, Saga_started_at, TimestampTzGetDatum(row->started_at));
	pack(p, Saga_on_failure, CharGetDatum((char) row->on_failure));
	pack_pointer(p, Saga_owner_name, row->owner_name);
	pack_pointer(p, Saga_name, row->name);
	pack_pointer(p, Saga_key, row->key);
	pack_pointer(p, Saga_announce, row->announce);
	pack_pointer(p, Saga_subject, row->subject);
	pack_pointer(p, Saga_input, row->input);
	pack_pointer(p, Saga_content_hash, row->content_hash);
	pack_int64(p, Saga_deadline, row->deadline);
	pack(p, Saga_updated_at, TimestampTzGetDatum(row->updated_at));
	pack_int64(p, Saga_due, row->due);
	pack(p, Saga_lane, ObjectIdGetDatum(row->lane));
	p->nulls[Saga_lane - 1] = (row->due == 0);
	pack_int64(p, Saga_savepoint, row->savepoint);
	pack_int64(p, Saga_failed_seq, row->failed_seq);
	pack_int64(p, Saga_finished_at, row->finished_at);
	pack(p, Saga_state, CharGetDatum((char) row->state));
	pack_char(p, Saga_failure_kind, (char) row->failure_kind);
	pack_char(p, Saga_undo, (char) row->undo);
	pack(p, Saga_paused, BoolGetDatum(row->paused));
	pack_pointer(p, Saga_to_announce, row->to_announce);
	pack_pointer(p, Saga_parked, row->parked);
	pack_pointer(p, Saga_reason, row->reason);
	pack_pointer(p, Saga_details, row->details);
	pack_pointer(p, Saga_result, row->result);
	pack_char(p, Saga_runs, (char) row->runs);
}

void
saga_rows_unpack_saga(TupleDesc desc, const SagaTuple *version, SagaRow *row)
{
	Datum		values[Saga_natts];
	bool		nulls[Saga_natts];
	Packer		p = {values, nulls};

	heap_deform_tuple(version->tuple, desc, values, nulls);
	row->version = *version;
	row->id = *DatumGetUUIDP(values[Saga_id - 1]);
	row->owner = DatumGetObjectId(values[Saga_owner - 1]);
	row->started_at = unpack_int64(&p, Saga_started_at);
	row->on_failure = (SagaOnFailure) unpack_char(&p, Saga_on_failure);
	row->owner_name = unpack_pointer(&p, Saga_owner_name);
	row->name = unpack_pointer(&p, Saga_name);
	row->key = unpack_pointer(&p, Saga_key);
	row->announce = unpack_pointer(&p, Saga_announce);
	row->subject = unpack_pointer(&p, Saga_subject);
	row->input = unpack_pointer(&p, Saga_input);
	row->content_hash = unpack_pointer(&p, Saga_content_hash);
	row->deadline = unpack_int64(&p, Saga_deadline);
	row->updated_at = unpack_int64(&p, Saga_updated_at);
	row->due = unpack_int64(&p, Saga_due);
	row->lane = (Oid) unpack_int32(&p, Saga_lane);
	row->savepoint = unpack_int64(&p, Saga_savepoint);
	row->failed_seq = unpack_int64(&p, Saga_failed_seq);
	row->finished_at = unpack_int64(&p, Saga_finished_at);
	row->state = (SagaState) unpack_char(&p, Saga_state);
	row->failure_kind = (SagaFailureKind) unpack_char(&p, Saga_failure_kind);
	row->undo = (SagaUndo) unpack_char(&p, Saga_undo);
	row->paused = DatumGetBool(values[Saga_paused - 1]);
	row->to_announce = unpack_pointer(&p, Saga_to_announce);
	row->parked = unpack_pointer(&p, Saga_parked);
	row->reason = unpack_pointer(&p, Saga_reason);
	row->details = unpack_pointer(&p, Saga_details);
	row->result = unpack_pointer(&p, Saga_result);
	row->runs = (SagaRuns) unpack_char(&p, Saga_runs);
	row->stored_state = row->state;
	row->stored_due = row->due;
	row->stored_lane = row->lane;
	row->stored_held = saga_rows_held(row);
	row->stored_failure_kind = row->failure_kind;
}

/* The same of a row that a snapshot sees, whoever may be replacing it. */
void
saga_rows_unpack_seen(TupleDesc desc, HeapTuple tuple, SagaRow *row)
{
	SagaTuple	version = {heap_copytuple(tuple), false, InvalidTransactionId};

	saga_rows_unpack_saga(desc, &version, row);
}

/*
 * The budgets of a work: five columns, of which "first" is the number of
 * attempts that count, in the same order for both works of a step.
 */
static inline void
pack_budgets(Packer *p, int first, const SagaWork *work)
{
	pack_int32(p, first, work->charged);
	pack_int32(p, first + 1, work->deferrals);
	pack_int32(p, first + 2, work->conflicts);
	pack_int32(p, first + 3, work->interruptions);
	pack(p, first + 4, Int32GetDatum(work->crashes));
	p->nulls[first + 4 - 1] = (work->crashes < 0);
}

static inline void
unpack_budgets(Packer *p, int first, SagaWork *work)
{
	work->charged = unpack_int32(p, first);
	work->deferrals = unpack_int32(p, first + 1);
	work->conflicts = unpack_int32(p, first + 2);
	work->interruptions = unpack_int32(p, first + 3);
	work->crashes = p->nulls[first + 4 - 1] ? -1 :
		DatumGetInt32(p->values[first + 4 - 1]);
}

StaticAssertDecl(Step_crashes - Step_charged == 4 &&
				 Step_comp_crashes - Step_comp_charged == 4,
				 "the budgets of both works are five columns each");

/*
 * The columns of a step that saga runs.  A step of the application has them, too, if
 * an action recorded it, or if it is a later run in the place of an earlier one.
 */
static void
pack_run_step(Packer *p, SagaStep *row)
{
	pack_pointer(p, Step_sqlstate, row->forward.sqlstate);
	pack_int64(p, Step_begun, row->begun);
	pack_int64(p, Step_opened_at, row->opened_at);
	pack_int64(p, Step_ready_at, row->ready_at);
	pack_int64(p, Step_rounds, row->rounds);
	pack_budgets(p, Step_charged, &row->forward);
	pack_true(p, Step_approved, row->approved);
	pack_pointer(p, Step_signal, row->signal);
	pack_pointer(p, Step_state, row->state);
	pack_int64(p, Step_recorded_by, row->recorded_by);
	pack_int64(p, Step_place, row->place);
	pack_int64(p, Step_not_before, row->not_before);
	pack_int64(p, Step_timeout, row->timeout);
	pack_pointer(p, Step_delay, row->delay);
	pack_char(p, Step_give_up, (char) row->give_up);
	pack_pointer(p, Step_action, row->action);
	pack_pointer(p, Step_task, row->task);
	pack_pointer(p, Step_after, row->after);
	pack_pointer(p, Step_signals, row->signals);
	pack_pointer(p, Step_approval, row->approval);
}

static void
unpack_run_step(Packer *p, SagaStep *row)
{
	row->forward.sqlstate = unpack_pointer(p, Step_sqlstate);
	row->begun = unpack_int64(p, Step_begun);
	row->opened_at = unpack_int64(p, Step_opened_at);
	row->ready_at = unpack_int64(p, Step_ready_at);
	row->rounds = unpack_int64(p, Step_rounds);
	unpack_budgets(p, Step_charged, &row->forward);
	row->approved = !p->nulls[Step_approved - 1];
	row->signal = unpack_pointer(p, Step_signal);
	row->state = unpack_pointer(p, Step_state);
	row->recorded_by = unpack_int64(p, Step_recorded_by);
	row->place = unpack_int64(p, Step_place);
	row->not_before = unpack_int64(p, Step_not_before);
	row->timeout = unpack_int64(p, Step_timeout);
	row->delay = unpack_pointer(p, Step_delay);
	row->give_up = (SagaGiveUp) unpack_char(p, Step_give_up);
	row->action = unpack_pointer(p, Step_action);
	row->task = unpack_pointer(p, Step_task);
	row->after = unpack_pointer(p, Step_after);
	row->signals = unpack_pointer(p, Step_signals);
	row->approval = unpack_pointer(p, Step_approval);
}

/* The row has none of these columns. */
static void
clear_run_step(SagaStep *row)
{
	memset(&row->action, 0, offsetof(SagaStep, status) - offsetof(SagaStep, action));
	row->begun = row->opened_at = row->ready_at = 0;
	row->approved = false;
	row->rounds = 0;
	row->signal = row->state = NULL;
	row->forward.sqlstate = NULL;
	row->forward.charged = row->forward.deferrals = 0;
	row->forward.conflicts = row->forward.interruptions = 0;
	row->forward.crashes = -1;
}

/*
 * Verifies a step's row and packs it for table.c.  Returns the number of columns that
 * the row needs: all after them are NULL.
 */
int
saga_rows_pack_step(SagaStep *row, Datum *values, bool *nulls)
{
	Packer		packer = {values, nulls};
	Packer	   *p = &packer;

	verify_step(row);
	pack(p, Step_saga, UUIDPGetDatum(&row->saga));
	pack(p, Step_seq, Int64GetDatum(row->seq));
	pack(p, Step_started_at, TimestampTzGetDatum(row->started_at));
	pack(p, Step_run, Int32GetDatum(row->run));
	pack(p, Step_run_as, ObjectIdGetDatum(row->run_as));
	pack(p, Step_kind, CharGetDatum((char) row->kind));
	pack(p, Step_compensate_on, CharGetDatum((char) row->compensate_on));
	pack(p, Step_acknowledge, BoolGetDatum(row->acknowledge));
	pack_pointer(p, Step_run_as_name, row->run_as_name);
	pack_pointer(p, Step_key, row->key);
	pack_pointer(p, Step_name, row->name);
	pack_pointer(p, Step_compensation, row->compensation);
	pack_pointer(p, Step_channel, row->channel);
	pack_pointer(p, Step_review, row->review);
	pack_pointer(p, Step_args, row->args);
	pack_pointer(p, Step_content_hash, row->content_hash);
	pack_pointer(p, Step_search_path, row->search_path);
	pack_pointer(p, Step_settings, row->settings);
	pack_pointer(p, Step_compensation_retry, row->compensation_retry);
	pack_pointer(p, Step_retry, row->retry);
	pack(p, Step_attempts, Int32GetDatum(row->forward.attempts));
	pack(p, Step_status, CharGetDatum((char) row->status));
	pack(p, Step_comp_status, CharGetDatum((char) row->comp_status));
	pack_true(p, Step_released, row->released);
	pack_true(p, Step_late, row->late);
	pack_int64(p, Step_attempt_at, row->attempt_at);
	pack_int64(p, Step_completed_at, row->completed_at);
	pack_int64(p, Step_retry_at, row->forward.retry_at);
	pack_int64(p, Step_rolled_back_at, row->rolled_back_at);
	pack_int32(p, Step_comp_attempts, row->undo.attempts);
	pack_budgets(p, Step_comp_charged, &row->undo);
	pack_int64(p, Step_comp_retry_at, row->undo.retry_at);
	pack_int64(p, Step_dispatched_at, row->dispatched_at);
	pack_int64(p, Step_claimed_at, row->claimed_at);
	pack_int64(p, Step_lease_until, row->lease_until);
	pack_int64(p, Step_compensated_at, row->compensated_at);
	pack_pointer(p, Step_consumer, row->consumer);
	pack_pointer(p, Step_parked, row->parked);
	pack_pointer(p, Step_error, row->forward.error);
	pack_pointer(p, Step_comp_sqlstate, row->undo.sqlstate);
	pack_pointer(p, Step_comp_error, row->undo.error);
	pack_pointer(p, Step_comp_output, row->undo.output);
	pack_pointer(p, Step_output, row->forward.output);
	if (saga_rows_is_run(row) || row->recorded_by != 0 || row->place != 0)
	{
		pack_run_step(p, row);
		return Step_natts;
	}
	memset(&nulls[Step_short_natts], true, Step_natts - Step_short_natts);
	return Step_short_natts;
}

/* "desc": the table's, or one that ends where such a row does. */
void
saga_rows_unpack_step(TupleDesc desc, const SagaTuple *version, SagaStep *row)
{
	Datum		values[Step_natts];
	bool		nulls[Step_natts];
	Packer		p = {values, nulls};

	heap_deform_tuple(version->tuple, desc, values, nulls);
	row->version = *version;
	row->saga = *DatumGetUUIDP(values[Step_saga - 1]);
	row->seq = unpack_int64(&p, Step_seq);
	row->started_at = unpack_int64(&p, Step_started_at);
	row->run = unpack_int32(&p, Step_run);
	row->run_as = DatumGetObjectId(values[Step_run_as - 1]);
	row->kind = (SagaStepKind) unpack_char(&p, Step_kind);
	row->compensate_on = (SagaCompensateOn) unpack_char(&p, Step_compensate_on);
	row->acknowledge = DatumGetBool(values[Step_acknowledge - 1]);
	row->run_as_name = unpack_pointer(&p, Step_run_as_name);
	row->key = unpack_pointer(&p, Step_key);
	row->name = unpack_pointer(&p, Step_name);
	row->compensation = unpack_pointer(&p, Step_compensation);
	row->channel = unpack_pointer(&p, Step_channel);
	row->review = unpack_pointer(&p, Step_review);
	row->args = unpack_pointer(&p, Step_args);
	row->content_hash = unpack_pointer(&p, Step_content_hash);
	row->search_path = unpack_pointer(&p, Step_search_path);
	row->settings = unpack_pointer(&p, Step_settings);
	row->compensation_retry = unpack_pointer(&p, Step_compensation_retry);
	row->retry = unpack_pointer(&p, Step_retry);
	row->forward.attempts = unpack_int32(&p, Step_attempts);
	row->status = (SagaStepStatus) unpack_char(&p, Step_status);
	row->comp_status = (SagaCompStatus) unpack_char(&p, Step_comp_status);
	row->released = !nulls[Step_released - 1];
	row->late = !nulls[Step_late - 1];
	row->attempt_at = unpack_int64(&p, Step_attempt_at);
	row->completed_at = unpack_int64(&p, Step_completed_at);
	row->forward.retry_at = unpack_int64(&p, Step_retry_at);
	row->rolled_back_at = unpack_int64(&p, Step_rolled_back_at);
	row->undo.attempts = unpack_int32(&p, Step_comp_attempts);
	unpack_budgets(&p, Step_comp_charged, &row->undo);
	row->undo.retry_at = unpack_int64(&p, Step_comp_retry_at);
	row->dispatched_at = unpack_int64(&p, Step_dispatched_at);
	row->claimed_at = unpack_int64(&p, Step_claimed_at);
	row->lease_until = unpack_int64(&p, Step_lease_until);
	row->compensated_at = unpack_int64(&p, Step_compensated_at);
	row->consumer = unpack_pointer(&p, Step_consumer);
	row->parked = unpack_pointer(&p, Step_parked);
	row->forward.error = unpack_pointer(&p, Step_error);
	row->undo.sqlstate = unpack_pointer(&p, Step_comp_sqlstate);
	row->undo.error = unpack_pointer(&p, Step_comp_error);
	row->undo.output = unpack_pointer(&p, Step_comp_output);
	row->forward.output = unpack_pointer(&p, Step_output);
	if (desc->natts > Step_short_natts)
		unpack_run_step(&p, row);
	else
		clear_run_step(row);
	row->stored_status = row->status;
	row->stored_comp_status = row->comp_status;
	row->stored_queued = saga_rows_queued(row, &row->stored_queue_phase);
	row->stored_channel = saga_rows_channel(row, row->stored_queue_phase);
	row->stored_attempts = row->forward.attempts;
	row->stored_work_due = saga_rows_work_due(row);
	row->stored_gate_due = saga_rows_gate_due(row);
	row->stored_timeout_at = saga_rows_timeout_at(row);
	row->stored_held = saga_rows_step_held(row);
	row->change = 0;
	row->locked = row->look_wanted = row->kept = false;
	row->part_of = 0;
}

/* Verifies an attempt's row and packs it for table.c. */
void
saga_rows_pack_attempt(SagaAttempt *row, Datum *values, bool *nulls)
{
	Packer		packer = {values, nulls};
	Packer	   *p = &packer;

	if (SAGA_FAULT_SET("ledger_attempt.seq"))
		row->seq = 0;
	if (SAGA_FAULT_SET("ledger_attempt.started_at"))
		row->started_at = 0;
	if (SAGA_FAULT_SET("ledger_attempt.finished_at"))
		row->finished_at = 0;
	if (SAGA_FAULT_SET("ledger_attempt.attempt"))
		row->attempt = 0;
	if (SAGA_FAULT_SET("ledger_attempt.phase"))
		row->phase = 'x';
	if (SAGA_FAULT_SET("ledger_attempt.outcome"))
		row->outcome = 'x';

	require(row->seq > 0, "ledger_attempt", "seq");
	require(row->started_at != 0, "ledger_attempt", "started_at");
	require(row->finished_at != 0, "ledger_attempt", "finished_at");
	require(row->attempt > 0, "ledger_attempt", "attempt");
	require(row->phase == SAGA_PHASE_FORWARD ||
			row->phase == SAGA_PHASE_COMPENSATION, "ledger_attempt", "phase");
	require(saga_state_outcome_is_known((char) row->outcome),
			"ledger_attempt", "outcome");

	pack(p, Attempt_saga, UUIDPGetDatum(&row->saga));
	pack(p, Attempt_seq, Int64GetDatum(row->seq));
	pack(p, Attempt_started_at, TimestampTzGetDatum(row->started_at));
	pack(p, Attempt_finished_at, TimestampTzGetDatum(row->finished_at));
	pack(p, Attempt_rows, Int64GetDatum(row->rows));
	p->nulls[Attempt_rows - 1] = (row->rows < 0);
	pack(p, Attempt_attempt, Int32GetDatum(row->attempt));
	pack(p, Attempt_phase, CharGetDatum((char) row->phase));
	pack(p, Attempt_outcome, CharGetDatum((char) row->outcome));
	pack_cstring(p, Attempt_sqlstate, row->sqlstate);
	pack_cstring(p, Attempt_error, row->error);
	pack_cstring(p, Attempt_consumer, row->consumer);
}

/* Verifies a signal's row and packs it for table.c. */
void
saga_rows_pack_signal(SagaSignal *row, Datum *values, bool *nulls)
{
	Packer		packer = {values, nulls};
	Packer	   *p = &packer;

	if (SAGA_FAULT_SET("ledger_signal.seq"))
		row->seq = 0;
	if (SAGA_FAULT_SET("ledger_signal.at"))
		row->at = 0;
	if (SAGA_FAULT_SET("ledger_signal.name"))
		row->name = NULL;
	if (SAGA_FAULT_SET("ledger_signal.sent_by"))
		row->sent_by = NULL;
	if (SAGA_FAULT_SET("ledger_signal.used_by"))
		row->used_by = -1;

	require(row->seq > 0, "ledger_signal", "seq");
	require(row->at != 0, "ledger_signal", "at");
	require(row->name != NULL, "ledger_signal", "name");
	require(row->sent_by != NULL, "ledger_signal", "sent_by");
	require(row->used_by >= 0, "ledger_signal", "used_by");

	pack(p, Signal_saga, UUIDPGetDatum(&row->saga));
	pack(p, Signal_seq, Int64GetDatum(row->seq));
	pack(p, Signal_at, TimestampTzGetDatum(row->at));
	pack_pointer(p, Signal_name, row->name);
	pack_pointer(p, Signal_key, row->key);
	pack_pointer(p, Signal_sent_by, row->sent_by);
	pack_int64(p, Signal_used_by, row->used_by);
	pack_pointer(p, Signal_content_hash, row->content_hash);
	pack_pointer(p, Signal_payload, row->payload);
}

/* Takes a row of ledger_signal apart. */
void
saga_rows_unpack_signal(TupleDesc desc, const SagaTuple *version, SagaSignal *row)
{
	Datum		values[Signal_natts];
	bool		nulls[Signal_natts];
	Packer		p = {values, nulls};

	heap_deform_tuple(version->tuple, desc, values, nulls);
	row->version = *version;
	row->saga = *DatumGetUUIDP(values[Signal_saga - 1]);
	row->seq = unpack_int64(&p, Signal_seq);
	row->at = unpack_int64(&p, Signal_at);
	row->name = unpack_pointer(&p, Signal_name);
	row->key = unpack_pointer(&p, Signal_key);
	row->sent_by = unpack_pointer(&p, Signal_sent_by);
	row->used_by = unpack_int64(&p, Signal_used_by);
	row->content_hash = unpack_pointer(&p, Signal_content_hash);
	row->payload = unpack_pointer(&p, Signal_payload);
}
