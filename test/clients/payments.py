#!/usr/bin/env python3
"""A payment service that lives in one file, and has bad days.

usage: payments.py RECORD [SEED [BAD]]

It listens on a free port of 127.0.0.1 and prints its URL.  RECORD is its memory:
a line of JSON for every call that reached it, whatever came of it, numbered in
the order in which the calls took effect.  It is only ever appended to, and read
again at start.

    POST /charges {"cents": 499}    Idempotency-Key: k    -> {"charge": "ch_7"}
    POST /refunds {"charge": "k"}   Idempotency-Key: u    -> {"refund": "re_8"}

A charge is found by the key that it was made with.  As with real providers, a
key stands for one effect: who sends it again gets the same answer, and nothing
happens twice.  A refund of what was never charged is 404, and keeps the charge
from being made later (409); a charge of 13 cents is disputed, and not refunded
(422), one of 14 cents is not made (402).

BAD is the share of calls that meet with trouble (0): an error before the effect
(500), an error behind it, the connection dropped before or behind it, a slow
answer with the effect first or last, a request to come back later (429).
"""
import json
import os
import random
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

SLOW = float(os.environ.get("SLOW", "3"))
MOODS = {"/charges": ["error first", "error last", "drop first", "drop last"]}
MOODS["/refunds"] = MOODS["/charges"] * 10 + ["slow first", "slow last"] + ["busy"] * 3

record = open(sys.argv[1], "a+b", buffering=0)
dice = random.Random(sys.argv[2] if len(sys.argv) > 2 else None)
bad = float(sys.argv[3]) if len(sys.argv) > 3 else 0
lock = threading.Lock()
calls = 0
answers = {}        # by path and key: the status and the answer that stay
cents_of = {}       # by the charge's key
void = set()        # keys of charges that must not be made any more


def remember(call):
    global calls
    calls = call["n"]
    if call["effect"]:
        answers[call["path"], call["key"]] = call["status"], call["answer"]
        if call["path"] == "/charges":
            cents_of[call["key"]] = call["body"]["cents"]
        elif call["status"] == 404:
            void.add(call["body"]["charge"])


def note(path, key, body, mood, happens):
    """Decides upon a call, and writes it down: one at a time."""
    with lock:
        known = answers.get((path, key))
        effect = False
        if not happens:
            status, answer = 500, {}
        elif known:
            status, answer = known
        elif path == "/charges" and key in void:
            status, answer = 409, {"error": "was refunded before it was made"}
        elif path == "/charges" and body["cents"] == 14:
            status, answer = 402, {"error": "the card is refused"}
        elif path == "/charges":
            status, answer, effect = 200, {"charge": f"ch_{calls + 1}"}, True
        elif body["charge"] not in cents_of:
            status, answer, effect = 404, {"error": "no such charge"}, True
        elif cents_of[body["charge"]] == 13:
            status, answer = 422, {"error": "the charge is disputed"}
        else:
            status, answer, effect = 200, {"refund": f"re_{calls + 1}"}, True
        call = {"n": calls + 1, "at": time.time(), "path": path, "key": key, "body": body,
                "mood": mood, "effect": effect, "repeated": bool(happens and known),
                "status": status, "answer": answer}
        record.write((json.dumps(call) + "\n").encode())
        remember(call)
        return status, answer


class Payments(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    wbufsize = -1

    def do_POST(self):
        key = self.headers["Idempotency-Key"]
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        with lock:
            mood = dice.choice(MOODS[self.path]) if dice.random() < bad else "good"
        if mood == "slow last":
            time.sleep(SLOW)
        status, answer = note(self.path, key, body, mood, mood not in ("error first", "drop first", "busy"))
        if mood == "slow first":
            time.sleep(SLOW)
        if mood.startswith("drop"):
            self.close_connection = True
        elif mood == "busy":
            self.answer(429, {"error": "busy"}, {"Retry-After": "1"})
        elif mood == "error last":
            self.answer(500, {"error": "something went wrong"})
        else:
            self.answer(status, answer)

    def answer(self, status, answer, headers={}):
        text = json.dumps(answer).encode()
        try:
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(text)))
            for name, value in headers.items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(text)
            self.wfile.flush()
        except OSError:
            self.close_connection = True        # the caller is gone

    def log_message(self, *args):
        pass


class Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 100

    def handle_error(self, request, client_address):
        pass                                    # callers come and go


if __name__ == "__main__":
    record.seek(0)
    for line in record.read().splitlines():
        remember(json.loads(line))
    server = Server(("127.0.0.1", 0), Payments)
    print(f"http://127.0.0.1:{server.server_port}", flush=True)
    server.serve_forever()
