/*-------------------------------------------------------------------------
 *
 * keys.c
 *	  Keys of scans of the ledger's indexes.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/genam.h"
#include "catalog/pg_collation_d.h"
#include "ledger/keys.h"
#include "utils/fmgroids.h"
#include "utils/uuid.h"

void
saga_keys_uuid(ScanKey key, AttrNumber att, const pg_uuid_t *id)
{
	ScanKeyInit(key, att, BTEqualStrategyNumber, F_UUID_EQ, UUIDPGetDatum(id));
}

void
saga_keys_text(ScanKey key, AttrNumber att, const text *value)
{
	ScanKeyEntryInitialize(key, 0, att, BTEqualStrategyNumber, InvalidOid,
						   C_COLLATION_OID, F_TEXTEQ, PointerGetDatum(value));
}

/* One member of a row comparison: the three-way comparison, not an operator. */
void
saga_keys_member(ScanKey key, int att, StrategyNumber strategy, RegProcedure compare,
				 Datum value, bool last)
{
	ScanKeyEntryInitialize(key, SK_ROW_MEMBER | (last ? SK_ROW_END : 0), att,
						   strategy, InvalidOid, InvalidOid, compare, value);
}

/* The row comparison of its members. */
void
saga_keys_row(ScanKey key, ScanKey members, StrategyNumber strategy)
{
	MemSet(key, 0, sizeof(ScanKeyData));
	key->sk_flags = SK_ROW_HEADER;
	key->sk_attno = members[0].sk_attno;
	key->sk_strategy = strategy;
	key->sk_argument = PointerGetDatum(members);
}
