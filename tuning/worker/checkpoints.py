"""Checkpoints, from which a run goes on to the last bit after its worker was stopped or killed."""

from __future__ import annotations

import json
import shutil
import warnings
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from stable_baselines3.common.vec_env import VecEnv

from sb3_ppo_notes.files import write_text
from sb3_ppo_notes.persistence import load_checkpoint, save_checkpoint

PROGRESS = "progress.json"


@dataclass(frozen=True)
class Progress:
    """Environment steps that a run has taken, and its evaluations by environment step."""

    env_steps: int = 0
    evaluations: dict[int, float] = field(default_factory=dict)


class Checkpoints:
    """Checkpoints of one trial, in a folder of its own; a retry reads those of the trials before it.

    Each trial writes into its own: one that was given up for dead and is not shall not disturb its retry. A retry on a
    machine that does not see the folder begins again. ``history`` holds the numbers of the trials that it is a retry
    of, oldest first.
    """

    def __init__(self, folder: Path, number: int, history: Sequence[int] = (), every_seconds: float = 30.0):
        self.every_seconds = every_seconds
        self._own = folder / f"trial-{number}"
        self._folders = [self._own, *(folder / f"trial-{earlier}" for earlier in reversed(history))]

    def save(self, model: Any, progress: Progress) -> None:
        """Write one, whole or not at all. A full disk is a warning, and the run goes on."""
        evaluations = {str(step): value for step, value in progress.evaluations.items()}
        try:
            self._own.mkdir(parents=True, exist_ok=True)
            # First the evaluations: more of them than the checkpoint knows do no harm, fewer would be made too late.
            write_text(self._own / PROGRESS, json.dumps({"env_steps": progress.env_steps, "evaluations": evaluations}))
            save_checkpoint(model, self._own, keep=1)
        except OSError as error:
            warnings.warn(f"a trial's checkpoint was not written ({error}); the run goes on", stacklevel=2)

    def restore(self, env: VecEnv) -> tuple[Any, Progress] | None:
        """The model of the newest checkpoint that is whole, and its progress."""
        for folder in self._folders:
            stored = self._read_progress(folder)
            if stored is None:
                continue
            try:
                with warnings.catch_warnings():
                    warnings.simplefilter("ignore")  # of a newer one that is torn; the older one is as good
                    model: Any = load_checkpoint(folder, env, device="cpu")
            except (ValueError, TypeError, OSError):
                continue
            done = {int(step): float(value) for step, value in stored["evaluations"].items()}
            evaluations = {step: value for step, value in sorted(done.items()) if step <= model.num_timesteps}
            return model, Progress(model.num_timesteps, evaluations)
        return None

    def env_steps(self) -> int:
        """Environment steps that need not be taken again."""
        progresses = (self._read_progress(folder) for folder in self._folders)
        return next((int(progress["env_steps"]) for progress in progresses if progress is not None), 0)

    def _read_progress(self, folder: Path) -> dict[str, Any] | None:
        try:
            return dict(json.loads((folder / PROGRESS).read_text()))
        except (OSError, ValueError):
            return None

    def clear(self) -> None:
        """Remove them all: the trial has its result."""
        for folder in self._folders:
            shutil.rmtree(folder, ignore_errors=True)
