/*-------------------------------------------------------------------------
 *
 * citus.h
 *	  What the catalog of Citus says of this node, where Citus is.
 *
 *-------------------------------------------------------------------------
 */
#ifndef SAGA_CITUS_H
#define SAGA_CITUS_H

#include "utils/snapshot.h"

/* The group of the coordinator, and of a server without Citus */
#define SAGA_CITUS_COORDINATOR		0

extern bool saga_citus_is_here(void);
extern bool saga_citus_is_loaded(void);
extern int32 saga_citus_group(Snapshot snapshot);
extern bool saga_citus_has_clone(int32 group, Snapshot snapshot);
extern bool saga_citus_shards_elsewhere(void);

#endif							/* SAGA_CITUS_H */
