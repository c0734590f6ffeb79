/*-------------------------------------------------------------------------
 *
 * stat.h
 *	  Cumulative counters, and what the current transaction adds to them.
 *
 *-------------------------------------------------------------------------
 */
#ifndef SAGA_STAT_H
#define SAGA_STAT_H

#include "base/state.h"
#include "shared/stat_table.h"

/* What the counters are of, in their order; upper bounds of buckets (ms) */
extern const SagaPhase saga_stat_phases[SAGA_STAT_PHASES];
extern const SagaOutcome saga_stat_outcomes[SAGA_STAT_OUTCOMES];
extern const double saga_stat_bounds[SAGA_STAT_BOUNDS];

/*
 * Counted when the current transaction commits.  Times are in microseconds; the
 * clock may have been set back, and then they are 0.
 */
extern void saga_stat_saga(Oid owner, const text *name, SagaStatSaga counter);
extern void saga_stat_channel(Oid owner, const text *channel,
							  SagaStatChannel counter);
extern void saga_stat_attempt(SagaPhase phase, SagaOutcome outcome, int64 time);
extern void saga_stat_time(SagaStatTime what, int64 time);

/* Counted at once */
extern void saga_stat_process(SagaStatProcess counter, int64 count);

/* The end of a transaction, or of a savepoint: commit.c. */
extern void saga_stat_prepared(uint64 gid);
extern void saga_stat_finish_prepared(uint64 gid, bool committed);
extern void saga_stat_end_transaction(bool committed);
extern void saga_stat_end_savepoint(bool committed);

#endif							/* SAGA_STAT_H */
