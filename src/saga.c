/*-------------------------------------------------------------------------
 *
 * saga.c
 *	  Module magic and initialisation.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "base/guc.h"
#include "calls/ddl.h"
#include "calls/statements.h"
#include "fmgr.h"
#include "ledger/home.h"
#include "ledger/queue_front.h"
#include "miscadmin.h"
#include "process/launcher.h"
#include "shared/evict.h"
#include "shared/shmem.h"
#include "shared/tally.h"
#include "shared/wakeup.h"

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
	saga_queue_front_init();
	saga_evict_init();
	saga_statements_init();
	saga_ddl_init();
	saga_launcher_register();
}
