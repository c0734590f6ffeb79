/*-------------------------------------------------------------------------
 *
 * looking.c
 *	  A look at a running saga, by the worker or by an executor.
 *
 * A look is made in the caller's transaction.  The rows that ask for it were read
 * before.  They are deleted here, after the steps have been read, so the look has
 * seen whatever was committed with them.
 *
 * Locks: the saga's, shared; exclusively for what look.c does under that only.
 * Nobody is waited for.  If the lock cannot be had, nothing is written, the rows
 * stay, and the caller comes back.  A look that meets another writer as it writes
 * raises an error (SQLSTATE 40001): the transaction must be rolled back, and the look
 * made again.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "base/clock.h"
#include "base/errors.h"
#include "base/fault.h"
#include "flow/look.h"
#include "flow/next.h"
#include "ledger/purge.h"
#include "process/looking.h"

/*
 * Reads the saga under a lock; false if it cannot be had.  A saga that does not
 * go forward needs no look, and has "running" false.
 */
static bool
read_locked(const pg_uuid_t *id, LOCKMODE mode, SagaRow *saga, bool *running)
{
	*running = false;
	if (saga_ledger_get_saga(id, saga) != SAGA_FOUND)
	{
		saga_purge_late(id);
		return true;
	}
	if (!saga_ledger_lock(id, mode, SAGA_NOWAIT))
		return false;
	switch (saga_ledger_reread_saga(saga, SAGA_NOWAIT))
	{
		case SAGA_BUSY:
			return false;
		case SAGA_MISSING:
			return true;
		case SAGA_FOUND:
			break;
	}
	*running = saga->state == SAGA_RUNNING;
	return true;
}

/*
 * The step with which an executor of the role goes on at once: the first of
 * those that have just become ready, in the order of recording.
 */
void
saga_looking_choose_next(SagaChange *change, Oid role, SagaTicket *next)
{
	SagaStep   *chosen = NULL;
	ListCell   *lc;

	foreach(lc, change->changed)
	{
		SagaStep   *step = lfirst(lc);
		TimestampTz due = saga_rows_work_due(step);

		if (due == 0 || due > change->now || due == step->stored_work_due ||
			step->run_as != role || step->forward.crashes >= 0)
			continue;
		if (chosen == NULL || saga_rows_place(step) < saga_rows_place(chosen))
			chosen = step;
	}
	if (chosen == NULL)
		return;
	chosen->kept = true;
	next->saga = chosen->saga;
	next->seq = chosen->seq;
	next->due = saga_rows_work_due(chosen);
}

/* Notifies each channel on which a task of the saga may be claimed, once. */
static void
notify_all_channels(SagaChange *change)
{
	List	   *channels = NIL;

	for (int i = 0; i < change->steps->count; i++)
	{
		const SagaStep *step = &change->steps->step[i];
		ListCell   *lc;
		bool		known = false;

		if (!saga_rows_may_be_claimed(step, change->now))
			continue;
		foreach(lc, channels)
			known = known || saga_rows_same_text(lfirst(lc), step->task);
		if (known)
			continue;
		channels = lappend(channels, step->task);
		saga_change_notify_task(change, step);
	}
}

/*
 * A row says that a step changed, or that its time has come.  If a person must decide
 * about the step, or a service may claim it, the worker notifies those who wait for
 * that; another process asks the worker for a look.
 */
static void
notify(SagaChange *change, const SagaDue *rows, int count)
{
	for (int i = 0; i < count; i++)
	{
		bool		all = rows[i].seq == PG_INT64_MIN;
		int64		seq = all ? 0 : rows[i].seq < 0 ? -rows[i].seq : rows[i].seq;
		int			index = all ? -1 : saga_next_find(change->steps, seq);
		SagaStep   *step = index < 0 ? NULL : &change->steps->step[index];
		bool		asks = step != NULL && rows[i].seq < 0 &&
			saga_rows_step_held(step) && step->status != SAGA_STEP_WAITING;
		bool		claimable = step != NULL && saga_rows_may_be_claimed(step, change->now);

		if (!all && !asks && !claimable)
			continue;
		if (!(change->may & SAGA_MAY_NOTIFY) && !asks &&
			(change->may & SAGA_IS_WORKER))
			continue;
		if (!(change->may & SAGA_MAY_NOTIFY))
			saga_change_look(change, all ? PG_INT64_MIN : -seq);
		else if (all)
			notify_all_channels(change);
		else if (asks)
			saga_change_ask(change, step);
		else
			saga_change_notify_task(change, step);
	}
}

/*
 * Looks at the saga that the rows of the due work are about, and deletes them.
 * "may": SAGA_MAY_... of the caller.  With a role, "next" becomes the ticket with
 * which an executor of that role goes on; seq 0: there is none.
 */
SagaLooked
saga_looking_at(const SagaDue *rows, int count, int may, Oid role,
				SagaTicket *next)
{
	SagaRow		saga;
	SagaSteps	steps;
	SagaChange	change;
	SagaLookResult result = SAGA_LOOK_NOTHING;
	bool		running;
	bool		busy = false;
	bool		kept = false;

	if (next != NULL)
		next->seq = 0;
	if (!read_locked(&rows[0].saga, ShareLock, &saga, &running))
		return SAGA_LOOK_LATER;
	if (running)
	{
		saga_ledger_get_steps_now(&saga.id, &steps);
		SAGA_FAULT("look.after_read");
		saga_change_begin(&change, &saga, &steps, may, saga_clock_now());
		result = saga_look(&change);
		if (result == SAGA_LOOK_ENDS)
		{
			/* Only now: others may go on with its steps at the same time. */
			if (!read_locked(&rows[0].saga, ExclusiveLock, &saga, &running) ||
				!running)
				return SAGA_LOOK_LATER;
			saga_ledger_get_steps_now(&saga.id, &steps);
			saga_change_begin(&change, &saga, &steps, may | SAGA_MAY_FAIL,
							  saga_clock_now());
			result = saga_look(&change);
		}
		if (!saga.paused)
			notify(&change, rows, count);

		/* The worker could not notify: it comes back once it can. */
		if (change.looks != NIL && next == NULL)
			return SAGA_LOOK_LATER;
		if (next != NULL)
			saga_looking_choose_next(&change, role, next);
		SAGA_FAULT("look.before_write");
		if ((result != SAGA_LOOK_NOTHING || change.notices != NIL) &&
			saga_change_write(&change) != SAGA_WRITTEN)
			ereport(ERROR,
					(errcode(ERRCODE_T_R_SERIALIZATION_FAILURE),
					 errmsg("the saga was changed while it was looked at")));
		busy = change.busy;
	}
	for (int i = 0; i < count; i++)
	{
		/* What time made due stays due until it has been done. */
		if (busy && rows[i].seq > 0)
			kept = true;
		else
			(void) saga_ledger_delete_due(&rows[i]);
	}
	if (kept)
		return SAGA_LOOK_LATER;
	return result == SAGA_LOOK_NOTHING ? SAGA_LOOKED_IN_VAIN : SAGA_LOOKED;
}
