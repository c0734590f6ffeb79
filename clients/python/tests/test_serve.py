"""saga.serve: each task is done, reported, and given back in time."""
import asyncio
import json
import logging
import os
import signal
import subprocess
import sys
import time
import unittest

import psycopg

import pg_saga
from pg_saga import AsyncSaga, DoNotRetry, Interrupted, RetryLater, Saga, SagaUnavailable, UsageError
from support import TIMEOUT, both, new_key, one, sql, state, wait_state, wait_until

RETRY = json.dumps({"max_attempts": 20, "delay": "10 ms", "backoff": "constant", "timeout": "1 minute"})


def setUpModule():
    sql("CREATE TABLE IF NOT EXISTS served (key text, attempt int)")


def begin(channel, tasks=1, then="SELECT 1", args=None):
    """A sealed saga with so many tasks side by side, undone on the same channel, and then an action."""
    with psycopg.connect("") as c:
        saga_id = c.execute("SELECT saga.begin('order', %s, '{\"order\": 1}')", (new_key(),)).fetchone()[0]
        for n in range(tasks):
            c.execute("""SELECT saga.step(%s, 'task', %s, task => %s, notify => %s, args => %s, after => '{}', timeout => '10 min',
                         retry => saga.retry_policy(%s::jsonb), compensation_retry => saga.retry_policy(%s::jsonb))""",
                      (saga_id, f"task {n}", channel, channel, json.dumps(n if args is None else args), RETRY, RETRY))
        c.execute("SELECT saga.step(%s, 'then', action => %s, retry => saga.retry_policy(max_attempts => 1))", (saga_id, then))
        c.execute("SELECT saga.complete(%s, when_done => true)", (saga_id,))
    return saga_id


def attempts(saga_id, phase="forward"):
    return sql("""SELECT a.outcome, a.error FROM saga.attempts a JOIN saga.steps t USING (saga_id, seq)
                  WHERE saga_id = %s AND phase = %s AND t.name = 'task' ORDER BY attempt""", saga_id, phase)


def listener_of(application):
    return (f"SELECT pid FROM pg_stat_activity WHERE application_name = '{application}' AND query LIKE 'LISTEN%'")


class Services:
    async def test_forward_and_back(self, saga):
        channel = new_key("channel")
        seen = []

        async def charge(task):
            seen.append(task)
            return {"charge": task.args}

        async def refund(task):
            seen.append(task)
            return {"refund": task.output}
        waits = begin(channel, then="SELECT 1 / 0")
        async with self.serving(saga, channel, forward=charge, compensation=refund):
            await self.until(lambda: state(waits) == "compensated")
            woken = begin(channel)
            await self.until(lambda: state(woken) == "completed")
        first, undo, last = seen
        self.assertEqual((first.phase, first.args, first.output, first.input, first.name, first.step, first.attempt),
                         ("forward", 0, None, {"order": 1}, "order", "task 0", 1))
        self.assertEqual((undo.phase, undo.output, undo.forward_key, undo.key),
                         ("compensation", {"charge": 0}, first.key, first.key + "-undo"))
        self.assertEqual(last.saga_id, woken)
        self.assertEqual(sql("SELECT output, compensation_output FROM saga.steps WHERE saga_id = %s AND name = 'task'", waits),
                         [({"charge": 0}, {"refund": {"charge": 0}})])
        self.assertRegex(one("SELECT DISTINCT consumer FROM saga.attempts WHERE saga_id = %s AND consumer IS NOT NULL", woken),
                         rf"^python \S+ {os.getpid()}$")

    async def test_compensations_only(self, saga):
        channel = new_key("channel")
        phases = []

        async def handler(task):
            phases.append((task.phase, task.name))
        saga_id = one("SELECT saga.begin('order')")
        sql("SELECT saga.step(%s, 'a', notify => %s, output => '1')", saga_id, channel)
        sql("SELECT saga.fail(%s)", saga_id)
        task = begin(channel)
        async with self.serving(saga, channel, compensation=handler):
            await self.until(lambda: state(saga_id) == "compensated")
        self.assertEqual((phases, attempts(task)), ([("compensation", "order")], []))

    async def test_one_handler(self, saga):
        channel = new_key("channel")

        async def handler(task):
            return task.phase
        saga_id = begin(channel, then="SELECT 1 / 0")
        async with self.serving(saga, channel, handler):
            await self.until(lambda: state(saga_id) == "compensated")
        self.assertEqual(sql("SELECT output, compensation_output FROM saga.steps WHERE saga_id = %s AND name = 'task'", saga_id),
                         [("forward", "compensation")])

    async def test_at_the_same_time(self, saga):
        channel = new_key("channel")
        running, most = [], []

        async def handler(task):
            running.append(task)
            most.append(len(running))
            end = time.monotonic() + TIMEOUT
            while max(most) < 4 and time.monotonic() < end:
                await self.sleep(0.01)
            running.remove(task)
        saga_id = begin(channel, tasks=13)
        async with self.serving(saga, channel, handler, concurrency=4):
            await self.until(lambda: state(saga_id) == "completed")
        self.assertEqual((len(most), max(most)), (13, 4))
        self.assertEqual(set(attempts(saga_id)), {("succeeded", None)})

    async def test_longer_than_the_lease(self, saga):
        channel = new_key("channel")

        async def handler(task):
            await self.sleep(4)
            return task.lost
        saga_id = begin(channel, tasks=2)
        async with self.serving(saga, channel, handler, lease=2):
            await self.until(lambda: state(saga_id) == "completed")
        self.assertEqual(sql("SELECT output, attempts FROM saga.steps WHERE saga_id = %s AND name = 'task'", saga_id),
                         [(False, 1), (False, 1)])

    async def test_errors(self, saga):
        channel = new_key("channel")
        tries = []

        async def handler(task):
            tries.append(task.attempt)
            if task.args == "refused":
                raise DoNotRetry("the card is refused")
            if task.attempt == 1:
                raise RetryLater("busy", retry_after=0)
            if task.attempt == 2:
                raise RetryLater("busy")
            if task.attempt == 3:
                raise ValueError("no\0answer")
        saga_id, refused = begin(channel), begin(channel, args="refused")
        async with self.serving(saga, channel, forward=handler):
            await self.until(lambda: state(saga_id) == "completed" and state(refused) != "running")
        self.assertEqual(attempts(saga_id), [
            ("failed", "busy"), ("failed", "busy"), ("failed", "ValueError: no\\0answer"), ("succeeded", None)])
        self.assertEqual(one("SELECT reason FROM saga.sagas WHERE id = %s", refused), "the card is refused")
        self.assertEqual(attempts(refused), [("failed", "the card is refused")])

    async def test_what_is_returned_cannot_be_recorded(self, saga):
        loop = []
        loop.append(loop)
        for returned, why in (("a\0b", "unsupported Unicode escape"), ("\ud800", "invalid input syntax"), ("x" * 2_000_000, "output is too large"),
                              (loop, "Circular"), (object(), "serializable")):
            with self.subTest(why=why):
                channel = new_key("channel")
                done = []

                async def handler(task):
                    done.append(task.phase)
                    return returned
                saga_id = begin(channel)
                async with self.serving(saga, channel, handler, lease=1):
                    await self.until(lambda: state(saga_id) == "needs_review")
                self.assertEqual(done, ["forward", "compensation"])
                for phase in done:
                    [(outcome, error)] = attempts(saga_id, phase)
                    self.assertEqual(outcome, "failed")
                    self.assertRegex(error, f"^it was done, but what was returned cannot be recorded: .*{why}")

    async def test_no_handler_for_a_phase(self, saga):
        channel = new_key("channel")

        async def charge(_):
            pass
        saga_id = begin(channel, then="SELECT 1 / 0")
        async with self.serving(saga, channel, forward=charge):
            await self.until(lambda: attempts(saga_id, "compensation"))
        self.assertEqual(attempts(saga_id, "compensation")[0], ("failed", 'there is no handler for the compensation of step "task 0"'))

    async def test_stop_finishes_what_is_claimed(self, saga):
        channel = new_key("channel")
        go = []

        async def handler(task):
            while not go:
                await self.sleep(0.01)
            return "done"

        def count(what):
            return one(f"SELECT count(*) FROM saga.pending_tasks WHERE channel = %s AND {what}", channel)
        saga_id, more = begin(channel), None
        with self.assertLogs("pg_saga", logging.DEBUG) as logs:
            async with self.serving(saga, channel, handler) as service:
                await self.until(lambda: any("notifications arrive" in line for line in logs.output) and count("claimed_at IS NOT NULL"))
                service.stop()
                more = begin(channel)
                await self.until(lambda: count("since <= now()") == 2)
                await self.sleep(0.2)       # the notification comes, and is of no interest
                go.append(1)
        wait_state(saga_id, "completed")
        self.assertEqual(attempts(saga_id), [("succeeded", None)])
        self.assertEqual(attempts(more), [])

    async def test_work_in_this_database(self, saga):
        channel = new_key("channel")

        async def handler(task):
            async def work(c):
                await c.execute("INSERT INTO served VALUES (%s, %s)", (task.key, task.attempt))
                if task.attempt == 1:       # somebody else takes it, and is done first
                    sql("SELECT saga.fail_task(%s, 1, 'gone', retry_after => '0')", task.key)
                return {"attempt": task.attempt}
            return await task.tx(work)
        saga_id = begin(channel, then="SELECT 1 / 0")
        async with self.serving(saga, channel, handler):
            await self.until(lambda: state(saga_id) == "compensated")
        key, output = sql("SELECT forward_key, output FROM saga.steps WHERE saga_id = %s AND name = 'task'", saga_id)[0]
        self.assertEqual(sql("SELECT attempt FROM served WHERE key = %s", key), [(2,)])
        self.assertEqual(sql("SELECT attempt FROM served WHERE key = %s", key + "-undo"), [(2,)])
        self.assertEqual(output, {"attempt": 2})

    async def test_a_lost_claim(self, saga):
        channel = new_key("channel")
        lost = []

        async def handler(task):
            if task.attempt == 1:
                sql("SELECT saga.fail_task(%s, 1, 'gone', retry_after => '1 hour')", task.key)
                await self.until(lambda: task.lost)
                lost.append(task)
            return task.attempt
        saga_id = begin(channel)
        async with self.serving(saga, channel, handler, lease=0.3):
            await self.until(lambda: state(saga_id) == "completed")     # the result is believed all the same
        self.assertEqual(len(lost), 1)

    async def test_lost_connections(self, saga):
        """The one that listens, all of them while a handler runs, and while the report is to be made."""
        channel = new_key("channel")
        mine = "SELECT pg_terminate_backend(pid, 10000) FROM pg_stat_activity WHERE application_name = 'serve lost'"

        async def handler(task):
            sql(mine)
            return "done"
        if isinstance(saga, AsyncSaga):
            await saga.close()
        saga = self.saga(application_name="serve lost")
        with self.assertLogs("pg_saga", logging.INFO) as logs:
            async with self.serving(saga, channel, handler):
                await self.until(lambda: sql(listener_of("serve lost")))
                for _ in range(2):
                    sql(mine)
                    saga_id = begin(channel)
                    await self.until(lambda: state(saga_id) == "completed")
                    self.assertEqual(attempts(saga_id), [("succeeded", None)])
        self.assertGreaterEqual(sum("listening" in line for line in logs.output), 3)
        self.assertIn("stopped", logs.output[-1])

    async def test_the_server_crashes(self, saga):
        """In the middle of a run, and of a task."""
        crash = os.environ.get("SAGA_CRASH")
        if not crash:
            self.skipTest("this server may not be restarted")
        channel, key, did = new_key("channel"), new_key(), []

        def restart(what):
            if not did.count(what):
                # It goes on beside what meets the server while it is down.
                restarts.append(subprocess.Popen(crash, shell=True, stdout=subprocess.DEVNULL))
                did.append(what)

        async def handler(task):
            restart("task")
            restarts[-1].wait()
            return "done"

        async def effect(key):
            restart(key)
            return "done"

        async def order(s):
            return await s.call("a", effect)
        restarts = []
        with self.assertLogs("pg_saga", logging.INFO):
            async with self.serving(saga, channel, handler):
                saga_id = begin(channel)
                await self.until(lambda: did)
                restarts[-1].wait()
                await self.until(lambda: state(saga_id) == "completed")
                result = None
                while result is None:
                    try:
                        result = await saga.run("order", key, None, order)
                    except Interrupted:         # it took longer than a run waits
                        pass
                restarts[-1].wait()
        self.assertEqual((result, len(did)), ("done", 2))
        self.assertEqual(sql("SELECT state, reason FROM saga.sagas WHERE idempotency_key = %s", key), [("completed", None)])
        self.assertEqual(attempts(saga_id), [("succeeded", None)])

    async def test_unavailable(self, saga):
        """Nothing is undone here at present: it stays, and tries again."""
        channel = new_key("channel")
        core = (saga._what if hasattr(saga, "_what") else saga)._core
        real, refusals = core.sql, []

        async def unavailable(function, arguments):
            if function == "claim_tasks" and len(refusals) < 2:
                refusals.append(1)
                raise SagaUnavailable("not here")
            return await real(function, arguments)
        core.sql = unavailable
        saga_id = begin(channel)

        async def handler(_):
            pass
        with self.assertLogs("pg_saga", logging.INFO) as logs:
            async with self.serving(saga, channel, handler, heartbeat=0.05):
                await self.until(lambda: state(saga_id) == "completed")
        self.assertEqual(sum("listening" in line for line in logs.output), 1)

    async def test_through_a_pooler(self, saga):
        """It notices that nothing wakes it, says so, and looks by itself; or listens elsewhere."""
        pooler = os.environ.get("SAGA_PGBOUNCER")
        if not pooler:
            self.skipTest("no PgBouncer")
        if isinstance(saga, AsyncSaga):
            await saga.close()
        saga = self.saga(pooler)

        async def handler(task):
            return await task.tx(work)

        async def work(c):
            await c.execute("SELECT 1")
        self.addCleanup(setattr, pg_saga._serve, "PROBE", pg_saga._serve.PROBE)
        for options, notices in ({}, True), ({"listen": ""}, False):
            pg_saga._serve.PROBE = 1 if notices else TIMEOUT
            channel = new_key("channel")
            with self.assertLogs("pg_saga", logging.INFO) as logs:
                async with self.serving(saga, channel, handler, **options):
                    if notices:
                        await self.until(lambda: any("notifications do not arrive: connect directly" in line for line in logs.output))
                    saga_id = begin(channel, tasks=3, then="SELECT 1 / 0")
                    await self.until(lambda: state(saga_id) == "compensated")
            self.assertEqual(any("do not arrive" in line for line in logs.output), notices)

        key = new_key()

        async def order(s):
            await s.tx("a", lambda c, _: c.execute("INSERT INTO served VALUES (%s)", (key,)), undo="SELECT 1")
            return await s.call("b", len)
        self.assertEqual(await saga.run("order", key, None, order), await saga.run("order", key, None, order))
        self.assertEqual(one("SELECT count(*) FROM served WHERE key = %s", key), 1)


ServicesBlocking, ServicesAsyncio = both(Services)


class Programs(unittest.TestCase):
    def test_options(self):
        saga = Saga()
        with self.assertRaises(UsageError):
            saga.service("a")
        with self.assertRaises(UsageError):
            saga.service("a", print, forward=print)
        with self.assertRaisesRegex(TypeError, "unknown option: leese"):
            saga.service("a", print, leese=1)

    def test_idle_is_idle(self):
        """Between two heartbeats it asks nothing."""
        asked = []
        saga = Saga()
        real = saga._core.sql

        async def counting(*args):
            asked.append(args[0])
            return await real(*args)
        saga._core.sql = counting
        channel = new_key("channel")
        with self.assertLogs("pg_saga", logging.DEBUG) as logs, saga.service(channel, lambda task: None, heartbeat=3600):
            wait_until(lambda: any("notifications arrive" in line for line in logs.output))
            saga_id = begin(channel)
            wait_state(saga_id, "completed")
            wait_until(lambda: "complete_task" in asked)
            before = list(asked)
            time.sleep(2.5)         # longer than it waits where notifications do not arrive
            self.assertEqual(asked, before)
        saga.close()

    def test_signals(self):
        """SIGTERM and SIGINT end the program, once what is claimed is done."""
        for face in "blocking", "asyncio":
            for number in signal.SIGTERM, signal.SIGINT:
                channel = new_key("channel")
                with subprocess.Popen([sys.executable, os.path.join(os.path.dirname(__file__), "service.py"), face, channel],
                                      stdout=subprocess.PIPE, text=True) as program:
                    saga_id = begin(channel)
                    self.assertEqual(program.stdout.readline(), "task 0\n")
                    program.send_signal(number)
                    self.assertEqual(program.wait(TIMEOUT), 0)
                    self.assertEqual(program.stdout.read(), "stopped\n")
                wait_state(saga_id, "completed")
                self.assertEqual(attempts(saga_id), [("succeeded", None)])

    def test_canceled(self):
        """A service that is canceled cancels its handlers; what they had claimed comes again."""
        channel = new_key("channel")
        started = asyncio.Event()
        canceled = []

        async def handler(task):
            started.set()
            try:
                await asyncio.sleep(TIMEOUT)
            except asyncio.CancelledError:
                canceled.append(task)
                raise

        async def main():
            async with AsyncSaga() as saga:
                service = asyncio.create_task(saga.service(channel, handler, lease=2).run())
                await asyncio.wait_for(started.wait(), TIMEOUT)
                service.cancel()
                with self.assertRaises(asyncio.CancelledError):
                    await service
                await asyncio.sleep(0)
                self.assertEqual(len(canceled), 1)

        saga_id = begin(channel)
        asyncio.run(main())
        with Saga().service(channel, lambda task: None, heartbeat=0.2):
            wait_state(saga_id, "completed")
        self.assertEqual([outcome for outcome, _ in attempts(saga_id)], ["timed out", "succeeded"])


if __name__ == "__main__":
    unittest.main()
