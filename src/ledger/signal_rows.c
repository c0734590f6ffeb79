/*-------------------------------------------------------------------------
 *
 * signal_rows.c
 *	  Rows of ledger_signal.
 *
 * A signal is inserted by its sender, which has no lock on the saga and writes no
 * row of it: senders meet only where they send the same key.  It is replaced by the
 * look that lets a step use it (flow/inbox.c), and perhaps once more when its saga
 * is redacted.  Of two looks that let steps use the same signal, the second finds it
 * changed, and is made again.
 *
 * The unused signals of a saga are found by an index of their own.  What was used
 * leaves it, so that a long history of signals makes a look no longer.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/genam.h"
#include "access/table.h"
#include "ledger/keys.h"
#include "ledger/ledger.h"
#include "ledger/oids.h"
#include "utils/fmgroids.h"
#include "utils/rel.h"
#include "utils/snapmgr.h"

/* Columns of the indexes, where they are not those of the table */
enum
{
	Unused_saga = 1, Unused_name, Unused_seq
};

enum
{
	By_key_key = 1, By_key_name, By_key_saga
};

static void
fill_unused(SagaSparseIndex *sparse)
{
	sparse->index = saga_oids_get()->signal_unused;
	sparse->column = Signal_used_by;
	sparse->of_nulls = true;
}

/*
 * Inserts a new signal.  Returns false if one with its key may have been sent:
 * the caller looks again.
 */
bool
saga_ledger_insert_signal(SagaSignal *signal)
{
	Relation	heap = table_open(saga_oids_get()->signal, RowExclusiveLock);
	Datum		values[Signal_natts];
	bool		nulls[Signal_natts];
	SagaSparseIndex unused;
	bool		inserted;

	saga_rows_pack_signal(signal, values, nulls);
	fill_unused(&unused);
	inserted = saga_table_insert(heap, NULL, values, nulls,
								 saga_oids_get()->signal_by_key, &unused,
								 &signal->version);
	table_close(heap, NoLock);
	return inserted;
}

/* Writes a signal's row back. */
SagaWritten
saga_ledger_update_signal(SagaSignal *signal, SagaPatience patience)
{
	Relation	heap = table_open(saga_oids_get()->signal, RowExclusiveLock);
	Datum		values[Signal_natts];
	bool		nulls[Signal_natts];
	SagaSparseIndex unused;
	SagaWritten written;

	saga_rows_pack_signal(signal, values, nulls);
	fill_unused(&unused);
	written = saga_table_update(heap, NULL, &signal->version, values, nulls,
								saga_oids_get()->signal_by_key, &unused,
								patience);
	table_close(heap, NoLock);
	return written;
}

/*
 * The signal that was sent to a saga under a key.  Waits for a transaction that
 * is sending it.
 */
SagaFound
saga_ledger_get_signal_by_key(const pg_uuid_t *id, text *name, text *key,
							  SagaSignal *signal)
{
	Relation	heap = table_open(saga_oids_get()->signal, RowExclusiveLock);
	Relation	index = index_open(saga_oids_get()->signal_by_key, AccessShareLock);
	ScanKeyData keys[3];
	SagaTuple	version;
	SagaFound	found;

	saga_keys_text(&keys[0], By_key_key, key);
	saga_keys_text(&keys[1], By_key_name, name);
	saga_keys_uuid(&keys[2], By_key_saga, id);
	found = saga_table_find_settled(heap, index, keys, 3, true, &version);
	if (found == SAGA_FOUND)
		saga_rows_unpack_signal(RelationGetDescr(heap), &version, signal);
	index_close(index, NoLock);
	table_close(heap, NoLock);
	return found;
}

/* Reads the signals that the keys lead to, in the order of the index. */
static int
read_signals(Oid index_id, ScanKey keys, int nkeys, int limit,
			 SagaSignal **signals)
{
	Relation	heap = table_open(saga_oids_get()->signal, RowExclusiveLock);
	Relation	index = index_open(index_id, AccessShareLock);
	SagaTuple  *found;
	int			count = saga_table_find_some(heap, index, keys, nkeys, false,
											 limit, &found);

	*signals = palloc(Max(count, 1) * sizeof(SagaSignal));
	for (int i = 0; i < count; i++)
		saga_rows_unpack_signal(RelationGetDescr(heap), &found[i], &(*signals)[i]);
	index_close(index, NoLock);
	table_close(heap, NoLock);
	return count;
}

/* All signals of a saga, in the order of their arrival; returns how many. */
int
saga_ledger_get_signals(const pg_uuid_t *id, SagaSignal **signals)
{
	ScanKeyData key;

	saga_keys_uuid(&key, Signal_saga, id);
	return read_signals(saga_oids_get()->signal_pkey, &key, 1, INT_MAX, signals);
}

/*
 * Unused signals of a saga, as committed now, at most "limit"; returns how many.
 * Those of a name with a seq larger than "after", in the order of their arrival; or
 * (NULL) those of all names, name by name.
 */
int
saga_ledger_get_unused_signals(const pg_uuid_t *id, const text *name,
							   int64 after, int limit, SagaSignal **signals)
{
	ScanKeyData keys[3];
	int			nkeys = 0;

	saga_keys_uuid(&keys[nkeys++], Unused_saga, id);
	if (name != NULL)
	{
		saga_keys_text(&keys[nkeys++], Unused_name, name);
		ScanKeyInit(&keys[nkeys++], Unused_seq, BTGreaterStrategyNumber,
					F_INT8GT, Int64GetDatum(after));
	}
	return read_signals(saga_oids_get()->signal_unused, keys, nkeys, limit,
						signals);
}

/* Is there an unused signal of a name, for a snapshot? */
bool
saga_ledger_has_unused_signal(const pg_uuid_t *id, const text *name,
							  Snapshot snapshot)
{
	ScanKeyData keys[2];
	Datum		values[Signal_natts];
	bool		nulls[Signal_natts];

	/* Such a scan takes the columns of the table. */
	saga_keys_uuid(&keys[0], Signal_saga, id);
	saga_keys_text(&keys[1], Signal_name, name);
	return saga_table_first(saga_oids_get()->signal,
							saga_oids_get()->signal_unused, snapshot, keys, 2,
							values, nulls);
}

/* How many signals a saga has, counted up to "limit", with those being sent. */
int
saga_ledger_count_signals(const pg_uuid_t *id, int limit)
{
	ScanKeyData key;

	saga_keys_uuid(&key, Signal_saga, id);
	return saga_table_count(saga_oids_get()->signal, saga_oids_get()->signal_pkey,
							&key, Signal_seq, limit);
}
