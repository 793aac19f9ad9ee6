"""The terminal: one progress bar, and tables that fit a pipe."""

import shlex
import signal
import sys
from collections.abc import Mapping
from types import TracebackType
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, ProgressColumn, TextColumn, TimeRemainingColumn
from stable_baselines3.common.callbacks import BaseCallback
from typing_extensions import Self

#: Exit code after Ctrl-C.
INTERRUPTED = 128 + signal.SIGINT
#: Of a file or a pipe, into which a table is printed; a terminal has its own width.
COLUMNS = 100
STEPS = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())


def table_console(console: Console | None = None) -> Console:
    """A console that is 100 columns wide where it is no terminal; made from the standard output if none is given."""
    console = console or Console()
    return console if console.is_terminal else Console(width=COLUMNS, file=console.file)


def command_line(command: str, options: Mapping[str, Any]) -> str:
    """The command line that does the same again; ``None`` and ``()`` are left out.

    >>> command_line("bench", {"n_envs": 8, "seed": None, "cold_compile": True, "outdir": "a b", "imports": ("c", "d")})
    "python -m sb3_ppo_notes bench --n-envs 8 --cold-compile --outdir 'a b' --import c d"
    """
    words = ["python", "-m", "sb3_ppo_notes", command]
    for option, value in options.items():
        name = "import" if option == "imports" else option.replace("_", "-")
        if isinstance(value, bool):
            words.append(f"--{name}" if value else f"--no-{name}")
        elif isinstance(value, tuple):
            words += [f"--{name}", *value] if value else []
        elif value is not None:
            words += [f"--{name}", str(value)]
    return shlex.join(words)


class ProgressBar:
    """Counts towards a total, on a terminal's standard error and nowhere else; gone when it is done.

    :param console: another place to draw to, whatever it is.
    :param options: of Rich's ``Progress``.
    """

    def __init__(
        self,
        total: int,
        done: int = 0,
        columns: tuple[ProgressColumn, ...] = STEPS,
        console: Console | None = None,
        fields: dict[str, Any] | None = None,
        is_hidden: bool = False,
        **options: Any,
    ):
        is_hidden |= console is None and not sys.stderr.isatty()
        console = console or Console(stderr=True)
        self.progress = Progress(*columns, console=console, disable=is_hidden, transient=True, **options)
        self.task = self.progress.add_task("", total=total, completed=done, **fields or {})

    def __enter__(self) -> Self:
        self.progress.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.progress.stop()

    def describe(self, text: str, **fields: Any) -> None:
        """Say in a few words what is running."""
        self.progress.update(self.task, description=text, **fields)

    def advance(self, count: int, **fields: Any) -> None:
        """Count on."""
        self.progress.update(self.task, advance=count, **fields)

    def callback(self) -> BaseCallback:
        """A callback that counts the environment steps of one training run, once a rollout."""
        return _Advance(self)


class _Advance(BaseCallback):
    #: Of several processes the first has it alone.
    is_of_one_process = True

    def __init__(self, bar: ProgressBar, seen: int = 0):
        super().__init__()
        # Named as the arguments: nothing that a checkpoint should remember.
        self.bar, self.seen = bar, seen

    def _on_training_start(self) -> None:
        self.seen = self.model.num_timesteps

    def _on_step(self) -> bool:
        return True

    def _on_rollout_end(self) -> None:
        self.bar.advance(self.model.num_timesteps - self.seen)
        self.seen = self.model.num_timesteps
