/*-------------------------------------------------------------------------
 *
 * hints.h
 *	  Where this process saw rows.
 *
 *-------------------------------------------------------------------------
 */
#ifndef SAGA_HINTS_H
#define SAGA_HINTS_H

#include "access/htup.h"
#include "utils/uuid.h"

/* Rows of one table that are remembered at a time; a power of 2. */
#define SAGA_HINTS_SIZE	64

typedef struct SagaHints
{
	struct
	{
		uint64		hash;		/* of what identifies the row */
		ItemPointerData root;	/* invalid: no entry */
	}			entry[SAGA_HINTS_SIZE];
} SagaHints;

/* A hash of an id: ids end in random bits. */
static inline uint64
saga_hints_of_id(const pg_uuid_t *id)
{
	uint64		bits;

	memcpy(&bits, id->data + UUID_LEN - sizeof(bits), sizeof(bits));
	return bits;
}

extern void saga_hints_note(SagaHints *hints, uint64 hash, HeapTuple tuple);
extern bool saga_hints_get(const SagaHints *hints, uint64 hash,
						   ItemPointer root);

#endif							/* SAGA_HINTS_H */
