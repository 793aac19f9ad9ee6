"""All runs of a comparison: which are there already, and the others, one process each, on all cores."""

import contextlib
import json
import multiprocessing
import os
import sys
import time
from collections import deque
from collections.abc import Iterator, Sequence
from multiprocessing.connection import Connection, wait
from pathlib import Path
from types import TracebackType
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

from sb3_ppo_notes.formulas.checks import InvalidValueError, NonFiniteError
from sb3_ppo_notes.runs.bench.process import ONE_THREAD
from sb3_ppo_notes.runs.compare import run as compare_run
from sb3_ppo_notes.runs.compare.run import KILLED, Run, write_record

Key = tuple[str, str, int]
FOLDER = "runs"
#: Steps per second are measured over as long, so that the time left does not jump with every run that ends.
SPEED_WINDOW = 120.0


def check_outdir(outdir: Path, resume: bool) -> None:
    """Refuse a folder that cannot be written to, or that holds another comparison.

    :param outdir: where the results shall go; need not exist.
    :param resume: whether runs in it are welcome.
    :raises ValueError: saying what is in the way.
    """
    folder = next(path for path in (outdir.absolute(), *outdir.absolute().parents) if path.exists())
    if not folder.is_dir() or not os.access(folder, os.R_OK | os.W_OK | os.X_OK):
        what = "closed folder" if folder.is_dir() else "file"
        raise InvalidValueError(f"outdir must be a folder to read and write, got {outdir}: {folder} is a {what}")
    if not resume and next((outdir / FOLDER).glob("[!.]*.json"), None) is not None:
        raise InvalidValueError(f"outdir must be without runs unless --resume goes on with them, got {outdir}")


def read_records(runs: Sequence[Run], outdir: Path) -> dict[Key, dict[str, Any]]:
    """What an earlier attempt has left.

    :param runs: of this comparison.
    :param outdir: its folder.
    :return: the record of each run that is there.
    :raises ValueError: for a file that is none of ours, a score that is no number, or a run that was made otherwise.
    """
    records = {}
    for run in runs:
        path = outdir / FOLDER / run.path
        if path.exists():
            records[run.key] = _read(run, path)
    return records


def number_done(runs: Sequence[Run], outdir: Path) -> int:
    """How many runs need not be repeated.

    :param runs: of this comparison.
    :param outdir: its folder.
    :return: how many have finished, or failed by themselves; one that was killed has not.
    :raises ValueError: as :func:`read_records`.
    """
    return sum(record["status"] != KILLED for record in read_records(runs, outdir).values())


def _read(run: Run, path: Path) -> dict[str, Any]:
    def refuse(constant: str) -> float:
        raise NonFiniteError(f"scores must be finite, got {constant} in {path}")

    try:
        record: dict[str, Any] = json.loads(path.read_text(), parse_constant=refuse)
        made, status = record["run"], record["status"]
    except NonFiniteError:
        raise
    except (ValueError, KeyError, TypeError) as error:
        raise InvalidValueError(f"outdir: {path} is not the file of a run; remove it to repeat the run") from error
    difference = first_difference(made, run.identity())
    if difference is not None:
        name, was, now = difference
        arm, env, seed = run.key
        raise InvalidValueError(
            f"outdir holds a run made otherwise, {name} was {was!r} and is {now!r} ({arm}, {env}, seed {seed}); "
            "give another --outdir"
        )
    return record | {"status": status}


def first_difference(one: Any, other: Any, name: str = "") -> tuple[str, Any, Any] | None:
    """Where two nested dicts differ.

    :param one: plain data.
    :param other: plain data.
    :param name: of both, in what they are from.
    :return: name and both values of the first difference, ``None`` if there is none.

    >>> first_difference({"a": 1, "b": {"c": 2}}, {"a": 1, "b": {"c": 3}})
    ('b.c', 2, 3)
    """
    if not (isinstance(one, dict) and isinstance(other, dict)):
        return None if one == other else (name, one, other)
    for key in sorted({*one, *other}):
        found = first_difference(one.get(key), other.get(key), f"{name}.{key}" if name else str(key))
        if found is not None:
            return found
    return None


def perform(runs: Sequence[Run], outdir: Path, jobs: int) -> dict[Key, dict[str, Any]]:
    """Do what is not done yet.

    :param runs: of this comparison, in the order in which they shall begin.
    :param outdir: its folder; made if there is none.
    :param jobs: how many go side by side.
    :return: the record of every run.
    :raises ValueError: as :func:`read_records`.
    """
    records = read_records(runs, outdir)
    records = {key: record for key, record in records.items() if record["status"] != KILLED}
    missing = [run for run in runs if run.key not in records]
    if missing:
        folder = outdir / FOLDER
        folder.mkdir(parents=True, exist_ok=True)
        with RunsProgress(missing, done=len(records), total=len(runs)) as progress:
            _perform(missing, folder, jobs, progress)
    return read_records(runs, outdir)


class _Child:
    """A process that does a run, and the connection that tells how far it is."""

    def __init__(self, context: Any, run: Run, folder: Path):
        self.run, self._folder = run, folder
        self.connection, theirs = context.Pipe(duplex=False)
        self.process = context.Process(target=compare_run.main, args=(run, folder, theirs), daemon=True)
        self.process.start()
        theirs.close()
        self.steps = 0

    def hear(self) -> int:
        """Environment steps since the last time."""
        before = self.steps
        try:
            while self.connection.poll():
                self.steps = self.connection.recv()
        except (EOFError, OSError):
            self.connection.close()
        return self.steps - before

    def close(self) -> None:
        """Wait for its end. A process that has left no file was killed, and that is written down too."""
        self.process.join()
        self.connection.close()
        if not (self._folder / self.run.path).exists():
            code = self.process.exitcode or 0
            error = f"was ended by signal {-code}" if code < 0 else f"ended with exit code {code}"
            log = (self._folder / self.run.path).with_suffix(".log")
            said = log.read_text(errors="replace") if log.exists() else ""
            write_record(self.run, {"status": KILLED, "error": f"the process {error}", "traceback": said}, self._folder)

    def end(self) -> None:
        """Kill it, and keep nothing."""
        self.process.kill()
        self.process.join()


def _perform(runs: Sequence[Run], folder: Path, jobs: int, progress: "RunsProgress") -> None:
    waiting, children = deque(runs), list[_Child]()
    for run in runs:
        (folder / run.path).unlink(missing_ok=True)
    with _context() as context:
        try:
            while waiting or children:
                while waiting and len(children) < jobs:
                    children.append(_Child(context, waiting.popleft(), folder))
                progress.show(children[0].run)
                ready: list[Connection | int] = [child.process.sentinel for child in children]
                wait([*ready, *(child.connection for child in children if not child.connection.closed)])
                for child in tuple(children):
                    if not child.connection.closed:
                        progress.advance(child.hear())
                    if not child.process.is_alive():
                        child.close()
                        children.remove(child)
                        progress.finish(child.run, child.steps)
        finally:
            for child in children:
                child.end()
            # What a killed process was about to write.
            for path in folder.glob(".*.json"):
                path.unlink()


@contextlib.contextmanager
def _context() -> Iterator[Any]:
    """Processes that begin with the libraries loaded and nothing else, with one thread each."""
    method = "forkserver" if "forkserver" in multiprocessing.get_all_start_methods() else "spawn"
    context = multiprocessing.get_context(method)
    if method == "forkserver":
        # An optimiser imports the latter when it is made, which takes longer than a short run.
        context.set_forkserver_preload([compare_run.__name__, "torch._dynamo"])
    before = {name: os.environ.get(name) for name in ONE_THREAD}
    os.environ.update(ONE_THREAD)
    try:
        yield context
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


class RunsProgress:
    """A progress bar over environment steps: runs done, steps per second, time left. Shown on a terminal only.

    :param runs: that are to be done.
    :param done: runs that are done already.
    :param total: runs of the whole comparison.
    :param console: where it is drawn, ``None`` for the standard error.
    """

    def __init__(self, runs: Sequence[Run], done: int, total: int, console: Console | None = None):
        columns = (
            TextColumn("{task.fields[done]} of {task.fields[total_runs]} runs"),
            BarColumn(),
            TextColumn("{task.fields[speed]} steps/s"),
            TimeRemainingColumn(),
            TextColumn("{task.description}"),
        )
        self._progress = Progress(
            *columns,
            console=console or Console(stderr=True),
            disable=console is None and not sys.stderr.isatty(),
            transient=True,
            speed_estimate_period=SPEED_WINDOW,
        )
        self._done, self._steps, self._started = done, 0, time.perf_counter()
        self._task = self._progress.add_task(
            "", total=sum(run.total_timesteps for run in runs), done=done, total_runs=total, speed="-"
        )

    def __enter__(self) -> "RunsProgress":
        self._progress.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._progress.stop()

    def show(self, run: Run) -> None:
        """Say what is going on.

        :param run: one that is.
        """
        arm, env, seed = run.key
        self._progress.update(self._task, description=f"{arm}, {env}, seed {seed}")

    def advance(self, steps: int) -> None:
        """Count.

        :param steps: environment steps that were taken.
        """
        self._steps += steps
        speed = self._steps / (time.perf_counter() - self._started)
        self._progress.update(self._task, advance=steps, speed=f"{speed:,.0f}")

    def finish(self, run: Run, steps: int) -> None:
        """Count a run.

        :param run: that has ended.
        :param steps: environment steps that it has told of.
        """
        self._done += 1
        # The bar counts whole budgets: a rollout more was taken, or a run that failed took fewer.
        self._progress.update(self._task, advance=run.total_timesteps - steps, done=self._done)
