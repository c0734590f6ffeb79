/*-------------------------------------------------------------------------
 *
 * stat_file.c
 *	  The file that keeps the counters while the server is down.
 *
 * The postmaster writes it as it shuts down, and reads and removes it as it
 * starts.  So there is none while the server runs: after a crash, the counters
 * begin at zero, as those of the server do, and no backup of a running server has
 * them.  (An immediate shutdown keeps them, unlike those of the server.)
 *
 * The file is made under another name, so that it is whole or not there; a magic
 * number and a checksum show whether this version wrote it, and all of it.
 *
 * What is in it is up to stat_table.c.  Errors are logged: statistics keep no server
 * from starting or stopping.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include <unistd.h>

#include "pgstat.h"
#include "port/pg_crc32c.h"
#include "shared/stat_file.h"
#include "storage/fd.h"

#define STAT_FILE		PGSTAT_STAT_PERMANENT_DIRECTORY "/saga.stat"
#define STAT_FILE_NEW	STAT_FILE ".tmp"
#define STAT_MAGIC		0x53544101	/* changes with the layout */

/* Being written */
static FILE *file = NULL;
static pg_crc32c crc;

/* Being read, and what is left of it */
static char *content = NULL;
static const char *rest = NULL;
static Size left = 0;

static void
report(const char *what, const char *path)
{
	ereport(LOG,
			(errcode_for_file_access(),
			 errmsg("could not %s file \"%s\": %m", what, path)));
}

/* ------------------------------------------------------------------------
 * Writing
 * ------------------------------------------------------------------------ */

bool
saga_stat_file_create(void)
{
	uint32		magic = STAT_MAGIC;

	file = AllocateFile(STAT_FILE_NEW, PG_BINARY_W);
	if (file == NULL)
	{
		report("create", STAT_FILE_NEW);
		return false;
	}
	INIT_CRC32C(crc);
	saga_stat_file_put(&magic, sizeof(magic));
	return true;
}

/* Writes some bytes.  An error is noticed in saga_stat_file_finish. */
void
saga_stat_file_put(const void *data, Size size)
{
	COMP_CRC32C(crc, data, size);
	(void) fwrite(data, size, 1, file);
}

void
saga_stat_file_finish(void)
{
	bool		failed;

	FIN_CRC32C(crc);
	(void) fwrite(&crc, sizeof(crc), 1, file);
	failed = ferror(file) != 0;
	if (FreeFile(file) != 0 || failed)
	{
		report("write", STAT_FILE_NEW);
		(void) unlink(STAT_FILE_NEW);
	}
	else
		/* It reports its errors itself. */
		(void) durable_rename(STAT_FILE_NEW, STAT_FILE, LOG);
	file = NULL;
}

/* ------------------------------------------------------------------------
 * Reading
 * ------------------------------------------------------------------------ */

/* Reads the whole file, and removes it; false if there is nothing to read. */
static bool
take_file(void)
{
	FILE	   *stream = AllocateFile(STAT_FILE, PG_BINARY_R);
	long		size;

	if (stream == NULL)
	{
		if (errno != ENOENT)
			report("open", STAT_FILE);
		return false;
	}
	if (fseek(stream, 0, SEEK_END) == 0 && (size = ftell(stream)) > 0 &&
		fseek(stream, 0, SEEK_SET) == 0)
	{
		content = malloc(size);
		if (content != NULL && fread(content, size, 1, stream) == 1)
			left = size;
	}
	if (left == 0)
		report("read", STAT_FILE);
	FreeFile(stream);
	if (unlink(STAT_FILE) != 0)
		report("remove", STAT_FILE);
	return left != 0;
}

/* Is it all there, as this version writes it? */
static bool
is_valid_file(void)
{
	uint32		magic;
	pg_crc32c	stored;

	if (left < sizeof(magic) + sizeof(stored))
		return false;
	left -= sizeof(stored);
	memcpy(&stored, content + left, sizeof(stored));
	INIT_CRC32C(crc);
	COMP_CRC32C(crc, content, left);
	FIN_CRC32C(crc);
	rest = content;
	return EQ_CRC32C(crc, stored) &&
		saga_stat_file_get(&magic, sizeof(magic)) && magic == STAT_MAGIC;
}

bool
saga_stat_file_open(void)
{
	bool		valid;

	/* What a shutdown that was cut short has left */
	(void) unlink(STAT_FILE_NEW);
	valid = take_file();
	if (valid && !is_valid_file())
	{
		ereport(LOG,
				(errmsg("ignoring invalid statistics file \"%s\"", STAT_FILE)));
		valid = false;
	}
	if (!valid)
		saga_stat_file_close();
	return valid;
}

/* The next part; false: there is no more. */
bool
saga_stat_file_get(void *data, Size size)
{
	if (left < size)
		return false;
	memcpy(data, rest, size);
	rest += size;
	left -= size;
	return true;
}

void
saga_stat_file_close(void)
{
	free(content);
	content = NULL;
	rest = NULL;
	left = 0;
}
