/*-------------------------------------------------------------------------
 *
 * plans.h
 *	  The plans that an executor keeps, and when they may be used again.
 *
 *-------------------------------------------------------------------------
 */
#ifndef SAGA_PLANS_H
#define SAGA_PLANS_H

#include "executor/spi.h"

/* The plans of a text, one per statement. */
typedef struct SagaKept
{
	int			count;
	SPIPlanPtr *plans;
	bool	   *takes_context;	/* does it take $1? */
} SagaKept;

extern void saga_plans_init(void);
extern const SagaKept *saga_plans_find(const char *sql, const char *search_path,
									   const char *settings);
extern void saga_plans_keep(const char *sql, const char *search_path, int count,
							SPIPlanPtr *plans, const bool *takes_context);
extern void saga_plans_end(void);

#endif							/* SAGA_PLANS_H */
