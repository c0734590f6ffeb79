/*-------------------------------------------------------------------------
 *
 * arguments.h
 *	  What callers give: is it allowed, and what does it mean?
 *
 *-------------------------------------------------------------------------
 */
#ifndef SAGA_ARGUMENTS_H
#define SAGA_ARGUMENTS_H

#include "fmgr.h"
#include "utils/array.h"
#include "utils/jsonb.h"
#include "utils/timestamp.h"

#include "base/state.h"

/* Longest names and keys, in characters. */
#define SAGA_MAX_NAME	256
#define SAGA_MAX_KEY	512

/* NULL stands for an argument that was not given. */
extern text *saga_arguments_text(FunctionCallInfo fcinfo, int arg);
extern text *saga_arguments_words(FunctionCallInfo fcinfo, int arg,
								  const char *what);
extern text *saga_arguments_outcome(FunctionCallInfo fcinfo, int arg);
extern void saga_arguments_check_list(const ArrayType *list, const char *what,
									  const char *hint);
extern Jsonb *saga_arguments_jsonb(FunctionCallInfo fcinfo, int arg,
								   const char *what);

extern text *saga_arguments_name(FunctionCallInfo fcinfo, int arg,
								 const char *what, int limit, bool required);
extern int	saga_arguments_parse_word(const char *word, const char *what,
									  const struct config_enum_entry *words);
extern int	saga_arguments_word(FunctionCallInfo fcinfo, int arg,
								const char *what,
								const struct config_enum_entry *words,
								bool required);
extern text *saga_arguments_note(FunctionCallInfo fcinfo, int arg);
extern text *saga_arguments_channel(FunctionCallInfo fcinfo, int arg,
									const char *what);
extern bool saga_arguments_record_late(FunctionCallInfo fcinfo, int arg);
extern bool saga_arguments_same_jsonb(Jsonb *a, Jsonb *b);
extern void saga_arguments_notice_channel(const text *channel);
extern bytea *saga_arguments_hash(const bytea *known, Jsonb **values, int count);
extern bool saga_arguments_same_hash(const bytea *known, int number, Jsonb *value);
extern int64 saga_arguments_milliseconds(const Interval *interval,
										 const char *what);
extern void saga_arguments_check_delay(const Interval *interval, const char *what);
extern void saga_arguments_check_sql(const text *sql, const char *what);

#endif							/* SAGA_ARGUMENTS_H */
