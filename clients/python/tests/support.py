"""What the tests share.

A scenario is written once, as a coroutine, and run for both faces: for AsyncSaga as it is,
and for Saga through Awaited, whose methods are awaited and never wait.  PG* say where the
server is; it has saga, and PGUSER may use it.
"""
import asyncio
import contextlib
import inspect
import os
import threading
import time
import unittest
import uuid

import psycopg

from pg_saga import AsyncSaga, Saga
from pg_saga._calls import now

TIMEOUT = float(os.environ.get("PG_TEST_TIMEOUT_DEFAULT", 180))


def sql(statement, *values):
    """The rows of a statement, in a session of its own."""
    with psycopg.connect("", autocommit=True) as c:
        cursor = c.execute(statement, values or None)
        return cursor.fetchall() if cursor.description else []


def one(statement, *values):
    return sql(statement, *values)[0][0]


def wait_until(condition, what="a condition"):
    """Polls a function, or a query that returns true."""
    end = time.monotonic() + TIMEOUT
    while time.monotonic() < end:
        if one(condition) if isinstance(condition, str) else condition():
            return
        time.sleep(0.01)
    raise AssertionError(f"timed out waiting for {condition if isinstance(condition, str) else what}")


def state(saga_id):
    return one("SELECT state FROM saga.sagas WHERE id = %s", saga_id)


def wait_state(saga_id, wanted):
    wait_until(lambda: state(saga_id) == wanted, f"{saga_id} to be {wanted}")


def new_key(name="key"):
    return f"{name} {uuid.uuid4()}"


def kill_session(c):
    """Ends the session of a connection, from another one."""
    sql("SELECT pg_terminate_backend(%s, 10000)", c.info.backend_pid)


class Awaited:
    """A blocking object whose methods can be awaited, and whose functions may be coroutines."""

    def __init__(self, what):
        self._what = what

    def __getattr__(self, name):
        value = getattr(self._what, name)
        if not inspect.ismethod(value):
            return value

        async def method(*args, **kwargs):
            return value(*(blocking(a) for a in args), **{k: blocking(v) for k, v in kwargs.items()})

        return method


def blocking(function):
    """A coroutine function as an ordinary one, with what it gets as Awaited."""
    if not inspect.iscoroutinefunction(function):
        return function
    return lambda *args: now(function(*(Awaited(a) if hasattr(a, "tx") or hasattr(a, "execute") else a for a in args)))


class Blocking:
    """How a scenario runs with Saga."""

    def saga(self, *args, **kwargs):
        saga = Saga(*args, **kwargs)
        self.addCleanup(saga.close)
        return Awaited(saga)

    def scenario(self, coroutine):
        return now(coroutine)

    async def sleep(self, seconds):
        time.sleep(seconds)

    @contextlib.asynccontextmanager
    async def serving(self, saga, *args, **options):
        with saga._what.service(*(blocking(a) for a in args), **{k: blocking(v) for k, v in options.items()}) as service:
            yield service

    async def until(self, condition, what="a condition"):
        wait_until(condition, what)


class Asyncio:
    """And with AsyncSaga."""

    def saga(self, *args, **kwargs):
        self.opened = AsyncSaga(*args, **kwargs)
        return self.opened

    def scenario(self, coroutine):
        async def main():
            try:
                return await coroutine
            finally:
                await self.opened.close()
        return asyncio.run(main())

    async def sleep(self, seconds):
        await asyncio.sleep(seconds)

    @contextlib.asynccontextmanager
    async def serving(self, saga, *args, **options):
        async with saga.service(*args, **options) as service:
            yield service

    async def until(self, condition, what="a condition"):
        await asyncio.get_running_loop().run_in_executor(None, wait_until, condition, what)


def both(case):
    """A class of scenarios as two test cases: every method is a coroutine over a saga."""
    cases = []
    for face in (Blocking, Asyncio):
        members = {}
        for name, scenario in vars(case).items():
            if name.startswith("test_"):
                def test(self, scenario=scenario):
                    self.scenario(scenario(self, self.saga()))
                test.__doc__ = scenario.__doc__
                members[name] = test
        # The methods that scenarios share come with the class.
        made = type(case.__name__ + face.__name__, (face, case, unittest.TestCase), members)
        made.__module__ = case.__module__
        cases.append(made)
    return cases


def in_thread(function):
    thread = threading.Thread(target=function, daemon=True)
    thread.start()
    return thread
