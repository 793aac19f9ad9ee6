"""The log of a run that may be cut and resumed: its files go on where the checkpoint was, and lose no row of before."""

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.logger import (
    CSVOutputFormat,
    JSONOutputFormat,
    KVWriter,
    Logger,
    TensorBoardOutputFormat,
)
from tensorboard.compat.proto.event_pb2 import Event, SessionLog

from sb3_ppo_notes._atomic import write_text

CSV, JSON = "progress.csv", "progress.json"


class RunState(BaseCallback):
    """State of the run's files. It is a callback because a checkpoint holds the memory of callbacks."""

    def __init__(self) -> None:
        super().__init__()
        #: Rows of the log so far.
        self.n_rows = 0
        #: Whether the last evaluation has been made, and nothing is left to do.
        self.is_finished = False

    def _on_rollout_start(self) -> None:
        self.is_finished = False

    def _on_step(self) -> bool:
        return True


class _RowCount(KVWriter):
    """The last of the sinks: a row that it counts is in the files."""

    def __init__(self, state: RunState):
        self._state = state

    def write(self, key_values: dict[str, Any], key_excluded: dict[str, tuple[str, ...]], step: int = 0) -> None:
        self._state.n_rows += 1

    def close(self) -> None:
        pass


class _ContinuedCSV(CSVOutputFormat):
    """SB3's opens its file so that it is empty."""

    def __init__(self, path: Path):
        super().__init__(os.devnull)
        self.file.close()
        self.file = path.open("r+")
        self.keys = self.file.readline().rstrip("\n").split(",") if path.stat().st_size else []
        self.file.seek(0, os.SEEK_END)


class _ContinuedJSON(JSONOutputFormat):
    """SB3's opens its file so that it is empty."""

    def __init__(self, path: Path):
        super().__init__(os.devnull)
        self.file.close()
        self.file = path.open("a")


@contextmanager
def run_logger(folder: Path, state: RunState, num_timesteps: int, others: Sequence[KVWriter] = ()) -> Iterator[Logger]:
    """SB3's own formats, none of them on the terminal; closed whatever happens, so that the files are complete.

    ``others`` come after the files: what they raise finds the row written and counted.

    What was logged after the checkpoint that a run goes on from is logged again: in the files it is left out, and
    TensorBoard is told not to show it.
    """
    _cut(folder / CSV, state.n_rows + 1 if state.n_rows else 0)
    _cut(folder / JSON, state.n_rows)
    tensorboard = TensorBoardOutputFormat(str(folder))
    if num_timesteps:
        begin = Event(step=num_timesteps + 1, session_log=SessionLog(status=SessionLog.START))
        assert tensorboard.writer.file_writer is not None
        tensorboard.writer.file_writer.add_event(begin, begin.step)
    files: list[KVWriter] = [_ContinuedCSV(folder / CSV), _ContinuedJSON(folder / JSON), tensorboard]
    logger = Logger(str(folder), [*files, _RowCount(state), *others])
    try:
        yield logger
    finally:
        logger.close()
        for file in files:
            file.close()  # also one that has failed and was left out


def _cut(path: Path, n_lines: int) -> None:
    """Keep so many lines, whole ones."""
    text = path.read_text() if path.is_file() else None
    lines = (text or "").splitlines(keepends=True)[:n_lines]
    kept = "".join(line for line in lines if line.endswith("\n"))
    if kept != text:
        write_text(path, kept)
