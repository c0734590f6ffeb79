/*-------------------------------------------------------------------------
 *
 * sender.c
 *	  The process that canceled what this one does, or ended it.
 *
 * An SQLSTATE does not show it: SQL raises 57014 by hand, or hands on that of
 * another server.  The signals do: without SIGINT nothing was canceled, without
 * SIGTERM nobody wants the process to end, and the system says which process
 * sent them, so that SQL that signals itself is not taken for a DBA.  Where the
 * system does not say, the sender is another.
 *
 * The server's timeouts send SIGINT to their own process.  That is no cancel;
 * each leaves its indicator until the server has seen to it.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include <signal.h>

#include "base/compat.h"
#include "base/sender.h"
#include "miscadmin.h"
#include "tcop/tcopprot.h"
#include "utils/timeout.h"

/* Of type SagaSender; set in signal handlers. */
static volatile sig_atomic_t cancel_sender = SAGA_SENDER_NOBODY;
static volatile sig_atomic_t end_sender = SAGA_SENDER_NOBODY;

/* Once another process wants it, it does not matter that this one does too. */
static void
note_sender(volatile sig_atomic_t *sender, int pid)
{
	if (pid != MyProcPid)
		*sender = SAGA_SENDER_ANOTHER;
	else if (*sender == SAGA_SENDER_NOBODY)
		*sender = SAGA_SENDER_ITSELF;
}

/* SIGINT */
static void
on_cancel(SAGA_COMPAT_SIGNAL_ARGS)
{
	int			pid;

	if (!saga_compat_signal_begin(SAGA_COMPAT_SIGNAL_PASS, &pid))
		return;
	if (pid != MyProcPid ||
		(!get_timeout_indicator(LOCK_TIMEOUT, false) &&
		 !get_timeout_indicator(STATEMENT_TIMEOUT, false)))
		note_sender(&cancel_sender, pid);
	saga_compat_signal_forward(StatementCancelHandler, SAGA_COMPAT_SIGNAL_PASS);
}

/* SIGTERM */
static void
on_end(SAGA_COMPAT_SIGNAL_ARGS)
{
	int			pid;

	if (!saga_compat_signal_begin(SAGA_COMPAT_SIGNAL_PASS, &pid))
		return;
	note_sender(&end_sender, pid);
	saga_compat_signal_forward(die, SAGA_COMPAT_SIGNAL_PASS);
}

/* Once per process, which has the server's handlers until then. */
void
saga_sender_init(void)
{
	saga_compat_signal_handle(SIGINT, on_cancel);
	saga_compat_signal_handle(SIGTERM, on_end);
}

/* Forgets the cancels until now. */
void
saga_sender_forget_cancel(void)
{
	cancel_sender = SAGA_SENDER_NOBODY;
	QueryCancelPending = false;
}

/* The sender of the last cancel since. */
SagaSender
saga_sender_of_cancel(void)
{
	return (SagaSender) cancel_sender;
}

/* The sender of the signal to end. */
SagaSender
saga_sender_of_end(void)
{
	return (SagaSender) end_sender;
}
