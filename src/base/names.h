/*-------------------------------------------------------------------------
 *
 * names.h
 *	  Hash tables by names of any length.
 *
 *-------------------------------------------------------------------------
 */
#ifndef SAGA_NAMES_H
#define SAGA_NAMES_H

#include "utils/hsearch.h"

extern HTAB *saga_names_table(const char *what, long size, Size entrysize);

#endif							/* SAGA_NAMES_H */
