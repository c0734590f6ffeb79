/*-------------------------------------------------------------------------
 *
 * errors.h
 *	  The SQLSTATEs of class SG, as the reference documents them.
 *
 * Of saga's own calls, only saga.require raises SG006, and none raises SG007.  An
 * action or compensation raises them (RAISE ... USING ERRCODE = 'SG007') to say
 * what the executor is to do next.
 *
 *-------------------------------------------------------------------------
 */
#ifndef SAGA_ERRORS_H
#define SAGA_ERRORS_H

#include "utils/elog.h"

#define ERRCODE_SAGA_NOT_FOUND				MAKE_SQLSTATE('S','G','0','0','1')
#define ERRCODE_SAGA_INVALID_STATE			MAKE_SQLSTATE('S','G','0','0','2')
#define ERRCODE_SAGA_IDEMPOTENCY_CONFLICT	MAKE_SQLSTATE('S','G','0','0','3')
#define ERRCODE_SAGA_STEP_NOT_FOUND			MAKE_SQLSTATE('S','G','0','0','4')
#define ERRCODE_SAGA_FAILING				MAKE_SQLSTATE('S','G','0','0','5')
#define ERRCODE_SAGA_DO_NOT_RETRY			MAKE_SQLSTATE('S','G','0','0','6')
#define ERRCODE_SAGA_RETRY_LATER			MAKE_SQLSTATE('S','G','0','0','7')
#define ERRCODE_SAGA_UNAVAILABLE			MAKE_SQLSTATE('S','G','0','0','8')
#define ERRCODE_SAGA_LIMIT_EXCEEDED			MAKE_SQLSTATE('S','G','0','0','9')
#define ERRCODE_SAGA_PERMISSION_DENIED		MAKE_SQLSTATE('S','G','0','1','0')

#endif							/* SAGA_ERRORS_H */
