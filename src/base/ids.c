/*-------------------------------------------------------------------------
 *
 * ids.c
 *	  Time-ordered UUIDs, version 7 (RFC 9562).
 *
 * 48 bits of milliseconds, 12 bits of the fraction of the millisecond (method
 * 3 of the RFC), 62 random bits.  Within a backend each is larger than the one
 * before, whatever the clock does: a time that is not later than the last is
 * counted on from it.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "base/ids.h"
#include "utils/builtins.h"
#include "utils/timestamp.h"

/* Time of the last one, in 1/4096 of a millisecond since the Unix epoch. */
static uint64 last_time = 0;

/* A time in that unit; it must not be before the Unix epoch. */
static uint64
time_of(TimestampTz at)
{
	uint64		us;

	us = (uint64) (at + (POSTGRES_EPOCH_JDATE - UNIX_EPOCH_JDATE) * USECS_PER_DAY);
	return ((us / 1000) << 12) | ((us % 1000) * 4096 / 1000);
}

/* Writes a time, the version and the variant; the rest stays. */
static void
put_time(pg_uuid_t *uuid, uint64 time)
{
	uint64		ms = time >> 12;
	uint32		fraction = time & 0xFFF;

	for (int i = 0; i < 6; i++)
		uuid->data[i] = (unsigned char) (ms >> (8 * (5 - i)));
	uuid->data[6] = (unsigned char) (0x70 | (fraction >> 8));
	uuid->data[7] = (unsigned char) fraction;
	uuid->data[8] = (unsigned char) (0x80 | (uuid->data[8] & 0x3F));
}

void
saga_ids_generate(pg_uuid_t *uuid)
{
	uint64		time = time_of(GetCurrentTimestamp());

	if (time <= last_time)
		time = last_time + 1;
	last_time = time;

	if (!pg_strong_random(&uuid->data[8], 8))
		ereport(ERROR,
				(errcode(ERRCODE_INTERNAL_ERROR),
				 errmsg("could not generate random values")));
	put_time(uuid, time);
}

/*
 * The smallest that could have been generated at a time; of a time that no id
 * can hold, the smallest or the largest of all.
 */
void
saga_ids_first(TimestampTz at, pg_uuid_t *uuid)
{
	const TimestampTz epoch =
		(TimestampTz) (UNIX_EPOCH_JDATE - POSTGRES_EPOCH_JDATE) * USECS_PER_DAY;
	const TimestampTz end = epoch + (INT64CONST(1) << 48) * 1000;

	memset(uuid, at < end ? 0 : 0xFF, sizeof(*uuid));
	if (at >= epoch && at < end)
		put_time(uuid, time_of(at));
}

/*
 * Writes the text of an id, SAGA_IDS_LENGTH characters and no end, and returns
 * where it ends.  The same as uuid_out, which appends digit by digit: ten times
 * the instructions, for each step that is recorded.
 */
char *
saga_ids_write(const pg_uuid_t *uuid, char *to)
{
	static const int groups[] = {4, 2, 2, 2, 6};
	const char *from = (const char *) uuid->data;

	for (int i = 0; i < (int) lengthof(groups); i++)
	{
		if (i > 0)
			*to++ = '-';
		to += hex_encode(from, groups[i], to);
		from += groups[i];
	}
	return to;
}

/* The text of an id, in the current memory context */
char *
saga_ids_string(const pg_uuid_t *uuid)
{
	char	   *string = palloc(SAGA_IDS_LENGTH + 1);

	*saga_ids_write(uuid, string) = '\0';
	return string;
}
