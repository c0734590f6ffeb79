/*-------------------------------------------------------------------------
 *
 * worker.h
 *	  A database's worker: what is due, and which process does it.
 *
 * Its entry point, saga_worker_main, is declared in bgworker.h.
 *
 *-------------------------------------------------------------------------
 */
#ifndef SAGA_WORKER_H
#define SAGA_WORKER_H

#include "process/bgworker.h"

#endif							/* SAGA_WORKER_H */
