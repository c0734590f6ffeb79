/*-------------------------------------------------------------------------
 *
 * words.h
 *	  How long the words may be that are kept for people.
 *
 *-------------------------------------------------------------------------
 */
#ifndef SAGA_WORDS_H
#define SAGA_WORDS_H

/* Words for a person: what is asked, notes, reasons, errors (bytes) */
#define SAGA_MAX_WORDS		(64 * 1024)
/* The SQL of an action or a compensation; a list of keys or names (bytes) */
#define SAGA_MAX_SQL		(1024 * 1024)
#define SAGA_MAX_LIST		(1024 * 1024)

extern text *saga_words_cut(text *words);
extern const char *saga_words_cut_string(const char *words);

#endif							/* SAGA_WORDS_H */
