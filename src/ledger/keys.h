/*-------------------------------------------------------------------------
 *
 * keys.h
 *	  Keys of scans of the ledger's indexes.
 *
 *-------------------------------------------------------------------------
 */
#ifndef SAGA_KEYS_H
#define SAGA_KEYS_H

#include "access/skey.h"
#include "utils/uuid.h"

extern void saga_keys_uuid(ScanKey key, AttrNumber att, const pg_uuid_t *id);
extern void saga_keys_text(ScanKey key, AttrNumber att, const text *value);
extern void saga_keys_member(ScanKey key, int att, StrategyNumber strategy,
							 RegProcedure compare, Datum value, bool last);
extern void saga_keys_row(ScanKey key, ScanKey members,
						  StrategyNumber strategy);

#endif							/* SAGA_KEYS_H */
