/*-------------------------------------------------------------------------
 *
 * ddl.h
 *	  Keeping from the ledger's tables what direct writes do not honor.
 *
 *-------------------------------------------------------------------------
 */
#ifndef SAGA_DDL_H
#define SAGA_DDL_H

extern void saga_ddl_init(void);

#endif							/* SAGA_DDL_H */
