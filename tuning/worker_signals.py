"""SIGINT and SIGTERM: the trial ends cleanly, its worker says why, the process exits with the usual code."""

from __future__ import annotations

import signal
import threading
from types import FrameType, TracebackType
from typing import Any

EXIT_CODES = {signal.SIGINT: 130, signal.SIGTERM: 143}


class StopSignals:
    """Notes the first signal, so that the run can end where it may go on; the second one interrupts at once.

    Used as a context manager; outside of a process's main thread it only hears :meth:`stop`.
    """

    def __init__(self) -> None:
        self._number: int | None = None
        self._event = threading.Event()
        self._old: dict[int, Any] = {}

    def __enter__(self) -> StopSignals:
        if threading.current_thread() is threading.main_thread():
            for number in EXIT_CODES:
                self._old[number] = signal.signal(number, self._hear)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for number, handler in self._old.items():
            signal.signal(number, handler)

    def _hear(self, number: int, frame: FrameType | None) -> None:
        if self._event.is_set():
            raise KeyboardInterrupt
        self.stop(number)

    def stop(self, number: int = signal.SIGTERM) -> None:
        """Stop as if the signal had come.

        :param number: of the signal.
        """
        if self._number is None:
            self._number = number
        self._event.set()

    def is_stopping(self) -> bool:
        """Whether a signal came."""
        return self._event.is_set()

    def wait(self, seconds: float) -> bool:
        """Sleep, but not through a signal.

        :param seconds: at most.
        :return: whether a signal came.
        """
        return self._event.wait(seconds)

    @property
    def exit_code(self) -> int:
        """130 after SIGINT, 143 after SIGTERM, 0 otherwise."""
        return 0 if self._number is None else EXIT_CODES[signal.Signals(self._number)]
