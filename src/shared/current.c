/*-------------------------------------------------------------------------
 *
 * current.c
 *	  The saga whose SQL this process runs.
 *
 * Set by an executor around a compensation, and NULL in every other process
 * and at every other time.  The calls ask, to refuse what a compensation may
 * not do: to call saga on its own saga, or to make saga's processes leave the
 * database.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "shared/current.h"

static pg_uuid_t current;
static bool is_set = false;

/* NULL: none any more */
void
saga_current_set(const pg_uuid_t *saga)
{
	is_set = saga != NULL;
	if (is_set)
		current = *saga;
}

/* The saga, until it is set again; NULL if there is none. */
const pg_uuid_t *
saga_current(void)
{
	return is_set ? &current : NULL;
}
