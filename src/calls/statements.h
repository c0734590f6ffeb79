/*-------------------------------------------------------------------------
 *
 * statements.h
 *	  What saga does before and after statements of the server.
 *
 *-------------------------------------------------------------------------
 */
#ifndef SAGA_STATEMENTS_H
#define SAGA_STATEMENTS_H

extern void saga_statements_init(void);

#endif							/* SAGA_STATEMENTS_H */
