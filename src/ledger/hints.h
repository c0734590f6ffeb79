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

/* Rows of one table that are remembered at a time; a power of 2. */
#define SAGA_HINTS_SIZE	64

typedef struct SagaPlaces
{
	struct
	{
		uint64		hash;		/* of what identifies the row */
		ItemPointerData root;	/* invalid: no entry */
	}			entry[SAGA_HINTS_SIZE];
} SagaPlaces;

extern void saga_hints_note(SagaPlaces *places, uint64 hash, HeapTuple tuple);
extern bool saga_hints_get(const SagaPlaces *places, uint64 hash,
						   ItemPointer root);

#endif							/* SAGA_HINTS_H */
