/*-------------------------------------------------------------------------
 *
 * session.c
 *	  Runs the SQL of a step, or of its undo, as a fresh session of its role.
 *
 * The process is connected as the role, so whatever the SQL does to settings
 * or to the current user gains it nothing; but what it leaves behind must not
 * reach the next one.  saga_session_reset does what DISCARD ALL would, save
 * for plans, which are kept where that cannot be noticed (plans.c), and what
 * DISCARD ALL forgets: the seed of random() and temporary replication slots.
 * What nothing can reset ends the process (leftover.c).  The reset runs between
 * transactions: a change of settings made inside of one would be taken back
 * with it, and some settings (default_transaction_isolation) count when a
 * transaction begins.
 *
 * Order of a run.  Settings, then timeouts, then the statements one after the
 * other (each is planned when the one before it has run, since it may use what
 * that one made), then what was deferred.  So when the caller goes on to write to
 * the ledger, next to nothing of the user's SQL is still to come.  Hold cursors are
 * run at commit; therefore the caller disarms only after it.
 *
 * What may be seen.  Errors are for the caller to catch.  Everything else the
 * server would log while the SQL runs is held back, with the context of what
 * must be logged: messages, plans and statements quote the SQL and its
 * arguments.  Parallel workers would show the SQL as their activity and log
 * its errors; so the executor has none by default.
 *
 * Deadlocks.  The server looks for one when a process has waited for
 * deadlock_timeout, once, and cancels the session that checks.  So that this
 * is not the application's transaction, which only waited longer, an executor
 * that waits looks much more often: in a deadlock it is the one to be taken
 * back, and its attempt is made again.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include <limits.h>
#include <signal.h>
#include <unistd.h>

#include "access/xact.h"
#include "base/compat.h"
#include "base/errors.h"
#include "base/guc.h"
#include "base/ids.h"
#include "base/rights.h"
#include "catalog/namespace.h"
#include "catalog/pg_type_d.h"
#include "commands/prepare.h"
#include "commands/sequence.h"
#include "commands/trigger.h"
#include "common/pg_prng.h"
#include "executor/spi.h"
#include "lib/stringinfo.h"
#include "miscadmin.h"
#include "nodes/parsenodes.h"
#include "parser/parser.h"
#include "pgstat.h"
#include "process/bgworker.h"
#include "process/inflight.h"
#include "process/leftover.h"
#include "process/plans.h"
#include "process/session.h"
#include "process/transaction.h"
#include "shared/current.h"
#include "storage/proc.h"
#include "tcop/dest.h"
#include "tcop/tcopprot.h"
#include "utils/backend_status.h"
#include "utils/builtins.h"
#include "utils/float.h"
#include "utils/fmgrprotos.h"
#include "utils/guc.h"
#include "utils/memutils.h"
#include "utils/portal.h"
#include "utils/snapmgr.h"
#include "utils/timeout.h"

#define SAGA_SESSION_SEARCH_PATH	"\"$user\", public"
/* Time after its timeout at which an executor that still runs is ended (ms) */
#define SAGA_SESSION_GRACE_MS		5000
/* Deadlock checks per deadlock_timeout; shortest pause between two (ms) */
#define SAGA_SESSION_DEADLOCK_LOOKS	10
#define SAGA_SESSION_DEADLOCK_MIN_MS	10


/* Is the time of the SQL limited? */
static bool armed = false;
static TimeoutId grace_timeout;
static TimeoutId deadlock_look;
static Oid	initial_user = InvalidOid;
static Oid	initial_session_user = InvalidOid;
static bool initial_superuser = false;
static bool may_replicate = false;

/* The role's own level of synchronous_commit */
static int	commit_of_role = SYNCHRONOUS_COMMIT_ON;

static emit_log_hook_type prev_emit_log_hook = NULL;

/* Holds back from the log what may quote the user's SQL or data. */
static void
hold_back(ErrorData *edata)
{
	if (saga_current() != NULL && !saga_guc_log_sql)
	{
		if (edata->elevel < FATAL)
			edata->output_to_server = false;
		edata->hide_stmt = true;
		edata->hide_ctx = edata->elevel < FATAL;
		edata->context = edata->elevel < FATAL ? NULL :
			pstrdup(saga_bgworker_context());
		edata->detail = NULL;
		edata->detail_log = NULL;
		edata->hint = NULL;
		edata->internalquery = NULL;
	}
	if (prev_emit_log_hook != NULL && edata->output_to_server)
		prev_emit_log_hook(edata);
}

/*
 * Signal handler: the SQL trapped the cancel, or does not look for one.  What
 * is left is to end the process.
 */
static void
grace_is_over(void)
{
	saga_inflight_mark(SAGA_INFLIGHT_TIMED_OUT);
	kill(MyProcPid, SIGTERM);
}

static void
set_option(const char *name, const char *value)
{
	SetConfigOption(name, value, PGC_SUSET, PGC_S_OVERRIDE);
}

/*
 * A crash loses all of an attempt or nothing, so its commit need not wait for the
 * disk.  The exception is SQL that has effects in another server, which the crash
 * does not take back: saga.synchronous_commit.
 */
static void
apply_commit(void)
{
	if (synchronous_commit != saga_guc_synchronous_commit)
		set_option("synchronous_commit",
				   saga_guc_commit_name(saga_guc_synchronous_commit));
}

/*
 * Commits what must outlive a crash of the server whatever the settings say, and its
 * loss, where commits of the role wait for a standby.
 */
void
saga_session_commit_durably(void)
{
	set_option("synchronous_commit",
			   saga_guc_commit_name(Max(commit_of_role, SYNCHRONOUS_COMMIT_LOCAL_FLUSH)));
	saga_transaction_commit();
	apply_commit();
}

/* Once per executor, right after it connects. */
void
saga_session_init(void)
{
	SetCurrentStatementStartTimestamp();
	StartTransactionCommand();
	saga_leftover_init();
	may_replicate = has_rolreplication(GetUserId());
	CommitTransactionCommand();
	saga_plans_init();

	initial_user = GetUserId();
	initial_session_user = GetSessionUserId();
	initial_superuser =
		strcmp(GetConfigOption("is_superuser", false, false), "on") == 0;
	grace_timeout = RegisterTimeout(USER_TIMEOUT, grace_is_over);

	/*
	 * As if deadlock_timeout were over; a process that does not wait ignores
	 * it.
	 */
	deadlock_look = RegisterTimeout(USER_TIMEOUT, CheckDeadLockAlert);
	prev_emit_log_hook = emit_log_hook;
	emit_log_hook = hold_back;

	commit_of_role = synchronous_commit;
	apply_commit();
	if (!saga_guc_log_sql)
	{
		set_option("max_parallel_workers_per_gather", "0");
		set_option("max_parallel_maintenance_workers", "0");
	}
	/* 17 has it; armed when a transaction starts, and fatal. */
	if (GetConfigOption("transaction_timeout", true, false) != NULL)
		set_option("transaction_timeout", "0");
	/* As a step's text was read when it was recorded, if that does not say. */
	set_option("standard_conforming_strings", "on");
}

static bool
is_moved(void)
{
	return GetUserId() != initial_user ||
		GetSessionUserId() != initial_session_user;
}

/* The next random numbers are to follow from no seed that anybody set. */
static void
reset_random(void)
{
	double		seed = 2.0 * pg_prng_double(&pg_global_prng_state) - 1.0;

	(void) DirectFunctionCall1(setseed, Float8GetDatum(seed));
}

/*
 * Makes the session as good as new.  To be called outside of a transaction,
 * after each run, however that ended.  An error here ends the process, which
 * has the same effect.  False: the session holds what no reset takes back.
 */
bool
saga_session_reset(void)
{
	Oid			temp;
	Oid			temp_toast;

	Assert(!IsTransactionState());
	Assert(saga_current() == NULL);

	ResetAllOptions();
	PortalHashTableDeleteAll();
	DropAllPreparedStatements();
	LockReleaseSession(USER_LOCKMETHOD);
	ResetSequenceCaches();
	reset_random();
	if (initial_superuser || may_replicate)
		saga_compat_drop_temporary_slots();
	saga_plans_end();
	/* LISTEN is refused in a background worker: nothing to undo. */

	GetTempNamespaceState(&temp, &temp_toast);
	if (is_moved() || OidIsValid(temp))
	{
		SetCurrentStatementStartTimestamp();
		StartTransactionCommand();
		PushActiveSnapshot(GetTransactionSnapshot());
		if (is_moved())
		{
			SetPGVariable("session_authorization", NIL, false);
			SetPGVariable("role", NIL, false);
		}
		ResetTempTableNamespace();
		PopActiveSnapshot();
		CommitTransactionCommand();
	}
	return !saga_leftover_found();
}

static Jsonb *
kept_settings(const SagaStep *step)
{
	return step->settings == NULL ? NULL :
		DatumGetJsonbP(PointerGetDatum(step->settings));
}

/*
 * The isolation level that was captured with a step; that of the transaction
 * under way if none was.
 */
int
saga_session_isolation(const SagaStep *step)
{
	static const struct
	{
		const char *name;
		int			level;
	}			levels[] =
	{
		{"read uncommitted", XACT_READ_UNCOMMITTED},
		{"read committed", XACT_READ_COMMITTED},
		{"repeatable read", XACT_REPEATABLE_READ},
		{"serializable", XACT_SERIALIZABLE}
	};
	JsonbValue	space;
	JsonbValue *value;

	if (step->settings == NULL)
		return XactIsoLevel;
	value = getKeyJsonValueFromContainer(&kept_settings(step)->root,
										 "default_transaction_isolation",
										 strlen("default_transaction_isolation"),
										 &space);
	if (value == NULL || value->type != jbvString)
		return XactIsoLevel;
	for (int i = 0; i < (int) lengthof(levels); i++)
		if ((int) strlen(levels[i].name) == value->val.string.len &&
			memcmp(levels[i].name, value->val.string.val,
				   value->val.string.len) == 0)
			return levels[i].level;
	return XactIsoLevel;
}

/*
 * Would a new session differ from this one, before the step's SQL runs?  If the role
 * has become a superuser, or ceased to be one, this session keeps the rights that it
 * began with (SET SESSION AUTHORIZATION, settings of the role).
 */
static bool
is_outdated(const SagaStep *step)
{
	return superuser_arg(initial_user) != initial_superuser ||
		!saga_leftover_fits(kept_settings(step));
}

/*
 * May this process run the step's SQL?  NULL, or why not, in words for the person
 * who will look at the parked step.  "outdated": a new session of the same role may.
 */
const char *
saga_session_why_not(const SagaRow *saga, const SagaStep *step, bool *outdated)
{
	const char *why;

	*outdated = false;
	why = saga_rights_why_not_run(step->run_as,
								  text_to_cstring(step->run_as_name));
	if (why != NULL)
		return why;
	if (GetUserId() != step->run_as ||
		GetSessionUserId() != step->run_as ||
		GetAuthenticatedUserId() != step->run_as)
		return psprintf("a session of role \"%s\" runs as \"%s\" (see ALTER ROLE ... SET role)",
						text_to_cstring(step->run_as_name),
						GetUserNameFromId(GetUserId(), true));
	why = saga_rights_why_not_told(step->run_as, saga->owner, saga->owner_name);
	*outdated = why == NULL && is_outdated(step);
	return why;
}

/* ------------------------------------------------------------------------
 * Settings and timeouts
 * ------------------------------------------------------------------------ */

/*
 * The step's search_path becomes the session's default, so that nothing needs
 * to be done for the next one that has the same.
 */
static const char *
apply_search_path(const SagaStep *step)
{
	const char *path = step->search_path != NULL ?
		text_to_cstring(step->search_path) : SAGA_SESSION_SEARCH_PATH;

	if (strcmp(namespace_search_path, path) != 0)
		set_option("search_path", path);
	return path;
}

/*
 * The captured settings, for this transaction; as the role might set them.  Returns
 * those that a plan may depend on, written as one string: custom ones mean nothing
 * to the server.
 */
static const char *
apply_settings(const SagaStep *step)
{
	StringInfoData servers;
	JsonbIterator *it;
	JsonbIteratorToken token;
	JsonbValue	value;
	char	   *name = NULL;
	GucContext	context = superuser() ? PGC_SUSET : PGC_USERSET;

	if (step->settings == NULL)
		return "";
	initStringInfo(&servers);
	it = JsonbIteratorInit(&kept_settings(step)->root);
	while ((token = JsonbIteratorNext(&it, &value, true)) != WJB_DONE)
	{
		if (token == WJB_KEY)
			name = pnstrdup(value.val.string.val, value.val.string.len);
		else if (token == WJB_VALUE && value.type == jbvString && name != NULL)
		{
			char	   *set = pnstrdup(value.val.string.val,
									   value.val.string.len);

			saga_leftover_note_setting(name);
			(void) set_config_option(name, set, context, PGC_S_SESSION,
									 GUC_ACTION_LOCAL, true, 0, false);
			if (strchr(name, '.') == NULL)
				appendStringInfo(&servers, "%s=%s\n", name, set);
		}
	}
	return servers.data;
}

static void
arm(const SagaPolicy *policy)
{
	EnableTimeoutParams timeouts[3];
	int			count = 0;

	if (LockTimeout != saga_guc_lock_timeout)
	{
		char		value[32];

		snprintf(value, sizeof(value), "%d", saga_guc_lock_timeout);
		set_option("lock_timeout", value);
	}
	timeouts[count].id = deadlock_look;
	timeouts[count].type = TMPARAM_EVERY;
	timeouts[count++].delay_ms = Max(DeadlockTimeout / SAGA_SESSION_DEADLOCK_LOOKS,
									 SAGA_SESSION_DEADLOCK_MIN_MS);
	if (policy->timeout > 0)
	{
		int			ms = (int) Min(policy->timeout,
								   INT_MAX - SAGA_SESSION_GRACE_MS);

		timeouts[count].id = STATEMENT_TIMEOUT;
		timeouts[count].type = TMPARAM_AFTER;
		timeouts[count++].delay_ms = ms;
		timeouts[count].id = grace_timeout;
		timeouts[count].type = TMPARAM_AFTER;
		timeouts[count++].delay_ms = ms + SAGA_SESSION_GRACE_MS;
		armed = true;
	}
	enable_timeouts(timeouts, count);
}

/* Did our timeout fire?  To be asked before disarming. */
bool
saga_session_timed_out(void)
{
	return armed && !get_timeout_active(STATEMENT_TIMEOUT);
}

/*
 * The SQL is over, with its commit or its error.  Also takes back a cancel that came
 * too late; to be called with interrupts held when there was an error, lest the
 * cancel strike in the middle of the recovery.
 */
void
saga_session_disarm(void)
{
	DisableTimeoutParams timeouts[3];

	timeouts[0].id = deadlock_look;
	timeouts[0].keep_indicator = false;
	timeouts[1].id = STATEMENT_TIMEOUT;
	timeouts[1].keep_indicator = false;
	timeouts[2].id = grace_timeout;
	timeouts[2].keep_indicator = false;
	disable_timeouts(timeouts, 3);
	armed = false;
	QueryCancelPending = false;
	saga_current_clear();
	debug_query_string = NULL;
}

/* ------------------------------------------------------------------------
 * Statements
 * ------------------------------------------------------------------------ */

/*
 * Runs one planned statement.  Returns the number of rows that it processed, or -1 if
 * that is unknown.  "dest" gets the rows that it returns.
 */
static int64
run_plan(SPIPlanPtr plan, bool takes_context, Jsonb *context, DestReceiver *dest)
{
	SPIExecuteOptions options;
	int			code;

	memset(&options, 0, sizeof(options));
	if (takes_context)
	{
		options.params = makeParamList(1);
		options.params->params[0].value = JsonbPGetDatum(context);
		options.params->params[0].isnull = false;
		options.params->params[0].pflags = PARAM_FLAG_CONST;
		options.params->params[0].ptype = JSONBOID;
	}
	options.dest = dest;

	code = SPI_execute_plan_extended(plan, &options);
	if (code == SPI_ERROR_TRANSACTION)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_TRANSACTION_TERMINATION),
				 errmsg("%s cannot begin or end a transaction, nor use savepoints",
						saga_current_one()),
				 errhint("It runs in one transaction with the record that it was done.")));
	if (code == SPI_ERROR_COPY)
		ereport(ERROR,
				(errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
				 errmsg("%s cannot copy from or to a client",
						saga_current_one())));
	if (code < 0)
		elog(ERROR, "could not run a statement of %s: %s", saga_current_one(),
			 SPI_result_code_string(code));
	/* DO and CALL do not say how many rows they processed. */
	if (code == SPI_OK_UTILITY && SPI_processed == 0)
		return -1;
	return (int64) SPI_processed;
}

/*
 * Does a statement take $1?  What is planned does, and CALL; the arguments of
 * other utility statements are not looked at by the planner.
 */
static bool
can_take_context(const Node *statement)
{
	switch (nodeTag(statement))
	{
		case T_SelectStmt:
		case T_InsertStmt:
		case T_UpdateStmt:
		case T_DeleteStmt:
		case T_MergeStmt:
		case T_CallStmt:
			return true;
		default:
			return false;
	}
}

/* What gets the rows of a statement: only the last one's are an output. */
static DestReceiver *
receiver_of(int statement, int count, DestReceiver *output)
{
	return statement == count - 1 && output != NULL ? output : None_Receiver;
}

/* Plans and runs a text statement by statement, and keeps the plans. */
static int64
run_first_time(const char *sql, const char *search_path, Jsonb *context,
			   DestReceiver *output)
{
	List	   *statements = raw_parser(sql, RAW_PARSE_DEFAULT);
	int			count = list_length(statements);
	SPIPlanPtr *plans = palloc(Max(count, 1) * sizeof(SPIPlanPtr));
	bool	   *takes = palloc(Max(count, 1) * sizeof(bool));
	int64		rows = 0;
	int			i;

	if (count == 0)
		ereport(ERROR,
				(errcode(ERRCODE_SAGA_DO_NOT_RETRY),
				 errmsg("the %s holds no statement", saga_current_word())));

	for (i = 0; i < count; i++)
	{
		RawStmt    *raw = list_nth_node(RawStmt, statements, i);
		const char *from = sql + Max(raw->stmt_location, 0);
		char	   *statement;
		Oid			type = JSONBOID;

		statement = raw->stmt_len > 0 ? pnstrdup(from, raw->stmt_len) : pstrdup(from);
		takes[i] = can_take_context(raw->stmt);
		plans[i] = SPI_prepare(statement, takes[i] ? 1 : 0, &type);
		if (plans[i] == NULL)
			elog(ERROR, "could not plan a statement of %s: %s", saga_current_one(),
				 SPI_result_code_string(SPI_result));
		rows = run_plan(plans[i], takes[i], context,
						receiver_of(i, count, output));
	}
	saga_plans_keep(sql, search_path, count, plans, takes);
	return rows;
}

/* The SQL of a step's work or of its undo */
const text *
saga_session_sql(const SagaStep *step, SagaPhase phase)
{
	return phase == SAGA_PHASE_FORWARD ? step->action : step->compensation;
}

/*
 * Prepares the session for the step's SQL: settings, which are returned, then
 * timeouts.
 */
static void
prepare_session(const SagaStep *step, SagaPhase phase, const SagaPolicy *policy,
				const char **search_path, const char **settings)
{
	static char activity[128];

	saga_current_set(&step->saga, phase, step->seq);
	if (saga_guc_log_sql)
		debug_query_string = text_to_cstring(saga_session_sql(step, phase));
	else
	{
		/* Which one it is may be seen by everybody, unlike what it does. */
		snprintf(activity, sizeof(activity),
				 "saga: %s of %s, step " INT64_FORMAT,
				 phase == SAGA_PHASE_FORWARD ? "action" : "compensation",
				 saga_ids_string(&step->saga), step->seq);
		debug_query_string = activity;
	}
	pgstat_report_activity(STATE_RUNNING, debug_query_string);

	apply_commit();
	*search_path = apply_search_path(step);
	*settings = apply_settings(step);
	arm(policy);
}

/*
 * Runs a step's action or its compensation with its context.  Returns the number of
 * rows that the last statement processed (-1: unknown); every other outcome is an
 * error.  "output" gets the rows that it returns, or is NULL.  The caller calls
 * saga_session_disarm when the transaction is over, in any case.
 */
int64
saga_session_run(const SagaStep *step, SagaPhase phase, const SagaPolicy *policy,
				 Jsonb *context, DestReceiver *output)
{
	const char *search_path;
	const char *settings;
	char	   *sql;
	const SagaKept *kept;
	int64		rows = 0;

	prepare_session(step, phase, policy, &search_path, &settings);
	sql = text_to_cstring(saga_session_sql(step, phase));
	SPI_connect();
	kept = saga_plans_find(sql, search_path, settings);
	if (kept == NULL)
		rows = run_first_time(sql, search_path, context, output);
	else
	{
		for (int i = 0; i < kept->count; i++)
			rows = run_plan(kept->plans[i], kept->takes_context[i], context,
							receiver_of(i, kept->count, output));
	}
	SPI_finish();

	/* Deferred triggers and constraints: now, not at commit. */
	AfterTriggerFireDeferred();

	if (GetUserId() != step->run_as || GetSessionUserId() != step->run_as)
		ereport(ERROR,
				(errcode(ERRCODE_SAGA_DO_NOT_RETRY),
				 errmsg("the %s changed the role it runs as and did not change it back",
						saga_current_word())));
	return rows;
}
