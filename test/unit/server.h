/*-------------------------------------------------------------------------
 *
 * server.h
 *	  What server.c has for the cases.
 *
 *-------------------------------------------------------------------------
 */
#ifndef SAGA_UNIT_SERVER_H
#define SAGA_UNIT_SERVER_H

#include "utils/array.h"
#include "utils/jsonb.h"

/* What a step has that got a signal */
#define UNIT_SIGNAL		((Jsonb *) "a signal")

/* Signals that no step has used */
extern int	unit_signals;

/* An array of the keys in a list with commas */
extern ArrayType *unit_keys(const char *list);

#endif							/* SAGA_UNIT_SERVER_H */
