"""An order: a bicycle from the stock, its charge to a card, its shipment.  If one of them
fails for good, what was done is undone; if the program dies, it is run again.

usage: order.py NUMBER ADDRESS
"""
import os
import signal
import sys

import psycopg
from pg_saga import Run, Saga


def order(s: Run, address: str) -> None:
    # In this database: the work and its mark are one transaction.
    s.tx("reserve", lambda c, step: c.execute("UPDATE stock SET on_hand = on_hand - 1 WHERE item = 'bicycle'"),
         undo="UPDATE stock SET on_hand = on_hand + 1 WHERE item = 'bicycle'")

    # Outside: the step is committed first.  The key makes a repetition no second charge.
    s.call("charge", charge, args={"cents": 49900}, notify="bank")

    s.tx("ship", lambda c, step: c.execute("INSERT INTO shipment VALUES (%s, %s)", (step.forward_key, address)),
         undo="UPDATE shipment SET called_off = true WHERE key = $1->>'forward_key'")


def charge(key: str) -> None:
    bank("charge", key)
    if os.environ.get("CRASH"):
        os.kill(os.getpid(), signal.SIGKILL)


def bank(what: str, key: str) -> None:
    """It is a file.  As banks do, it knows what it did under which key."""
    with open(os.environ["BANK"], "r+") as book:
        if f"{what} {key}\n" not in book.readlines():
            book.write(f"{what} {key}\n")


def main(number: str, address: str) -> None:
    # The service refunds the charges of what failed: usually another program.
    with Saga() as saga, saga.service("bank", compensation=lambda task: bank("refund", task.forward_key)):
        try:
            saga.run("order", f"order-{number}", {"address": address}, lambda s: order(s, address), timeout="1 hour")
            print(f"order {number}: shipped to {address}")
        except psycopg.Error as e:
            (row,) = saga.sql("find", name="order", idempotency_key=f"order-{number}")
            print(f"order {number}: {e.diag.message_primary or e}: {saga.wait(row['find'])}")


main(*sys.argv[1:])
