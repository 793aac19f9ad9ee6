"""SIGINT and SIGTERM: the trial ends cleanly, its worker says why, the process exits with the usual code."""

from __future__ import annotations

import signal
import threading
import time

from sb3_ppo_notes.persistence import GracefulStop

#: Seconds between two looks whether a signal came, while there is nothing else to do.
LOOK_SECONDS = 0.1


class StopSignals(GracefulStop):
    """A request to stop, by a signal or by :meth:`stop`; a second SIGINT interrupts at once."""

    def __init__(self) -> None:
        super().__init__()
        self._event = threading.Event()

    def __enter__(self) -> StopSignals:
        super().__enter__()
        return self

    def stop(self, number: int = signal.SIGTERM) -> None:
        """Stop as if a signal had come."""
        self.requested = self.requested or number
        self._event.set()

    def is_stopping(self) -> bool:
        """True once one came."""
        return self.requested is not None

    def wait(self, seconds: float) -> bool:
        """Sleep, but not through a signal; returns whether one came."""
        deadline = time.monotonic() + seconds
        while not self.is_stopping() and (left := deadline - time.monotonic()) > 0:
            self._event.wait(min(left, LOOK_SECONDS))
        return self.is_stopping()
