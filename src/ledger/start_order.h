/*-------------------------------------------------------------------------
 *
 * start_order.h
 *	  The start order of steps.
 *
 *-------------------------------------------------------------------------
 */
#ifndef SAGA_ORDER_H
#define SAGA_ORDER_H

#include "utils/uuid.h"

extern int64 saga_order_next(const pg_uuid_t *id);

#endif							/* SAGA_ORDER_H */
