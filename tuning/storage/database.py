"""Optuna's database storage, which waits for a database that has gone away instead of ending the worker."""

from __future__ import annotations

import inspect
import sys
import time
import warnings
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

from optuna.exceptions import ExperimentalWarning, StorageInternalError, UpdateFinishedTrialError
from optuna.storages import RDBStorage
from optuna.trial import TrialState
from sqlalchemy.engine import URL
from sqlalchemy.exc import DBAPIError, InterfaceError, OperationalError, PendingRollbackError

from tuning.storage.requeue import requeue_stale

T = TypeVar("T")
#: Once asked to stop, a worker waits this long for the database to hear why.
LAST_WORDS_SECONDS = 10.0
FIRST_PAUSE, LONGEST_PAUSE = 0.25, 10.0
#: A trial whose heart has not beaten for so many intervals is dead.
GRACE_BEATS = 3
#: Of this process: what opened them mostly lives as long as the process, but not always.
OPEN: set[PatientDatabase] = set()


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
        """The result of a function, which is called until the database answers."""
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


def close_databases() -> None:
    """Give back the connections of all databases that this process has opened."""
    for database in list(OPEN):
        database.close()


class PatientDatabase(RDBStorage):
    """Optuna's storage; each request waits for a database that is away."""

    def __init__(self, patience: Patience, **arguments: Any):
        # A wrong password or host shall be told at once: nobody waits before the first answer.
        self._patience = Patience(0.0)
        try:
            super().__init__(**arguments)
        except BaseException:
            self.close()  # beaten to the tables, or not let in: its connection is nobody's
            raise
        self._patience = patience
        OPEN.add(self)

    def close(self) -> None:
        """Give the connections back."""
        OPEN.discard(self)
        # Of one whose opening failed both may be missing.
        if hasattr(self, "scoped_session"):
            self.scoped_session.remove()
        if hasattr(self, "engine"):
            self.engine.dispose()

    def set_trial_state_values(self, trial_id: int, state: TrialState, values: Sequence[float] | None = None) -> bool:
        """As Optuna's. A result whose receipt was lost with the connection counts as told."""
        attempts = 0

        def attempt() -> bool:
            nonlocal attempts
            attempts += 1
            try:
                return RDBStorage.set_trial_state_values(self, trial_id, state, values)
            except UpdateFinishedTrialError:
                stored = RDBStorage.get_trial(self, trial_id)
                if attempts > 1 and stored.state == state and list(stored.values or []) == list(values or []):
                    return True
                raise

        return self._patience.call(attempt)


def _patient(name: str) -> Any:
    original = getattr(RDBStorage, name)

    def method(self: PatientDatabase, *args: Any, **kwargs: Any) -> Any:
        return self._patience.call(original, self, *args, **kwargs)

    method.__name__, method.__doc__, method.__signature__ = name, original.__doc__, inspect.signature(original)  # type: ignore[attr-defined]
    return method


# Optuna's cache of finished trials asks for the private ones; another version may lack them.
PATIENT_METHODS = """
create_new_study get_study_id_from_name get_study_name_from_id get_study_directions get_study_user_attrs
get_study_system_attrs set_study_user_attr set_study_system_attr get_all_studies create_new_trial set_trial_param
set_trial_intermediate_value set_trial_user_attr set_trial_system_attr get_trial get_all_trials
get_trial_id_from_study_id_trial_number record_heartbeat _get_stale_trial_ids _create_new_trial _set_trial_param
_get_best_trial_id _get_trials
"""
for _name in PATIENT_METHODS.split():
    if hasattr(RDBStorage, _name):
        setattr(PatientDatabase, _name, _patient(_name))


def stale_callback_name() -> str:
    """The argument of this version of Optuna that hears of dead trials: its name changed in 4.9."""
    names = inspect.signature(RDBStorage.__init__).parameters
    new, old = "heartbeat_stale_trial_callback", "failed_trial_callback"
    return new if new in names else old


def open_database(url: URL, heartbeat: int, patience: Patience) -> PatientDatabase:
    """A database with heartbeats, its tables made; ``heartbeat`` is seconds between two beats."""
    connect = {"timeout": 30} if url.get_backend_name() == "sqlite" else {"connect_timeout": 10}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ExperimentalWarning)
        return PatientDatabase(
            patience,
            url=url.render_as_string(hide_password=False),
            # A connection that died while a trial ran is found dead before it is used.
            engine_kwargs={"pool_pre_ping": True, "connect_args": connect},
            heartbeat_interval=heartbeat,
            grace_period=GRACE_BEATS * heartbeat,
            **{stale_callback_name(): requeue_stale},
        )
