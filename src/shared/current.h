/*-------------------------------------------------------------------------
 *
 * current.h
 *	  The saga whose SQL this process runs.
 *
 *-------------------------------------------------------------------------
 */
#ifndef SAGA_CURRENT_H
#define SAGA_CURRENT_H

#include "utils/uuid.h"

#include "base/state.h"

extern void saga_current_set(const pg_uuid_t *saga, SagaPhase phase, int64 seq);
extern void saga_current_clear(void);
extern int64 saga_current_action(const pg_uuid_t *saga);
extern void saga_current_ask_for_look(void);
extern bool saga_current_asks_for_look(void);
extern void saga_current_wait_for_others(void);
extern bool saga_current_waits_for_others(void);
extern const char *saga_current_word(void);
extern const char *saga_current_one(void);
extern const pg_uuid_t *saga_current(void);

#endif							/* SAGA_CURRENT_H */
