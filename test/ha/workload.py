#!/usr/bin/env python3
"""Applications and services that go on through failovers, and write down what they know.

usage: workload.py FOLDER [SEED]     python 3.9, psycopg 3.1 or later

PG* say where the servers are; libpq finds the primary (target_session_attrs).

FOLDER/acknowledged gets a line of JSON for each call that was acknowledged: what, the
saga, the step's key, a value, and the timeline and insert position of the WAL after
its commit.  What is not there after a failover must have come after the point where
the new timeline began.  FOLDER/outside gets one for each effect of a service outside,
with the key under which it was done.  FOLDER/trouble: what was refused.

A first SIGTERM: no new operations, but those that were begun are brought to their
end.  A second one: the services end, too.

An operation is a function that is repeated as a whole under its key, as an application
does that does not know how far it came, whether a connection was lost or a
transaction.
"""
import json
import random
import signal
import sys
import threading
import time

import psycopg
from psycopg import sql

FOLDER = sys.argv[1]
SEED = int(sys.argv[2]) if len(sys.argv) > 2 else 1
CLIENTS = 6
SERVICES = 2
LEASE = "3 seconds"

stopping = threading.Event()        # no new operations
over = threading.Event()            # nothing at all
lock = threading.Lock()
acknowledged, outside, trouble = (
    open(f"{FOLDER}/{name}", "a", buffering=1) for name in ("acknowledged", "outside", "trouble"))


def write(file, **line):
    with lock:
        file.write(json.dumps(line) + "\n")


class Refused(Exception):
    """The server says no, and would again."""


class Session:
    """A connection that comes back, to whoever is the primary then."""

    def __init__(self):
        self.db = None

    def close(self):
        if self.db is not None:
            self.db.close()
        self.db = None

    def run(self, query, **values):
        """One statement in a transaction of its own: its row, and where the WAL was after
        the commit.  Repeated for as long as nobody knows whether it was done."""
        text = sql.SQL("BEGIN; {}; COMMIT; SELECT pg_current_wal_insert_lsn()::text,"
                       " substr(pg_walfile_name(pg_current_wal_insert_lsn()), 1, 8)").format(
            sql.SQL(query).format(**{name: sql.Literal(value) for name, value in values.items()}))
        while True:
            try:
                if self.db is None:
                    self.db = psycopg.connect(autocommit=True)
                cursor = self.db.execute(text)
                results = []
                while True:
                    results.append(cursor.fetchall() if cursor.description else None)
                    if not cursor.nextset():
                        break
                return results[1][0], dict(zip(("lsn", "timeline"), results[3][0]))
            except psycopg.Error as e:
                self.close()
                state = e.sqlstate or ""
                if state[:2] == "SG" and state != "SG008":
                    raise Refused(f"{state} {e}")
                # Lost, shut down, starting up, a standby, in the way of somebody
                if state[:2] not in ("", "08", "57", "25", "40", "55", "53", "SG"):
                    write(trouble, state=state, error=str(e), query=query)
                    raise
                if state and state not in ("57P01", "57P02", "57P03", "25006"):
                    write(trouble, state=state, error=str(e))
                time.sleep(0.05)


def ignore_late(refused):
    """The undo has begun, or all is over: there is nothing more to call."""
    if not str(refused).startswith(("SG005", "SG002")):
        raise refused


class Client(threading.Thread):
    ACT = "action => 'SELECT {}witness.act($1)', compensation => 'SELECT witness.undo($1)'"
    # Work in the same transaction as its step
    DONE = """WITH s AS (SELECT * FROM saga.step({saga}, {key}, completed => true, compensation => 'SELECT witness.undo($1)')),
        d AS (INSERT INTO done SELECT {saga}::uuid, {key} FROM s WHERE NOT known) SELECT known FROM s"""

    def __init__(self, number):
        super().__init__(name=f"client {number}")
        self.number = number
        self.random = random.Random(SEED * 1000 + number)
        self.session = Session()

    def call(self, what, saga, key, query, value=None, **values):
        row, position = self.session.run(query, saga=saga, key=key, **values)
        write(acknowledged, what=what, saga=saga or row[0], key=key, value=value, **position)
        return row

    def step(self, saga, key, how, **values):
        return self.call("step", saga, key, "SELECT status FROM saga.step({saga}, {key}, " + how + ")", **values)[0]

    def run(self):
        n = 0
        while not stopping.is_set():
            n += 1
            operation = self.random.choice((self.plain, self.plain, self.runs, self.runs, self.runs, self.forgets))
            fails = self.random.random() < 0.5
            name = f"{self.number}-{n}"
            for _ in range(100):
                try:
                    if operation(name, fails, n % 2 == 0):
                        break
                except Refused as e:
                    write(trouble, operation=name, refused=str(e))
                    time.sleep(0.2)
            else:
                write(trouble, operation=name, stuck=True)
            time.sleep(self.random.random() / 20)

    def begin(self, kind, name, timeout="0"):
        return self.call("begin", None, name, "SELECT saga.begin({kind}, {key}, timeout => {timeout})::text",
                         kind=kind, timeout=timeout)[0]

    def rest(self, saga):
        """Is it at its end?  What saga.wait has returned must hold."""
        state = self.session.run("SELECT saga.wait({saga}, '5 s')", saga=saga)[0][0]
        if state not in ("completed", "compensated"):
            return False
        (state, finished), position = self.session.run(
            "SELECT state, extract(epoch FROM finished_at)::text FROM saga.sagas WHERE id = {saga}", saga=saga)
        write(acknowledged, what="wait", saga=saga, key=state, value=finished, **position)
        return True

    def plain(self, name, fails, _):
        """The application does the work."""
        saga = self.begin("plain", name)
        try:
            self.call("step", saga, "a", self.DONE)
            if self.step(saga, "b", "compensation => 'SELECT witness.undo($1)'") != "completed":
                self.call("complete_step", saga, "b", "SELECT saga.complete_step({saga}, {key}, {output})",
                          value='{"b": 1}', output='{"b": 1}')
            self.call("step", saga, "c", self.DONE)
        except Refused as e:
            ignore_late(e)
        if fails:
            self.call("fail", saga, None, "SELECT saga.fail({saga}, 'in vain')")
        else:
            self.call("complete", saga, None, "SELECT saga.complete({saga})")
        return self.rest(saga)

    def forgets(self, name, fails, _):
        """Its deadline ends it."""
        saga = self.begin("forgets", name, "1 s")
        try:
            self.call("step", saga, "a", self.DONE)
        except Refused as e:
            ignore_late(e)
        return True

    def runs(self, name, fails, early):
        """The server does the work, with a service, a timer and a signal."""
        saga = self.begin("runs", name)
        try:
            if early:
                self.signal(saga)
            self.step(saga, "charge", self.ACT.format(""))
            self.step(saga, "ship", "task => 'ship', notify => 'ship'")
            self.step(saga, "timer", "delay => '300 ms'")
            self.step(saga, "signal", "signals => '{{go}}'")
            self.step(saga, "last", "args => {args}, "
                      + self.ACT.format("saga.require(($1->''args''->>''good'')::boolean, ''no good''); SELECT "),
                      args=json.dumps({"good": not fails}))
            self.call("seal", saga, None, "SELECT saga.complete({saga}, when_done => true)")
            if not early:
                self.signal(saga)
        except Refused as e:
            ignore_late(e)
        return self.rest(saga)

    def signal(self, saga):
        self.call("signal", saga, "go", "SELECT saga.signal({saga}, 'go', '1', {key})")


class Service(threading.Thread):
    """Ships, and takes back what was shipped, and says under which key."""

    def __init__(self, number):
        super().__init__(name=f"service {number}", daemon=True)
        self.session = Session()

    def run(self):
        while not over.is_set():
            try:
                (tasks,), _ = self.session.run(
                    "SELECT coalesce(json_agg(t), '[]') FROM saga.claim_tasks('ship', 3, {lease}, {me}) t",
                    lease=LEASE, me=self.name)
                for task in tasks:
                    write(outside, key=task["task_key"], phase=task["phase"], saga=task["saga_id"], seq=task["seq"])
                    _, position = self.session.run("SELECT saga.complete_task({key})", key=task["task_key"])
                    write(acknowledged, what="complete_task", saga=task["saga_id"], key=task["task_key"],
                          value=task["phase"], **position)
                if not tasks:
                    over.wait(0.05)
            except Refused as e:
                write(trouble, service=self.name, refused=str(e))


signal.signal(signal.SIGTERM, lambda *_: stopping.set())
clients = [Client(i + 1) for i in range(CLIENTS)]
services = [Service(i + 1) for i in range(SERVICES)]
for thread in clients + services:
    thread.start()
while any(client.is_alive() for client in clients):
    time.sleep(0.1)
# What is left to undo needs the services.
signal.signal(signal.SIGTERM, lambda *_: over.set())
print("the clients are done", flush=True)
while not over.is_set():
    time.sleep(0.1)
for thread in services:
    thread.join(5)
