/*-------------------------------------------------------------------------
 *
 * fuzz.c
 *	  A property-based fuzz driver over every function of saga.
 *
 * Several sessions call random functions with typed random arguments on a
 * small pool of sagas, while saga's own processes undo what fails.  README.md
 * beside this file says which properties are held against each answer, and how
 * a finding is repeated.
 *
 * Every session is a process of its own with a generator of its own.  What a
 * unit of work (a batch of calls, a transaction, ...) does follows from the
 * seed, the session and the unit's number, and from what the pool holds; so a
 * run with one session repeats itself but for what the server's processes do
 * meanwhile.
 *
 *	fuzz mix    [options] CONNINFO...	random calls; one CONNINFO per database
 *	fuzz memory [options] CONNINFO		contexts of one session, before and after
 *	fuzz list							the functions that it calls
 *
 * Options: --seed N, --seconds N, --count N (calls), --sessions N, --out DIR
 * (where findings go), --log (every statement, too), --slow N (how many times
 * slower than usual the server is), --tests (the virtual clock is there).
 *
 *-------------------------------------------------------------------------
 */
#include <limits.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "fuzz.h"

Shared *shared;

/* Options */
uint64_t seed = 0;
long seconds = 10;
long max_calls = LONG_MAX;
int	session_count = 4;
const char *out_dir = ".";
bool log_all = false;
int	slow = 1;
bool has_clock = false;
const char *conninfo[DATABASES];
int	database_count = 0;

time_t
now_seconds(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return t.tv_sec;
}

void
print_statistics(time_t took)
{
	printf("%-28s %10s %10s\n", "function", "ok", "error");
	for (int i = 0; i < FUNCTIONS; i++)
		printf("%-28s %10ld %10ld\n", functions[i].name, (long) shared->ok[i], (long) shared->failed[i]);
	for (int i = 0; i < SQLSTATES && shared->sqlstates[i].state[0] != '\0'; i++)
		printf("%s%s %ld", i % 8 ? "  " : i ? "\n" : "", shared->sqlstates[i].state,
			   (long) shared->sqlstates[i].count);
	printf("\nfuzz: seed %llu, %ld calls in %ld statements by %d sessions, %ld fingerprints, %ld s; %d findings%s\n",
		   (unsigned long long) seed, (long) shared->calls, (long) shared->statements,
		   session_count, (long) shared->checks, (long) took, (int) shared->findings,
		   shared->repeated > 0 ? ", some of them repeatedly" : "");
}

static int
mix(void)
{
	pid_t		children[SESSIONS];
	time_t		start = now_seconds();
	time_t		looked = start;
	int			running = session_count;
	PGconn	   *conn[DATABASES];

	for (int i = 0; i < database_count; i++)
	{
		conn[i] = connect_superuser(i);
		if (conn[i] == NULL)
			return 1;
		compare_functions(conn[i]);
	}
	for (int i = 0; i < session_count; i++)
	{
		atomic_store(&shared->heartbeat[i], start);
		fflush(stdout);
		children[i] = fork();
		if (children[i] < 0)
			return 2;
		if (children[i] == 0)
			run_session(i);
	}
	while (running > 0)
	{
		struct timespec nap = {0, 100 * 1000 * 1000};
		int			status;
		pid_t		pid;

		while ((pid = waitpid(-1, &status, WNOHANG)) > 0)
		{
			running--;
			if (!WIFEXITED(status) || WEXITSTATUS(status) != 0)
			{
				if (WIFSIGNALED(status))
					finding(NULL, NULL, "a session of the fuzzer died of signal %d", WTERMSIG(status));
				atomic_store(&shared->stop, true);
			}
			for (int i = 0; i < session_count; i++)
				if (children[i] == pid)
					children[i] = 0;
		}
		nanosleep(&nap, NULL);
		for (int i = 0; i < session_count; i++)
		{
			if (children[i] == 0 ||
				now_seconds() - atomic_load(&shared->heartbeat[i]) < 480 + 120 * slow)
				continue;
			finding(NULL, NULL, "session %d hangs in: %s", i, shared->doing[i]);
			atomic_store(&shared->stop, true);
			kill(children[i], SIGKILL);
			atomic_store(&shared->heartbeat[i], now_seconds());
		}
		/* Whatever a snapshot shows must fit together, at any moment. */
		if (now_seconds() - looked >= 20 && running == session_count)
		{
			for (int i = 0; i < database_count; i++)
				look_for_violations(conn[i], "violations", "meanwhile");
			looked = now_seconds();
			if ((looked - start) / 20 % 3 == 0)
			{
				printf("fuzz: %ld s, %ld calls, %d findings\n", (long) (looked - start),
					   (long) shared->calls, (int) shared->findings);
				fflush(stdout);
			}
		}
	}

	/* Which may take a while. */
	for (int i = 0; i < database_count; i++)
	{
		if (PQstatus(conn[i]) != CONNECTION_OK)
		{
			finding(NULL, NULL, "the server is gone");
			break;
		}
		look_for_violations(conn[i], "violations", "after the last call");
		command(conn[i], "SELECT saga.adopt()");
		settle(conn[i]);
		look_for_violations(conn[i], "violations", "when all was settled");
		look_for_violations(conn[i], "violations_at_rest", "when all was settled");
		PQfinish(conn[i]);
	}
	print_statistics(now_seconds() - start);
	return shared->findings > 0 ? 1 : 0;
}

static void
usage(void)
{
	fprintf(stderr, "usage: fuzz mix|memory [--seed N] [--seconds N] [--count N] [--sessions N] [--out DIR] [--log] [--slow N] [--tests] CONNINFO...\n"
			"       fuzz list\n");
	exit(2);
}

int
main(int argc, char **argv)
{
	const char *command_name;
	pthread_mutexattr_t attr;

	if (argc < 2)
		usage();
	command_name = argv[1];
	if (strcmp(command_name, "list") == 0)
	{
		for (int i = 0; i < FUNCTIONS; i++)
			printf("%s\n", functions[i].name);
		return 0;
	}
	for (int i = 2; i < argc; i++)
	{
		const char *value = i + 1 < argc ? argv[i + 1] : "";

		if (strcmp(argv[i], "--seed") == 0)
			seed = strtoull(value, NULL, 10), i++;
		else if (strcmp(argv[i], "--seconds") == 0)
			seconds = atol(value), i++;
		else if (strcmp(argv[i], "--count") == 0)
			max_calls = atol(value), i++;
		else if (strcmp(argv[i], "--sessions") == 0)
			session_count = atoi(value), i++;
		else if (strcmp(argv[i], "--out") == 0)
			out_dir = value, i++;
		else if (strcmp(argv[i], "--slow") == 0)
			slow = atoi(value), i++;
		else if (strcmp(argv[i], "--log") == 0)
			log_all = true;
		else if (strcmp(argv[i], "--tests") == 0)
			has_clock = true;
		else if (argv[i][0] == '-' || database_count == DATABASES)
			usage();
		else
			conninfo[database_count++] = argv[i];
	}
	if (database_count == 0 || session_count < 1 || session_count > SESSIONS)
		usage();

	shared = mmap(NULL, sizeof(Shared), PROT_READ | PROT_WRITE,
				  MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	if (shared == MAP_FAILED)
		return 2;
	pthread_mutexattr_init(&attr);
	pthread_mutexattr_setpshared(&attr, PTHREAD_PROCESS_SHARED);
	pthread_mutex_init(&shared->mutex, &attr);

	printf("fuzz: seed %llu\n", (unsigned long long) seed);
	fflush(stdout);
	if (strcmp(command_name, "mix") == 0)
		return mix();
	if (strcmp(command_name, "memory") == 0)
		return memory();
	usage();
	return 2;
}
