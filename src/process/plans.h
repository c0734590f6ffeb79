/*-------------------------------------------------------------------------
 *
 * plans.h
 *	  The plans that an executor keeps, and when they may be used again.
 *
 *-------------------------------------------------------------------------
 */
#ifndef SAGA_KEPT_H
#define SAGA_KEPT_H

#include "executor/spi.h"

/* The plans of a compensation's text, one per statement. */
typedef struct SagaKept
{
	int			count;
	SPIPlanPtr *plans;
	bool	   *takes_context;	/* does it take $1? */
} SagaKept;

extern void saga_kept_init(void);
extern const SagaKept *saga_kept_find(const char *sql, const char *search_path);
extern void saga_kept_keep(const char *sql, const char *search_path, int count,
						   SPIPlanPtr *plans, const bool *takes_context);
extern void saga_kept_use_settings(const char *settings);
extern void saga_kept_end(void);

#endif							/* SAGA_KEPT_H */
