/*-------------------------------------------------------------------------
 *
 * start_order.c
 *	  The start order of steps.
 *
 * A number from a sequence, larger than every number already in the saga.
 *
 * The sequence has no cache, and the number is drawn under the saga's lock.  A
 * role with pg_write_all_data could set the sequence back.  So a number that is
 * not larger than every number in the saga is not used, and the sequence is moved
 * past it.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/relation.h"
#include "base/ids.h"
#include "commands/sequence.h"
#include "common/hashfn.h"
#include "ledger/ledger.h"
#include "ledger/oids.h"
#include "ledger/start_order.h"
#include "miscadmin.h"
#include "shared/shmem.h"
#include "utils/fmgrprotos.h"
#include "utils/rel.h"

/*
 * The largest number that this session knows in the steps of a saga, for the
 * sagas it touched lately; see saga_start_order_next.
 */
typedef struct KnownSeq
{
	pg_uuid_t	id;
	int64		seq;
	uint64		life;
} KnownSeq;

#define KNOWN_SEQS	64
static KnownSeq known_seqs[KNOWN_SEQS];

/*
 * Draws the next number of the start order, larger than every number already
 * in the saga's steps.
 *
 * The sequence alone would do, were it not that members of pg_write_all_data
 * can set it back.  Looking for the largest number would cost time that grows
 * with the steps, so it is done once per saga and session; what others draw
 * after that is known from shared memory, where each drawn number leaves its
 * mark.  Two sessions that draw at the same time may see each other's mark and
 * one of them draw again: that is harmless, larger is later all the same.
 *
 * Without shared memory there is no mark, and every call looks.
 */
int64
saga_start_order_next(const pg_uuid_t *id)
{
	KnownSeq   *known = &known_seqs[hash_bytes(id->data, UUID_LEN) % KNOWN_SEQS];
	uint64		life = saga_shmem != NULL ? saga_shmem->life : 0;
	Oid			start_order = saga_oids_get()->start_order;
	int64		floor;
	int64		seq;

	if (life == 0 || known->life != life ||
		!saga_ids_equal(&known->id, id))
	{
		known->id = *id;
		known->seq = saga_ledger_largest_seq(id);
		known->life = life;
	}

	floor = known->seq;
	for (;;)
	{
		int64		marked;

		seq = nextval_internal(start_order, false);
		marked = (int64) saga_shmem_raise_seq((uint64) seq);
		floor = Max(floor, marked);
		if (seq > floor)
			break;
		if (floor - seq > 1000)
		{
			Relation	sequence = relation_open(start_order,
												 AccessShareLock);
			Oid			user;
			int			context;

			/* Set back by somebody: move it past what is there. */
			GetUserIdAndSecContext(&user, &context);
			SetUserIdAndSecContext(sequence->rd_rel->relowner,
								   context | SECURITY_LOCAL_USERID_CHANGE);
			DirectFunctionCall2(setval_oid, ObjectIdGetDatum(start_order),
								Int64GetDatum(floor));
			SetUserIdAndSecContext(user, context);
			relation_close(sequence, NoLock);
		}
	}
	known->seq = seq;
	return seq;
}
