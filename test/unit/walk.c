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
 * late for the undo; continue; paused; overdue; timed (a deadline to come); sealed;
 * sent (a signal is there that no step has used).
 *
 * A step's words: sql (the default), listener, quiet (a listener that nobody
 * acknowledges), review or nothing for how it is undone; started or failed
 * instead of completed; pivot, retriable, on-completed; pending, dispatched,
 * compensated, gave-up, skipped instead of registered; claimed, expired (its
 * claim has ended), later (it is to be retried later), parked, late, released,
 * rolled-back, tried (an attempt was made).
 *
 * Those of a step that saga runs begin with its work: action, task or gate (none).
 * It waits, or is completed, started, failed (given up), left-out (skipped), undone
 * (completed, and rolled back) or again (it failed, and is to be tried in 30 s).
 * Gates: after:a,b (after: alone is an empty list), timer (30 s to come), signal,
 * approval; by:a (recorded by the action of a); open (gate 1 is, for a minute),
 * got (its signal), approved; patient (its timeout is to come) or timed-out; rounds;
 * second (the second run of its key); or-skip, or-review (when it is given up).
 *
 * The event: walk; fail; seen-fail (after a look at what is next); pass (the
 * worker's, under the saga's lock); look (an executor's pass); done STEP and error
 * STEP (the end of an attempt); result STEP (a late result).  Going forward: gates
 * (what gate 1 of each step waits for); worker, executor, shared (a look of the
 * worker, or of an executor, or of one that may not end the saga); acted STEP,
 * round STEP, raised STEP, broken STEP (by a deployment), crashed STEP (the end of
 * an attempt of its work); restart (the saga runs again); unseen (the same, and
 * only its own transaction knows that it did not); undone STEP (a listener reports
 * that, late).
 *
 * The outcome: the saga's state and undo; when it is due, and in whose lane; the
 * steps whose status, compensation status, run, gates or question changed; and after
 * "writes" the rows, in order.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "base/errors.h"
#include "flow/afresh.h"
#include "flow/events.h"
#include "flow/follow.h"
#include "flow/gates.h"
#include "flow/look.h"
#include "flow/next.h"
#include "flow/outcome.h"
#include "server.h"
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
	else if (strcmp(word, "sealed") == 0)
		saga->runs = SAGA_RUNS_SEALED;
	else if (strcmp(word, "sent") == 0)
		unit_signals = 1;
	else
		bad(word);
}

/* saga has begun the step. */
static void
set_begun(SagaStep *step, SagaStepStatus status)
{
	step->status = status;
	step->begun = step->seq + 100;
	step->opened_at = step->ready_at = NOW - 60 * SECOND;
	step->forward.attempts = 1;
}

/* A word of a step that saga runs; false: it is another. */
static bool
set_forward_word(SagaStep *step, const char *word)
{
	if (strcmp(word, "action") == 0 || strcmp(word, "task") == 0 ||
		strcmp(word, "gate") == 0)
	{
		if (word[0] == 'a')
			step->action = cstring_to_text("SELECT 1");
		else if (word[0] == 't')
			step->task = cstring_to_text("channel");
		step->give_up = SAGA_GIVE_UP_FAIL;
		step->status = SAGA_STEP_WAITING;
		step->forward.attempts = 0;
		if (step->action != NULL)
			step->compensate_on = SAGA_COMPENSATE_ON_COMPLETED;
		return true;
	}
	if (!saga_rows_is_run(step))
		return false;
	if (strcmp(word, "completed") == 0)
		set_begun(step, SAGA_STEP_COMPLETED);
	else if (strcmp(word, "started") == 0)
		set_begun(step, SAGA_STEP_STARTED);
	else if (strcmp(word, "failed") == 0)
		set_begun(step, SAGA_STEP_FAILED);
	else if (strcmp(word, "again") == 0)
	{
		set_begun(step, SAGA_STEP_FAILED);
		step->forward.charged = 1;
		step->forward.retry_at = NOW + 30 * SECOND;
	}
	else if (strcmp(word, "left-out") == 0)
		step->status = SAGA_STEP_SKIPPED;
	else if (strcmp(word, "undone") == 0)
	{
		set_begun(step, SAGA_STEP_COMPLETED);
		step->comp_status = SAGA_COMP_COMPENSATED;
		step->rolled_back_at = NOW;
	}
	else if (strcmp(word, "open") == 0)
		step->opened_at = step->ready_at = NOW - 60 * SECOND;
	else if (strcmp(word, "timer") == 0)
	{
		step->not_before = NOW + 30 * SECOND;
		if (step->opened_at != 0)
			step->ready_at = step->not_before;
	}
	else if (strcmp(word, "signal") == 0)
		step->signals = unit_keys("go");
	else if (strcmp(word, "got") == 0)
		step->signal = UNIT_SIGNAL;
	else if (strcmp(word, "approval") == 0)
		step->approval = cstring_to_text("may it?");
	else if (strcmp(word, "approved") == 0)
		step->approved = true;
	else if (strcmp(word, "patient") == 0)
		step->timeout = 90 * 1000;
	else if (strcmp(word, "timed-out") == 0)
		step->timeout = 10 * 1000;
	else if (strcmp(word, "rounds") == 0)
		step->rounds = 2;
	else if (strcmp(word, "second") == 0)
		step->run = 2;
	else if (strcmp(word, "or-skip") == 0)
		step->give_up = SAGA_GIVE_UP_SKIP;
	else if (strcmp(word, "or-review") == 0)
		step->give_up = SAGA_GIVE_UP_REVIEW;
	else if (strncmp(word, "after:", 6) == 0)
		step->after = unit_keys(word + 6);
	else
		return false;
	return true;
}

static void
set_step_word(SagaStep *step, const char *word)
{
	if (strcmp(word, "sql") == 0 || set_forward_word(step, word))
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
	step->forward.crashes = step->undo.crashes = -1;
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

/* The first run of a key */
static SagaStep *
find_first(SagaSteps *steps, const text *key)
{
	for (int i = 0; i < steps->count; i++)
		if (saga_rows_same_text(steps->step[i].key, key))
			return &steps->step[i];
	bad("a second run without a first");
	return NULL;
}

/* What gate 1 of each step says */
static void
print_gates(SagaSteps *steps)
{
	SagaGates	gates;

	saga_gates_read(&gates, steps);
	printf("    =>");
	for (int i = 0; i < gates.count; i++)
	{
		int			at = gates.order[i];
		int			before = gates.before[at];
		const SagaStep *step = &steps->step[at];

		printf("%s %s", i > 0 ? "," : "", text_to_cstring(step->key));
		if (gates.done[at])
			printf(" done");
		else if (!saga_rows_is_run(step) || step->status != SAGA_STEP_WAITING)
			printf(" not done");
		else if (before == -1)
			printf(" may begin");
		else
			printf(" waits for %s", before < 0 ? "what is to be recorded again" :
				   text_to_cstring(steps->step[before].key));
	}
	printf("%s\n", saga_gates_all_done(&gates) ? "; all done" : "");
}

/* The work of a step has come to an end, of one kind or another. */
static void
end_work(SagaChange *change, const char *how, SagaStep *step)
{
	SagaAttemptEnd end;

	memset(&end, 0, sizeof(end));
	if (strcmp(how, "raised") == 0)
		saga_outcome_of_error(SAGA_ATTEMPT_SQL, SAGA_CAUSE_NONE,
							  ERRCODE_RAISE_EXCEPTION, "no", &end);
	else if (strcmp(how, "broken") == 0)
		saga_outcome_of_error(SAGA_ATTEMPT_SQL, SAGA_CAUSE_NONE,
							  ERRCODE_UNDEFINED_FUNCTION, "no such function", &end);
	else if (strcmp(how, "crashed") == 0)
	{
		end.outcome = SAGA_OUTCOME_INTERRUPTED;
		end.suspect = end.alone = true;
		end.error = "the server crashed while it ran";
	}
	else
		end.outcome = SAGA_OUTCOME_SUCCEEDED;
	if (strcmp(how, "round") == 0)
	{
		end.again = true;
		end.again_at = NOW + 30 * SECOND;
	}
	end.forward = true;
	end.attempt = step->forward.attempts + 1;
	end.started_at = NOW - SECOND;
	change->may = 0;
	change->steps_only = true;
	saga_look_attempt(change, step, &end);
}

/* A look has found that the saga is over, and may not end it. */
static bool to_end;

static void
look(SagaChange *change, int may)
{
	change->may = may;
	if (saga_look(change) == SAGA_LOOK_ENDS && !(may & SAGA_MAY_FAIL))
		to_end = true;
}

/* The event happens.  False: it is a question, which was answered. */
static bool
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
	else if (strcmp(event, "gates") == 0)
	{
		print_gates(change->steps);
		return false;
	}
	else if (strcmp(event, "worker") == 0)
		look(change, SAGA_MAY_NOTIFY | SAGA_MAY_FAIL | SAGA_IS_WORKER);
	else if (strcmp(event, "executor") == 0)
		look(change, SAGA_MAY_FAIL);
	else if (strcmp(event, "shared") == 0)
		look(change, 0);
	else if (strcmp(event, "restart") == 0)
		saga_afresh_restart(change, false);
	else if (strcmp(event, "unseen") == 0)
		saga_afresh_restart(change, true);
	else if (strcmp(event, "undone") == 0)
		saga_afresh_roll_back(change, find(change->steps, key));
	else
		end_work(change, event, find(change->steps, key));
	return true;
}

static void
print_outcome(const SagaRow *saga, const SagaSteps *steps,
			  const SagaStep *before)
{
	printf("    => %s", saga_state_name(saga->state));
	if (to_end)
		printf(", to end");
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

		if (step->status != before[i].status)
			printf(", %s is %s", text_to_cstring(step->key),
				   saga_state_step_status_name(step->status));
		if (step->begun != before[i].begun)
			printf(", %s begins", text_to_cstring(step->key));
		if (step->opened_at != before[i].opened_at ||
			step->ready_at != before[i].ready_at)
		{
			if (step->ready_at == 0)
				printf(", %s closes", text_to_cstring(step->key));
			else
				printf(", %s opens %+lld s", text_to_cstring(step->key),
					   (long long) ((step->ready_at - NOW) / SECOND));
		}
		if (step->signal != before[i].signal)
			printf(", %s %s a signal", text_to_cstring(step->key),
				   step->signal != NULL ? "has" : "loses");
		if (before[i].approved && !step->approved)
			printf(", %s not approved", text_to_cstring(step->key));
		if (step->forward.retry_at > NOW &&
			step->forward.retry_at != before[i].forward.retry_at)
			printf(", %s goes on %+lld s", text_to_cstring(step->key),
				   (long long) ((step->forward.retry_at - NOW) / SECOND));
		if (step->forward.charged != before[i].forward.charged)
			printf(", %s charged %d", text_to_cstring(step->key),
				   step->forward.charged);
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
		unit_signals = 0;
		to_end = false;
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
				if (strncmp(word, "by:", 3) == 0)
					new->recorded_by = find(&steps, word + 3)->seq;
				else
					set_step_word(new, word);
			if (new->run > 1)
				new->place = find_first(&steps, new->key)->seq;
			if (saga_rows_is_run(new) && saga.runs == SAGA_RUNS_NONE)
				saga.runs = SAGA_RUNS_STEPS;
			new->stored_held = saga_rows_step_held(new);
			new->stored_queued = saga_rows_queued(new, &new->stored_queue_phase);
			steps.claimed = steps.claimed || new->claimed_at != 0;
		}
		steps.to_walk = steps.count;
		memcpy(before, step, sizeof(before));
		saga_change_begin(&change, &saga, &steps, SAGA_MAY_WAIT, NOW);
		if (!happen(&change, part[parts - 1]))
			continue;
		print_outcome(&saga, &steps, before);
		printf("; writes");
		(void) saga_change_write(&change);
		printf("\n");
	}
	return 0;
}
