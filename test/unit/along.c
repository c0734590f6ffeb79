/*-------------------------------------------------------------------------
 *
 * along.c
 *	  Does the frontier of a saga say what all its steps say?
 *
 *	along SEED SAGAS
 *
 * Makes random sagas (steps of saga and of the application, recorded by the outside
 * and by actions, with and without lists, some of them done), and completes one step
 * after the other.  After each, the first gates that flow/frontier.c opens must be
 * those that flow/gates.c finds open in all the steps, and not before it; likewise
 * whose outputs each step gets, and whether all is done.
 *
 * Prints how many steps were completed, and how many gates opened; the first saga
 * of which they say different things ends the program.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "flow/frontier.h"
#include "flow/gates.h"
#include "server.h"
#include "utils/builtins.h"

#undef printf
#undef fprintf
#undef snprintf

#define MOST_STEPS	16
#define MOST_KEY	8

static SagaStep step[MOST_STEPS];
static SagaSteps steps = {0, 0, false, step};
static unsigned int seed;
static long completed = 0;
static long opened_gates = 0;

static int
pick(int limit)
{
	return random() % limit;
}

/* A list of keys of earlier steps, each of them perhaps */
static ArrayType *
pick_list(int before)
{
	char		list[MOST_STEPS * MOST_KEY] = "";

	for (int i = 0; i < before; i++)
		if (pick(before) < 2)
			snprintf(list + strlen(list), sizeof(list) - strlen(list), "%ss%d",
					 list[0] != '\0' ? "," : "", i);
	return unit_keys(list);
}

static void
make_saga(void)
{
	steps.count = 1 + pick(MOST_STEPS);
	memset(step, 0, sizeof(step));
	for (int i = 0; i < steps.count; i++)
	{
		char		key[MOST_KEY];
		int			recorder = pick(3 * (i + 1));

		snprintf(key, sizeof(key), "s%d", i);
		step[i].key = cstring_to_text(key);
		step[i].seq = i + 1;
		step[i].run = 1;
		step[i].give_up = SAGA_GIVE_UP_SKIP;
		step[i].status = SAGA_STEP_STARTED;
		if (pick(5) > 0)
		{
			step[i].action = cstring_to_text("SELECT 1");
			step[i].status = SAGA_STEP_WAITING;
			if (pick(2) == 0)
				step[i].after = pick_list(i);
		}
		/* What has recorded steps has run. */
		if (recorder < i && step[recorder].action != NULL)
		{
			step[i].recorded_by = step[recorder].seq;
			step[recorder].status = SAGA_STEP_COMPLETED;
			step[recorder].opened_at = step[recorder].ready_at = 1;
		}
		else if (pick(6) == 0)
			step[i].status = pick(2) == 0 ? SAGA_STEP_COMPLETED : SAGA_STEP_FAILED;
		if (step[i].action != NULL && step[i].status != SAGA_STEP_WAITING)
			step[i].opened_at = step[i].ready_at = 1;
	}
}

static void
complain(const char *what, int of)
{
	printf("%s, after s%d, of seed %u:", what, of, seed);
	for (int i = 0; i < steps.count; i++)
		printf(" s%d %c by %d after %s;", i, step[i].status,
			   (int) step[i].recorded_by - 1, step[i].after == NULL ? "all" :
			   text_to_cstring((text *) step[i].after));
	printf("\n");
	exit(1);
}

static bool
waits(const SagaGates *gates, int i)
{
	return saga_rows_is_run(&step[i]) && step[i].status == SAGA_STEP_WAITING &&
		step[i].ready_at == 0 && gates->before[i] != -1;
}

/* What a look would do: the gates that are open are opened. */
static void
open_gates(void)
{
	SagaGates	gates;

	saga_gates_read(&gates, &steps);
	for (int i = 0; i < steps.count; i++)
		if (saga_rows_is_run(&step[i]) && step[i].status == SAGA_STEP_WAITING &&
			step[i].ready_at == 0 && !waits(&gates, i))
			step[i].opened_at = step[i].ready_at = 1;
}

static void
compare_inputs(const SagaFrontier *frontier, const SagaGates *gates, int i)
{
	List	   *found;
	List	   *wanted = saga_gates_inputs(gates, i);

	if (!saga_frontier_inputs(frontier, step[i].seq, &found) ||
		list_length(found) != list_length(wanted))
		complain("other inputs", i);
	for (int n = 0; n < list_length(found); n++)
		if (atoi(((SagaFrontierStep *) list_nth(found, n))->key + 1) !=
			list_nth_int(wanted, n))
			complain("another input", i);
}

static void
complete(SagaFrontier *frontier, int i)
{
	SagaGates	before;
	SagaGates	after;
	List	   *opened;
	ListCell   *lc;
	int			count = 0;

	saga_gates_read(&before, &steps);
	step[i].status = SAGA_STEP_COMPLETED;
	saga_gates_read(&after, &steps);
	if (!saga_frontier_completed(frontier, step[i].seq, &opened))
		complain("not known", i);
	completed++;
	foreach(lc, opened)
	{
		int			which = atoi(((SagaFrontierStep *) lfirst(lc))->key + 1);

		if (!waits(&before, which) || waits(&after, which))
			complain("a gate opens that does not", i);
	}
	for (int n = 0; n < steps.count; n++)
		count += n != i && waits(&before, n) && !waits(&after, n);
	if (count != list_length(opened))
		complain("other gates open", i);
	opened_gates += count;
	if (saga_frontier_all_done(frontier) != saga_gates_all_done(&after))
		complain("done or not done", i);
	for (int n = 0; n < steps.count; n++)
		if (saga_rows_is_run(&step[n]) && step[n].after == NULL)
			compare_inputs(frontier, &after, n);
	open_gates();
}

int
main(int argc, char **argv)
{
	unsigned int first = argc > 1 ? atoi(argv[1]) : 1;
	int			sagas = argc > 2 ? atoi(argv[2]) : 1000;

	for (seed = first; seed < first + sagas; seed++)
	{
		SagaFrontier *frontier;

		srandom(seed);
		make_saga();
		open_gates();
		frontier = saga_frontier_make(&steps, NULL);
		for (;;)
		{
			int			may[MOST_STEPS];
			int			count = 0;

			for (int i = 0; i < steps.count; i++)
				if (step[i].status == SAGA_STEP_STARTED ||
					(step[i].status == SAGA_STEP_WAITING && step[i].ready_at != 0))
					may[count++] = i;
			if (count == 0)
				break;
			complete(frontier, may[pick(count)]);
		}
	}
	printf("%d sagas, %ld steps completed, %ld gates opened\n", sagas, completed,
		   opened_gates);
	return 0;
}
