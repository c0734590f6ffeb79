/*-------------------------------------------------------------------------
 *
 * guc.c
 *	  The settings.
 *
 * Each has the narrowest context that serves: what decides about a caller's
 * own policies may be set by that caller; what limits one role for the sake
 * of the others, or who is trusted, only by a superuser; what our processes
 * read, only in the configuration file.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include <limits.h>

#include "access/xact.h"
#include "base/citus.h"
#include "base/fault.h"
#include "base/guc.h"
#include "base/policy.h"
#include "base/state.h"
#include "miscadmin.h"
#include "utils/guc.h"
#include "utils/varlena.h"

bool		saga_guc_enabled = true;
char	   *saga_guc_databases = NULL;
int			saga_guc_max_databases = 4;
int			saga_guc_max_executors = 2;
int			saga_guc_executor_idle_timeout = 10000;

int			saga_guc_max_attempts;
int			saga_guc_retry_delay;
int			saga_guc_retry_backoff;
int			saga_guc_retry_max_delay;
double		saga_guc_retry_jitter;
int			saga_guc_compensation_timeout;
int			saga_guc_lock_timeout = 10000;
int			saga_guc_max_deferrals = 1000;
int			saga_guc_default_timeout = 0;

int			saga_guc_max_payload = 1024;
int			saga_guc_max_open_sagas = 0;
int			saga_guc_max_steps = 0;
int			saga_guc_max_signals = 0;
int			saga_guc_retention = 0;
char	   *saga_guc_review_channel = NULL;
char	   *saga_guc_operator_role = NULL;
char	   *saga_guc_capture_settings = NULL;
char	   *saga_guc_stateless_libraries = NULL;
bool		saga_guc_allow_superuser = true;
bool		saga_guc_log_sql = false;
int			saga_guc_stat_names = 1000;
int			saga_guc_synchronous_commit = SYNCHRONOUS_COMMIT_OFF;
int			saga_guc_coordinator_check = SAGA_COORDINATOR_WARNING;

/* The words of the server's own setting synchronous_commit */
static const struct config_enum_entry commits[] = {
	{"off", SYNCHRONOUS_COMMIT_OFF, false},
	{"local", SYNCHRONOUS_COMMIT_LOCAL_FLUSH, false},
	{"remote_write", SYNCHRONOUS_COMMIT_REMOTE_WRITE, false},
	{"on", SYNCHRONOUS_COMMIT_ON, false},
	{"remote_apply", SYNCHRONOUS_COMMIT_REMOTE_APPLY, false},
	{NULL, 0, false}
};

static const struct config_enum_entry coordinator_checks[] = {
	{"off", SAGA_COORDINATOR_OFF, false},
	{"warning", SAGA_COORDINATOR_WARNING, false},
	{"error", SAGA_COORDINATOR_ERROR, false},
	{NULL, 0, false}
};

static bool
check_name_list(char **newval, void **extra, GucSource source)
{
	char	   *copy = pstrdup(*newval);
	List	   *names = NIL;
	bool		ok = SplitGUCList(copy, ',', &names);

	if (!ok)
		GUC_check_errdetail("List syntax is invalid.");
	list_free(names);
	pfree(copy);
	return ok;
}

static bool
check_channel(char **newval, void **extra, GucSource source)
{
	if (strlen(*newval) < NAMEDATALEN)
		return true;
	GUC_check_errdetail("A channel may have %d bytes.", NAMEDATALEN - 1);
	return false;
}

void
saga_guc_define(void)
{
	DefineCustomBoolVariable("saga.enabled",
							 "Lets saga's processes run steps and undo failed sagas.",
							 "When off, sagas are recorded but nothing is run or undone. Start a storage snapshot of a server with this off.",
							 &saga_guc_enabled, true,
							 PGC_SIGHUP, 0, NULL, NULL, NULL);
	DefineCustomStringVariable("saga.databases",
							   "Databases that saga serves.",
							   "A comma separated list, or * for every database where the extension is created.",
							   &saga_guc_databases, "*",
							   PGC_SIGHUP, GUC_LIST_INPUT,
							   check_name_list, NULL, NULL);
	DefineCustomIntVariable("saga.max_databases",
							"How many databases have a worker at once.",
							"When more have work, their workers take turns.",
							&saga_guc_max_databases, 4, 1, 1000,
							PGC_SIGHUP, 0, NULL, NULL, NULL);
	DefineCustomIntVariable("saga.max_executors",
							"How many executors the server runs at once.",
							NULL,
							&saga_guc_max_executors, 2, 1, SAGA_MAX_EXECUTORS,
							PGC_SIGHUP, 0, NULL, NULL, NULL);
	DefineCustomIntVariable("saga.executor_idle_timeout",
							"How long an executor without work waits for more.",
							NULL,
							&saga_guc_executor_idle_timeout, 10000, 0, INT_MAX,
							PGC_SIGHUP, GUC_UNIT_MS, NULL, NULL, NULL);

	DefineCustomIntVariable("saga.max_attempts",
							"Attempts of a step or compensation, where its policy does not say.",
							NULL,
							&saga_guc_max_attempts, saga_policy_plain.max_attempts, 1, SAGA_MAX_ATTEMPTS_LIMIT,
							PGC_USERSET, 0, NULL, NULL, NULL);
	DefineCustomIntVariable("saga.retry_delay",
							"Delay before the second attempt, where the policy does not say.",
							NULL,
							&saga_guc_retry_delay, saga_policy_plain.delay, SAGA_MIN_DELAY_MS, INT_MAX,
							PGC_USERSET, GUC_UNIT_MS, NULL, NULL, NULL);
	DefineCustomEnumVariable("saga.retry_backoff",
							 "How the delay grows, where the policy does not say.",
							 NULL,
							 &saga_guc_retry_backoff, saga_policy_plain.backoff,
							 saga_policy_backoffs,
							 PGC_USERSET, 0, NULL, NULL, NULL);
	DefineCustomIntVariable("saga.retry_max_delay",
							"Longest delay between attempts, where the policy does not say.",
							NULL,
							&saga_guc_retry_max_delay, saga_policy_plain.max_delay, SAGA_MIN_DELAY_MS, INT_MAX,
							PGC_USERSET, GUC_UNIT_MS, NULL, NULL, NULL);
	DefineCustomRealVariable("saga.retry_jitter",
							 "Share of the delay that varies by chance, where the policy does not say.",
							 NULL,
							 &saga_guc_retry_jitter, saga_policy_plain.jitter, 0.0, 1.0,
							 PGC_USERSET, 0, NULL, NULL, NULL);
	DefineCustomIntVariable("saga.compensation_timeout",
							"Longest run of one attempt of an action or compensation, where the policy does not say.",
							"0 sets no limit.",
							&saga_guc_compensation_timeout, saga_policy_plain.timeout, 0, INT_MAX,
							PGC_USERSET, GUC_UNIT_MS, NULL, NULL, NULL);
	DefineCustomIntVariable("saga.lock_timeout",
							"Longest wait of an action or compensation for one lock.",
							"0 sets no limit.",
							&saga_guc_lock_timeout, 10000, 0, INT_MAX,
							PGC_SIGHUP, GUC_UNIT_MS, NULL, NULL, NULL);
	DefineCustomIntVariable("saga.max_deferrals",
							"How often an action or compensation may ask to be called later.",
							NULL,
							&saga_guc_max_deferrals, 1000, 0, INT_MAX,
							PGC_SIGHUP, 0, NULL, NULL, NULL);
	DefineCustomIntVariable("saga.default_timeout",
							"Deadline of a saga begun without a timeout.",
							"0 sets none.",
							&saga_guc_default_timeout, 0, 0, INT_MAX,
							PGC_USERSET, GUC_UNIT_MS, NULL, NULL, NULL);

	DefineCustomIntVariable("saga.max_payload",
							"Largest jsonb value that a call accepts.",
							NULL,
							&saga_guc_max_payload, 1024, 1, SAGA_MAX_PAYLOAD_KB,
							PGC_SUSET, GUC_UNIT_KB, NULL, NULL, NULL);
	DefineCustomIntVariable("saga.max_open_sagas",
							"How many unfinished sagas one role may own.",
							"0 sets no limit.",
							&saga_guc_max_open_sagas, 0, 0, INT_MAX,
							PGC_SUSET, 0, NULL, NULL, NULL);
	DefineCustomIntVariable("saga.max_steps",
							"How many steps one saga may have.",
							"0 sets no limit.",
							&saga_guc_max_steps, 0, 0, INT_MAX,
							PGC_SUSET, 0, NULL, NULL, NULL);
	DefineCustomIntVariable("saga.max_signals",
							"How many signals one saga may get.",
							"0 sets no limit.",
							&saga_guc_max_signals, 0, 0, INT_MAX,
							PGC_SUSET, 0, NULL, NULL, NULL);
	DefineCustomIntVariable("saga.retention",
							"How long finished sagas are kept.",
							"0 keeps them for ever.",
							&saga_guc_retention, 0, 0, INT_MAX,
							PGC_SIGHUP, GUC_UNIT_MIN, NULL, NULL, NULL);
	DefineCustomStringVariable("saga.review_channel",
							   "Channel on which sagas that need a person are announced.",
							   "Empty announces them on their own channel only.",
							   &saga_guc_review_channel, "",
							   PGC_SIGHUP, 0, check_channel, NULL, NULL);
	DefineCustomStringVariable("saga.operator_role",
							   "Role whose members may settle the sagas of others.",
							   NULL,
							   &saga_guc_operator_role, "",
							   PGC_SUSET, 0, NULL, NULL, NULL);
	DefineCustomStringVariable("saga.capture_settings",
							   "Settings kept with each step and set again for its SQL.",
							   "A comma separated list of names.",
							   &saga_guc_capture_settings, "",
							   PGC_USERSET, GUC_LIST_INPUT,
							   check_name_list, NULL, NULL);
	DefineCustomStringVariable("saga.stateless_libraries",
							   "Libraries whose functions leave nothing in a session.",
							   "After an action or compensation that used another one, its process is not used again.",
							   &saga_guc_stateless_libraries, "",
							   PGC_SIGHUP, GUC_LIST_INPUT,
							   check_name_list, NULL, NULL);
	DefineCustomBoolVariable("saga.allow_superuser",
							 "Lets superusers record SQL that saga runs.",
							 NULL,
							 &saga_guc_allow_superuser, true,
							 PGC_SUSET, 0, NULL, NULL, NULL);
	DefineCustomBoolVariable("saga.log_sql",
							 "Lets the SQL and the errors of actions and compensations appear in the server log and in pg_stat_activity.",
							 NULL,
							 &saga_guc_log_sql, false,
							 PGC_SUSET, 0, NULL, NULL, NULL);
	/* The server refuses one that only its start sets to a later library. */
	DefineCustomIntVariable("saga.stat_names",
							"How many kinds of sagas and channels are counted by name.",
							"In the whole server, each once per owner. What is beyond that is counted together.",
							&saga_guc_stat_names, 1000, 0, 100000,
							process_shared_preload_libraries_in_progress ?
							PGC_POSTMASTER : PGC_SIGHUP,
							0, NULL, NULL, NULL);

	/*
	 * Citus lets other nodes commit before the local commit is on disk: so
	 * that must be on disk first.
	 */
	DefineCustomEnumVariable("saga.synchronous_commit",
							 "What the commit of an action or compensation waits for.",
							 "The values are those of synchronous_commit. Other than off where such SQL has effects in another server.",
							 &saga_guc_synchronous_commit,
							 saga_citus_is_loaded() ?
							 SYNCHRONOUS_COMMIT_LOCAL_FLUSH :
							 SYNCHRONOUS_COMMIT_OFF,
							 commits,
							 PGC_SUSET, 0, NULL, NULL, NULL);
	DefineCustomEnumVariable("saga.coordinator_check",
							 "What becomes of saga.begin() on the coordinator of a Citus cluster whose data is on other nodes.",
							 "A saga belongs on the node that holds its data.",
							 &saga_guc_coordinator_check,
							 SAGA_COORDINATOR_WARNING, coordinator_checks,
							 PGC_SUSET, 0, NULL, NULL, NULL);
#ifdef SAGA_TEST
	saga_fault_define();
#endif
	MarkGUCPrefixReserved("saga");
}

/* The word for a level of saga.synchronous_commit */
const char *
saga_guc_commit_name(int level)
{
	return saga_state_word(commits, level);
}

/* Is a database on the list of saga.databases? */
bool
saga_guc_serves(const char *database)
{
	char	   *copy = pstrdup(saga_guc_databases);
	List	   *names;
	ListCell   *lc;
	bool		listed = false;

	/* The check of the setting let no other pass. */
	if (SplitGUCList(copy, ',', &names))
	{
		foreach(lc, names)
		{
			const char *name = lfirst(lc);

			if (strcmp(name, "*") == 0 || strcmp(name, database) == 0)
				listed = true;
		}
		list_free(names);
	}
	pfree(copy);
	return listed;
}
