"""SIGINT and SIGTERM: the trial ends cleanly, its worker says why, the process exits with the usual code."""

from __future__ import annotations

import signal
import threading
import time
from types import TracebackType

from sb3_ppo_notes.persistence import GracefulStop

#: Seconds between two looks whether a signal came, while there is nothing else to do.
LOOK_SECONDS = 0.1


class StopSignals:
    """A request to stop, by a signal or by :meth:`stop`; a second SIGINT interrupts at once.

    A context manager: only within it signals are heard, and only in a process's main thread.
    """

    def __init__(self) -> None:
        self._signals = GracefulStop()
        self._told: int | None = None
        self._event = threading.Event()

    def __enter__(self) -> StopSignals:
        self._signals.__enter__()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._signals.__exit__(kind, error, traceback)

    def stop(self, number: int = signal.SIGTERM) -> None:
        """Stop as if a signal had come."""
        self._told = self._told or number
        self._event.set()

    @property
    def number(self) -> int | None:
        """The signal that came, ``None`` so far."""
        return self._signals.requested or self._told

    def is_stopping(self) -> bool:
        """True once one came."""
        return self.number is not None

    def wait(self, seconds: float) -> bool:
        """Sleep, but not through a signal; returns whether one came."""
        deadline = time.monotonic() + seconds
        while not self.is_stopping() and (left := deadline - time.monotonic()) > 0:
            self._event.wait(min(left, LOOK_SECONDS))
        return self.is_stopping()

    @property
    def exit_code(self) -> int:
        """130 after SIGINT, 143 after SIGTERM, 0 if none came."""
        return 0 if self.number is None else 128 + self.number
