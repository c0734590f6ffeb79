/*-------------------------------------------------------------------------
 *
 * inbox.h
 *	  The unused signals of a saga, as one look takes them for its steps.
 *
 *-------------------------------------------------------------------------
 */
#ifndef SAGA_INBOX_H
#define SAGA_INBOX_H

#include "flow/change.h"

extern bool saga_inbox_take(SagaChange *change, SagaStep *step);
extern void saga_inbox_give_back(SagaChange *change);
extern void saga_inbox_return(SagaChange *change, const List *steps);

#endif							/* SAGA_INBOX_H */
