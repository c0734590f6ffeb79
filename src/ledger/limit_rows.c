/*-------------------------------------------------------------------------
 *
 * limit_rows.c
 *	  Limits of roles on channels, and what is claimed under them.
 *
 * ledger_limit has a row for each limit that a role has set for itself on a
 * channel.  ledger_claimed has one for each claim that was made under it.  That row
 * only says where to look: whether the claim goes on, the step's own row says.  So
 * the end of a claim, however it comes, costs nothing here, and those who claim under
 * a limit delete the rows of claims that are over.
 *
 * Claims are counted and made under a lock of the limit, which is released as soon as
 * their rows are written: rows of open transactions count, too.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/genam.h"
#include "access/htup_details.h"
#include "access/table.h"
#include "base/fault.h"
#include "base/rights.h"
#include "common/hashfn.h"
#include "ledger/keys.h"
#include "ledger/ledger.h"
#include "ledger/oids.h"
#include "miscadmin.h"
#include "storage/bufmgr.h"
#include "storage/lmgr.h"
#include "utils/builtins.h"
#include "utils/fmgroids.h"
#include "utils/rel.h"
#include "utils/timestamp.h"

/* The class of the advisory locks of limits; see table.c and saga_rows.c. */
#define LIMIT_LOCK	0x5A6C

static uint32
limit_hash(const text *value)
{
	return hash_bytes((const unsigned char *) VARDATA_ANY(value),
					  VARSIZE_ANY_EXHDR(value));
}

static void
limit_tag(const SagaLimit *limit, LOCKTAG *tag)
{
	SET_LOCKTAG_ADVISORY(*tag, MyDatabaseId, limit_hash(limit->channel),
						 limit_hash(limit->role), LIMIT_LOCK);
}

/* Nobody else counts, claims under, or changes the limit until it is unlocked. */
void
saga_ledger_lock_limit(const SagaLimit *limit)
{
	LOCKTAG		tag;

	limit_tag(limit, &tag);
	(void) LockAcquire(&tag, ExclusiveLock, false, false);
}

void
saga_ledger_unlock_limit(const SagaLimit *limit)
{
	LOCKTAG		tag;

	limit_tag(limit, &tag);
	LockRelease(&tag, ExclusiveLock, false);
}

static void
limit_keys(ScanKey keys, const SagaLimit *limit)
{
	saga_keys_text(&keys[0], Limit_channel, limit->channel);
	saga_keys_text(&keys[1], Limit_role, limit->role);
}

/* "sure": as in saga_table_find_newest. */
static SagaFound
find_limit(Relation heap, const SagaLimit *limit, bool sure, SagaTuple *version)
{
	Relation	index = index_open(saga_oids_get()->limit_pkey, AccessShareLock);
	ScanKeyData keys[2];
	SagaFound	found;

	limit_keys(keys, limit);
	found = saga_table_find_newest(heap, index, keys, 2, sure, version);
	index_close(index, NoLock);
	return found;
}

/*
 * Reads the limit that "channel" and "role" name: the newest that is committed, or an
 * own one.  False, and nothing is limited: there is none.
 */
bool
saga_ledger_get_limit(SagaLimit *limit)
{
	Relation	heap = table_open(saga_oids_get()->limit, RowExclusiveLock);
	SagaTuple	version;
	bool		found;

	limit->max_claimed = 0;
	limit->paused_until = 0;
	/* Where nobody sets limits, as most of the time, that is known at once. */
	found = RelationGetNumberOfBlocks(heap) > 0 &&
		find_limit(heap, limit, true, &version) == SAGA_FOUND;
	if (found)
	{
		Datum		values[Limit_natts];
		bool		nulls[Limit_natts];

		heap_deform_tuple(version.tuple, RelationGetDescr(heap), values, nulls);
		limit->max_claimed = nulls[Limit_max_claimed - 1] ? 0 :
			DatumGetInt32(values[Limit_max_claimed - 1]);
		limit->paused_until = nulls[Limit_paused_until - 1] ? 0 :
			DatumGetTimestampTz(values[Limit_paused_until - 1]);
	}
	table_close(heap, NoLock);
	return found;
}

/*
 * Until when claims of an owner's sagas on a channel are paused, to a query's snapshot;
 * 0: they are not.  If several roles have paused theirs, the latest time, with that
 * role.  Anybody may set limits; those count of roles that may claim.
 */
TimestampTz
saga_ledger_paused_until(text *channel, Oid owner, Snapshot snapshot,
						 char **role)
{
	Relation	heap = table_open(saga_oids_get()->limit, AccessShareLock);
	Relation	index = index_open(saga_oids_get()->limit_pkey, AccessShareLock);
	ScanKeyData key;
	SysScanDesc scan;
	HeapTuple	tuple;
	TimestampTz last = 0;

	saga_keys_text(&key, Limit_channel, channel);
	scan = systable_beginscan_ordered(heap, index, snapshot, 1, &key);
	while (HeapTupleIsValid(tuple = systable_getnext_ordered(scan, ForwardScanDirection)))
	{
		bool		isnull;
		Datum		until = heap_getattr(tuple, Limit_paused_until,
										 RelationGetDescr(heap), &isnull);

		char	   *name;

		if (isnull || (last != 0 && DatumGetTimestampTz(until) <= last))
			continue;
		name = TextDatumGetCString(heap_getattr(tuple, Limit_role,
												RelationGetDescr(heap),
												&isnull));
		if (!saga_rights_name_has_rights_of(name, owner))
			continue;
		last = DatumGetTimestampTz(until);
		*role = name;
	}
	systable_endscan_ordered(scan);
	index_close(index, AccessShareLock);
	table_close(heap, AccessShareLock);
	return last;
}

/* Deletes the rows of all claims under a limit that is gone. */
static void
forget_claimed(const SagaLimit *limit)
{
	Relation	heap = table_open(saga_oids_get()->claimed, RowExclusiveLock);
	Relation	index = index_open(saga_oids_get()->claimed_pkey, AccessShareLock);
	ScanKeyData keys[2];
	SagaTuple  *found;
	int			count;

	limit_keys(keys, limit);
	count = saga_table_find_all(heap, index, keys, 2, false, &found);
	for (int i = 0; i < count; i++)
		(void) saga_table_try_delete(heap, &found[i]);
	index_close(index, NoLock);
	table_close(heap, NoLock);
}

/*
 * Sets a limit, which the caller has locked; one that limits nothing is deleted.
 * Waits for a transaction that is setting it, and unlocks the limit meanwhile.
 */
void
saga_ledger_set_limit(const SagaLimit *limit)
{
	Relation	heap = table_open(saga_oids_get()->limit, RowExclusiveLock);
	bool		none = limit->max_claimed == 0 && limit->paused_until == 0;
	Datum		values[Limit_natts];
	bool		nulls[Limit_natts] = {false};
	bool		done = false;

	values[Limit_channel - 1] = PointerGetDatum(limit->channel);
	values[Limit_role - 1] = PointerGetDatum(limit->role);
	values[Limit_max_claimed - 1] = Int32GetDatum(limit->max_claimed);
	nulls[Limit_max_claimed - 1] = limit->max_claimed == 0;
	values[Limit_paused_until - 1] = TimestampTzGetDatum(limit->paused_until);
	nulls[Limit_paused_until - 1] = limit->paused_until == 0;
	while (!done)
	{
		SagaTuple	version;
		SagaFound	found = find_limit(heap, limit, none, &version);

		if (TransactionIdIsValid(version.writer))
		{
			/* It may be about to claim under the limit. */
			saga_ledger_unlock_limit(limit);
			saga_table_wait(version.writer);
			saga_ledger_lock_limit(limit);
			continue;
		}
		if (found != SAGA_FOUND)
			done = none ||
				saga_table_insert(heap, NULL, values, nulls,
								  saga_oids_get()->limit_pkey, NULL, NULL);
		else if (none)
			done = saga_table_try_delete(heap, &version) == SAGA_WRITTEN;
		else
			done = saga_table_update(heap, NULL, &version, values, nulls,
									 saga_oids_get()->limit_pkey, NULL,
									 SAGA_NOWAIT) == SAGA_WRITTEN;
		CHECK_FOR_INTERRUPTS();
	}
	table_close(heap, NoLock);
	if (limit->max_claimed == 0)
		forget_claimed(limit);
}

/* Does the claim of a row go on?  One whose end is not committed yet does. */
static bool
goes_on(Relation heap, HeapTuple tuple)
{
	Datum		values[Claimed_natts];
	bool		nulls[Claimed_natts];
	SagaQueued	queued;
	SagaStep	step;

	heap_deform_tuple(tuple, RelationGetDescr(heap), values, nulls);
	queued.saga = *DatumGetUUIDP(values[Claimed_saga - 1]);
	queued.run = DatumGetInt32(values[Claimed_run - 1]);
	queued.key = DatumGetTextPP(values[Claimed_key - 1]);
	if (saga_ledger_get_queued_step(&queued, &step) != SAGA_FOUND)
		return false;
	return TransactionIdIsValid(step.version.writer) ||
		step.claimed_at == DatumGetTimestampTz(values[Claimed_at - 1]);
}

/*
 * How many claims go on under a limit, which the caller has locked; those of open
 * transactions count.  Deletes what is over.
 */
int
saga_ledger_count_claimed(const SagaLimit *limit)
{
	Relation	heap = table_open(saga_oids_get()->claimed, RowExclusiveLock);
	Relation	index = index_open(saga_oids_get()->claimed_pkey, AccessShareLock);
	ScanKeyData keys[2];
	SagaTuple  *found;
	int			rows;
	int			count = 0;

	limit_keys(keys, limit);
	rows = saga_table_find_all(heap, index, keys, 2, true, &found);
	SAGA_FAULT("limits.after_read");
	for (int i = 0; i < rows; i++)
	{
		/* Another transaction inserts or deletes it. */
		if (TransactionIdIsValid(found[i].writer) ||
			goes_on(heap, found[i].tuple))
			count++;
		else
			(void) saga_table_try_delete(heap, &found[i]);
	}
	index_close(index, NoLock);
	table_close(heap, NoLock);
	return count;
}

/* Notes that a step was claimed under a limit. */
void
saga_ledger_insert_claimed(const SagaLimit *limit, const SagaStep *step)
{
	Relation	heap = table_open(saga_oids_get()->claimed, RowExclusiveLock);
	Datum		values[Claimed_natts];
	bool		nulls[Claimed_natts] = {false};

	values[Claimed_channel - 1] = PointerGetDatum(limit->channel);
	values[Claimed_role - 1] = PointerGetDatum(limit->role);
	values[Claimed_at - 1] = TimestampTzGetDatum(step->claimed_at);
	values[Claimed_saga - 1] = UUIDPGetDatum(&step->saga);
	values[Claimed_seq - 1] = Int64GetDatum(step->seq);
	values[Claimed_run - 1] = Int32GetDatum(step->run);
	values[Claimed_key - 1] = PointerGetDatum(step->key);
	saga_table_insert(heap, NULL, values, nulls, InvalidOid, NULL, NULL);
	table_close(heap, NoLock);
}
