/*-------------------------------------------------------------------------
 *
 * fault.c
 *	  Named fault points for the test build.
 *
 * The setting saga.test_faults is a comma separated list of name=action, or
 * of a bare name for the points that spoil a value.  It is read anew at each
 * point, and a reload reaches processes that wait in one.  A session that set
 * it for itself, which no reload changes, waits until the setting of everyone
 * else names "release".
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "fault.h"

#ifdef SAGA_TEST

#include <signal.h>
#include <unistd.h>

#include "access/xact.h"
#include "miscadmin.h"
#include "postmaster/interrupt.h"
#include "storage/latch.h"
#include "utils/guc.h"
#include "utils/wait_event.h"

#define SAGA_FAULT_ACTION_LEN	16

static char *saga_guc_test_faults = NULL;

/* How often the current transaction wrote to the ledger. */
static int	writes = 0;

static void at_end_of_transaction(XactEvent event, void *arg);

void
saga_fault_define(void)
{
	RegisterXactCallback(at_end_of_transaction, NULL);
	DefineCustomStringVariable("saga.test_faults",
							   "Fault points of the test build.",
							   "A comma separated list of name=action.",
							   &saga_guc_test_faults,
							   "",
							   PGC_SUSET,
							   0,
							   NULL, NULL, NULL);
}

/*
 * Finds a name in a setting and copies its action; a bare name has an empty
 * one.
 */
static bool
lookup_action(const char *setting, const char *name, char *action)
{
	const char *at = setting;
	size_t		len = strlen(name);

	action[0] = '\0';
	while (at != NULL && *at != '\0')
	{
		size_t		entry = strcspn(at, ",");

		if (entry >= len && strncmp(at, name, len) == 0 &&
			(entry == len || at[len] == '='))
		{
			if (entry > len)
				strlcpy(action, at + len + 1,
						Min(entry - len, SAGA_FAULT_ACTION_LEN));
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
	char		action[SAGA_FAULT_ACTION_LEN];

	return lookup_action(GetConfigOptionResetString("saga.test_faults"),
						 "release", action);
}

void
saga_fault_reach(const char *name)
{
	char		action[SAGA_FAULT_ACTION_LEN];
	bool		waits = false;

	if (saga_guc_test_faults == NULL || saga_guc_test_faults[0] == '\0')
		return;
	while (lookup_action(saga_guc_test_faults, name, action))
	{
		if (strcmp(action, "error") == 0)
			elog(ERROR, "fault point \"%s\"", name);
		else if (strcmp(action, "fatal") == 0)
			elog(FATAL, "fault point \"%s\"", name);
		else if (strcmp(action, "kill") == 0)
			kill(MyProcPid, SIGKILL);
		else if (strcmp(action, "queue_full") == 0)
			/* What PreCommit_Notify says then. */
			ereport(ERROR,
					(errcode(ERRCODE_PROGRAM_LIMIT_EXCEEDED),
					 errmsg("too many notifications in the NOTIFY queue")));
		else if (strcmp(action, "wait") != 0)
			elog(ERROR, "unknown action \"%s\" at fault point \"%s\"",
				 action, name);

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

/* Behind each write to the ledger. */
void
saga_fault_write(void)
{
	char		name[32];

	snprintf(name, sizeof(name), "table.write_%d", ++writes);
	saga_fault_reach(name);
}

/*
 * Where a transaction that wrote to the ledger ends.  (Behind the commit there
 * can be no error.)
 */
static void
at_end_of_transaction(XactEvent event, void *arg)
{
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

bool
saga_fault_is_set(const char *name)
{
	char		action[SAGA_FAULT_ACTION_LEN];

	return lookup_action(saga_guc_test_faults, name, action);
}

#endif							/* SAGA_TEST */
