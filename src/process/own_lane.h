/*-------------------------------------------------------------------------
 *
 * own_lane.h
 *	  The worker's own lane: sagas and steps that are due and need no role.
 *
 *-------------------------------------------------------------------------
 */
#ifndef SAGA_OWN_LANE_H
#define SAGA_OWN_LANE_H

#include "datatype/timestamp.h"
#include "utils/palloc.h"

extern TimestampTz saga_own_lane_turn(MemoryContext turn_context, bool *away);
extern bool saga_own_lane_may_begin_anew(void);
extern void saga_own_lane_read_again(void);
extern void saga_own_lane_rewind(void);
extern void saga_own_lane_forget_pauses(void);
extern void saga_own_lane_posted(TimestampTz posted);

#endif							/* SAGA_OWN_LANE_H */
