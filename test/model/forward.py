#!/usr/bin/env python3
"""Random definitions of sagas that the server runs, and what must come of them.

usage: forward.py [--seed N] [--sagas N] [--connections N]
       python 3.9, psycopg 3.1 or later; PG* say where the server is: a database that has
       test/model/forward.sql

A saga is up to nine steps: actions, some of them in rounds, tasks of a service, gates without
work, steps of the application; one after the other, after a list, or at once; some wait for a
signal, or a person's approval; some fail a number of times, and then fail the saga, are
skipped, or ask a person; some record further steps.  All are recorded in one statement and
sealed; then the application completes its own, a person decides what is asked, signals are sent,
before their step waits or after, and more than once, and services do the tasks.  Which
steps begin at the same time is the server's choice, so that not one outcome is predicted but
what holds in all of them:

- the end of the saga, and of each step that must be reached;
- each effect exactly once, none of an attempt that failed;
- no step before all its gates were open, with what the actions before it recorded;
- each signal used once, by the step that waits for it, which gets it;
- the undo is the exact reverse of the order in which steps began.

Exit code: 0, all hold; 1, some do not; 2, no run.
"""
import argparse
import concurrent.futures
import json
import random
import sys
import time

import psycopg

# What leaves an effect
WORKS = ("action", "rounds", "task")

# Longest wait for one saga, in seconds: only a saga that stands still takes that long.
PATIENCE = 300


class Definition:
    """Steps as fwd.record takes them, and what is known of each."""

    def __init__(self, rng):
        self.rng = rng
        self.steps = {}                 # key -> step, with "parent" and "before"
        self.top = self.make_list(None, rng.randint(1, 6), "")

    def make_list(self, parent, count, prefix):
        made = []
        for n in range(count):
            key = f"{prefix}{'abcdefghi'[n]}"
            made.append(self.make_step(parent, key, made))
        return made

    def make_step(self, parent, key, siblings):
        rng = self.rng
        work = rng.choices(["action", "rounds", "task", "gate", "app"], [8, 1, 2, 1, 1 if parent is None else 0])[0]
        after = None
        if work != "app":
            kind = rng.random()
            if kind < 0.2 and siblings:
                after = sorted(s["key"] for s in rng.sample(siblings, rng.randint(1, len(siblings))))
            elif kind < 0.35:
                after = []
        if work == "app":
            before = []
        elif after is None:
            before = [s["key"] for s in siblings]
        else:
            before = after
        fails = rng.choice([0, 0, 0, 0, 1, 3]) if work in WORKS else 0
        step = dict(key=key, work=work, after=after, fails=fails, max_attempts=rng.choice([1, 2, 4]),
                    on_failure=rng.choice(["fail", "fail", "skip", "review"]), children=[],
                    rounds=rng.randint(2, 4) if work == "rounds" else 1,
                    signal=work != "app" and rng.random() < 0.15,
                    approval=rng.choice(["approve", "approve", "refuse"]) if work != "app" and rng.random() < 0.1 else None)
        self.steps[key] = dict(step, parent=parent, before=before)
        if work in ("action", "rounds") and parent is None and rng.random() < 0.3:
            step["children"] = self.make_list(key, rng.randint(1, 3), key + ".")
            self.steps[key]["children"] = step["children"]
        return step

    def gives_up(self, key):
        step = self.steps[key]
        return step["fails"] >= step["max_attempts"] or step["approval"] == "refuse"

    def predict(self):
        """The steps that are reached if nothing fails the saga, and whether something does."""
        reached, failed = set(), False
        pending = list(self.top)
        done_now = True
        known = {s["key"] for s in self.top}

        def is_done(key):
            step = self.steps[key]
            if key not in reached or (self.gives_up(key) and step["on_failure"] == "fail"):
                return False
            if self.gives_up(key):
                return True             # skipped, or a person lets it be skipped
            return all(is_done(c["key"]) for c in step["children"])

        while done_now:
            done_now = False
            for step in list(pending):
                key = step["key"]
                if all(is_done(k) for k in self.steps[key]["before"]):
                    pending.remove(step)
                    reached.add(key)
                    done_now = True
                    if self.gives_up(key):
                        failed |= step["on_failure"] == "fail"
                    else:
                        for child in step["children"]:
                            known.add(child["key"])
                            pending.append(child)
        return reached, failed

    def ancestors(self, key):
        """What must be done, as far as it is done at all, before the step begins."""
        found, look = set(), list(self.steps[key]["before"])
        while look:
            k = look.pop()
            if k not in found:
                found.add(k)
                look += [c["key"] for c in self.steps[k]["children"]]
        return found


class Fault(Exception):
    pass


def check(holds, what):
    if not holds:
        raise Fault(what)


def play(conn, definition):
    """Records the saga and acts as the application and the person until it is over."""
    saga = conn.execute("SELECT saga.begin('fwd')").fetchone()[0]
    signals = [key for key, step in definition.steps.items() if step["signal"]] * 2
    rng = definition.rng
    rng.shuffle(signals)
    decides = {key: step["approval"] for key, step in definition.steps.items()}

    def send():
        """What is sent twice counts once; to a saga that failed meanwhile it comes too late."""
        if signals:
            key = signals.pop()
            try:
                conn.execute("SELECT saga.signal(%s, %s, to_jsonb(%s::text), %s)", (saga, "go " + key, key, key))
            except psycopg.errors.Error as e:
                if e.sqlstate not in ("SG005", "SG002"):
                    raise

    if rng.random() < 0.5:
        send()
    with conn.transaction():
        conn.execute("SELECT fwd.record(%s, %s)", (saga, json.dumps(definition.top)))
        conn.execute("SELECT saga.complete(%s, when_done => true)", (saga,))
    until = time.monotonic() + PATIENCE
    to_complete = [s["key"] for s in definition.top if s["work"] == "app"]
    while True:
        if to_complete:
            try:
                conn.execute("SELECT saga.complete_step(%s, %s)", (saga, to_complete[0]))
            except psycopg.errors.Error as e:
                if e.sqlstate not in ("SG005", "SG002"):
                    raise
            to_complete.pop(0)
        send()
        conn.execute("CALL fwd.serve(%s)", (rng.randint(1, 3),))
        state = conn.execute("SELECT saga.wait(%s, '30 ms')", (saga,)).fetchone()[0]
        if state in ("completed", "compensated"):
            return saga, state
        asked = conn.execute("SELECT step, why FROM saga.review_queue WHERE saga_id = %s", (saga,)).fetchall()
        for step, why in asked:
            how = decides[step] if why.startswith("approval") else "skip"
            try:
                conn.execute("SELECT saga.resolve(%s, %s, %s, 'the test')", (saga, step, how))
            except psycopg.errors.Error as e:
                # The saga failed meanwhile by another step.
                if e.sqlstate != "SG002":
                    raise
        if time.monotonic() > until:
            waits = conn.execute("SELECT key, status, waits_for FROM saga.steps WHERE saga_id = %s", (saga,)).fetchall()
            raise Fault(f"saga {saga} stands still in {state}: {waits}")


def examine(conn, definition, saga, state):
    reached, failed = definition.predict()
    rows = conn.execute("SELECT key, status, begun, seq FROM saga.steps WHERE saga_id = %s ORDER BY position",
                        (saga,)).fetchall()
    status = {key: s for key, s, _, _ in rows}
    order = [key for key, s, _, _ in rows]
    log = conn.execute("SELECT key, what, n, context FROM fwd.log WHERE saga = %s ORDER BY n", (saga,)).fetchall()
    done = [key for key, what, _, _ in log if what == "do"]
    undone = [key for key, what, _, _ in log if what == "undo"]

    check(state == ("compensated" if failed else "completed"), f"{state}, but failed is {failed}")
    check(len(done) == len(set(done)), f"done twice: {done}")
    for key in done:
        check(status[key] == "completed", f"{key} is {status[key]} and has an effect")
    for key, s in status.items():
        if s == "completed" and definition.steps[key]["work"] in WORKS:
            check(key in done, f"{key} is completed and has no effect")
    rounds = {}
    for key, what, _, context in log:
        if what == "round":
            rounds[key] = rounds.get(key, 0) + 1
        if what == "do" and definition.steps[key]["signal"]:
            check(context["signal"] == {"signal": "go " + key, "payload": key}, f"{key} got {context['signal']}")
    for key in done:
        check(rounds.get(key, 0) == definition.steps[key]["rounds"] - 1, f"{key} did {rounds.get(key, 0)} rounds before the last")
    used = conn.execute("SELECT name, used_by_step FROM saga.signals WHERE saga_id = %s", (saga,)).fetchall()
    check(len(used) == len({name for name, _ in used}), f"signals: {used}")
    for name, by in used:
        check(by is None or "go " + by == name, f"signal {name} was used by {by}")
    for key, s in status.items():
        if s == "completed" and definition.steps[key]["signal"]:
            check(("go " + key, key) in used, f"{key} has used no signal: {used}")
    if not failed:
        check(set(status) == {k for k in reached}, f"reached {sorted(reached)}, recorded {sorted(status)}")
        for key in reached:
            wanted = "completed"
            if definition.gives_up(key):
                wanted = "failed" if definition.steps[key]["on_failure"] == "skip" else "skipped"
            check(status[key] == wanted, f"{key} is {status[key]}, not {wanted}")
        check(undone == [], f"undone: {undone}")
    else:
        # A task or rounds that were under way are undone, too.
        undoable = [k for k in order if status[k] == "completed" and definition.steps[k]["work"] == "action"]
        others = {k for k in order if definition.steps[k]["work"] != "action"}
        check([k for k in undone if k not in others] == undoable[::-1], f"done {undoable}, undone {undone}")
        for k in others & set(done):
            check(k in undone or definition.steps[k]["work"] == "task", f"{k} was done, and not undone")
        place = {k: n for n, k in enumerate(order)}
        check([place[k] for k in undone] == sorted((place[k] for k in undone), reverse=True), f"began {order}, undone {undone}")
        check(len(undone) == len(set(undone)), f"undone twice: {undone}")
    at = {key: i for i, key in enumerate(done)}
    for key in done:
        for before in definition.ancestors(key):
            if before in at:
                check(at[before] < at[key], f"{key} began before {before}: {done}")
            check(before not in status or status[before] != "waiting", f"{key} began while {before} waited")
    for key, what, _, context in log:
        if what == "do" and definition.steps[key]["after"]:
            for before in definition.steps[key]["after"]:
                if status[before] == "completed" and definition.steps[before]["work"] in WORKS:
                    check(context["outputs"].get(before) == before, f"{key} got {context['outputs']}")


def one(number, seed):
    rng = random.Random(seed * 1_000_003 + number)
    definition = Definition(rng)
    with psycopg.connect("", autocommit=True) as conn:
        try:
            saga, state = play(conn, definition)
            examine(conn, definition, saga, state)
            return None, state
        except Fault as fault:
            return f"saga {number} of seed {seed}: {fault}\n{json.dumps(definition.top)}", None


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--sagas", type=int, default=200)
    parser.add_argument("--connections", type=int, default=8)
    args = parser.parse_args()
    ends = {}
    faults = []
    with concurrent.futures.ThreadPoolExecutor(args.connections) as pool:
        for fault, state in pool.map(lambda n: one(n, args.seed), range(args.sagas)):
            if fault:
                faults.append(fault)
            else:
                ends[state] = ends.get(state, 0) + 1
    for fault in faults[:5]:
        print(fault)
    print(f"seed {args.seed}: {args.sagas} sagas, " + ", ".join(f"{n} {s}" for s, n in sorted(ends.items())) +
          f", {len(faults)} faults")
    return 1 if faults else 0


if __name__ == "__main__":
    sys.exit(main())
