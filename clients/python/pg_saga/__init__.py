"""Sagas in PostgreSQL, for Python: operations that undo themselves.

    from pg_saga import Saga        # or AsyncSaga

    saga = Saga("dbname=shop")
    saga.run("order", "order-1", {"item": "lamp"}, order)

The two classes do the same, one for blocking programs, one for asyncio; what they do is
in _run.py and _serve.py.  This file is their face: signatures and types, without any decision.
"""
from __future__ import annotations

import asyncio
import signal
import threading
from typing import TYPE_CHECKING, Any, Callable, Dict, List, Optional, Union

from ._calls import Core, Seconds, now
from ._io import Asyncio, Blocking
from ._run import CoreRun, Step, run
from ._serve import CoreService, CoreTask, task_of
from .errors import (DoNotRetry, IdempotencyConflict, Interrupted, InvalidSagaState, LimitExceeded,
                     PermissionDenied, RetryLater, SagaError, SagaFailing, SagaNotFound, SagaUnavailable,
                     StepNotFound, UsageError)
from .options import RetryPolicy, RunOptions, ServiceOptions, StepOptions, WorkOptions

if TYPE_CHECKING:
    from uuid import UUID
    from typing_extensions import Unpack

__all__ = [
    "Saga", "Run", "Service", "Task", "AsyncSaga", "AsyncRun", "AsyncService", "AsyncTask", "Step",
    "RetryPolicy", "RunOptions", "ServiceOptions", "StepOptions", "WorkOptions",
    "SagaError", "SagaNotFound", "InvalidSagaState", "IdempotencyConflict", "StepNotFound", "SagaFailing", "DoNotRetry",
    "RetryLater", "SagaUnavailable", "LimitExceeded", "PermissionDenied", "Interrupted", "UsageError",
]

Handler = Callable[[Any], Any]
STOP = (signal.SIGTERM, signal.SIGINT)


# ------------------------------------------------------ blocking programs


class Saga:
    """A database with sagas.  source: a conninfo, or a psycopg_pool.ConnectionPool."""

    def __init__(self, source: Any = "", **connect: Any):
        self._io = Blocking(source, connect)
        self._core = Core(self._io)

    def run(self, name: str, key: str, input: Any, function: Callable[[Run], Any], **options: Unpack[RunOptions]) -> Any:
        """Runs function(s) as the saga of that key, completes it, and returns the result.

        The same key again: a completed saga returns its result at once; a running one goes
        on where it was; one that failed raises SagaFailing.  What the function raises fails
        the saga; what the database says does not."""
        return now(run(self._core, name, key, input, function, Run, options))

    def sql(self, function: str, **arguments: Any) -> List[Dict[str, Any]]:
        """The rows of any function of the schema saga, with named arguments."""
        return now(self._core.sql(function, arguments))

    def wait(self, saga_id: Union[str, UUID], timeout: Seconds = None, until: Optional[str] = None) -> str:
        """Waits until the saga comes to rest, and returns its state."""
        return now(self._core.wait(saga_id, timeout, until))

    def signal(self, saga_id: Union[str, UUID], signal: str, payload: Any = None, *,
               idempotency_key: Optional[str] = None, late: Optional[str] = None) -> str:
        """Sends a signal, and returns the state of the saga."""
        return now(self._core.signal(saga_id, signal, payload, idempotency_key, late))

    def service(self, channel: str, handler: Optional[Handler] = None, **options: Unpack[ServiceOptions]) -> Service:
        """What serve() runs, to be run and stopped by yourself: run(), stop(), or "with"."""
        return Service(CoreService(self._core, channel, handler, Task._of, options))

    def serve(self, channel: str, handler: Optional[Handler] = None, **options: Unpack[ServiceOptions]) -> None:
        """Does the tasks and compensations of a channel, each in a thread, until SIGTERM or
        SIGINT; then finishes what is claimed.  Options: those of service()."""
        service = self.service(channel, handler, **options)
        before: Dict[signal.Signals, Any] = {}

        def stop(*_: Any) -> None:
            service.stop()
            for number, old in before.items():      # the second time ends the program
                signal.signal(number, old)

        if threading.current_thread() is threading.main_thread():
            before.update({number: signal.signal(number, stop) for number in STOP})
        try:
            service.run()
        finally:
            for number, old in before.items():
                signal.signal(number, old)

    def close(self) -> None:
        """Closes the connections of its own."""
        self._io.close()

    def __enter__(self) -> Saga:
        return self

    def __exit__(self, *_: Any) -> None:
        self.close()


class Run:
    """A run under way: what your function gets as "s"."""

    def __init__(self, core: CoreRun):
        self._core, self.id = core, core.id

    def tx(self, name: str, work: Callable[[Any, Step], Any], **options: Unpack[WorkOptions]) -> Any:
        """A step whose work is SQL: work(connection, step) and its mark are one transaction.
        Returns the step's output, which work returned; of a known step without the work."""
        return now(self._core.tx(name, work, options))

    def call(self, name: str, effect: Callable[[str], Any], **options: Unpack[WorkOptions]) -> Any:
        """A step outside the database: it is committed, effect(key) does it, and what that
        returns is recorded, even if the saga has failed meanwhile (then SagaFailing)."""
        return now(self._core.call(name, effect, options))

    def step(self, name: str, **options: Unpack[StepOptions]) -> Step:
        """Records a step as saga.step does: an action, a task, a wait for a signal ..."""
        return now(self._core.step(name, options))

    def wait(self, step: str, timeout: Seconds = None) -> Step:
        """Waits until a step that saga runs is done, given up, or waits for a person."""
        return now(self._core.wait(step, timeout))


class Task(CoreTask):
    _service: CoreService

    @classmethod
    def _of(cls, service: CoreService, row: Dict[str, Any]) -> Task:
        task = task_of(cls, row)
        task._service = service
        return task

    def tx(self, work: Callable[[Any], Any]) -> Any:
        """Work in this database, work(connection), and the report: one transaction, so it is
        done exactly once.  Return what this returns."""
        return now(self._service.tx(self, work))


class Service:
    def __init__(self, core: CoreService):
        self._core = core
        self._thread: Optional[threading.Thread] = None

    def run(self) -> None:
        """Serves until stop() was called, and what is claimed is done."""
        now(self._core.run())

    def stop(self) -> None:
        """From another thread, or a signal handler."""
        self._core.stop()

    def __enter__(self) -> Service:
        """Serves beside, in a thread, until the end of the block."""
        self._thread = threading.Thread(target=self.run, daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *_: Any) -> None:
        self.stop()
        assert self._thread is not None
        self._thread.join()


# ----------------------------------------------------------------- asyncio


class AsyncSaga:
    """The same for asyncio.  source: a conninfo, or a psycopg_pool.AsyncConnectionPool."""

    def __init__(self, source: Any = "", **connect: Any):
        self._io = Asyncio(source, connect)
        self._core = Core(self._io)

    async def run(self, name: str, key: str, input: Any, function: Callable[[AsyncRun], Any],
                  **options: Unpack[RunOptions]) -> Any:
        return await run(self._core, name, key, input, function, AsyncRun, options)

    async def sql(self, function: str, **arguments: Any) -> List[Dict[str, Any]]:
        return await self._core.sql(function, arguments)

    async def wait(self, saga_id: Union[str, UUID], timeout: Seconds = None, until: Optional[str] = None) -> str:
        return await self._core.wait(saga_id, timeout, until)

    async def signal(self, saga_id: Union[str, UUID], signal: str, payload: Any = None, *,
                     idempotency_key: Optional[str] = None, late: Optional[str] = None) -> str:
        return await self._core.signal(saga_id, signal, payload, idempotency_key, late)

    def service(self, channel: str, handler: Optional[Handler] = None, **options: Unpack[ServiceOptions]) -> AsyncService:
        return AsyncService(CoreService(self._core, channel, handler, AsyncTask._of, options))

    async def serve(self, channel: str, handler: Optional[Handler] = None, **options: Unpack[ServiceOptions]) -> None:
        service = self.service(channel, handler, **options)
        loop = asyncio.get_running_loop()

        def stop() -> None:
            service.stop()
            for number in STOP:
                loop.remove_signal_handler(number)

        if threading.current_thread() is threading.main_thread():
            for number in STOP:
                loop.add_signal_handler(number, stop)
        try:
            await service.run()
        finally:
            for number in STOP:
                loop.remove_signal_handler(number)

    async def close(self) -> None:
        await self._io.close()

    async def __aenter__(self) -> AsyncSaga:
        return self

    async def __aexit__(self, *_: Any) -> None:
        await self.close()


class AsyncRun:
    def __init__(self, core: CoreRun):
        self._core, self.id = core, core.id

    async def tx(self, name: str, work: Callable[[Any, Step], Any], **options: Unpack[WorkOptions]) -> Any:
        return await self._core.tx(name, work, options)

    async def call(self, name: str, effect: Callable[[str], Any], **options: Unpack[WorkOptions]) -> Any:
        return await self._core.call(name, effect, options)

    async def step(self, name: str, **options: Unpack[StepOptions]) -> Step:
        return await self._core.step(name, options)

    async def wait(self, step: str, timeout: Seconds = None) -> Step:
        return await self._core.wait(step, timeout)


class AsyncTask(CoreTask):
    _service: CoreService

    @classmethod
    def _of(cls, service: CoreService, row: Dict[str, Any]) -> AsyncTask:
        task = task_of(cls, row)
        task._service = service
        return task

    async def tx(self, work: Callable[[Any], Any]) -> Any:
        return await self._service.tx(self, work)


class AsyncService:
    def __init__(self, core: CoreService):
        self._core = core
        self._task: Optional[asyncio.Task[None]] = None

    async def run(self) -> None:
        await self._core.run()

    def stop(self) -> None:
        self._core.stop()

    async def __aenter__(self) -> AsyncService:
        self._task = asyncio.get_running_loop().create_task(self.run())
        return self

    async def __aexit__(self, *_: Any) -> None:
        self.stop()
        assert self._task is not None
        await self._task
