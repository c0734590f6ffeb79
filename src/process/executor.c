/*-------------------------------------------------------------------------
 *
 * executor.c
 *	  The process that runs one role's SQL: actions and compensations.
 *
 * It is connected as the role (session.c says what follows from that).  It takes
 * tickets from its mailbox (mailbox.c) and makes one attempt after the other: it
 * walks a saga back (attempt.c) or goes forward along a running one (action.c), as
 * long as what comes next is SQL of this role that is due.
 *
 * After an attempt whose session cannot be made as good as new, and before one
 * for which it is not (leftover.c), the process leaves what is due to another.
 *
 * Exit codes: 0 always but on FATAL; nobody restarts an executor but a worker
 * that has work for it.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include <unistd.h>

#include "base/clock.h"
#include "base/guc.h"
#include "base/sender.h"
#include "miscadmin.h"
#include "pgstat.h"
#include "process/attempt.h"
#include "process/executor.h"
#include "process/inflight.h"
#include "process/pool.h"
#include "process/quarantine.h"
#include "process/session.h"
#include "process/transaction.h"
#include "shared/mailbox.h"
#include "shared/stat.h"
#include "storage/ipc.h"
#include "storage/pmsignal.h"
#include "utils/backend_status.h"

#define IDLE	"saga: idle executor"

/*
 * SIGQUIT: an immediate shutdown accuses nobody.  After a crash, ours or
 * another's, the record stays as it is.
 */
static void
executor_quit(SIGNAL_ARGS)
{
	if (GetQuitSignalReason() == PMQUIT_FOR_STOP)
		saga_attempt_at_stop();
	_exit(2);
}

/* Does what a ticket stands for, and what follows.  False: the process should end. */
static bool
walk_saga(const SagaTicket *ticket, bool handed_over)
{
	bool		alone = false;
	SagaWalkOn	result = SAGA_WALK_ON;

	saga_attempt_take(ticket, handed_over);
	while (result == SAGA_WALK_ON || result == SAGA_WALK_ALONE)
	{
		alone = (result == SAGA_WALK_ALONE);
		saga_transaction_handle_interrupts();
		if (saga_pool_must_leave() ||
			!saga_quarantine_enter(alone ? saga_attempt_alone_ms() : 0,
								   saga_pool_must_leave))
		{
			/* What comes next is due, and another process's now. */
			result = SAGA_WALK_SKIP;
			break;
		}
		result = saga_attempt_run(alone);
		saga_quarantine_leave();
		if (saga_attempt_in_trouble())
			saga_pool_wait_out(SAGA_ATTEMPT_TROUBLE_MS);
	}
	saga_attempt_put_down();
	saga_mailbox_done(result == SAGA_WALK_SKIP);
	return result != SAGA_WALK_LEAVE;
}

/* Waits for something in the mailbox; false if nothing came for long. */
static bool
wait_for_mail(int64 *idle_since)
{
	int64		rest = saga_guc_executor_idle_timeout;
	int64		asleep_at;

	if (*idle_since == 0)
	{
		*idle_since = saga_clock_steady();
		pgstat_report_activity(STATE_IDLE, IDLE);
		pgstat_report_stat(true);
	}
	else
		rest -= (saga_clock_steady() - *idle_since) / 1000;
	if (rest <= 0)
		return false;
	asleep_at = saga_clock_steady();
	saga_pool_sleep((long) rest);
	saga_stat_process(SAGA_STAT_EXECUTOR_IDLE, saga_clock_steady() - asleep_at);
	return true;
}

void
saga_executor_main(Datum arg)
{
	const SagaProcess *process = saga_bgworker_enter();
	int64		idle_since = 0;
	SagaTicket	ticket;
	bool		handed_over;

	if (!saga_pool_attach(process, saga_attempt_at_exit))
		proc_exit(0);
	saga_bgworker_connect();
	pqsignal(SIGQUIT, executor_quit);

	saga_sender_init();
	saga_session_init();
	saga_inflight_open(process->slot, process->generation);
	saga_attempt_init(process->role);
	saga_pool_ready();
	saga_stat_process(SAGA_STAT_EXECUTOR_STARTS, 1);

	for (;;)
	{
		saga_transaction_handle_interrupts();
		if (saga_pool_must_leave())
			break;
		if (saga_mailbox_take(&ticket, &handed_over))
		{
			idle_since = 0;
			if (!walk_saga(&ticket, handed_over))
				break;
		}
		else if (!wait_for_mail(&idle_since))
			break;
	}
	proc_exit(0);
}
