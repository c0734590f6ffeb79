/*-------------------------------------------------------------------------
 *
 * role_lanes.h
 *	  Handing due sagas and steps to the executors of the roles that run their SQL.
 *
 *-------------------------------------------------------------------------
 */
#ifndef SAGA_ROLE_LANES_H
#define SAGA_ROLE_LANES_H

#include "datatype/timestamp.h"

extern void saga_role_lanes_read_again(void);
extern void saga_role_lanes_forget_pauses(void);
extern void saga_role_lanes_posted(TimestampTz due);
extern TimestampTz saga_role_lanes_turn(TimestampTz now);

#endif							/* SAGA_ROLE_LANES_H */
