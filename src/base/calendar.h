/*-------------------------------------------------------------------------
 *
 * calendar.h
 *	  Intervals of days and months, by the time zone of who gave them.
 *
 *-------------------------------------------------------------------------
 */
#ifndef SAGA_CALENDAR_H
#define SAGA_CALENDAR_H

#include "datatype/timestamp.h"
#include "utils/jsonb.h"

/* The setting that says which zone it is */
#define SAGA_CALENDAR_ZONE	"TimeZone"

extern bool saga_calendar_needs_zone(const Interval *interval);
extern TimestampTz saga_calendar_add(TimestampTz at, const Interval *interval,
									 Jsonb *settings);

#endif							/* SAGA_CALENDAR_H */
