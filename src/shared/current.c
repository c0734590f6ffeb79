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

#include "base/ids.h"
#include "shared/current.h"

static pg_uuid_t current;
static SagaPhase current_phase;
static int64 current_seq;
static bool is_set = false;

void
saga_current_set(const pg_uuid_t *saga, SagaPhase phase, int64 seq)
{
	is_set = true;
	current = *saga;
	current_phase = phase;
	current_seq = seq;
}

/* There is none any more. */
void
saga_current_clear(void)
{
	is_set = false;
}

/* What runs, in words */
const char *
saga_current_word(void)
{
	return current_phase == SAGA_PHASE_FORWARD ? "action" : "compensation";
}

/* The same, with its article */
const char *
saga_current_one(void)
{
	return current_phase == SAGA_PHASE_FORWARD ? "an action" : "a compensation";
}

/*
 * The step of that saga whose action this process runs; 0: none, or another
 * saga's.
 */
int64
saga_current_action(const pg_uuid_t *saga)
{
	return is_set && current_phase == SAGA_PHASE_FORWARD &&
		saga_ids_equal(&current, saga) ? current_seq : 0;
}

/* The saga, until it is set again; NULL if there is none. */
const pg_uuid_t *
saga_current(void)
{
	return is_set ? &current : NULL;
}
