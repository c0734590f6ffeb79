/*-------------------------------------------------------------------------
 *
 * stats.c
 *	  The cumulative counters, for saga.stat and the views beside it.
 *
 * They are read from shared memory, as of now and not of the query's snapshot.
 * What is counted by name is shown as the sagas are: to the role that owns them, and
 * to those who may see all.  What is not is without names, and shown to all who may
 * use the schema; but names that found no place, which nobody can tell apart, are
 * shown together, with name NULL, to those who may see all.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "base/clock.h"
#include "base/rights.h"
#include "fmgr.h"
#include "funcapi.h"
#include "mb/pg_wchar.h"
#include "shared/stat.h"
#include "utils/builtins.h"
#include "utils/float.h"
#include "utils/timestamp.h"
#include "utils/tuplestore.h"

PG_FUNCTION_INFO_V1(saga_sql_stat_sagas);
PG_FUNCTION_INFO_V1(saga_sql_stat_channels);
PG_FUNCTION_INFO_V1(saga_sql_stat_attempts);
PG_FUNCTION_INFO_V1(saga_sql_stat_times);
PG_FUNCTION_INFO_V1(saga_sql_stat_workers);
PG_FUNCTION_INFO_V1(saga_sql_stat_reset);

/* Columns beside the counters of a name: it, and since when */
#define NAME_COLUMNS	2

static Datum
milliseconds(uint64 microseconds)
{
	return Float8GetDatum((double) microseconds / 1000);
}

/* Was anything counted?  A name may be known by a transaction that was rolled back. */
static bool
any_counted(const uint64 *counter, int count)
{
	for (int i = 0; i < count; i++)
		if (counter[i] != 0)
			return true;
	return false;
}

/* A row of a name; NULL: of those without a place */
static void
put_name(ReturnSetInfo *result, const SagaStatName *name, const uint64 *counter,
		 int count, TimestampTz reset_at)
{
	Datum		values[NAME_COLUMNS + SAGA_STAT_PLACE_COUNTERS];
	bool		nulls[NAME_COLUMNS + SAGA_STAT_PLACE_COUNTERS] = {false};

	if (!any_counted(counter, count))
		return;
	nulls[0] = name == NULL;
	if (name != NULL)
		values[0] = PointerGetDatum(cstring_to_text_with_len(name->name, name->length));
	for (int i = 0; i < count; i++)
		values[1 + i] = Int64GetDatum((int64) counter[i]);
	values[1 + count] = TimestampTzGetDatum(reset_at);
	tuplestore_putvalues(result->setResult, result->setDesc, values, nulls);
}

/* The names of a kind, with so many counters; those of all others are at "others". */
static Datum
put_names(FunctionCallInfo fcinfo, SagaStatKind kind, int count, int others)
{
	ReturnSetInfo *result = (ReturnSetInfo *) fcinfo->resultinfo;
	uint64		counter[SAGA_STAT_COUNTERS];
	TimestampTz reset_at;
	SagaStatName name;
	int			position = 0;
	bool		all = saga_rights_sees_all();

	InitMaterializedSRF(fcinfo, 0);
	if (!saga_stat_table_read(counter, &reset_at))
		return (Datum) 0;
	while (saga_stat_table_next_name(&position, &name))
		if (name.kind == kind && (all || saga_rights_has_rights_of(name.owner)))
			put_name(result, &name, name.counter, count, reset_at);
	if (all)
		put_name(result, NULL, counter + others, count, reset_at);
	return (Datum) 0;
}

/* internal_stat_sagas() */
Datum
saga_sql_stat_sagas(PG_FUNCTION_ARGS)
{
	return put_names(fcinfo, SAGA_STAT_OF_SAGA, SAGA_STAT_SAGA_COUNTERS,
					 SAGA_STAT_AT_SAGA);
}

/* internal_stat_channels() */
Datum
saga_sql_stat_channels(PG_FUNCTION_ARGS)
{
	return put_names(fcinfo, SAGA_STAT_OF_CHANNEL, SAGA_STAT_CHANNEL_COUNTERS,
					 SAGA_STAT_AT_CHANNEL);
}

/* internal_stat_attempts() */
Datum
saga_sql_stat_attempts(PG_FUNCTION_ARGS)
{
	ReturnSetInfo *result = (ReturnSetInfo *) fcinfo->resultinfo;
	uint64		counter[SAGA_STAT_COUNTERS];
	TimestampTz reset_at;

	InitMaterializedSRF(fcinfo, 0);
	if (!saga_stat_table_read(counter, &reset_at))
		return (Datum) 0;
	for (int i = 0; i < SAGA_STAT_ATTEMPT_KINDS; i++)
	{
		SagaPhase	phase = saga_stat_phases[i / SAGA_STAT_OUTCOMES];
		SagaOutcome outcome = saga_stat_outcomes[i % SAGA_STAT_OUTCOMES];
		Datum		values[5];
		bool		nulls[5] = {false};

		values[0] = CStringGetTextDatum(saga_state_phase_name(phase));
		values[1] = CStringGetTextDatum(saga_state_outcome_name(outcome));
		values[2] = Int64GetDatum((int64) counter[SAGA_STAT_AT_ATTEMPTS + i]);
		values[3] = milliseconds(counter[SAGA_STAT_AT_ATTEMPT_TIMES + i]);
		values[4] = TimestampTzGetDatum(reset_at);
		tuplestore_putvalues(result->setResult, result->setDesc, values, nulls);
	}
	return (Datum) 0;
}

/* The distribution of a time, by what is not longer than each bound. */
static void
put_times(ReturnSetInfo *result, SagaStatTime what, const uint64 *counter,
		  TimestampTz reset_at)
{
	static const char *const words[SAGA_STAT_TIMES] = {
		"saga", "first_undo", "first_action"
	};
	const uint64 *bucket = counter + SAGA_STAT_AT_TIMES + what * SAGA_STAT_BUCKETS;
	int64		sum = 0;

	for (int i = 0; i < SAGA_STAT_BUCKETS; i++)
	{
		Datum		values[5];
		bool		nulls[5] = {false};

		sum += bucket[i];
		values[0] = CStringGetTextDatum(words[what]);
		values[1] = Float8GetDatum(i < SAGA_STAT_BOUNDS ? saga_stat_bounds[i] :
								   get_float8_infinity());
		values[2] = Int64GetDatum(sum);
		values[3] = milliseconds(counter[SAGA_STAT_AT_TIME_SUMS + what]);
		values[4] = TimestampTzGetDatum(reset_at);
		tuplestore_putvalues(result->setResult, result->setDesc, values, nulls);
	}
}

/* internal_stat_times() */
Datum
saga_sql_stat_times(PG_FUNCTION_ARGS)
{
	uint64		counter[SAGA_STAT_COUNTERS];
	TimestampTz reset_at;

	InitMaterializedSRF(fcinfo, 0);
	if (!saga_stat_table_read(counter, &reset_at))
		return (Datum) 0;
	for (int i = 0; i < SAGA_STAT_TIMES; i++)
		put_times((ReturnSetInfo *) fcinfo->resultinfo, i, counter, reset_at);
	return (Datum) 0;
}

/* internal_stat_workers() */
Datum
saga_sql_stat_workers(PG_FUNCTION_ARGS)
{
	ReturnSetInfo *result = (ReturnSetInfo *) fcinfo->resultinfo;
	uint64		counter[SAGA_STAT_COUNTERS];
	const uint64 *process = counter + SAGA_STAT_AT_PROCESSES;
	TimestampTz reset_at;
	Datum		values[5];
	bool		nulls[5] = {false};

	InitMaterializedSRF(fcinfo, 0);
	if (!saga_stat_table_read(counter, &reset_at))
		return (Datum) 0;
	values[0] = Int64GetDatum((int64) process[SAGA_STAT_WORKER_STARTS]);
	values[1] = Int64GetDatum((int64) process[SAGA_STAT_WAKEUPS]);
	values[2] = Int64GetDatum((int64) process[SAGA_STAT_EXECUTOR_STARTS]);
	values[3] = milliseconds(process[SAGA_STAT_EXECUTOR_IDLE]);
	values[4] = TimestampTzGetDatum(reset_at);
	tuplestore_putvalues(result->setResult, result->setDesc, values, nulls);
	return (Datum) 0;
}

/* saga.stat_reset(); who may call it is said by its grants. */
Datum
saga_sql_stat_reset(PG_FUNCTION_ARGS)
{
	saga_stat_table_reset(saga_clock_now());
	PG_RETURN_VOID();
}
