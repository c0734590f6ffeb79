/*-------------------------------------------------------------------------
 *
 * policies.h
 *	  Retry policies as SQL has them.
 *
 *-------------------------------------------------------------------------
 */
#ifndef SAGA_POLICIES_H
#define SAGA_POLICIES_H

#include "base/policy.h"
#include "fmgr.h"

extern void saga_policies_get(FunctionCallInfo fcinfo, int arg,
							  SagaPolicy *policy);
extern void saga_policies_replace(FunctionCallInfo fcinfo, int arg,
								  SagaPolicy *policy);

#endif							/* SAGA_POLICIES_H */
