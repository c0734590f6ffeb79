/*-------------------------------------------------------------------------
 *
 * failing.h
 *	  Sagas that the worker could not go on with, because of an error.
 *
 *-------------------------------------------------------------------------
 */
#ifndef SAGA_FAILING_H
#define SAGA_FAILING_H

#include "datatype/timestamp.h"
#include "utils/uuid.h"

/* What was done about the saga.  Each fails, and is tried again, by itself. */
typedef enum SagaFailingAt
{
	SAGA_FAILING_ROW = 1,		/* what is due of the saga as a whole */
	SAGA_FAILING_LOOK,			/* a look at its steps */
	SAGA_FAILING_PARK,			/* parking it, since a role is gone */
	SAGA_FAILING_PURGE			/* deleting it */
} SagaFailingAt;

typedef struct SagaFailing
{
	Oid			database;		/* InvalidOid: no entry */
	SagaFailingAt at;
	pg_uuid_t	saga;
	int			times;			/* one after the other */
	int			sqlstate;		/* of the last error */
	TimestampTz since;			/* when the first of them was */
	TimestampTz again;			/* not to be tried before that */
} SagaFailing;

/* Largest number of entries, in the whole server */
#define SAGA_MAX_FAILING	256

extern void saga_failing_register(void);

/* For the worker; times are those of saga_clock_now(). */
extern bool saga_failing_waits(const pg_uuid_t *saga, SagaFailingAt at,
							   TimestampTz now, TimestampTz *again);
extern bool saga_failing_has(const pg_uuid_t *saga, SagaFailingAt at);
extern bool saga_failing_note(const pg_uuid_t *saga, SagaFailingAt at,
							  int sqlstate, int64 took, TimestampTz *again);
extern void saga_failing_over(const pg_uuid_t *saga, SagaFailingAt at);
extern void saga_failing_forget_pauses(void);

/* For views: those of this database; and one of them. */
extern int	saga_failing_all(SagaFailing *found);
extern bool saga_failing_get(const pg_uuid_t *saga, SagaFailing *found);

#endif							/* SAGA_FAILING_H */
