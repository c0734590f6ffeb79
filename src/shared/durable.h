/*-------------------------------------------------------------------------
 *
 * durable.h
 *	  What a call returns must be as durable as a commit.
 *
 *-------------------------------------------------------------------------
 */
#ifndef SAGA_DURABLE_H
#define SAGA_DURABLE_H

extern void saga_durable_flush(bool everywhere);
extern void saga_durable_answered(void);
extern void saga_durable_before_commit(void);
extern void saga_durable_forget(void);

#endif							/* SAGA_DURABLE_H */
