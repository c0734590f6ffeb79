/*-------------------------------------------------------------------------
 *
 * current.c
 *	  The saga whose SQL this process runs.
 *
 * An executor sets it while an action or a compensation runs; in every other process
 * and at every other time there is none.  Calls ask for it, to refuse what such SQL
 * may not do (most calls on its own saga; making saga's processes leave the
 * database), and to know which action records a step.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "base/ids.h"
#include "shared/current.h"

static pg_uuid_t current;
static SagaPhase current_phase;
static int64 current_seq;
static bool current_asks;
static bool current_waits;
static bool is_set = false;

void
saga_current_set(const pg_uuid_t *saga, SagaPhase phase, int64 seq)
{
	is_set = true;
	current = *saga;
	current_phase = phase;
	current_seq = seq;
	current_asks = current_waits = false;
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

/*
 * What the action did needs a look at its own saga, also if this round is not the
 * last.
 */
void
saga_current_ask_for_look(void)
{
	current_asks = true;
}

/* Does it need a look? */
bool
saga_current_asks_for_look(void)
{
	return current_asks;
}

/*
 * A step that the action recorded waits for one that it did not record, and that is not
 * done.
 */
void
saga_current_wait_for_others(void)
{
	current_waits = true;
}

/* Is there such a step?  True also if it was rolled back. */
bool
saga_current_waits_for_others(void)
{
	return current_waits;
}

/* The saga, until it is set again; NULL if there is none. */
const pg_uuid_t *
saga_current(void)
{
	return is_set ? &current : NULL;
}
