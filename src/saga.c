/*-------------------------------------------------------------------------
 *
 * saga.c
 *	  Module magic and initialisation.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "base/clock.h"
#include "base/compat.h"
#include "base/guc.h"
#include "calls/ddl.h"
#include "calls/statements.h"
#include "fmgr.h"
#include "ledger/home.h"
#include "miscadmin.h"
#include "process/launcher.h"
#include "process/quarantine.h"
#include "shared/commit.h"
#include "shared/failing.h"
#include "shared/queue_front.h"
#include "shared/shmem.h"
#include "shared/stat_table.h"
#include "shared/step_writes.h"
#include "shared/tally.h"
#include "shared/wakeup.h"

SAGA_COMPAT_MODULE_MAGIC;

extern PGDLLEXPORT void _PG_init(void);

void
_PG_init(void)
{
	saga_guc_define();
	if (process_shared_preload_libraries_in_progress && !IsBinaryUpgrade)
		saga_home_note_restore();
	saga_shmem_register();
#ifdef SAGA_TEST
	saga_shmem_register_part("saga clock", sizeof(pg_atomic_uint64),
							 saga_clock_shared(), saga_clock_init_shared);
#endif
	saga_wakeup_register();
	saga_tally_register();
	saga_queue_front_register();
	saga_stat_table_register();
	saga_step_writes_register();
	saga_failing_register();
	saga_quarantine_register();
	saga_commit_register();
	saga_statements_init();
	saga_ddl_init();
	saga_launcher_register();
}
