/*-------------------------------------------------------------------------
 *
 * functions.c
 *	  The functions that are called, the roles that call them, and which errors
 *	  may be.
 *
 * A function of the extension that is not in this list, or takes other
 * arguments, is a finding.  So is an error that is not in the other one, which
 * tells the reason for each.
 *
 *-------------------------------------------------------------------------
 */
#include <stdlib.h>
#include <string.h>

#include "fuzz.h"

/* ------------------------------------------------------------------------
 * The functions
 * ------------------------------------------------------------------------ */

const char *const type_of_kind[] = {
	[K_SAGA_ID] = "uuid",[K_SAGA_NAME] = "text",[K_SAGA_KEY] = "text",
	[K_INPUT] = "jsonb",[K_TIMEOUT] = "interval",[K_ON_FAILURE] = "text",
	[K_ANNOUNCE] = "text",[K_SUBJECT] = "text",[K_STEP_NAME] = "text",[K_STEP_KEY] = "text",
	[K_COMPENSATION] = "text",[K_ARGS] = "jsonb",[K_NOTIFY] = "text",
	[K_ACKNOWLEDGE] = "boolean",[K_REVIEW] = "text",[K_STEP_OUTPUT] = "jsonb",
	[K_STEP_COMPLETED] = "boolean",[K_KIND] = "text",
	[K_COMPENSATE_ON] = "text",[K_RETRY] = "saga.retry_policy",
	[K_COMPENSATION_RETRY] = "saga.retry_policy",[K_STEP] = "text",
	[K_SAVEPOINT] = "text",[K_JSON] = "jsonb",[K_LATE] = "text",
	[K_FORWARD_KEY] = "text",[K_NOTE] = "text",[K_REASON] = "text",
	[K_RETRYABLE] = "boolean",[K_BOOL] = "boolean",[K_WAIT] = "interval",
	[K_UNTIL] = "text",[K_MAX_ATTEMPTS] = "integer",[K_DELAY] = "interval",
	[K_BACKOFF] = "text",[K_MAX_DELAY] = "interval",
	[K_JITTER] = "double precision",[K_ATTEMPT_TIMEOUT] = "interval",
	[K_CHANNEL] = "text",[K_MAX_CLAIMS] = "integer",[K_LEASE] = "interval",
	[K_CONSUMER] = "text",[K_COMPENSATION_KEY] = "text",[K_TASK_KEY] = "text",[K_SIGNAL] = "text",
	[K_ATTEMPT] = "integer",[K_RETRY_AFTER] = "interval",
	[K_RESOLUTION] = "text",[K_OLDER_THAN] = "interval",
	[K_MAX_SAGAS] = "integer",[K_ROLE_OID] = "oid",[K_ROLE] = "regrole",
	[K_ROLE_NAME] = "text",[K_STATE_CHAR] = "\"char\"",
	[K_POLICY_TEXT] = "text",[K_POLICY_JSON] = "jsonb",[K_SEQ] = "bigint",[K_TIME] = "timestamptz",
	[K_OID] = "oid",[K_ACTION] = "text",[K_TASK] = "text",
	[K_AFTER] = "text[]",[K_GATE_DELAY] = "interval",
	[K_NOT_BEFORE] = "timestamptz",[K_SIGNALS] = "text[]",
	[K_APPROVAL] = "text",[K_STEP_TIMEOUT] = "interval",
	[K_GIVE_UP] = "text",[K_SEAL] = "boolean",
};

const Function functions[FUNCTIONS] = {
	{"begin", 60, REACH_ANY, A_UUID, false, false, false, 7, {
			{"name", K_SAGA_NAME, true}, {"idempotency_key", K_SAGA_KEY},
			{"input", K_INPUT}, {"timeout", K_TIMEOUT},
			{"on_compensation_failure", K_ON_FAILURE},
			{"announce", K_ANNOUNCE}, {"subject", K_SUBJECT}}},
	{"start", 10, REACH_ANY, A_UUID, false, false, false, 7, {
			{"name", K_SAGA_NAME, true}, {"idempotency_key", K_SAGA_KEY},
			{"input", K_INPUT}, {"timeout", K_TIMEOUT},
			{"on_compensation_failure", K_ON_FAILURE},
			{"announce", K_ANNOUNCE}, {"subject", K_SUBJECT}}},
	{"step", 260, REACH_OWN, A_STEP, false, false, false, 23, {
			{"saga_id", K_SAGA_ID, true}, {"name", K_STEP_NAME, true},
			{"idempotency_key", K_STEP_KEY},
			{"compensation", K_COMPENSATION}, {"args", K_ARGS},
			{"notify", K_NOTIFY}, {"acknowledge", K_ACKNOWLEDGE},
			{"review", K_REVIEW}, {"output", K_STEP_OUTPUT},
			{"completed", K_STEP_COMPLETED}, {"kind", K_KIND},
			{"compensate_on", K_COMPENSATE_ON}, {"retry", K_RETRY},
			{"compensation_retry", K_COMPENSATION_RETRY},
			{"action", K_ACTION}, {"task", K_TASK}, {"after", K_AFTER},
			{"delay", K_GATE_DELAY}, {"not_before", K_NOT_BEFORE},
			{"signals", K_SIGNALS}, {"approval", K_APPROVAL},
			{"timeout", K_STEP_TIMEOUT}, {"on_failure", K_GIVE_UP}}},
	{"complete_step", 130, REACH_OWN, A_STEP, false, false, false, 5, {
			{"saga_id", K_SAGA_ID, true}, {"step", K_STEP, true},
			{"output", K_JSON}, {"late", K_LATE},
			{"forward_key", K_FORWARD_KEY}}},
	{"fail_step", 55, REACH_OWN, A_STEP, false, false, false, 5, {
			{"saga_id", K_SAGA_ID, true}, {"step", K_STEP, true},
			{"error", K_NOTE, true}, {"retryable", K_RETRYABLE},
			{"forward_key", K_FORWARD_KEY}}},
	{"complete", 26, REACH_OWN, A_STATE, false, false, false, 4, {
			{"saga_id", K_SAGA_ID, true}, {"result", K_JSON},
			{"ignore_failed", K_BOOL}, {"when_done", K_SEAL}}},
	{"fail", 30, REACH_OWN, A_STATE, false, false, false, 3, {
			{"saga_id", K_SAGA_ID, true}, {"reason", K_REASON},
			{"details", K_JSON}}},
	{"cancel", 14, REACH_OWN, A_STATE, false, false, false, 2, {
			{"saga_id", K_SAGA_ID, true}, {"reason", K_REASON}}},
	{"rollback_to", 45, REACH_OPERATE, A_STATE, false, false, false, 3, {
			{"saga_id", K_SAGA_ID, true}, {"step", K_SAVEPOINT},
			{"reason", K_REASON}}},
	{"signal", 45, REACH_OWN, A_STATE, false, false, false, 5, {
			{"saga_id", K_SAGA_ID, true}, {"signal", K_SIGNAL, true},
			{"payload", K_JSON}, {"idempotency_key", K_SAGA_KEY},
			{"late", K_LATE}}},
	{"plan", 25, REACH_READ, A_ANY, true, true, false, 1, {
			{"saga_id", K_SAGA_ID, true}}},
	{"picture", 10, REACH_ANY, A_ANY, true, false, false, 2, {
			{"saga_id", K_SAGA_ID, true}, {"format", K_UNTIL}}},
	{"timeline", 10, REACH_ANY, A_ANY, true, true, false, 2, {
			{"saga_id", K_SAGA_ID, true}, {"width", K_MAX_CLAIMS}}},
	{"wait", 8, REACH_READ, A_STATE, true, false, false, 3, {
			{"saga_id", K_SAGA_ID, true}, {"timeout", K_WAIT, true},
			{"until", K_UNTIL}}},
	{"wait_step", 8, REACH_READ, A_STEP, true, false, false, 3, {
			{"saga_id", K_SAGA_ID, true}, {"step", K_STEP, true},
			{"timeout", K_WAIT, true}}},
	{"find", 6, REACH_ANY, A_ANY, true, false, false, 2, {
			{"name", K_SAGA_NAME, true}, {"idempotency_key", K_SAGA_KEY, true}}},
	{"current", 2, REACH_ANY, A_ANY, true, false, false, 0, {{0}}},
	{"again", 3, REACH_ANY, A_VOID, true, false, false, 3, {
			{"delay", K_GATE_DELAY}, {"state", K_JSON}, {"not_before", K_NOT_BEFORE}}},
	{"output", 12, REACH_READ, A_ANY, true, false, false, 2, {
			{"step", K_STEP, true}, {"saga_id", K_SAGA_ID}}},
	{"retry_policy", 12, REACH_ANY, A_ANY, true, false, false, 6, {
			{"max_attempts", K_MAX_ATTEMPTS}, {"delay", K_DELAY},
			{"backoff", K_BACKOFF}, {"max_delay", K_MAX_DELAY},
			{"jitter", K_JITTER}, {"timeout", K_ATTEMPT_TIMEOUT}}},
	{"first_id", 4, REACH_ANY, A_ANY, true, false, false, 1, {
			{"at", K_TIME, true}}},
	{"retry_policy", 4, REACH_ANY, A_ANY, true, false, false, 1, {
			{"policy", K_POLICY_JSON, true}}},
	{"require", 5, REACH_ANY, A_VOID, true, false, false, 2, {
			{"condition", K_BOOL, true}, {"message", K_NOTE}}},
	{"claim_compensations", 40, REACH_ANY, A_ANY, false, true, false, 4, {
			{"channel", K_CHANNEL, true}, {"max_claims", K_MAX_CLAIMS},
			{"lease", K_LEASE}, {"consumer", K_CONSUMER}}},
	{"extend_claim", 20, REACH_OWN, A_ANY, false, false, false, 3, {
			{"compensation_key", K_COMPENSATION_KEY, true},
			{"attempt", K_ATTEMPT, true}, {"lease", K_LEASE, true}}},
	{"complete_compensation", 35, REACH_OWN, A_COMP_STATUS, false, false, false, 2, {
			{"compensation_key", K_COMPENSATION_KEY, true},
			{"output", K_JSON}}},
	{"fail_compensation", 35, REACH_OWN, A_FAIL_STATUS, false, false, false, 5, {
			{"compensation_key", K_COMPENSATION_KEY, true},
			{"attempt", K_ATTEMPT, true}, {"error", K_NOTE, true},
			{"retryable", K_RETRYABLE}, {"retry_after", K_RETRY_AFTER}}},
	{"claim_tasks", 40, REACH_ANY, A_ANY, false, true, false, 4, {
			{"channel", K_CHANNEL, true}, {"max_claims", K_MAX_CLAIMS},
			{"lease", K_LEASE}, {"consumer", K_CONSUMER}}},
	{"complete_task", 40, REACH_OWN, A_TASK_STATUS, false, false, false, 3, {
			{"task_key", K_TASK_KEY, true}, {"output", K_JSON},
			{"attempt", K_ATTEMPT}}},
	{"fail_task", 30, REACH_OWN, A_TASK_STATUS, false, false, false, 5, {
			{"task_key", K_TASK_KEY, true},
			{"attempt", K_ATTEMPT, true}, {"error", K_NOTE, true},
			{"retryable", K_RETRYABLE}, {"retry_after", K_RETRY_AFTER}}},
	{"limit", 5, REACH_ANY, A_VOID, false, false, false, 3, {
			{"channel", K_CHANNEL, true}, {"max_claimed", K_MAX_CLAIMS},
			{"paused_until", K_TIME}}},
	{"resolve", 90, REACH_OPERATE, A_STATE, false, false, false, 5, {
			{"saga_id", K_SAGA_ID, true}, {"step", K_STEP, true},
			{"resolution", K_RESOLUTION, true}, {"note", K_NOTE, true},
			{"output", K_JSON}}},
	{"set_timeout", 20, REACH_OPERATE, A_ANY, false, false, false, 3, {
			{"saga_id", K_SAGA_ID, true}, {"timeout", K_TIMEOUT, true},
			{"note", K_REASON}}},
	{"amend", 40, REACH_OWN, A_VOID, false, false, false, 6, {
			{"saga_id", K_SAGA_ID, true}, {"step", K_STEP, true},
			{"note", K_NOTE, true}, {"compensation", K_COMPENSATION},
			{"notify", K_NOTIFY}, {"compensation_retry", K_COMPENSATION_RETRY}}},
	{"abandon", 5, REACH_OPERATE, A_STATE, false, false, false, 2, {
			{"saga_id", K_SAGA_ID, true}, {"note", K_NOTE, true}}},
	{"reopen", 25, REACH_OPERATE, A_STATE, false, false, false, 2, {
			{"saga_id", K_SAGA_ID, true}, {"note", K_NOTE, true}}},
	{"pause", 12, REACH_OPERATE, A_STATE, false, false, false, 2, {
			{"saga_id", K_SAGA_ID, true}, {"note", K_NOTE, true}}},
	{"resume", 25, REACH_OPERATE, A_STATE, false, false, false, 2, {
			{"saga_id", K_SAGA_ID, true}, {"note", K_REASON}}},
	{"redact", 10, REACH_OWN, A_VOID, false, false, false, 1, {
			{"saga_id", K_SAGA_ID, true}}},
	{"purge", 3, REACH_ANY, A_COUNT, false, false, false, 2, {
			{"older_than", K_OLDER_THAN, true}, {"max_sagas", K_MAX_SAGAS}}},
	{"adopt", 1, REACH_ANY, A_VOID, false, false, true, 0, {{0}}},
	{"reassign", 1, REACH_ANY, A_COUNT, false, false, true, 3, {
			{"from_role", K_ROLE_OID, true}, {"to_role", K_ROLE, true},
			{"from_name", K_ROLE_NAME}}},
	{"stat_reset", 1, REACH_ANY, A_VOID, false, false, false, 0, {{0}}},
	{"internal_may_see", 8, REACH_ANY, A_ANY, true, false, false, 2, {
			{"owner", K_ROLE_OID, true}, {"owner_name", K_ROLE_NAME, true}}},
	{"internal_may_read", 8, REACH_ANY, A_ANY, true, false, false, 2, {
			{"owner", K_ROLE_OID, true}, {"owner_name", K_ROLE_NAME, true}}},
	{"internal_state", 6, REACH_ANY, A_ANY, true, false, false, 1, {
			{NULL, K_STATE_CHAR, true}}},
	{"internal_policy", 10, REACH_ANY, A_ANY, true, false, false, 1, {
			{NULL, K_POLICY_TEXT, true}}},
	{"internal_forward_key", 6, REACH_ANY, A_ANY, true, false, false, 2, {
			{"saga", K_SAGA_ID, true}, {"seq", K_SEQ, true}}},
	{"internal_compensation_key", 6, REACH_ANY, A_ANY, true, false, false, 2, {
			{"saga", K_SAGA_ID, true}, {"seq", K_SEQ, true}}},
	{"internal_is_running", 8, REACH_ANY, A_ANY, true, false, false, 2, {
			{"saga", K_SAGA_ID, true}, {"seq", K_SEQ, true}}},
	{"internal_running", 4, REACH_ANY, A_ANY, true, false, false, 0, {{0}}},
	{"internal_now", 1, REACH_ANY, A_ANY, true, false, false, 0, {{0}}},
	{"internal_health", 4, REACH_ANY, A_ANY, true, false, false, 0, {{0}}},
	{"internal_stat_sagas", 2, REACH_ANY, A_ANY, true, true, false, 0, {{0}}},
	{"internal_stat_attempts", 1, REACH_ANY, A_ANY, true, true, false, 0, {{0}}},
	{"internal_stat_channels", 2, REACH_ANY, A_ANY, true, true, false, 0, {{0}}},
	{"internal_stat_times", 1, REACH_ANY, A_ANY, true, true, false, 0, {{0}}},
	{"internal_stat_workers", 1, REACH_ANY, A_ANY, true, true, false, 0, {{0}}},
	{"internal_next_action", 12, REACH_ANY, A_ANY, true, false, false, 13, {
			{"saga", K_SAGA_ID, true}, {"state", K_STATE_CHAR, true},
			{"paused", K_BOOL, true}, {"deadline", K_TIME, true},
			{"due", K_TIME, true}, {"lane", K_OID, true},
			{"step", K_SAVEPOINT, true}, {"parked", K_REASON, true},
			{"channel", K_CHANNEL}, {"dispatched_at", K_TIME},
			{"lease_until", K_TIME}, {"consumer", K_CONSUMER},
			{"runs", K_STATE_CHAR}}},
	{"internal_waits", 8, REACH_ANY, A_ANY, true, true, false, 2, {
			{"saga", K_SAGA_ID, true}, {"paused", K_BOOL, true}}},
	{"internal_settle_home", 1, REACH_ANY, A_VOID, false, false, true, 0, {{0}}},
	{"internal_guard", 2, REACH_ANY, A_ANY, false, false, false, 0, {{0}}},
};

int
function_named(const char *name)
{
	for (int i = 0; i < FUNCTIONS; i++)
		if (strcmp(functions[i].name, name) == 0)
			return i;
	fprintf(stderr, "fuzz: no function \"%s\"\n", name);
	exit(2);
}

/* ------------------------------------------------------------------------
 * The roles
 * ------------------------------------------------------------------------ */

const Role roles[] = {
	{NULL, 16, REACH_OWN, true},
	{"fuzz_a", 30, REACH_OWN, true},
	{"fuzz_b", 16, REACH_OWN, true},
	{"fuzz_c", 12, REACH_OWN, true},	/* renamed and locked out at times */
	{"fuzz_team", 12, REACH_OWN, false},	/* member of the three */
	{"fuzz_nologin", 3, REACH_OWN, true},
	{"fuzz_dba", 3, REACH_ANY, false},	/* the databases' owner */
	{"fuzz_operator", 6, REACH_OPERATE, false},
	{"fuzz_auditor", 2, REACH_READ, false},
	{"fuzz_monitor", 2, REACH_ANY, false},
	{"fuzz_outsider", 2, REACH_ANY, false},
	{"fuzz_writer", 2, REACH_ANY, false},	/* pg_write_all_data */
	{"fuzz_nobody", 1, REACH_ANY, false},	/* may not use the schema */
};

const int	role_count = (int) lengthof(roles);

int
role_named(const char *name)
{
	for (int i = 1; i < role_count; i++)
		if (strcmp(roles[i].name, name) == 0)
			return i;
	abort();
}

/* Has a role the rights of another, as roles.sql has it? */
bool
has_rights(int role, int owner)
{
	return role == owner || role == SUPERUSER ||
		(role == role_named("fuzz_team") && owner != SUPERUSER &&
		 owner != role_named("fuzz_nologin"));
}

/* ------------------------------------------------------------------------
 * Which errors may be
 * ------------------------------------------------------------------------ */

static const struct
{
	const char *sqlstate;
	int			where;
	const char *reason;
}			allowed[] =
{
	{"SG001", W_CALL, "no such saga, or not theirs"},
	{"SG002", W_CALL, "does not fit the state"},
	{"SG003", W_CALL, "the same key with other input or args"},
	{"SG004", W_CALL, "no such step"},
	{"SG005", W_CALL, "the undo has begun"},
	{"SG006", W_CALL, "what saga.require is for"},
	{"SG008", W_CALL, "the ledger is marked as a copy at times"},
	{"SG009", W_CALL, "limits are tried out"},
	{"SG010", W_CALL | W_WRITE, "not for that role"},
	{"22004", W_CALL, "null where a value is needed"},
	{"22023", W_CALL | W_CONTROL, "a value that is not allowed"},
	{"22003", W_CALL, "a literal out of its type's range"},
	{"22007", W_CALL, "a malformed time"},
	{"22008", W_CALL | W_VIEW, "an interval or time out of its type's range"},
	{"22015", W_CALL, "an interval field out of range"},
	{"22P02", W_CALL | W_VIEW, "a malformed literal"},
	{"22P05", W_ANY, "\\u0000 in jsonb; no equivalent in the client's encoding"},
	{"22021", W_ANY, "bytes that are no text in the encoding"},
	{"23505", W_REASSIGN, "somebody began a saga under that key at this moment"},
	{"42601", W_CALL, "a compensation with bad syntax"},
	{"42602", W_CALL | W_CONTROL, "no name of a role or setting"},
	{"42725", W_CALL, "retry_policy of a literal without a type: an integer, or jsonb"},
	{"42704", W_CALL | W_CONTROL, "a role, setting or prepared transaction that is not there"},
	{"42501", W_ANY, "no USAGE on the schema; for superusers only"},
	{"39P01", W_CALL, "a trigger function called by hand"},
	{"54001", W_ANY, "jsonb too deep for the server's own functions"},
	{"54000", W_CALL, "jsonb too large for the server's own functions"},
	{"25001", W_CALL | W_WAIT, "saga.wait in a transaction that has written; adopt or reassign by an old snapshot"},
	{"25006", W_ANY, "a read-only transaction"},
	{"25P02", W_ANY, "the transaction failed before"},
	{"25P01", W_CONTROL, "SAVEPOINT where the transaction is gone"},
	{"3B001", W_CONTROL, "a savepoint that a failed statement kept from being"},
	{"40001", W_ANY, "lost against another in a snapshot of old"},
	{"40P01", W_ANY, "a deadlock"},
	{"55P03", W_ANY, "lock_timeout"},
	{"57014", W_WAIT, "a wait that was cut short"},
	{"42710", W_CONTROL, "a prepared transaction or role of that name is there"},
	{"55P02", W_CONTROL, "a setting that is changed elsewhere"},
	{"55000", W_CONTROL, "a prepared transaction in somebody's hands"},
	{"0A000", W_CALL | W_CONTROL, "\\u00e4 where the database has no encoding"},
	{"XX000", W_CONTROL, "tuple concurrently updated: ALTER ROLE by two at once"},
};

/* May a statement of that kind end in that error? */
bool
error_is_allowed(const char *sqlstate, int where)
{
	for (size_t i = 0; i < lengthof(allowed); i++)
		if (strcmp(allowed[i].sqlstate, sqlstate) == 0 &&
			(allowed[i].where & where) != 0)
			return true;
	return false;
}
