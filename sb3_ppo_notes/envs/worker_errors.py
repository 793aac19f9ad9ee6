"""Errors of environments in other processes: which one, why, and its own traceback.

In the functions ``doing`` is what the environment was asked to do.
"""

import signal
from typing import Any

from sb3_ppo_notes.envs.errors import OTHER_PROCESSES, UNKNOWN

UNKNOWN_NAMES = tuple(error.__name__ for error in UNKNOWN)


class EnvWorkerError(RuntimeError):
    """An environment's process raised, died, or could not be asked.

    The message is one line. The traceback from inside the process is ``traceback``, and is shown above this error's
    own as its cause.

    :param message: names the environment and what it was doing.
    :param index: of the environment; ``None`` if it is no single one's fault.
    :param traceback: from inside the process, if it could still write one.
    :param exitcode: of the process if it has ended; −n if signal n killed it.
    :param kind: name of the class of the exception that the environment raised, if it did.
    """

    def __init__(
        self,
        message: str,
        index: int | None = None,
        traceback: str | None = None,
        exitcode: int | None = None,
        kind: str | None = None,
    ):
        super().__init__(message)
        self.index = index
        self.traceback = traceback
        self.exitcode = exitcode
        self.kind = kind
        if traceback is not None:
            self.__cause__ = WorkerTraceback(traceback)

    @property
    def signal(self) -> int | None:
        """Number of the signal that killed the process, ``None`` if none did."""
        return -self.exitcode if self.exitcode is not None and self.exitcode < 0 else None

    def __reduce__(self) -> Any:
        # An exception is pickled as its class and its args: without this, index and traceback would stay behind when
        # it passes through a process pool.
        return type(self), (str(self), self.index, self.traceback, self.exitcode, self.kind)


class EnvWorkerTimeoutError(EnvWorkerError, TimeoutError):
    """An environment's process did not answer in time, and was killed."""


class WorkerTraceback(Exception):
    """A traceback of another process, as text."""

    def __init__(self, text: str):
        super().__init__(text)
        self.text = text

    def __str__(self) -> str:
        return f"\n\n{self.text}"


def exception_error(index: int, doing: str, kind: str, text: str, traceback: str) -> EnvWorkerError:
    """The error of an environment that raised."""
    line = " ".join(text.split())
    hint = f"; {OTHER_PROCESSES}" if kind in UNKNOWN_NAMES else ""
    return EnvWorkerError(f"environment {index} raised {kind} in {doing}: {line}{hint}", index, traceback, kind=kind)


def death_error(index: int, doing: str, exitcode: int | None) -> EnvWorkerError:
    """The error of an environment whose process has ended, by a code that may not be known."""
    what = f"exited with code {exitcode}"
    if exitcode is None:
        what = "closed its connection"
    elif exitcode < 0:
        what = f"was killed by signal {-exitcode}{_signal_name(-exitcode)}"
        if -exitcode == getattr(signal, "SIGKILL", 9):
            what += " (the system does that when memory runs out: see the kernel's log for 'Out of memory')"
    return EnvWorkerError(f"environment {index}: its process {what} in {doing}", index, None, exitcode)


def timeout_error(index: int, doing: str, seconds: float, argument: str) -> EnvWorkerTimeoutError:
    """The error of an environment that does not answer; ``argument`` is the limit's name."""
    return EnvWorkerTimeoutError(
        f"environment {index} did not answer {doing} within {argument}={seconds:g} s; its process was killed", index
    )


def unreadable_error(index: int, doing: str, error: Exception) -> EnvWorkerError:
    """The error of an environment whose answer cannot be unpickled here."""
    kind = type(error).__name__
    return EnvWorkerError(
        f"environment {index}: its answer to {doing} cannot be read: {kind}: {error}", index, kind=kind
    )


def _signal_name(number: int) -> str:
    try:
        return f", {signal.Signals(number).name}"
    except ValueError:
        return ""
