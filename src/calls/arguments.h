/*-------------------------------------------------------------------------
 *
 * arguments.h
 *	  What callers give: is it allowed, and what does it mean?
 *
 *-------------------------------------------------------------------------
 */
#ifndef SAGA_INPUT_H
#define SAGA_INPUT_H

#include "fmgr.h"
#include "utils/jsonb.h"
#include "utils/timestamp.h"

#include "base/state.h"

/* Longest names and keys, in characters. */
#define SAGA_MAX_NAME	256
#define SAGA_MAX_KEY	512

/* NULL stands for an argument that was not given. */
extern text *saga_input_text(FunctionCallInfo fcinfo, int arg);
extern Jsonb *saga_input_jsonb(FunctionCallInfo fcinfo, int arg,
							   const char *what);

extern text *saga_input_name(FunctionCallInfo fcinfo, int arg,
							 const char *what, int limit, bool required);
extern text *saga_input_note(FunctionCallInfo fcinfo, int arg);
extern text *saga_input_channel(FunctionCallInfo fcinfo, int arg,
								const char *what);
extern void saga_input_notice_channel(const text *channel);
extern bytea *saga_input_hash(const bytea *known, Jsonb **values, int count);
extern bool saga_input_same_hash(const bytea *known, int number, Jsonb *value);
extern int64 saga_input_milliseconds(const Interval *interval,
									 const char *what);
extern void saga_input_check_sql(const text *sql);
extern void saga_input_policy(FunctionCallInfo fcinfo, int arg,
							  SagaPolicy *policy);
extern void saga_input_replace_policy(FunctionCallInfo fcinfo, int arg,
									  SagaPolicy *policy);
extern void saga_input_check_policy(const Datum *values, const bool *nulls);

#endif							/* SAGA_INPUT_H */
