"""A progress bar over environment steps, shown on a terminal and nowhere else."""

import sys
from types import TracebackType

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from stable_baselines3.common.callbacks import BaseCallback


class StepsProgress:
    """Counts environment steps over several training runs.

    :param total: steps of all runs together.
    :param done: of them, before.
    """

    def __init__(self, total: int, done: int = 0):
        console = Console(stderr=True)
        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
        self._progress = Progress(*columns, console=console, disable=not sys.stderr.isatty(), transient=True)
        self._task = self._progress.add_task("", total=total, completed=done)

    def __enter__(self) -> "StepsProgress":
        self._progress.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._progress.stop()

    def describe(self, text: str) -> None:
        """Say what is running.

        :param text: a few words.
        """
        self._progress.update(self._task, description=text)

    def callback(self) -> BaseCallback:
        """A callback that moves the bar.

        :return: for one training run. It looks once a rollout, so that it costs nothing worth measuring.
        """
        return _Advance(self._progress, self._task)


class _Advance(BaseCallback):
    def __init__(self, progress: Progress, task: object, seen: int = 0):
        super().__init__()
        # Named as the arguments: nothing that a checkpoint should remember.
        self.progress, self.task, self.seen = progress, task, seen

    def _on_training_start(self) -> None:
        self.seen = self.model.num_timesteps

    def _on_step(self) -> bool:
        return True

    def _on_rollout_end(self) -> None:
        self.progress.advance(self.task, self.model.num_timesteps - self.seen)  # type: ignore[arg-type]
        self.seen = self.model.num_timesteps
