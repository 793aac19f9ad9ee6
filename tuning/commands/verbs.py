"""The verbs that look at a study: ``status``, ``report``, ``export`` and ``compare``."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import optuna
import tyro
from optuna.storages import BaseStorage
from rich.console import Console
from rich.table import Table

from tuning.commands.compare import comparison_table, optimism_line
from tuning.commands.progress import StudyProgress
from tuning.report import write_report
from tuning.report.export import write_best
from tuning.report.record import open_study, protocol_of, read_record, stages_of, summary
from tuning.selection import Protocol
from tuning.space import Space
from tuning.space.setup import environment_of
from tuning.storage import Address, open_storage
from tuning.storage.database import Patience
from tuning.worker.identity import IDENTITY
from tuning.worker.processes import BAD_INPUT, ENVIRONMENT_FAILED, run_workers, silence_optuna
from tuning.worker.queues import FINALISTS, TEST, environment_failure
from tuning.worker.settings import Settings, baselines

COLUMNS = 110


def console() -> Console:
    """Standard output; a file or a pipe is as wide as a table needs."""
    output = Console()
    return output if output.is_terminal else Console(width=COLUMNS)


def exit_code(code: int, study: optuna.Study, storage: BaseStorage, hide: Callable[[str], str]) -> int:
    """The exit code once workers have ended; an environment's own error is printed."""
    if code != ENVIRONMENT_FAILED:
        return code
    stages = stages_of(study, storage)
    line = environment_failure([*stages.search, *stages.finalists, *stages.test])
    print(f"error: study {study.study_name!r} stopped, {hide(str(line))}", file=sys.stderr)
    return BAD_INPUT


@dataclass
class StudyOptions:
    """A study's name, its storage, and the folder of what is written about it."""

    study: str = ""
    """Its name; letters, digits, dots, dashes. If not given, the environment's."""
    storage: Annotated[str, tyro.conf.arg(metavar="FILE|URL")] = ""
    """A journal file (*.log, *.journal) or a database (postgresql://..., mysql://..., sqlite:///FILE); if not given,
    STUDY.journal in outdir. On several machines: the same database."""
    outdir: Annotated[Path | None, tyro.conf.arg(metavar="DIR")] = None
    """Folder of reports and checkpoints; if not given, studies/STUDY."""

    def checked_name(self) -> str:
        """The study's name, checked: files are called by it."""
        if not self.study:
            raise ValueError("study must be given: --study NAME, as run said it (without one the environment's id)")
        if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]*", self.study) or self.study.endswith((FINALISTS, TEST)):
            raise ValueError(
                f"study must be a name of letters, digits, dots and dashes that does not end in {FINALISTS} or {TEST}, "
                f"got {self.study!r}"
            )
        return self.study

    def folder(self) -> Path:
        """The folder of what is written, checked: it can be written to."""
        folder = (self.outdir or Path("studies") / self.checked_name()).absolute()
        there = next(path for path in (folder, *folder.parents) if path.exists())
        if not there.is_dir() or not os.access(there, os.W_OK):
            what = "read-only folder" if there.is_dir() else "file"
            raise ValueError(f"outdir must be a folder to write to, got {self.outdir}: {there} is a {what}")
        return folder

    def address(self) -> Address:
        """The storage."""
        return Address(self.storage_text())

    def storage_text(self) -> str:
        """The storage as it was given, or the journal beside the output."""
        return self.storage or str(self.folder() / f"{self.checked_name()}.journal")

    def hide(self, text: str) -> str:
        """A message without the storage's password."""
        try:
            return self.address().hide(text)
        except (ValueError, OSError):
            # What cannot be understood cannot be searched for a password; the messages that show it hide it.
            return text

    def open(self) -> tuple[optuna.Study, BaseStorage]:
        """The study, which must be there, and its storage."""
        silence_optuna()
        self.checked_name()
        address = self.address()
        storage = open_storage(address, heartbeat=60, patience=Patience(30.0), must_exist=True)
        return open_study(self.study, storage), storage


@dataclass
class Status(StudyOptions):
    """Show how a study goes."""

    def __call__(self) -> int:
        """Print the summary as a table."""
        study, storage = self.open()
        table = Table(title=f"study {self.study}")
        table.add_column("what")
        table.add_column("value", justify="right")
        for name, value in summary(study, storage).items():
            text = (
                "-"
                if value is None
                else f"{value:,.1f}"
                if isinstance(value, float)
                else f"{value:,}"
                if isinstance(value, int)
                else value
            )
            table.add_row(name, text)
        console().print(table)
        return 0


@dataclass
class Report(StudyOptions):
    """Write trials.csv, study.json, report.html, report.md and CHECKLIST.md.

    And best.yml, if there is a winner.
    """

    def __call__(self) -> int:
        """Write the files."""
        study, storage = self.open()
        record = read_record(study, storage, str(self.address()))
        written = write_report(record, self.folder())
        console().print(f"written: {', '.join(str(path) for path in written)}", soft_wrap=True, highlight=False)
        return 0


@dataclass
class Export(StudyOptions):
    """Write the winner as best.yml, in rl_zoo3's format."""

    def __call__(self) -> int:
        """Write the file; refused if no trial has been completed."""
        study, storage = self.open()
        path = write_best(read_record(study, storage, str(self.address())), self.folder())
        console().print(f"written: {path}", soft_wrap=True, highlight=False)
        return 0


@dataclass
class Compare(StudyOptions):
    """Run what is missing of the test, and show the comparison.

    It is of the winner, SB3's defaults and rl_zoo3's values.
    """

    workers: int = 1
    """Processes."""
    test_seeds: int | None = None
    """Number of seeds; those of the study if not given."""

    def __call__(self) -> int:
        """Run and print it; the exit code is 1 if runs keep failing, 2 if their environment does."""
        if self.workers < 1:
            raise ValueError(f"workers must be >= 1, got {self.workers}")
        if self.test_seeds is not None and self.test_seeds < 2:
            raise ValueError(f"test_seeds must be >= 2, got {self.test_seeds}")
        study, storage = self.open()
        identity, protocol = study.user_attrs[IDENTITY], protocol_of(study)
        record = read_record(study, storage, str(self.address()))
        if record.winner is None:
            states = [trial.state for trial in record.trials]
            raise ValueError(
                f"study {self.study!r} has no winner yet ({states.count('complete')} completed trials, "
                f"{states.count('failed')} failed, {states.count('pruned')} pruned): run it to its end first"
            )
        settings = self._settings(identity, self._more_seeds(protocol))
        with StudyProgress(study, storage) as line:
            code = run_workers(settings, self.workers, line.show, ("test",))
        record = read_record(study, storage, str(self.address()))
        if code == 0:
            console().print(comparison_table(record))
            console().print(optimism_line(record), highlight=False)
        return exit_code(code, study, storage, self.hide)

    def _more_seeds(self, protocol: Protocol) -> Protocol:
        if self.test_seeds is None:
            return protocol
        first = min(protocol.test_seeds)
        values = {name: getattr(protocol, name) for name in protocol.__dataclass_fields__}
        return Protocol(**{**values, "test_seeds": tuple(range(first, first + self.test_seeds))})

    def _settings(self, identity: dict[str, Any], protocol: Protocol) -> Settings:
        return Settings(
            study=self.study,
            storage=self.storage_text(),
            folder=self.folder() / "checkpoints",
            env_id=identity["env"],
            algo=identity["algo"],
            space=Space(identity["algo"], ()),
            base=identity["base"],
            protocol=protocol,
            total_timesteps=identity["n_timesteps"],
            timeout=float("1e9"),
            n_eval_episodes=identity["n_eval_episodes"],
            compile=identity["compile"],
            baselines=baselines(identity["env"], identity["algo"], environment_of(identity["base"])),
        )
