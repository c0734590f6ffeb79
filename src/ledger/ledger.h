/*-------------------------------------------------------------------------
 *
 * ledger.h
 *	  The ledger: typed rows in, typed rows out.
 *
 * A row that was found carries the version it came from; its texts and jsonb
 * point into that copy, which lives in the context current at the call, and
 * may still be compressed or stored out of line.  To write a row back, change
 * the fields after "mutable from here on" and call the update.
 *
 * Eleven tables.  ledger_saga, ledger_step (a row per run), ledger_attempt,
 * ledger_event and ledger_signal hold the facts.  Three repeat what the rows of sagas
 * and steps say, so that the views and processes find what is open without reading
 * what is finished: ledger_due (what is due of sagas, and of steps that saga runs; and
 * rows that ask for a look), ledger_queue (steps that wait for a service to claim
 * them) and ledger_held (sagas and steps that wait for a person).  ledger_limit and
 * ledger_claimed hold the limits of those who claim, and what is claimed under them.
 * ledger_home says where the ledger is at home.  The rows of sagas and steps alone
 * record the happy path; saga.attempts and saga.events derive it.
 *
 * No column that changes is indexed, and pages keep some room, so an update on
 * the happy path stays on its page (HOT).  Before a new row turns from a full
 * page, table.c prunes that page, and then takes a page that a purge left half
 * empty, or a new one: new rows do not return to old pages for a little room.
 * All indexes but those by key, by due time and by channel lead with the saga's
 * id, so history grows and the cost of a call does not.
 *
 *-------------------------------------------------------------------------
 */
#ifndef SAGA_LEDGER_H
#define SAGA_LEDGER_H

#include "storage/lock.h"
#include "utils/snapshot.h"

#include "ledger/rows.h"

/*
 * The lock that serializes recording and ending steps with the end of their saga:
 * saga_rows.c
 */
typedef enum SagaLocked
{
	SAGA_NOT_LOCKED,			/* it cannot be had at once; SAGA_NOWAIT only */
	SAGA_LOCKED,
	SAGA_LOCKED_BEFORE			/* this transaction held it in that mode */
} SagaLocked;

extern SagaLocked saga_ledger_lock(const pg_uuid_t *id, LOCKMODE mode,
								   SagaPatience patience);
extern void saga_ledger_unlock(const pg_uuid_t *id, LOCKMODE mode);
extern bool saga_ledger_let_others_in(const pg_uuid_t *id);
extern void saga_ledger_locktag(const pg_uuid_t *id, LOCKTAG *tag);

/* Sagas: saga_rows.c */
extern SagaFound saga_ledger_get_saga(const pg_uuid_t *id, SagaRow *row);
extern SagaFound saga_ledger_reread_saga(SagaRow *row, SagaPatience patience);
extern SagaFound saga_ledger_get_saga_by_key(Oid owner, text *name, text *key,
											 bool sure, SagaRow *row);
extern SagaFound saga_ledger_get_saga_by_owner_name(text *owner_name,
													text *name, text *key,
													SagaRow *row);
extern bool saga_ledger_owner_of(const pg_uuid_t *id, Oid *owner,
								 text **owner_name);
extern TransactionId saga_ledger_writer_of(const pg_uuid_t *id);
extern int64 saga_ledger_count_open(Oid owner);
extern bool saga_ledger_insert_saga(SagaRow *row);
extern bool saga_ledger_begun_here(const SagaRow *row);
extern bool saga_ledger_runs_to_others(const SagaRow *row);
extern SagaWritten saga_ledger_update_saga(SagaRow *row, SagaPatience patience);

/* Steps: step_rows.c */
extern SagaFound saga_ledger_get_step(const pg_uuid_t *id, text *key,
									  bool sure, SagaStep *step);
extern SagaFound saga_ledger_get_queued_step(const SagaQueued *queued,
											 SagaStep *step);
extern void saga_ledger_get_steps(const pg_uuid_t *id, SagaSteps *steps);
extern bool saga_ledger_get_few_steps(const pg_uuid_t *id, int limit,
									  SagaSteps *steps);
extern void saga_ledger_get_steps_at(const pg_uuid_t *id, Snapshot snapshot,
									 SagaSteps *steps);
extern bool saga_ledger_get_few_steps_now(const pg_uuid_t *id, int limit,
										  SagaSteps *steps);
extern void saga_ledger_get_steps_now(const pg_uuid_t *id, SagaSteps *steps);
extern bool saga_ledger_has_step(const pg_uuid_t *id, int64 seq);
extern bool saga_ledger_is_own_attempt(const SagaStep *step);
extern SagaFound saga_ledger_get_due_step(const SagaDue *due, SagaStep *step);
extern SagaFound saga_ledger_get_task(const pg_uuid_t *id, int64 seq,
									  SagaStep *step);
extern SagaFound saga_ledger_get_run(const pg_uuid_t *id, const char *key,
									 int run, SagaStep *step);
extern SagaFound saga_ledger_get_newest_run(const pg_uuid_t *id,
											const char *key, SagaStep *step);
extern SagaWritten saga_ledger_lock_step(SagaStep *step,
										 SagaPatience patience);
extern int64 saga_ledger_largest_seq(const pg_uuid_t *id);
extern bool saga_ledger_insert_step(const SagaRow *saga, SagaStep *step);
extern SagaWritten saga_ledger_update_step(const SagaRow *saga, SagaStep *step,
										   SagaPatience patience);

extern int	saga_ledger_count_steps(const pg_uuid_t *id, int limit);

/* Attempts and events: history.c */
extern void saga_ledger_insert_attempt(SagaAttempt *attempt);
extern int	saga_ledger_get_attempts_at(const pg_uuid_t *id, Snapshot snapshot,
										SagaAttempt **attempts);
extern bool saga_ledger_has_attempt(const SagaStep *step, TimestampTz started_at);
extern void saga_ledger_insert_event(const pg_uuid_t *id, const char *event,
									 int64 seq, Jsonb *detail,
									 TimestampTz now);
extern void saga_ledger_delete_events_of_none(TimestampTz before,
											  const char *actor);

extern bool saga_ledger_repeats_error(const pg_uuid_t *id, int64 seq,
									  const char *what);
extern void saga_ledger_forget_errors(const pg_uuid_t *id);
extern bool saga_ledger_has_event(const pg_uuid_t *id, int64 seq,
								  const char *event);
extern bool saga_ledger_last_decision(const pg_uuid_t *id, int64 seq,
									  SagaEvent *found);

/* Due work: due.c.  The order is (lane, due, saga, seq). */
extern bool saga_ledger_next_due(const SagaDue *after, bool in_lane,
								 SagaDue *found);
extern SagaFound saga_ledger_find_due(Oid lane, TimestampTz due,
									  const pg_uuid_t *id, int64 seq,
									  SagaDue *found);
extern void saga_ledger_insert_look(const pg_uuid_t *id, int64 seq,
									TimestampTz due);
extern bool saga_ledger_delete_due(const SagaDue *row);

/* Signals: signal_rows.c */
extern bool saga_ledger_insert_signal(SagaSignal *signal);
extern SagaFound saga_ledger_get_signal_by_key(const pg_uuid_t *id, text *name,
											   text *key, SagaSignal *signal);
extern int	saga_ledger_get_signals(const pg_uuid_t *id, SagaSignal **signals);
extern int	saga_ledger_get_unused_signals(const pg_uuid_t *id, const text *name,
										   int64 after, int limit,
										   SagaSignal **signals);
extern bool saga_ledger_has_unused_signal(const pg_uuid_t *id, const text *name,
										  Snapshot snapshot);
extern int	saga_ledger_count_signals(const pg_uuid_t *id, int limit);
extern SagaWritten saga_ledger_update_signal(SagaSignal *signal,
											 SagaPatience patience);

/*
 * What waits for services: queue.c.  There is a queue for each owner, channel and
 * phase.
 */
extern bool saga_ledger_next_channel(SagaQueued *queue);
extern bool saga_ledger_next_owner(SagaQueued *queue);
extern int	saga_ledger_first_queued(const SagaQueued *queue, uint64 look,
									 Snapshot snapshot, SagaQueued *rows,
									 int max);
extern int	saga_ledger_next_queued(const SagaQueued *after, Snapshot snapshot,
									SagaQueued *rows, int max);

/* Limits of claims: limit_rows.c */
extern void saga_ledger_lock_limit(const SagaLimit *limit);
extern void saga_ledger_unlock_limit(const SagaLimit *limit);
extern bool saga_ledger_get_limit(SagaLimit *limit);
extern TimestampTz saga_ledger_paused_until(text *channel, Oid owner, Snapshot snapshot,
											char **role);
extern void saga_ledger_set_limit(const SagaLimit *limit);
extern int	saga_ledger_count_claimed(const SagaLimit *limit);
extern void saga_ledger_insert_claimed(const SagaLimit *limit,
									   const SagaStep *step);

/*
 * Among these files: what follows from a row of a saga or a step that was just
 * written.
 */
extern void saga_ledger_follow_saga(SagaRow *row, bool failed);
extern void saga_ledger_follow_step(SagaStep *step);
extern void saga_ledger_forget_step(const SagaStep *step);
extern void saga_ledger_follow_queue(const SagaRow *saga, SagaStep *step);

#endif							/* SAGA_LEDGER_H */
