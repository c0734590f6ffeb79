/*-------------------------------------------------------------------------
 *
 * interrupted.c
 *	  Attempts that were cut short.
 *
 * An attempt is cut short by the end of its executor, or of an earlier life of
 * the server.  The in-flight file of the executor (inflight.c) says so, and the
 * worker records how the attempt ended.  Until it has, and that is on disk, the
 * saga is not handed out and the file is not removed.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/xact.h"
#include "access/xlog.h"
#include "base/clock.h"
#include "base/fault.h"
#include "base/ids.h"
#include "flow/events.h"
#include "flow/next.h"
#include "ledger/ledger.h"
#include "miscadmin.h"
#include "process/action.h"
#include "process/bgworker.h"
#include "process/inflight.h"
#include "process/interrupted.h"
#include "process/leaving.h"
#include "process/transaction.h"
#include "utils/memutils.h"
#include "utils/timestamp.h"

/* Pause before an attempt whose saga another transaction is writing (ms). */
#define RETRY_MS	1000

/* There may be attempts that were cut short, and are not recorded yet. */
static bool look_again = true;
static TimestampTz look_at = 0;

/* Their sagas, as far as they could not be recorded at once */
static pg_uuid_t *withheld = NULL;
static int	withheld_count = 0;

/* How an attempt ended, as far as its record says */
static void
interrupted_end(const SagaInflight *record, int attempt, SagaAttemptEnd *end)
{
	memset(end, 0, sizeof(SagaAttemptEnd));
	end->forward = record->phase == SAGA_PHASE_FORWARD;
	end->attempt = attempt;
	end->started_at = record->started_at;
	end->rows = -1;
	if (record->state == SAGA_INFLIGHT_ENDED)
	{
		end->outcome = (SagaOutcome) record->end.outcome;
		end->charged = record->end.charged;
		end->conflict = record->end.conflict;
		end->waits = record->end.waits;
		end->sqlstate = record->end.sqlstate[0] ? record->end.sqlstate : NULL;
		end->error = record->end.error;
		end->park = record->end.park ? record->end.error : NULL;
		end->mend = record->end.mend;
	}
	else if (record->state == SAGA_INFLIGHT_TIMED_OUT)
	{
		end->outcome = SAGA_OUTCOME_TIMED_OUT;
		end->charged = true;
		end->error = "it ran on after its timeout, and its process was ended";
	}
	else
	{
		end->outcome = SAGA_OUTCOME_INTERRUPTED;
		end->suspect = record->state == SAGA_INFLIGHT_RUNNING;
		end->alone = record->alone;
		end->error = end->suspect ? "the server crashed while it ran" :
			"its process was told to leave while it ran";
	}
}

/* Begins the transaction that records an attempt; false: the ledger is locked. */
static bool
interrupted_begin(void)
{
	SAGA_FAULT("worker.before_turn");
	switch (saga_transaction_begin(true))
	{
		case SAGA_TRANSACTION_BEGUN:
			break;
		case SAGA_TRANSACTION_BLOCKED:
			return false;
		case SAGA_TRANSACTION_GONE:
			saga_leaving_because_gone();
	}
	return true;
}

static void
interrupted_commit(void)
{
	SAGA_FAULT("worker.before_commit");
	saga_transaction_commit();
	SAGA_FAULT("worker.after_commit");
	/* The file may go only when this is on disk, whatever the settings say. */
	XLogFlush(XactLastCommitEnd);
}

/* Records an attempt of a step's action.  The result is that of interrupted_record. */
static bool
interrupted_record_action(const SagaInflight *record)
{
	SagaAttemptEnd end;
	SagaRecorded recorded;

	if (!interrupted_begin())
		return false;
	interrupted_end(record, record->attempt, &end);
	recorded = saga_action_record(&record->saga, record->seq, &end);
	if (recorded == SAGA_RECORD_LATER)
	{
		saga_transaction_abort();
		return false;
	}
	if (recorded == SAGA_RECORD_LOST && end.suspect)
		saga_shmem_my_database()->careful = true;
	interrupted_commit();
	return true;
}

/* Records one attempt.  True when that is done, and the file may go. */
static bool
interrupted_record(const SagaInflight *record)
{
	SagaRow		saga;
	SagaSteps	steps;
	SagaChange	change;
	SagaAttemptEnd end;
	SagaFound	found;
	int			i;

	if (record->phase == SAGA_PHASE_FORWARD)
		return interrupted_record_action(record);
	if (!interrupted_begin())
		return false;
	found = saga_ledger_get_saga(&record->saga, &saga);
	if (found == SAGA_FOUND && TransactionIdIsValid(saga.version.writer))
	{
		saga_transaction_commit();
		return false;
	}
	i = -1;
	if (found == SAGA_FOUND)
	{
		saga_ledger_get_steps(&record->saga, &steps);
		i = saga_next_find(&steps, record->seq);
	}

	/*
	 * It moved while the steps were read; or a crash lost that it was
	 * recorded.
	 */
	if (found == SAGA_FOUND && i < 0)
	{
		bool		lost = !saga_ledger_has_step(&record->saga, record->seq);

		saga_transaction_commit();
		return lost;
	}
	/* Gone, or somebody has written it down before. */
	if (i < 0 || steps.step[i].undo.attempts >= record->attempt)
	{
		saga_transaction_commit();
		return true;
	}

	/* An attempt before this one may have been lost with the crash. */
	interrupted_end(record, steps.step[i].undo.attempts + 1, &end);
	saga_change_begin(&change, &saga, &steps, 0, saga_clock_now());
	saga_events_attempt(&change, &steps.step[i], &end);
	if (saga_change_write(&change) != SAGA_WRITTEN)
	{
		saga_transaction_abort();
		return false;
	}
	interrupted_commit();
	return true;
}

/*
 * Likewise, but an error of one attempt does not keep the others back.  Only the
 * first error of a pass gets a line in the log ("failed" is false until then): a full
 * disk fails them all, and the log must not fill it further.
 */
static bool
interrupted_record_caught(MemoryContext turn_context,
						  const SagaInflight *record, bool *failed)
{
	volatile bool done = false;

	saga_bgworker_at(&record->saga, record->seq);
	PG_TRY();
	{
		done = interrupted_record(record);
	}
	PG_CATCH();
	{
		ErrorData  *error = saga_transaction_fail(turn_context);

		ereport(*failed ? DEBUG1 : WARNING,
				(errcode(error->sqlerrcode),
				 errmsg("could not record how an interrupted attempt ended: SQLSTATE %s",
						unpack_sql_state(error->sqlerrcode))));
		*failed = true;
	}
	PG_END_TRY();
	saga_bgworker_at(NULL, 0);
	return done;
}

/* Records all of them.  Returns when to retry; "recorded": some are done. */
static TimestampTz
interrupted_record_all(MemoryContext turn_context, TimestampTz now,
					   bool *recorded)
{
	List	   *records;
	ListCell   *lc;
	bool		failed = false;

	withheld_count = 0;
	if (withheld != NULL)
		pfree(withheld);
	withheld = NULL;

	MemoryContextSwitchTo(turn_context);
	records = saga_inflight_leftovers(MyDatabaseId);
	if (records != NIL)
		withheld = MemoryContextAlloc(TopMemoryContext,
									  list_length(records) * sizeof(pg_uuid_t));
	foreach(lc, records)
	{
		SagaInflight *record = lfirst(lc);
		bool		done;

		saga_leaving_handle_interrupts();
		done = interrupted_record_caught(turn_context, record, &failed);
		MemoryContextSwitchTo(turn_context);
		if (done)
			saga_inflight_forget(record);
		else
			withheld[withheld_count++] = record->saga;
	}
	look_again = false;
	look_at = withheld_count > 0 ? now + RETRY_MS * SAGA_CLOCK_MS : 0;
	*recorded = withheld_count < list_length(records);
	return withheld_count > 0 ? look_at : DT_NOEND;
}

/*
 * Records the attempts that were cut short, if there may be some; returns when
 * to call again.  "recorded": some were, and their sagas can be handed out.
 */
TimestampTz
saga_interrupted_turn(MemoryContext turn_context, TimestampTz now,
					  bool *recorded)
{
	*recorded = false;
	if (look_again || (look_at != 0 && look_at <= now))
		return interrupted_record_all(turn_context, now, recorded);
	return look_at != 0 ? look_at : DT_NOEND;
}

/*
 * Is an attempt of the saga still to be recorded, because another transaction was
 * writing the saga?  Until then it is not handed out, nor undone.
 */
bool
saga_interrupted_withholds(const pg_uuid_t *id)
{
	for (int i = 0; i < withheld_count; i++)
	{
		if (saga_ids_equal(&withheld[i], id))
			return true;
	}
	return false;
}

/* An executor has ended, or nothing remembered is to be relied on. */
void
saga_interrupted_look_again(void)
{
	look_again = true;
}
