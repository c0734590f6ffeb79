/*-------------------------------------------------------------------------
 *
 * timeline.c
 *	  saga.timeline: what happened in a saga, and when, to look at in psql.
 *
 * A bar is drawn in plain characters, which every encoding and terminal has, and
 * each moment of the saga has the same column in all of them.  Whatever took time
 * has a character, however short it was; work covers waiting.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "calls/access.h"
#include "calls/lines.h"
#include "funcapi.h"
#include "miscadmin.h"
#include "utils/builtins.h"
#include "utils/fmgrprotos.h"
#include "utils/timestamp.h"
#include "utils/tuplestore.h"

PG_FUNCTION_INFO_V1(saga_sql_timeline);

enum
{
	Arg_saga_id, Arg_width
};

#define DEFAULT_WIDTH	60
#define MIN_WIDTH		10
#define MAX_WIDTH		1000

/* Number of lines above which neighbors are shown as one */
#define MOST_ROWS		50

#define IN_SAGA			'='
#define IN_FORWARD		'>'
#define IN_UNDO			'<'
#define IN_WAITING		'-'
#define IN_PAUSE		'.'

/*
 * Draws a stretch of time, between the boundaries of columns that are next to its
 * ends; what has no length has a character all the same.
 */
static void
draw(const SagaLines *lines, int width, char *bar, TimestampTz from,
	 TimestampTz to, char c)
{
	int			first = saga_lines_place(lines, from, width);
	int			end = saga_lines_place(lines, to, width);

	first = Min(first, width - 1);
	end = Min(end, width);
	bar[first] = c;
	for (int i = first + 1; i < end; i++)
		bar[i] = c;
}

/* Trailing blanks say nothing. */
static char *
trim(char *bar)
{
	int			length = strlen(bar);

	while (length > 0 && bar[length - 1] == ' ')
		length--;
	bar[length] = '\0';
	return bar;
}

static char *
empty_bar(int width)
{
	char	   *bar = palloc(width + 1);

	memset(bar, ' ', width);
	bar[width] = '\0';
	return bar;
}

/* First all that was waited for, then all that was done. */
static char *
bar_of(const SagaLines *lines, const SagaLineGroup *group, int width)
{
	char	   *bar = empty_bar(width);
	const SagaLine *line = &lines->line[group->first];

	for (int i = 0; i < group->count; i++)
		if (line[i].waits_since != 0)
			draw(lines, width, bar, line[i].waits_since,
				 line[i].began ? line[i].began : line[i].ended,
				 line[i].pauses ? IN_PAUSE : IN_WAITING);
	for (int i = 0; i < group->count; i++)
		if (line[i].began != 0)
			draw(lines, width, bar, line[i].began,
				 line[i].ended ? line[i].ended : line[i].began,
				 line[i].phase == SAGA_PHASE_FORWARD ? IN_FORWARD : IN_UNDO);
	return trim(bar);
}

static Datum
interval_between(TimestampTz from, TimestampTz to)
{
	return DirectFunctionCall2(timestamp_mi, TimestampTzGetDatum(to),
							   TimestampTzGetDatum(from));
}

/* The row of the saga itself: the scale of the others */
static void
emit_saga(ReturnSetInfo *result, const SagaLines *lines, int width)
{
	char	   *bar = empty_bar(width);
	Datum		values[7];
	bool		nulls[7] = {true, true, true};

	memset(bar, IN_SAGA, width);
	values[3] = CStringGetTextDatum(saga_state_name(lines->saga.state));
	values[4] = TimestampTzGetDatum(lines->begin);
	values[5] = interval_between(lines->begin, lines->end);
	values[6] = CStringGetTextDatum(bar);
	tuplestore_putvalues(result->setResult, result->setDesc, values, nulls);
}

static void
emit_group(ReturnSetInfo *result, const SagaLines *lines,
		   const SagaLineGroup *group, int width)
{
	const SagaLine *line = &lines->line[group->first];
	TimestampTz from;
	TimestampTz to;
	Datum		values[7];
	bool		nulls[7] = {false};

	saga_lines_span(lines, group, &from, &to);
	values[0] = CStringGetTextDatum(saga_lines_name(lines, group));
	values[1] = CStringGetTextDatum(saga_state_phase_name(line->phase));
	nulls[1] = !group->same_phase;
	values[2] = Int32GetDatum(line->attempt);
	nulls[2] = group->count > 1;
	values[3] = CStringGetTextDatum(saga_lines_outcome(lines, group));
	values[4] = TimestampTzGetDatum(line->began);
	nulls[4] = line->began == 0;
	values[5] = interval_between(from, to);
	nulls[5] = to == 0;
	values[6] = CStringGetTextDatum(bar_of(lines, group, width));
	tuplestore_putvalues(result->setResult, result->setDesc, values, nulls);
}

/* saga.timeline(saga_id, width) */
Datum
saga_sql_timeline(PG_FUNCTION_ARGS)
{
	ReturnSetInfo *result = (ReturnSetInfo *) fcinfo->resultinfo;
	const pg_uuid_t *id = saga_access_id(fcinfo, Arg_saga_id);
	int			width = PG_ARGISNULL(Arg_width) ? DEFAULT_WIDTH :
		PG_GETARG_INT32(Arg_width);
	SagaLines	lines;
	SagaLineGroup *groups;
	int			count;

	if (width < MIN_WIDTH || width > MAX_WIDTH)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("width must be from %d to %d", MIN_WIDTH, MAX_WIDTH),
				 errdetail("It is %d.", width),
				 errhint("It is the number of characters of the longest bar.")));
	saga_lines_read(id, &lines);
	InitMaterializedSRF(fcinfo, 0);
	count = saga_lines_group(&lines, MOST_ROWS, &groups);
	emit_saga(result, &lines, width);
	for (int i = 0; i < count; i++)
	{
		CHECK_FOR_INTERRUPTS();
		emit_group(result, &lines, &groups[i], width);
	}
	return (Datum) 0;
}
