/*-------------------------------------------------------------------------
 *
 * words.c
 *	  How long the words may be that are kept for people.
 *
 * Words go on from row to row: an error becomes the reason of a failure, which is in
 * an event and in the context of every compensation.  A jsonb holds 256 MB, and a
 * text of that size would make each of those an error, for ever, in whichever process
 * comes to it.  So nothing that long gets into the ledger.
 *
 * What a person asks for, or is to be asked, is refused if it is too long
 * (arguments.c).  What tells how something ended is cut: the end itself must not be
 * lost.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "base/compat.h"
#include "base/words.h"
#include "mb/pg_wchar.h"
#include "utils/builtins.h"

/* Room for the mark of what was cut */
#define MARK_LEN	64

/* A copy of the first of so many bytes, which says how many there were. */
static char *
cut(const char *words, size_t length)
{
	int			kept = pg_mbcliplen(words, length, SAGA_MAX_WORDS - MARK_LEN);
	char	   *copy = palloc(SAGA_MAX_WORDS);

	memcpy(copy, words, kept);
	snprintf(copy + kept, MARK_LEN, " ... (cut: it had %zu bytes)", length);
	return copy;
}

/* The words, or as much of them as is kept; NULL stays NULL. */
text *
saga_words_cut(text *words)
{
	if (words == NULL || VARSIZE_ANY_EXHDR(words) <= SAGA_MAX_WORDS)
		return words;
	return cstring_to_text(cut(VARDATA_ANY(words), VARSIZE_ANY_EXHDR(words)));
}

const char *
saga_words_cut_string(const char *words)
{
	size_t		length = words == NULL ? 0 : strlen(words);

	return length <= SAGA_MAX_WORDS ? words : cut(words, length);
}
