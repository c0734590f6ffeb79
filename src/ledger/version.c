/*-------------------------------------------------------------------------
 *
 * version.c
 *	  Does the extension that is created here fit this library?
 *
 * The library is the server's, from one start to the next; the extension is
 * the database's, and changes when somebody says ALTER EXTENSION.  So one may
 * be older than the other.  A library serves the versions that it knows: its
 * own, and those before it whose tables it can still read and write, from
 * SERVES_FROM on.  Any other ledger it leaves alone: calls are refused, and the
 * worker holds still (oids.c, worker.c).
 *
 * A newer extension is better not made at all.  With the new files installed and
 * the server not yet restarted, ALTER EXTENSION would run the new script under
 * the old library, and nothing could be called until the restart.  So it is
 * refused beforehand (statements.c).
 *
 * The library's own version is that of saga.control; the Makefile brings it
 * here.  Anybody may come here, in a transaction.  Nothing is shared, and nothing
 * remembered; oids.c remembers that all fits.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/genam.h"
#include "access/htup_details.h"
#include "access/table.h"
#include "base/errors.h"
#include "base/guc.h"
#include "catalog/pg_extension.h"
#include "ledger/version.h"
#include "utils/builtins.h"
#include "utils/fmgroids.h"
#include "utils/rel.h"

/* The oldest version of the extension whose tables this library knows */
#define SERVES_FROM		"1.0"

/* The version of the extension in this database; NULL: there is none. */
static char *
installed_version(void)
{
	Relation	heap = table_open(ExtensionRelationId, AccessShareLock);
	ScanKeyData key;
	SysScanDesc scan;
	HeapTuple	tuple;
	char	   *version = NULL;

	ScanKeyInit(&key, Anum_pg_extension_extname, BTEqualStrategyNumber,
				F_NAMEEQ, CStringGetDatum(SAGA_EXTENSION));
	scan = systable_beginscan(heap, ExtensionNameIndexId, true, NULL, 1, &key);
	tuple = systable_getnext(scan);
	if (HeapTupleIsValid(tuple))
	{
		bool		isnull;
		Datum		value = heap_getattr(tuple, Anum_pg_extension_extversion,
										 RelationGetDescr(heap), &isnull);

		if (!isnull)
			version = TextDatumGetCString(value);
	}
	systable_endscan(scan);
	table_close(heap, AccessShareLock);
	return version;
}

/* Less than 0, 0, more: "1.9" comes before "1.10", and "1.0" before "1.0.1". */
static int
compare_versions(const char *a, const char *b)
{
	for (;;)
	{
		char	   *after_a;
		char	   *after_b;
		unsigned long x = strtoul(a, &after_a, 10);
		unsigned long y = strtoul(b, &after_b, 10);

		if (x != y)
			return x < y ? -1 : 1;
		if (*after_a == '\0' || *after_b == '\0' || *after_a != *after_b)
			return (int) (unsigned char) *after_a - (int) (unsigned char) *after_b;
		a = after_a + 1;
		b = after_b + 1;
	}
}

/*
 * Why this library must leave the ledger of this database alone, and what to do
 * about it; NULL: it serves this version, or there is none.
 */
const char *
saga_version_misfit(const char **hint)
{
	char	   *version = installed_version();

	if (version == NULL)
		return NULL;
	if (compare_versions(version, SAGA_VERSION) > 0)
		*hint = psprintf("Install saga %s, and restart the server.", version);
	else if (compare_versions(version, SERVES_FROM) < 0)
		*hint = "Run ALTER EXTENSION saga UPDATE.";
	else
		return NULL;
	return psprintf("extension \"%s\" is of version %s in this database, and its library of version %s",
					SAGA_EXTENSION, version, SAGA_VERSION);
}

/* Refuses to make the extension newer than the library that is loaded. */
void
saga_version_refuse_newer(const char *version)
{
	if (compare_versions(version, SAGA_VERSION) > 0)
		ereport(ERROR,
				(errcode(ERRCODE_SAGA_UNAVAILABLE),
				 errmsg("cannot bring extension \"%s\" to version %s: the server has loaded its library of version %s",
						SAGA_EXTENSION, version, SAGA_VERSION),
				 errhint("Restart the server, which loads the library of version %s, and then repeat this.",
						 version)));
}
