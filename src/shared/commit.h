/*-------------------------------------------------------------------------
 *
 * commit.h
 *	  What the end of a transaction brings about outside of it.
 *
 *-------------------------------------------------------------------------
 */
#ifndef SAGA_COMMIT_H
#define SAGA_COMMIT_H

extern void saga_commit_register(void);

/* PREPARE TRANSACTION, and what follows it: statements.c. */
extern void saga_commit_prepare(const char *gid);
extern void saga_commit_finish_prepared(const char *gid, bool committed);

#endif							/* SAGA_COMMIT_H */
