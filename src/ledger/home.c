/*-------------------------------------------------------------------------
 *
 * home.c
 *	  Is this the ledger, or a copy of it?
 *
 * A copy of a database holds the same failed sagas as the original; were both
 * to undo them, every card would be refunded twice.  So a ledger knows its
 * home: the server and the database it was created in or adopted by, the last
 * restore from a backup that was adopted, and whether rows came to it other
 * than through our functions.  Away from home it records, but does not
 * compensate, until saga.adopt() is called.
 *
 * A restore from a backup leaves the system identifier as it was.  It is seen
 * when the server starts, by the files that ask for recovery without asking
 * for a standby, and is remembered in a file of our own, since those files are
 * gone once recovery is over.
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
#include "base/compat.h"
#include "base/errors.h"
#include "base/guc.h"
#include "base/rights.h"
#include "catalog/namespace.h"
#include "catalog/pg_authid_d.h"
#include "catalog/pg_database_d.h"
#include "commands/dbcommands.h"
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
#include "shared/tally.h"
#include "shared/wakeup.h"
#include "storage/fd.h"
#include "utils/guc.h"
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
	Home_one = 1, Home_system_identifier, Home_database, Home_restore,
	Home_copied,
	Home_natts = Home_copied
};

/* The transaction in which this session last marked the ledger as a copy. */
static TransactionId marked_in = InvalidTransactionId;

/* Rows that are being rewritten by a call of ours are no copy. */
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
				 errdetail("Without it, this copy of a database could compensate beside the original.")));
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

static const char *
why_away(Snapshot snapshot)
{
	Relation	heap = open_home(AccessShareLock);
	Datum		values[Home_natts];
	bool		nulls[Home_natts];
	int64		restore = read_restore();
	const char *why = NULL;

	if (read_home_at(snapshot, heap, values, nulls) == NULL)
		why = "nobody wrote down where its home is";
	else if (DatumGetInt64(values[Home_system_identifier - 1]) !=
			 (int64) GetSystemIdentifier() ||
			 DatumGetObjectId(values[Home_database - 1]) != MyDatabaseId)
		why = "it was copied here from another server or database";
	else if (restore != 0 &&
			 DatumGetInt64(values[Home_restore - 1]) != restore)
		why = "the server was restored from a backup";
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

/* Why this ledger must not compensate here; NULL if it may. */
const char *
saga_home_away(void)
{
	Snapshot	snapshot = saga_table_snapshot();
	const char *why = why_away(snapshot);

	UnregisterSnapshot(snapshot);
	return why;
}

/*
 * Why nothing is undone in this database now; NULL if nothing is wrong.  A
 * query asks with its own snapshot, a call with none: the newest counts.
 */
const char *
saga_home_why_idle(Snapshot snapshot)
{
	const char *away;

	if (saga_shmem == NULL)
		return psprintf("saga is not preloaded: set %s in postgresql.conf and restart the server",
						saga_home_preload_line());
	if (RecoveryInProgress())
		return "this server is a standby";
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
		values[Home_restore - 1] = Int64GetDatum(read_restore());
	}
	values[Home_copied - 1] = BoolGetDatum(copied);
	if (old.tuple != NULL)
		return saga_table_update(heap, &old, values, nulls, InvalidOid, NULL,
								 SAGA_WAIT) == SAGA_WRITTEN;
	saga_table_insert(heap, values, nulls, InvalidOid, NULL, NULL);
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
	table_close(heap, NoLock);
}

/* For the install script: home is where the extension is created. */
Datum
saga_sql_settle_home(PG_FUNCTION_ARGS)
{
	if (saga_shmem == NULL)
		ereport(WARNING,
				(errcode(ERRCODE_SAGA_UNAVAILABLE),
				 errmsg("sagas can be recorded, but nothing will be undone until saga is preloaded"),
				 errhint("Set this in postgresql.conf and restart the server: %s",
						 saga_home_preload_line())));
	write_home(false);
	saga_wakeup_launcher();
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
		marked_in != GetTopTransactionId())
	{
		write_home(true);
		marked_in = GetTopTransactionId();
	}
	if (TRIGGER_FIRED_BY_TRUNCATE(trigger->tg_event))
		return PointerGetDatum(NULL);
	return PointerGetDatum(TRIGGER_FIRED_BY_UPDATE(trigger->tg_event) ?
						   trigger->tg_newtuple : trigger->tg_trigtuple);
}

/*
 * Makes sure that the guard triggers are enabled again.  And:
 *
 * Roles are known here by OID and name.  In another server the same name has
 * another OID: bring the OIDs in line with the names.  A name that is not
 * there is left, and its steps will be parked with that reason.  So is one
 * that the caller could not act as: a role by that name may be another.
 */
static void
adopt_rows(Oid adopter)
{
	static const char *const guards[] = {
#define GUARD(table) \
		"ALTER TABLE saga." table " ENABLE ALWAYS TRIGGER guard," \
		" ENABLE ALWAYS TRIGGER guard_truncate"
		GUARD("ledger_saga"), GUARD("ledger_step"), GUARD("ledger_attempt"),
		GUARD("ledger_event"), GUARD("ledger_due"), GUARD("ledger_queue"),
		GUARD("ledger_held"), GUARD("ledger_home")
#undef GUARD
	};
	static const char *const statements[] = {
		"UPDATE saga.ledger_saga s SET owner = r.oid"
		" FROM pg_catalog.pg_authid r"
		" WHERE r.rolname OPERATOR(pg_catalog.=) s.owner_name::pg_catalog.name"
		" AND r.oid OPERATOR(pg_catalog.<>) s.owner"
		" AND pg_catalog.pg_has_role($1, r.oid, '" SAGA_COMPAT_MAY_BECOME "')"
		/* Its key may have been used here again before. */
		" AND NOT EXISTS (SELECT FROM saga.ledger_saga o"
		" WHERE o.owner OPERATOR(pg_catalog.=) r.oid"
		" AND o.name OPERATOR(pg_catalog.=) s.name"
		" AND o.key OPERATOR(pg_catalog.=) s.key)",
		"UPDATE saga.ledger_due d SET lane = r.oid"
		" FROM saga.ledger_saga s, saga.ledger_step t, pg_catalog.pg_authid r"
		" WHERE s.id OPERATOR(pg_catalog.=) d.saga"
		" AND t.saga OPERATOR(pg_catalog.=) s.id"
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
		for (size_t i = 0; i < lengthof(guards); i++)
			if (SPI_execute(guards[i], false, 0) != SPI_OK_UTILITY)
				elog(ERROR, "could not enable the guard triggers of the ledger");
	for (size_t i = 0; i < lengthof(statements); i++)
		if (SPI_execute_with_args(statements[i], 1, &type, &value, NULL, false,
								  0) != SPI_OK_UPDATE)
			elog(ERROR, "could not map the roles of the ledger");
}

/*
 * Calls a function that rewrites the ledger by SQL: with the rights for that,
 * and without making a copy of the ledger by it.
 */
void
saga_home_rewrite(void (*rewrite) (void *), void *arg)
{
	Oid			user;
	int			context;

	GetUserIdAndSecContext(&user, &context);
	SetUserIdAndSecContext(BOOTSTRAP_SUPERUSERID,
						   context | SECURITY_LOCAL_USERID_CHANGE);
	rewriting = true;
	PG_TRY();
	{
		if (SPI_connect() != SPI_OK_CONNECT)
			elog(ERROR, "could not connect to SPI");
		rewrite(arg);
		SPI_finish();
	}
	PG_FINALLY();
	{
		rewriting = false;
		SetUserIdAndSecContext(user, context);
	}
	PG_END_TRY();
}

static void
adopt(void *arg)
{
	adopt_rows(*(Oid *) arg);
	write_home(false);
}

/* saga.adopt(): from now on, this copy of the database compensates. */
Datum
saga_sql_adopt(PG_FUNCTION_ARGS)
{
	Oid			adopter;

	PreventCommandIfReadOnly("saga.adopt()");
	if (!saga_rights_is_dba())
		ereport(ERROR,
				(errcode(ERRCODE_SAGA_PERMISSION_DENIED),
				 errmsg("permission denied to adopt this copy of the ledger"),
				 errhint("Only superusers and the owner of the database may.")));

	adopter = GetUserId();
	saga_home_rewrite(adopt, &adopter);
	saga_tally_doubt();
	saga_wakeup_launcher();
	/* Rows that came here by other ways may be due before anything seen yet. */
	saga_wakeup_due(DT_NOBEGIN);
	saga_queue_front_queued(DT_NOBEGIN);
	PG_RETURN_VOID();
}
