/*-------------------------------------------------------------------------
 *
 * lines.h
 *	  The life of a saga as lines of time, one for each attempt.
 *
 *-------------------------------------------------------------------------
 */
#ifndef SAGA_LINES_H
#define SAGA_LINES_H

#include "base/rights.h"
#include "ledger/ledger.h"
#include "lib/stringinfo.h"

/*
 * An attempt, with what was waited for before it; or, at the end of a step's
 * lines, what it waits for now.
 */
typedef struct SagaLine
{
	const SagaStep *step;
	SagaPhase	phase;
	int			attempt;		/* the next one, if none is under way */
	const char *outcome;		/* in words */
	TimestampTz waits_since;	/* 0: it did not wait */
	bool		pauses;			/* ... since an attempt that failed */
	TimestampTz began;			/* the attempt; 0: not yet */
	TimestampTz ended;			/* of what is not over, now; 0: not known */
} SagaLine;

/* All of a saga's, in the order in which attempts began. */
typedef struct SagaLines
{
	SagaRow		saga;
	SagaSteps	steps;
	int			count;
	SagaLine   *line;
	TimestampTz begin;			/* the saga's begin */
	TimestampTz end;			/* its end, or now; or a late attempt's end */
} SagaLines;

/* Lines that are shown as one */
typedef struct SagaLineGroup
{
	int			first;
	int			count;
	bool		same_phase;
	bool		same_outcome;
} SagaLineGroup;

extern void saga_lines_read(const pg_uuid_t *id, SagaLines *lines);
extern int	saga_lines_group(const SagaLines *lines, int limit,
							 SagaLineGroup **groups);
extern char *saga_lines_name(const SagaLines *lines, const SagaLineGroup *group);
extern char *saga_lines_outcome(const SagaLines *lines,
								const SagaLineGroup *group);
extern void saga_lines_span(const SagaLines *lines, const SagaLineGroup *group,
							TimestampTz *from, TimestampTz *to);
extern int	saga_lines_place(const SagaLines *lines, TimestampTz at,
							 int width);

#endif							/* SAGA_LINES_H */
