/*-------------------------------------------------------------------------
 *
 * saga.c
 *	  Module magic and initialisation.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "ddl.h"
#include "fmgr.h"
#include "front.h"
#include "guc.h"
#include "home.h"
#include "keepaway.h"
#include "launcher.h"
#include "miscadmin.h"
#include "shmem.h"
#include "statements.h"
#include "tally.h"
#include "wakeup.h"

PG_MODULE_MAGIC;

extern PGDLLEXPORT void _PG_init(void);

void
_PG_init(void)
{
	saga_guc_define();
	if (process_shared_preload_libraries_in_progress && !IsBinaryUpgrade)
		saga_home_note_restore();
	saga_shmem_register();
	saga_wakeup_init();
	saga_tally_init();
	saga_front_init();
	saga_keepaway_init();
	saga_statements_init();
	saga_ddl_init();
	saga_launcher_register();
}
