#!/usr/bin/env python3
"""Charges for sagas, and refunds what failed ones have charged: a listener in Python.

usage: listener.py [CHANNEL]        python 3.9, psycopg 3.1 or later

PG* say where the database is (a direct connection: LISTEN needs one),
PAYMENTS_URL where the payment service is.
"""
import json
import logging
import os
import random
import select
import signal
import sys
import time
import urllib.error
import urllib.request

import psycopg
from psycopg.types.json import Jsonb

CHANNEL = sys.argv[1] if len(sys.argv) > 1 else "refunds"
URL = os.environ["PAYMENTS_URL"]
BATCH = 10              # as many claims at once
LEASE = os.environ.get("LEASE", "60") + " seconds"
HEARTBEAT = 30          # look without being woken, every so many seconds
POLL = 2                # where LISTEN does not work
ME = f"python {os.uname().nodename} {os.getpid()}"

logging.basicConfig(format="%(asctime)s %(message)s", level=logging.INFO)
stopping = False


class NotFound(Exception):
    """The service knows nothing of what it is asked about."""


class Refused(Exception):
    """There is no point in trying again."""


class Later(Exception):
    """The service says when to come again."""


def charge(task):
    return ask("/charges", {"cents": task["context"]["args"]["cents"]}, task["task_key"])


def refund(task):
    try:
        return ask("/refunds", {"charge": task["context"]["forward_key"]}, task["task_key"])
    except NotFound:            # never charged: nothing to refund
        return {"refund": None}


DO = {"forward": charge, "compensation": refund}


def ask(path, body, key):
    """The effect.  It may be asked for more than once; the key makes it one."""
    request = urllib.request.Request(URL + path, json.dumps(body).encode(),
                                     {"Content-Type": "application/json", "Idempotency-Key": key})
    try:
        with urllib.request.urlopen(request, timeout=20) as answer:
            return json.load(answer)
    except urllib.error.HTTPError as e:
        if e.code == 404:
            raise NotFound(f"{e.code} {e.reason}")
        if e.headers.get("Retry-After", "").isdigit():
            raise Later(f"{e.code} {e.reason}", e.headers["Retry-After"] + " seconds")
        if 400 <= e.code < 500:
            raise Refused(f"{e.code} {e.read().decode()}")
        raise


def work(db):
    """Claims some tasks and does them.  Answers how many there were."""
    tasks = db.execute(
        "SELECT * FROM saga.claim_tasks(%s, %s, %s, %s)", (CHANNEL, BATCH, LEASE, ME)).fetchall()
    for task in tasks:
        claim = task["task_key"], task["attempt"]
        try:
            # The others of the batch took their time: a full lease for this one.
            db.execute("SELECT saga.extend_claim(%s, %s, %s)", (*claim, LEASE))
        except psycopg.DatabaseError as e:
            if e.sqlstate != "SG002":
                raise
            continue            # too late: it will come again, to whoever claims it
        try:
            output = DO[task["phase"]](task)
        except Later as e:
            fail(db, claim, e.args[0], retry_after=e.args[1])
        except Refused as e:
            fail(db, claim, str(e), retryable=False)
        except Exception as e:
            fail(db, claim, repr(e))
        else:
            db.execute("SELECT saga.complete_task(%s, %s)", (claim[0], Jsonb(output)))
    return len(tasks)


def fail(db, claim, error, retryable=True, retry_after=None):
    db.execute("SELECT saga.fail_task(%s, %s, %s, %s, %s)", (*claim, error, retryable, retry_after))


def connect():
    return psycopg.connect(autocommit=True, row_factory=psycopg.rows.dict_row, application_name=ME,
                           client_encoding="UTF8", prepare_threshold=None)


def hears(db):
    """Does LISTEN work on this connection?  Not where a pooler shares it: then
    what another session notifies never comes."""
    probe = f"probe {ME} {random.random()}"
    db.execute(psycopg.sql.SQL("LISTEN {}").format(psycopg.sql.Identifier(probe)))
    with connect() as other:
        other.execute("SELECT pg_notify(%s, '')", (probe,))
    until = time.monotonic() + 5
    while not stopping and time.monotonic() < until:
        select.select([db.fileno(), wakeup], [], [], 1)
        db.pgconn.consume_input()
        while notify := db.pgconn.notifies():
            if notify.relname.decode() == probe:
                return True
    return False


def serve(db):
    """Never sleeps while there is work: it claims first, and then waits."""
    woken = []
    heartbeat = None
    db.add_notify_handler(woken.append)
    db.execute(psycopg.sql.SQL("LISTEN {}").format(psycopg.sql.Identifier(CHANNEL)))
    logging.info("listening")
    while not stopping:
        woken.clear()
        while work(db) and not stopping:
            pass
        if heartbeat is None:
            heartbeat = HEARTBEAT if hears(db) else POLL
            if heartbeat == POLL and not stopping:
                logging.warning("notifications do not arrive: connect directly, not through a pooler; "
                                "polling every %s s", POLL)
            continue
        # A notification may have come along with an answer.
        if not stopping and not woken and not db.pgconn.notifies():
            select.select([db.fileno(), wakeup], [], [], heartbeat)


def stop(*_):
    global stopping             # what is claimed is done first
    stopping = True


signal.signal(signal.SIGTERM, stop)
signal.signal(signal.SIGINT, stop)
wakeup, end = os.pipe()         # ends the wait when a signal comes
os.set_blocking(end, False)
signal.set_wakeup_fd(end)

pause = 0.1
while not stopping:
    began = time.monotonic()
    try:
        with connect() as db:
            serve(db)
    except psycopg.Error as e:
        logging.warning("%s", str(e).strip())
        pause = 0.1 if time.monotonic() - began > 10 else min(pause * 2, 10)
        select.select([wakeup], [], [], pause * random.uniform(0.5, 1))
logging.info("stopped")
