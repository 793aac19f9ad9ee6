"""Waiting for a database that has gone away, longer from one attempt to the next, and not for ever."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from typing import Any, TypeVar

from optuna.exceptions import StorageInternalError
from sqlalchemy.exc import DBAPIError, InterfaceError, OperationalError, PendingRollbackError

T = TypeVar("T")
#: Once asked to stop, a worker waits this long for the database to hear why.
LAST_WORDS_SECONDS = 10.0
FIRST_PAUSE, LONGEST_PAUSE = 0.25, 10.0


def is_away(error: BaseException) -> bool:
    """True if the database cannot be reached just now; a request that was wrong is worth no second attempt."""
    cause: BaseException | None = error.__cause__ if isinstance(error, StorageInternalError) else error
    # The last of these: the connection was lost within a request of several parts, and an outer part noticed.
    if isinstance(cause, OperationalError | InterfaceError | PendingRollbackError):
        return True
    return isinstance(cause, DBAPIError) and cause.connection_invalidated


class Patience:
    """Calls that wait for the database, each at most ``seconds``, all attempts together.

    A worker that ``is_stopping`` does not wait longer than a few seconds.
    """

    def __init__(
        self,
        seconds: float = 600.0,
        is_stopping: Callable[[], bool] = lambda: False,
        say: Callable[[str], None] = lambda text: print(text, file=sys.stderr, flush=True),
    ):
        self.seconds = seconds
        self.is_stopping = is_stopping
        self.say = say

    def call(self, function: Callable[..., T], *args: Any, **kwargs: Any) -> T:
        """What a function returns, asked until the database answers."""
        # The monotonic clock: a clock that is set back must not prolong the wait.
        start, pause = time.monotonic(), FIRST_PAUSE
        while True:
            try:
                result = function(*args, **kwargs)
            except Exception as error:
                waited = time.monotonic() - start
                limit = min(self.seconds, LAST_WORDS_SECONDS) if self.is_stopping() else self.seconds
                if not is_away(error) or waited >= limit:
                    raise
                if pause == FIRST_PAUSE:
                    self.say("the storage is away; waiting for it")
                time.sleep(min(pause, limit - waited))
                pause = min(2 * pause, LONGEST_PAUSE)
            else:
                if pause > FIRST_PAUSE:
                    self.say(f"the storage is back after {time.monotonic() - start:.0f} s")
                return result
