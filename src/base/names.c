/*-------------------------------------------------------------------------
 *
 * names.c
 *	  Hash tables by names of any length.
 *
 * The server's tables by strings (HASH_STRINGS) hold them within their entries, at
 * one length.  Here an entry begins with a pointer to its name, a C string that
 * must live as long as the table.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "base/names.h"
#include "common/hashfn.h"

static uint32
hash_name(const void *key, Size size)
{
	const char *string = *(const char *const *) key;

	return hash_bytes((const unsigned char *) string, strlen(string));
}

static int
compare_names(const void *a, const void *b, Size size)
{
	return strcmp(*(const char *const *) a, *(const char *const *) b);
}

/* A table whose entries begin with a char *, in the current memory context. */
HTAB *
saga_names_table(const char *what, long size, Size entrysize)
{
	HASHCTL		control;

	memset(&control, 0, sizeof(control));
	control.keysize = sizeof(char *);
	control.entrysize = entrysize;
	control.hash = hash_name;
	control.match = compare_names;
	control.hcxt = CurrentMemoryContext;
	return hash_create(what, size, &control,
					   HASH_ELEM | HASH_FUNCTION | HASH_COMPARE | HASH_CONTEXT);
}
