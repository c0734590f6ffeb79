/*-------------------------------------------------------------------------
 *
 * bgworker.h
 *	  How any of our processes starts.
 *
 *-------------------------------------------------------------------------
 */
#ifndef SAGA_BGWORKER_H
#define SAGA_BGWORKER_H

#include "postmaster/bgworker.h"
#include "utils/uuid.h"

typedef enum SagaProcessKind
{
	SAGA_PROCESS_LAUNCHER,
	SAGA_PROCESS_WORKER,
	SAGA_PROCESS_EXECUTOR
} SagaProcessKind;

/* What a process is to be; travels to it as it is. */
typedef struct SagaProcess
{
	SagaProcessKind kind;
	Oid			database;		/* of a worker or executor */
	Oid			role;			/* of an executor */
	int			slot;			/* of an executor, in saga_shmem->executors */
	uint32		generation;		/* of that slot */
} SagaProcess;

/* Asks the postmaster for a process; false if it has no place for one. */
extern bool saga_bgworker_start(const SagaProcess *process,
								BackgroundWorkerHandle **handle);
extern void saga_bgworker_warn_no_place(void);

/* The new process: what is it; then attach to shared memory; then connect. */
extern const SagaProcess *saga_bgworker_enter(void);
extern void saga_bgworker_connect(void);

/* For a loop that catches errors: name the process in messages again. */
extern void saga_bgworker_push_context(void);
extern const char *saga_bgworker_context(void);
extern void saga_bgworker_at(const pg_uuid_t *saga, int64 seq);

/* Entry points, by the names under which the postmaster looks them up. */
extern PGDLLEXPORT void saga_launcher_main(Datum arg);
extern PGDLLEXPORT void saga_worker_main(Datum arg);
extern PGDLLEXPORT void saga_executor_main(Datum arg);

#endif							/* SAGA_BGWORKER_H */
