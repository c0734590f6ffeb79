#!/usr/bin/env python3
"""Replays random histories of calls against the model and a real server, and compares.

usage: replay.py [--seed N] [--histories N] [--slots N] [--connections N] [--look N] [--show N]
       python 3.9, psycopg 3.1 or later; PG* say where the server is: a database that
       has test/model/world.sql, in a server of the test build that does nothing else

Many histories are under way at a time, each a saga of its own.  In a round every
one of them makes a call, or the clock is moved on for all; then what is due is
waited for (model.quiet), and the model does its work.  The answers are compared
each time, all that the views show every few rounds and at the end: they tell the
past, too.  When a history ends, the next one takes its place.

What is called is decided by chance, and by what the model is in: mostly what an
application, a listener or a person would do next, but also calls said twice,
with other content, by the wrong one, and too late.

A history that differs is replayed alone, with fewer and fewer calls as long as it
differs, and printed as SQL.  Exit code: 0, no difference; 1, some; 2, no run.
"""
import argparse
import collections
import concurrent.futures
import json
import random
import sys
import time

import psycopg

import model

KEYS = "abcdef"
UNKNOWN = "unknown"
FINAL = ("completed", "compensated", "abandoned")


# ------------------------------------------------------------------ what is called

class Player:
    """Decides by chance what a history does next.  A call is (name, arguments)."""

    def __init__(self, seed):
        self.rng = random.Random(seed)
        self.saga = None
        self.said = []                  # what may be said again
        self.outputs = 0

    def chance(self, p):
        return self.rng.random() < p

    def pick(self, *weighted):
        choices = [(w, c) for w, c in weighted if w > 0]
        return self.rng.choices([c for _, c in choices], [w for w, _ in choices])[0]

    # ------------------------------------------------ parts of calls

    def begin(self):
        call = ("begin", dict(input=self.rng.choice([None, {"order": 1}]),
                              subject=self.rng.choice([None, None, "customer"]),
                              timeout=self.pick((6, 0), (1, 2), (1, 5), (1, 9)),
                              on_compensation_failure=self.pick((2, "halt"), (1, "continue"))))
        self.said.append(call)
        return call

    def output(self):
        self.outputs += 1
        return self.rng.choice([None, self.outputs, {"n": self.outputs}])

    def policy(self):
        if self.chance(0.4):
            return None
        delay = self.rng.choice([1, 2])
        return dict(max_attempts=self.pick((3, 1), (4, 2), (2, 3)), delay=delay,
                    backoff=self.rng.choice(["constant", "linear", "exponential"]),
                    max_delay=self.rng.choice([delay, 3, 4]), timeout=self.rng.choice([0, 1, 2, 5]))

    def new_step(self, key):
        undo = self.pick((10, "sql"), (5, "notify"), (1, "announce"), (2, None))
        review = "look" if self.chance(0.12) else None
        plan = []
        if undo == "sql" and self.chance(0.4):
            plan = self.rng.choices(["fail", "give up", "later", "conflict", "succeed"], [6, 1, 3, 2, 2],
                                    k=self.rng.randint(1, 4))
        kind = self.pick((12, "compensatable"), (1, "pivot"), (2, "retriable"))
        if self.saga.pivot():
            kind = self.pick((1, "compensatable"), (2, "retriable"))
        how = self.pick((4, "started"), (5, "completed"), (4, "output"))
        return ("step", dict(key=key, undo=undo, review=review, kind=kind, plan=plan,
                             compensate_on="completed" if self.chance(0.15) else "started",
                             output=self.output() if how == "output" else None, completed=how == "completed",
                             retry=self.policy(), compensation_retry=self.policy()))

    def known_step(self, step):
        """The call that recorded a step, said again; perhaps with what is not its content."""
        return ("step", dict(key=step.key, undo=step.undo, review=step.review, kind=step.kind, plan=list(step.plan),
                             compensate_on=self.pick((9, step.compensate_on), (1, "completed")),
                             output=self.output() if self.chance(0.2) else None, completed=self.chance(0.2),
                             retry=self.policy(), compensation_retry=None))

    def other_step(self, step):
        """... with other content."""
        name, args = self.known_step(step)
        what = self.rng.choice(["undo", "plan", "kind", "review"])
        args[what] = {"undo": "notify" if args["undo"] == "sql" else "sql", "plan": args["plan"] + ["fail"],
                      "kind": "retriable" if args["kind"] != "retriable" else "pivot",
                      "review": None if args["review"] else "look"}[what]
        return (name, args)

    def amend(self, step):
        undo = self.pick((4, "sql"), (3, "notify"), (2, None))
        return ("amend", dict(key=step.key, note="mended", undo=undo,
                              compensation_retry=self.policy() if undo is None or self.chance(0.3) else None))

    def report(self, step, late="record"):
        """A result, of an effect outside the database."""
        return ("complete_step", dict(key=step.key, output=self.output(), late=late,
                                      run=self.pick((6, None), (2, step.run), (1, 1))))

    def claim(self):
        return ("claim", dict(lease=self.rng.choice([1, 2, 4]), consumer=self.rng.choice(["one", "two"])))

    def compensation_report(self, step, attempt=None):
        attempt = attempt or len(step.attempts) + 1
        return self.pick(
            (6, ("complete_compensation", dict(key=step.key, run=step.run, output=self.output()))),
            (5, ("fail_compensation", dict(key=step.key, run=step.run, attempt=attempt,
                                           retryable=not self.chance(0.2),
                                           retry_after=self.pick((4, None), (1, 0), (1, 3))))),
            (2, ("extend_claim", dict(key=step.key, run=step.run, attempt=attempt, lease=self.rng.choice([1, 2, 4])))))

    def fail(self):
        return ("fail", dict(kind=self.pick((3, "failed"), (1, "cancelled")), reason=self.rng.choice([None, "no", "gone"])))

    def rollback(self, steps):
        step = self.rng.choice(steps + [None]) if steps else None
        return ("rollback_to", dict(key=step and step.key, reason=self.rng.choice([None, "back"])))

    def resolve(self, key):
        return ("resolve", dict(key=key, resolution=self.pick((4, "retry"), (2, "done"), (2, "skip")), note="why"))

    # ------------------------------------------------ what comes next

    def next(self):
        roll = self.rng.random()
        if roll < 0.80:
            call = self.plausible()
        elif roll < 0.88 and self.said:
            call = self.rng.choice(self.said[-6:])
        else:
            call = self.anything()
        self.said.append(call)
        return call

    def plausible(self):
        """What an application, a listener or a person would do."""
        saga = self.saga
        live = [s for s in saga.steps if not s.rolled_back]
        opened = [s for s in live if s.status == "started"]
        failed = [s for s in live if s.status == "failed"]
        done = [s for s in live if s.status == "completed"]
        gone = [s for s in saga.steps if s.rolled_back and s.status != "completed"]
        waits = [s for s in saga.steps if s.compensation == "dispatched" and s.claimed_at is None]
        held = saga.held()
        asked = [s.key for s in saga.steps if s.asked]
        free = [k for k in KEYS if k not in [s.key for s in live]]
        rng = self.rng
        actions = [(1, lambda: ("plan", {}))]

        def may(weight, things, action):
            if things:
                actions.append((weight, lambda: action(rng.choice(things))))

        if saga.paused:
            actions.append((12, lambda: ("resume", dict(note=rng.choice([None, "on"])))))
        elif saga.state not in FINAL:
            actions.append((2, lambda: ("pause", dict(note="wait"))))
        may(5, waits + held, self.report)
        may(2, gone, self.report)
        may(3 if saga.state == "running" else 6, saga.steps, self.amend)
        if saga.failure_kind is None and saga.state not in FINAL:
            actions.append((2, lambda: ("set_timeout", dict(timeout=rng.choice([0, 1, 4, 9]), note="on"))))
        if saga.state == "running":
            may(45 if len(live) < 3 else 14, free, self.new_step)
            may(20, opened, lambda s: self.report(s, rng.choice(["error", "record"])))
            may(8, opened, lambda s: ("fail_step", dict(key=s.key, error="no luck", retryable=not self.chance(0.3), run=None)))
            may(8, failed + opened, self.known_step)
            may(3, done, self.known_step)
            if len(live) >= 2:
                actions += [(9, self.fail), (7, lambda: self.rollback(done))]
                if not opened or self.chance(0.1):
                    actions.append((4, lambda: ("complete", dict(result=rng.choice([None, 1]), ignore_failed=self.chance(0.5)))))
        elif saga.state == "compensating":
            if waits:
                actions.append((40, self.claim))
            may(30, held, self.compensation_report)
            may(6, waits, self.compensation_report)
            may(8, opened + failed, self.report)
            actions += [(3, self.fail), (3 if saga.failure_kind is None else 0, lambda: self.rollback(done))]
        elif saga.state == "needs_review":
            may(40, asked, self.resolve)
            may(8, [s for s in saga.steps if s.asked], self.amend)
            may(20, held, self.compensation_report)
            if saga.behind_pivot:
                actions.append((25, lambda: ("reopen", dict(note="on"))))
            may(8, opened + failed, self.report)
            may(4, [s for s in saga.steps if s.announced], self.compensation_report)
            actions += [(8, lambda: self.rollback(done)), (3, lambda: ("abandon", dict(note="enough"))), (2, self.fail)]
        else:
            may(12, [s for s in saga.steps if s.status != "completed"], self.report)
            may(4, saga.steps, lambda s: self.compensation_report(s, rng.randint(1, 3)))
            may(4, saga.steps, self.known_step)
            actions += [(4, lambda: ("redact", {})), (2, lambda: ("complete", dict(result=2, ignore_failed=False))),
                        (2, self.fail)]
        return self.pick(*actions)()

    def anything(self):
        """Any call, with anything."""
        rng = self.rng
        keys = [s.key for s in self.saga.steps] * 3 + [UNKNOWN, rng.choice(KEYS)]
        key, run, attempt = rng.choice(keys), rng.choice([1, 1, 1, 2]), rng.choice([1, 1, 2, 3])
        step = rng.choice(self.saga.steps) if self.saga.steps else None
        note = self.pick((6, "why"), (1, ""), (1, " "), (1, None))
        return rng.choice([
            lambda: ("begin", dict(input=self.pick((2, self.saga.input), (1, {"order": 2})),
                                   subject=rng.choice([None, "customer", "somebody"]))),
            lambda: self.new_step(key),
            lambda: self.other_step(step) if step else self.new_step(key),
            lambda: self.known_step(step) if step else self.new_step(key),
            lambda: ("complete_step", dict(key=key, output=self.output(), late=rng.choice(["error", "record"]),
                                           run=self.pick((3, None), (1, run)))),
            lambda: ("fail_step", dict(key=key, error="so", retryable=rng.choice([True, False]), run=self.pick((3, None), (1, run)))),
            lambda: ("complete", dict(result=None, ignore_failed=self.chance(0.5))),
            self.fail,
            lambda: ("plan", {}),
            self.claim,
            lambda: ("extend_claim", dict(key=key, run=run, attempt=attempt, lease=2)),
            lambda: ("complete_compensation", dict(key=key, run=run, output=self.output())),
            lambda: ("fail_compensation", dict(key=key, run=run, attempt=attempt, retryable=True, retry_after=None)),
            lambda: ("resolve", dict(key=key, resolution=self.pick((3, "retry"), (3, "done"), (3, "skip"), (1, "undo")), note=note)),
            lambda: ("set_timeout", dict(timeout=rng.choice([0, 3]), note=rng.choice([None, "on"]))),
            lambda: ("amend", dict(key=key, note=note, undo=rng.choice(["sql", "notify", None]),
                                   compensation_retry=self.policy())),
            lambda: ("abandon", dict(note=note)) if self.chance(0.3) else ("reopen", dict(note=note)),
            lambda: ("reopen", dict(note=note)),
            lambda: ("pause", dict(note=note)),
            lambda: ("resume", dict(note=rng.choice([None, "on"]))),
            lambda: ("rollback_to", dict(key=rng.choice([key, key, None]), reason=None)),
            lambda: ("redact", {}),
        ])()


# ------------------------------------------------------------------ a call, both ways

def ask_model(saga, call):
    """What the model answers: "= json" or "! SQLSTATE"."""
    name, args = call
    args = dict(args)
    try:
        if name == "begin":
            answer = True if saga.begin(args["input"], args["subject"]) is None else None
        elif name == "step":
            for policy in "retry", "compensation_retry":
                args[policy] = model.Policy(**args[policy]) if args[policy] else None
            args["plan"] = tuple(args["plan"])
            args["args"] = args["plan"]
            answer = saga.step(**args)
        elif name == "amend":
            policy = args["compensation_retry"]
            args["compensation_retry"] = model.Policy(**policy) if policy else None
            answer = saga.amend(**args)
        else:
            answer = getattr(saga, name)(**args)
        return "= " + json.dumps(answer)
    except model.Refused as refused:
        return "! " + refused.sqlstate


def literal(value):
    if value is None:
        return "NULL"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, int):
        return str(value)
    return "'" + str(value).replace("'", "''") + "'"


def jsonb(value):
    return "NULL" if value is None else literal(json.dumps(value))


def hours(value):
    return "NULL" if value is None else f"'{value} hours'"


def policy(value):
    if value is None:
        return "NULL"
    return (f"saga.retry_policy({value['max_attempts']}, {hours(value['delay'])}, {literal(value['backoff'])}, "
            f"{hours(value['max_delay'])}, 0, {hours(value['timeout'])})")


STEP_RESULT = "json_build_array(status, attempt, output, model.hours(retry_at), known, seq)"


def in_sql(key, call):
    """The call as SQL that answers JSON; $s stands for the saga's id."""
    name, args = call
    a = collections.defaultdict(lambda: None, args)
    step, handle = literal(a["key"]), f"model.handle($s, {literal(a['key'])}, {literal(a['run'])})"
    forward = f", forward_key => model.forward($s, {step}, {a['run']})" if a["run"] is not None else ""
    note = literal(a["note"])
    if name == "begin":
        return f"SELECT to_json(saga.begin('model', {literal(key)}, {jsonb(a['input'])}, subject => {literal(a['subject'])}) = $s)"
    if name == "step":
        given = [f"$s, {step}"]
        if a["undo"] == "sql":
            given.append("compensation => 'SELECT model.undo($1)'")
        elif a["undo"]:
            given.append(f"notify => {literal(key)}")
            if a["undo"] == "announce":
                given.append("acknowledge => false")
        for argument, default, shown in (("review", None, literal), ("kind", "compensatable", literal),
                                         ("compensate_on", "started", literal), ("output", None, jsonb),
                                         ("completed", False, literal), ("retry", None, policy),
                                         ("compensation_retry", None, policy)):
            if a[argument] != default:
                given.append(f"{argument} => {shown(a[argument])}")
        if a["plan"]:
            given.append(f"args => {jsonb(dict(plan=a['plan']))}")
        return f"SELECT {STEP_RESULT} FROM saga.step({', '.join(given)})"
    if name == "complete_step":
        return (f"SELECT {STEP_RESULT} FROM saga.complete_step($s, {step}, {jsonb(a['output'])}, "
                f"late => {literal(a['late'])}{forward})")
    if name == "fail_step":
        return (f"SELECT {STEP_RESULT} FROM saga.fail_step($s, {step}, {literal(a['error'])}, "
                f"{literal(a['retryable'])}{forward})")
    if name == "claim":
        return ("SELECT json_build_array(step, (context #>> '{step,run}')::integer, attempt, model.hours(lease_until), "
                f"nullif((context -> 'output')::text, 'null')::json) FROM saga.claim_compensations({literal(key)}, "
                f"lease => {hours(a['lease'])}, consumer => {literal(a['consumer'])})")
    if name == "plan":
        return "SELECT coalesce(json_agg(json_build_array(step, action) ORDER BY position), '[]') FROM saga.plan($s)"
    if name == "amend":
        given = {"sql": ", compensation => 'SELECT model.undo($1), 1'",
                 "notify": f", notify => {literal(key)}", None: ""}[a["undo"]]
        return (f"SELECT 'null' FROM saga.amend($s, {step}, {note}{given}, "
                f"compensation_retry => {policy(a['compensation_retry'])})")
    if name == "redact":
        return "SELECT 'null' FROM saga.redact($s)"
    return "SELECT to_json(" + {
        "complete": lambda: f"saga.complete($s, {jsonb(a['result'])}, {literal(a['ignore_failed'])})",
        "fail": lambda: f"saga.{'cancel' if a['kind'] == 'cancelled' else 'fail'}($s, {literal(a['reason'])})",
        "extend_claim": lambda: f"model.hours(saga.extend_claim({handle}, {a['attempt']}, {hours(a['lease'])}))",
        "complete_compensation": lambda: f"saga.complete_compensation({handle}, {jsonb(a['output'])})",
        "fail_compensation": lambda: f"saga.fail_compensation({handle}, {a['attempt']}, 'no', {literal(a['retryable'])}, "
                                     f"{hours(a['retry_after'])})",
        "set_timeout": lambda: f"model.hours(saga.set_timeout($s, {hours(a['timeout'])}, {note}))",
        "resolve": lambda: f"saga.resolve($s, {step}, {literal(a['resolution'])}, {note})",
        "abandon": lambda: f"saga.abandon($s, {note})",
        "reopen": lambda: f"saga.reopen($s, {note})",
        "pause": lambda: f"saga.pause($s, {note})",
        "resume": lambda: f"saga.resume($s, {note})",
        "rollback_to": lambda: f"saga.rollback_to($s, {step}, {literal(a['reason'])})",
    }[name]() + ")"


# ------------------------------------------------------------------ a history

class History:
    """A saga, both ways.  `rounds` is what happened to it: ("begin", arguments), ("calls", [call …]) of one
    transaction, ("advance", hours)."""

    def __init__(self, name, player=None, rounds=None):
        self.name = name
        self.player = player
        self.script = collections.deque(rounds or [])
        self.rounds = []
        self.saga = None
        self.id = None
        self.expected = []
        self.runs = []                  # what was answered, to be compared when all is seen
        self.difference = None
        self.length = player and player.rng.randint(12, 36)
        self.calls = 0

    def over(self):
        return self.difference is not None or (not self.script if self.player is None else self.length <= 0)

    def start(self, now, count):
        """The begin of it, as SQL."""
        name, args = self.player.begin() if self.player else self.script.popleft()
        self.rounds.append((name, args))
        self.saga = model.Saga(now, args["input"], args["timeout"], args["on_compensation_failure"], args["subject"])
        if self.player:
            self.player.saga = self.saga
        self.calls += 1
        count["begin", "running", "="] += 1
        return self.begin_in_sql(args)

    def begin_in_sql(self, args):
        return (f"saga.begin('model', {literal(self.name)}, {jsonb(args['input'])}, timeout => {hours(args['timeout'])}, "
                f"on_compensation_failure => {literal(args['on_compensation_failure'])}, subject => {literal(args['subject'])})")

    def make(self, count):
        """The next calls, as the model takes them; answers their SQL."""
        if self.player:
            how_many = self.player.pick((12, 1), (1, 2))
            given = None
        else:
            given = self.script.popleft()[1]
            how_many = len(given)
        self.saga.transaction += 1
        self.expected = []
        calls = []
        for n in range(how_many):
            call = given[n] if given else self.player.next()
            calls.append(call)
            before = self.saga.state
            answer = ask_model(self.saga, call)
            count[call[0], before, answer if answer[0] == "!" else "="] += 1
            self.expected.append((call, answer))
        self.calls += how_many
        self.rounds.append(("calls", calls))
        if self.player:
            self.length -= 3 if self.saga.state in ("completed", "abandoned") else 1
        return [in_sql(self.name, call).replace("$s", f"'{self.id}'") for call in calls] + ["COMMIT"]

    def hear(self, answers):
        """Compares the answers."""
        for (call, expected), got in zip(self.expected, answers):
            if got[0] == "!":
                same = expected == got[:7]
            else:
                real = json.loads(got[2:])
                if expected[0] == "=" and call[0] in ("step", "complete_step", "fail_step"):
                    wanted = json.loads(expected[2:])
                    self.runs.append((real.pop(), call[1]["key"], wanted.pop()))
                    same = real == wanted
                else:
                    same = expected[0] == "=" and real == json.loads(expected[2:])
            if not same:
                self.differ(f"{call[0]} {json.dumps(call[1])}", expected, got)
                return

    def look(self, seen):
        """Compares what the views show."""
        expected = json.loads(json.dumps(self.saga.observe()))
        seen = {k: v or [] for k, v in seen.items()}
        place = {seq: n for n, (seq, _, _) in enumerate(sorted(seen["runs"]), 1)}
        run = {seq: [key, run] for seq, key, run in seen["runs"]}
        seen["attempts"] = [[place[a[0]]] + a[1:] for a in seen["attempts"]]
        seen["pending"] = [run[p[0]] + p[1:] for p in seen["pending"]]
        expected["attempts"].sort(key=lambda a: (a[0], a[1] == "compensation", a[2]))
        for seq, key, number in self.runs:
            if run.get(seq) != [key, number]:
                self.differ("the run that was answered", [key, number], run.get(seq))
                return
        for part in expected:
            if expected[part] != seen[part]:
                self.differ(part, expected[part], seen[part])
                return

    def differ(self, what, expected, got):
        self.difference = (what, expected, got)

    def __str__(self):
        lines = [r"-- on the test build:  psql -f test/model/world.sql, then this", "\\set QUIET on"]
        for what, args in self.rounds:
            if what == "begin":
                lines.append(f"SELECT {self.begin_in_sql(args)} AS s \\gset")
            elif what == "advance":
                lines.append(f"SELECT model.advance({args});")
                lines.append("CALL model.quiet();")
            else:
                calls = [in_sql(self.name, call).replace("$s", ":'s'") + ";" for call in args]
                lines += ["BEGIN;", *calls, "COMMIT;"] if len(calls) > 1 else calls
                lines.append("CALL model.quiet();")
        lines.append(r"SELECT jsonb_pretty(seen::jsonb) FROM model.seen(ARRAY[:'s'::uuid]);")
        what, expected, got = self.difference or ("nothing", "", "")
        lines.append(f"-- differs: {what}\n--   the model says {shown(expected, got)}\n--   the server says {shown(got, expected)}")
        return "\n".join(lines)


def shown(one, other):
    """A value; of a list, only from where the two begin to differ."""
    if not (isinstance(one, list) and isinstance(other, list)):
        return one
    n = next((n for n, (x, y) in enumerate(zip(one, other)) if x != y), min(len(one), len(other)))
    return f"[{n}…] {json.dumps(one[max(n - 1, 0):n + 3])}"


# ------------------------------------------------------------------ many of them

class Server:
    """Some sessions, that play their share of the calls at the same time."""

    def __init__(self, connections):
        self.sessions = [psycopg.connect("", autocommit=True) for _ in range(connections)]
        self.threads = concurrent.futures.ThreadPoolExecutor(connections)
        self.ask("SELECT set_config('search_path', 'pg_catalog', false)")

    def ask(self, sql, *args):
        return self.sessions[0].execute(sql, args).fetchall()

    def began(self):
        """A new time to count the hours from."""
        self.sessions[0].execute("UPDATE model.clock SET began = clock_timestamp() + ahead")

    def advance(self, hours):
        self.ask("SELECT model.advance(%s)", hours)

    def quiet(self):
        self.sessions[0].execute("CALL model.quiet()")

    def play(self, calls):
        """Lists of calls, one for each history; answers the same lists of answers."""
        share = -(-len(calls) // len(self.sessions))
        shares = [calls[n:n + share] for n in range(0, len(calls), share)]

        def play_share(session, lists):
            flat = [call for one in lists for call in one]
            answers = iter(session.execute("CALL model.play(%s, NULL)", (flat,)).fetchone()[0])
            return [[next(answers) for call in one if call != "COMMIT"] for one in lists]
        played = self.threads.map(play_share, self.sessions, shares)
        return [answers for one in played for answers in one]

    def seen(self, ids):
        share = -(-len(ids) // len(self.sessions))
        shares = [ids[n:n + share] for n in range(0, len(ids), share)]
        answers = self.threads.map(
            lambda session, some: session.execute("SELECT id::text, seen::text FROM model.seen(%s::uuid[])", (some,)).fetchall(),
            self.sessions, shares)
        return {id: json.loads(seen) for one in answers for id, seen in one}


class Run:
    def __init__(self, server, look=1):
        self.server = server
        self.look = look
        self.count = collections.Counter()      # (call, state, answer)
        self.states = collections.Counter()
        self.spent = collections.Counter()
        self.calls = 0

    def timed(self, what, function, *args):
        began = time.monotonic()
        result = function(*args)
        self.spent[what] += time.monotonic() - began
        return result

    def round(self, histories, now):
        """A call of each; those that differ know it afterwards."""
        calls = self.timed("model", lambda: [h.make(self.count) for h in histories])
        for history, answers in zip(histories, self.timed("calls", self.server.play, calls)):
            history.hear(answers)
        self.compare(histories)

    def advance(self, histories, by):
        self.server.advance(by)
        for history in histories:
            history.rounds.append(("advance", by))
            history.saga.now += by
        self.compare(histories)

    def compare(self, histories):
        self.timed("undo", self.server.quiet)
        looked_at = []
        for history in histories:
            history.saga.work()
            self.states[history.saga.state, history.saga.paused] += 1
            if history.difference is None and (history.over() or len(history.rounds) % self.look == 0):
                looked_at.append(history)
        seen = self.timed("views", self.server.seen, [h.id for h in looked_at]) if looked_at else {}
        self.timed("model", lambda: [h.look(seen[h.id]) for h in looked_at])

    def start(self, histories, now):
        begins = [["SELECT to_json(" + h.start(now, self.count) + ")", "COMMIT"] for h in histories]
        for history, answers in zip(histories, self.server.play(begins)):
            history.id = json.loads(answers[0][2:])

    def era(self, names, slots, seed, seconds=1500):
        """Histories by name, as many as there are slots at a time; yields those that are over."""
        clock = random.Random(seed)
        self.server.began()
        began = time.monotonic()
        now = 0
        open_ = []
        while True:
            new = []
            while len(open_) + len(new) < slots and time.monotonic() - began < seconds:
                name = next(names, None)
                if name is None:
                    break
                new.append(History(name, Player(name)))
            if new:
                self.start(new, now)
            open_ += new
            if not open_:
                return
            if clock.random() < 0.22:
                by = clock.choice([1, 1, 2, 3, 4])
                now += by
                self.advance(open_, by)
            else:
                self.round(open_, now)
            for history in [h for h in open_ if h.over()]:
                self.calls += history.calls
                yield history
            open_ = [h for h in open_ if not h.over()]

    def replay(self, name, rounds):
        """One history alone."""
        history = History(name, rounds=rounds)
        self.look = 1
        self.server.began()
        self.start([history], 0)
        while not history.over():
            if history.script[0][0] == "advance":
                self.advance([history], history.script.popleft()[1])
            else:
                self.round([history], 0)
        return history

    def shrink(self, history, patience=90):
        """The shortest that can be found by leaving rounds out."""
        began = time.monotonic()
        tries = 0
        best = None

        def differs(rounds):
            nonlocal tries, best
            tries += 1
            again = self.replay(f"{history.name} {tries}", rounds)
            if again.difference is None:
                return False
            best = again
            return True
        if not differs(history.rounds):
            return None
        width = max(len(best.rounds) // 2, 1)
        while time.monotonic() - began < patience:
            n = len(best.rounds) - width
            shorter = False
            while n >= 1 and time.monotonic() - began < patience:
                if differs(best.rounds[:n] + best.rounds[n + width:]):
                    shorter = True
                n = min(n, len(best.rounds)) - width if width > 1 else min(n, len(best.rounds)) - 1
            if width == 1 and not shorter:
                break
            width = max(width // 2, 1)
        return best


def coverage(run):
    states = collections.Counter()
    for (state, paused), n in run.states.items():
        states[state + (", paused" if paused else "")] += n
    print("seen in: " + ", ".join(f"{state} {n}" for state, n in states.most_common()))
    calls = collections.defaultdict(collections.Counter)
    where = collections.defaultdict(set)
    for (call, state, answer), n in run.count.items():
        calls[call][answer] += n
        where[call].add(state)
    for call in sorted(calls):
        told = ", ".join(f"{'answered' if a == '=' else a[2:]} {n}" for a, n in calls[call].most_common())
        print(f"  {call:22} in {len(where[call])} states: {told}")


def main():
    parser = argparse.ArgumentParser(description="Random histories of calls, against the model and a server.")
    parser.add_argument("--seed", type=int, default=int(time.time() * 1000) % 1_000_000_007)
    parser.add_argument("--histories", type=int, default=1000)
    parser.add_argument("--slots", type=int, default=200)
    parser.add_argument("--connections", type=int, default=2)
    parser.add_argument("--look", type=int, default=3, help="compare the views every so many rounds")
    parser.add_argument("--show", type=int, default=3, help="how many differences to shrink and print")
    parser.add_argument("--verbose", action="store_true")
    options = parser.parse_args()

    run = Run(Server(options.connections), options.look)
    names = iter([f"{options.seed}-{n}" for n in range(options.histories)])
    began = time.monotonic()
    differing = []
    done = 0
    era = 0
    while done < options.histories and len(differing) < 20 * options.show:
        for history in run.era(names, options.slots, f"{options.seed} {era}"):
            done += 1
            if history.difference:
                differing.append(history)
            if len(differing) >= 20 * options.show:
                break
        era += 1
    took = time.monotonic() - began
    print(f"seed {options.seed}: {done} histories, {run.calls} calls ({run.calls / max(done, 1):.1f} each), {took:.1f} s, "
          f"{done / took:.0f} histories/s; " + ", ".join(f"{what} {s:.1f} s" for what, s in run.spent.most_common()))
    coverage(run)
    if options.verbose:
        for key, n in sorted(run.count.items()):
            print("   ", *key, n)
    print(f"{len(differing)} histories differ")
    kinds = collections.Counter(h.difference[0].split(" ")[0] for h in differing)
    if differing:
        print("  in: " + ", ".join(f"{k} {n}" for k, n in kinds.most_common()))
    for history in differing[:options.show]:
        print(f"\n-- history {history.name} differs: {history.difference[0]}")
        shorter = run.shrink(history)
        if shorter is None:
            print("-- (but not alone)")
        print(shorter or history)
    return 1 if differing else 0


if __name__ == "__main__":
    sys.exit(main())
