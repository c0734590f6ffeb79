/*-------------------------------------------------------------------------
 *
 * fault.h
 *	  Named fault points, compiled out of a production build.
 *
 * SAGA_FAULT("executor.before_mark") does whatever the setting
 * saga.test_faults asks of that name: nothing, 'error', 'fatal', 'kill'
 * (SIGKILL to itself), 'queue_full' (the error of a full queue of
 * notifications) or 'wait' (until the name is taken off the setting).
 * 'kill once TOKEN' does so for the first process that comes there and for no
 * other, 'wait after TOKEN' only when the fault with that token has struck.
 * SAGA_POISON(name) is an error for a saga whose name is in saga.test_poison.
 * SAGA_FAULT_SET("ledger.step.status") is true when the named value should be
 * spoiled, so that the caller can prove that its verification refuses it.
 *
 * Calls run in their client's transaction.  Their points are those of whatever
 * transaction writes to the ledger: SAGA_FAULT_WRITE() after its nth write is
 * the point "table.write_n", and fault.c itself reaches
 * "transaction.before_commit" (or before_prepare) and
 * "transaction.after_commit" (after_prepare).
 *
 *-------------------------------------------------------------------------
 */
#ifndef SAGA_FAULT_H
#define SAGA_FAULT_H

#ifdef SAGA_TEST
extern void saga_fault_define(void);
extern void saga_fault_reach(const char *name);
extern void saga_fault_write(void);
extern bool saga_fault_is_set(const char *name);
extern void saga_fault_poison(const text *name);

#define SAGA_FAULT(name)		saga_fault_reach(name)
#define SAGA_FAULT_WRITE()		saga_fault_write()
#define SAGA_FAULT_SET(name)	saga_fault_is_set(name)
#define SAGA_POISON(name)		saga_fault_poison(name)
#else
#define SAGA_FAULT(name)		((void) 0)
#define SAGA_FAULT_WRITE()		((void) 0)
#define SAGA_FAULT_SET(name)	false
#define SAGA_POISON(name)		((void) 0)
#endif

#endif							/* SAGA_FAULT_H */
