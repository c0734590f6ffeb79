/*-------------------------------------------------------------------------
 *
 * calendar.c
 *	  Intervals of days and months, by the time zone of who gave them.
 *
 * A day has 23 to 25 hours where summer time begins or ends, so that "in a day"
 * means another moment in another time zone.  What an application says it says by
 * its own, and a process of ours, which has another, does the sum later.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "base/calendar.h"
#include "base/compat.h"
#include "pgtime.h"
#include "utils/datetime.h"
#include "utils/fmgrprotos.h"
#include "utils/timestamp.h"

/* Does what the interval means depend on the time zone? */
bool
saga_calendar_needs_zone(const Interval *interval)
{
	return (interval->month != 0 || interval->day != 0) &&
		!saga_compat_interval_is_infinite(interval);
}

/* The time zone of the settings that were kept with a step; NULL: none was. */
static pg_tz *
zone_of(Jsonb *settings)
{
	JsonbValue	space;
	JsonbValue *value;
	char	   *name;
	pg_tz	   *zone;

	if (settings == NULL)
		return NULL;
	settings = DatumGetJsonbP(PointerGetDatum(settings));
	value = getKeyJsonValueFromContainer(&settings->root, SAGA_CALENDAR_ZONE,
										 strlen(SAGA_CALENDAR_ZONE), &space);
	if (value == NULL || value->type != jbvString)
		return NULL;
	name = pnstrdup(value->val.string.val, value->val.string.len);
	zone = pg_tzset(name);
	pfree(name);
	return zone;
}

/* Days and months later by the wall clock of a time zone */
static TimestampTz
add_on_the_wall(TimestampTz at, const Interval *calendar, pg_tz *zone)
{
	struct pg_tm tm;
	fsec_t		fsec;
	Timestamp	wall;
	int			offset;

	if (timestamp2tm(at, &offset, &tm, &fsec, NULL, zone) != 0 ||
		tm2timestamp(&tm, fsec, NULL, &wall) != 0)
		ereport(ERROR,
				(errcode(ERRCODE_DATETIME_VALUE_OUT_OF_RANGE),
				 errmsg("timestamp out of range")));
	wall = DatumGetTimestamp(DirectFunctionCall2(timestamp_pl_interval,
												 TimestampGetDatum(wall),
												 IntervalPGetDatum(calendar)));
	if (timestamp2tm(wall, NULL, &tm, &fsec, NULL, NULL) == 0)
	{
		offset = DetermineTimeZoneOffset(&tm, zone);
		if (tm2timestamp(&tm, fsec, &offset, &at) == 0)
			return at;
	}
	ereport(ERROR,
			(errcode(ERRCODE_DATETIME_VALUE_OUT_OF_RANGE),
			 errmsg("timestamp out of range")));
}

/*
 * Adds an interval to a moment.  Days and months are those of the time zone in the
 * settings (an object, or NULL); of the session, if they have none.  A negative
 * interval counts as zero: what waits is due at that moment, not before it.
 */
TimestampTz
saga_calendar_add(TimestampTz at, const Interval *interval, Jsonb *settings)
{
	Interval	calendar = *interval;
	Interval	rest = *interval;
	TimestampTz later = at;
	pg_tz	   *zone = NULL;

	if (saga_calendar_needs_zone(interval))
		zone = zone_of(settings);
	if (zone != NULL)
	{
		calendar.time = 0;
		rest.month = rest.day = 0;
		later = add_on_the_wall(at, &calendar, zone);
	}
	later = DatumGetTimestampTz(DirectFunctionCall2(timestamptz_pl_interval,
													TimestampTzGetDatum(later),
													IntervalPGetDatum(&rest)));
	return Max(at, later);
}
