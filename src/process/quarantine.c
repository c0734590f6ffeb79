/*-------------------------------------------------------------------------
 *
 * quarantine.c
 *	  The right to run SQL with no other compensation beside it.
 *
 * A compensation that was running when the server crashed is a suspect, and
 * runs alone in the whole server, so that another crash can be laid at its
 * door and at no other's.  Suspects run one at a time.
 *
 * But most suspects are innocent, and may take long, and everyone else's work
 * must go on.  So the right is bounded by a window of time, which grows with
 * every crash that the suspect was there at: it announces itself ("alone"),
 * from which moment nobody else begins, and waits for those who run until the
 * window is over; then it runs, and again nobody else begins for a window.
 * What kills the server at once is thus found out at once, and what kills it
 * late is found out when the window has grown; how long others wait follows
 * from crashes, not from how long a compensation runs.
 *
 * Right and count are given back on every way out of the process (pool.c).
 *
 * Locks: alone_mutex, for a few instructions at a time.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "base/clock.h"
#include "base/compat.h"
#include "process/quarantine.h"
#include "shared/shmem.h"

static int	my_slot = -1;
static bool in_sql = false;
static bool wants_alone = false;

/*
 * Waits for the right of the executor in "slot" to run SQL: beside others
 * (window_ms 0), or alone for that time.  False if it has to leave instead,
 * or if another suspect has the right, which may take as long as SQL takes:
 * come back later.  No transaction may be open.
 */
bool
saga_quarantine_enter(int slot, int64 window_ms, bool (*must_leave) (void))
{
	static uint32 wait_event = 0;
	bool		entered = false;
	bool		prepared = false;
	bool		tell = false;

	Assert(!in_sql);
	my_slot = slot;
	for (;;)
	{
		int64		now = saga_clock_steady();
		bool		others_turn = false;
		bool		over;

		SpinLockAcquire(&saga_shmem->alone_mutex);
		if (window_ms > 0 && !wants_alone)
		{
			if (saga_shmem->alone == -1)
			{
				saga_shmem->alone = slot;
				saga_shmem->alone_until = now + window_ms * SAGA_CLOCK_MS;
				wants_alone = true;
			}
			else
				others_turn = true;
		}
		over = now >= saga_shmem->alone_until;
		if (wants_alone ? (saga_shmem->running == 0 || over) :
			(!others_turn && (saga_shmem->alone == -1 || over)))
		{
			if (wants_alone && saga_shmem->running == 0)
				saga_shmem->alone_until = now + window_ms * SAGA_CLOCK_MS;
			tell = wants_alone;
			saga_shmem->running++;
			in_sql = entered = true;
		}
		SpinLockRelease(&saga_shmem->alone_mutex);
		if (entered || others_turn)
			break;

		if (!prepared)
		{
			if (wait_event == 0)
				wait_event = saga_compat_wait_event("SagaAlone");
			ConditionVariablePrepareToSleep(&saga_shmem->alone_cv);
			prepared = true;
			continue;
		}
		if (must_leave())
			break;
		(void) ConditionVariableTimedSleep(&saga_shmem->alone_cv, 200,
										   wait_event);
	}
	if (prepared)
		ConditionVariableCancelSleep();
	if (!entered)
	{
		saga_quarantine_leave();
		return false;
	}
	if (tell)
		ConditionVariableBroadcast(&saga_shmem->alone_cv);
	return true;
}

/* Gives the right back; harmless when there is none. */
void
saga_quarantine_leave(void)
{
	bool		tell = false;

	if (!in_sql && !wants_alone)
		return;
	SpinLockAcquire(&saga_shmem->alone_mutex);
	if (in_sql)
		saga_shmem->running--;
	tell = saga_shmem->alone != -1;
	if (wants_alone && saga_shmem->alone == my_slot)
		saga_shmem->alone = -1;
	SpinLockRelease(&saga_shmem->alone_mutex);
	in_sql = false;
	wants_alone = false;
	if (tell)
		ConditionVariableBroadcast(&saga_shmem->alone_cv);
}
