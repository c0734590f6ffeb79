/*-------------------------------------------------------------------------
 *
 * server.c
 *	  What the pure part of saga asks of the server, without a server.
 *
 * Just enough for src/flow and the pure rooms of src/base to run in a plain
 * program.  Memory is never freed, an error ends the program, and writing to
 * the ledger prints what would be written.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include <stdarg.h>

#include "access/xact.h"
#include "base/calendar.h"
#include "base/fault.h"
#include "base/guc.h"
#include "base/json.h"
#include "base/rights.h"
#include "common/pg_prng.h"
#include "common/hashfn.h"
#include "flow/inbox.h"
#include "flow/notify.h"
#include "fmgr.h"
#include "ledger/ledger.h"
#include "ledger/start_order.h"
#include "lib/stringinfo.h"
#include "nodes/pg_list.h"
#include "server.h"
#include "shared/wakeup.h"
#include "utils/builtins.h"
#include "utils/fmgrprotos.h"
#include "utils/hsearch.h"

#undef printf
#undef vsnprintf

int			saga_guc_max_deferrals = 1000;
char	   *saga_guc_review_channel = "";
pg_prng_state pg_global_prng_state;

/* A function in a header of PostgreSQL 19, which nobody calls here, asks for them. */
TransactionId CheckXidAlive = InvalidTransactionId;
bool		bsysscan = false;

void *
palloc(Size size)
{
	return calloc(1, size);
}

char *
pstrdup(const char *in)
{
	return strdup(in);
}

char *
psprintf(const char *format,...)
{
	char	   *text = palloc(1024);
	va_list		args;

	va_start(args, format);
	vsnprintf(text, 1024, format, args);
	va_end(args);
	return text;
}

void
initStringInfo(StringInfo str)
{
	str->data = palloc(4096);
	str->len = 0;
}

void
appendStringInfo(StringInfo str, const char *format,...)
{
	va_list		args;

	va_start(args, format);
	str->len += vsnprintf(str->data + str->len, 4096 - str->len, format, args);
	va_end(args);
}

List *
lappend(List *list, void *datum)
{
	if (list == NIL)
	{
		list = palloc(sizeof(List));
		list->type = T_List;
		list->elements = palloc(sizeof(ListCell) * 64);
		list->max_length = 64;
	}
	if (list->length == list->max_length)
		abort();
	list->elements[list->length++].ptr_value = datum;
	return list;
}

text *
cstring_to_text(const char *s)
{
	text	   *result = palloc(VARHDRSZ + strlen(s));

	SET_VARSIZE(result, VARHDRSZ + strlen(s));
	memcpy(VARDATA(result), s, strlen(s));
	return result;
}

char *
text_to_cstring(const text *t)
{
	return strndup(VARDATA_ANY(t), VARSIZE_ANY_EXHDR(t));
}

int
pg_mbcliplen(const char *string, int length, int limit)
{
	return Min(length, limit);
}

void
saga_fault_poison(const text *name)
{
}

bool
saga_rows_same_text(const text *a, const text *b)
{
	return a == b || (a != NULL && b != NULL &&
					  strcmp(text_to_cstring(a), text_to_cstring(b)) == 0);
}

/* ------------------------------------------------------------------------
 * Errors end the program
 * ------------------------------------------------------------------------ */

void
ExceptionalCondition(const char *condition,
#if PG_VERSION_NUM < 160000
					 const char *type,
#endif
					 const char *file, int line)
{
	fprintf(stderr, "assertion failed: %s (%s:%d)\n", condition, file, line);
	exit(3);
}

bool
errstart(int elevel, const char *domain)
{
	return true;
}

bool
errstart_cold(int elevel, const char *domain)
{
	return true;
}

int
errcode(int code)
{
	return 0;
}

int
errmsg(const char *format,...)
{
	va_list		args;

	va_start(args, format);
	vfprintf(stderr, format, args);
	va_end(args);
	fprintf(stderr, "\n");
	return 0;
}

int
errmsg_internal(const char *format,...)
{
	fprintf(stderr, "%s\n", format);
	return 0;
}

void
errfinish(const char *file, int line, const char *function)
{
	exit(3);
}

char *
unpack_sql_state(int code)
{
	static char buf[6];

	for (int i = 0; i < 5; i++, code >>= 6)
		buf[i] = PGUNSIXBIT(code);
	return buf;
}

/* ------------------------------------------------------------------------
 * What is random, stored, or another role's
 * ------------------------------------------------------------------------ */

double
pg_prng_double(pg_prng_state *state)
{
	return 0.5;
}

const char *
saga_rights_why_gone(Oid role, const text *name)
{
	return NULL;
}

void
saga_json_begin(SagaJson *json)
{
}

void
saga_json_string(SagaJson *json, const char *key, const char *value)
{
}

void
saga_json_text(SagaJson *json, const char *key, const text *value)
{
}

void
saga_json_int(SagaJson *json, const char *key, int64 value)
{
}

Jsonb *
saga_json_end(SagaJson *json)
{
	return NULL;
}

/* A string is all that the test prints. */
Jsonb *
saga_json_pair(const char *key, const char *value)
{
	return (Jsonb *) value;
}

void
saga_ledger_get_steps(const pg_uuid_t *id, SagaSteps *steps)
{
	abort();
}

void
saga_ledger_get_steps_now(const pg_uuid_t *id, SagaSteps *steps)
{
	abort();
}

SagaWritten
saga_ledger_update_saga(SagaRow *saga, SagaPatience patience)
{
	printf(" saga");
	return SAGA_WRITTEN;
}

SagaWritten
saga_ledger_update_step(const SagaRow *saga, SagaStep *step,
						SagaPatience patience)
{
	printf(" %s", text_to_cstring(step->key));
	return SAGA_WRITTEN;
}

void
saga_ledger_insert_attempt(SagaAttempt *attempt)
{
	printf(" attempt");
}

void
saga_ledger_insert_event(const pg_uuid_t *id, const char *event, int64 seq,
						 Jsonb *detail, TimestampTz now)
{
	printf(" \"%s\"", event);
}

void
saga_notify_compensate(const char *channel, const pg_uuid_t *saga, int64 seq)
{
	printf(" notify");
}

void
saga_notify_task(const char *channel, const pg_uuid_t *saga, int64 seq)
{
	printf(" task");
}

void
saga_notify_review(const char *channel, const pg_uuid_t *saga, int64 seq)
{
	printf(" ask about " INT64_FORMAT, seq);
}

void
saga_notify_state(const char *channel, const pg_uuid_t *saga, SagaState state)
{
	printf(" announce");
}

/* ------------------------------------------------------------------------
 * The steps that saga runs
 * ------------------------------------------------------------------------ */

MemoryContext CurrentMemoryContext = NULL;

int			unit_signals = 0;

static void
not_here(const char *what)
{
	fprintf(stderr, "%s is not there without a server\n", what);
	abort();
}

/* A hash table is a list of its entries here. */
struct HTAB
{
	HASHCTL		control;
	int			count;
	char	   *entry[64];
};

HTAB *
hash_create(const char *tabname, long nelem, const HASHCTL *info, int flags)
{
	HTAB	   *table = palloc(sizeof(HTAB));

	table->control = *info;
	return table;
}

void *
hash_search(HTAB *hashp, const void *keyPtr, HASHACTION action, bool *foundPtr)
{
	bool		unused;
	bool	   *found = foundPtr != NULL ? foundPtr : &unused;
	Size		keysize = hashp->control.keysize;

	for (int i = 0; i < hashp->count; i++)
	{
		*found = hashp->control.match(keyPtr, hashp->entry[i], keysize) == 0;
		if (*found)
			return hashp->entry[i];
	}
	*found = false;
	if (action == HASH_FIND)
		return NULL;
	if (hashp->count == lengthof(hashp->entry))
		abort();
	hashp->entry[hashp->count] = palloc(hashp->control.entrysize);
	memcpy(hashp->entry[hashp->count], keyPtr, keysize);
	return hashp->entry[hashp->count++];
}

void
hash_destroy(HTAB *hashp)
{
}

uint32
hash_bytes(const unsigned char *k, int keylen)
{
	return 0;
}

/* An array is the list that it was made of. */
ArrayType *
unit_keys(const char *list)
{
	return (ArrayType *) cstring_to_text(list);
}

#if PG_VERSION_NUM < 190000
#define CONST_ARRAY ArrayType
#else
#define CONST_ARRAY const ArrayType
#endif

void
deconstruct_array(CONST_ARRAY *array, Oid elmtype, int elmlen, bool elmbyval,
				  char elmalign, Datum **elemsp, bool **nullsp, int *nelemsp)
{
	char	   *list = text_to_cstring((text *) array);
	char	   *rest = list;

	*elemsp = palloc(sizeof(Datum) * (strlen(list) + 1));
	*nelemsp = 0;
	while (*rest != '\0')
	{
		size_t		length = strcspn(rest, ",");

		(*elemsp)[(*nelemsp)++] = PointerGetDatum(cstring_to_text(strndup(rest, length)));
		rest += length + (rest[length] == ',' ? 1 : 0);
	}
}

struct varlena *
pg_detoast_datum(struct varlena *datum)
{
	return datum;
}

List *
lappend_int(List *list, int datum)
{
	list = lappend(list, NULL);
	list->elements[list->length - 1].int_value = datum;
	list->type = T_IntList;
	return list;
}

List *
lcons(void *datum, List *list)
{
	list = lappend(list, NULL);
	memmove(&list->elements[1], &list->elements[0],
			(list->length - 1) * sizeof(ListCell));
	list->elements[0].ptr_value = datum;
	return list;
}

void
list_free_deep(List *list)
{
}

SagaWritten
saga_ledger_update_signal(SagaSignal *signal, SagaPatience patience)
{
	printf(" signal");
	return SAGA_WRITTEN;
}

/*
 * Which signal a step takes is another matter, of inbox.c, which reads the ledger.
 * Here there is one at most.
 */
static SagaStep *taker;

bool
saga_inbox_take(SagaChange *change, SagaStep *step)
{
	static SagaSignal signal;

	if (unit_signals == 0)
		return false;
	unit_signals--;
	taker = step;
	change->signals = lappend(change->signals, &signal);
	step->signal = UNIT_SIGNAL;
	step->ready_at = change->now;
	saga_change_step(change, step);
	return true;
}

void
saga_inbox_give_back(SagaChange *change)
{
	if (change->signals == NIL || taker->status != SAGA_STEP_WAITING)
		return;
	taker->signal = NULL;
	change->signals = NIL;
}

/* That the step has lost its signal is what the cases show. */
void
saga_inbox_return(SagaChange *change, const List *steps)
{
}

TimestampTz
saga_calendar_add(TimestampTz at, const Interval *interval, Jsonb *settings)
{
	not_here("saga_calendar_add");
	return 0;
}

/* Larger than what the cases give their steps */
int64
saga_start_order_next(const pg_uuid_t *id)
{
	static int64 last = 1000;

	return ++last;
}

SagaWritten
saga_ledger_lock_step(SagaStep *step, SagaPatience patience)
{
	return SAGA_WRITTEN;
}

bool
saga_ledger_insert_step(const SagaRow *saga, SagaStep *step)
{
	printf(" new run %d of %s", step->run, text_to_cstring(step->key));
	return true;
}

void
saga_ledger_insert_look(const pg_uuid_t *id, int64 seq, TimestampTz due)
{
	if (seq == PG_INT64_MIN)
		printf(" look");
	else
		printf(" look at %d", (int) -seq);
}

void
saga_wakeup_due(TimestampTz due)
{
}

void
pfree(void *pointer)
{
}

void *
palloc0(Size size)
{
	return palloc(size);
}

void *
palloc_extended(Size size, int flags)
{
	return palloc(size);
}

void
saga_stat_saga(Oid owner, const text *name, SagaStatSaga counter)
{
}

void
saga_stat_channel(Oid owner, const text *channel, SagaStatChannel counter)
{
}

void
saga_stat_time(SagaStatTime what, int64 time)
{
}
