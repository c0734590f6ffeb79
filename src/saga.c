/*-------------------------------------------------------------------------
 *
 * saga.c
 *	  Module magic and initialisation.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "fmgr.h"
#include "guc.h"
#include "keepaway.h"
#include "launcher.h"
#include "shmem.h"
#include "wakeup.h"

PG_MODULE_MAGIC;

extern PGDLLEXPORT void _PG_init(void);

void
_PG_init(void)
{
	saga_guc_define();
	saga_shmem_register();
	saga_wakeup_init();
	saga_keepaway_init();
	saga_launcher_register();
}
