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

extern void saga_current_set(const pg_uuid_t *saga);
extern const pg_uuid_t *saga_current(void);

#endif							/* SAGA_CURRENT_H */
