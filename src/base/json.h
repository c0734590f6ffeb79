/*-------------------------------------------------------------------------
 *
 * json.h
 *	  Builds jsonb objects.
 *
 *-------------------------------------------------------------------------
 */
#ifndef SAGA_JSON_H
#define SAGA_JSON_H

#include "base/compat.h"
#include "datatype/timestamp.h"
#include "nodes/pg_list.h"
#include "utils/jsonb.h"

/* Bytes of a value up to which its text cannot be very long, whatever it holds */
#define SAGA_JSON_SMALL		512
/* Levels to which a value may be nested, if it is not as small as that */
#define SAGA_JSON_DEPTH		1000

typedef struct SagaJson
{
	SagaCompatJsonb state;
} SagaJson;

extern void saga_json_begin(SagaJson *json);
extern Jsonb *saga_json_end(SagaJson *json);

/* An object with one member. */
extern Jsonb *saga_json_pair(const char *key, const char *value);

extern Size saga_json_digits(Jsonb *value, Size enough);
extern const char *saga_json_misfit(Jsonb *value, Size limit);

extern void saga_json_open(SagaJson *json, const char *key);
extern void saga_json_close(SagaJson *json);

/* One member each; a NULL pointer, and a time of 0, become null. */
extern void saga_json_string(SagaJson *json, const char *key, const char *value);
extern void saga_json_text(SagaJson *json, const char *key, const text *value);
extern void saga_json_int(SagaJson *json, const char *key, int64 value);
extern void saga_json_float(SagaJson *json, const char *key, double value);
extern void saga_json_time(SagaJson *json, const char *key, TimestampTz value);
extern void saga_json_milliseconds(SagaJson *json, const char *key, int64 value);
extern void saga_json_value(SagaJson *json, const char *key, Jsonb *value);

/* An array of strings. */
extern void saga_json_strings(SagaJson *json, const char *key, const List *strings);

#endif							/* SAGA_JSON_H */
