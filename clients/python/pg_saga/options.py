"""The options of the calls.  They are SQL's arguments, by their names (doc/reference.md of
saga says what each means), and "undo" is another name for "compensation".

An interval may be a timedelta or text ("10 minutes"); a retry policy is a dict with the
arguments of saga.retry_policy.
"""
from __future__ import annotations

from datetime import datetime, timedelta
from typing import Any, Callable, List, TypedDict, Union

Interval = Union[str, timedelta]


class RetryPolicy(TypedDict, total=False):
    max_attempts: int
    delay: str
    backoff: str
    max_delay: str
    jitter: float
    timeout: str


class RunOptions(TypedDict, total=False):
    """Of run: those of saga.begin and saga.complete, and the role that is to own the saga."""

    timeout: Interval
    on_compensation_failure: str
    announce: str
    subject: str
    when_done: bool
    ignore_failed: bool
    owner: str


class WorkOptions(TypedDict, total=False):
    """Of tx and call."""

    args: Any
    undo: str
    compensation: str
    notify: str
    acknowledge: bool
    review: str
    idempotency_key: str
    kind: str
    compensate_on: str
    retry: RetryPolicy
    compensation_retry: RetryPolicy


class StepOptions(WorkOptions, total=False):
    """Of step: those of steps that saga runs, too."""

    output: Any
    completed: bool
    action: str
    task: str
    after: List[str]
    delay: Interval
    not_before: Union[str, datetime]
    signals: List[str]
    approval: str
    timeout: Interval
    on_failure: str


class ServiceOptions(TypedDict, total=False):
    """Of serve and service."""

    forward: Callable[[Any], Any]
    compensation: Callable[[Any], Any]
    concurrency: int                # handlers at the same time (10)
    lease: float                    # seconds (60); extended while the handler runs
    heartbeat: float                # seconds between two looks without being woken (30)
    consumer: str                   # what the service calls itself, for people
    listen: str                     # conninfo of a direct connection, where the others go through a pooler
