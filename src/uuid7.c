/*-------------------------------------------------------------------------
 *
 * uuid7.c
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

#include "uuid7.h"
#include "utils/timestamp.h"

/* Time of the last one, in 1/4096 of a millisecond since the Unix epoch. */
static uint64 last_time = 0;

void
saga_uuid7_generate(pg_uuid_t *uuid)
{
	TimestampTz now = GetCurrentTimestamp();
	uint64		us;
	uint64		time;
	uint64		ms;
	uint32		fraction;

	us = (uint64) (now + (POSTGRES_EPOCH_JDATE - UNIX_EPOCH_JDATE) * USECS_PER_DAY);
	time = ((us / 1000) << 12) | ((us % 1000) * 4096 / 1000);
	if (time <= last_time)
		time = last_time + 1;
	last_time = time;
	ms = time >> 12;
	fraction = time & 0xFFF;

	if (!pg_strong_random(&uuid->data[8], 8))
		ereport(ERROR,
				(errcode(ERRCODE_INTERNAL_ERROR),
				 errmsg("could not generate random values")));
	for (int i = 0; i < 6; i++)
		uuid->data[i] = (unsigned char) (ms >> (8 * (5 - i)));
	uuid->data[6] = (unsigned char) (0x70 | (fraction >> 8));
	uuid->data[7] = (unsigned char) fraction;
	uuid->data[8] = (unsigned char) (0x80 | (uuid->data[8] & 0x3F));
}
