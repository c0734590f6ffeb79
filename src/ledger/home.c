/*-------------------------------------------------------------------------
 *
 * home.c
 *	  Is this the ledger, or a copy of it?
 *
 * A copy of a database holds the same failed sagas as the original; if both undid
 * them, every card would be refunded twice.  So a ledger knows its
 * home: the server and the database it was created in or adopted by, the
 * restores from backups that were adopted, and whether rows came to it other
 * than through our functions.  Away from home it records, but nothing is run or
 * undone until saga.adopt() is called.
 *
 * A restore from a backup leaves the system identifier as it was.  It is seen
 * when the server starts, by the files that ask for recovery without asking
 * for a standby, and is remembered in a file of our own, since those files are
 * gone once recovery is over.
 *
 * A standby has that file as it was in the backup that it was made of, which
 * may be from before the restore of its primary, or between two of them.  So
 * the worker of a restored server notes in the ledger, which is replicated,
 * that it is not adopted; and all restores that were adopted are kept, since a
 * standby may have the file of any of them.  The note and saga.adopt() exclude
 * each other by a lock on the table of the home, for which the worker does not
 * wait.
 * A standby that is promoted goes on by itself, since what it was a standby of is
 * gone.  Not so in a cluster of Citus, which makes two nodes of one, both alive, by
 * promoting a standby, its clone.  So the node's group there is part of a home.
 * Citus writes the new one some moments after the promotion, if it succeeds; until
 * then, a server that is on another timeline than its home, as each promoted one
 * is, holds still if its node has a clone, since it may be that.  Any other writes
 * the new timeline down (saga_home_note_start), so that a clone that is added
 * later finds it right.
 *
 * The guard trigger on every ledger table is the other half: only a superuser
 * may write there by SQL (members of pg_write_all_data have the privilege, but
 * not the right), and what comes that way (COPY of a dump, logical
 * replication) makes it a copy.  Our own direct writes fire no triggers.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include <fcntl.h>
#include <unistd.h>

#include "access/genam.h"
#include "access/htup_details.h"
#include "access/table.h"
#include "access/xact.h"
#include "access/xlog.h"
#include "base/citus.h"
#include "base/clock.h"
#include "base/compat.h"
#include "base/errors.h"
#include "base/guc.h"
#include "base/rights.h"
#include "catalog/namespace.h"
#include "catalog/pg_authid_d.h"
#include "catalog/pg_database_d.h"
#include "catalog/pg_type_d.h"
#include "commands/dbcommands.h"
#include "commands/tablecmds.h"
#include "commands/trigger.h"
#include "common/file_perm.h"
#include "datatype/timestamp.h"
#include "executor/spi.h"
#include "ledger/home.h"
#include "ledger/oids.h"
#include "shared/queue_front.h"
#include "ledger/table.h"
#include "miscadmin.h"
#include "shared/shmem.h"
#include "shared/stat_table.h"
#include "shared/tally.h"
#include "shared/wakeup.h"
#include "storage/fd.h"
#include "storage/lmgr.h"
#include "utils/array.h"
#include "utils/guc.h"
#include "utils/inval.h"
#include "utils/lsyscache.h"
#include "utils/rel.h"
#include "utils/snapmgr.h"

PG_FUNCTION_INFO_V1(saga_sql_guard);
PG_FUNCTION_INFO_V1(saga_sql_settle_home);
PG_FUNCTION_INFO_V1(saga_sql_adopt);

/* Holds the random number of the last restore, in the data directory. */
#define RESTORE_FILE	"saga.restored"

enum
{
	Home_one = 1, Home_system_identifier, Home_database, Home_timeline,
	Home_restores, Home_restored, Home_copied, Home_citus_group,
	Home_home_timeline,
	Home_natts = Home_home_timeline
};

/*
 * The transaction in which this session last marked the ledger as a copy, and the
 * subtransaction, whose rollback takes the mark back.
 */
static TransactionId marked_in = InvalidTransactionId;
static SubTransactionId marked_by = InvalidSubTransactionId;

/* A call of ours is rewriting rows: that does not make the ledger a copy. */
static bool rewriting = false;

/* It is written before the server starts, and read once. */
static int64
read_restore(void)
{
	static bool known = false;
	static int64 restore = 0;
	int			fd;

	if (known)
		return restore;
	fd = OpenTransientFile(RESTORE_FILE, O_RDONLY | PG_BINARY);
	if (fd >= 0)
	{
		if (read(fd, &restore, sizeof(restore)) != sizeof(restore))
			restore = -1;
		CloseTransientFile(fd);
	}
	else if (errno != ENOENT)
		ereport(ERROR,
				(errcode_for_file_access(),
				 errmsg("could not open file \"%s\": %m", RESTORE_FILE)));
	known = true;
	return restore;
}

/*
 * In the postmaster, before recovery begins: a start from a backup that is
 * not to be a standby is a restore.
 */
void
saga_home_note_restore(void)
{
	int64		restore;
	int			fd;

	if (access("standby.signal", F_OK) == 0 ||
		(access("recovery.signal", F_OK) != 0 &&
		 access("backup_label", F_OK) != 0))
		return;
	if (!pg_strong_random(&restore, sizeof(restore)))
		restore = -1;
	fd = open(RESTORE_FILE, O_WRONLY | O_CREAT | O_TRUNC | PG_BINARY,
			  pg_file_create_mode);
	if (fd < 0 || write(fd, &restore, sizeof(restore)) != sizeof(restore) ||
		fsync(fd) != 0)
		ereport(FATAL,
				(errcode_for_file_access(),
				 errmsg("could not write file \"%s\": %m", RESTORE_FILE),
				 errdetail("Without it, this copy of a database could run and undo steps beside the original.")));
	close(fd);
}

static Relation
open_home(LOCKMODE mode)
{
	Oid			schema = get_namespace_oid("saga", true);
	Oid			relid = OidIsValid(schema) ?
		get_relname_relid("ledger_home", schema) : InvalidOid;

	if (!OidIsValid(relid))
		ereport(ERROR,
				(errcode(ERRCODE_SAGA_UNAVAILABLE),
				 errmsg("extension \"saga\" is not created in this database"),
				 errhint("Run CREATE EXTENSION saga.")));
	return table_open(relid, mode);
}

/* The row of ledger_home to a snapshot; NULL if there is none. */
static HeapTuple
read_home_at(Snapshot snapshot, Relation heap, Datum *values, bool *nulls)
{
	SysScanDesc scan;
	HeapTuple	tuple;

	scan = systable_beginscan(heap, InvalidOid, false, snapshot, 0, NULL);
	tuple = systable_getnext(scan);
	if (HeapTupleIsValid(tuple))
	{
		tuple = heap_copytuple(tuple);
		heap_deform_tuple(tuple, RelationGetDescr(heap), values, nulls);
	}
	systable_endscan(scan);
	return tuple;
}

/* The newest one. */
static HeapTuple
read_home(Relation heap, Datum *values, bool *nulls)
{
	Snapshot	snapshot = saga_table_snapshot();
	HeapTuple	tuple = read_home_at(snapshot, heap, values, nulls);

	UnregisterSnapshot(snapshot);
	return tuple;
}

/* Was the restore that this server was started by, if any, adopted here? */
static bool
restore_is_adopted(Datum restores)
{
	ArrayType  *array = DatumGetArrayTypeP(restores);
	int			n = ArrayGetNItems(ARR_NDIM(array), ARR_DIMS(array));
	int64		restore = read_restore();

	if (restore == 0)
		return true;
	for (int i = 0; i < n; i++)
		if (((int64 *) ARR_DATA_PTR(array))[i] == restore)
			return true;
	return false;
}

/* Those that were adopted, and the one that this server was started by. */
static Datum
adopted_restores(const Datum *before)
{
	ArrayType  *array = before ? DatumGetArrayTypeP(*before) : NULL;
	int			n = array ? ArrayGetNItems(ARR_NDIM(array), ARR_DIMS(array)) : 0;
	Datum	   *restores = palloc((n + 1) * sizeof(Datum));

	for (int i = 0; i < n; i++)
		restores[i] = Int64GetDatum(((int64 *) ARR_DATA_PTR(array))[i]);
	if (array ? !restore_is_adopted(*before) : read_restore() != 0)
		restores[n++] = Int64GetDatum(read_restore());
	return PointerGetDatum(construct_array(restores, n, INT8OID, sizeof(int64),
										   FLOAT8PASSBYVAL, TYPALIGN_DOUBLE));
}

/*
 * Would a row that comes to these tables by SQL mark the ledger as a copy?  Not
 * when somebody disabled the triggers there, as pg_restore --disable-triggers
 * does; when it enables them again, they are no longer ENABLE ALWAYS.
 */
static bool
is_guarded(void)
{
	Oid			relids[] = {saga_oids_get()->saga, saga_oids_get()->due};

	for (size_t i = 0; i < lengthof(relids); i++)
	{
		Relation	heap = table_open(relids[i], AccessShareLock);
		TriggerDesc *desc = heap->trigdesc;
		bool		guarded = false;

		for (int j = 0; desc != NULL && j < desc->numtriggers; j++)
		{
			if (strcmp(desc->triggers[j].tgname, "guard") == 0)
				guarded = desc->triggers[j].tgenabled == TRIGGER_FIRES_ALWAYS;
		}
		table_close(heap, AccessShareLock);
		if (!guarded)
			return false;
	}
	return true;
}

/* The timeline of a server that takes writes, as a column has it */
static Datum
present_timeline(void)
{
	return Int32GetDatum((int32) GetWALInsertionTimeLine());
}

/* Has the server been promoted since the home was written, or seen to be right? */
static bool
is_promoted(const Datum *home)
{
	return !RecoveryInProgress() &&
		home[Home_home_timeline - 1] != present_timeline();
}

static const char *
why_away(Snapshot snapshot)
{
	Relation	heap = open_home(AccessShareLock);
	Datum		values[Home_natts];
	bool		nulls[Home_natts];
	const char *why = NULL;

	if (read_home_at(snapshot, heap, values, nulls) == NULL)
		why = "nobody wrote down where its home is";
	else if (DatumGetInt64(values[Home_system_identifier - 1]) !=
			 (int64) GetSystemIdentifier() ||
			 DatumGetObjectId(values[Home_database - 1]) != MyDatabaseId)
		why = "it was copied here from another server or database";
	else if (DatumGetBool(values[Home_restored - 1]) ||
			 !restore_is_adopted(values[Home_restores - 1]))
		why = "the server was restored from a backup";
	else if (DatumGetInt32(values[Home_citus_group - 1]) !=
			 saga_citus_group(snapshot))
		why = "the server was another node of its Citus cluster, or of none";
	else if (is_promoted(values) &&
			 saga_citus_has_clone(DatumGetInt32(values[Home_citus_group - 1]),
								  snapshot))
		why = "the server was promoted, and its node has a clone in its Citus cluster, which it may be";
	else if (DatumGetBool(values[Home_copied - 1]))
		why = "rows of the ledger came by COPY, SQL or replication";
	else if (!is_guarded())
		why = "the guard triggers of the ledger were disabled, so rows may have come by COPY, SQL or replication";
	table_close(heap, AccessShareLock);
	return why;
}

/*
 * The line of postgresql.conf that preloads saga beside what is preloaded
 * already.
 */
const char *
saga_home_preload_line(void)
{
	const char *present = GetConfigOption("shared_preload_libraries", true, false);
	StringInfoData line;

	initStringInfo(&line);
	appendStringInfoString(&line, "shared_preload_libraries = '");
	for (const char *c = present ? present : ""; *c != '\0'; c++)
	{
		if (*c == '\'')
			appendStringInfoChar(&line, '\'');
		appendStringInfoChar(&line, *c);
	}
	appendStringInfo(&line, "%ssaga'",
					 present && present[0] != '\0' ? ", " : "");
	return line.data;
}

/* Why nothing of this ledger may be run or undone here; NULL if it may. */
const char *
saga_home_away(void)
{
	Snapshot	snapshot = saga_table_snapshot();
	const char *why = why_away(snapshot);

	UnregisterSnapshot(snapshot);
	return why;
}

/* The same as a snapshot shows it. */
const char *
saga_home_away_at(Snapshot snapshot)
{
	return why_away(snapshot);
}

/*
 * Why nothing is undone in this database now; NULL if nothing is wrong.  A
 * query asks with its own snapshot, a call with none: the newest counts.
 */
const char *
saga_home_why_idle(Snapshot snapshot)
{
	const char *away;
	const char *hint;

	if (saga_shmem == NULL)
		return psprintf("saga is not preloaded: set %s in postgresql.conf and restart the server",
						saga_home_preload_line());
	if (RecoveryInProgress())
		return "this server is a standby";
	if ((away = saga_oids_misfit(&hint)) != NULL)
		return psprintf("%s (%s)", away, hint);
	if (!saga_guc_enabled)
		return "saga.enabled is off";
	if (!saga_guc_serves(get_database_name(MyDatabaseId)))
		return "saga.databases does not name this database";
	away = snapshot != NULL ? why_away(snapshot) : saga_home_away();
	if (away != NULL)
		return psprintf("this copy of the database is not adopted (%s); see saga.adopt()",
						away);
	return NULL;
}

/*
 * Writes the row: at home here, or a copy.  False: somebody else wrote it at
 * the same time.
 */
static bool
try_write_home(Relation heap, bool copied)
{
	Datum		values[Home_natts];
	bool		nulls[Home_natts] = {false};

	/* It may have been written by this very command. */
	SagaTuple	old = {.tuple = read_home(heap, values, nulls),.own = true};

	if (!copied || old.tuple == NULL)
	{
		values[Home_one - 1] = BoolGetDatum(true);
		values[Home_system_identifier - 1] =
			Int64GetDatum((int64) GetSystemIdentifier());
		values[Home_database - 1] = ObjectIdGetDatum(MyDatabaseId);
		if (old.tuple == NULL)
			values[Home_timeline - 1] = present_timeline();
		values[Home_restores - 1] =
			adopted_restores(old.tuple ? &values[Home_restores - 1] : NULL);
		values[Home_restored - 1] = BoolGetDatum(false);
		values[Home_citus_group - 1] = Int32GetDatum(saga_citus_group(NULL));
		values[Home_home_timeline - 1] = present_timeline();
	}
	values[Home_copied - 1] = BoolGetDatum(copied);
	if (old.tuple != NULL)
		return saga_table_update(heap, NULL, &old, values, nulls, InvalidOid, NULL,
								 SAGA_WAIT) == SAGA_WRITTEN;
	saga_table_insert(heap, NULL, values, nulls, InvalidOid, NULL, NULL);
	return true;
}

/*
 * Concurrent loaders (the jobs of one pg_restore) may all mark the ledger as a
 * copy, so retry.  Adopting, in contrast, must fail if rows arrived that the
 * adopter has not seen.
 */
static void
write_home(bool copied)
{
	Relation	heap = open_home(RowExclusiveLock);

	while (!try_write_home(heap, copied))
	{
		if (!copied)
			ereport(ERROR,
					(errcode(ERRCODE_T_R_SERIALIZATION_FAILURE),
					 errmsg("rows of the ledger came by COPY, SQL or replication at the same time"),
					 errhint("Adopt this copy when no more of them come.")));
		CHECK_FOR_INTERRUPTS();
	}
	/* Sessions that know whether they are at home ask again (access.c). */
	CacheInvalidateRelcache(heap);
	table_close(heap, NoLock);

	/*
	 * After an adoption, rows that come later in this transaction mark it
	 * again.
	 */
	marked_in = copied ? GetTopTransactionId() : InvalidTransactionId;
	marked_by = GetCurrentSubTransactionId();
}

/* Has the start order left a gap for this timeline? */
static bool
is_on_timeline(const Datum *values)
{
	return values[Home_timeline - 1] == present_timeline();
}

bool
saga_home_is_on_timeline(void)
{
	Relation	heap = open_home(AccessShareLock);
	Datum		values[Home_natts];
	bool		nulls[Home_natts];
	bool		known;

	known = read_home(heap, values, nulls) == NULL || is_on_timeline(values);
	table_close(heap, AccessShareLock);
	return known;
}

/*
 * Notes in the ledger what is to be known of this start of the server: that it
 * was restored and is not adopted, so that a standby that was made of an older
 * backup knows it; its timeline, for which the start order has left its gap; and
 * that it is at home on that, if it is.
 * For the worker, once: false if somebody is adopting it at this moment.
 */
bool
saga_home_note_start(void)
{
	Datum		values[Home_natts];
	bool		nulls[Home_natts] = {false};
	SagaTuple	old = {0};
	Relation	heap;
	bool		noted = true;
	bool		away;
	bool		moved_home;

	if (!ConditionalLockRelationOid(saga_oids_get()->home,
									ShareUpdateExclusiveLock))
		return false;
	heap = table_open(saga_oids_get()->home, RowExclusiveLock);
	old.tuple = read_home(heap, values, nulls);
	away = old.tuple != NULL &&
		!restore_is_adopted(values[Home_restores - 1]);
	moved_home = old.tuple != NULL && is_promoted(values) &&
		saga_home_away() == NULL;
	if (old.tuple != NULL && (!is_on_timeline(values) || moved_home ||
							  (away && !DatumGetBool(values[Home_restored - 1]))))
	{
		values[Home_timeline - 1] = present_timeline();
		if (away)
			values[Home_restored - 1] = BoolGetDatum(true);
		if (moved_home)
			values[Home_home_timeline - 1] = values[Home_timeline - 1];
		noted = saga_table_update(heap, NULL, &old, values, nulls, InvalidOid,
								  NULL, SAGA_NOWAIT) == SAGA_WRITTEN;
	}
	table_close(heap, NoLock);
	return noted;
}

/* For the install script: home is where the extension is created. */
Datum
saga_sql_settle_home(PG_FUNCTION_ARGS)
{
	if (saga_shmem == NULL)
		ereport(WARNING,
				(errcode(ERRCODE_SAGA_UNAVAILABLE),
				 errmsg("sagas can be recorded, but nothing will be run or undone until saga is preloaded"),
				 errhint("Set this in postgresql.conf and restart the server: %s",
						 saga_home_preload_line())));
	write_home(false);
	saga_wakeup_launcher();
	/* An extension that was dropped here before is not this one. */
	saga_stat_table_reset(saga_clock_now());
	PG_RETURN_VOID();
}

/* The guard trigger on every ledger table. */
Datum
saga_sql_guard(PG_FUNCTION_ARGS)
{
	TriggerData *trigger = (TriggerData *) fcinfo->context;

	if (!CALLED_AS_TRIGGER(fcinfo))
		ereport(ERROR,
				(errcode(ERRCODE_E_R_I_E_TRIGGER_PROTOCOL_VIOLATED),
				 errmsg("function \"%s\" was not called by trigger manager",
						"saga.guard")));
	if (!superuser())
		ereport(ERROR,
				(errcode(ERRCODE_SAGA_PERMISSION_DENIED),
				 errmsg("table \"%s\" is written by saga's functions only",
						RelationGetRelationName(trigger->tg_relation)),
				 errhint("Call saga.begin, saga.step and the others.")));

	if (!rewriting && !TRIGGER_FIRED_BY_DELETE(trigger->tg_event) &&
		!TRIGGER_FIRED_BY_TRUNCATE(trigger->tg_event) &&
		(marked_in != GetTopTransactionId() || !SubTransactionIsActive(marked_by)))
		write_home(true);
	if (TRIGGER_FIRED_BY_TRUNCATE(trigger->tg_event))
		return PointerGetDatum(NULL);
	return PointerGetDatum(TRIGGER_FIRED_BY_UPDATE(trigger->tg_event) ?
						   trigger->tg_newtuple : trigger->tg_trigtuple);
}

/* Sagas whose owner's name has another OID here, as far as the adopter may act as it */
#define WHERE_OWNER_IS_ELSEWHERE \
	" WHERE r.rolname OPERATOR(pg_catalog.=) s.owner_name::pg_catalog.name" \
	" AND r.oid OPERATOR(pg_catalog.<>) s.owner" \
	" AND pg_catalog.pg_has_role($1, r.oid, '" SAGA_COMPAT_MAY_BECOME "')"
#define SAME_KEY \
	"SELECT FROM saga.ledger_saga o" \
	" WHERE o.key OPERATOR(pg_catalog.=) s.key" \
	" AND o.name OPERATOR(pg_catalog.=) s.name" \
	" AND o.id OPERATOR(pg_catalog.<>) s.id"

/*
 * ... and the role may have one key once: used here again before, it stays with
 * that saga; of several from elsewhere, the last was begun by the present role.
 */
#define SAME_ROLE \
	"o.owner_name OPERATOR(pg_catalog.=) s.owner_name" \
	" AND (o.owner OPERATOR(pg_catalog.=) r.oid" \
	" OR o.id OPERATOR(pg_catalog.>) s.id)"
/* One for each role, and far from those that servers give to roles */
#define ASIDE \
	"(r.oid::pg_catalog.int8 OPERATOR(pg_catalog.#) 2147483648)::pg_catalog.oid"

/*
 * Enables the guard triggers, as ALTER TABLE ... ENABLE ALWAYS TRIGGER does; but as
 * that would fire event triggers, whose functions would run with the rights of the
 * bootstrap superuser at the request of one who is none, not by that statement.
 */
static void
enable_guards(void)
{
	Oid			tables[SAGA_OIDS_TABLES];

	if (!saga_oids_tables(tables))
		elog(ERROR, "the ledger has no tables");
	for (int i = 0; i < SAGA_OIDS_TABLES; i++)
	{
		Relation	heap = table_open(tables[i], ShareRowExclusiveLock);

		CheckTableNotInUse(heap, "enable the guard triggers of");
		saga_compat_enable_always(heap, "guard", ShareRowExclusiveLock);
		saga_compat_enable_always(heap, "guard_truncate", ShareRowExclusiveLock);
		table_close(heap, NoLock);
	}
	CommandCounterIncrement();
}

/*
 * Enables the guard triggers again, if they are not.  And brings the OIDs of roles in
 * line with their names: rows have both, and in another server the same name has
 * another OID.  A name that is not there is left, and its steps will be parked with
 * that reason.  So is one that the caller could not act as: a role by that name may
 * be another.  Returns how many sagas cannot come to the role of that name, because
 * of their keys.
 */
static int64
adopt_rows(Oid adopter)
{
	static const char *const statements[] = {
		/*
		 * Two roles may have each other's OID, and used the same key.  The
		 * index of keys is asked at once, row by row, so those of a shared
		 * key first move out of the way, to where no other role's saga is.
		 */
		"UPDATE saga.ledger_saga s SET owner = " ASIDE
		" FROM pg_catalog.pg_authid r" WHERE_OWNER_IS_ELSEWHERE
		" AND EXISTS (" SAME_KEY ")"
		" AND NOT EXISTS (" SAME_KEY " AND (o.owner OPERATOR(pg_catalog.=) " ASIDE
		" OR " SAME_ROLE "))",
		"UPDATE saga.ledger_saga s SET owner = r.oid"
		" FROM pg_catalog.pg_authid r" WHERE_OWNER_IS_ELSEWHERE
		" AND NOT EXISTS (" SAME_KEY " AND (o.owner OPERATOR(pg_catalog.=) r.oid"
		" OR " SAME_ROLE "))",
		"UPDATE saga.ledger_due d SET lane = r.oid"
		" FROM saga.ledger_step t, pg_catalog.pg_authid r"
		" WHERE t.saga OPERATOR(pg_catalog.=) d.saga"

		/*
		 * One OID may stand for several names in a saga: its role was
		 * renamed, or the saga was copied before.  A step's row goes where
		 * the step does; the saga's own is sent on from wherever it comes to
		 * (events.c).
		 */
		" AND (d.seq OPERATOR(pg_catalog.=) 0 OR t.seq OPERATOR(pg_catalog.=) d.seq)"
		" AND t.run_as OPERATOR(pg_catalog.=) d.lane"
		" AND r.rolname OPERATOR(pg_catalog.=) t.run_as_name::pg_catalog.name"
		" AND r.oid OPERATOR(pg_catalog.<>) d.lane"
		" AND pg_catalog.pg_has_role($1, r.oid, '" SAGA_COMPAT_MAY_BECOME "')",
		"UPDATE saga.ledger_saga s SET lane = d.lane"
		" FROM saga.ledger_due d"
		" WHERE d.saga OPERATOR(pg_catalog.=) s.id"
		" AND d.seq OPERATOR(pg_catalog.=) 0"
		" AND d.lane OPERATOR(pg_catalog.<>) s.lane",
		"UPDATE saga.ledger_queue q SET owner = s.owner"
		" FROM saga.ledger_saga s"
		" WHERE s.id OPERATOR(pg_catalog.=) q.saga"
		" AND s.owner OPERATOR(pg_catalog.<>) q.owner",
		"UPDATE saga.ledger_step t SET run_as = r.oid"
		" FROM pg_catalog.pg_authid r"
		" WHERE r.rolname OPERATOR(pg_catalog.=) t.run_as_name::pg_catalog.name"
		" AND r.oid OPERATOR(pg_catalog.<>) t.run_as"
		" AND pg_catalog.pg_has_role($1, r.oid, '" SAGA_COMPAT_MAY_BECOME "')"
	};
	Oid			type = OIDOID;
	Datum		value = ObjectIdGetDatum(adopter);

	if (!is_guarded())
		enable_guards();
	for (size_t i = 0; i < lengthof(statements); i++)
		if (SPI_execute_with_args(statements[i], 1, &type, &value, NULL, false,
								  0) != SPI_OK_UPDATE)
			elog(ERROR, "could not map the roles of the ledger");
	if (SPI_execute_with_args("SELECT FROM saga.ledger_saga s, pg_catalog.pg_authid r"
							  WHERE_OWNER_IS_ELSEWHERE,
							  1, &type, &value, NULL, false, 0) != SPI_OK_SELECT)
		elog(ERROR, "could not count the sagas that keep their owner");
	return (int64) SPI_processed;
}

/*
 * Calls a function that rewrites the ledger by SQL: with the rights for that,
 * and without making a copy of the ledger by it.  SQL sees what its snapshot
 * does, so that one must be new, or rows would be passed by without a word.
 *
 * The rights are more than the caller has, and the caller must not lend its names to
 * what runs with them: a superuser's index on the ledger may call functions, which
 * look names up.  So they run as during maintenance of a table: no name leads to
 * pg_temp or a schema of the caller's, and nothing is left that would run later.
 */
void
saga_home_rewrite(const char *function, void (*rewrite) (void *), void *arg)
{
	Oid			user;
	int			context;
	int			settings;

	if (IsolationUsesXactSnapshot())
		ereport(ERROR,
				(errcode(ERRCODE_ACTIVE_SQL_TRANSACTION),
				 errmsg("%s cannot run in a transaction that is REPEATABLE READ or above",
						function),
				 errhint("Call it in a READ COMMITTED transaction.")));
	GetUserIdAndSecContext(&user, &context);
	SetUserIdAndSecContext(BOOTSTRAP_SUPERUSERID,
						   context | SECURITY_LOCAL_USERID_CHANGE |
						   SECURITY_RESTRICTED_OPERATION);
	settings = NewGUCNestLevel();
	(void) set_config_option("search_path", "pg_catalog, pg_temp", PGC_USERSET,
							 PGC_S_SESSION, GUC_ACTION_SAVE, true, 0, false);
	rewriting = true;
	PG_TRY();
	{
		if (SPI_connect() != SPI_OK_CONNECT)
			elog(ERROR, "could not connect to SPI");
		rewrite(arg);
		SPI_finish();
		AtEOXact_GUC(false, settings);
	}
	PG_FINALLY();
	{
		rewriting = false;
		SetUserIdAndSecContext(user, context);
	}
	PG_END_TRY();
}

typedef struct Adoption
{
	Oid			adopter;
	int64		left;			/* sagas, because their keys are taken */
} Adoption;

static void
adopt(void *arg)
{
	Adoption   *what = arg;

	LockRelationOid(saga_oids_get()->home, ShareUpdateExclusiveLock);
	what->left = adopt_rows(what->adopter);
	write_home(false);
	/* What this command invalidates, its rollback would not: let it be over. */
	CommandCounterIncrement();
}

/* saga.adopt(): from now on, this copy of the database runs and undoes. */
Datum
saga_sql_adopt(PG_FUNCTION_ARGS)
{
	Adoption	what;

	PreventCommandIfReadOnly("saga.adopt()");
	if (!saga_rights_is_dba())
		ereport(ERROR,
				(errcode(ERRCODE_SAGA_PERMISSION_DENIED),
				 errmsg("permission denied to adopt this copy of the ledger"),
				 errhint("Only superusers and the owner of the database may.")));

	what.adopter = GetUserId();
	saga_home_rewrite("saga.adopt()", adopt, &what);
	if (what.left > 0)
		ereport(WARNING,
				(errcode(ERRCODE_SAGA_IDEMPOTENCY_CONFLICT),
				 errmsg(INT64_FORMAT " sagas do not come to the role of their owner's name because of other sagas with the same names and keys",
						what.left),
				 errhint("Purge the finished ones, give those of roles that are gone to others by saga.reassign(), and adopt again.")));
	saga_tally_doubt();
	saga_wakeup_launcher();
	/* Rows that came here by other ways may be due before anything seen yet. */
	saga_wakeup_due(DT_NOBEGIN);
	saga_queue_front_queued(DT_NOBEGIN);
	PG_RETURN_VOID();
}
