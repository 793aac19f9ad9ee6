"""Checkpoints while a run goes on."""

import warnings
from pathlib import Path

from stable_baselines3.common.callbacks import BaseCallback

from sb3_ppo_notes.algorithms.on_policy import NotesOnPolicyAlgorithm
from sb3_ppo_notes.formulas.checks import InvalidTypeError, InvalidValueError, check_integer
from sb3_ppo_notes.persistence.checkpoint import save_checkpoint
from sb3_ppo_notes.persistence.locks import FolderLock
from sb3_ppo_notes.persistence.storage import run_in
from sb3_ppo_notes.processes import Alone, Group, on_writer


class ExactCheckpoint(BaseCallback):
    """Writes a checkpoint from which :func:`~sb3_ppo_notes.persistence.load_checkpoint` goes on exactly, every so many
    steps and when ``learn`` ends (also after ``StopOnSignal``).

    It is written between two steps, when all callbacks have seen the last one, and holds their memory too. It draws no
    random number and changes nothing: a run with it equals one without. A checkpoint that cannot be written (a full
    disk) is a warning, and the run goes on with the last one kept. Of several processes each needs one, with the same
    arguments: all write together.

    :param every: environment steps, over all environments, between two checkpoints.
    :param keep: how many stay.
    :param path: the run's folder, of this run alone.
    :param verbose: 1 prints a line for each.
    """

    def __init__(self, every: int, keep: int = 3, path: str | Path = "checkpoints", verbose: int = 0):
        check_integer("every", every, minimum=1)
        check_integer("keep", keep, minimum=1)
        super().__init__(verbose)
        self.every = every
        self.keep = keep
        self.path = Path(path)
        #: The newest checkpoint that was written, ``None`` before the first.
        self.last_path: Path | None = None
        #: Checkpoints that could not be written.
        self.failures = 0
        self._last_saved: int | None = None
        self._lock: FolderLock | None = None

    def _on_training_start(self) -> None:
        if not isinstance(self.model, NotesOnPolicyAlgorithm):
            raise InvalidTypeError(f"model must be a NotesPPO or NotesA2C, got {type(self.model).__name__}")
        on_writer(self._group, self._lock_folder)
        self._last_saved = self.model.num_timesteps
        self.model.between_steps.append(self._between_steps)

    @property
    def _group(self) -> Group:
        shards = self.model._shards  # type: ignore[attr-defined]
        return Alone() if shards is None else shards.group

    def _lock_folder(self) -> None:
        assert isinstance(self.model, NotesOnPolicyAlgorithm)
        self.path.mkdir(parents=True, exist_ok=True)
        there = run_in(self.path)
        if there is not None and there != self.model._run_id:
            raise InvalidValueError(
                f"path must be a folder without another run's checkpoints, got {self.path}: go on with that run by "
                "load_checkpoint, or give another folder"
            )
        # Still locked if the last learn ended in an exception.
        self._unlock()
        self._lock = FolderLock(self.path).__enter__()

    def _on_step(self) -> bool:
        return True

    def _between_steps(self) -> bool:
        assert self._last_saved is not None
        if self.model.num_timesteps // self.every > self._last_saved // self.every:
            self._save()
        return True

    def _on_training_end(self) -> None:
        if self.model.num_timesteps != self._last_saved or self.last_path is None:
            self._save()
        self._unlock()

    def _unlock(self) -> None:
        if self._lock is not None:
            self._lock.__exit__(None, None, None)
            self._lock = None

    def _save(self) -> None:
        self._last_saved = self.model.num_timesteps
        try:
            # learn's own local variable: the callback that all others are in.
            self.last_path = save_checkpoint(self.model, self.path, self.locals["callback"], self.keep)  # type: ignore[arg-type]
        except OSError as error:
            self.failures += 1
            warnings.warn(
                f"the checkpoint at step {self.model.num_timesteps} was not written ({error}); the run goes on, the "
                f"last checkpoint is {self.last_path}",
                UserWarning,
                stacklevel=2,
            )
            return
        if self.verbose >= 1:
            print(f"checkpoint: {self.last_path}")
