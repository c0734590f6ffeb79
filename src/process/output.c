/*-------------------------------------------------------------------------
 *
 * output.c
 *	  The output of an action: the row that its last statement returned.
 *
 * No row is null; a row of one column is the value of that column, as
 * to_jsonb() has it; a row of several is an object.  A second row is an error
 * as soon as it comes, so that a statement that returns millions is not run to
 * its end first.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/htup_details.h"
#include "base/errors.h"
#include "base/guc.h"
#include "base/json.h"
#include "catalog/pg_type_d.h"
#include "executor/executor.h"
#include "funcapi.h"
#include "nodes/makefuncs.h"
#include "process/output.h"
#include "utils/fmgroids.h"
#include "utils/memutils.h"

typedef struct OutputReceiver
{
	DestReceiver pub;
	MemoryContext context;		/* where the output is kept */
	int			rows;
	Jsonb	   *output;			/* NULL: null */
} OutputReceiver;

/* As SQL's to_jsonb(), which asks for the type of its argument's expression. */
static Jsonb *
to_jsonb(Datum value, Oid type)
{
	LOCAL_FCINFO(fcinfo, 1);
	FmgrInfo	function;

	fmgr_info(F_TO_JSONB, &function);
	fmgr_info_set_expr((Node *) makeFuncExpr(F_TO_JSONB, JSONBOID,
											 list_make1(makeNullConst(type, -1, InvalidOid)),
											 InvalidOid, InvalidOid,
											 COERCE_EXPLICIT_CALL),
					   &function);
	InitFunctionCallInfoData(*fcinfo, &function, 1, InvalidOid, NULL, NULL);
	fcinfo->args[0].value = value;
	fcinfo->args[0].isnull = false;
	return DatumGetJsonbP(FunctionCallInvoke(fcinfo));
}

static Jsonb *
row_to_jsonb(TupleTableSlot *slot)
{
	TupleDesc	desc = slot->tts_tupleDescriptor;
	HeapTuple	tuple;

	if (desc->natts == 0)
		return NULL;
	if (desc->natts == 1)
	{
		bool		isnull;
		Datum		value = slot_getattr(slot, 1, &isnull);
		Oid			type = TupleDescAttr(desc, 0)->atttypid;

		return isnull || type == VOIDOID ? NULL : to_jsonb(value, type);
	}
	desc = CreateTupleDescCopy(desc);
	BlessTupleDesc(desc);
	tuple = ExecFetchSlotHeapTuple(slot, true, NULL);
	return to_jsonb(heap_copy_tuple_as_datum(tuple, desc), RECORDOID);
}

static bool
receive_row(TupleTableSlot *slot, DestReceiver *self)
{
	OutputReceiver *receiver = (OutputReceiver *) self;
	Jsonb	   *output;
	const char *misfit;

	if (receiver->rows++ > 0)
		ereport(ERROR,
				(errcode(ERRCODE_CARDINALITY_VIOLATION),
				 errmsg("the last statement of an action returned more than one row"),
				 errhint("Its row is the step's output: aggregate the rows, or let another statement come last.")));
	output = row_to_jsonb(slot);
	if (output == NULL)
		return true;
	if (VARSIZE(output) > (Size) saga_guc_max_payload * 1024)
		ereport(ERROR,
				(errcode(ERRCODE_SAGA_LIMIT_EXCEEDED),
				 errmsg("the output of an action is too large"),
				 errdetail("It has %zu bytes; saga.max_payload allows %d kB.",
						   (Size) VARSIZE(output), saga_guc_max_payload),
				 errhint("Store it in a table of your own and return its key.")));
	misfit = saga_json_misfit(output, (Size) saga_guc_max_payload * 1024);
	if (misfit != NULL)
		ereport(ERROR,
				(errcode(ERRCODE_SAGA_LIMIT_EXCEEDED),
				 errmsg("the output of an action is too large"),
				 errdetail("%s", misfit),
				 errhint("Write it as a string.")));
	receiver->output = memcpy(MemoryContextAlloc(receiver->context, VARSIZE(output)),
							  output, VARSIZE(output));
	return true;
}

static void
start_up(DestReceiver *self, int operation, TupleDesc desc)
{
}

static void
shut_down(DestReceiver *self)
{
}

/* A receiver for the last statement; the output is kept in the context. */
DestReceiver *
saga_output_receiver(MemoryContext context)
{
	OutputReceiver *receiver = palloc0(sizeof(OutputReceiver));

	receiver->pub.receiveSlot = receive_row;
	receiver->pub.rStartup = start_up;
	receiver->pub.rShutdown = shut_down;
	receiver->pub.rDestroy = (void (*) (DestReceiver *)) pfree;
	receiver->pub.mydest = DestNone;
	receiver->context = context;
	return &receiver->pub;
}

/* The output, of the row that came; NULL: null. */
Jsonb *
saga_output_take(DestReceiver *receiver)
{
	return ((OutputReceiver *) receiver)->output;
}
