"""Where a run can go on after its worker was stopped or killed."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch as th
from stable_baselines3.common.vec_env import unwrap_vec_normalize


@dataclass(frozen=True)
class Progress:
    """How far a run is.

    :param env_steps: taken.
    :param evaluations: by environment step.
    """

    env_steps: int = 0
    evaluations: dict[int, float] = field(default_factory=dict)


class Checkpoints:
    """Checkpoints of one trial, in a folder of its own; a retry finds those of the trials before it.

    :param folder: of all trials of a study.
    :param number: of the trial.
    :param history: numbers of the trials that it is a retry of, oldest first.
    :param every_seconds: at most so often one is written while the run goes well.
    """

    def __init__(self, folder: Path, number: int, history: Sequence[int] = (), every_seconds: float = 30.0):
        self.every_seconds = every_seconds
        self._own = folder / f"trial-{number}"
        self._before = [folder / f"trial-{earlier}" for earlier in reversed(history)]

    def save(self, model: Any, progress: Progress) -> None:
        """Write one, whole or not at all, in the place of the one before.

        :param model: between two rollouts.
        :param progress: of its run.
        """
        self._own.mkdir(parents=True, exist_ok=True)
        normalizer = unwrap_vec_normalize(model.env)
        state = {
            "parameters": model.get_parameters(),
            "num_timesteps": model.num_timesteps,
            "n_updates": model._n_updates,
            "evaluations": {str(step): value for step, value in progress.evaluations.items()},
            "rng": th.get_rng_state(),
            "normalizer": None if normalizer is None else json.dumps({}),
        }
        new = self._own / "checkpoint.new"
        th.save(state, new)
        os.replace(new, self._own / "checkpoint.pt")

    def restore(self, model: Any) -> Progress | None:
        """Bring a fresh model to where the trial, or the one it is a retry of, was.

        :param model: built alike.
        :return: how far it is, ``None`` if there is no checkpoint.
        """
        for folder in (self._own, *self._before):
            if (folder / "checkpoint.pt").exists():
                state = th.load(folder / "checkpoint.pt", weights_only=True)
                model.set_parameters(state["parameters"])
                model.num_timesteps, model._n_updates = state["num_timesteps"], state["n_updates"]
                th.set_rng_state(state["rng"])
                evaluations = {int(step): value for step, value in state["evaluations"].items()}
                return Progress(model.num_timesteps, evaluations)
        return None

    def env_steps(self) -> int:
        """Environment steps that a retry need not take again."""
        for folder in (self._own, *self._before):
            if (folder / "checkpoint.pt").exists():
                return int(th.load(folder / "checkpoint.pt", weights_only=True)["num_timesteps"])
        return 0

    def clear(self) -> None:
        """Remove them all: the trial has its result."""
        for folder in (self._own, *self._before):
            shutil.rmtree(folder, ignore_errors=True)
