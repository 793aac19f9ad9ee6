"""One writer a folder."""

import os
from pathlib import Path
from types import TracebackType
from typing import Any, ClassVar

from sb3_ppo_notes.formulas.checks import InvalidValueError


class FolderLock:
    """Keeps other processes from writing to an existing folder while the block runs, or is refused by one that does.

    The operating system gives the lock back when the process ends, however it ends: there is no stale one. Within a
    process it may be entered several times. Where there are no such locks (Windows) it does nothing.
    """

    #: By process and folder: the open file, and how often it was entered.
    locked: ClassVar[dict[tuple[int, Path], list[Any]]] = {}

    def __init__(self, folder: Path):
        self.folder = folder
        self._key = (os.getpid(), folder.resolve())

    def __enter__(self) -> "FolderLock":
        """Take it."""
        entry = self.locked.get(self._key)
        if entry is None:
            entry = self.locked[self._key] = [self._lock(), 0]
        entry[1] += 1
        return self

    def _lock(self) -> Any:
        try:
            import fcntl
        except ImportError:
            return None
        file = (self.folder / ".lock").open("a")
        try:
            # Of the process: a worker that is forked later does not inherit it and keep it for ever.
            fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            file.close()
            raise InvalidValueError(
                f"path must be a folder that no other process writes to, got {self.folder}: "
                "give each run one of its own"
            ) from error
        return file

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Give it back."""
        entry = self.locked[self._key]
        entry[1] -= 1
        if entry[1] == 0:
            # Closing any file of this process would release the lock: that is why there is one, and it is counted.
            if entry[0] is not None:
                entry[0].close()
            del self.locked[self._key]
