/*-------------------------------------------------------------------------
 *
 * launcher.h
 *	  The process that keeps a worker in each database that needs one.
 *
 *-------------------------------------------------------------------------
 */
#ifndef SAGA_LAUNCHER_H
#define SAGA_LAUNCHER_H

extern void saga_launcher_register(void);

#endif							/* SAGA_LAUNCHER_H */
