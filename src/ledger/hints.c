/*-------------------------------------------------------------------------
 *
 * hints.c
 *	  Where this process saw rows.
 *
 * Finding a row by its key costs as much as writing it.  An application that
 * records a saga calls for the same rows time and again in one session, so the
 * session remembers where they begin: the root of the versions of a row that
 * were updated in place (HOT), which is where index entries lead, too.
 *
 * This is a guess and no more.  The transaction that put the row there may
 * have been rolled back, the row may have moved to another page or have been
 * purged, the place may be another row's by now, or past the end of the table.
 * The caller must check that it is the row; if it is not, the index knows.  So
 * nothing needs to be forgotten, and two rows of one hash only hide each
 * other.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/htup_details.h"
#include "ledger/hints.h"

StaticAssertDecl((SAGA_HINTS_SIZE & (SAGA_HINTS_SIZE - 1)) == 0,
				 "the number of places must be a power of 2");

/*
 * The version of a row that was found, or written.  Of one that was updated in
 * place it is not known where it begins; what was noted before still holds.
 */
void
saga_hints_note(SagaHints *hints, uint64 hash, HeapTuple tuple)
{
	int			i = hash & (SAGA_HINTS_SIZE - 1);

	if (HeapTupleIsHeapOnly(tuple))
		return;
	hints->entry[i].hash = hash;
	hints->entry[i].root = tuple->t_self;
}

bool
saga_hints_get(const SagaHints *hints, uint64 hash, ItemPointer root)
{
	int			i = hash & (SAGA_HINTS_SIZE - 1);

	*root = hints->entry[i].root;
	return hints->entry[i].hash == hash && ItemPointerIsValid(root);
}
