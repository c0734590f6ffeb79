/*-------------------------------------------------------------------------
 *
 * fault.c
 *	  Named fault points for the test build.
 *
 * The setting saga.test_faults is a comma separated list of name=action, or
 * of a bare name for the points that spoil a value.  It is read anew at each
 * point, and a reload reaches processes that wait in one.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "fault.h"

#ifdef SAGA_TEST

#include <signal.h>
#include <unistd.h>

#include "miscadmin.h"
#include "postmaster/interrupt.h"
#include "storage/latch.h"
#include "utils/guc.h"
#include "utils/wait_event.h"

#define SAGA_FAULT_ACTION_LEN	16

static char *saga_guc_test_faults = NULL;

void
saga_fault_define(void)
{
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
 * Finds a name in the setting and copies its action; a bare name has an
 * empty one.
 */
static bool
lookup_action(const char *name, char *action)
{
	const char *at = saga_guc_test_faults;
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

void
saga_fault_reach(const char *name)
{
	char		action[SAGA_FAULT_ACTION_LEN];
	bool		waits = false;

	if (saga_guc_test_faults == NULL || saga_guc_test_faults[0] == '\0')
		return;
	while (lookup_action(name, action))
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
	}
}

bool
saga_fault_is_set(const char *name)
{
	char		action[SAGA_FAULT_ACTION_LEN];

	return lookup_action(name, action);
}

#endif							/* SAGA_TEST */
