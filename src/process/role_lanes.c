/*-------------------------------------------------------------------------
 *
 * role_lanes.c
 *	  Handing due sagas and steps to the executors of the roles that run their SQL.
 *
 * A lane is the due work of one role, in the order in which it is due: sagas to be
 * undone, and steps whose action is to be run.  Only the worker of the database comes
 * here, and no lock is needed but those of pool.c and mailbox.c.
 *
 * Position.  Of each lane the worker remembers how far it has read: everything
 * up to there was handed out, or is being held by somebody.  So a backlog of a
 * million rows is read once, and so are the remains of rows that an old
 * snapshot of somebody else keeps from being removed.  The position goes back
 *
 * - to the earliest due time that was committed since the worker last looked
 *	 (saga_role_lanes_posted): no row that came in between is due before that;
 * - to the start when an executor left, with what was in its mailbox; when one
 *	 reported a saga that somebody held, after a short pause; while prepared
 *	 transactions may bring rows that nobody posts; and for good measure
 *	 now and then when a lane is read to its end.
 *
 * What is handed out twice for that reason does no harm: tickets in hand or in
 * a mailbox are passed by, and an executor that finds nothing to do for one puts
 * it down.
 *
 * New lanes are found by an index lookup after each known lane; it is done
 * when something was posted, and less often when it takes long.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/xact.h"
#include "base/clock.h"
#include "base/ids.h"
#include "base/rights.h"
#include "flow/events.h"
#include "flow/look.h"
#include "flow/next.h"
#include "ledger/home.h"
#include "ledger/ledger.h"
#include "miscadmin.h"
#include "process/action.h"
#include "process/interrupted.h"
#include "process/pool.h"
#include "process/role_lanes.h"
#include "process/transaction.h"
#include "shared/failing.h"
#include "shared/mailbox.h"
#include "utils/builtins.h"
#include "utils/memutils.h"

/* Pauses, in milliseconds. */
#define RETRY_FIRST		100		/* before a saga that somebody held */
#define RETRY_LAST		1000
#define GIVEN_BACK		5		/* before a saga that was due as it was put
								 * down */
#define START_FIRST		1000	/* after an executor could not start */
#define START_LAST		60000
#define WAIT_FOR_SLOT	500		/* between looks for a free executor */
#define BLOCKED			200		/* while somebody has locked the ledger */
/* Time after which a lane at its end is read from the start again */
#define READ_AGAIN		10000
/* Spend at most 1/DISCOVER_SHARE of the time looking for new lanes. */
#define DISCOVER_SHARE	10
/* Pause before looking again whether the actions of failing sagas have ended (ms) */
#define END_AGAIN		10
/* Time slice of a turn for parking what no executor can run */
#define PARK_SLICE		50

typedef struct Lane
{
	Oid			role;
	SagaDue		position;		/* read as far as here */
	int64		read_at;		/* when last read from the start, by the
								 * steady clock */
	bool		unfit;			/* no executor can run as the role */
	bool		waiting;		/* for a free executor */
	TimestampTz retry_at;		/* of sagas that were held; 0: none */
	TimestampTz last_skip;
	int			retry_ms;
	TimestampTz start_at;		/* start no executor before that */
	int			start_ms;
} Lane;

static Lane *lanes = NULL;
static int	lane_count = 0;
static int	lane_size = 0;

static int64 discover_at = 0;	/* not before that, by the steady clock */
static bool discover_wanted = true;
static bool no_place_said = false;

static void
position_at_start(SagaDue *position, Oid role)
{
	memset(position, 0, sizeof(SagaDue));
	position->lane = role;
	position->due = DT_NOBEGIN;
	position->seq = PG_INT64_MIN;
}

static void
position_at_end(SagaDue *position, Oid role)
{
	position->lane = role;
	position->due = DT_NOEND;
	memset(&position->saga, 0xff, sizeof(pg_uuid_t));
	position->seq = PG_INT64_MAX;
}

static void
read_lane_again(Lane *lane)
{
	position_at_start(&lane->position, lane->role);
	lane->read_at = saga_clock_steady();
}

/* Everything is to be read from the start at the next turn. */
void
saga_role_lanes_read_again(void)
{
	int			i;

	for (i = 0; i < lane_count; i++)
		read_lane_again(&lanes[i]);
	discover_wanted = true;
}

/* The clock was set back: no pause is to last longer for that. */
void
saga_role_lanes_forget_pauses(void)
{
	for (int i = 0; i < lane_count; i++)
	{
		lanes[i].retry_at = 0;
		lanes[i].last_skip = 0;
		lanes[i].start_at = 0;
	}
}

/* Rows that are due then or later were committed. */
void
saga_role_lanes_posted(TimestampTz due)
{
	int			i;

	discover_wanted = true;
	for (i = 0; i < lane_count; i++)
	{
		SagaDue    *position = &lanes[i].position;

		if (due > position->due)
			continue;
		if (due <= DT_NOBEGIN + 1)
			position_at_start(position, lanes[i].role);
		else
		{
			position_at_end(position, lanes[i].role);
			position->due = due - 1;
		}
	}
}

static void
add_lane(Oid role)
{
	Lane	   *lane;
	int			i;

	for (i = 0; i < lane_count; i++)
	{
		if (lanes[i].role == role)
			return;
	}
	if (lanes == NULL)
	{
		lane_size = 16;
		lanes = MemoryContextAlloc(TopMemoryContext, lane_size * sizeof(Lane));
	}
	else if (lane_count == lane_size)
	{
		lane_size *= 2;
		lanes = repalloc(lanes, lane_size * sizeof(Lane));
	}
	lane = &lanes[lane_count++];
	memset(lane, 0, sizeof(Lane));
	lane->role = role;
	read_lane_again(lane);
}

/* Looks which lanes there are. */
static void
discover(void)
{
	int64		begun = saga_clock_steady();
	SagaDue		after;
	SagaDue		found;

	position_at_end(&after, InvalidOid);
	while (saga_ledger_next_due(&after, false, &found))
	{
		add_lane(found.lane);
		position_at_end(&after, found.lane);
	}
	discover_wanted = false;
	discover_at = saga_clock_steady();
	discover_at += (discover_at - begun) * DISCOVER_SHARE;
}

/* Why the role can run nothing at all; NULL: it can, as far as is known. */
static const char *
why_unfit(Oid role)
{
	const char *name = GetUserNameFromId(role, true);

	return saga_rights_why_not_run(role, name != NULL ? name : "");
}

/*
 * Gets the lane an executor, if it can have one; otherwise "next" says when
 * to look again.
 */
static bool
get_executor(Lane *lane, SagaMailboxLane *pool, TimestampTz now,
			 TimestampTz *next)
{
	if (lane->start_at > now)
	{
		*next = Min(*next, lane->start_at);
		return false;
	}
	switch (saga_pool_start(lane->role))
	{
		case SAGA_POOL_STARTED:
			no_place_said = false;
			lane->waiting = false;
			pool->count++;
			pool->idle++;
			pool->room += SAGA_MAILBOX_SIZE;
			return true;
		case SAGA_POOL_FULL:
			if (pool->count == 0)
			{
				/* Woken by whatever changes, but for what time alone does. */
				lane->waiting = true;
				*next = Min(*next, now + WAIT_FOR_SLOT * SAGA_CLOCK_MS);
			}
			return false;
		case SAGA_POOL_NO_PLACE:
			if (!no_place_said)
				saga_bgworker_warn_no_place();
			no_place_said = true;
			lane->start_at = now + START_FIRST * SAGA_CLOCK_MS;
			*next = Min(*next, lane->start_at);
			return false;
	}
	return false;
}

/* Notes what the lane's executors reported. */
static void
take_reports(Lane *lane, TimestampTz now)
{
	bool		given_back;

	if (saga_mailbox_collect_skipped(lane->role, &given_back) > 0)
	{
		if (lane->retry_at == 0)
		{
			if (now - lane->last_skip > 3 * RETRY_LAST * SAGA_CLOCK_MS)
				lane->retry_ms = RETRY_FIRST;
			lane->retry_at = now + lane->retry_ms * SAGA_CLOCK_MS;
			lane->retry_ms = Min(lane->retry_ms * 2, RETRY_LAST);
		}
		lane->last_skip = now;
	}
	/* Nobody holds it: soon, but not each time at once in a long backlog. */
	if (given_back &&
		(lane->retry_at == 0 || lane->retry_at > now + GIVEN_BACK * SAGA_CLOCK_MS))
		lane->retry_at = now + GIVEN_BACK * SAGA_CLOCK_MS;
	if (lane->retry_at != 0 && lane->retry_at <= now)
	{
		lane->retry_at = 0;
		read_lane_again(lane);
	}

	if (saga_pool_failed_to_start(lane->role))
	{
		/* The server's log says why. */
		if (now - lane->start_at > 2 * START_LAST * SAGA_CLOCK_MS)
			lane->start_ms = START_FIRST;
		lane->start_at = now + lane->start_ms * SAGA_CLOCK_MS;
		lane->start_ms = Min(lane->start_ms * 2, START_LAST);
	}
}

/*
 * Hands out what is due in a lane, as far as there is room.  Returns when to
 * look again; DT_NOEND: when somebody wakes us.
 */
static TimestampTz
run_lane(Lane *lane, TimestampTz now, bool *away)
{
	TimestampTz next = DT_NOEND;
	SagaMailboxLane pool;
	SagaTicket *in_hand = NULL;
	int			in_hand_count = 0;
	bool		more = false;
	bool		end = false;

	take_reports(lane, now);
	if (lane->retry_at != 0)
		next = lane->retry_at;

	saga_mailbox_lane(lane->role, &pool);
	for (;;)
	{
		SagaDue		found;
		SagaTicket	ticket;

		if (!saga_ledger_next_due(&lane->position, true, &found) ||
			found.lane != lane->role)
		{
			end = true;
			break;
		}
		if (found.due > now)
		{
			next = Min(next, found.due);
			end = true;
			break;
		}
		if (in_hand == NULL)
		{
			/*
			 * Check after taking the snapshot, so that the check covers every
			 * row the snapshot can see.
			 */
			if (saga_home_away() != NULL)
			{
				*away = true;
				return DT_NOEND;
			}
			in_hand_count = saga_mailbox_in_hand(lane->role, &in_hand);
		}
		ticket.saga = found.saga;
		ticket.seq = found.seq;
		ticket.due = found.due;
		if (saga_interrupted_withholds(&found.saga) ||
			(bsearch(&ticket, in_hand, in_hand_count, sizeof(SagaTicket),
					 saga_mailbox_compare) != NULL &&
			 saga_mailbox_pass_by(lane->role, &ticket)))
		{
			saga_rows_keep_place(&lane->position, &found);
			continue;
		}

		/*
		 * An executor that left, or left a record, may have had this saga in
		 * hand: first write down how its attempt ended.
		 */
		if (saga_pool_left_record())
			return now;
		if (pool.count == 0 && why_unfit(lane->role) != NULL)
		{
			lane->unfit = true;
			return now;
		}
		if ((pool.room == 0 &&
			 (pool.count > 0 || !get_executor(lane, &pool, now, &next))) ||
			!saga_mailbox_put(lane->role, &ticket))
		{
			more = true;
			break;
		}
		pool.room--;
		pool.waiting++;
		saga_rows_keep_place(&lane->position, &found);
	}

	if (pool.count > 0)
	{
		if (more && !saga_mailbox_ask_refill(lane->role))
			next = now;
		/* More than those that are idle can begin with at once. */
		if (pool.waiting > pool.idle)
			(void) get_executor(lane, &pool, now, &next);
	}
	if (!more && lane->waiting)
	{
		lane->waiting = false;
		saga_pool_forget_waiting(lane->role);
	}
	if (end && saga_clock_steady() - lane->read_at > READ_AGAIN * SAGA_CLOCK_MS)
		read_lane_again(lane);
	return next;
}

/*
 * Parks a step of a lane whose role cannot run anything, in the caller's
 * transaction.  False: the caller must roll that back, and try again later.
 */
static bool
park_action(const SagaDue *found, TimestampTz now)
{
	SagaRow		saga;
	SagaStep	step;
	SagaChange	change;
	const char *why;

	if (saga_ledger_get_saga(&found->saga, &saga) != SAGA_FOUND)
		return saga_ledger_delete_due(found);
	if (!saga_ledger_lock(&saga.id, ShareLock, SAGA_NOWAIT) ||
		saga_ledger_reread_saga(&saga, SAGA_NOWAIT) != SAGA_FOUND)
		return false;
	if (saga.state != SAGA_RUNNING)
		return saga_ledger_delete_due(found);
	if (saga.paused)
		return true;
	if (saga_ledger_get_due_step(found, &step) != SAGA_FOUND ||
		TransactionIdIsValid(step.version.writer))
		return false;
	why = saga_rights_why_not_run(step.run_as, text_to_cstring(step.run_as_name));
	if (why == NULL || saga_rows_work_due(&step) != found->due)
		return true;
	saga_change_begin(&change, &saga, NULL, 0, now);
	saga_look_park(&change, &step, why);
	return saga_change_write(&change) == SAGA_WRITTEN;
}

/* The lane is to be read again then, if not before. */
static void
park_again(Lane *lane, TimestampTz when)
{
	if (lane->retry_at == 0 || lane->retry_at > when)
		lane->retry_at = when;
}

/*
 * One ticket of a lane whose role cannot run anything: parks the step that is
 * next.  False when there is none left that is due.  "parking" becomes the ticket
 * (due 0: none was found), also if that is an error.
 */
static bool
park_next(Lane *lane, SagaDue *parking)
{
	TimestampTz now = saga_clock_now();
	SagaWritten written = SAGA_CHANGED;
	SagaDue		before = lane->position;
	SagaDue		found;
	SagaRow		saga;
	SagaSteps	steps;
	SagaChange	change;
	SagaTask	task;
	TimestampTz again;

	if (saga_transaction_begin(true) != SAGA_TRANSACTION_BEGUN)
		return false;
	if (saga_home_away() != NULL ||
		!saga_ledger_next_due(&lane->position, true, &found) ||
		found.lane != lane->role || found.due > now)
	{
		saga_transaction_commit();
		return false;
	}
	saga_rows_keep_place(&lane->position, &found);
	if (saga_failing_waits(&found.saga, SAGA_FAILING_PARK, now, &again))
	{
		saga_transaction_commit();
		park_again(lane, again);
		return true;
	}
	*parking = found;
	if (found.seq != 0)
	{
		if (saga_interrupted_withholds(&found.saga) || park_action(&found, now))
			saga_transaction_commit();
		else
		{
			saga_transaction_abort();
			park_again(lane, now + RETRY_LAST * SAGA_CLOCK_MS);
		}
		return true;
	}
	if (saga_interrupted_withholds(&found.saga) ||
		saga_ledger_get_saga(&found.saga, &saga) != SAGA_FOUND ||
		saga.state == SAGA_RUNNING)
	{
		/* Gone, or in the worker's own lane by now, which asks for its lock. */
		saga_transaction_commit();
		return true;
	}
	if (!TransactionIdIsValid(saga.version.writer))
	{
		saga_ledger_get_steps(&found.saga, &steps);
		saga_change_begin(&change, &saga, &steps, 0, now);
		saga_next(&saga, &steps, &task);
		if (saga.state == SAGA_COMPENSATING && task.kind == SAGA_TASK_SQL &&
			steps.step[task.index].run_as == lane->role)
		{
			SagaStep   *step = &steps.step[task.index];
			const char *why =
				saga_rights_why_not_run(step->run_as,
										text_to_cstring(step->run_as_name));

			if (why == NULL)
			{
				/* It can run after all. */
				saga_transaction_commit();
				return false;
			}
			saga_events_park(&change, step, why);
		}
		else
			saga_events_pass(&change);
		written = saga_change_write(&change);
	}
	if (written == SAGA_WRITTEN)
	{
		saga_transaction_commit();
		/* A saga that goes on without the step keeps its place. */
		if (saga.due == found.due && saga.lane == found.lane)
			lane->position = before;
	}
	else
	{
		saga_transaction_abort();
		park_again(lane, now + RETRY_LAST * SAGA_CLOCK_MS);
	}
	return true;
}

/* Likewise, but an error of one saga does not keep the others back. */
static bool
park_next_caught(Lane *lane)
{
	MemoryContext caller = CurrentMemoryContext;
	int64		begun = saga_clock_steady();
	SagaDue		parking = {.due = 0};
	volatile bool more = true;

	PG_TRY();
	{
		more = park_next(lane, &parking);
		if (parking.due != 0)
			saga_failing_over(&parking.saga, SAGA_FAILING_PARK);
	}
	PG_CATCH();
	{
		ErrorData  *error;
		TimestampTz again;

		/* Before anything was found, it is no saga's error. */
		if (parking.due == 0)
			PG_RE_THROW();
		error = saga_transaction_fail(caller);
		if (!saga_failing_note(&parking.saga, SAGA_FAILING_PARK, error->sqlerrcode,
							   saga_clock_steady() - begun, &again))
			again = saga_clock_now() + RETRY_LAST * SAGA_CLOCK_MS;
		park_again(lane, again);
		ereport(WARNING,
				(errcode(error->sqlerrcode),
				 errmsg("could not park saga %s: %s",
						saga_ids_string(&parking.saga), error->message)));
	}
	PG_END_TRY();
	MemoryContextSwitchTo(caller);
	return more;
}

/* No lane waits for an executor: none could be handed anything. */
static void
stop_waiting(void)
{
	for (int i = 0; i < lane_count; i++)
	{
		if (!lanes[i].waiting)
			continue;
		lanes[i].waiting = false;
		saga_pool_forget_waiting(lanes[i].role);
	}
}

/*
 * One turn: hands out what can be handed out.  Returns when to look again.
 */
TimestampTz
saga_role_lanes_turn(TimestampTz now)
{
	TimestampTz next = DT_NOEND;
	int64		begun;
	bool		away = false;
	int			i;

	saga_pool_want_none();
	if (saga_transaction_begin(true) != SAGA_TRANSACTION_BEGUN)
	{
		stop_waiting();
		return now + BLOCKED * SAGA_CLOCK_MS;
	}
	if (discover_wanted)
	{
		int64		rest = discover_at - saga_clock_steady();

		if (rest <= 0)
			discover();
		else
			next = now + rest;
	}
	if (saga_action_end_failing())
		next = Min(next, now + END_AGAIN * SAGA_CLOCK_MS);
	for (i = 0; i < lane_count && !away; i++)
	{
		TimestampTz lane_next = run_lane(&lanes[i], now, &away);

		next = Min(next, lane_next);
	}
	saga_transaction_commit();
	if (away)
	{
		stop_waiting();
		saga_pool_want_none();
		return DT_NOEND;
	}

	begun = saga_clock_steady();
	for (i = 0; i < lane_count; i++)
	{
		if (!lanes[i].unfit)
			continue;
		while (!saga_shmem_worker_must_leave(false) && park_next_caught(&lanes[i]))
		{
			CHECK_FOR_INTERRUPTS();
			if (saga_clock_steady() - begun >= PARK_SLICE * SAGA_CLOCK_MS)
				return now;
		}
		lanes[i].unfit = false;
		if (lanes[i].retry_at != 0)
			next = Min(next, lanes[i].retry_at);
	}
	return next;
}
