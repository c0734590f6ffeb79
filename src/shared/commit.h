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

#endif							/* SAGA_COMMIT_H */
