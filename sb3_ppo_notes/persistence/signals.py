"""Ending well when asked to: Ctrl-C, a scheduler's SIGTERM."""

import signal
import threading
from types import FrameType, TracebackType
from typing import Any

from stable_baselines3.common.callbacks import BaseCallback

from sb3_ppo_notes.formulas.checks import InvalidTypeError
from sb3_ppo_notes.rollouts.pausing import STOP_REQUESTS

SIGNALS = (signal.SIGINT, signal.SIGTERM)


class GracefulStop:
    """Turns the first SIGINT or SIGTERM into a request that the program answers when it can.

    Within the block a signal only sets :attr:`requested`; an evaluation that is going on is left. A second SIGINT
    raises ``KeyboardInterrupt``, for whoever cannot wait. The handlers of before come back at the end of the block,
    also after an exception. In another thread than the main one, where Python takes no handlers, it does nothing; a
    signal that is being ignored (``nohup``, a shell's background job) stays ignored.

    :param raises: ``KeyboardInterrupt`` at once, for a program that keeps what it has and ends.

    >>> with GracefulStop() as stop:
    ...     signal.raise_signal(signal.SIGTERM)
    ...     print(stop.requested == signal.SIGTERM, stop.exit_code)
    True 143
    """

    def __init__(self, raises: bool = False) -> None:
        self.raises = raises
        #: The signal that came, ``None`` so far.
        self.requested: int | None = None
        self._before: dict[int, Any] = {}

    @property
    def exit_code(self) -> int:
        """The shell's code of a program that ended for this signal: 130 or 143; 0 if none came."""
        return 0 if self.requested is None else 128 + self.requested

    def __enter__(self) -> "GracefulStop":
        """Take the signals over."""
        if threading.current_thread() is threading.main_thread():
            for number in SIGNALS:
                # None: a handler that is not Python's, and could not be put back.
                if signal.getsignal(number) not in (signal.SIG_IGN, None):
                    self._before[number] = signal.signal(number, self._handle)
        STOP_REQUESTS.append(self._is_requested)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Give the signals back."""
        STOP_REQUESTS.remove(self._is_requested)
        while self._before:
            number, handler = self._before.popitem()
            signal.signal(number, handler)

    def _is_requested(self) -> bool:
        return self.requested is not None

    def _handle(self, number: int, frame: FrameType | None) -> None:
        is_second = self.requested is not None
        self.requested = self.requested or number
        if self.raises or (is_second and number == signal.SIGINT):
            raise KeyboardInterrupt


class StopOnSignal(BaseCallback):
    """Ends ``learn`` after a signal, so that what follows it (a checkpoint, a summary) is reached.

    NotesPPO and NotesA2C stop between two environment steps, where a checkpoint resumes exactly; SB3's own algorithms
    stop in the middle of one, as any callback stops them. An update that is going on is finished first.

    :param stop: within its block, or learning never hears of a signal.
    :param verbose: 1 prints a line when it stops.
    """

    def __init__(self, stop: GracefulStop, verbose: int = 0):
        if not isinstance(stop, GracefulStop):
            raise InvalidTypeError(f"stop must be a GracefulStop, got {stop!r}")
        super().__init__(verbose)
        self.stop = stop
        self._is_hooked = False

    def _on_training_start(self) -> None:
        hooks = getattr(self.model, "between_steps", None)
        self._is_hooked = hooks is not None
        if hooks is not None:
            hooks.append(self._goes_on)

    def _on_step(self) -> bool:
        return self._is_hooked or self._goes_on()

    def _goes_on(self) -> bool:
        if self.stop.requested is None:
            return True
        if self.verbose >= 1:
            name = signal.Signals(self.stop.requested).name
            print(f"{name}: stopping after {self.model.num_timesteps} steps")
        return False
