/*-------------------------------------------------------------------------
 *
 * executor.h
 *	  The process that runs one role's SQL: actions and compensations.
 *
 * Its entry point, saga_executor_main, is declared in bgworker.h.
 *
 *-------------------------------------------------------------------------
 */
#ifndef SAGA_EXECUTOR_H
#define SAGA_EXECUTOR_H

#include "process/bgworker.h"

#endif							/* SAGA_EXECUTOR_H */
