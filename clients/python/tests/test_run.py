"""saga.run: what is done once, what fails the saga, and what leaves it running."""
import asyncio
import threading
import unittest
from datetime import timedelta

import psycopg

import pg_saga
from pg_saga import (DoNotRetry, IdempotencyConflict, Interrupted, InvalidSagaState, Saga, SagaError, SagaFailing,
                     SagaNotFound, UsageError)
from support import TIMEOUT, both, in_thread, kill_session, new_key, one, sql, state, wait_state, wait_until


def setUpModule():
    sql("CREATE TABLE IF NOT EXISTS work (saga text, step text)")
    sql("CREATE TABLE IF NOT EXISTS undone (saga text, step text)")


UNDO = """INSERT INTO undone VALUES ($1->'saga'->>'idempotency_key', $1->'step'->>'key')"""


def done(key):
    return [step for (step,) in sql("SELECT step FROM work WHERE saga = %s ORDER BY ctid", key)]


def undone(key):
    return [step for (step,) in sql("SELECT step FROM undone WHERE saga = %s ORDER BY ctid", key)]


def id_of(key):
    return one("SELECT id FROM saga.sagas WHERE idempotency_key = %s", key)


def columns(key, what):
    return sql(f"SELECT {what} FROM saga.steps WHERE saga_id = %s ORDER BY position", id_of(key))


def work(key, step, output=None):
    """A function for tx."""
    async def write(c, _):
        await c.execute("INSERT INTO work VALUES (%s, %s)", (key, step))
        return output
    return write


class Runs:
    async def test_completes_once(self, saga):
        key = new_key()
        calls = []

        async def order(s):
            calls.append("order")
            shelf = await s.tx("reserve", work(key, "reserve", {"shelf": 7}), args={"item": "lamp"}, undo=UNDO)

            async def pay(idempotency_key):
                calls.append(idempotency_key)
                # It is committed, and nothing is open.
                self.assertEqual(sql("SELECT status FROM saga.steps WHERE saga_id = %s AND key = 'charge'", s.id), [("started",)])
                return {"charge": "ch_1"}
            charge = await s.call("charge", pay, args={"cents": 49900}, notify="bank")
            return [shelf, charge]

        result = await saga.run("order", key, {"order": 1}, order)
        self.assertEqual(result, [{"shelf": 7}, {"charge": "ch_1"}])
        self.assertEqual(await saga.run("order", key, {"order": 1}, order), result)
        self.assertEqual(calls, ["order", columns(key, "forward_key")[1][0]])
        self.assertEqual(done(key), ["reserve"])
        self.assertEqual(state(id_of(key)), "completed")

    async def test_goes_on_where_it_was(self, saga):
        key = new_key()
        effects = []

        async def order(s, end):
            first = await s.tx("a", work(key, "a", 1), undo=UNDO)
            await s.tx("b", work(key, "b"), undo=UNDO)

            async def effect(_):
                effects.append(1)
                return len(effects)
            second = await s.call("c", effect)
            if end is not None:
                raise end
            return first, second

        for end in (Interrupted("not now"), KeyboardInterrupt(), asyncio.CancelledError(), SystemExit()):
            async def part(s):
                return await order(s, end)
            with self.assertRaises(type(end)) as raised:
                await saga.run("order", key, None, part)
            self.assertIs(raised.exception, end)
            self.assertEqual(state(id_of(key)), "running")

        async def whole(s):
            return await order(s, None)
        self.assertEqual(await saga.run("order", key, None, whole), [1, 1])
        self.assertEqual(done(key), ["a", "b"])

    async def test_an_error_of_the_function_fails_the_saga(self, saga):
        key = new_key()
        error = ValueError("no such street")

        async def order(s):
            await s.tx("a", work(key, "a"), undo=UNDO)
            raise error
        with self.assertRaises(ValueError) as raised:
            await saga.run("order", key, None, order)
        self.assertIs(raised.exception, error)
        self.assertEqual(await saga.wait(id_of(key)), "compensated")
        self.assertEqual(undone(key), ["a"])
        with self.assertRaises(SagaFailing) as raised:
            await saga.run("order", key, None, order)
        self.assertEqual((raised.exception.saga_id, raised.exception.state, raised.exception.reason),
                         (id_of(key), "compensated", "ValueError: no such street"))

    async def test_an_error_of_its_sql_fails_the_saga(self, saga):
        key = new_key()

        async def order(s):
            async def bad(c, _):
                await c.execute("INSERT INTO work VALUES (%s, 'bad')", (key,))
                await c.execute("SELECT 1 / 0")
            await s.tx("a", bad, undo=UNDO)
        with self.assertRaises(psycopg.errors.DivisionByZero):
            await saga.run("order", key, None, order)
        self.assertEqual(done(key), [])
        self.assertEqual(one("SELECT reason FROM saga.sagas WHERE id = %s", id_of(key)), "division by zero")
        self.assertEqual(columns(key, "key"), [])

    async def test_an_error_of_a_tx_may_be_caught(self, saga):
        key = new_key()

        async def order(s):
            async def bad(c, _):
                await c.execute("SELECT 1 / 0")
            try:
                await s.tx("express", bad)
            except psycopg.errors.DivisionByZero:
                await s.tx("post", work(key, "post"))
        await saga.run("order", key, None, order)
        self.assertEqual(done(key), ["post"])

    async def test_a_deferred_constraint_fails_the_saga(self, saga):
        key = new_key()
        sql("CREATE TABLE IF NOT EXISTS once (n int PRIMARY KEY DEFERRABLE INITIALLY DEFERRED)")

        async def order(s):
            async def twice(c, _):
                await c.execute("INSERT INTO once VALUES (1), (1)")
            await s.tx("a", twice)
        with self.assertRaises(psycopg.errors.UniqueViolation):
            await saga.run("order", key, None, order)
        self.assertNotEqual(state(id_of(key)), "running")

    async def test_what_an_open_transaction_refuses(self, saga):
        """It would be committed or undone with it; and the effect of a call would not be."""
        for attempt in (lambda s: s.call("x", print), lambda s: s.tx("x", work("x", "x")), lambda s: s.step("x", action="SELECT 1"),
                        lambda s: s.wait("x"), lambda s: saga.run("order", "x", None, print),
                        lambda s: saga.signal(s.id, "x"), lambda s: saga.sql("find", name="order")):
            key = new_key()

            async def order(s):
                async def inner(c, step):
                    self.assertEqual((step.step, step.attempt, step.known), ("a", 1, False))
                    await attempt(s)
                await s.tx("a", inner)
            with self.assertRaisesRegex(UsageError, "transaction is open"):
                await saga.run("order", key, None, order)
            self.assertEqual((columns(key, "key"), state(id_of(key))), ([], "running"))

    async def test_a_swallowed_error_of_sql(self, saga):
        key = new_key()

        async def order(s):
            async def swallow(c, _):
                await c.execute("INSERT INTO work VALUES (%s, 'a')", (key,))
                try:
                    await c.execute("SELECT 1 / 0")
                except psycopg.Error:
                    pass
            await s.tx("a", swallow)
        with self.assertRaisesRegex(UsageError, "swallowed an error"):
            await saga.run("order", key, None, order)
        self.assertEqual(done(key), [])
        self.assertEqual(state(id_of(key)), "running")

    async def test_a_transaction_ended_by_hand(self, saga):
        for end in ("COMMIT", "ROLLBACK"):
            key = new_key()

            async def order(s):
                async def by_hand(c, _):
                    await c.execute(end)
                await s.tx("a", by_hand)
            with self.assertRaisesRegex(UsageError, "ended its transaction"):
                await saga.run("order", key, None, order)

    async def test_the_saga_fails_meanwhile(self, saga):
        """What was done in the database goes back; what was done outside is kept; the program stops."""
        for kind in ("tx", "call", "last"):
            key = new_key()
            ran = []

            async def order(s):
                await s.tx("a", work(key, "a"), undo=UNDO)
                if kind == "tx":
                    sql("SELECT saga.cancel(%s, 'enough')", s.id)
                    wait_state(s.id, "compensated")
                    await s.tx("b", work(key, "b"), undo=UNDO)
                elif kind == "call":
                    async def effect(_):
                        sql("SELECT saga.cancel(%s, 'enough')", s.id)
                        return {"charge": "ch_1"}
                    await s.call("b", effect, review="look")
                    ran.append("after the call")
                else:
                    sql("SELECT saga.cancel(%s, 'enough')", s.id)
            with self.assertRaises(SagaFailing) as raised:
                await saga.run("order", key, None, order)
            self.assertIn(raised.exception.state, ("compensating", "compensated", "needs_review"))
            self.assertEqual(raised.exception.reason, "enough")
            self.assertEqual(ran, [])
            self.assertEqual(done(key), ["a"])
            if kind == "call":
                self.assertEqual(columns(key, "output")[1][0], {"charge": "ch_1"})

    async def test_it_cannot_be_swallowed(self, saga):
        key = new_key()
        caught = []

        async def order(s):
            sql("SELECT saga.cancel(%s)", s.id)
            for _ in range(2):
                try:
                    await s.tx("a", work(key, "a"))
                except SagaError as e:
                    caught.append(e)
            return "all is well"
        with self.assertRaises(SagaFailing) as raised:
            await saga.run("order", key, None, order)
        self.assertEqual([e is raised.exception for e in caught], [True, True])

        async def wraps(s):
            sql("SELECT saga.cancel(%s)", s.id)
            try:
                await s.tx("a", work(key, "a"))
            except SagaError as e:
                raise ValueError("something") from e
        with self.assertRaises(SagaFailing):
            await saga.run("order", new_key(), None, wraps)

    async def test_another_content_fails_nothing(self, saga):
        key = new_key()

        async def order(s, cents):
            await s.tx("a", work(key, "a"), args={"cents": cents}, undo=UNDO)
            raise Interrupted("later")

        async def first(s):
            await order(s, 1)

        async def second(s):
            await order(s, 2)
        with self.assertRaises(Interrupted):
            await saga.run("order", key, None, first)
        with self.assertRaises(IdempotencyConflict) as raised:
            await saga.run("order", key, None, second)
        self.assertTrue(raised.exception.hint)
        with self.assertRaises(IdempotencyConflict):
            await saga.run("order", key, {"another": "input"}, second)
        self.assertEqual(state(id_of(key)), "running")

    async def test_an_unfinished_step_is_not_completed(self, saga):
        async def order(s):
            async def fails(_):
                raise ValueError("no")
            try:
                await s.call("a", fails)
            except ValueError:
                pass
            return 1
        key = new_key()
        with self.assertRaises(InvalidSagaState):
            await saga.run("order", key, None, order)
        self.assertEqual(state(id_of(key)), "running")

    async def test_lost_connections(self, saga):
        """Killed in the work, at its end, and with an error that the function wraps."""
        key = new_key()
        tries = []

        async def order(s):
            async def first(c, _):
                tries.append("a")
                await c.execute("INSERT INTO work VALUES (%s, 'a')", (key,))
                if len(tries) == 1:
                    kill_session(c)
                    await c.execute("SELECT 1")

            async def second(c, _):
                tries.append("b")
                await c.execute("INSERT INTO work VALUES (%s, 'b')", (key,))
                if len(tries) == 3:
                    kill_session(c)

            async def third(c, _):
                tries.append("c")
                await c.execute("INSERT INTO work VALUES (%s, 'c')", (key,))
                if len(tries) == 5:
                    kill_session(c)
                    try:
                        await c.execute("SELECT 1")
                    except psycopg.Error as e:
                        raise ValueError("something") from e
            await s.tx("a", first, undo=UNDO)
            await s.tx("b", second, undo=UNDO)
            await s.tx("c", third, undo=UNDO)

            async def effect(_):
                sql("SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity"
                    " WHERE usename = current_user AND pid <> pg_backend_pid() AND backend_type = 'client backend'")
                return "done"
            return await s.call("d", effect)
        self.assertEqual(await saga.run("order", key, None, order), "done")
        self.assertEqual(tries, ["a", "a", "b", "b", "c", "c"])
        self.assertEqual(done(key), ["a", "b", "c"])

    async def test_conflicts_are_repeated(self, saga):
        key = new_key()
        tries = []

        async def order(s):
            async def conflict(c, _):
                tries.append(1)
                await c.execute("INSERT INTO work VALUES (%s, 'a')", (key,))
                if len(tries) < 3:
                    await c.execute("DO $$ BEGIN RAISE EXCEPTION 'conflict' USING ERRCODE = '%s'; END $$"
                                    % ("40001" if len(tries) == 1 else "40P01"))
            await s.tx("a", conflict)
        await saga.run("order", key, None, order)
        self.assertEqual((len(tries), done(key)), (3, ["a"]))

    async def test_for_ever_in_conflict(self, saga):
        key = new_key()
        core, pauses = pg_saga._calls, pg_saga._calls.PAUSES

        async def order(s):
            async def conflict(c, _):
                await c.execute("DO $$ BEGIN RAISE EXCEPTION 'conflict' USING ERRCODE = '40001'; END $$")
            try:
                await s.tx("a", conflict)
            except Interrupted:
                pass
        core.PAUSES = [0.001] * 7
        try:
            with self.assertRaises(Interrupted):
                await saga.run("order", key, None, order)
        finally:
            core.PAUSES = pauses
        self.assertEqual(state(id_of(key)), "running")

    async def test_values_come_back_as_they_are_stored(self, saga):
        values = [[], {}, [1, [2, None]], 0, False, "", "text", 2 ** 60, 1.5, 1e22, {"a": [{"b": None}]}, (1, 2), {1: 2}]
        for value in values:
            key = new_key()
            seen = []

            async def order(s):
                async def output(*_):
                    return value
                a = await s.tx("a", output, args=value)
                b = await s.call("b", output, args=value)
                seen.append([a, b])
                if len(seen) == 1:
                    raise Interrupted()
                return value
            with self.assertRaises(Interrupted):
                await saga.run("order", key, value, order)
            result = await saga.run("order", key, value, order)
            self.assertEqual(seen[0], seen[1])
            self.assertEqual(result, seen[0][0])
            self.assertEqual([type(v) for v in seen[0]], [type(v) for v in seen[1]])
            self.assertEqual(await saga.run("order", key, value, order), result)

    async def test_nothing_and_a_cursor_are_no_output(self, saga):
        key = new_key()

        async def order(s):
            async def cursor(c, _):
                return await c.execute("SELECT 1")
            return [await s.tx("a", cursor), await s.tx("b", work(key, "b"))]
        self.assertEqual(await saga.run("order", key, None, order), [None, None])

    async def test_what_is_no_json(self, saga):
        for value in (object(), float("nan")):
            key = new_key()

            async def order(s):
                async def output(*_):
                    return value
                await s.call("a", output, undo=UNDO)
            with self.assertRaises((TypeError, ValueError)):
                await saga.run("order", key, None, order)
            wait_state(id_of(key), "compensated")

    async def test_retries_of_a_call(self, saga):
        tries = []

        async def order(s):
            async def effect(key):
                tries.append(key)
                if len(tries) < 3:
                    raise ValueError(f"no answer {len(tries)}")
                return "answer"
            return await s.call("a", effect, retry={"max_attempts": 5, "delay": "10 ms", "backoff": "constant"})
        key = new_key()
        self.assertEqual(await saga.run("order", key, None, order), "answer")
        self.assertEqual((len(tries), len(set(tries))), (3, 1))
        self.assertEqual(sql("SELECT outcome, error FROM saga.attempts WHERE saga_id = %s ORDER BY attempt", id_of(key)),
                         [("failed", "ValueError: no answer 1"), ("failed", "ValueError: no answer 2"), ("succeeded", None)])

    async def test_retries_end(self, saga):
        for error, attempts in (ValueError("no answer"), 2), (DoNotRetry("refused"), 1):
            tries = []

            async def order(s):
                async def effect(_):
                    tries.append(1)
                    raise error
                await s.call("a", effect, retry={"max_attempts": 2, "delay": "10 ms"})
            key = new_key()
            with self.assertRaises(type(error)):
                await saga.run("order", key, None, order)
            self.assertEqual((len(tries), columns(key, "status, attempts")), (attempts, [("failed", attempts)]))
            self.assertEqual(state(id_of(key)), "compensated")

    async def test_steps_that_saga_runs(self, saga):
        key = new_key()

        async def order(s):
            await s.step("count", action="SELECT 40 + 2", compensation=UNDO)
            step = await s.wait("count")
            self.assertEqual((step.status, step.output), ("completed", 42))
            paid = await s.step("paid", signals=["paid", "canceled"], timeout=timedelta(hours=1))
            self.assertEqual((paid.status, paid.known), ("waiting", False))
            self.assertEqual((await s.wait("paid", timeout=0.01)).status, "waiting")
            await saga.signal(s.id, "paid", {"amount": 70})
            self.assertEqual((await s.wait("paid", timeout=timedelta(minutes=1))).output,
                             {"signal": "paid", "payload": {"amount": 70}})
            await s.step("ask", approval="send it?", after=[])
            self.assertEqual((await s.wait("ask")).status, "waiting")          # for a person
            sql("SELECT saga.resolve(%s, 'ask', 'approve', 'fine')", s.id)
            self.assertEqual((await s.wait("ask")).status, "completed")
            await s.step("bad", action="SELECT 1 / 0", retry={"max_attempts": 1}, on_failure="skip")
            bad = await s.wait("bad")
            self.assertEqual((bad.status, bad.error), ("failed", "division by zero"))
        await saga.run("order", key, None, order, ignore_failed=True)

    async def test_sealed(self, saga):
        async def order(s, action):
            await s.step("a", action=action, retry={"max_attempts": 1})

        async def good(s):
            await order(s, "SELECT 'the result'")

        async def bad(s):
            await order(s, "SELECT 1 / 0")
        key = new_key()
        self.assertEqual(await saga.run("order", key, None, good, when_done=True), "the result")
        self.assertEqual(await saga.run("order", key, None, good, when_done=True), "the result")
        with self.assertRaises(SagaFailing) as raised:
            await saga.run("order", new_key(), None, bad, when_done=True)
        self.assertEqual(raised.exception.reason, "division by zero")

    async def test_a_step_of_saga_is_not_ours(self, saga):
        async def order(s):
            await s.step("a", signals=["never"])
            await s.tx("a", work("x", "x"))
        with self.assertRaisesRegex(UsageError, "saga runs itself"):
            await saga.run("order", new_key(), None, order)

        async def nothing(s):
            try:
                await s.step("a", compensation=UNDO)
            except UsageError:
                pass
        with self.assertRaisesRegex(UsageError, "neither work nor gate"):
            await saga.run("order", new_key(), None, nothing)

    async def test_back_to_a_savepoint(self, saga):
        key = new_key()

        async def order(s, again):
            await s.tx("a", work(key, "a"), undo=UNDO)
            await s.tx("b", work(key, "b"), undo="SELECT pg_sleep(0.2);" + UNDO)
            if not again:
                raise Interrupted()

        async def first(s):
            await order(s, False)

        async def second(s):
            await order(s, True)
        with self.assertRaises(Interrupted):
            await saga.run("order", key, None, first)
        sql("SELECT saga.rollback_to(%s, 'a', 'b was bad')", id_of(key))
        await saga.run("order", key, None, second)
        self.assertEqual((done(key), undone(key)), (["a", "b", "b"], ["b"]))

    async def test_owner(self, saga):
        key = new_key()

        async def order(s):
            self.assertEqual(one("SELECT owner::text FROM saga.sagas WHERE id = %s", s.id), "shop_sagas")
            await s.tx("a", work(key, "a"), undo=UNDO)
            self.assertEqual(columns(key, "run_as::text"), [("shop",)])
            raise ValueError("back")
        with self.assertRaises(ValueError):
            await saga.run("order", key, None, order, owner="shop_sagas")
        wait_state(id_of(key), "compensated")

    async def test_options(self, saga):
        key = new_key()

        async def order(s):
            with self.assertRaisesRegex(TypeError, "unknown option: compensate"):
                await s.tx("a", work(key, "a"), compensate="x")
            with self.assertRaisesRegex(TypeError, "unknown option: action"):
                await s.call("a", work(key, "a"), action="x")
            with self.assertRaisesRegex(TypeError, "undo and compensation"):
                await s.tx("a", work(key, "a"), undo="x", compensation="y")
            await s.tx("a", work(key, "a"), idempotency_key="a 1", kind="pivot", undo=UNDO,
                       compensation_retry={"max_attempts": 3, "timeout": "1 minute"})
        await saga.run("order", key, None, order, timeout="1 day", subject="customer-1")
        self.assertEqual(columns(key, "name, key, kind, (compensation_retry).max_attempts"), [("a", "a 1", "pivot", 3)])
        self.assertEqual(one("SELECT subject FROM saga.sagas WHERE id = %s", id_of(key)), "customer-1")
        with self.assertRaisesRegex(TypeError, "unknown option: time_out"):
            await saga.run("order", key, None, order, time_out="1 day")
        with self.assertRaises(UsageError):
            await saga.run("order", None, None, order)

    async def test_beside_a_run(self, saga):
        self.assertEqual(await saga.sql("find", name="order", idempotency_key=new_key()), [{"find": None}])
        (row,) = await saga.sql("begin", name="order", idempotency_key=new_key(), input=[1, 2])
        self.assertEqual(await saga.wait(row["begin"], timeout=0.01), "running")
        self.assertEqual(await saga.signal(str(row["begin"]), "a", idempotency_key="b"), "running")
        self.assertEqual(await saga.signal(row["begin"], "a", idempotency_key="b"), "running")
        self.assertEqual(one("SELECT count(*) FROM saga.signals WHERE saga_id = %s", row["begin"]), 1)
        self.assertEqual(await saga.wait(row["begin"], timeout=1, until="running"), "running")
        with self.assertRaises(SagaNotFound):
            await saga.wait("00000000-0000-7000-8000-000000000000")


RunsBlocking, RunsAsyncio = both(Runs)


class FakePool:
    """Hands out one connection, which somebody left in a transaction."""

    conninfo, kwargs = "", {}

    def __init__(self, c):
        self.c = c

    def connection(self):
        return self

    def __enter__(self):
        return self.c

    def __exit__(self, *_):
        pass


class Connections(unittest.TestCase):
    def test_not_a_connection(self):
        with psycopg.connect("") as c, self.assertRaises(UsageError):
            Saga(c)

    def test_a_pool(self):
        with psycopg.connect("") as c:
            saga = Saga(FakePool(c))
            key = new_key()
            self.assertEqual(saga.run("order", key, None, lambda s: s.tx("a", lambda c, _: 1)), 1)
            self.assertEqual(state(id_of(key)), "completed")
            c.execute("SELECT 1")
            with self.assertRaises(UsageError):
                saga.run("order", new_key(), None, lambda s: None)

    def test_pools_of_psycopg(self):
        try:
            from psycopg_pool import AsyncConnectionPool, ConnectionPool
        except ImportError:
            self.skipTest("no psycopg_pool")
        key = new_key()
        with ConnectionPool("", min_size=1, max_size=2) as pool:
            saga = Saga(pool)
            self.assertEqual(saga.run("order", key, None, lambda s: s.tx("a", lambda c, _: 1)), 1)
            # It listens on a connection beside the pool.
            with saga.service(new_key("channel"), print):
                wait_until("SELECT EXISTS (SELECT FROM pg_stat_activity WHERE query LIKE 'LISTEN%' AND usename = current_user)")

        async def main():
            async with AsyncConnectionPool("", min_size=1, max_size=2) as pool:
                async def work(c, _):
                    kill_session(c)
                    return 2
                saga = pg_saga.AsyncSaga(pool)
                pauses, pg_saga._calls.PAUSES = pg_saga._calls.PAUSES, [0.001]
                try:
                    with self.assertRaises(Interrupted):
                        await saga.run("order", key + " async", None, lambda s: s.tx("a", work))
                finally:
                    pg_saga._calls.PAUSES = pauses
                return await saga.run("order", key + " async", None, lambda s: s.tx("a", lambda c, _: 2))
        self.assertEqual(asyncio.run(main()), 2)

    def test_errors_are_classes_for_all_of_psycopg(self):
        for code, error in {f"SG{n:03}": e for n, e in enumerate((
                pg_saga.SagaNotFound, pg_saga.InvalidSagaState, pg_saga.IdempotencyConflict, pg_saga.StepNotFound,
                pg_saga.SagaFailing, pg_saga.DoNotRetry, pg_saga.RetryLater, pg_saga.SagaUnavailable,
                pg_saga.LimitExceeded, pg_saga.PermissionDenied), 1)}.items():
            with self.assertRaises(error) as raised:
                sql("DO $$ BEGIN RAISE EXCEPTION 'no' USING ERRCODE = '%s', HINT = 'yes', DETAIL = 'why'; END $$" % code)
            self.assertEqual((raised.exception.sqlstate, raised.exception.hint, raised.exception.detail), (code, "yes", "why"))
            self.assertIsInstance(raised.exception, SagaError)

    def test_no_server(self):
        pauses, pg_saga._calls.PAUSES = pg_saga._calls.PAUSES, [0.001]
        try:
            with self.assertRaises(Interrupted):
                Saga("host=/nowhere").run("order", "x", None, print)
        finally:
            pg_saga._calls.PAUSES = pauses

    def test_a_restart_costs_one_repetition(self):
        """However many connections are kept, all of which are lost with the server."""
        saga = Saga(application_name="restarted")
        meet = threading.Barrier(9)

        def order(s):
            s.tx("a", lambda c, _: (c.execute("SELECT 1"), meet.wait(TIMEOUT))[1])
        threads = [in_thread(lambda: saga.run("order", new_key(), None, order)) for _ in range(9)]
        for thread in threads:
            thread.join()
        kept = "FROM pg_stat_activity WHERE application_name = 'restarted'"
        self.assertEqual(one("SELECT count(*) " + kept), 9)
        sql("SELECT count(pg_terminate_backend(pid, 10000)) " + kept)
        pauses, pg_saga._calls.PAUSES = pg_saga._calls.PAUSES, [0.01]
        try:
            saga.run("order", new_key(), None, lambda s: None)
        finally:
            pg_saga._calls.PAUSES = pauses
        saga.close()
        wait_until(f"SELECT NOT EXISTS (SELECT {kept})")

    def test_calls_side_by_side(self):
        """Each takes a connection of its own."""
        async def order(s):
            meet = asyncio.Event()

            async def first(_):
                await meet.wait()
                return 1

            async def second(_):
                meet.set()
                return 2
            return await asyncio.gather(s.call("a", first), s.call("b", second))

        async def main():
            async with pg_saga.AsyncSaga() as saga:
                return await saga.run("order", new_key(), None, order)
        self.assertEqual(asyncio.run(main()), [1, 2])


if __name__ == "__main__":
    unittest.main()
