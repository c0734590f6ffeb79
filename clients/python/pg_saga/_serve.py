"""saga.serve: a service that does the tasks and compensations of a channel.

One thread (or task) talks to the database, and nothing else does: it listens, claims,
extends and reports.  Handlers run in others; what is to be reported of them is put into
"outbox", and stays there until there is a connection.
"""
from __future__ import annotations

import logging
import os
import random
import socket
import time
import uuid
from collections import deque
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Callable, Deque, Dict, Optional, Tuple, Type

import psycopg
from psycopg import sql

from ._calls import Core, Row, T, dumps, is_refused, message, of, take, will_pass
from .errors import DoNotRetry, InvalidSagaState, RetryLater, SagaUnavailable, UsageError
from .options import ServiceOptions

log = logging.getLogger("pg_saga")

POLL = 2.0              # seconds between two looks where LISTEN does not work
PROBE = 5.0             # seconds after which it does not


@dataclass(eq=False)
class CoreTask:
    """A task, or a compensation, that was claimed."""

    saga_id: uuid.UUID
    name: str               # the kind of saga
    step: str
    seq: int
    phase: str              # "forward" or "compensation"
    attempt: int
    key: str                # the idempotency key for the outside service
    context: Dict[str, Any]
    lease_until: datetime
    lost: bool = False      # the claim is over; another may do it now

    @property
    def input(self) -> Any:
        return self.context["saga"]["input"]

    @property
    def args(self) -> Any:
        return self.context["args"]

    @property
    def output(self) -> Any:
        """In a compensation: what the step reported, if it did."""
        return self.context["output"]

    @property
    def forward_key(self) -> str:
        """In a compensation: the key that the step was done with."""
        return str(self.context["forward_key"])


@dataclass(eq=False)
class Held:
    task: CoreTask
    extend_at: float
    reported: bool = False      # by task.tx


class CoreService:
    def __init__(self, core: Core, channel: str, handler: Optional[Callable[..., Any]],
                 face: Callable[[CoreService, Row], CoreTask], options: Any):
        taken = take(options, ServiceOptions)
        if (handler is None) == (not taken.keys() & {"forward", "compensation"}):
            raise UsageError("serve needs one handler for both phases, or forward=..., compensation=...")
        self.core, self.io, self.channel, self.face = core, core.io, channel, face
        self.handlers = {phase: handler or taken.get(phase) for phase in ("forward", "compensation")}
        self.claim_function = "claim_tasks" if self.handlers["forward"] else "claim_compensations"
        self.concurrency, self.lease = taken.get("concurrency", 10), taken.get("lease", 60)
        self.heartbeat, self.listen = taken.get("heartbeat", 30), taken.get("listen")
        self.consumer = taken.get("consumer", f"python {socket.gethostname()} {os.getpid()}")
        self.held: Dict[Tuple[str, int], Held] = {}
        self.outbox: Deque[Tuple[Held, str, Row]] = deque()
        self.stopping = False
        self.pause = 0.1            # before it connects again; grows as long as it cannot claim
        self.waker = core.io.waker()

    def stop(self) -> None:
        """No more claims; what is claimed is done first.  From any thread, or a signal handler."""
        self.stopping = True
        self.waker.wake()

    async def run(self) -> None:
        try:
            while not self.stopping or self.held:
                try:
                    async with self.io.listening(self.listen) as c:
                        await self.attend(c)
                except (psycopg.Error, OSError) as e:
                    log.warning("%s", message(e))
                    await self.waker.wait(None, self.pause * random.uniform(0.5, 1))
                    self.pause = min(self.pause * 2, 10)
            log.info("stopped")
        finally:
            self.waker.close()

    async def attend(self, c: Any) -> None:
        """Never sleeps while there is work: claims first, and then waits."""
        probe = f"pg_saga {uuid.uuid4().hex}"
        for channel in (self.channel, probe):
            await self.io.query(c, sql.SQL("LISTEN {}").format(sql.Identifier(channel)))
        log.info("listening")
        look_at = 0.0
        probe_until: Optional[float] = None
        every = POLL                # until the probe was heard
        while True:
            await self.report()
            if self.stopping and not self.held:
                return
            if not self.stopping and len(self.held) < self.concurrency and time.monotonic() >= look_at:
                # If it got as many as it asked for, there may be more.
                look_at = 0.0 if await self.claim() else time.monotonic() + every
            await self.extend()
            if probe_until is None:
                await self.notify(probe)
                probe_until = time.monotonic() + PROBE
            elif every == POLL and probe_until != float("inf") and time.monotonic() >= probe_until:
                log.warning("notifications do not arrive: connect directly, not through a pooler; "
                            "polling every %g s", POLL)
                probe_until = float("inf")
            for channel in await self.waker.wait(c, self.idle(look_at, probe_until)):
                if channel == probe:
                    log.debug("notifications arrive")
                    every, probe_until = self.heartbeat, float("inf")
                    look_at += every - POLL if look_at else 0.0
                else:
                    look_at = 0.0

    def idle(self, look_at: float, probe_until: float) -> float:
        """How long nothing is to be done, in seconds."""
        times = [probe_until, *(held.extend_at for held in self.held.values())]
        if not self.stopping and len(self.held) < self.concurrency:
            times.append(look_at)
        return 0.0 if self.outbox else max(min(min(times) - time.monotonic(), 3600), 0)

    async def notify(self, probe: str) -> None:
        """From another connection: of its own, even one behind a pooler may hear."""
        async with self.core.once() as c:
            await self.io.query(c, sql.SQL("SELECT pg_notify(%s, '')"), [probe])

    async def claim(self) -> bool:
        many = self.concurrency - len(self.held)
        arguments = {"channel": self.channel, "max_claims": many, "lease": timedelta(seconds=self.lease),
                     "consumer": self.consumer}
        try:
            rows = await self.core.sql(self.claim_function, arguments)
        except SagaUnavailable as e:
            log.warning("%s", message(e))
            return False
        self.pause = 0.1
        for row in rows:
            task = self.face(self, row)
            held = Held(task, time.monotonic() + self.lease / 3)
            self.held[task.key, task.attempt] = held
            self.waker.spawn(self.perform(held))
        return bool(len(rows) == many)

    async def extend(self) -> None:
        done = [held for held, _, _ in self.outbox]
        for held in list(self.held.values()):
            if time.monotonic() < held.extend_at or held in done:
                continue
            task = held.task
            held.extend_at = time.monotonic() + self.lease / 3
            try:
                await self.core.sql("extend_claim", {"compensation_key": task.key, "attempt": task.attempt,
                                                      "lease": timedelta(seconds=self.lease)})
            except InvalidSagaState as e:
                log.warning("%s", message(e))
                task.lost = True
                held.extend_at = float("inf")

    async def perform(self, held: Held) -> None:
        """One handler; in a thread of its own, where the io blocks."""
        task = held.task
        arguments: Row = {"task_key": task.key, "attempt": task.attempt}
        try:
            handler = self.handlers[task.phase]
            if handler is None:
                raise UsageError(f"there is no handler for the {task.phase} of step \"{task.step}\"")
            output = await self.io.call(handler, task)
            try:
                dumps(output)
                # A result is believed whenever it comes: without the attempt.
                report = "" if held.reported else "complete_task"
                arguments = {"task_key": task.key, "output": output}
            except Exception as e:
                report, arguments = self.unrecorded(task, e)
        except Exception as e:
            report = "fail_task"
            arguments["error"] = message(e)
            arguments["retryable"] = not isinstance(e, DoNotRetry)
            arguments["retry_after"] = e.retry_after if isinstance(e, RetryLater) else None
        except BaseException:           # the program ends: another takes over when the lease is over
            del self.held[task.key, task.attempt]
            self.waker.wake()
            raise
        self.outbox.append((held, report, arguments))
        self.waker.wake()

    @staticmethod
    def unrecorded(task: CoreTask, e: BaseException) -> Tuple[str, Row]:
        """What was done is not to be done again for want of a report: a person reads why."""
        return "fail_task", {"task_key": task.key, "attempt": task.attempt, "retryable": False,
                             "error": f"it was done, but what was returned cannot be recorded: {message(e)}"}

    async def report(self) -> None:
        """What could not be reported for want of a connection stays in the outbox."""
        while self.outbox:
            held, report, arguments = self.outbox[0]
            try:
                if report and not (report == "fail_task" and held.reported):
                    await self.core.sql(report, arguments)
            except psycopg.Error as e:
                if will_pass(e):
                    raise
                if report == "complete_task" and is_refused(e):
                    self.outbox[0] = held, *self.unrecorded(held.task, e)
                    continue
                log.error("step \"%s\" of saga %s: %s", held.task.step, held.task.saga_id, message(e))
            self.outbox.popleft()
            del self.held[held.task.key, held.task.attempt]

    async def tx(self, task: CoreTask, work: Callable[..., Any]) -> Any:
        """Work in this database and its report, in one transaction: exactly once.  It is not
        repeated: of a lost commit the claim says whether it was one."""
        async with self.core.once() as c:
            output = await self.core.work(c, work)
            await self.core.value(c, "complete_task", {"task_key": task.key, "output": output, "attempt": task.attempt})
        self.held[task.key, task.attempt].reported = True
        return output


def task_of(what: Type[T], row: Row) -> T:
    """A row of claim_tasks, or of claim_compensations, as a task."""
    if "compensation_key" in row:
        row = {"phase": "compensation", "name": row["context"]["saga"]["name"], **row, "task_key": row["compensation_key"]}
    return of(what, {**row, "key": row["task_key"]})
