/*-------------------------------------------------------------------------
 *
 * inbox.c
 *	  The unused signals of a saga, as one look takes them for its steps.
 *
 * A step that waits for signals takes the oldest unused one of its names.  A look
 * reads the unused signals once: all of them, where they are few, as they mostly are.
 * Otherwise it reads, part by part, a queue for each name that is asked for, so that
 * neither a great many signals nor a great many steps make a look quadratic.
 *
 * A signal that is committed when it is read may be taken.  One that another look is
 * using at the same time is taken all the same, so that the order is kept: the change
 * then cannot be written, and the look is made again.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "base/json.h"
#include "base/names.h"
#include "flow/gates.h"
#include "flow/inbox.h"
#include "utils/builtins.h"

/* Number of unused signals of a saga, of any names, from which on there are many */
#define FEW			64
/* Signals of a name read at first; then twice as many each time, up to the second */
#define FIRST_PART	16
#define LARGEST_PART	4096

/* The unused signals of a name, in the order of their arrival */
typedef struct Queue
{
	char	   *name;			/* hash key */
	SagaSignal *signals;
	int			count;
	int			next;			/* the first that was not taken */
	int			part;			/* how many to read next; 0: they are all here */
	int64		last;			/* seq of the last that was read */
} Queue;

struct SagaInbox
{
	HTAB	   *queues;
	bool		complete;		/* a name without a queue has no signals */
	List	   *steps;			/* of SagaStep: those that took the signals of
								 * the change, in the same order */
};

/* The queue of a name, perhaps a new one that is empty. */
static Queue *
queue_of(struct SagaInbox *inbox, char *name)
{
	bool		known;
	Queue	   *queue = hash_search(inbox->queues, &name, HASH_ENTER, &known);

	if (!known)
	{
		queue->signals = NULL;
		queue->count = queue->next = 0;
		queue->part = inbox->complete ? 0 : FIRST_PART;
		queue->last = 0;
	}
	return queue;
}

/* Reads the unused signals, if they are few. */
static struct SagaInbox *
open_inbox(const pg_uuid_t *id)
{
	struct SagaInbox *inbox = palloc(sizeof(struct SagaInbox));
	SagaSignal *signals;
	int			count = saga_ledger_get_unused_signals(id, NULL, 0, FEW, &signals);

	inbox->queues = saga_names_table("saga names of signals", 16, sizeof(Queue));
	inbox->steps = NIL;
	inbox->complete = count < FEW;
	if (!inbox->complete)
		return inbox;
	/* They come name by name, so each queue is a part of the array. */
	for (int i = 0; i < count; i++)
	{
		Queue	   *queue = queue_of(inbox, text_to_cstring(signals[i].name));

		if (queue->signals == NULL)
			queue->signals = &signals[i];
		queue->count++;
	}
	return inbox;
}

/* The oldest signal of a queue that was not taken; NULL: there is none. */
static SagaSignal *
first_of(Queue *queue, const pg_uuid_t *id)
{
	if (queue->next == queue->count && queue->part != 0)
	{
		queue->count = saga_ledger_get_unused_signals(id,
													  cstring_to_text(queue->name),
													  queue->last, queue->part,
													  &queue->signals);
		queue->next = 0;
		if (queue->count > 0)
			queue->last = queue->signals[queue->count - 1].seq;
		queue->part = queue->count < queue->part ? 0 :
			Min(queue->part * 2, LARGEST_PART);
	}
	return queue->next < queue->count ? &queue->signals[queue->next] : NULL;
}

/*
 * Lets a step use the oldest unused signal of its names.  False: there is none.
 */
bool
saga_inbox_take(SagaChange *change, SagaStep *step)
{
	Queue	   *oldest = NULL;
	SagaSignal *signal = NULL;
	SagaJson	json;
	ListCell   *lc;

	if (change->inbox == NULL)
		change->inbox = open_inbox(&step->saga);
	foreach(lc, saga_gates_keys(step->signals))
	{
		Queue	   *queue = queue_of(change->inbox, lfirst(lc));
		SagaSignal *first = first_of(queue, &step->saga);

		if (first != NULL && (signal == NULL || first->seq < signal->seq))
		{
			oldest = queue;
			signal = first;
		}
	}
	if (signal == NULL)
		return false;

	oldest->next++;
	signal->used_by = step->seq;
	change->signals = lappend(change->signals, signal);
	change->inbox->steps = lappend(change->inbox->steps, step);
	saga_json_begin(&json);
	saga_json_text(&json, "signal", signal->name);
	saga_json_value(&json, "payload", signal->payload);
	step->signal = saga_json_end(&json);
	step->ready_at = change->now;
	saga_change_step(change, step);
	return true;
}

/*
 * The saga fails in the look that let steps use signals: steps that still wait will
 * never begin, and their signals stay unused.
 */
void
saga_inbox_give_back(SagaChange *change)
{
	List	   *used = NIL;
	ListCell   *of_signal;
	ListCell   *of_step;

	if (change->signals == NIL)
		return;
	forboth(of_signal, change->signals, of_step, change->inbox->steps)
	{
		SagaStep   *step = lfirst(of_step);

		if (step->status == SAGA_STEP_WAITING)
			step->signal = NULL;
		else
			used = lappend(used, lfirst(of_signal));
	}
	change->signals = used;
}

static int
compare_numbers(const void *a, const void *b)
{
	int64		left = *(const int64 *) a;
	int64		right = *(const int64 *) b;

	return left < right ? -1 : left > right ? 1 : 0;
}

/*
 * The steps (SagaStep *) go on without the signals that they had used, before they
 * began: these are unused again.
 */
void
saga_inbox_return(SagaChange *change, const List *steps)
{
	int64	   *seqs;
	int			count = 0;
	SagaSignal *signals;
	int			signals_count;
	ListCell   *lc;

	if (steps == NIL)
		return;
	seqs = palloc(list_length(steps) * sizeof(int64));
	foreach(lc, steps)
		seqs[count++] = ((SagaStep *) lfirst(lc))->seq;
	qsort(seqs, count, sizeof(int64), compare_numbers);
	signals_count = saga_ledger_get_signals(&change->saga->id, &signals);
	for (int i = 0; i < signals_count; i++)
	{
		if (bsearch(&signals[i].used_by, seqs, count, sizeof(int64),
					compare_numbers) == NULL)
			continue;
		signals[i].used_by = 0;
		change->signals = lappend(change->signals, &signals[i]);
	}
}
