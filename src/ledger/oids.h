/*-------------------------------------------------------------------------
 *
 * oids.h
 *	  The OIDs of the extension's objects in the current database.
 *
 *-------------------------------------------------------------------------
 */
#ifndef SAGA_OIDS_H
#define SAGA_OIDS_H

/* The tables of the ledger. */
#define SAGA_OIDS_TABLES	11

typedef struct SagaOids
{
	Oid			saga;
	Oid			saga_pkey;
	Oid			saga_by_key;
	Oid			saga_by_subject;
	Oid			step;
	Oid			step_pkey;
	Oid			step_by_task;
	Oid			attempt;
	Oid			attempt_pkey;
	Oid			event;
	Oid			event_by_saga;
	Oid			due;
	Oid			due_pkey;
	Oid			queue;
	Oid			queue_pkey;
	Oid			held;
	Oid			held_pkey;
	Oid			signal;
	Oid			signal_pkey;
	Oid			signal_by_key;
	Oid			signal_unused;
	Oid			limit;
	Oid			limit_pkey;
	Oid			claimed;
	Oid			claimed_pkey;
	Oid			home;
	Oid			start_order;
	Oid			step_result;
	Oid			retry_policy;
} SagaOids;

extern bool saga_oids_tables(Oid *relids);
extern const char *saga_oids_misfit(const char **hint);
extern bool saga_oids_exist(void);
extern uint64 saga_oids_generation(void);
extern const SagaOids *saga_oids_get(void);
extern int	saga_oids_opened(Oid *relids);

#endif							/* SAGA_OIDS_H */
