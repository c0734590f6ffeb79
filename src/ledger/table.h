/*-------------------------------------------------------------------------
 *
 * table.h
 *	  Single rows through the table and index access methods.
 *
 *-------------------------------------------------------------------------
 */
#ifndef SAGA_TABLE_H
#define SAGA_TABLE_H

#include "access/htup.h"
#include "access/sdir.h"
#include "access/skey.h"
#include "access/tupdesc.h"
#include "utils/relcache.h"
#include "utils/snapshot.h"

/* Result of a look-up of a row. */
typedef enum SagaFound
{
	SAGA_FOUND,
	SAGA_MISSING,
	SAGA_BUSY					/* another transaction is writing it */
} SagaFound;

/* Shall a call wait for another transaction that writes the row? */
typedef enum SagaPatience
{
	SAGA_WAIT,					/* as an application does */
	SAGA_NOWAIT					/* as our own processes do */
} SagaPatience;

/* Result of an update. */
typedef enum SagaWritten
{
	SAGA_WRITTEN,
	SAGA_CHANGED,				/* somebody else was first: read again */
	SAGA_WRITE_BUSY				/* only with SAGA_NOWAIT */
} SagaWritten;

/*
 * The newest version of a row.  "writer" is a transaction in progress, not
 * ours, that is replacing the version found or, where nothing was found,
 * inserting the row; invalid if there is none.
 */
typedef struct SagaTuple
{
	HeapTuple	tuple;			/* a copy in the caller's context, or NULL */
	bool		own;			/* written by the current transaction */
	TransactionId writer;
} SagaTuple;

/*
 * An index of ours that has entries only for rows where a column is not null, or
 * only for those where it is null.
 */
typedef struct SagaSparseIndex
{
	Oid			index;
	AttrNumber	column;
	bool		of_nulls;
} SagaSparseIndex;

extern const struct Trigger *saga_table_foreign_trigger(Relation heap);
extern Snapshot saga_table_snapshot(void);
extern bool saga_table_find_at(Relation heap, const ItemPointerData *root,
							   SagaTuple *found);
extern SagaFound saga_table_find(Relation heap, Relation index, ScanKey keys,
								 int nkeys, ScanDirection direction,
								 SagaTuple *found);
extern SagaFound saga_table_find_newest(Relation heap, Relation index,
										ScanKey keys, int nkeys, bool sure,
										SagaTuple *found);
extern int	saga_table_find_all(Relation heap, Relation index, ScanKey keys,
								int nkeys, bool uncommitted, SagaTuple **found);
extern int	saga_table_find_some(Relation heap, Relation index, ScanKey keys,
								 int nkeys, bool uncommitted, int limit,
								 SagaTuple **found);
extern bool saga_table_first(Oid relid, Oid index_relid, Snapshot snapshot,
							 ScanKey keys, int nkeys, Datum *values,
							 bool *nulls);
extern SagaFound saga_table_recheck(Relation heap, SagaTuple *found);
extern SagaFound saga_table_find_settled(Relation heap, Relation index,
										 ScanKey keys, int nkeys, bool sure,
										 SagaTuple *found);
extern int	saga_table_count(Oid table, Oid table_index, ScanKey key,
							 AttrNumber number, int limit);
extern void saga_table_wait(TransactionId writer);

extern bool saga_table_insert(Relation heap, TupleDesc desc, Datum *values,
							  bool *nulls, Oid arbiter,
							  const SagaSparseIndex *sparse, SagaTuple *stored);
extern SagaWritten saga_table_update(Relation heap, TupleDesc desc,
									 SagaTuple *version, Datum *values,
									 bool *nulls, Oid arbiter,
									 const SagaSparseIndex *sparse,
									 SagaPatience patience);
extern SagaWritten saga_table_lock(Relation heap, const SagaTuple *version,
								   SagaPatience patience);
extern void saga_table_delete(Relation heap, const SagaTuple *version);
extern SagaWritten saga_table_try_delete(Relation heap,
										 const SagaTuple *version);

#endif							/* SAGA_TABLE_H */
