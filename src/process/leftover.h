/*-------------------------------------------------------------------------
 *
 * leftover.h
 *	  What the SQL of a step leaves in its process that no reset takes back.
 *
 *-------------------------------------------------------------------------
 */
#ifndef SAGA_LEFTOVER_H
#define SAGA_LEFTOVER_H

#include "utils/jsonb.h"

extern void saga_leftover_init(void);
extern bool saga_leftover_found(void);
extern bool saga_leftover_fits(Jsonb *settings);
extern void saga_leftover_note_setting(const char *name);

#endif							/* SAGA_LEFTOVER_H */
