"""How a blocking program, and one of asyncio, talks to the database, calls your functions,
and waits.  The two have the same methods, which the other files await; those of Blocking never
wait for an event loop.

Connections are taken one by one for each transaction, out of a pool of yours
(psycopg_pool), or of those that were used before; nothing is left in a session, so they
may go through PgBouncer in transaction mode.  Only the one that listens must be direct.
Of a lost connection the idle ones are given up, too: they are most likely lost as well.
"""
from __future__ import annotations

import asyncio
import inspect
import selectors
import socket
import threading
import time
from contextlib import asynccontextmanager
from typing import Any, AsyncIterator, Callable, Coroutine, Dict, List, Optional, Set, Union

import psycopg
from psycopg.pq import TransactionStatus
from psycopg.rows import dict_row

from ._calls import now
from .errors import UsageError

IDLE_MAX = 10
# So that a connection on which nothing ever comes is known to be lost
KEEPALIVE = {"keepalives_idle": 30, "keepalives_interval": 10, "keepalives_count": 3}


class Base:
    def __init__(self, source: Any, kwargs: Dict[str, Any]):
        """source: a conninfo, or a pool"""
        self.pool = None if isinstance(source, str) else source
        if isinstance(source, psycopg.BaseConnection):
            raise UsageError("a Saga needs a conninfo or a pool, not a connection, which may be in a transaction")
        if self.pool is not None and kwargs:
            raise UsageError("a pool has its own connection parameters")
        self.conninfo = source if self.pool is None else source.conninfo
        # Prepared statements belong to a session.
        self.kwargs: Dict[str, Any] = {"autocommit": True, "prepare_threshold": None, **kwargs}
        self.spare: List[Any] = []

    def may_keep(self, c: Any) -> bool:
        return bool(c.info.transaction_status == TransactionStatus.IDLE and len(self.spare) < IDLE_MAX)

    def to_listen(self, conninfo: Optional[str]) -> Dict[str, Any]:
        """How to connect directly."""
        own = self.kwargs if self.pool is None else self.pool.kwargs or {}
        return {**KEEPALIVE, **({"conninfo": conninfo} if conninfo is not None else {"conninfo": self.conninfo, **own}),
                "autocommit": True}


def heard(c: Any) -> List[str]:
    """The channels that were notified, as far as it has arrived."""
    channels = []
    while notify := c.pgconn.notifies():
        channels.append(notify.relname.decode())
    return channels


def refuse_open(c: Any) -> None:
    if c.info.transaction_status == TransactionStatus.UNKNOWN:
        raise psycopg.OperationalError("the connection is lost")
    if c.info.transaction_status != TransactionStatus.IDLE:
        raise UsageError("the pool has handed out a connection in an open transaction")


class Blocking(Base):
    @asynccontextmanager
    async def connection(self) -> AsyncIterator[Any]:
        if self.pool is not None:
            with self.pool.connection() as c:
                refuse_open(c)
                yield c
            return
        c = self.spare.pop() if self.spare else psycopg.Connection.connect(self.conninfo, **self.kwargs)
        try:
            refuse_open(c)
            yield c
        finally:
            if self.may_keep(c):
                self.spare.append(c)
            else:
                if c.closed:
                    self.close()
                c.close()

    @asynccontextmanager
    async def transaction(self, c: Any) -> AsyncIterator[None]:
        with c.transaction():
            yield

    async def query(self, c: Any, statement: Any, values: Any = None) -> List[Dict[str, Any]]:
        with c.cursor(row_factory=dict_row) as cursor:
            cursor.execute(statement, values, prepare=False)
            rows: List[Dict[str, Any]] = cursor.fetchall() if cursor.description else []
            return rows

    async def call(self, function: Callable[..., Any], *args: Any) -> Any:
        return function(*args)

    async def sleep(self, seconds: float) -> None:
        time.sleep(seconds)

    @asynccontextmanager
    async def listening(self, conninfo: Optional[str]) -> AsyncIterator[Any]:
        with psycopg.Connection.connect(**self.to_listen(conninfo)) as c:
            yield c

    def waker(self) -> BlockingWaker:
        return BlockingWaker()

    def close(self) -> None:
        while self.spare:
            self.spare.pop().close()


class BlockingWaker:
    """Waits for a connection or for wake(), which any thread or signal handler may call."""

    def __init__(self) -> None:
        self.reader, self.writer = socket.socketpair()
        self.reader.setblocking(False)
        self.writer.setblocking(False)

    def wake(self) -> None:
        try:
            self.writer.send(b"!")
        except OSError:         # it is full of them, or nobody waits any more
            pass

    async def wait(self, c: Any, seconds: float) -> List[str]:
        channels = heard(c) if c else []
        with selectors.DefaultSelector() as selector:
            selector.register(self.reader, selectors.EVENT_READ)
            if c:
                selector.register(c.fileno(), selectors.EVENT_READ)
            selector.select(0 if channels else seconds)
        try:
            self.reader.recv(4096)
        except BlockingIOError:
            pass
        if c:
            c.pgconn.consume_input()
            channels += heard(c)
        return channels

    def spawn(self, coroutine: Coroutine[Any, Any, None]) -> None:
        threading.Thread(target=now, args=(coroutine,), daemon=True).start()

    def close(self) -> None:
        self.reader.close()
        self.writer.close()


class Asyncio(Base):
    @asynccontextmanager
    async def connection(self) -> AsyncIterator[Any]:
        if self.pool is not None:
            async with self.pool.connection() as c:
                refuse_open(c)
                yield c
            return
        c = self.spare.pop() if self.spare else await psycopg.AsyncConnection.connect(self.conninfo, **self.kwargs)
        try:
            refuse_open(c)
            yield c
        finally:
            if self.may_keep(c):
                self.spare.append(c)
            else:
                if c.closed:
                    await self.close()
                await c.close()

    @asynccontextmanager
    async def transaction(self, c: Any) -> AsyncIterator[None]:
        async with c.transaction():
            yield

    async def query(self, c: Any, statement: Any, values: Any = None) -> List[Dict[str, Any]]:
        async with c.cursor(row_factory=dict_row) as cursor:
            await cursor.execute(statement, values, prepare=False)
            rows: List[Dict[str, Any]] = await cursor.fetchall() if cursor.description else []
            return rows

    async def call(self, function: Callable[..., Any], *args: Any) -> Any:
        value = function(*args)
        return await value if inspect.isawaitable(value) else value

    async def sleep(self, seconds: float) -> None:
        await asyncio.sleep(seconds)

    @asynccontextmanager
    async def listening(self, conninfo: Optional[str]) -> AsyncIterator[Any]:
        async with await psycopg.AsyncConnection.connect(**self.to_listen(conninfo)) as c:
            yield c

    def waker(self) -> AsyncioWaker:
        return AsyncioWaker()

    async def close(self) -> None:
        while self.spare:
            await self.spare.pop().close()


class AsyncioWaker:
    """The same in an event loop."""

    def __init__(self) -> None:
        self.woken = asyncio.Event()
        self.tasks: Set[asyncio.Task[None]] = set()

    def wake(self) -> None:
        self.woken.set()

    async def wait(self, c: Any, seconds: float) -> List[str]:
        channels = heard(c) if c else []
        loop = asyncio.get_running_loop()
        fileno = c.fileno() if c else -1
        if c:
            loop.add_reader(fileno, self.woken.set)
        try:
            await asyncio.wait_for(self.woken.wait(), 0 if channels else seconds)
        except asyncio.TimeoutError:
            pass
        finally:
            if c:
                loop.remove_reader(fileno)
        self.woken.clear()
        if c:
            c.pgconn.consume_input()
            channels += heard(c)
        return channels

    def spawn(self, coroutine: Coroutine[Any, Any, None]) -> None:
        task = asyncio.get_running_loop().create_task(coroutine)
        self.tasks.add(task)
        task.add_done_callback(self.tasks.discard)

    def close(self) -> None:
        for task in list(self.tasks):   # the service itself was canceled
            task.cancel()


IO = Union[Blocking, Asyncio]
