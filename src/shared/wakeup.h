/*-------------------------------------------------------------------------
 *
 * wakeup.h
 *	  Waking processes that have work to do or wait for a saga, after commit.
 *
 *-------------------------------------------------------------------------
 */
#ifndef SAGA_WAKEUP_H
#define SAGA_WAKEUP_H

#include "datatype/timestamp.h"
#include "utils/uuid.h"

#include "shared/shmem.h"

extern void saga_wakeup_register(void);

/* Noted inside a transaction; take effect when it commits. */
extern void saga_wakeup_due(TimestampTz due);
extern void saga_wakeup_hand_over(const SagaTicket *ticket, Oid lane);
extern void saga_wakeup_state(const pg_uuid_t *id);

/* Make the launcher look whether the extension is in the current database. */
extern void saga_wakeup_launcher(void);
extern void saga_wakeup_all_waiting(void);
extern void saga_wakeup_databases(void);

/* At once: something is due in a database (known to be committed). */
extern void saga_wakeup_post(SagaDatabaseSlot *slot, TimestampTz due);

/*
 * The worker's side: "look" before the snapshot with which it looks for due
 * work, "arm" with the earliest due time it saw before it sleeps.  Returns
 * until when to sleep: perhaps earlier, because something was committed in the
 * meantime; DT_NOEND for as long as nobody sets the latch.
 */
extern TimestampTz saga_wakeup_look(SagaDatabaseSlot *slot);
extern TimestampTz saga_wakeup_arm(SagaDatabaseSlot *slot, TimestampTz due);

/*
 * Waiting for a saga's state.  After "begin" no change is missed: look at the
 * saga, then sleep, then look again; "end" in any case.
 */
extern void saga_wakeup_wait_begin(const pg_uuid_t *id);
extern void saga_wakeup_wait_sleep(const pg_uuid_t *id, long timeout_ms);
extern void saga_wakeup_wait_end(void);

/* The end of a transaction: commit.c. */
extern void saga_wakeup_prepared(void);
extern void saga_wakeup_end_transaction(bool committed);

#endif							/* SAGA_WAKEUP_H */
