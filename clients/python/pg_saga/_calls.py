"""The calls, once for blocking programs and for asyncio.

They are coroutines over an "io" (see _io.py), which talks to the database, calls your
functions, and waits.  Where that blocks, nothing in here ever waits for an event loop,
so now() runs such a coroutine to its end; there are no two copies.

A transaction of ours begins where no other is open, and is repeated as a whole when the
connection is lost or the server asks for it: every call in it knows a repetition by its
key.
"""
from __future__ import annotations

import json
import random
import time
import uuid
from contextlib import asynccontextmanager
from contextvars import ContextVar
from dataclasses import fields
from datetime import timedelta
from functools import partial
from typing import (TYPE_CHECKING, Any, AsyncIterator, Awaitable, Callable, Coroutine, Dict, Iterator, List, Optional,
                    Tuple, Type, TypeVar, Union, cast)

import psycopg
from psycopg import sql
from psycopg.pq import TransactionStatus
from psycopg.types.json import Jsonb

from .errors import Interrupted, UsageError

if TYPE_CHECKING:
    from ._io import IO

T = TypeVar("T")
Row = Dict[str, Any]
Seconds = Union[float, timedelta, None]

dumps = partial(json.dumps, allow_nan=False)

JSON = {"input", "args", "output", "result", "details", "payload", "state"}
POLICIES = {"retry", "compensation_retry"}
AT_REST = {"completed", "compensated", "needs_review", "abandoned"}
PAUSES = [min(0.05 * 2 ** i, 1.6) for i in range(7)]    # before the second to eighth try

inside: ContextVar[bool] = ContextVar("inside the function of a tx", default=False)


def now(coroutine: Coroutine[Any, Any, T]) -> T:
    """Runs a coroutine that waits for nothing."""
    try:
        coroutine.send(None)
    except StopIteration as end:
        return end.value        # type: ignore[no-any-return]
    raise RuntimeError("a blocking io has waited for an event loop")


def statement(function: str, arguments: Row) -> Tuple[sql.Composed, List[Any]]:
    """SELECT * FROM saga.function(name => value, ...), without those that are None."""
    named, values = [], []
    for name, value in arguments.items():
        if value is None:
            continue
        form = "saga.retry_policy({}::jsonb)" if name in POLICIES else "{}"
        named.append(sql.SQL("{} => " + form).format(sql.Identifier(name), sql.Placeholder()))
        values.append(Jsonb(value, dumps=dumps) if name in JSON | POLICIES else value)
    return sql.SQL("SELECT * FROM saga.{}({})").format(sql.Identifier(function), sql.SQL(", ").join(named)), values


def take(options: Any, known: Any) -> Row:
    """The options as SQL names them."""
    if unknown := options.keys() - known.__annotations__.keys():
        raise TypeError(f"unknown option: {', '.join(sorted(unknown))}")
    taken = dict(options)
    if "undo" in taken:
        if "compensation" in taken:
            raise TypeError("undo and compensation are the same")
        taken["compensation"] = taken.pop("undo")
    return taken


def will_pass(e: BaseException) -> bool:
    """The connection was lost, or the server asks for a repetition of the transaction."""
    return isinstance(e, (psycopg.OperationalError, psycopg.InterfaceError)) and (
        e.sqlstate is None or e.sqlstate[:2] == "08" or e.sqlstate in ("40001", "40P01", "55P03", "57P01", "57P02", "57P03"))


def is_refused(e: psycopg.Error) -> bool:
    """The value is what the server refuses, or its size: it always will."""
    return isinstance(e, psycopg.DataError) or (e.sqlstate or "")[:2] == "54" or e.sqlstate == "SG009"


def message(e: BaseException) -> str:
    """What people read in the history."""
    text = e.diag.message_primary or str(e) if isinstance(e, psycopg.Error) else f"{type(e).__name__}: {e}"
    return text.strip().replace("\0", "\\0")


def of(what: Type[T], row: Row) -> T:
    """A row as that dataclass."""
    return what(**{field.name: row[field.name] for field in fields(cast(Any, what)) if field.name in row})


def minutes(timeout: Seconds) -> Iterator[timedelta]:
    """Times to wait, a minute each, until the timeout is over."""
    timeout = timeout.total_seconds() if isinstance(timeout, timedelta) else timeout
    end = float("inf") if timeout is None else time.monotonic() + timeout
    left = max(end - time.monotonic(), 0)
    while True:
        yield timedelta(seconds=min(left, 60))
        left = end - time.monotonic()
        if left <= 0:
            return


class Core:
    def __init__(self, io: IO):
        self.io = io

    @asynccontextmanager
    async def once(self) -> AsyncIterator[Any]:
        """A transaction of its own."""
        if inside.get():
            raise UsageError("this is the function of a tx, whose transaction is open: only its own SQL belongs in here")
        async with self.io.connection() as c:
            try:
                async with self.io.transaction(c):
                    yield c
            except Exception as e:
                # Whatever became of the error on its way here
                if c.closed and not will_pass(e):
                    raise psycopg.OperationalError("the connection is lost") from e
                raise

    async def transaction(self, body: Callable[[Any], Awaitable[T]]) -> T:
        """The same, tried up to eight times."""
        for pause in (*PAUSES, None):
            try:
                async with self.once() as c:
                    return await body(c)
            except psycopg.Error as e:
                if not will_pass(e):
                    raise
                if pause is None:
                    raise Interrupted(f"the saga is left as it is; run it again with the same key: {message(e)}") from e
            await self.io.sleep(pause * random.uniform(0.5, 1))
        raise AssertionError

    async def rows(self, c: Any, function: str, arguments: Row) -> List[Row]:
        return await self.io.query(c, *statement(function, arguments))

    async def value(self, c: Any, function: str, arguments: Row) -> Any:
        (row,) = await self.rows(c, function, arguments)
        (value,) = row.values()
        return value

    async def sql(self, function: str, arguments: Row) -> List[Row]:
        """A call of its own, which is not repeated."""
        async with self.once() as c:
            return await self.rows(c, function, arguments)

    async def work(self, c: Any, function: Callable[..., Any], *args: Any) -> Any:
        """Your work, in the transaction of c."""
        token = inside.set(True)
        try:
            output = await self.io.call(function, c, *args)
        finally:
            inside.reset(token)
        if c.info.transaction_status != TransactionStatus.INTRANS and not c.closed:
            raise UsageError("the function of a tx has ended its transaction, or swallowed an error in it")
        return None if isinstance(output, (psycopg.Cursor, psycopg.AsyncCursor)) else output

    async def signal(self, saga_id: Any, signal: str, payload: Any, key: Optional[str], late: Optional[str]) -> str:
        # With a key, a repetition is not a second signal.
        arguments = {"saga_id": saga_id, "signal": signal, "payload": payload,
                     "idempotency_key": key or str(uuid.uuid4()), "late": late}
        return str(await self.transaction(lambda c: self.value(c, "signal", arguments)))

    async def wait(self, saga_id: Any, timeout: Seconds, until: Optional[str]) -> str:
        for left in minutes(timeout):
            arguments = {"saga_id": saga_id, "timeout": left, "until": until}
            state = str(await self.transaction(lambda c: self.value(c, "wait", arguments)))
            if state in AT_REST or state == until:
                break
        return state

    async def state(self, c: Any, saga_id: Any) -> Row:
        (row,) = await self.io.query(c, sql.SQL(
            "SELECT id, state, failure_kind, reason, result FROM saga.sagas WHERE id = %s"), [saga_id])
        return row
