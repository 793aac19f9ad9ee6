"""Where a study is: the options that all verbs share."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import optuna
import tyro
from optuna.storages import BaseStorage

from tuning.report.record import opened_study
from tuning.storage import Address, open_storage
from tuning.storage.patience import Patience
from tuning.worker.processes import quiet
from tuning.worker.queues import FINALISTS, TEST


@dataclass
class Place:
    """A study's name, its storage, and the folder of what is written about it."""

    study: str = ""
    """Its name; letters, digits, dots, dashes. If not given, the environment's."""
    storage: Annotated[str, tyro.conf.arg(metavar="FILE|URL")] = ""
    """A journal file (*.log, *.journal) or a database (postgresql://..., mysql://..., sqlite:///FILE); if not given,
    STUDY.journal in outdir. On several machines: the same database."""
    outdir: Annotated[Path | None, tyro.conf.arg(metavar="DIR")] = None
    """Where reports and checkpoints go; if not given, studies/STUDY."""

    def named(self) -> str:
        """The study's name, checked: files are called by it."""
        if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]*", self.study) or self.study.endswith((FINALISTS, TEST)):
            raise ValueError(
                f"study must be a name of letters, digits, dots and dashes that does not end in {FINALISTS} or {TEST}, "
                f"got {self.study!r}"
            )
        return self.study

    def folder(self) -> Path:
        """The folder of what is written, checked: it can be written to."""
        folder = (self.outdir or Path("studies") / self.named()).absolute()
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
        return self.storage or str(self.folder() / f"{self.named()}.journal")

    def hide(self, text: str) -> str:
        """A message without the storage's password."""
        try:
            return self.address().hide(text)
        except (ValueError, OSError):
            # What cannot be understood cannot be searched for a password; the messages that show it hide it.
            return text

    def opened(self) -> tuple[optuna.Study, BaseStorage]:
        """The study, which must be there, and its storage."""
        quiet()
        self.named()
        address = self.address()
        storage = open_storage(address, heartbeat=60, patience=Patience(30.0), must_exist=True)
        return opened_study(self.study, storage), storage
