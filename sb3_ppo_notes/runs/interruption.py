"""Ctrl-C and SIGTERM as one thing: an exception in the main thread, and the exit code that a shell expects."""

import contextlib
import signal
import threading
from collections.abc import Iterator
from types import FrameType

INTERRUPTED, TERMINATED = 128 + signal.SIGINT, 128 + signal.SIGTERM


class Terminated(KeyboardInterrupt):
    """SIGTERM: whatever tidies up after Ctrl-C does so after it, too."""


@contextlib.contextmanager
def sigterm_raises() -> Iterator[None]:
    """Within it SIGTERM raises :class:`Terminated`, as Ctrl-C raises ``KeyboardInterrupt``.

    :return: a context. It does nothing outside of the main thread, where Python takes no signals.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGTERM, _terminate)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _terminate(number: int, frame: FrameType | None) -> None:
    raise Terminated


def exit_code(interruption: KeyboardInterrupt) -> int:
    """What a shell is told.

    :param interruption: that ended the command.
    :return: 143 after SIGTERM, 130 after Ctrl-C.

    >>> exit_code(Terminated()), exit_code(KeyboardInterrupt())
    (143, 130)
    """
    return TERMINATED if isinstance(interruption, Terminated) else INTERRUPTED
