/*-------------------------------------------------------------------------
 *
 * fuzz.h
 *	  What the parts of the fuzzer know of each other.
 *
 *-------------------------------------------------------------------------
 */
#ifndef FUZZ_H
#define FUZZ_H

#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <time.h>

#include <libpq-fe.h>

#define lengthof(a) (sizeof(a) / sizeof((a)[0]))

#define POOL		24			/* sagas in hand, in each database */
#define KEYS		8			/* step keys that are used on purpose */
#define RING		64			/* compensation keys of claims */
#define DATABASES	2
#define SESSIONS	64
#define BATCH		16			/* statements in flight */
#define CALLS		8			/* calls in one statement */
#define PARAMS		48			/* parameters of one statement */
#define HISTORY		200			/* statements remembered for a finding */
#define FINDINGS	200			/* different ones */
#define SQLSTATES	96
#define FUNCTIONS	62

/* ------------------------------------------------------------------------
 * text.c: chance, and texts that grow
 * ------------------------------------------------------------------------ */

typedef struct Chance
{
	uint64_t	state;
} Chance;

typedef struct Text
{
	char	   *data;
	size_t		length;
	size_t		size;
} Text;

#define ONE_OF(c, list) ((list)[below((c), (int) lengthof(list))])

extern uint64_t next_random(Chance *c);
extern int	below(Chance *c, int n);
extern bool percent(Chance *c, int p);
extern void text_bytes(Text *t, const char *bytes, size_t n);
extern void text_add(Text *t, const char *format,...) __attribute__((format(printf, 2, 3)));
extern void text_clear(Text *t);
extern const char *text_string(const Text *t);

/* ------------------------------------------------------------------------
 * functions.c: the functions, the roles, and which errors may be
 * ------------------------------------------------------------------------ */

/* What kind of value an argument takes. */
typedef enum Kind
{
	K_SAGA_ID,
	K_SAGA_NAME,
	K_SAGA_KEY,
	K_INPUT,					/* goes with the saga's key */
	K_TIMEOUT,					/* of a saga */
	K_ON_FAILURE,
	K_ANNOUNCE,
	K_SUBJECT,					/* goes with the saga's key, too */
	K_STEP_NAME,				/* from here on: of saga.step */
	K_STEP_KEY,
	K_COMPENSATION,
	K_ARGS,
	K_NOTIFY,
	K_ACKNOWLEDGE,
	K_REVIEW,
	K_STEP_OUTPUT,
	K_STEP_COMPLETED,
	K_KIND,
	K_COMPENSATE_ON,
	K_RETRY,
	K_COMPENSATION_RETRY,
	K_STEP,						/* names a step */
	K_SAVEPOINT,				/* likewise, or null */
	K_JSON,
	K_LATE,
	K_FORWARD_KEY,
	K_NOTE,						/* words; null is wrong */
	K_REASON,					/* words, or null */
	K_RETRYABLE,
	K_BOOL,
	K_WAIT,
	K_UNTIL,
	K_MAX_ATTEMPTS,
	K_DELAY,
	K_BACKOFF,
	K_MAX_DELAY,
	K_JITTER,
	K_ATTEMPT_TIMEOUT,
	K_CHANNEL,
	K_MAX_CLAIMS,
	K_LEASE,
	K_CONSUMER,
	K_COMPENSATION_KEY,
	K_TASK_KEY,
	K_SIGNAL,
	K_ATTEMPT,
	K_RETRY_AFTER,
	K_RESOLUTION,
	K_OLDER_THAN,
	K_MAX_SAGAS,
	K_ROLE_OID,
	K_ROLE,
	K_ROLE_NAME,
	K_STATE_CHAR,
	K_POLICY_TEXT,
	K_POLICY_JSON,
	K_SEQ,
	K_TIME,
	K_OID,
	K_ACTION,					/* from here on: of a step that saga runs */
	K_TASK,
	K_AFTER,
	K_GATE_DELAY,
	K_NOT_BEFORE,
	K_SIGNALS,
	K_APPROVAL,
	K_STEP_TIMEOUT,
	K_GIVE_UP,
	K_SEAL
} Kind;

/* How far a caller must reach into a saga for a call to succeed. */
typedef enum Reach
{
	REACH_ANY,					/* it is about no saga, or tells nothing */
	REACH_READ,
	REACH_OPERATE,
	REACH_OWN
} Reach;

/* What an answer must be. */
typedef enum Answer
{
	A_ANY,
	A_UUID,
	A_STEP,
	A_STATE,
	A_COMP_STATUS,
	A_FAIL_STATUS,
	A_TASK_STATUS,
	A_COUNT,
	A_VOID
} Answer;

typedef struct Function
{
	const char *name;
	int			weight;			/* in the mix */
	Reach		reach;
	Answer		answer;
	bool		reads;			/* changes nothing, whatever it answers */
	bool		set;			/* returns a set */
	bool		dba;			/* about the ledger as a whole */
	int			nargs;
	struct
	{
		const char *name;		/* NULL: it has none */
		Kind		kind;
		bool		required;
	}			args[23];
} Function;

typedef struct Role
{
	const char *name;			/* NULL: the superuser that we connect as */
	int			weight;
	Reach		others;			/* how far into sagas that are not its own */
	bool		owns;			/* what it begins goes into the pool */
} Role;

/* Where an error may come from. */
#define W_CALL		1			/* a call of ours */
#define W_CONTROL	2			/* BEGIN, SET, COMMIT PREPARED, ... */
#define W_VIEW		4
#define W_WRITE		8			/* SQL on the ledger tables */
#define W_WAIT		16			/* a call of saga.wait, perhaps cancelled */
#define W_REASSIGN	32			/* a call of saga.reassign */
#define W_ANY		63

#define SUPERUSER 0

extern const char *const type_of_kind[];
extern const Function functions[FUNCTIONS];
extern const Role roles[];
extern const int role_count;
extern int	function_named(const char *name);
extern int	role_named(const char *name);
extern bool has_rights(int role, int owner);
extern bool error_is_allowed(const char *sqlstate, int where);

/* ------------------------------------------------------------------------
 * fuzz.c: options, and what the sessions share
 * ------------------------------------------------------------------------ */

typedef struct Slot
{
	char		id[37];			/* empty: none */
	int			owner;			/* the role that began it */
	uint32_t	salt;			/* what its steps are made of */
	uint32_t	started;		/* a bit for each step key */
	char		seq[KEYS][20];	/* of the newest run known */
} Slot;

typedef struct Claim
{
	char		key[80];		/* compensation key; empty: none */
	int			attempt;
} Claim;

typedef struct Pool
{
	Slot		slot[POOL];
	Claim		claim[RING];
	uint32_t	claims;			/* so far */
} Pool;

typedef struct Shared
{
	pthread_mutex_t mutex;
	Pool		pool[DATABASES];
	atomic_bool stop;
	atomic_long calls;
	atomic_long statements;
	atomic_long ok[FUNCTIONS];
	atomic_long failed[FUNCTIONS];
	atomic_long checks;			/* of fingerprints */
	atomic_int	findings;		/* different ones */
	atomic_long repeated;
	uint64_t	signature[FINDINGS];
	struct
	{
		char		state[6];
		atomic_long count;
	}			sqlstates[SQLSTATES];
	atomic_long heartbeat[SESSIONS];
	char		doing[SESSIONS][400];
} Shared;

extern Shared *shared;
extern uint64_t seed;
extern long seconds;
extern long max_calls;
extern int	session_count;
extern const char *out_dir;
extern bool log_all;
extern int	slow;
extern bool has_clock;
extern const char *conninfo[DATABASES];
extern int	database_count;
extern time_t now_seconds(void);
extern void print_statistics(time_t took);

/* ------------------------------------------------------------------------
 * Statements
 * ------------------------------------------------------------------------ */

/* What a step is made of: the same for everybody who records it. */
typedef struct Spec
{
	int			action;
	int			kind;
	bool		on_completed;
	bool		acknowledge;
	int			args;
	int			work;			/* of a step that saga runs, or 0 */
	int			gates;			/* bits; and where they are to be found */
} Spec;

/* One call within a statement. */
typedef struct Call
{
	int			function;
	int			slot;			/* -1: no saga of the pool */
	char		id[37];			/* that one's id when the call was made up */
	uint32_t	salt;
	int			key;			/* -1: no step of the usual ones */
	bool		odd;			/* odd arguments among the others */
	Spec		spec;
} Call;

typedef struct Parameter
{
	Text		value;
	bool		binary;
	size_t		at;				/* where in the SQL it stands */
	size_t		length;
	const char *type;
} Parameter;

typedef struct Statement
{
	Text		sql;
	int			nparams;
	Parameter	param[PARAMS];
	bool		no_params;		/* literals only */
	int			where;			/* W_... */
	bool		waits;			/* may be cut short */
	int			ncalls;
	Call		call[CALLS];
	int			columns;		/* so many columns are those calls' answers */
	bool		must_fail;		/* or touch no row */
	int			role;			/* as whom it is sent */
	bool		fingerprint;	/* of a saga, to be compared with the last one */
	bool		compare;
	bool		attempted;		/* answers what fuzz.attempt answered */
	bool		claims;			/* rows of compensation_key, attempt */
} Statement;

typedef struct Session
{
	int			number;
	int			database;
	Chance		chance;
	long		unit;
	PGconn	   *conn;
	int			role;
	int			server_version;
	bool		one_byte;		/* the database's encoding is SQL_ASCII */
	Statement	batch[BATCH];
	int			queued;
	char		fingerprint[40];
	bool		quiet;			/* the last compared call was to change nothing */
	Text		history[HISTORY];
	long		history_count;
	FILE	   *log;
	char		prepared[4][64];
	int			prepared_count;
	bool		calls_only;		/* no change of role, settings, connection */
	bool		claimer;
	int			key;			/* that calls are about now, or -1 */
} Session;

/* values.c: values of all types, the odd ones */
extern void put_bytes(Session *s, Statement *st, const char *bytes, size_t n,
					  const char *type);
extern void put(Session *s, Statement *st, const char *string, const char *type);
extern void put_null(Statement *st, const char *type);
extern void put_odd_text(Session *s, Statement *st);
extern void put_odd_json(Session *s, Statement *st);
extern void put_odd_interval(Session *s, Statement *st);
extern void put_odd_integer(Session *s, Statement *st);
extern void put_odd_id(Session *s, Statement *st);
extern void put_odd_time(Session *s, Statement *st);
extern void put_policy(Session *s, Statement *st, bool odd);

/* arguments.c: arguments, and whole calls of them */
extern const char *const words[];
extern const int word_count;
extern const char *const channels[4];
extern void look_up(Session *s, int index, Slot *copy);
extern int	any_function(Session *s);
extern int	any_slot(Session *s);
extern void aim(Session *s, Call *call, int function, int slot);
extern void put_call(Session *s, Statement *st, int function, int slot,
					 const char *first);

/* answers.c: what an answer must be, and findings */
extern void write_out(const Statement *st, Text *to);
extern bool finding(Session *s, const Statement *st, const char *format,...) __attribute__((format(printf, 3, 4)));
extern void add_claim(Session *s, const char *key, int attempt);
extern void take_result(Session *s, const Statement *st, const PGresult *result);
extern void take_notice(void *arg, const PGresult *result);

/* session.c: sending statements, and taking their answers */
extern Statement *new_statement(Session *s, int where);
extern void queue(Session *s);
extern void collect(Session *s);
extern void queue_sql(Session *s, int where, const char *format,...) __attribute__((format(printf, 3, 4)));
extern void insist(Session *s, const char *sql);
extern PGresult *ask(Session *s, const char *sql);
extern void lost(Session *s, const Statement *st);
extern void timeouts(Session *s);
extern void settings(Session *s);
extern void open_session(Session *s);
extern void take_role(Session *s, int role);
extern void take_any_role(Session *s);

/* units.c: units of work, and a session's life */
extern void one_call(Session *s, int function, int slot);
extern void unit(Session *s);
extern void run_session(int number);

/* ledger.c: looking at the ledger as a whole */
extern PGconn *connect_superuser(int database);
extern void command(PGconn *conn, const char *sql);
extern void compare_functions(PGconn *conn);
extern void look_for_violations(PGconn *conn, const char *function,
								const char *when);
extern void settle(PGconn *conn);

/* memory.c: what a session holds */
extern int	memory(void);

#endif							/* FUZZ_H */
