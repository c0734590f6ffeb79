"""kill -9 at every boundary of a run, and of a service: before and after each statement,
commit, and call of a function.  Then the program is started again, as it is; in the end
each effect is there once, by its key, and the ledger says the same.

A child is forked for each boundary; it counts those that it comes to, and kills itself
at one.  The first that ends by itself has none left.
"""
import asyncio
import contextlib
import logging
import os
import signal
import sys
import tempfile
import traceback
import unittest

import psycopg

from pg_saga import AsyncSaga, Saga, SagaFailing
from pg_saga import _io
from support import blocking, new_key, one, sql, wait_until

MANY = 500


def setUpModule():
    sql("CREATE TABLE IF NOT EXISTS shelf (saga text, given_back boolean NOT NULL DEFAULT false)")
    sql("CREATE TABLE IF NOT EXISTS parcel (saga text, address text CHECK (address <> 'nowhere'))")
    sql("CREATE TABLE IF NOT EXISTS booked (key text)")


class Bank:
    """It lives in a file, a line for each effect, and knows a repetition by its key."""

    def __init__(self):
        self.path = os.path.join(tempfile.mkdtemp(), "bank")
        open(self.path, "w").close()

    def lines(self):
        with open(self.path) as file:
            return file.read().splitlines()

    def effect(self, what, key):
        """The number of the line."""
        line = f"{what} {key}"
        if line not in self.lines():
            with open(self.path, "a") as file:
                file.write(line + "\n")
        return self.lines().index(line)

    def charge(self, key):
        return self.effect("charge", key)

    def refund(self, key):
        return self.effect("refund" if f"charge {key}" in self.lines() else "void", key)


def arm(io, boundary):
    """Kills this process at the boundary of that number."""
    left = [boundary]

    def here():
        left[0] -= 1
        if left[0] < 0:
            os.kill(os.getpid(), signal.SIGKILL)

    def around(name):
        real = getattr(io, name)

        async def method(*args, **kwargs):
            here()
            value = await real(*args, **kwargs)
            here()
            return value
        setattr(io, name, method)
    around("query")
    around("call")
    transaction = io.transaction

    @contextlib.asynccontextmanager
    async def around_commit(self, c):
        async with transaction(self, c):
            yield
            here()
        here()
    io.transaction = around_commit


def killed(io, boundary, program):
    """Runs the program in a child.  True: it was killed; false: it came to its end."""
    sys.stdout.flush()
    pid = os.fork()
    if pid == 0:
        try:
            arm(io, boundary)
            program()
            os._exit(0)
        except BaseException:
            traceback.print_exc()
        os._exit(1)
    _, status = os.waitpid(pid, 0)
    if os.WIFSIGNALED(status):
        assert os.WTERMSIG(status) == signal.SIGKILL
        return True
    assert os.WEXITSTATUS(status) == 0, "the program failed"
    return False


class Killed(unittest.TestCase):
    def each_boundary(self, io, program):
        """What is left behind at each boundary; program(n) returns what to run."""
        count = 0
        for n in range(MANY):
            count += 1
            if not killed(io, n, program(n)):
                break
        self.assertLess(count, MANY)
        self.assertGreater(count, 20)
        return count

    def run_orders(self, io, main):
        """main(key, address): runs an order."""
        bank = Bank()

        async def order(s, key, address):
            async def reserve(c, _):
                await c.execute("INSERT INTO shelf VALUES (%s)", (key,))
                return "a shelf"
            await s.tx("reserve", reserve, undo="UPDATE shelf SET given_back = true WHERE saga = $1->'saga'->>'idempotency_key'")

            async def pay(idempotency_key):
                return {"charge": bank.charge(idempotency_key)}
            await s.call("charge", pay, notify="bank " + bank.path[-20:])

            async def ship(c, _):
                await c.execute("INSERT INTO parcel VALUES (%s, %s)", (key, address))
            await s.tx("ship", ship)
            return "shipped"

        def program(key, address):
            async def function(s):
                return await order(s, key, address)

            def run():
                try:
                    return main(key, function)
                except Exception as e:
                    if address != "nowhere":
                        raise
                    return e
            return run
        keys = {}
        for address in "Bern", "nowhere":
            prefix = new_key()
            count = self.each_boundary(io, lambda n: program(f"{prefix} {n}", address))
            keys[address] = [f"{prefix} {n}" for n in range(count)]
            for key in keys[address]:
                result = program(key, address)()
                if address == "Bern":
                    self.assertEqual(result, "shipped")
                else:
                    self.assertIn("parcel_address_check", result.reason if isinstance(result, SagaFailing) else str(result))
        with Saga().service("bank " + bank.path[-20:], compensation=lambda task: {"line": bank.refund(task.forward_key)}):
            wait_until(lambda: one("SELECT count(*) FROM saga.sagas WHERE idempotency_key = ANY (%s) AND state = 'compensating'",
                                   keys["nowhere"]) == 0)
        lines = bank.lines()
        self.assertEqual(len(lines), len(set(lines)))
        for address, ending in ("Bern", "completed"), ("nowhere", "compensated"):
            self.assertEqual(sql("SELECT state, count(*) FROM saga.sagas WHERE idempotency_key = ANY (%s) GROUP BY 1", keys[address]),
                             [(ending, len(keys[address]))])
            self.assertEqual(sql("SELECT count(*), count(DISTINCT saga), bool_or(given_back), bool_and(given_back)"
                                 " FROM shelf WHERE saga = ANY (%s)", keys[address]),
                             [(len(keys[address]), len(keys[address]), address == "nowhere", address == "nowhere")])
            self.assertEqual(sql("SELECT count(*), count(DISTINCT saga) FROM parcel WHERE saga = ANY (%s)", keys[address]),
                             [(len(keys[address]),) * 2 if address == "Bern" else (0, 0)])
            for key, output in sql("SELECT forward_key, output FROM saga.steps WHERE key = 'charge' AND saga_id IN"
                                   " (SELECT id FROM saga.sagas WHERE idempotency_key = ANY (%s))", keys[address]):
                self.assertEqual(lines[output["charge"]], f"charge {key}")
                self.assertEqual(f"refund {key}" in lines, address == "nowhere")
        self.assertEqual(sum(line.startswith("charge") for line in lines), len(keys["Bern"]) + len(keys["nowhere"]))
        return len(keys["Bern"]) + len(keys["nowhere"])

    def test_runs(self):
        def main(key, function):
            with Saga() as saga:
                return saga.run("order", key, None, blocking(function))
        self.run_orders(_io.Blocking, main)

    def test_runs_in_asyncio(self):
        def main(key, function):
            async def main():
                async with AsyncSaga() as saga:
                    return await saga.run("order", key, None, function)
            return asyncio.run(main())
        self.run_orders(_io.Asyncio, main)

    def serve_tasks(self, io, main):
        """main(channel, handler, until): serves the channel until the condition holds."""
        bank = Bank()
        prefix = new_key("channel")[:40]
        retry = '{"max_attempts": 100, "delay": "10 ms", "backoff": "constant", "timeout": "1 minute"}'

        async def handler(task):
            if task.args == "here":
                async def work(c):
                    await c.execute("INSERT INTO booked VALUES (%s)", (task.key,))
                    return task.attempt
                return await task.tx(work)
            return bank.charge(task.key) if task.phase == "forward" else bank.refund(task.forward_key)

        def begin(n):
            channel = f"{prefix} {n}"
            with psycopg.connect("") as c:
                saga_id = c.execute("SELECT saga.begin('tasks', %s)", (channel,)).fetchone()[0]
                for where in "here", "bank":
                    c.execute("""SELECT saga.step(%s, %s, task => %s, notify => %s, args => to_jsonb(%s::text),
                                 retry => saga.retry_policy(%s::jsonb), compensation_retry => saga.retry_policy(%s::jsonb))""",
                              (saga_id, where, channel, channel, where, retry, retry))
                c.execute("SELECT saga.step(%s, 'fails', action => 'SELECT 1 / 0', retry => saga.retry_policy(max_attempts => 1))",
                          (saga_id,))
                c.execute("SELECT saga.complete(%s, when_done => true)", (saga_id,))

        def program(n):
            begin(n)
            return run_program(n)

        def run_program(n):
            return lambda: main(f"{prefix} {n}", handler, lambda: one(
                "SELECT state FROM saga.sagas WHERE idempotency_key = %s", f"{prefix} {n}") == "compensated")
        count = self.each_boundary(io, program)
        for n in range(count):
            run_program(n)()
        lines = bank.lines()
        self.assertEqual((len(lines), len(set(lines))), (2 * count, 2 * count))
        for key, undo, step, output, undone in sql(
                "SELECT forward_key, compensation_key, key, output, compensation_output FROM saga.steps WHERE saga_id IN"
                " (SELECT id FROM saga.sagas WHERE idempotency_key LIKE %s) AND task IS NOT NULL", prefix + " %"):
            if step == "bank":
                self.assertEqual([lines[output], lines[undone]], [f"charge {key}", f"refund {key}"])
            else:
                self.assertEqual(sql("SELECT key FROM booked WHERE key IN (%s, %s) ORDER BY 1", key, undo), [(key,), (undo,)])
        return count

    def test_services(self):
        def main(channel, handler, condition):
            with Saga().service(channel, blocking(handler), lease=0.4, heartbeat=0.1):
                wait_until(condition)
        self.serve_tasks(_io.Blocking, main)

    def test_services_in_asyncio(self):
        def main(channel, handler, condition):
            async def main():
                async with AsyncSaga() as saga, saga.service(channel, handler, lease=0.4, heartbeat=0.1):
                    await asyncio.get_running_loop().run_in_executor(None, wait_until, condition)
            asyncio.run(main())
        self.serve_tasks(_io.Asyncio, main)


if __name__ == "__main__":
    logging.basicConfig()
    unittest.main()
