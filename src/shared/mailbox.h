/*-------------------------------------------------------------------------
 *
 * mailbox.h
 *	  The tickets that executors are handed, and what they say of them.
 *
 *-------------------------------------------------------------------------
 */
#ifndef SAGA_MAILBOX_H
#define SAGA_MAILBOX_H

#include "miscadmin.h"
#include "shared/shmem.h"

/* The executors that a role has in the current database. */
typedef struct SagaMailboxLane
{
	int			count;
	int			idle;			/* with nothing in hand */
	int			waiting;		/* tickets in their mailboxes */
	int			room;			/* how many more those that run low can take */
} SagaMailboxLane;

/* SQL of a step that runs in the current database. */
typedef struct SagaRunning
{
	pg_uuid_t	saga;
	SagaPhase	phase;
	int64		seq;
	int			attempt;
	int			pid;
	Oid			role;
	TimestampTz since;
} SagaRunning;

/* The caller holds the slot's mutex, or all that could change it. */
static inline uint32
saga_mailbox_count(const SagaExecutorSlot *slot)
{
	return slot->tail - slot->head;
}

/*
 * Is the slot one of the role's (InvalidOid: anybody's) in the current
 * database?  The caller holds "lock".
 */
static inline bool
saga_mailbox_is_of(const SagaExecutorSlot *slot, Oid role)
{
	return slot->database == MyDatabaseId &&
		(!OidIsValid(role) || slot->role == role);
}

/* Giving and taking slots */
extern void saga_mailbox_init(SagaExecutorSlot *slot, TimestampTz now);
extern bool saga_mailbox_empty(SagaExecutorSlot *slot);
extern void saga_mailbox_close(SagaExecutorSlot *slot);
extern bool saga_mailbox_is_idle(SagaExecutorSlot *slot);

/* For a transaction that made something due, when it is committed */
extern void saga_mailbox_hand_over(SagaDatabaseSlot *database, Oid role,
								   const SagaTicket *ticket);

/* The worker's side */
extern int	saga_mailbox_compare(const void *a, const void *b);
extern int	saga_mailbox_in_hand(Oid role, SagaTicket **tickets);
extern bool saga_mailbox_pass_by(Oid role, const SagaTicket *ticket);
extern uint32 saga_mailbox_collect_skipped(Oid role, bool *given_back);
extern void saga_mailbox_lane(Oid role, SagaMailboxLane *lane);
extern bool saga_mailbox_put(Oid role, const SagaTicket *ticket);
extern bool saga_mailbox_ask_refill(Oid role);
extern bool saga_mailbox_has_work(Oid database);

/* For sessions */
extern bool saga_mailbox_is_running(const pg_uuid_t *id, SagaPhase phase,
									int64 seq, SagaRunning *found);
extern int	saga_mailbox_running(SagaRunning *running);
extern int	saga_mailbox_actions(SagaRunning *running);

/* The executor's side */
extern void saga_mailbox_attach(SagaExecutorSlot *slot);
extern bool saga_mailbox_take(SagaTicket *ticket, bool *handed_over);
extern bool saga_mailbox_has_more(void);
extern bool saga_mailbox_has_more_of(const pg_uuid_t *id);
extern bool saga_mailbox_let_others_in(bool *full);
extern void saga_mailbox_next(const SagaTicket *ticket);
extern void saga_mailbox_look(void);
extern void saga_mailbox_done(bool skipped);
extern void saga_mailbox_set_step(SagaPhase phase, int64 seq, int attempt,
								  TimestampTz started_at);

#endif							/* SAGA_MAILBOX_H */
