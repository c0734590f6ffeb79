/*-------------------------------------------------------------------------
 *
 * quarantine.c
 *	  The right of executors to run SQL, beside others or alone.
 *
 * An action or a compensation that was running when the server crashed is a
 * suspect.  It runs alone in the whole server, so that another crash can be blamed
 * on it and on nothing else.  Suspects run one at a time.
 *
 * But most suspects are innocent, and may take long, and everyone else's work
 * must go on.  So the right is bounded by a window of time, which grows with
 * every interruption of the suspect, crashes among them.  The suspect announces itself
 * ("alone"): from then on no other begins.  It waits for those that run until the
 * window is over; then it runs, and again nobody else begins for a window.  What
 * kills the server at once is thus found out at once, and what kills it late is
 * found out when the window has grown.  How long others wait follows from crashes,
 * not from how long the suspect runs.
 *
 * Right and count are given back on every way out of the process (pool.c).
 *
 * Locks: a mutex, for a few instructions at a time.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "base/clock.h"
#include "base/compat.h"
#include "process/quarantine.h"
#include "shared/shmem.h"

/* The part of shared memory that this room owns */
typedef struct QuarantineShared
{
	slock_t		mutex;			/* guards what follows */
	bool		alone;			/* a process has the right to run alone, or
								 * waits for it; it knows that itself */
	int			running;		/* processes whose SQL runs */
	int64		alone_until;	/* from then on, by the steady clock, others
								 * may begin */
	ConditionVariable changed;	/* signaled when "alone" or "running" is */
} QuarantineShared;

/* NULL unless the library was preloaded. */
static QuarantineShared *shared = NULL;

static bool in_sql = false;
static bool wants_alone = false;

/*
 * Waits for the right of this executor to run SQL: beside others (window_ms 0), or
 * alone for that time.  False if it has to leave instead, or if another suspect
 * has the right, which may take as long as SQL takes: come back later, and give
 * the ticket in hand back.  No transaction may be open.
 */
bool
saga_quarantine_enter(int64 window_ms, bool (*must_leave) (void))
{
	static uint32 wait_event = 0;
	bool		entered = false;
	bool		prepared = false;
	bool		signal = false;

	Assert(!in_sql);
	for (;;)
	{
		int64		now = saga_clock_steady();
		bool		others_turn = false;
		bool		over;

		SpinLockAcquire(&shared->mutex);
		if (window_ms > 0 && !wants_alone)
		{
			if (!shared->alone)
			{
				shared->alone = true;
				shared->alone_until = now + window_ms * 1000;
				wants_alone = true;
			}
			else
				others_turn = true;
		}
		over = now >= shared->alone_until;
		if (wants_alone ? (shared->running == 0 || over) :
			(!others_turn && (!shared->alone || over)))
		{
			if (wants_alone && shared->running == 0)
				shared->alone_until = now + window_ms * 1000;
			signal = wants_alone;
			shared->running++;
			in_sql = entered = true;
		}
		SpinLockRelease(&shared->mutex);
		if (entered || others_turn)
			break;

		if (!prepared)
		{
			if (wait_event == 0)
				wait_event = saga_compat_wait_event("SagaAlone");
			ConditionVariablePrepareToSleep(&shared->changed);
			prepared = true;
			continue;
		}
		if (must_leave())
			break;
		(void) ConditionVariableTimedSleep(&shared->changed, 200,
										   wait_event);
	}
	if (prepared)
		ConditionVariableCancelSleep();
	if (!entered)
	{
		saga_quarantine_leave();
		return false;
	}
	if (signal)
		ConditionVariableBroadcast(&shared->changed);
	return true;
}

/* Gives the right back; harmless when there is none. */
void
saga_quarantine_leave(void)
{
	bool		signal = false;

	if (!in_sql && !wants_alone)
		return;
	SpinLockAcquire(&shared->mutex);
	if (in_sql)
		shared->running--;
	signal = shared->alone;
	if (wants_alone)
		shared->alone = false;
	SpinLockRelease(&shared->mutex);
	in_sql = false;
	wants_alone = false;
	if (signal)
		ConditionVariableBroadcast(&shared->changed);
}

static void
init_quarantine(void *part)
{
	shared = part;
	memset(shared, 0, sizeof(QuarantineShared));
	SpinLockInit(&shared->mutex);
	ConditionVariableInit(&shared->changed);
}

void
saga_quarantine_register(void)
{
	saga_shmem_register_part("saga quarantine", sizeof(QuarantineShared),
							 (void **) &shared, init_quarantine);
}
