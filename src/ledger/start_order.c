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
 * Numbers are in the keys of effects outside.  What a promoted standby, or a
 * server restored to a moment in the past, does not know of may have drawn
 * numbers, and had effects under their keys: another step that got such a number
 * in the same saga would be taken for that one by a service outside.  So a gap is
 * left on each new timeline, by the worker or by whoever draws before it did.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/relation.h"
#include "base/ids.h"
#include "commands/sequence.h"
#include "common/hashfn.h"
#include "ledger/home.h"
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

/* More numbers than are drawn in what is lost */
#define GAP			(INT64CONST(1) << 32)

#define KNOWN_SEQS	64
static KnownSeq known_seqs[KNOWN_SEQS];

/* Moves the sequence, for whoever may not. */
static void
move_sequence(Oid start_order, int64 to)
{
	Relation	sequence = relation_open(start_order, AccessShareLock);
	Oid			user;
	int			context;

	GetUserIdAndSecContext(&user, &context);
	SetUserIdAndSecContext(sequence->rd_rel->relowner,
						   context | SECURITY_LOCAL_USERID_CHANGE);
	DirectFunctionCall2(setval_oid, ObjectIdGetDatum(start_order),
						Int64GetDatum(to));
	SetUserIdAndSecContext(user, context);
	relation_close(sequence, NoLock);
}

/*
 * Leaves a gap for a new timeline.  For the worker, before it notes that; and
 * before a session's first number.  Whoever finds that a number was drawn since
 * the server started comes after the gap.  (Several may leave one at the same
 * moment.)
 */
void
saga_start_order_look(void)
{
	static bool looked = false;

	if (looked)
		return;
	if (saga_shmem_high_seq() == 0 && !saga_home_is_on_timeline())
	{
		Oid			start_order = saga_oids_get()->start_order;

		move_sequence(start_order, nextval_internal(start_order, false) + GAP);
	}
	looked = true;
}

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

	saga_start_order_look();
	floor = known->seq;
	for (;;)
	{
		int64		marked;

		seq = nextval_internal(start_order, false);
		marked = (int64) saga_shmem_raise_seq((uint64) seq);
		floor = Max(floor, marked);
		if (seq > floor)
			break;
		/* Set back by somebody: move it past what is there. */
		if (floor - seq > 1000)
			move_sequence(start_order, floor);
	}
	known->seq = seq;
	return seq;
}
