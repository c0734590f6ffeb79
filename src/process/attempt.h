/*-------------------------------------------------------------------------
 *
 * attempt.h
 *	  One attempt of a compensation; and what follows the failure of any attempt.
 *
 *-------------------------------------------------------------------------
 */
#ifndef SAGA_ATTEMPT_H
#define SAGA_ATTEMPT_H

#include "process/in_hand.h"

extern void saga_attempt_init(Oid role);
extern void saga_attempt_take(const SagaTicket *ticket, bool handed_over);
extern SagaWalkOn saga_attempt_run(bool alone);
extern int64 saga_attempt_alone_ms(void);
extern bool saga_attempt_in_trouble(void);
extern void saga_attempt_put_down(void);

/* The end of the process */
extern void saga_attempt_at_exit(int code);
extern void saga_attempt_at_stop(void);

#endif							/* SAGA_ATTEMPT_H */
