/*-------------------------------------------------------------------------
 *
 * start_order.h
 *	  The start order of steps.
 *
 *-------------------------------------------------------------------------
 */
#ifndef SAGA_START_ORDER_H
#define SAGA_START_ORDER_H

#include "utils/uuid.h"

extern int64 saga_start_order_next(const pg_uuid_t *id);
extern void saga_start_order_look(void);

#endif							/* SAGA_START_ORDER_H */
