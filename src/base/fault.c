/*-------------------------------------------------------------------------
 *
 * fault.c
 *	  Named fault points for the test build.
 *
 * The setting saga.test_faults is a comma separated list of name=action, or
 * of a bare name for the points that spoil a value.  It is read again at each
 * point, and a reload reaches processes that wait in one.  A session that set
 * it for itself, which no reload changes, waits until the setting of everyone
 * else names "release".  A process that is delayed goes on by itself, so that
 * nothing else is woken when it does.
 *
 * "name=action once TOKEN" strikes the first process that comes to the point,
 * and never again, however long the setting stays as it is.  That it struck is
 * a file in the data directory, which is made before the process is struck and
 * holds its process id: it has to outlive a crash, which shared memory does
 * not.  "name=action after TOKEN" counts only once the fault with that token
 * has struck; so what is to happen after a crash is set before it.  (If that
 * one kills, it counts for processes that have started since: the others are
 * ended by the same crash.)
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "base/fault.h"

#ifdef SAGA_TEST

#include <fcntl.h>
#include <signal.h>
#include <sys/stat.h>
#include <unistd.h>

#include "access/xact.h"
#include "common/file_perm.h"
#include "miscadmin.h"
#include "postmaster/bgworker.h"
#include "postmaster/interrupt.h"
#include "storage/latch.h"
#include "utils/builtins.h"
#include "utils/guc.h"
#include "utils/timestamp.h"
#include "utils/wait_event.h"

#define SAGA_FAULT_ENTRY_LEN	128
#define SAGA_FAULT_WORD_LEN		32

/* One entry of the setting, without its name */
typedef struct SagaFault
{
	char		action[SAGA_FAULT_WORD_LEN];
	char		once[SAGA_FAULT_WORD_LEN];	/* its token, or empty */
	char		after[SAGA_FAULT_WORD_LEN]; /* of another, or empty */
} SagaFault;

/* Length of a delay (ms): longer than a process woken meanwhile takes to look. */
#define SAGA_FAULT_DELAY		300

static char *saga_guc_test_faults = NULL;
static char *saga_guc_test_poison = NULL;

/* How often the current transaction wrote to the ledger. */
static int	writes = 0;

/* Its commit finds the queue of notifications full. */
static bool queue_full = false;

static void fault_at_transaction_end(XactEvent event, void *arg);

void
saga_fault_define(void)
{
	RegisterXactCallback(fault_at_transaction_end, NULL);
	DefineCustomStringVariable("saga.test_faults",
							   "Fault points of the test build.",
							   "A comma separated list of name=action.",
							   &saga_guc_test_faults,
							   "",
							   PGC_SUSET,
							   0,
							   NULL, NULL, NULL);
	DefineCustomStringVariable("saga.test_poison",
							   "Name of sagas that are an error for saga's processes.",
							   NULL,
							   &saga_guc_test_poison,
							   "",
							   PGC_SUSET,
							   0,
							   NULL, NULL, NULL);
}

/* Where it is remembered that the fault with this token struck */
static void
struck_path(const char *token, char *path)
{
	snprintf(path, MAXPGPATH, "saga_fault.%s", token);
}

static bool
has_struck(const char *token)
{
	char		path[MAXPGPATH];
	struct stat st;

	struck_path(token, path);
	return stat(path, &st) == 0;
}

/* Whether the fault with this token has struck, so far as others go by it */
static bool
has_struck_before(const char *token)
{
	char		path[MAXPGPATH];
	FILE	   *file;
	long long	killed = 0;
	int			count;

	struck_path(token, path);
	file = fopen(path, "r");
	if (file == NULL)
		return false;
	count = fscanf(file, "%*d %lld", &killed);
	fclose(file);
	return count == 1 && killed < (long long) MyStartTimestamp;
}

/*
 * Whether this process is the one that the fault with this token strikes.  The
 * file appears with all that is in it: the process, and when it is killed, or 0.
 * An error would be wrong where it may be called, after a commit.
 */
static bool
take_strike(const char *token, bool kills)
{
	char		path[MAXPGPATH];
	char		written[MAXPGPATH];
	char		line[64];
	int			fd;
	bool		taken;

	struck_path(token, path);
	snprintf(written, sizeof(written), "%s.%d", path, MyProcPid);
	snprintf(line, sizeof(line), "%d\n%lld\n", MyProcPid,
			 kills ? (long long) GetCurrentTimestamp() : 0);
	fd = open(written, O_WRONLY | O_CREAT | O_TRUNC, pg_file_create_mode);
	if (fd < 0 || write(fd, line, strlen(line)) != (ssize_t) strlen(line))
		elog(LOG, "could not write file \"%s\": %m", written);
	if (fd >= 0)
		close(fd);
	taken = link(written, path) == 0;
	if (!taken && errno != EEXIST)
		elog(LOG, "could not create file \"%s\": %m", path);
	unlink(written);
	return taken;
}

/* Reads "action [once TOKEN] [after TOKEN]"; a bare name has no action. */
static void
parse_fault(const char *spec, SagaFault *fault)
{
	char		copy[SAGA_FAULT_ENTRY_LEN];
	char	   *rest = NULL;
	char	   *word;

	memset(fault, 0, sizeof(SagaFault));
	strlcpy(copy, spec, sizeof(copy));
	for (word = strtok_r(copy, " ", &rest); word != NULL;
		 word = strtok_r(NULL, " ", &rest))
	{
		char	   *value = fault->action;

		if (strcmp(word, "once") == 0 || strcmp(word, "after") == 0)
		{
			value = word[0] == 'o' ? fault->once : fault->after;
			word = strtok_r(NULL, " ", &rest);
		}
		if (word == NULL || value[0] != '\0')
			elog(ERROR, "\"%s\" is no fault", spec);
		strlcpy(value, word, SAGA_FAULT_WORD_LEN);
	}
}

/*
 * Finds the fault that a setting has for a name now, if any; a name may have
 * several that follow each other.  A process that a fault with a token strikes
 * already, because it waits in it, says which one that is.
 */
static bool
find_fault(const char *setting, const char *name, const char *mine,
		   SagaFault *fault)
{
	const char *at = setting;
	size_t		len = strlen(name);

	while (at != NULL && *at != '\0')
	{
		size_t		entry = strcspn(at, ",");

		if (entry >= len && strncmp(at, name, len) == 0 &&
			(entry == len || at[len] == '='))
		{
			char		spec[SAGA_FAULT_ENTRY_LEN];

			spec[0] = '\0';
			if (entry > len)
				strlcpy(spec, at + len + 1, Min(entry - len, sizeof(spec)));
			parse_fault(spec, fault);
			if ((fault->after[0] == '\0' || has_struck_before(fault->after)) &&
				(fault->once[0] == '\0' || strcmp(fault->once, mine) == 0 ||
				 (!has_struck(fault->once) &&
				  take_strike(fault->once, strcmp(fault->action, "kill") == 0))))
				return true;
		}
		at += entry;
		if (*at == ',')
			at++;
	}
	return false;
}

/* May those that wait by a setting of their own go on? */
static bool
released(void)
{
	SagaFault	fault;

	return find_fault(GetConfigOptionResetString("saga.test_faults"),
					  "release", "", &fault);
}

static bool
is_sqlstate(const char *action)
{
	return strlen(action) == 5 &&
		strspn(action, "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZ") == 5;
}

void
saga_fault_reach(const char *name)
{
	SagaFault	fault;
	char		mine[SAGA_FAULT_WORD_LEN] = "";
	bool		waits = false;

	if (saga_guc_test_faults == NULL || saga_guc_test_faults[0] == '\0')
		return;
	while (find_fault(saga_guc_test_faults, name, mine, &fault))
	{
		if (strcmp(fault.action, "error") == 0)
			elog(ERROR, "fault point \"%s\"", name);
		else if (strcmp(fault.action, "fatal") == 0)
			elog(FATAL, "fault point \"%s\"", name);
		else if (strcmp(fault.action, "kill") == 0)
			kill(MyProcPid, SIGKILL);
		else if (strcmp(fault.action, "delay") == 0)
		{
			pg_usleep(SAGA_FAULT_DELAY * 1000L);
			break;
		}
		else if (strcmp(fault.action, "queue_full") == 0)
		{
			queue_full = true;
			break;
		}
		else if (is_sqlstate(fault.action))
			ereport(ERROR,
					(errcode(MAKE_SQLSTATE(fault.action[0], fault.action[1],
										   fault.action[2], fault.action[3],
										   fault.action[4])),
					 errmsg("fault point \"%s\"", name)));
		else if (strcmp(fault.action, "wait") != 0)
			elog(ERROR, "unknown action \"%s\" at fault point \"%s\"",
				 fault.action, name);

		strlcpy(mine, fault.once, sizeof(mine));
		if (!waits)
			elog(LOG, "waiting at fault point \"%s\"", name);
		waits = true;
		(void) WaitLatch(MyLatch,
						 WL_LATCH_SET | WL_TIMEOUT | WL_EXIT_ON_PM_DEATH,
						 20, PG_WAIT_EXTENSION);
		ResetLatch(MyLatch);
		CHECK_FOR_INTERRUPTS();
		if (ConfigReloadPending)
		{
			ConfigReloadPending = false;
			ProcessConfigFile(PGC_SIGHUP);
		}
		if (released())
			break;
	}
	/* What the latch was set for meanwhile has not been looked at. */
	if (waits)
		SetLatch(MyLatch);
}

/* After each write to the ledger. */
void
saga_fault_write(void)
{
	char		name[32];

	snprintf(name, sizeof(name), "table.write_%d", ++writes);
	saga_fault_reach(name);
}

/*
 * Where a transaction that wrote to the ledger ends.  (After the commit there
 * can be no error.)
 */
static void
fault_at_transaction_end(XactEvent event, void *arg)
{
	bool		full = queue_full;

	queue_full = false;
	/* The error that PreCommit_Notify raises then. */
	if (full && event == XACT_EVENT_PRE_COMMIT)
		ereport(ERROR,
				(errcode(ERRCODE_PROGRAM_LIMIT_EXCEEDED),
				 errmsg("too many notifications in the NOTIFY queue")));
	if (writes == 0)
		return;
	switch (event)
	{
		case XACT_EVENT_PRE_COMMIT:
			saga_fault_reach("transaction.before_commit");
			break;
		case XACT_EVENT_PRE_PREPARE:
			saga_fault_reach("transaction.before_prepare");
			break;
		case XACT_EVENT_COMMIT:
			writes = 0;
			saga_fault_reach("transaction.after_commit");
			break;
		case XACT_EVENT_PREPARE:
			writes = 0;
			saga_fault_reach("transaction.after_prepare");
			break;
		case XACT_EVENT_ABORT:
			writes = 0;
			break;
		default:
			break;
	}
}

/*
 * A saga whose name saga.test_poison has is an error for every process of ours that
 * is about to change it; also one of the code that a limit has.
 */
void
saga_fault_poison(const text *name)
{
	if (MyBgworkerEntry == NULL || saga_guc_test_poison == NULL ||
		saga_guc_test_poison[0] == '\0' ||
		strcmp(text_to_cstring(name), saga_guc_test_poison) != 0)
		return;
	ereport(ERROR,
			(errcode(ERRCODE_PROGRAM_LIMIT_EXCEEDED),
			 errmsg("poison")));
}

bool
saga_fault_is_set(const char *name)
{
	SagaFault	fault;

	return find_fault(saga_guc_test_faults, name, "", &fault);
}

#endif							/* SAGA_TEST */
