"""A journal file that survives a worker that dies in the middle of a line."""

from __future__ import annotations

import json
import os
import sys
import time
from pathlib import Path
from typing import Any

from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend, JournalFileOpenLock, JournalFileSymlinkLock

from sb3_ppo_notes.files import write_bytes

#: A lock that nobody releases for so long belongs to a dead process.
LOCK_GRACE_SECONDS = 30


def journal_lock(path: Path) -> Any:
    """Optuna's lock of a journal, so that its own tools and we keep out of each other's way."""
    kind = JournalFileOpenLock if sys.platform == "win32" else JournalFileSymlinkLock
    return kind(str(path.absolute()), grace_period=LOCK_GRACE_SECONDS)


class RepairingBackend(JournalFileBackend):
    """Optuna's file, whose torn end is cut off before anything is appended to it."""

    def __init__(self, path: Path):
        self._path = path.absolute()
        super().__init__(str(self._path), lock_obj=journal_lock(self._path))
        lock = journal_lock(self._path)
        lock.acquire()
        try:
            repair(self._path)
        finally:
            lock.release()

    def append_logs(self, logs: list[dict[str, Any]]) -> None:
        """As Optuna's. A line after a torn one would make both unreadable, so the torn one goes first."""
        lock = journal_lock(self._path)
        lock.acquire()
        try:
            cut_torn_tail(self._path)
            lines = "".join(json.dumps(log, separators=(",", ":")) + "\n" for log in logs)
            with self._path.open("ab") as file:
                file.write(lines.encode())
                file.flush()
                os.fsync(file.fileno())
        finally:
            lock.release()


def cut_torn_tail(path: Path) -> Path | None:
    """Cut a last line that does not end, and keep it in a file of its own. To be called under the journal's lock."""
    with path.open("r+b") as file:
        size = file.seek(0, os.SEEK_END)
        if size == 0:
            return None
        file.seek(size - 1)
        if file.read(1) == b"\n":
            return None
        end, block = size, 65536
        while end > 0:
            begin = max(0, end - block)
            file.seek(begin)
            newline = file.read(end - begin).rfind(b"\n")
            if newline >= 0:
                break
            end = begin
        whole = begin + newline + 1 if end > 0 else 0
        file.seek(whole)
        copy = _keep(path, file.read())
        file.truncate(whole)
        file.flush()
        os.fsync(file.fileno())
    return copy


def repair(path: Path) -> list[Path]:
    """Make a journal readable again; what is taken out of it is kept beside it. To be called under its lock.

    Nothing that a worker was told is written gets lost: a torn record was never acknowledged. Bytes only disappear at
    the end and are blanked elsewhere, so that processes that are reading keep their place. A line in the middle that is
    no record and holds none is an error.
    """
    copies = [copy for copy in [cut_torn_tail(path)] if copy is not None]
    with path.open("r+b") as file:
        start = 0
        size = path.stat().st_size
        for number, line in enumerate(iter(file.readline, b""), start=1):
            end = start + len(line)
            if not _is_record(line):
                # Another tool appended to a torn line: a record follows a piece of one.
                whole = next(
                    (at for at in range(1, len(line)) if line[at : at + 1] == b"{" and _is_record(line[at:])), 0
                )
                if not whole and end < size:
                    raise ValueError(f"storage {path} is damaged: line {number} is no record of a journal")
                copies.append(_keep(path, line[:whole] if whole else line))
                file.seek(start)
                if whole:
                    file.write(b" " * whole)
                else:
                    file.truncate(start)
                file.flush()
                os.fsync(file.fileno())
                file.seek(end)
            start = end
    return copies


def _is_record(line: bytes) -> bool:
    try:
        record = json.loads(line)
    except ValueError:
        return False
    return isinstance(record, dict) and "op_code" in record


def _keep(path: Path, torn: bytes) -> Path:
    copy = path.with_name(f"{path.name}.torn-{time.time_ns()}")
    write_bytes(copy, torn)
    print(f"{path.name}: a torn record ({len(torn)} bytes) was cut off and is kept in {copy.name}", file=sys.stderr)
    return copy


def open_journal(path: Path) -> JournalStorage:
    """A journal, repaired if need be, made if it is not there."""
    return JournalStorage(RepairingBackend(path))
