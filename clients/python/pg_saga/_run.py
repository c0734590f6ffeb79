"""saga.run: a function of yours as a saga.

* An effect outside runs while no transaction is open, after the commit of its step.
* What the server says to a call of ours leaves the saga as it is, and so does wrong use of
  pg_saga; what your functions raise fails it.  So the errors of our own calls are
  remembered, by identity, and nobody can swallow one.
"""
from __future__ import annotations

import uuid
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Awaitable, Callable, List, Optional, Tuple

import psycopg
from psycopg import sql

from ._calls import Core, Row, Seconds, T, message, minutes, of, take
from .errors import DoNotRetry, Interrupted, InvalidSagaState, SagaFailing, UsageError
from .options import RunOptions, StepOptions, WorkOptions

GOES_ON = {"running", "completed"}
SAGA_RUNS = {"action", "task", "after", "delay", "not_before", "signals", "approval", "output", "completed"}


@dataclass(frozen=True)
class Step:
    """What is known of a step: the columns of saga.step_result."""

    saga_id: uuid.UUID
    seq: int
    step: str
    status: str
    attempt: int
    output: Any
    error: Optional[str]
    retry_at: Optional[datetime]
    forward_key: str
    known: bool


def failing(saga: Row) -> SagaFailing:
    return SagaFailing(f"saga {saga['id']} is {saga['state']}: {saga['reason']}",
                       saga_id=saga["id"], state=saga["state"], reason=saga["reason"])


async def run(core: Core, name: str, key: str, input: Any, function: Callable[..., Any],
              face: Callable[[CoreRun], Any], options: Any) -> Any:
    taken = take(options, RunOptions)
    if key is None:
        raise UsageError("a run needs a key, which makes its repetition safe")
    owner = taken.pop("owner", None)
    ending: Row = {name: taken.pop(name) for name in ("when_done", "ignore_failed") if name in taken}

    async def begin(c: Any) -> Row:
        if owner is not None:
            await core.io.query(c, sql.SQL("SET LOCAL ROLE {}").format(sql.Identifier(owner)))
        saga_id = await core.value(c, "begin", {"name": name, "idempotency_key": key, "input": input, **taken})
        return await core.state(c, saga_id)

    saga = await core.transaction(begin)
    while saga["state"] == "compensating" and saga["failure_kind"] is None:     # back to a savepoint
        await core.wait(saga["id"], None, "running")
        saga = await core.transaction(begin)
    if saga["state"] == "completed":
        return saga["result"]
    if saga["state"] != "running":
        raise failing(saga)
    s = CoreRun(core, saga["id"])
    try:
        return await s.complete(await core.io.call(function, face(s)), ending)
    except Exception as e:
        if s.refusal is not None:
            if e is s.refusal:
                raise
            raise s.refusal from e
        if not isinstance(e, Interrupted):
            reason = {"saga_id": s.id, "reason": message(e)}
            await core.transaction(lambda c: core.value(c, "fail", reason))
        raise


class CoreRun:
    """A run under way: "s" in your function."""

    def __init__(self, core: Core, saga_id: uuid.UUID):
        self.core, self.io, self.id = core, core.io, saga_id
        self.ours: List[BaseException] = []             # raised by calls of ours
        self.refusal: Optional[Exception] = None        # ends the run, whoever catches it

    async def call_of_ours(self, c: Any, function: str, **arguments: Any) -> Row:
        try:
            (row,) = await self.core.rows(c, function, {"saga_id": self.id, **arguments})
            return row
        except psycopg.Error as e:
            self.ours.append(e)
            raise

    async def transaction(self, body: Callable[[Any], Awaitable[T]]) -> T:
        if self.refusal is not None:
            raise self.refusal
        try:
            return await self.core.transaction(body)
        except Exception as e:
            if isinstance(e, (Interrupted, UsageError)):
                self.refusal = e
            elif any(e is ours for ours in self.ours):
                self.refusal = await self.explain(e)
                if self.refusal is not e:
                    raise self.refusal from e
            raise

    async def explain(self, e: Exception) -> Exception:
        """SG005, and SG002 where it is because of that, with what became of the saga."""
        if not isinstance(e, (SagaFailing, InvalidSagaState)):
            return e
        saga = await self.core.transaction(lambda c: self.core.state(c, self.id))
        return e if saga["state"] in GOES_ON else failing(saga)

    def must_go_on(self, saga: Row) -> None:
        if saga["state"] not in GOES_ON:
            self.refusal = failing(saga)
            raise self.refusal

    def refuse(self, why: str) -> UsageError:
        self.refusal = UsageError(why)
        return self.refusal

    def must_be_ours(self, step: Step) -> None:
        if step.status != "started":
            raise self.refuse(f"step \"{step.step}\" is {step.status}: it was recorded as one that saga runs itself")

    async def record(self, c: Any, name: str, options: Row) -> Step:
        return of(Step, await self.call_of_ours(c, "step", name=name, **options))

    async def tx(self, name: str, work: Callable[..., Any], options: Any) -> Any:
        taken = take(options, WorkOptions)

        async def body(c: Any) -> Any:
            step = await self.record(c, name, taken)
            if step.status != "completed":
                self.must_be_ours(step)
                output = await self.core.work(c, work, step)
                row = await self.call_of_ours(c, "complete_step", step=step.step, output=output,
                                              forward_key=step.forward_key)
                return row["output"]
            return step.output

        return await self.transaction(body)

    async def call(self, name: str, effect: Callable[..., Any], options: Any) -> Any:
        taken = take(options, WorkOptions)

        while True:
            step = await self.transaction(lambda c: self.record(c, name, taken))
            if step.status == "completed":
                return step.output
            self.must_be_ours(step)
            try:
                output = await self.io.call(effect, step.forward_key)
                break
            except Exception as e:
                if isinstance(e, Interrupted) or not taken.get("retry"):
                    raise
                pause = await self.fail(step, message(e), not isinstance(e, DoNotRetry))
                if pause is None:
                    raise
            await self.io.sleep(pause)

        async def complete(c: Any) -> Tuple[Row, Row]:
            row = await self.call_of_ours(c, "complete_step", step=step.step, output=output, late="record",
                                          forward_key=step.forward_key)
            return row, await self.core.state(c, self.id)

        row, saga = await self.transaction(complete)
        # If not, the effect is on record, and undone or shown to a person; the program must stop.
        self.must_go_on(saga)
        return row["output"]

    async def fail(self, step: Step, error: str, retryable: bool) -> Optional[float]:
        """Records that an attempt failed; returns after how many seconds to make the next."""
        async def body(c: Any) -> Optional[float]:
            row = await self.call_of_ours(c, "fail_step", step=step.step, error=error, retryable=retryable,
                                          forward_key=step.forward_key)
            if row["retry_at"] is None:
                return None
            (left,) = await self.io.query(c, sql.SQL(
                "SELECT greatest(extract(epoch FROM %s - clock_timestamp()), 0)::float8 AS s"), [row["retry_at"]])
            return float(left["s"])

        return await self.transaction(body)

    async def step(self, name: str, options: Any) -> Step:
        taken = take(options, StepOptions)
        if not taken.keys() & SAGA_RUNS:
            raise self.refuse(f"step \"{name}\" has neither work nor gate: use tx or call")
        return await self.transaction(lambda c: self.record(c, name, taken))

    async def wait(self, key: str, timeout: Seconds) -> Step:
        for left in minutes(timeout):
            async def wait(c: Any) -> Step:
                return of(Step, await self.call_of_ours(c, "wait_step", step=key, timeout=left))

            async def look(c: Any) -> Row:
                (row,) = await self.io.query(c, sql.SQL("SELECT parked FROM saga.steps WHERE saga_id = %s AND key = %s"
                                                        " ORDER BY run DESC LIMIT 1"), [self.id, key])
                return {**row, **await self.core.state(c, self.id)}

            step = await self.transaction(wait)
            saga = await self.transaction(look)
            self.must_go_on(saga)
            if (step.status in ("completed", "skipped") or saga["parked"] is not None or
                    (step.status == "failed" and step.retry_at is None)):
                break
        return step

    async def complete(self, result: Any, ending: Row) -> Any:
        async def body(c: Any) -> Row:
            await self.call_of_ours(c, "complete", result=result, **ending)
            return await self.core.state(c, self.id)

        saga = await self.transaction(body)
        if ending.get("when_done"):
            await self.core.wait(self.id, None, None)
            saga = await self.transaction(lambda c: self.core.state(c, self.id))
            if saga["state"] != "completed":
                self.refusal = failing(saga)
                raise self.refusal
        return saga["result"]
