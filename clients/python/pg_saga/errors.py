"""The errors of pg_saga.

Those that the server raises are classes by SQLSTATE, and registered with psycopg: it
raises them wherever the server says so, in your own statements, too.  The texts are
the server's; "detail" and "hint" say more.
"""
from __future__ import annotations

from typing import Any, Optional, Union
from datetime import timedelta

import psycopg


class SagaError(psycopg.DatabaseError):
    """All of the errors below."""

    @property
    def detail(self) -> Optional[str]:
        return self.diag.message_detail

    @property
    def hint(self) -> Optional[str]:
        return self.diag.message_hint


class SagaNotFound(SagaError, code="SG001"):
    """There is no such saga, or it is not yours."""


class InvalidSagaState(SagaError, code="SG002"):
    """The call does not fit the state of the saga, the step or the claim."""


class IdempotencyConflict(SagaError, code="SG003"):
    """The same key with another content: a fault of the program.  Nothing is undone for it."""


class StepNotFound(SagaError, code="SG004"):
    """The saga has no such step."""


class SagaFailing(SagaError, code="SG005"):
    """The undo has begun, or the saga has ended otherwise than completed.  Stop; a new
    try of the operation needs a key of its own."""

    def __init__(self, *args: Any, saga_id: Any = None, state: Optional[str] = None,
                 reason: Optional[str] = None, **info: Any):
        super().__init__(*args, **info)
        self.saga_id, self.state, self.reason = saga_id, state, reason


class DoNotRetry(SagaError, code="SG006"):
    """Raise it where there is no point in trying again."""


class RetryLater(SagaError, code="SG007"):
    """Raise it in a handler of serve(): try again after that time (a number of seconds, or
    an interval), or else as the step's policy has it."""

    def __init__(self, *args: Any, retry_after: Union[float, str, timedelta, None] = None, **info: Any):
        super().__init__(*args, **info)
        self.retry_after = timedelta(seconds=retry_after) if isinstance(retry_after, (int, float)) else retry_after


class SagaUnavailable(SagaError, code="SG008"):
    """Nothing is run or undone here: a standby, a copy, or saga is not preloaded."""


class LimitExceeded(SagaError, code="SG009"):
    """A value, name or key is too large, or a quota is used up."""


class PermissionDenied(SagaError, code="SG010"):
    """The role may not do that."""


class Interrupted(SagaError):
    """The saga was left as it is, running: the connection was lost for longer than is worth
    waiting here, or your function raised this itself.  Run it again with the same key."""


class UsageError(SagaError):
    """The program uses pg_saga in a way that would go wrong."""
