/*-------------------------------------------------------------------------
 *
 * inflight.c
 *	  Which SQL of a step an executor is about to run, where a crash of the
 *	  server cannot lose it.
 *
 * Each executor has a file of its own, pg_stat_tmp/saga.LIFE.PID.NONCE, with
 * one record of fixed size.  It is written with one pwrite before the SQL
 * runs, and never synced: the kernel keeps what was written when all of the
 * server's processes die, and when the machine dies no SQL is to blame.
 *
 * Why pg_stat_tmp: initdb creates it, the server leaves strangers' files in
 * it alone when it starts, also after a crash, and base backups leave its
 * contents out, so that a copy of the cluster accuses nobody.  LIFE, the
 * random name of this life of the shared memory, keeps apart the records of
 * different lives.
 *
 * Writers: the executor its own file (its state also from a signal handler:
 * pwrite on an open descriptor, nothing else); the launcher, in
 * saga_inflight_recover, the files of earlier lives; the worker removes the
 * files of executors that are gone.  No two of them ever meet at one file.
 *
 * Whether a suspect was alone when the server crashed can only be said while
 * all records of that life are there: saga_inflight_recover judges them before
 * any worker removes one, and notes that it did ("judged"), so that another
 * crash in between changes no verdict.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include <dirent.h>
#include <fcntl.h>
#include <signal.h>
#include <unistd.h>

#include "common/file_perm.h"
#include "common/pg_prng.h"
#include "miscadmin.h"
#include "pgstat.h"
#include "port/pg_crc32c.h"
#include "process/inflight.h"
#include "shared/shmem.h"
#include "storage/fd.h"

#define SAGA_INFLIGHT_MAGIC		0x5341474A	/* changes with the layout */
#define SAGA_INFLIGHT_PREFIX	"saga."

/* What is written before each attempt: a SagaInflight without state and end */
typedef struct InflightRecord
{
	uint64		life;
	int			pid;
	uint32		nonce;
	int			slot;
	uint32		generation;
	Oid			database;
	bool		alone;
	bool		judged;
	pg_uuid_t	saga;
	SagaPhase	phase;
	int64		seq;
	int			attempt;
	TimestampTz started_at;
} InflightRecord;

/*
 * The file's contents.  "state" stands outside of what the crc covers; so does
 * the end of an attempt, which follows it, rarely, before the state says that
 * it is there.
 */
typedef struct InflightFile
{
	uint32		magic;
	uint32		state;
	InflightRecord record;
	pg_crc32c	crc;			/* of the record */
} InflightFile;

/* The executor's own file; -1: none.  Read in a signal handler. */
static volatile int own_fd = -1;
static uint32 own_nonce = 0;
static int	own_slot = -1;
static uint32 own_generation = 0;
static volatile sig_atomic_t own_state = SAGA_INFLIGHT_NONE;

static void
file_path(char *path, uint64 life, int pid, uint32 nonce)
{
	snprintf(path, MAXPGPATH, "%s/" SAGA_INFLIGHT_PREFIX "%016llx.%d.%08x",
			 PG_STAT_TMP_DIR, (unsigned long long) life, pid, nonce);
}

static pg_crc32c
record_crc(const InflightRecord *record)
{
	pg_crc32c	crc;

	INIT_CRC32C(crc);
	COMP_CRC32C(crc, record, sizeof(InflightRecord));
	FIN_CRC32C(crc);
	return crc;
}

/* Fills in a whole file; padding is zeroed, for the crc covers it. */
static void
file_fill(InflightFile *file, const SagaInflight *record)
{
	memset(file, 0, sizeof(InflightFile));
	file->magic = SAGA_INFLIGHT_MAGIC;
	file->state = record->state;
	file->record.life = record->life;
	file->record.pid = record->pid;
	file->record.nonce = record->nonce;
	file->record.slot = record->slot;
	file->record.generation = record->generation;
	file->record.database = record->database;
	file->record.alone = record->alone;
	file->record.judged = record->judged;
	file->record.saga = record->saga;
	file->record.phase = record->phase;
	file->record.seq = record->seq;
	file->record.attempt = record->attempt;
	file->record.started_at = record->started_at;
	file->crc = record_crc(&file->record);
}

/* Errors are raised: without the file no SQL of a step may run. */
static void
create_file(void)
{
	char		path[MAXPGPATH];
	int			fd;

	Assert(own_fd < 0);
	own_nonce = pg_prng_uint32(&pg_global_prng_state);
	file_path(path, saga_shmem->life, MyProcPid, own_nonce);
	fd = open(path, O_RDWR | O_CREAT | O_EXCL | PG_BINARY, pg_file_create_mode);
	if (fd < 0 && errno == ENOENT)
	{
		/* initdb made the directory, but nobody else would miss it. */
		(void) MakePGDirectory(PG_STAT_TMP_DIR);
		fd = open(path, O_RDWR | O_CREAT | O_EXCL | PG_BINARY,
				  pg_file_create_mode);
	}
	if (fd < 0)
		ereport(ERROR,
				(errcode_for_file_access(),
				 errmsg("could not create file \"%s\": %m", path)));
	own_fd = fd;
}

/* Creates the file of the executor in that slot. */
void
saga_inflight_open(int slot, uint32 generation)
{
	own_slot = slot;
	own_generation = generation;
	create_file();
}

/* Notes what is about to run. */
void
saga_inflight_write(const SagaInflight *record)
{
	SagaInflight copy = *record;
	InflightFile file;
	ssize_t		written;

	if (own_fd < 0)
		create_file();
	copy.life = saga_shmem->life;
	copy.pid = MyProcPid;
	copy.nonce = own_nonce;
	copy.slot = own_slot;
	copy.generation = own_generation;
	copy.database = MyDatabaseId;
	copy.alone = false;
	copy.judged = false;
	copy.state = SAGA_INFLIGHT_RUNNING;
	file_fill(&file, &copy);

	errno = 0;
	written = pg_pwrite(own_fd, &file, sizeof(file), 0);
	own_state = SAGA_INFLIGHT_RUNNING;
	if (written != sizeof(file))
	{
		if (errno == 0)
			errno = ENOSPC;
		ereport(ERROR,
				(errcode_for_file_access(),
				 errmsg("could not note which SQL is about to run: %m")));
	}
}

/*
 * Changes the state of the record.  May be called from a signal handler, and
 * cannot fail in a way that anybody could act on: the file has its size.  What
 * ran on after its timeout stays that when it is then cut short for it.
 */
void
saga_inflight_mark(SagaInflightState state)
{
	uint32		value = (uint32) state;
	int			save_errno = errno;

	if (state == SAGA_INFLIGHT_CUT && own_state == SAGA_INFLIGHT_TIMED_OUT)
		return;
	own_state = state;
	if (own_fd >= 0)
	{
		ssize_t		rc pg_attribute_unused();

		rc = pg_pwrite(own_fd, &value, sizeof(value),
					   offsetof(InflightFile, state));
	}
	errno = save_errno;
}

/* Is it being ended because it ran on after its timeout? */
bool
saga_inflight_timed_out(void)
{
	return own_state == SAGA_INFLIGHT_TIMED_OUT;
}

/*
 * Leaves the record to the worker, with how the attempt ended; the next one
 * gets a file of its own.  What cannot be written here reads as cut short.
 */
void
saga_inflight_leave(const SagaInflightEnd *end)
{
	ssize_t		rc pg_attribute_unused();

	if (own_fd < 0)
		return;
	rc = pg_pwrite(own_fd, end, sizeof(SagaInflightEnd), sizeof(InflightFile));
	saga_inflight_mark(SAGA_INFLIGHT_ENDED);
	close(own_fd);
	own_fd = -1;
	own_state = SAGA_INFLIGHT_NONE;
}

/*
 * Removes the executor's own file, on a clean exit.  Not when it holds
 * something that the worker is to record: the caller knows.
 */
void
saga_inflight_close(void)
{
	char		path[MAXPGPATH];

	if (own_fd < 0)
		return;
	close(own_fd);
	own_fd = -1;
	file_path(path, saga_shmem->life, MyProcPid, own_nonce);
	(void) unlink(path);
}

/*
 * Reads one file.  False: there is nothing in it; what is torn or foreign is
 * removed with a warning.
 */
static bool
read_record(const char *name, uint64 life, SagaInflight *record)
{
	char		path[MAXPGPATH];
	InflightFile file;
	SagaInflightEnd end;
	ssize_t		got;
	ssize_t		end_got;
	int			fd;

	snprintf(path, MAXPGPATH, "%s/%s", PG_STAT_TMP_DIR, name);
	fd = OpenTransientFile(path, O_RDONLY | PG_BINARY);
	if (fd < 0)
	{
		if (errno != ENOENT)
			ereport(WARNING,
					(errcode_for_file_access(),
					 errmsg("could not open file \"%s\": %m", path)));
		return false;
	}
	got = read(fd, &file, sizeof(file));
	end_got = read(fd, &end, sizeof(end));
	CloseTransientFile(fd);

	/* Created, and the executor died before it wrote: nothing had begun. */
	if (got == 0)
	{
		memset(record, 0, sizeof(SagaInflight));
		return false;
	}
	if (got != sizeof(file) ||
		file.magic != SAGA_INFLIGHT_MAGIC ||
		file.state > SAGA_INFLIGHT_ENDED ||
		!EQ_CRC32C(file.crc, record_crc(&file.record)))
	{
		/* It is of this life: its executor is writing it at this moment. */
		if (life == saga_shmem->life)
			return false;
		ereport(WARNING,
				(errmsg("ignoring invalid in-flight file \"%s\"",
						path)));
		(void) unlink(path);
		return false;
	}
	memset(record, 0, sizeof(SagaInflight));
	record->life = file.record.life;
	record->pid = file.record.pid;
	record->nonce = file.record.nonce;
	record->slot = file.record.slot;
	record->generation = file.record.generation;
	record->database = file.record.database;
	record->state = (SagaInflightState) file.state;
	record->alone = file.record.alone;
	record->judged = file.record.judged;
	record->saga = file.record.saga;
	record->phase = file.record.phase;
	record->seq = file.record.seq;
	record->attempt = file.record.attempt;
	record->started_at = file.record.started_at;
	if (record->state == SAGA_INFLIGHT_ENDED)
	{
		if (end_got == sizeof(SagaInflightEnd))
			record->end = end;
		else
			record->state = SAGA_INFLIGHT_CUT;
	}
	return true;
}

/*
 * Splits a file's name; false if it is none of ours.  The life is what the
 * records that cannot be read have, too.
 */
static bool
parse_name(const char *name, uint64 *life, int *pid)
{
	unsigned long long l;
	unsigned int nonce;
	int			end = 0;

	if (strncmp(name, SAGA_INFLIGHT_PREFIX, strlen(SAGA_INFLIGHT_PREFIX)) != 0)
		return false;
	if (sscanf(name + strlen(SAGA_INFLIGHT_PREFIX), "%16llx.%d.%8x%n",
			   &l, pid, &nonce, &end) != 3 ||
		name[strlen(SAGA_INFLIGHT_PREFIX) + end] != '\0')
		return false;
	*life = (uint64) l;
	return true;
}

/*
 * All records that say something, of this life or of earlier ones, in the
 * current memory context.  Files of earlier lives with nothing in them are
 * removed on the way.
 */
static List *
read_all(bool earlier_only)
{
	List	   *records = NIL;
	DIR		   *dir = AllocateDir(PG_STAT_TMP_DIR);
	struct dirent *entry;

	if (dir == NULL)
	{
		if (errno != ENOENT)
			ereport(WARNING,
					(errcode_for_file_access(),
					 errmsg("could not open directory \"%s\": %m",
							PG_STAT_TMP_DIR)));
		return NIL;
	}
	while ((entry = ReadDirExtended(dir, PG_STAT_TMP_DIR, WARNING)) != NULL)
	{
		SagaInflight record;
		uint64		life;
		int			pid;

		if (!parse_name(entry->d_name, &life, &pid))
			continue;
		if (earlier_only && life == saga_shmem->life)
			continue;
		if (read_record(entry->d_name, life, &record) &&
			record.state != SAGA_INFLIGHT_NONE)
		{
			SagaInflight *copy = palloc(sizeof(SagaInflight));

			*copy = record;
			records = lappend(records, copy);
		}
		else if (life != saga_shmem->life)
		{
			char		path[MAXPGPATH];

			snprintf(path, MAXPGPATH, "%s/%s", PG_STAT_TMP_DIR, entry->d_name);
			(void) unlink(path);
		}
	}
	FreeDir(dir);
	return records;
}

/*
 * Decides, of each record that an earlier life left running, whether it was
 * the only one.  Needs no transaction.  Errors while writing a verdict leave
 * "alone" as it was, which errs on the side of the suspect.
 */
void
saga_inflight_recover(void)
{
	List	   *records = read_all(true);
	ListCell   *lc;

	foreach(lc, records)
	{
		SagaInflight *record = lfirst(lc);
		char		path[MAXPGPATH];
		InflightFile file;
		ListCell   *other;
		int			running = 0;
		int			fd;

		if (record->state != SAGA_INFLIGHT_RUNNING || record->judged)
			continue;
		foreach(other, records)
		{
			SagaInflight *o = lfirst(other);

			if (o->life == record->life && o->state == SAGA_INFLIGHT_RUNNING)
				running++;
		}
		record->alone = (running == 1);
		record->judged = true;

		file_fill(&file, record);
		file_path(path, record->life, record->pid, record->nonce);
		fd = OpenTransientFile(path, O_RDWR | PG_BINARY);
		if (fd < 0 ||
			pg_pwrite(fd, &file, sizeof(file), 0) != sizeof(file))
			ereport(WARNING,
					(errcode_for_file_access(),
					 errmsg("could not write file \"%s\": %m", path)));
		if (fd >= 0)
			CloseTransientFile(fd);
	}
	list_free_deep(records);
}

/*
 * Is the executor that wrote the record still there?  Its slot is its own until
 * it has left; another process may have its pid.
 */
static bool
is_alive(const SagaInflight *record)
{
	SagaExecutorSlot *slot;
	bool		alive;

	if (record->life != saga_shmem->life ||
		record->slot < 0 || record->slot >= SAGA_MAX_EXECUTORS)
		return false;
	slot = &saga_shmem->executors[record->slot];
	LWLockAcquire(saga_shmem->lock, LW_SHARED);
	alive = OidIsValid(slot->database) &&
		slot->generation == record->generation;
	LWLockRelease(saga_shmem->lock);
	return alive;
}

/*
 * A list of palloc'd SagaInflight.  One that this life left "running" without
 * its executor reads as cut short: had the server crashed, this would be
 * another life.
 */
List *
saga_inflight_leftovers(Oid database)
{
	List	   *records = read_all(false);
	List	   *result = NIL;
	ListCell   *lc;

	foreach(lc, records)
	{
		SagaInflight *record = lfirst(lc);

		if (record->database != database ||
			(record->state != SAGA_INFLIGHT_ENDED && is_alive(record)))
		{
			pfree(record);
			continue;
		}
		if (record->life == saga_shmem->life &&
			record->state == SAGA_INFLIGHT_RUNNING)
			record->state = SAGA_INFLIGHT_CUT;
		result = lappend(result, record);
	}
	list_free(records);
	return result;
}

void
saga_inflight_forget(const SagaInflight *record)
{
	char		path[MAXPGPATH];

	file_path(path, record->life, record->pid, record->nonce);
	if (unlink(path) != 0 && errno != ENOENT)
		ereport(WARNING,
				(errcode_for_file_access(),
				 errmsg("could not remove file \"%s\": %m", path)));
}
