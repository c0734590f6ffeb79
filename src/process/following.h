/*-------------------------------------------------------------------------
 *
 * following.h
 *	  Going on along a saga with many steps without reading them all.
 *
 *-------------------------------------------------------------------------
 */
#ifndef SAGA_FOLLOWING_H
#define SAGA_FOLLOWING_H

#include "ledger/rows.h"
#include "nodes/pg_list.h"

extern void saga_following_begin(void);
extern void saga_following_committed(void);
extern bool saga_following_ready(SagaRow *saga, const SagaDue *due,
								 bool *alone);
extern bool saga_following_opens(const SagaRow *saga, const SagaStep *step,
								 List **opens, bool *all);
extern void saga_following_written(const pg_uuid_t *saga);
extern bool saga_following_inputs(const SagaRow *saga, int64 seq,
								  List **keys);

#endif							/* SAGA_FOLLOWING_H */
