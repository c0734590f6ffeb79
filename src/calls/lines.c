/*-------------------------------------------------------------------------
 *
 * lines.c
 *	  The life of a saga as lines of time, one for each attempt.
 *
 * saga.timeline and saga.picture draw them.  They are made of the rows of the
 * steps and of their attempts, as saga.attempts is, and of what executors have
 * in hand.  Shared memory is read first: an attempt that is over when the rows
 * are read is known by its number, and is not shown twice.
 *
 * A step waits before its first attempt if saga runs it, from when it was
 * recorded, until its gates are open and somebody is free to do it; or if a
 * service undoes it, from when it was dispatched.  It pauses before each further
 * attempt, from the end of the one before.  What never began and never will has
 * no line.
 *
 * A saga may have any number of steps, and a person reads some dozens of lines.
 * So neighbors are shown as one, those that are alike as long as that is enough.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include <math.h>

#include "base/clock.h"
#include "calls/access.h"
#include "calls/lines.h"
#include "flow/next.h"
#include "miscadmin.h"
#include "shared/mailbox.h"
#include "utils/builtins.h"
#include "utils/snapmgr.h"

/* What lines are made of, while they are. */
typedef struct LineSource
{
	SagaLines  *lines;
	int			size;			/* room for lines */
	TimestampTz now;
	SagaAttempt *attempts;		/* by step, phase and number */
	int			attempt_count;
	SagaRunning running[SAGA_MAX_EXECUTORS];
	int			running_count;
} LineSource;

static SagaLine *
add_line(LineSource *source, const SagaStep *step, SagaPhase phase, int attempt)
{
	SagaLines  *lines = source->lines;
	SagaLine   *line;

	if (lines->count == source->size)
	{
		source->size *= 2;
		lines->line = repalloc_huge(lines->line, source->size * sizeof(SagaLine));
	}
	line = &lines->line[lines->count++];
	memset(line, 0, sizeof(SagaLine));
	line->step = step;
	line->phase = phase;
	line->attempt = attempt;
	return line;
}

/* The first attempt of a step in a phase; after the last: there is none. */
static int
first_attempt(const LineSource *source, int64 seq, SagaPhase phase)
{
	int			low = 0;
	int			high = source->attempt_count;

	while (low < high)
	{
		int			middle = low + (high - low) / 2;
		const SagaAttempt *a = &source->attempts[middle];

		if (a->seq < seq || (a->seq == seq && (char) a->phase < (char) phase))
			low = middle + 1;
		else
			high = middle;
	}
	return low;
}

/* Does an executor run the step's next attempt in this phase? */
static const SagaRunning *
running_attempt(const LineSource *source, const SagaStep *step, SagaPhase phase,
				int attempt)
{
	for (int i = 0; i < source->running_count; i++)
	{
		const SagaRunning *r = &source->running[i];

		if (r->seq == step->seq && r->phase == phase && r->attempt >= attempt &&
			memcmp(&r->saga, &step->saga, sizeof(pg_uuid_t)) == 0)
			return r;
	}
	return NULL;
}

/* Since when a step waits for its first attempt; 0: it does not. */
static TimestampTz
first_wait(const SagaStep *step, SagaPhase phase, TimestampTz until)
{
	if (phase == SAGA_PHASE_FORWARD)
		return saga_rows_is_run(step) ? step->started_at : 0;
	return step->dispatched_at <= until ? step->dispatched_at : 0;
}

/* An attempt that no row of the history records yet, or needs to */
static bool
add_present_attempt(LineSource *source, const SagaStep *step, SagaPhase phase,
					int last, SagaLine **line)
{
	const SagaRow *saga = &source->lines->saga;
	const SagaRunning *running;

	if (phase == SAGA_PHASE_FORWARD &&
		(step->status == SAGA_STEP_COMPLETED ? step->forward.attempts > last :
		 step->status == SAGA_STEP_STARTED &&
		 (step->task == NULL || saga_rows_task_claimed(step))))
	{
		*line = add_line(source, step, phase, Max(step->forward.attempts, last + 1));
		(*line)->began = step->attempt_at ? step->attempt_at : step->started_at;
		(*line)->ended = step->completed_at;
		if (step->status == SAGA_STEP_COMPLETED)
			(*line)->outcome = saga_state_outcome_name(SAGA_OUTCOME_SUCCEEDED);
		else if (!saga_rows_goes_forward(saga) || step->rolled_back_at != 0)
			(*line)->outcome = saga_state_outcome_name(SAGA_OUTCOME_INTERRUPTED);
		else
		{
			(*line)->outcome = "under way";
			(*line)->ended = source->now;
		}
		return true;
	}
	if (phase == SAGA_PHASE_COMPENSATION && saga_rows_undo_claimed(step))
	{
		*line = add_line(source, step, phase, step->undo.attempts + 1);
		(*line)->began = step->claimed_at;
	}
	else if ((running = running_attempt(source, step, phase, last + 1)) != NULL)
	{
		*line = add_line(source, step, phase, running->attempt);
		(*line)->began = running->since;
	}
	else
		return false;
	(*line)->outcome = "under way";
	(*line)->ended = Max(source->now, (*line)->began);
	return true;
}

/* Does the step wait for its next attempt in this phase?  For what, in words. */
static const char *
waits(const SagaRow *saga, const SagaStep *step, SagaPhase phase)
{
	if (phase == SAGA_PHASE_FORWARD)
	{
		if (!saga_rows_goes_forward(saga) || step->rolled_back_at != 0)
			return NULL;
		if (saga_rows_step_held(step))
			return "needs a person";
		return step->status == SAGA_STEP_WAITING ||
			(step->status == SAGA_STEP_STARTED && step->task != NULL) ||
			(step->status == SAGA_STEP_FAILED && step->forward.retry_at != 0) ?
			"waiting" : NULL;
	}
	if (saga->state == SAGA_NEEDS_REVIEW)
		return step->parked != NULL && saga_next_in_range(saga, step) ?
			"needs a person" : NULL;
	if (saga->state != SAGA_COMPENSATING)
		return NULL;
	return step->comp_status == SAGA_COMP_DISPATCHED ||
		(step->comp_status == SAGA_COMP_PENDING && step->undo.retry_at != 0) ?
		"waiting" : NULL;
}

/* The lines of a step in one phase */
static void
add_step(LineSource *source, const SagaStep *step, SagaPhase phase)
{
	int			last = 0;
	TimestampTz last_end = 0;
	SagaLine   *line;
	const char *waits_for;

	for (int i = first_attempt(source, step->seq, phase);
		 i < source->attempt_count &&
		 source->attempts[i].seq == step->seq &&
		 source->attempts[i].phase == phase; i++)
	{
		const SagaAttempt *attempt = &source->attempts[i];

		line = add_line(source, step, phase, attempt->attempt);
		line->outcome = saga_state_outcome_name(attempt->outcome);
		line->began = attempt->started_at;
		line->ended = attempt->finished_at;
		line->waits_since = last_end ? last_end :
			first_wait(step, phase, line->began);
		line->pauses = last_end != 0;
		last = attempt->attempt;
		last_end = attempt->finished_at;
	}
	if (add_present_attempt(source, step, phase, last, &line))
	{
		line->waits_since = last_end ? last_end :
			first_wait(step, phase, line->began);
		line->pauses = last_end != 0;
	}
	else if ((waits_for = waits(&source->lines->saga, step, phase)) != NULL)
	{
		line = add_line(source, step, phase, last + 1);
		line->outcome = waits_for;
		line->waits_since = last_end ? last_end :
			first_wait(step, phase, source->now);
		if (line->waits_since == 0)
			line->waits_since = source->lines->saga.updated_at;
		line->pauses = last_end != 0;
		line->ended = Max(source->now, line->waits_since);
	}
}

/* By begin; what has not begun comes last, by since when it waits. */
static int
compare_lines(const void *a, const void *b)
{
	const SagaLine *l = a;
	const SagaLine *r = b;
	TimestampTz left = l->began ? l->began : DT_NOEND;
	TimestampTz right = r->began ? r->began : DT_NOEND;

	if (left == right && l->began == 0)
	{
		left = l->waits_since;
		right = r->waits_since;
	}
	if (left == right && l->phase != r->phase)
		return l->phase == SAGA_PHASE_FORWARD ? -1 : 1;
	/* In one moment: the undo goes back. */
	if (left == right)
	{
		left = saga_rows_order(l->step);
		right = saga_rows_order(r->step);
		if (l->phase == SAGA_PHASE_COMPENSATION)
		{
			left = -left;
			right = -right;
		}
	}
	if (left == right)
	{
		left = l->attempt;
		right = r->attempt;
	}
	return left < right ? -1 : left > right ? 1 : 0;
}

/* The lines of a saga that the caller may see, even if not what is in it. */
void
saga_lines_read(const pg_uuid_t *id, SagaLines *lines)
{
	LineSource	source;
	Snapshot	snapshot;

	saga_access_read(id, SAGA_REACH_OUTLINE, &lines->saga);
	source.running_count = saga_mailbox_running(source.running);
	source.now = saga_clock_now();
	snapshot = saga_table_snapshot();
	saga_ledger_get_steps_at(id, snapshot, &lines->steps);
	source.attempt_count = saga_ledger_get_attempts_at(id, snapshot,
													   &source.attempts);
	UnregisterSnapshot(snapshot);

	source.lines = lines;
	source.size = 64;
	lines->count = 0;
	lines->line = palloc(source.size * sizeof(SagaLine));
	for (int i = 0; i < lines->steps.count; i++)
	{
		add_step(&source, &lines->steps.step[i], SAGA_PHASE_FORWARD);
		add_step(&source, &lines->steps.step[i], SAGA_PHASE_COMPENSATION);
	}
	qsort(lines->line, lines->count, sizeof(SagaLine), compare_lines);

	lines->begin = lines->saga.started_at;
	lines->end = lines->saga.finished_at ? lines->saga.finished_at : source.now;
	for (int i = 0; i < lines->count; i++)
		lines->end = Max(lines->end, lines->line[i].ended);
	lines->end = Max(lines->end, lines->begin);
}

/*
 * Makes groups of up to so many neighbors; those in one group have the same phase
 * and the same outcome where that is wanted.  Returns how many groups they are.
 */
static int
group_by(const SagaLines *lines, int most, bool same_phase, bool same_outcome,
		 SagaLineGroup *groups)
{
	int			count = 0;

	for (int i = 0; i < lines->count; i++)
	{
		const SagaLine *line = &lines->line[i];
		SagaLineGroup *group = count > 0 ? &groups[count - 1] : NULL;
		const SagaLine *first = group ? &lines->line[group->first] : NULL;
		bool		phase = first && first->phase == line->phase;
		bool		outcome = first && strcmp(first->outcome, line->outcome) == 0;

		if (group == NULL || group->count == most ||
			(same_phase && !phase) || (same_outcome && !outcome))
		{
			group = &groups[count++];
			group->first = i;
			group->count = 0;
			phase = outcome = true;
			group->same_phase = group->same_outcome = true;
		}
		group->count++;
		group->same_phase &= phase;
		group->same_outcome &= outcome;
	}
	return count;
}

/*
 * Lines as a person can read them: each by itself if they are not more than the
 * limit, else some neighbors as one, in about as many groups and not more than
 * twice as many.
 */
int
saga_lines_group(const SagaLines *lines, int limit, SagaLineGroup **groups)
{
	int			most = (lines->count + limit - 1) / limit;
	int			count;

	*groups = palloc_extended((lines->count + 1) * sizeof(SagaLineGroup),
							  MCXT_ALLOC_HUGE);
	count = group_by(lines, most, true, true, *groups);
	if (count > 2 * limit)
		count = group_by(lines, most, true, false, *groups);
	if (count > 2 * limit)
		count = group_by(lines, most, false, false, *groups);
	return count;
}

/* The steps of a group: "a", or "a ... z" */
char *
saga_lines_name(const SagaLines *lines, const SagaLineGroup *group)
{
	const SagaLine *first = &lines->line[group->first];
	const SagaLine *last = first + group->count - 1;
	char	   *name = text_to_cstring(first->step->key);

	for (const SagaLine *line = first; line <= last; line++)
		if (line->step != first->step)
			return psprintf("%s ... %s", name, text_to_cstring(last->step->key));
	return name;
}

/* What came of a group: "failed", "40 succeeded", "38 succeeded, 2 failed" */
char *
saga_lines_outcome(const SagaLines *lines, const SagaLineGroup *group)
{
	const SagaLine *first = &lines->line[group->first];
	struct
	{
		const char *outcome;
		int			count;
	}			seen[16];
	int			kinds = 0;
	StringInfoData buf;

	if (group->count == 1)
		return pstrdup(first->outcome);
	for (int i = 0; i < group->count; i++)
	{
		int			k = 0;

		while (k < kinds && strcmp(seen[k].outcome, first[i].outcome) != 0)
			k++;
		if (k == kinds)
		{
			Assert(kinds < (int) lengthof(seen));
			seen[kinds].outcome = first[i].outcome;
			seen[kinds++].count = 0;
		}
		seen[k].count++;
	}
	initStringInfo(&buf);
	for (int k = 0; k < kinds; k++)
		appendStringInfo(&buf, "%s%d %s", k > 0 ? ", " : "", seen[k].count,
						 seen[k].outcome);
	return buf.data;
}

/*
 * From when to when a group went on: the own time of an attempt, or, of many, that
 * from the first to the last; "to" 0: not yet.
 */
void
saga_lines_span(const SagaLines *lines, const SagaLineGroup *group,
				TimestampTz *from, TimestampTz *to)
{
	const SagaLine *line = &lines->line[group->first];

	*from = *to = 0;
	for (int i = 0; i < group->count; i++)
	{
		TimestampTz began = line[i].began ? line[i].began : line[i].waits_since;

		*from = *from == 0 ? began : Min(*from, began);
		*to = Max(*to, line[i].ended);
	}
}

/* Where a moment is on a scale of so many places */
int
saga_lines_place(const SagaLines *lines, TimestampTz at, int width)
{
	TimestampTz span = lines->end - lines->begin;

	if (span <= 0 || at <= lines->begin)
		return 0;
	return (int) rint((double) (at - lines->begin) / (double) span * width);
}
