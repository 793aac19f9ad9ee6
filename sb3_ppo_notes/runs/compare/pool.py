"""All runs of a comparison: which are there already, and the others, one process each, on all cores."""

import contextlib
import json
import multiprocessing
import os
import time
from collections import deque
from collections.abc import Iterator, Sequence
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, TextColumn, TimeRemainingColumn

from sb3_ppo_notes.formulas.checks import InvalidValueError, NonFiniteError
from sb3_ppo_notes.runs.bench.process import ONE_THREAD
from sb3_ppo_notes.runs.compare import run as compare_run
from sb3_ppo_notes.runs.compare.run import KILLED, Run, write_record
from sb3_ppo_notes.runs.console import ProgressBar

Key = tuple[str, str, int]
FOLDER = "runs"
#: Steps per second are measured over as long, so that the time left does not jump with every run that ends.
SPEED_WINDOW = 120.0
COLUMNS = (
    TextColumn("{task.fields[done]} of {task.fields[total_runs]} runs"),
    BarColumn(),
    TextColumn("{task.fields[speed]} steps/s"),
    TimeRemainingColumn(),
    TextColumn("{task.description}"),
)


def check_outdir(outdir: Path, resume: bool) -> None:
    """Refuse a folder that cannot be written to, or that holds another comparison; it need not exist."""
    folder = next(path for path in (outdir.absolute(), *outdir.absolute().parents) if path.exists())
    if not folder.is_dir() or not os.access(folder, os.R_OK | os.W_OK | os.X_OK):
        what = "closed folder" if folder.is_dir() else "file"
        raise InvalidValueError(f"outdir must be a folder to read and write, got {outdir}: {folder} is a {what}")
    if not resume and next((outdir / FOLDER).glob("[!.]*.json"), None) is not None:
        raise InvalidValueError(f"outdir must be without runs unless --resume goes on with them, got {outdir}")


def read_records(runs: Sequence[Run], outdir: Path) -> dict[Key, dict[str, Any]]:
    """The records that an earlier attempt has left.

    :raises ValueError: for a file that is none of ours, a score that is no number, or a run that was made otherwise.
    """
    records = {}
    for run in runs:
        path = outdir / FOLDER / run.path
        if path.exists():
            records[run.key] = _read(run, path)
    return records


def count_done(runs: Sequence[Run], outdir: Path) -> int:
    """Runs that need not be repeated: finished, or failed by themselves; one that was killed has not."""
    return sum(record["status"] != KILLED for record in read_records(runs, outdir).values())


def _read(run: Run, path: Path) -> dict[str, Any]:
    def refuse(constant: str) -> float:
        raise NonFiniteError(f"scores must be finite, got {constant} in {path}")

    try:
        record: dict[str, Any] = json.loads(path.read_text(), parse_constant=refuse)
        identity, status = record["run"], record["status"]
    except NonFiniteError:
        raise
    except (ValueError, KeyError, TypeError) as error:
        raise InvalidValueError(f"outdir: {path} is not the file of a run; remove it to repeat the run") from error
    difference = first_difference(identity, run.identity())
    if difference is not None:
        name, was, now = difference
        arm, env, seed = run.key
        raise InvalidValueError(
            f"outdir holds a run made otherwise, {name} was {was!r} and is {now!r} ({arm}, {env}, seed {seed}); "
            "give another --outdir"
        )
    return record | {"status": status}


def first_difference(one: Any, other: Any, name: str = "") -> tuple[str, Any, Any] | None:
    """Name and both values of the first difference of two nested dicts, ``None`` if there is none.

    >>> first_difference({"a": 1, "b": {"c": 2}}, {"a": 1, "b": {"c": 3}})
    ('b.c', 2, 3)
    """
    if not (isinstance(one, dict) and isinstance(other, dict)):
        return None if one == other else (name, one, other)
    for key in sorted({*one, *other}):
        difference = first_difference(one.get(key), other.get(key), f"{name}.{key}" if name else str(key))
        if difference is not None:
            return difference
    return None


def run_all(runs: Sequence[Run], outdir: Path, jobs: int) -> dict[Key, dict[str, Any]]:
    """Do the runs that are not done yet, ``jobs`` side by side, and give the records of all."""
    records = read_records(runs, outdir)
    records = {key: record for key, record in records.items() if record["status"] != KILLED}
    missing = [run for run in runs if run.key not in records]
    if missing:
        folder = outdir / FOLDER
        folder.mkdir(parents=True, exist_ok=True)
        with RunsProgress(missing, done=len(records), total=len(runs)) as progress:
            _run_missing(missing, folder, jobs, progress)
    return read_records(runs, outdir)


class _Child:
    """A process that does a run, and the connection that tells how far it is."""

    def __init__(self, context: Any, run: Run, folder: Path):
        self.run, self._folder = run, folder
        self.connection, sender = context.Pipe(duplex=False)
        self.process = context.Process(target=compare_run.main, args=(run, folder, sender), daemon=True)
        self.process.start()
        sender.close()
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
            log_text = log.read_text(errors="replace") if log.exists() else ""
            write_record(
                self.run, {"status": KILLED, "error": f"the process {error}", "traceback": log_text}, self._folder
            )

    def end(self) -> None:
        """Kill it, and keep nothing."""
        self.process.kill()
        self.process.join()


def _run_missing(runs: Sequence[Run], folder: Path, jobs: int, progress: "RunsProgress") -> None:
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
                        progress.count(child.hear())
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


class RunsProgress(ProgressBar):
    """A progress bar over environment steps: runs done, of ``total``; steps per second; time left."""

    def __init__(self, runs: Sequence[Run], done: int, total: int, console: Console | None = None):
        super().__init__(
            sum(run.total_timesteps for run in runs),
            columns=COLUMNS,
            console=console,
            fields={"done": done, "total_runs": total, "speed": "-"},
            speed_estimate_period=SPEED_WINDOW,
        )
        self._done, self._steps, self._started = done, 0, time.perf_counter()

    def show(self, run: Run) -> None:
        """Name one of the runs that are going on."""
        arm, env, seed = run.key
        self.describe(f"{arm}, {env}, seed {seed}")

    def count(self, steps: int) -> None:
        """Count environment steps that were taken."""
        self._steps += steps
        self.advance(steps, speed=f"{self._steps / (time.perf_counter() - self._started):,.0f}")

    def finish(self, run: Run, steps: int) -> None:
        """Count a run that has ended, and has told of so many environment steps."""
        self._done += 1
        # The bar counts whole budgets: a rollout more was taken, or a run that failed took fewer.
        self.advance(run.total_timesteps - steps, done=self._done)
