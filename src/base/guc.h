/*-------------------------------------------------------------------------
 *
 * guc.h
 *	  The settings, as doc/reference.md documents them.
 *
 * Times are in milliseconds.
 *
 *-------------------------------------------------------------------------
 */
#ifndef SAGA_GUC_H
#define SAGA_GUC_H

extern bool saga_guc_enabled;
extern char *saga_guc_databases;
extern int	saga_guc_max_databases;
extern int	saga_guc_max_executors;
extern int	saga_guc_executor_idle_timeout;

extern int	saga_guc_max_attempts;
extern int	saga_guc_retry_delay;
extern int	saga_guc_retry_backoff; /* a SagaBackoff */
extern int	saga_guc_retry_max_delay;
extern double saga_guc_retry_jitter;
extern int	saga_guc_compensation_timeout;
extern int	saga_guc_lock_timeout;
extern int	saga_guc_max_deferrals;
extern int	saga_guc_default_timeout;

extern int	saga_guc_max_payload;	/* kilobytes */
extern int	saga_guc_max_open_sagas;
extern int	saga_guc_max_steps;
extern int	saga_guc_max_signals;
extern int	saga_guc_retention; /* minutes */
extern char *saga_guc_review_channel;
extern char *saga_guc_operator_role;
extern char *saga_guc_capture_settings;
extern char *saga_guc_stateless_libraries;
extern bool saga_guc_allow_superuser;
extern bool saga_guc_log_sql;
extern int	saga_guc_stat_names;
extern int	saga_guc_synchronous_commit;	/* a SyncCommitLevel */
extern int	saga_guc_coordinator_check; /* a SagaCoordinatorCheck */

/* What becomes of saga.begin() on a coordinator whose data is elsewhere. */
typedef enum SagaCoordinatorCheck
{
	SAGA_COORDINATOR_OFF,
	SAGA_COORDINATOR_WARNING,
	SAGA_COORDINATOR_ERROR
} SagaCoordinatorCheck;

/* The extension, whose name is also that of its schema and of its settings */
#define SAGA_EXTENSION			"saga"

/* Most executors a server can have; saga.max_executors stays below it. */
#define SAGA_MAX_EXECUTORS		64

/*
 * Largest saga.max_payload (kB): a context, which holds up to five such values and as
 * much of the outputs of others, still fits into a jsonb, and its text into the
 * message that hands it to a service, though each byte may take six there.
 */
#define SAGA_MAX_PAYLOAD_KB		(16 * 1024)

extern void saga_guc_define(void);
extern bool saga_guc_serves(const char *database);
extern const char *saga_guc_commit_name(int level);

#endif							/* SAGA_GUC_H */
