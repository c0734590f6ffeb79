/*-------------------------------------------------------------------------
 *
 * step_writes.c
 *	  Has a step of a saga been written since?
 *
 * An executor that goes along a chain of steps keeps in memory what it knows of
 * the saga (process/following.c), as long as nobody else writes a step of it.
 * A transaction that writes one counts that here, before it commits.
 *
 * While a saga is running, the transactions that write steps of it hold its lock
 * at least shared until they end, at the latest from their last such write on.
 * So a process that holds that lock exclusively and finds the count as it was has
 * missed nothing that is committed: a transaction that ended in between counted in
 * between, and one that goes on must count again before it can end.
 *
 * The counts are few, and sagas share them by their ids: a count that grew says
 * "perhaps".
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "port/atomics.h"
#include "shared/shmem.h"
#include "shared/step_writes.h"

/* Number of counts; a power of 2 */
#define COUNTS	4096

/* NULL unless the library was preloaded */
static pg_atomic_uint32 *counts = NULL;

static void
init_counts(void *part)
{
	pg_atomic_uint32 *all = part;

	for (int i = 0; i < COUNTS; i++)
		pg_atomic_init_u32(&all[i], 0);
}

void
saga_step_writes_register(void)
{
	saga_shmem_register_part("saga step writes",
							 COUNTS * sizeof(pg_atomic_uint32),
							 (void **) &counts, init_counts);
}

/* Ids end in random bits. */
static pg_atomic_uint32 *
count_of(const pg_uuid_t *saga)
{
	uint16		bits;

	memcpy(&bits, saga->data + UUID_LEN - sizeof(bits), sizeof(bits));
	return &counts[bits & (COUNTS - 1)];
}

/* This transaction writes a step of the saga, or is about to. */
void
saga_step_writes_note(const pg_uuid_t *saga)
{
	if (counts != NULL)
		pg_atomic_fetch_add_u32(count_of(saga), 1);
}

uint32
saga_step_writes_get(const pg_uuid_t *saga)
{
	return counts != NULL ? pg_atomic_read_u32(count_of(saga)) : 0;
}
