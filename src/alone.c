/*-------------------------------------------------------------------------
 *
 * alone.c
 *	  The right to run SQL with no other compensation beside it.
 *
 * A compensation that was running when the server crashed is a suspect, and
 * runs alone in the whole server, so that another crash can be laid at its
 * door and at no other's.  It announces itself ("alone"), from which moment
 * nobody else begins, and waits until nobody runs.  Right and count are given
 * back on every way out of the process (pool.c).
 *
 * Locks: alone_mutex, for a few instructions at a time.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "alone.h"
#include "compat.h"
#include "shmem.h"

static int	my_slot = -1;
static bool in_sql = false;
static bool wants_alone = false;

/*
 * Waits for the right of the executor in "slot" to run SQL, alone in the
 * server or beside others.  False if it has to leave instead.  No transaction may be open:
 * this can take as long as the SQL of others.
 */
bool
saga_alone_enter(int slot, bool alone, bool (*must_leave) (void))
{
	static uint32 wait_event = 0;
	bool		entered = false;
	bool		prepared = false;

	Assert(!in_sql);
	my_slot = slot;
	for (;;)
	{
		SpinLockAcquire(&saga_shmem->alone_mutex);
		if (saga_shmem->alone == -1 && alone)
		{
			saga_shmem->alone = slot;
			wants_alone = true;
		}
		if (wants_alone ? saga_shmem->running == 0 : saga_shmem->alone == -1)
		{
			/* With "alone" asked for, the second holds only with the first. */
			if (wants_alone || !alone)
			{
				saga_shmem->running++;
				in_sql = entered = true;
			}
		}
		SpinLockRelease(&saga_shmem->alone_mutex);
		if (entered)
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
		(void) ConditionVariableTimedSleep(&saga_shmem->alone_cv, 1000,
										   wait_event);
	}
	if (prepared)
		ConditionVariableCancelSleep();
	if (!entered)
	{
		saga_alone_leave();
		return false;
	}
	return true;
}

/* Gives the right back; harmless when there is none. */
void
saga_alone_leave(void)
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
