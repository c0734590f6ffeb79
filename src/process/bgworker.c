/*-------------------------------------------------------------------------
 *
 * bgworker.c
 *	  How any of our processes starts.
 *
 * A process starts in three acts: "enter" makes it ready for signals and says
 * what it is to be; then the room whose process it is attaches it to its slot
 * in shared memory; then "connect" makes it a session of its database.  In
 * that order, a process that is connected can be found by those that want it
 * gone (see shmem.c) at every moment.
 *
 * Signals.  SIGTERM is the server's own "die": the process ends at the next
 * check for interrupts, wherever it is, and every wait of ours makes that
 * check.  SIGINT cancels the statement of a worker or executor, as of any
 * session; the launcher has none and ignores it.  SIGHUP asks to read the
 * settings again.  The death of the postmaster ends all waits
 * (WL_EXIT_ON_PM_DEATH).
 *
 * Exit codes.  To the postmaster, 0 means: do not restart.  1 means: restart
 * after a second, if it is the launcher; a worker or an executor is never
 * restarted by the postmaster, but by the launcher or by the worker that has
 * work for it.  Anything else, or a signal, means that shared memory may be
 * damaged: all processes of the server are restarted.  Ours thus leave with 0
 * when they are not needed any more, and with 1 when an error, "die" or the
 * end of the postmaster makes them; the launcher takes 1 as a failure and
 * restarts such a worker at once, but after that not in a tight loop.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include <signal.h>

#include "base/compat.h"
#include "base/ids.h"
#include "libpq/pqsignal.h"
#include "miscadmin.h"
#include "postmaster/interrupt.h"
#include "process/bgworker.h"
#include "tcop/tcopprot.h"
#include "utils/guc.h"

/* Seconds until the postmaster restarts the launcher. */
#define SAGA_LAUNCHER_RESTART	1

StaticAssertDecl(sizeof(SagaProcess) <= BGW_EXTRALEN,
				 "SagaProcess must fit in bgw_extra");

/* What the current process is, if it is one of ours. */
static SagaProcess my_process;

static void
describe(const SagaProcess *process, BackgroundWorker *worker)
{
	const char *type = NULL;
	const char *function = NULL;

	switch (process->kind)
	{
		case SAGA_PROCESS_LAUNCHER:
			type = "saga launcher";
			function = "saga_launcher_main";
			strlcpy(worker->bgw_name, type, BGW_MAXLEN);
			break;
		case SAGA_PROCESS_WORKER:
			type = "saga worker";
			function = "saga_worker_main";
			snprintf(worker->bgw_name, BGW_MAXLEN,
					 "saga worker for database %u", process->database);
			break;
		case SAGA_PROCESS_EXECUTOR:
			type = "saga executor";
			function = "saga_executor_main";
			snprintf(worker->bgw_name, BGW_MAXLEN,
					 "saga executor for database %u, role %u",
					 process->database, process->role);
			break;
	}
	strlcpy(worker->bgw_type, type, BGW_MAXLEN);
	strlcpy(worker->bgw_function_name, function, BGW_MAXLEN);
	strlcpy(worker->bgw_library_name, "saga", BGW_MAXLEN);
}

/*
 * Asks the postmaster to start a process.  The launcher is registered while
 * the library is preloaded; any other, at run time, and its starter's latch
 * is set when it starts and when it ends.  Returns false, with no process
 * asked for, when all max_worker_processes are in use.  The handle, if asked
 * for, is allocated in the current memory context.
 */
bool
saga_bgworker_start(const SagaProcess *process, BackgroundWorkerHandle **handle)
{
	BackgroundWorker worker;

	memset(&worker, 0, sizeof(worker));
	describe(process, &worker);
	memcpy(worker.bgw_extra, process, sizeof(SagaProcess));
	worker.bgw_flags = BGWORKER_SHMEM_ACCESS |
		BGWORKER_BACKEND_DATABASE_CONNECTION;
	worker.bgw_start_time = BgWorkerStart_RecoveryFinished;

	if (process->kind == SAGA_PROCESS_LAUNCHER)
	{
		worker.bgw_restart_time = SAGA_LAUNCHER_RESTART;
		RegisterBackgroundWorker(&worker);
		return true;
	}

	worker.bgw_restart_time = BGW_NEVER_RESTART;
	worker.bgw_notify_pid = MyProcPid;
	return RegisterDynamicBackgroundWorker(&worker, handle);
}

/* The caller sees to it that this is said once, not at each attempt. */
void
saga_bgworker_warn_no_place(void)
{
	ereport(WARNING,
			(errcode(ERRCODE_CONFIGURATION_LIMIT_EXCEEDED),
			 errmsg("out of background worker slots"),
			 errdetail("saga could not start a background process; what is due waits until a slot is free."),
			 errhint("You might need to increase max_worker_processes.")));
}

/* What the process is at: a saga, or nothing; and a step of it, or 0. */
static bool at_saga = false;
static pg_uuid_t current_id;
static int64 current_seq = 0;

/*
 * Names, in every message from here on, the saga that the process is at (NULL:
 * none) and the step (0: none).
 */
void
saga_bgworker_at(const pg_uuid_t *saga, int64 seq)
{
	at_saga = saga != NULL;
	if (at_saga)
		current_id = *saga;
	current_seq = seq;
}

/* What the process is, and what it is at. */
const char *
saga_bgworker_context(void)
{
	static char text[192];
	int			length = 0;

	text[		0] = '\0';

	if (at_saga && current_seq != 0)
		length = snprintf(text, sizeof(text), "saga %s, step " INT64_FORMAT "\n",
						  saga_ids_string(&current_id), current_seq);
	else if (at_saga)
		length = snprintf(text, sizeof(text), "saga %s\n",
						  saga_ids_string(&current_id));
	switch (my_process.kind)
	{
		case SAGA_PROCESS_LAUNCHER:
			snprintf(text +length, sizeof(text) - length, "saga launcher");
			break;
		case SAGA_PROCESS_WORKER:
			snprintf(text +length, sizeof(text) - length,
					 "saga worker for database %u", my_process.database);
			break;
		case SAGA_PROCESS_EXECUTOR:
			snprintf(text +length, sizeof(text) - length,
					 "saga executor for database %u, role %u",
					 my_process.database, my_process.role);
			break;
	}
	return text;
}

static void
error_context(void *arg)
{
	errcontext("%s", saga_bgworker_context());
}

/*
 * Names the process in every message it emits from here on.  A handler of
 * errors that empties error_context_stack calls it again.
 */
void
saga_bgworker_push_context(void)
{
	static ErrorContextCallback callback;

	callback.callback = error_context;
	callback.arg = NULL;
	callback.previous = NULL;
	error_context_stack = &callback;
}

/*
 * The new process begins: signals, and what it is to be.  Returns that; it is
 * not yet connected to a database.
 */
const SagaProcess *
saga_bgworker_enter(void)
{
	memcpy(&my_process, MyBgworkerEntry->bgw_extra, sizeof(SagaProcess));

	/* The handlers first, or an early signal meets the default ones. */
	pqsignal(SIGHUP, SignalHandlerForConfigReload);
	pqsignal(SIGTERM, die);
	if (my_process.kind == SAGA_PROCESS_LAUNCHER)
		pqsignal(SIGINT, SAGA_COMPAT_SIG_IGN);
	else
		pqsignal(SIGINT, StatementCancelHandler);
	BackgroundWorkerUnblockSignals();

	/*
	 * The server ignores SIGHUP while it starts a worker: settings that were
	 * changed meanwhile would be missed for as long as it lives.
	 */
	ConfigReloadPending = true;

	saga_bgworker_push_context();
	return &my_process;
}

/*
 * Connects the process to its database.  The launcher sees the shared
 * catalogs only.  A worker connects as the bootstrap superuser.  An executor
 * connects as the role whose SQL it runs: a superuser's process that merely
 * switches to the role would hand its own rights to that SQL at commit.
 */
void
saga_bgworker_connect(void)
{
	switch (my_process.kind)
	{
		case SAGA_PROCESS_LAUNCHER:
			BackgroundWorkerInitializeConnection(NULL, NULL, 0);
			break;
		case SAGA_PROCESS_WORKER:
			BackgroundWorkerInitializeConnectionByOid(my_process.database,
													  InvalidOid, 0);
			break;
		case SAGA_PROCESS_EXECUTOR:
			Assert(OidIsValid(my_process.role));
			BackgroundWorkerInitializeConnectionByOid(my_process.database,
													  my_process.role,
													  SAGA_COMPAT_BYPASS_LOGIN);
			break;
	}

	/*
	 * As the reset value, so that it is not an accident of the role's
	 * settings, and RESET returns to it.
	 */
	SetConfigOption("application_name", MyBgworkerEntry->bgw_type,
					PGC_USERSET, PGC_S_OVERRIDE);
}
