/*-------------------------------------------------------------------------
 *
 * home.h
 *	  Is this the ledger, or a copy of it?
 *
 *-------------------------------------------------------------------------
 */
#ifndef SAGA_HOME_H
#define SAGA_HOME_H

#include "utils/snapshot.h"

extern void saga_home_note_restore(void);
extern bool saga_home_is_on_timeline(void);
extern bool saga_home_note_start(void);
extern void saga_home_rewrite(const char *function,
							  void (*rewrite) (void *), void *arg);
extern const char *saga_home_away(void);
extern const char *saga_home_away_at(Snapshot snapshot);
extern const char *saga_home_why_idle(Snapshot snapshot);
extern const char *saga_home_preload_line(void);

#endif							/* SAGA_HOME_H */
