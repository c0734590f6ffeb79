/*-------------------------------------------------------------------------
 *
 * saga_uuid.h
 *	  Time-ordered UUIDs, version 7 (RFC 9562).
 *
 *-------------------------------------------------------------------------
 */
#ifndef SAGA_UUID_H
#define SAGA_UUID_H

#include "utils/uuid.h"

extern void saga_uuid_generate(pg_uuid_t *uuid);

#endif							/* SAGA_UUID_H */
