#!/usr/bin/env python3
"""Every pair of calls that can meet on one saga, in every situation.

    pairs.py [--share PERCENT] [--seed N] [--only SITUATION] [--first CALL] [--second CALL]

Two sessions make a call each on one saga: the first in a transaction that
stays open, the second while it does.  However they meet, it must be as if one
had come behind the other:

  committed   the first one's transaction is committed then: answers and ledger
              are those of one order or the other
  taken back  it is rolled back: they are those of the second call alone
  before      the second one's snapshot was taken (REPEATABLE READ) before the
              first call was committed: those of the first order, or 40001
  crosswise   where the second call waits, the first one's transaction makes another
              call, by chance: it does not wait for the second, so nobody gets 40P01.
              Where it does not wait, both transactions make another call: nobody
              gets 40P01 unless each of these, where it comes alone, waits for what
              the other transaction did first

A claim may as well find nothing: it passes by what somebody is at work on.
The order in which things are done one behind the other is the oracle, so
nothing here says what a call should answer.  What calls answer by themselves is
tested elsewhere; that they never answer something else because they met, here.
In the same way each call meets the worker's turn, held behind its first write.

The worker stands still at a fault point meanwhile, so that nobody else is at
work on the sagas.  Needs the test build, and the environment of libpq.
"""

import argparse
import random
import re
import select
import sys
import time

import psycopg
from psycopg import pq

HERE = __file__.rsplit("/", 1)[0]
UUID = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")
TIME = re.compile(r"\d+-\d+-\d+ \d+:\d+:\d+(\.\d+)?([+-]\d+)?")

SITUATIONS = [
    "running", "running with deadline", "a step waits", "sealed", "to approve", "timed out", "task waits", "task claimed",
    "signal awaited", "behind a pivot", "paused", "paused while failing",
    "dispatched", "claimed", "given up", "waiting", "partial", "partial claimed", "partial with deadline",
    "asked", "refused", "pivot failed", "completed", "compensated", "abandoned",
]
FINISHED = ("completed", "compensated", "abandoned")

CALLS = {
    "begin": "saga.begin('pair', '{key}', input => '1', announce => 'pairs'{timeout})",
    "begin about another": "saga.begin('pair', '{key}', input => '1', subject => 'somebody'{timeout})",
    "begin with other input": "saga.begin('pair', '{key}', input => '2'{timeout})",
    "step that is new": "saga.step('{s}', 'n', compensation => 'SELECT pairs.undo($1)')",
    "another step that is new": "saga.step('{s}', 'm', output => '1', compensation => 'SELECT pairs.undo($1)')",
    "step that waits": "saga.step('{s}', 'g', after => '{{b}}', delay => '1 hour', action => 'SELECT 2', "
                       "compensation => 'SELECT pairs.undo($1)')",
    "step that is known": "saga.step('{s}', 'a', compensation => 'SELECT pairs.undo($1)')",
    "complete_step": "saga.complete_step('{s}', 'b', '\"done\"')",
    "complete_step with other output": "saga.complete_step('{s}', 'b', '\"other\"')",
    "late result": "saga.complete_step('{s}', 'b', '\"late\"', late => 'record')",
    "fail_step": "saga.fail_step('{s}', 'b', 'not now')",
    "complete": "saga.complete('{s}')",
    "complete, whatever failed": "saga.complete('{s}', '\"result\"', ignore_failed => true)",
    "seal": "saga.complete('{s}', when_done => true)",
    "fail": "saga.fail('{s}', 'in vain')",
    "cancel": "saga.cancel('{s}', 'not wanted')",
    "claim": "saga.claim_compensations(pairs.channel('{s}'), 1, '1 minute', 'c')",
    "extend_claim": "saga.extend_claim(pairs.handle('{s}'), 1, '8 minutes') > now()",
    "complete_compensation": "saga.complete_compensation(pairs.handle('{s}'), '\"refunded\"')",
    "fail_compensation": "saga.fail_compensation(pairs.handle('{s}'), 1, 'down', retry_after => '1 hour')",
    "fail_compensation for good": "saga.fail_compensation(pairs.handle('{s}'), 1, 'never', retryable => false)",
    "resolve retry": "saga.resolve('{s}', {asked}, 'retry', 'mended')",
    "resolve done": "saga.resolve('{s}', {asked}, 'done', 'by hand')",
    "resolve skip": "saga.resolve('{s}', {asked}, 'skip', 'not needed')",
    "resolve approve": "saga.resolve('{s}', {asked}, 'approve', 'it may')",
    "resolve refuse": "saga.resolve('{s}', {asked}, 'refuse', 'it may not')",
    "signal": "saga.signal('{s}', 'go', '1', 'first')",
    "signal with other payload": "saga.signal('{s}', 'go', '2', 'first', late => 'record')",
    "claim a task": "saga.claim_tasks(pairs.channel('{s}'), 1, '1 minute', 'c')",
    "extend_claim of a task": "saga.extend_claim(pairs.task('{s}'), 1, '8 minutes') > now()",
    "complete_task": "saga.complete_task(pairs.task('{s}'), '\"done\"')",
    "fail_task": "saga.fail_task(pairs.task('{s}'), 1, 'down', retry_after => '1 hour')",
    "fail_task for good": "saga.fail_task(pairs.task('{s}'), 1, 'never', retryable => false)",
    "set_timeout": "saga.set_timeout('{s}', '20 minutes', 'later') > now()",
    "set_timeout to none": "saga.set_timeout('{s}', '0')",
    "amend the SQL": "saga.amend('{s}', 'b', 'mended', compensation => 'SELECT pairs.undo($1), 1')",
    "amend the SQL otherwise": "saga.amend('{s}', 'b', 'mended', notify => 'pairs else', "
                               "compensation_retry => saga.retry_policy(2))",
    "amend the listener": "saga.amend('{s}', 'l', 'mended', notify => 'pairs else')",
    "amend the listener otherwise": "saga.amend('{s}', 'l', 'mended', compensation => 'SELECT pairs.undo($1)')",
    "abandon": "saga.abandon('{s}', 'enough')",
    "reopen": "saga.reopen('{s}', 'forward')",
    "rollback_to": "saga.rollback_to('{s}', 'a', 'once more')",
    "rollback_to the start": "saga.rollback_to('{s}', NULL, 'all of it')",
    "pause": "saga.pause('{s}', 'stop')",
    "resume": "saga.resume('{s}', 'go')",
    "redact": "saga.redact('{s}')",
    "purge": "saga.purge('0') IS NOT NULL",
    "wait": "saga.wait('{s}', '0')",
    "wait_step": "saga.wait_step('{s}', 'b', '0')",
    "output": "saga.output('a', '{s}')",
}
CLAIMS = ("claim", "claim a task")
WAITS = ("wait", "wait_step")
# The worker's turn on a saga meets a call in these: what is due there, and the
# call that makes it due where the situation does not.
TURNS = {
    "a failure": ("running", "fail"),
    "a failure behind a pivot": ("behind a pivot", "fail"),
    "a rollback": ("running", "rollback_to"),
    "a report": ("claimed", "fail_compensation for good"),
    "a resumed undo": ("paused while failing", "resume"),
}


class Session:
    """A connection whose calls can be waited for or not."""

    def __init__(self):
        self.conn = psycopg.connect("", autocommit=True)
        self.pg = self.conn.pgconn
        self.pid = self.pg.backend_pid

    def send(self, sql):
        self.pg.send_query(sql.encode())

    def ready(self, seconds):
        """Has the answer come?"""
        if self.pg.is_busy():
            if not select.select([self.pg.socket], [], [], seconds)[0]:
                return False
            self.pg.consume_input()
        return not self.pg.is_busy()

    def answer(self):
        """The last result of what was sent, as a text without ids and times."""
        said = None
        while True:
            result = self.pg.get_result()
            if result is None:
                break
            if result.status == pq.ExecStatus.FATAL_ERROR:
                said = "{} {}".format(
                    (result.error_field(pq.DiagnosticField.SQLSTATE) or b"").decode(),
                    (result.error_field(pq.DiagnosticField.MESSAGE_PRIMARY) or b"").decode())
            elif result.status == pq.ExecStatus.TUPLES_OK:
                said = "; ".join(
                    " ".join("-" if (v := result.get_value(r, c)) is None else v.decode()
                             for c in range(result.nfields))
                    for r in range(result.ntuples)) or "nothing"
        return said and TIME.sub("TIME", UUID.sub("ID", said))

    def do(self, sql):
        self.send(sql)
        until(lambda: self.ready(60))
        return self.answer()

    def one(self, sql):
        return self.conn.execute(sql).fetchone()[0]


class Server:
    def __init__(self):
        self.first, self.second, self.look, self.told = (Session() for _ in range(4))
        for session in (self.first, self.second, self.look):
            session.do("SET saga.test_faults = ''")
            session.do("SET deadlock_timeout = '20ms'")

    def faults(self, faults):
        """Sets fault points for saga's processes, which learn of it like any other."""
        self.look.do(f"ALTER SYSTEM SET saga.test_faults = '{faults}'")
        self.look.do("SELECT pg_reload_conf()")
        until(lambda: self.told.one("SHOW saga.test_faults") == faults)

    def halt(self):
        self.faults("worker.before_turn=wait")

    def let_go(self):
        self.faults("")

    def waits(self, session, sql):
        """Sends a call; does it wait for another session?"""
        session.send(sql)
        while not session.ready(0.002):
            if self.blocked(session):
                return True
        return False

    def blocked(self, session):
        return self.look.one(f"SELECT pg_blocking_pids({session.pid}) <> '{{}}'")


def until(condition, seconds=180):
    end = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > end:
            raise SystemExit(f"timed out waiting for {condition.__doc__ or 'a condition'}")
        time.sleep(0.005)


class Situation:
    """Sagas that all stand at the same point, to be used up one by one."""

    def __init__(self, server, name):
        self.server, self.name, self.sagas = server, name, []

    def take(self, purged=False):
        """The next saga; what is purged takes all that are over with it."""
        if purged:
            self.server.look.do("SELECT saga.purge('0')")
        if not self.sagas or purged and self.name in FINISHED:
            self.fill(1)
        return self.sagas.pop()

    def fill(self, count):
        look = self.server.look
        self.server.let_go()
        ids = [row[0] for row in look.conn.execute(
            "SELECT pairs.make(%s) FROM generate_series(1, %s)", (self.name, count)).fetchall()]
        left = list(ids)

        def settled():
            nonlocal left
            look.do("BEGIN")
            left = [s for s in left if not look.one(
                f"SELECT pairs.settle('{self.name}', '{s}')")]
            look.do("COMMIT")
            return not left
        until(settled)
        # What it takes the worker to rest
        until(lambda: look.one("""SELECT NOT EXISTS (SELECT FROM saga.ledger_saga
            WHERE state <> 'r' AND NOT paused AND (due <= clock_timestamp() OR to_announce IS NOT NULL))"""))
        self.server.halt()
        rows = look.conn.execute("""SELECT id::text, idempotency_key,
            CASE WHEN deadline IS NULL THEN '' ELSE ', timeout => ''30 minutes''' END,
            quote_literal(coalesce((SELECT step FROM saga.review_queue WHERE saga_id = id LIMIT 1), 'b'))
            FROM saga.sagas WHERE id = ANY (%s)""", (ids,)).fetchall()
        self.sagas = [dict(zip(("s", "key", "timeout", "asked"), row)) for row in rows]


def statement(call, saga):
    """The call, asking for what of its answer is the same for every saga."""
    sql = CALLS[call]
    if "step(" in sql:
        sql = f"step, status, attempt, output, error, retry_at IS NULL FROM {sql}"
    elif "saga.amend(" in sql:
        sql = f"'amended' FROM {sql}"
    elif "claim_compensations(" in sql or "claim_tasks(" in sql:
        sql = f"step, attempt FROM {sql}"
    return f"SELECT {sql}".format(**saga)


def deadlocks(answers):
    """Those of a deadlock, or None."""
    return [a for a in answers if (a or "").startswith("40P01")] or None


class Pairs:
    def __init__(self, server, situation):
        self.server, self.situation = server, situation
        self.orders, self.waits = {}, {}

    def picture(self, saga):
        return self.server.look.one(f"SELECT pairs.picture('{saga['s']}')")

    def alone(self, call):
        """A call that meets nobody: its answer, and what it leaves behind."""
        if (call,) not in self.orders:
            saga = self.situation.take(call == "purge")
            answer = self.server.first.do(statement(call, saga))
            self.orders[(call,)] = (answer, self.picture(saga))
        return self.orders[(call,)]

    def in_order(self, one, two):
        if (one, two) not in self.orders:
            saga = self.situation.take("purge" in (one, two))
            a = self.server.first.do(statement(one, saga))
            b = self.server.second.do(statement(two, saga))
            self.orders[(one, two)] = (a, b, self.picture(saga))
        return self.orders[(one, two)]

    def meet(self, one, two, end):
        """The first call's transaction is open while the second call comes."""
        first, second = self.server.first, self.server.second
        saga = self.situation.take("purge" in (one, two))
        first.do("BEGIN")
        a = first.do(statement(one, saga))
        waited = self.server.waits(second, statement(two, saga))
        first.do(end)
        b = second.answer()
        self.waits[(one, two)] = waited
        return a, b, self.picture(saga), waited

    def waits_for(self, one, two):
        """Does the second call wait for the open transaction of the first?"""
        if (one, two) not in self.waits:
            self.meet(one, two, "ROLLBACK")
        return self.waits[(one, two)]

    def meet_crosswise(self, one, then, two, last):
        """Both transactions make another call, if that can be; what is wrong."""
        first, second, waits = self.server.first, self.server.second, self.server.waits
        saga = self.situation.take()
        first.do("BEGIN")
        second.do("BEGIN")
        first.do(statement(one, saga))
        if waits(second, statement(two, saga)):
            said = [first.do(statement(then, saga)), first.do("COMMIT"), second.answer(), second.do("COMMIT")]
            return deadlocks(said)
        second.answer()
        if waits(first, statement(then, saga)):
            waits(second, statement(last, saga))
        # One of them waits for nobody any more, or the server says so.
        until(lambda: first.ready(0.002) or second.ready(0.002))
        done, left = (first, second) if first.ready(0) else (second, first)
        said = [done.answer(), done.do("COMMIT"), left.answer(), left.do("COMMIT")]
        if deadlocks(said) and self.waits_for(one, last) and self.waits_for(two, then):
            return None
        return deadlocks(said)

    def meet_before(self, one, two):
        """The second call's snapshot is older than the first call."""
        first, second = self.server.first, self.server.second
        saga = self.situation.take("purge" in (one, two))
        second.do("BEGIN ISOLATION LEVEL REPEATABLE READ; SELECT count(*) FROM pairs.undone")
        a = first.do(statement(one, saga))
        b = second.do(statement(two, saga))
        second.do("COMMIT")
        return a, b, self.picture(saga)


def explain(got, wanted):
    """What is different, line by line."""
    lines = []
    for part in range(len(got)):
        g, w = str(got[part]).split("\n"), str(wanted[part]).split("\n")
        lines += [f"    - {x}" for x in w if x not in g] + [f"    + {x}" for x in g if x not in w]
    return lines


class Report:
    def __init__(self):
        self.met = self.waited = self.wrong = 0

    def check(self, what, got, allowed):
        self.met += 1
        if got in allowed:
            return
        self.wrong += 1
        print(f"WRONG {what}")
        for wanted in allowed:
            print("  than one behind the other (-) it was (+):")
            print("\n".join(explain(got, wanted)))

    def wrong_if(self, what, wrong):
        self.met += 1
        if wrong:
            self.wrong += 1
            print(f"WRONG {what}: {wrong}")


def meet_all(server, name, firsts, seconds, share, chance, report):
    situation = Situation(server, name)
    situation.fill(len(firsts) + 1)
    pairs = Pairs(server, situation)
    # Who changes nothing is nobody to meet.
    rest = pairs.picture(situation.sagas[0])
    firsts = [c for c in firsts if pairs.alone(c)[1] != rest]
    chosen = [(one, two) for one in firsts for two in seconds if share()]
    situation.fill(6 * len(chosen) + len(seconds))
    # Last what is purged, with all others that are over.
    for one, two in sorted(chosen, key=lambda pair: "purge" in pair):
        what = f"{name}: {one} | {two}"
        a, b, picture, waited = pairs.meet(one, two, "COMMIT")
        report.waited += waited
        allowed = [pairs.in_order(one, two)]
        if (a, b, picture) != allowed[0]:
            b2, a2, picture2 = pairs.in_order(two, one)
            allowed.append((a2, b2, picture2))
        # A claim passes by what somebody is at work on.
        if two in CLAIMS:
            allowed.append((a, "nothing", pairs.alone(one)[1]))
        report.check(f"{what} | committed", (a, b, picture), allowed)
        a, b, picture, waited = pairs.meet(one, two, "ROLLBACK")
        allowed = [pairs.alone(two)]
        if two in CLAIMS:
            allowed.append(("nothing", rest))
        report.check(f"{what} | taken back", (b, picture), allowed)
        if not {one, two} & set(("purge", *WAITS)):
            then, last = (chance.choice([c for c in CALLS if c not in ("purge", *WAITS)]) for _ in range(2))
            report.wrong_if(f"{what} | crosswise, {then} | {last}", pairs.meet_crosswise(one, then, two, last))
        if two in WAITS:        # refuses such a snapshot
            continue
        got = pairs.meet_before(one, two)
        if not (got[1] or "").startswith("40001"):
            report.check(f"{what} | before", got, [pairs.in_order(one, two)])
    return len(firsts)


def meet_worker(server, what, seconds, report):
    """Each call, while the worker stands behind its first write to the saga."""
    name, due_by = TURNS[what]

    def rest(saga):
        until(lambda: server.look.one(f"""SELECT NOT EXISTS (SELECT FROM saga.ledger_saga
            WHERE id = '{saga['s']}' AND NOT paused AND (due <= clock_timestamp() OR to_announce IS NOT NULL))"""))

    situation = Situation(server, name)
    situation.fill(3 * len(seconds))
    pairs = Pairs(server, situation)
    for two in seconds:
        # One behind the other: the turn first, and last
        outcomes = []
        for turn_first in (True, False):
            saga = situation.take()
            server.first.do(statement(due_by, saga))
            if turn_first:
                server.let_go()
                rest(saga)
                server.halt()
                b = server.second.do(statement(two, saga))
            else:
                b = server.second.do(statement(two, saga))
            server.let_go()
            rest(saga)
            outcomes.append((b, pairs.picture(saga)))
            server.halt()
        # Together
        saga = situation.take()
        server.first.do(statement(due_by, saga))
        server.faults("table.write_1=wait")
        until(lambda: server.look.one(f"""SELECT EXISTS (SELECT FROM pg_locks l JOIN pg_stat_activity USING (pid)
            WHERE backend_type = 'saga worker' AND l.locktype = 'transactionid' AND l.mode = 'ExclusiveLock')"""))
        report.waited += server.waits(server.second, statement(two, saga))
        server.let_go()
        b = server.second.answer()
        rest(saga)
        report.check(f"the worker's turn on {what} | {two}", (b, pairs.picture(saga)), outcomes)
        server.halt()


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--share", type=float, default=100)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--only")
    parser.add_argument("--first")
    parser.add_argument("--second")
    options = parser.parse_args()
    server = Server()
    server.look.conn.execute(open(f"{HERE}/situations.sql").read())
    server.halt()
    report = Report()
    firsts = [c for c in CALLS if options.first in (None, c)]
    seconds = [c for c in CALLS if options.second in (None, c)]
    chance = random.Random(options.seed)

    def share():
        return chance.random() * 100 < options.share
    for name in SITUATIONS:
        if options.only not in (None, name):
            continue
        begun = time.monotonic()
        before = report.met
        count = meet_all(server, name, firsts, seconds, share, chance, report)
        print(f"{name}: {count} calls change something; {report.met - before} meetings, {time.monotonic() - begun:.1f} s", flush=True)
    for what in TURNS:
        if options.only not in (None, "worker", what):
            continue
        begun = time.monotonic()
        before = report.met
        # Each of these takes as long as a hundred of those above.
        meet_worker(server, what, [c for c in seconds if c not in ("purge", *WAITS) and share()], report)
        print(f"the worker's turn on {what}: {report.met - before} meetings, {time.monotonic() - begun:.1f} s", flush=True)
    server.let_go()
    print(f"{report.met} meetings, {report.waited} of them waited, {report.wrong} wrong")
    sys.exit(report.wrong > 0)


main()
