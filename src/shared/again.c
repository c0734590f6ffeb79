/*-------------------------------------------------------------------------
 *
 * again.c
 *	  That an action asks to be run again.
 *
 * A request belongs to the transaction of the action, and to the savepoint within
 * it: one that is rolled back takes its request with it, and what was asked for
 * before counts again.  Of several, the last counts.  The mark of the action reads
 * it (process/action.c); the end of the transaction forgets it.
 *
 * The list has an entry for each level of nesting with a request, since the last
 * request replaces those of its own level only.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/xact.h"
#include "base/calendar.h"
#include "nodes/pg_list.h"
#include "shared/again.h"
#include "utils/memutils.h"
#include "utils/timestamp.h"

typedef struct Request
{
	int			level;			/* nesting of savepoints; grows in the list */
	SagaAgain	again;
} Request;

/* In TopTransactionContext */
static List *requests = NIL;

/* The action asks for one more round. */
void
saga_again_ask(const SagaAgain *again)
{
	MemoryContext caller = MemoryContextSwitchTo(TopTransactionContext);
	int			level = GetCurrentTransactionNestLevel();
	Request    *request = requests != NIL ? llast(requests) : NULL;

	if (request == NULL || request->level < level)
	{
		request = palloc(sizeof(Request));
		request->level = level;
		request->again.state = NULL;
		requests = lappend(requests, request);
	}
	else if (request->again.state != NULL)
		pfree(request->again.state);
	request->again = *again;
	if (again->state != NULL)
		request->again.state = memcpy(palloc(VARSIZE(again->state)), again->state,
									  VARSIZE(again->state));
	MemoryContextSwitchTo(caller);
}

/* What the transaction asks for; NULL: nothing. */
const SagaAgain *
saga_again_asked(void)
{
	return requests != NIL ? &((Request *) llast(requests))->again : NULL;
}

/*
 * When the next round is due after one that ends now.  Days and months are those of
 * the session's time zone.  Raises an error if that is out of range.
 */
TimestampTz
saga_again_due(const SagaAgain *again, TimestampTz now)
{
	TimestampTz due = saga_calendar_add(now, &again->delay, NULL);

	return Max(due, again->not_before);
}

/* A savepoint is released, or rolled back. */
void
saga_again_end_savepoint(bool committed)
{
	int			level;
	int			count;

	if (requests == NIL)
		return;
	level = GetCurrentTransactionNestLevel();
	if (((Request *) llast(requests))->level < level)
		return;
	count = list_length(requests);
	if (!committed)
		requests = list_truncate(requests, count - 1);
	else if (count > 1 && ((Request *) list_nth(requests, count - 2))->level == level - 1)
	{
		/* It replaces the request of the level around it. */
		Request    *request = llast(requests);

		*(Request *) list_nth(requests, count - 2) = *request;
		((Request *) list_nth(requests, count - 2))->level = level - 1;
		requests = list_truncate(requests, count - 1);
	}
	else
		((Request *) llast(requests))->level = level - 1;
}

/* The transaction has ended. */
void
saga_again_forget(void)
{
	requests = NIL;
}
