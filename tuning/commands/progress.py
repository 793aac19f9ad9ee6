"""One line that says how a study goes, drawn by the process that started the workers."""

from __future__ import annotations

import time

import optuna
from optuna.storages import BaseStorage
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn

from tuning.report.record import summary

#: Seconds between two looks at the storage, which may be a database far away.
EVERY_SECONDS = 2.0


class StudyProgress:
    """The line: a bar of the budget on a terminal, the last state of it anywhere else."""

    def __init__(self, study: optuna.Study, storage: BaseStorage):
        self._study, self._storage = study, storage
        # Of its own: what workers write of a trial must not end up in a table that is read by a machine.
        self._console = Console(stderr=True)
        self._bar = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            TextColumn("{task.percentage:>3.0f} %"),
            console=self._console,
            disable=not self._console.is_terminal,
            auto_refresh=False,
        )
        self._task = self._bar.add_task("starts", total=study.user_attrs.get("budget"))
        self._last = -float("inf")

    def __enter__(self) -> StudyProgress:
        self._bar.start()
        return self

    def __exit__(self, *exception: object) -> None:
        if not any(exception):
            self.show(now=True)
        self._bar.stop()
        if not self._console.is_terminal and not any(exception):
            self._console.print(self.text(summary(self._study, self._storage)), soft_wrap=True, highlight=False)

    def show(self, now: bool = False) -> None:
        """Draw it, if it is time to, or ``now``."""
        if self._bar.disable or (not now and time.monotonic() - self._last < EVERY_SECONDS):
            return
        self._last = time.monotonic()
        state = summary(self._study, self._storage)
        self._bar.update(self._task, description=self.text(state), completed=state["steps used"], refresh=True)

    def text(self, state: dict[str, object]) -> str:
        """Such as ``cartpole search: 12 complete, 3 pruned, 2 running, best 487.3, 1,200,000 steps left``."""
        parts = [f"{state[name]} {name}" for name in ("complete", "pruned", "failed", "running") if state[name]]
        parts += [f"{state[name]} {name}" for name in ("finalist runs", "test runs") if state[name]]
        best, left = state["best so far"], state["budget left"]
        parts.append("no score yet" if best is None else f"best {best:.1f}")
        if left is not None:
            parts.append(f"{left:,} steps left")
        return f"{self._study.study_name} {state['stage']}: {', '.join(parts)}"
