/*-------------------------------------------------------------------------
 *
 * compat.h
 *	  Differences between PostgreSQL 15 and 19, each with what changed.
 *
 * Static inlines and macros only; the rest of the code never asks for a
 * version.
 *
 *-------------------------------------------------------------------------
 */
#ifndef SAGA_COMPAT_H
#define SAGA_COMPAT_H

#include <signal.h>
#include <unistd.h>

#include "access/amapi.h"
#include "access/genam.h"
#include "access/heapam.h"
#include "access/relscan.h"
#include "catalog/pg_class.h"
#include "catalog/pg_database.h"
#include "catalog/pg_extension.h"
#include "catalog/pg_namespace.h"
#include "commands/trigger.h"
#include "libpq/pqsignal.h"
#include "miscadmin.h"
#include "nodes/execnodes.h"
#include "parser/parser.h"
#include "postmaster/bgworker.h"
#include "replication/origin.h"
#include "replication/slot.h"
#include "storage/bufmgr.h"
#include "storage/proc.h"
#include "storage/procarray.h"
#include "storage/sinvaladt.h"
#include "utils/acl.h"
#include "utils/jsonb.h"
#include "utils/timestamp.h"
#include "utils/wait_event.h"

/*
 * The mark of a module: 18 has one with its name and version, which
 * pg_get_loaded_modules() shows.
 */
#if PG_VERSION_NUM >= 180000
#define SAGA_COMPAT_MODULE_MAGIC \
	PG_MODULE_MAGIC_EXT(.name = "saga", .version = SAGA_RELEASE)
#else
#define SAGA_COMPAT_MODULE_MAGIC	PG_MODULE_MAGIC
#endif

/* Ignoring a signal: 19 has handlers of two arguments, and its own name. */
#if PG_VERSION_NUM >= 190000
#define SAGA_COMPAT_SIG_IGN		PG_SIG_IGN
#else
#define SAGA_COMPAT_SIG_IGN		SIG_IGN
#endif

/*
 * The sender of a signal: 19 passes it to every handler of the server's own;
 * before, the system is asked.  A handler calls begin(), which returns false in a child
 * that is not a process of the server (17 and 18 have that check in pqsignal,
 * which is not used then), and forwards the signal to the server's own handler.
 * The process is 0 if the system does not know it.
 */
#if PG_VERSION_NUM >= 190000
#define SAGA_COMPAT_SIGNAL_ARGS		SIGNAL_ARGS
#define SAGA_COMPAT_SIGNAL_PASS		postgres_signal_arg, pg_siginfo

static inline void
saga_compat_signal_handle(int signo, pqsigfunc handler)
{
	pqsignal(signo, handler);
}

static inline bool
saga_compat_signal_begin(int signo, const pg_signal_info *info, int *pid)
{
	*pid = (int) info->pid;
	return true;
}

static inline void
saga_compat_signal_forward(pqsigfunc handler, int signo,
						   const pg_signal_info *info)
{
	handler(signo, info);
}
#elif defined(SA_SIGINFO)
#define SAGA_COMPAT_SIGNAL_ARGS		int signo, siginfo_t *info, void *context
#define SAGA_COMPAT_SIGNAL_PASS		signo, info

static inline void
saga_compat_signal_handle(int signo, void (*handler) (int, siginfo_t *, void *))
{
	struct sigaction act;

	memset(&act, 0, sizeof(act));
	sigemptyset(&act.sa_mask);
	act.sa_flags = SA_RESTART | SA_SIGINFO;
	act.sa_sigaction = handler;
	if (sigaction(signo, &act, NULL) < 0)
		elog(ERROR, "could not install a signal handler: %m");
}

static inline bool
saga_compat_signal_begin(int signo, const siginfo_t *info, int *pid)
{
	if (MyProcPid != (int) getpid())
	{
		pqsignal(signo, SIG_DFL);
		raise(signo);
		return false;
	}
	*pid = info->si_code == SI_USER ? (int) info->si_pid : 0;
	return true;
}

static inline void
saga_compat_signal_forward(void (*handler) (int), int signo,
						   const siginfo_t *info)
{
	int			save_errno = errno;

	handler(signo);
	errno = save_errno;
}
#else
#define SAGA_COMPAT_SIGNAL_ARGS		SIGNAL_ARGS
#define SAGA_COMPAT_SIGNAL_PASS		postgres_signal_arg

static inline void
saga_compat_signal_handle(int signo, void (*handler) (int))
{
	pqsignal(signo, handler);
}

static inline bool
saga_compat_signal_begin(int signo, int *pid)
{
	*pid = 0;
	return true;
}

static inline void
saga_compat_signal_forward(void (*handler) (int), int signo)
{
	handler(signo);
}
#endif

/* Functions that do not return: 18 moved the mark before the declaration. */
#if PG_VERSION_NUM >= 180000
#define SAGA_COMPAT_NORETURN	pg_noreturn
#else
#define SAGA_COMPAT_NORETURN	pg_attribute_noreturn()
#endif

/*
 * heap_update: 16 added which indexes need new entries, since an update that
 * stays on its page (HOT) may need them in those that only summarize blocks,
 * as BRIN does; before, a column in any index made an update leave its page.
 * 19 added options.
 */
typedef enum SagaCompatUpdateIndexes
{
	SAGA_COMPAT_UPDATE_NONE,
	SAGA_COMPAT_UPDATE_SUMMARIZING,
	SAGA_COMPAT_UPDATE_ALL
} SagaCompatUpdateIndexes;

static inline TM_Result
saga_compat_heap_update(Relation rel, ItemPointer otid, HeapTuple newtup,
						CommandId cid, bool wait, TM_FailureData *tmfd,
						LockTupleMode *lockmode,
						SagaCompatUpdateIndexes *indexes)
{
	TM_Result	result;
#if PG_VERSION_NUM >= 160000
	TU_UpdateIndexes update = TU_None;

#if PG_VERSION_NUM >= 190000
	result = heap_update(rel, otid, newtup, cid, 0, InvalidSnapshot, wait,
						 tmfd, lockmode, &update);
#else
	result = heap_update(rel, otid, newtup, cid, InvalidSnapshot, wait, tmfd,
						 lockmode, &update);
#endif
	*indexes = update == TU_All ? SAGA_COMPAT_UPDATE_ALL :
		update == TU_Summarizing ? SAGA_COMPAT_UPDATE_SUMMARIZING :
		SAGA_COMPAT_UPDATE_NONE;
#else
	result = heap_update(rel, otid, newtup, cid, InvalidSnapshot, wait, tmfd,
						 lockmode);
	*indexes = HeapTupleIsHeapOnly(newtup) ? SAGA_COMPAT_UPDATE_NONE :
		SAGA_COMPAT_UPDATE_ALL;
#endif
	return result;
}

/* heap_delete: 19 has options in place of the flag that a row moves elsewhere. */
static inline TM_Result
saga_compat_heap_delete(Relation rel, ItemPointer tid, CommandId cid,
						bool wait, TM_FailureData *tmfd)
{
#if PG_VERSION_NUM >= 190000
	return heap_delete(rel, tid, cid, 0, InvalidSnapshot, wait, tmfd);
#else
	return heap_delete(rel, tid, cid, InvalidSnapshot, wait, tmfd, false);
#endif
}

/* Does an index only summarize blocks?  16; before, that made no difference. */
static inline bool
saga_compat_is_summarizing(Relation index)
{
#if PG_VERSION_NUM >= 160000
	return index->rd_indam->amsummarizing;
#else
	return false;
#endif
}

/* heap_page_prune_opt: 19 lets it set the visibility map, which we leave alone. */
static inline void
saga_compat_heap_page_prune_opt(Relation heap, Buffer buffer)
{
#if PG_VERSION_NUM >= 190000
	Buffer		map = InvalidBuffer;

	heap_page_prune_opt(heap, buffer, &map, false);
	if (BufferIsValid(map))
		ReleaseBuffer(map);
#else
	heap_page_prune_opt(heap, buffer);
#endif
}

/* A descriptor is complete: 19 prepares it for reading rows then. */
static inline void
saga_compat_desc_finalize(TupleDesc desc)
{
#if PG_VERSION_NUM >= 190000
	TupleDescFinalize(desc);
#endif
}

/* What an index keeps open from one insertion to the next: 17 (BRIN). */
static inline void
saga_compat_index_insert_cleanup(Relation index, struct IndexInfo *info)
{
#if PG_VERSION_NUM >= 170000
	index_insert_cleanup(index, info);
#endif
}

/* index_beginscan: 18 added the instrumentation of the scan, 19 flags. */
static inline IndexScanDesc
saga_compat_index_beginscan(Relation heap, Relation index, Snapshot snapshot,
							int nkeys)
{
#if PG_VERSION_NUM >= 190000
	return index_beginscan(heap, index, snapshot, NULL, nkeys, 0, 0);
#elif PG_VERSION_NUM >= 180000
	return index_beginscan(heap, index, snapshot, NULL, nkeys, 0);
#else
	return index_beginscan(heap, index, snapshot, nkeys, 0);
#endif
}

/* table_index_fetch_begin: 19 added flags. */
static inline struct IndexFetchTableData *
saga_compat_index_fetch_begin(Relation heap)
{
#if PG_VERSION_NUM >= 190000
	return table_index_fetch_begin(heap, 0);
#else
	return table_index_fetch_begin(heap);
#endif
}

/*
 * 16 replaced the ownership check of each kind of object by one for all.
 * Asked here of databases, extensions, schemas and relations.
 */
static inline bool
saga_compat_owns(Oid catalog, Oid object, Oid role)
{
#if PG_VERSION_NUM >= 160000
	return object_ownercheck(catalog, object, role);
#else
	switch (catalog)
	{
		case DatabaseRelationId:
			return pg_database_ownercheck(object, role);
		case ExtensionRelationId:
			return pg_extension_ownercheck(object, role);
		case NamespaceRelationId:
			return pg_namespace_ownercheck(object, role);
		case RelationRelationId:
			return pg_class_ownercheck(object, role);
	}
	Assert(false);
	return false;
#endif
}

/* 17 lets an extension name what it waits for; the same name, the same event. */
static inline uint32
saga_compat_wait_event(const char *name)
{
#if PG_VERSION_NUM >= 170000
	return WaitEventExtensionNew(name);
#else
	return PG_WAIT_EXTENSION;
#endif
}

/* 17 lets a background worker connect as a role without LOGIN. */
#ifdef BGWORKER_BYPASS_ROLELOGINCHECK
#define SAGA_COMPAT_BYPASS_LOGIN	BGWORKER_BYPASS_ROLELOGINCHECK
#else
#define SAGA_COMPAT_BYPASS_LOGIN	0
#endif

/* Privilege checks: 16 merged the functions per kind of object into one. */
static inline bool
saga_compat_may_connect(Oid database, Oid role)
{
#if PG_VERSION_NUM >= 160000
	return object_aclcheck(DatabaseRelationId, database, role,
						   ACL_CONNECT) == ACLCHECK_OK;
#else
	return pg_database_aclcheck(database, role, ACL_CONNECT) == ACLCHECK_OK;
#endif
}

/* Membership that lets a role be set: 16 made that an option. */
#if PG_VERSION_NUM >= 160000
#define SAGA_COMPAT_MAY_BECOME	"SET"
#else
#define SAGA_COMPAT_MAY_BECOME	"MEMBER"
#endif

static inline bool
saga_compat_may_become(Oid member, Oid role)
{
#if PG_VERSION_NUM >= 160000
	return member_can_set_role(member, role);
#else
	return is_member_of_role(member, role);
#endif
}

/*
 * The process of a virtual transaction id; 0: none, it is prepared or over.
 * 17 renamed the backend's part and moved the other.
 */
static inline int
saga_compat_vxid_pid(const VirtualTransactionId *vxid)
{
#if PG_VERSION_NUM >= 170000
	PGPROC	   *proc = ProcNumberGetProc(vxid->procNumber);

	return proc != NULL && proc->vxid.lxid == vxid->localTransactionId ?
		proc->pid : 0;
#else
	PGPROC	   *proc = BackendIdGetProc(vxid->backendId);

	return proc != NULL && proc->lxid == vxid->localTransactionId ?
		proc->pid : 0;
#endif
}

/* Intervals: 17 added infinite ones. */
static inline bool
saga_compat_interval_is_infinite(const Interval *interval)
{
#if PG_VERSION_NUM >= 170000
	return INTERVAL_NOT_FINITE(interval);
#else
	return false;
#endif
}

/*
 * Hooks of the analysis and of the planner, and callbacks of the system
 * caches: 19 made one argument const, added one, and gave one its own type.
 */
#if PG_VERSION_NUM >= 190000
#define SAGA_COMPAT_ANALYZE_JUMBLE		const JumbleState *
#define SAGA_COMPAT_PLANNER_PARAMS \
	Query *query, const char *source, int options, ParamListInfo params, \
	struct ExplainState *es
#define SAGA_COMPAT_PLANNER_ARGS		query, source, options, params, es
#define SAGA_COMPAT_SYSCACHE_ID			SysCacheIdentifier
#else
#define SAGA_COMPAT_ANALYZE_JUMBLE		JumbleState *
#define SAGA_COMPAT_PLANNER_PARAMS \
	Query *query, const char *source, int options, ParamListInfo params
#define SAGA_COMPAT_PLANNER_ARGS		query, source, options, params
#define SAGA_COMPAT_SYSCACHE_ID			int
#endif

/* How backslashes in plain literals are read: 19 knows one way only. */
static inline bool
saga_compat_plain_strings(void)
{
#if PG_VERSION_NUM >= 190000
	return true;
#else
	return standard_conforming_strings;
#endif
}

/* Does the session replay for a replication origin?  19 made it a struct. */
static inline bool
saga_compat_has_replication_origin(void)
{
#if PG_VERSION_NUM >= 190000
	return replorigin_xact_state.origin != InvalidReplOriginId;
#else
	return replorigin_session_origin != InvalidRepOriginId;
#endif
}

/* Temporary replication slots: 17 can drop the synchronized ones alone. */
static inline void
saga_compat_drop_temporary_slots(void)
{
#if PG_VERSION_NUM >= 170000
	ReplicationSlotCleanup(false);
#else
	ReplicationSlotCleanup();
#endif
}

/* Building jsonb: 19 moved the result into the state. */
#if PG_VERSION_NUM >= 190000
typedef JsonbInState SagaCompatJsonb;
#else
typedef struct SagaCompatJsonb
{
	JsonbParseState *parseState;
	JsonbValue *result;
} SagaCompatJsonb;
#endif

static inline void
saga_compat_push_jsonb(SagaCompatJsonb *state, JsonbIteratorToken token,
					   JsonbValue *value)
{
#if PG_VERSION_NUM >= 190000
	pushJsonbValue(state, token, value);
#else
	state->result = pushJsonbValue(&state->parseState, token, value);
#endif
}

/* Lets a trigger fire always: 16 asks about partitions, which have clones of it. */
static inline void
saga_compat_enable_always(Relation rel, const char *trigger, LOCKMODE mode)
{
#if PG_VERSION_NUM >= 160000
	EnableDisableTrigger(rel, trigger, InvalidOid, TRIGGER_FIRES_ALWAYS, false,
						 false, mode);
#else
	EnableDisableTrigger(rel, trigger, TRIGGER_FIRES_ALWAYS, false, mode);
#endif
}

#endif							/* SAGA_COMPAT_H */
