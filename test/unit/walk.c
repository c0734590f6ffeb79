/*-------------------------------------------------------------------------
 *
 * walk.c
 *	  What follows in a saga, asked of the pure part of saga without a server.
 *
 * Reads cases, one a line, and prints each with its outcome.
 *
 *	saga: WORD ... ; STEP WORD ... ; ... ; EVENT
 *
 * The saga's words: its state; partial (after the step named base), full or
 * late for the undo; continue; paused; overdue; timed (a deadline to come).
 *
 * A step's words: sql (the default), listener, quiet (a listener that nobody
 * acknowledges), review or nothing for how it is undone; started or failed
 * instead of completed; pivot, retriable, on-completed; pending, dispatched,
 * compensated, gave-up, skipped instead of registered; claimed, expired (its
 * claim has ended), later (it is to be retried later), parked, late, released,
 * rolled-back, tried (an attempt was made).
 *
 * The event: walk; fail; seen-fail (after a look at what is next); pass (the
 * worker's, under the saga's lock); look (an executor's pass); done STEP and error
 * STEP (the end of an attempt); result STEP (a late result).
 *
 * The outcome: the saga's state and undo; when it is due, and in whose lane; the
 * steps whose compensation status, run, or question changed; and after "writes"
 * the rows, in order.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "flow/events.h"
#include "flow/follow.h"
#include "flow/next.h"
#include "flow/outcome.h"
#include "utils/builtins.h"

#undef printf
#undef sprintf

#define NOW			INT64CONST(1000000000)
#define SECOND		INT64CONST(1000000)
#define MAX_STEPS	16
#define ROLE		7

static void
bad(const char *what)
{
	fprintf(stderr, "what is \"%s\"?\n", what);
	exit(2);
}

static void
set_saga_word(SagaRow *saga, const char *word)
{
	SagaState	states[] = {SAGA_RUNNING, SAGA_COMPLETED, SAGA_COMPENSATING,
		SAGA_COMPENSATED, SAGA_NEEDS_REVIEW, SAGA_ABANDONED};

	for (int i = 0; i < lengthof(states); i++)
		if (strcmp(word, saga_state_name(states[i])) == 0)
		{
			saga->state = states[i];
			saga->finished_at = saga_state_is_final(states[i]) ? NOW - SECOND : 0;
			return;
		}
	if (strcmp(word, "partial") == 0)
	{
		saga->undo = SAGA_UNDO_PARTIAL;
		saga->savepoint = 1;
	}
	else if (strcmp(word, "full") == 0)
	{
		saga->undo = SAGA_UNDO_FULL;
		saga->failure_kind = SAGA_FAILURE_FAILED;
	}
	else if (strcmp(word, "late") == 0)
		saga->undo = SAGA_UNDO_LATE;
	else if (strcmp(word, "continue") == 0)
		saga->on_failure = SAGA_ON_FAILURE_CONTINUE;
	else if (strcmp(word, "paused") == 0)
		saga->paused = true;
	else if (strcmp(word, "overdue") == 0)
		saga->deadline = NOW - SECOND;
	else if (strcmp(word, "timed") == 0)
		saga->deadline = NOW + 3600 * SECOND;
	else
		bad(word);
}

static void
set_step_word(SagaStep *step, const char *word)
{
	if (strcmp(word, "sql") == 0)
		return;
	if (strcmp(word, "listener") == 0 || strcmp(word, "quiet") == 0)
	{
		step->compensation = NULL;
		step->channel = cstring_to_text("channel");
		step->acknowledge = word[0] == 'l';
	}
	else if (strcmp(word, "review") == 0)
		step->review = cstring_to_text("look");
	else if (strcmp(word, "nothing") == 0)
	{
		step->compensation = NULL;
		step->comp_status = SAGA_COMP_NONE;
	}
	else if (strcmp(word, "started") == 0)
		step->status = SAGA_STEP_STARTED;
	else if (strcmp(word, "failed") == 0)
		step->status = SAGA_STEP_FAILED;
	else if (strcmp(word, "pivot") == 0)
		step->kind = SAGA_KIND_PIVOT;
	else if (strcmp(word, "retriable") == 0)
		step->kind = SAGA_KIND_RETRIABLE;
	else if (strcmp(word, "on-completed") == 0)
		step->compensate_on = SAGA_COMPENSATE_ON_COMPLETED;
	else if (strcmp(word, "pending") == 0)
		step->comp_status = SAGA_COMP_PENDING;
	else if (strcmp(word, "dispatched") == 0)
	{
		step->comp_status = SAGA_COMP_DISPATCHED;
		step->dispatched_at = NOW - SECOND;
	}
	else if (strcmp(word, "compensated") == 0)
		step->comp_status = SAGA_COMP_COMPENSATED;
	else if (strcmp(word, "gave-up") == 0)
		step->comp_status = SAGA_COMP_FAILED;
	else if (strcmp(word, "skipped") == 0)
		step->comp_status = SAGA_COMP_SKIPPED;
	else if (strcmp(word, "claimed") == 0)
	{
		step->claimed_at = NOW - SECOND;
		step->lease_until = NOW + 60 * SECOND;
	}
	else if (strcmp(word, "expired") == 0)
	{
		step->claimed_at = NOW - 60 * SECOND;
		step->lease_until = NOW - SECOND;
	}
	else if (strcmp(word, "later") == 0)
		step->undo.retry_at = NOW + 30 * SECOND;
	else if (strcmp(word, "parked") == 0)
		step->parked = cstring_to_text("asked");
	else if (strcmp(word, "late") == 0)
		step->late = true;
	else if (strcmp(word, "released") == 0)
		step->released = true;
	else if (strcmp(word, "rolled-back") == 0)
		step->rolled_back_at = NOW - SECOND;
	else if (strcmp(word, "tried") == 0)
		step->undo.attempts = step->undo.charged = 1;
	else
		bad(word);
}

static void
make_step(SagaStep *step, int64 seq, const char *key)
{
	SagaPolicy	policy = {3, 1000, SAGA_BACKOFF_CONSTANT, 1000, 0.0, 0};
	char		encoded[SAGA_POLICY_TEXT_LEN];

	memset(step, 0, sizeof(SagaStep));
	saga_policy_encode(&policy, encoded);
	step->seq = seq;
	step->run = 1;
	step->run_as = ROLE;
	step->kind = SAGA_KIND_COMPENSATABLE;
	step->compensate_on = SAGA_COMPENSATE_ON_STARTED;
	step->key = cstring_to_text(key);
	step->compensation = cstring_to_text("SELECT 1");
	step->compensation_retry = cstring_to_text(encoded);
	step->forward.attempts = 1;
	step->status = SAGA_STEP_COMPLETED;
	step->comp_status = SAGA_COMP_REGISTERED;
	step->undo.crashes = -1;
}

static SagaStep *
find(SagaSteps *steps, const char *key)
{
	int			i = key != NULL ?
		saga_next_find_key(steps, cstring_to_text(key)) : -1;

	if (i < 0)
		bad(key != NULL ? key : "no step");
	return &steps->step[i];
}

/* The event happens. */
static void
happen(SagaChange *change, char *words)
{
	char	   *event = strtok(words, " ");
	char	   *key = strtok(NULL, " ");

	if (event == NULL)
		bad("no event");
	if (strcmp(event, "walk") == 0)
		saga_follow_walk(change);
	else if (strcmp(event, "fail") == 0)
		saga_events_fail(change, SAGA_FAILURE_FAILED, NULL, NULL);
	else if (strcmp(event, "seen-fail") == 0)
	{
		SagaTask	task;

		saga_next(change->saga, change->steps, &task);
		saga_events_fail(change, SAGA_FAILURE_FAILED, NULL, NULL);
	}
	else if (strcmp(event, "look") == 0)
	{
		change->may = 0;
		saga_events_pass(change);
	}
	else if (strcmp(event, "pass") == 0)
	{
		change->may = SAGA_MAY_NOTIFY | SAGA_MAY_FAIL;
		saga_events_pass(change);
	}
	else if (strcmp(event, "result") == 0)
		saga_events_late(change, find(change->steps, key), NULL);
	else if (strcmp(event, "done") == 0 || strcmp(event, "error") == 0)
	{
		SagaStep   *step = find(change->steps, key);
		SagaAttemptEnd end;

		saga_outcome_of_claim(step, event[0] == 'd' ? SAGA_OUTCOME_SUCCEEDED :
							  SAGA_OUTCOME_FAILED, NULL, &end);
		change->may = 0;
		saga_events_attempt(change, step, &end);
	}
	else
		bad(event);
}

static void
print_outcome(const SagaRow *saga, const SagaSteps *steps,
			  const SagaStep *before)
{
	printf("    => %s", saga_state_name(saga->state));
	if (saga->undo != SAGA_UNDO_NONE)
		printf(" %c", saga->undo);
	if (saga->due == 0)
		printf(", never due");
	else
		printf(", due %+lld s", (long long) ((saga->due - NOW) / SECOND));
	if (saga->lane != InvalidOid)
		printf(" for its role");
	if (saga->parked != NULL)
		printf(", \"%s\"", text_to_cstring(saga->parked));
	for (int i = 0; i < steps->count; i++)
	{
		const SagaStep *step = &steps->step[i];

		if (step->comp_status != before[i].comp_status)
			printf(", %s %s", text_to_cstring(step->key),
				   saga_state_comp_status_name(step->comp_status));
		if (step->undo.retry_at > NOW &&
			step->undo.retry_at != before[i].undo.retry_at)
			printf(", %s again %+lld s", text_to_cstring(step->key),
				   (long long) ((step->undo.retry_at - NOW) / SECOND));
		if (step->rolled_back_at != before[i].rolled_back_at)
			printf(", %s rolled back", text_to_cstring(step->key));
		if (step->parked != NULL && before[i].parked == NULL)
			printf(", %s \"%s\"", text_to_cstring(step->key),
				   text_to_cstring(step->parked));
		if (step->parked == NULL && before[i].parked != NULL)
			printf(", %s no longer asked", text_to_cstring(step->key));
	}
}

int
main(void)
{
	char		line[1024];

	while (fgets(line, sizeof(line), stdin) != NULL)
	{
		SagaRow		saga;
		SagaStep	step[MAX_STEPS];
		SagaStep	before[MAX_STEPS];
		SagaSteps	steps = {0, 0, false, step};
		SagaChange	change;
		char	   *part[MAX_STEPS + 2];
		int			parts = 0;
		char	   *word;

		line[strcspn(line, "\n")] = '\0';
		/* Comments and blank lines are repeated; old outcomes are not. */
		if (strncmp(line, "    =>", 6) == 0)
			continue;
		printf("%s\n", line);
		if (line[0] == '#' || line[0] == '\0')
			continue;

		for (char *p = strtok(line, ";"); p != NULL && parts < lengthof(part);
			 p = strtok(NULL, ";"))
			part[parts++] = p;
		if (parts < 2)
			bad(line);
		memset(&saga, 0, sizeof(saga));
		saga.on_failure = SAGA_ON_FAILURE_HALT;
		if (strcmp(strtok(part[0], " "), "saga:") != 0)
			bad(part[0]);
		while ((word = strtok(NULL, " ")) != NULL)
			set_saga_word(&saga, word);
		for (int i = 1; i < parts - 1; i++)
		{
			SagaStep   *new = &step[steps.count++];

			make_step(new, i, strtok(part[i], " "));
			while ((word = strtok(NULL, " ")) != NULL)
				set_step_word(new, word);
			steps.claimed = steps.claimed || new->claimed_at != 0;
		}
		steps.frontier = steps.count;
		memcpy(before, step, sizeof(before));
		saga_change_begin(&change, &saga, &steps, SAGA_MAY_WAIT, NOW);
		happen(&change, part[parts - 1]);
		print_outcome(&saga, &steps, before);
		printf("; writes");
		(void) saga_change_write(&change);
		printf("\n");
	}
	return 0;
}
