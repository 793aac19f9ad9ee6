"""One run: train a setup on one seed, evaluate it at fixed environment steps, tell what came of it."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from types import MappingProxyType
from typing import Any, Protocol

import numpy as np
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.vec_env import VecEnv, VecNormalize

from sb3_ppo_notes.callbacks import (
    MAX_EPISODE_STEPS,
    EvaluationStoppedError,
    Evaluator,
)
from sb3_ppo_notes.configs.build import make_environment, make_environments, make_model
from sb3_ppo_notes.formulas.checks import NonFiniteError
from tuning.space.defaults import CLASSES
from tuning.space.setup import Setup
from tuning.worker.checkpoints import Checkpoints, Progress

#: Evaluation seeds of search, finalists and test lie so far apart, and so far from those of training (0, 1, ...).
SEED_BLOCK = 100_000_000
SEEDS_PER_RUN = 1_000
RANDOM_EPISODES = 20
MOST_ENVIRONMENTS = 16


class PreemptedError(Exception):
    """The worker was asked to stop; the run can go on from its checkpoint."""


@dataclass(frozen=True)
class TrainingRun:
    """One training run, and its measurement.

    ``marks`` are the environment steps at which it is evaluated, the last is the end. ``eval_seed`` is of the
    evaluation environments, which no training uses.
    """

    setup: Setup
    env_id: str
    seed: int
    total_timesteps: int
    marks: tuple[int, ...]
    n_eval_episodes: int = 10
    eval_seed: int = 1_000_000
    compile: bool = False


class Control(Protocol):
    """The worker's side of a run: what a run reports, and asks."""

    checkpoints: Checkpoints

    def resume(self, progress: Progress) -> None:
        """Take the progress that the run starts with, before its first step; of no steps without a checkpoint."""

    def report(self, step: int, value: float) -> None:
        """Take an evaluation at a mark; raises to end the run."""

    def count(self, env_steps: int) -> None:
        """Take the environment steps since the very beginning, those before a checkpoint included."""

    def is_stopping(self) -> bool:
        """True if the run shall write a checkpoint and raise :class:`PreemptedError`."""


Objective = Callable[[TrainingRun, Control], None]


def is_divergence(error: BaseException) -> bool:
    """True if training left the finite numbers (our own error, or torch's about the parameters of a distribution),
    which is a result and no mistake in the code.
    """
    return isinstance(error, NonFiniteError) or (
        isinstance(error, ValueError) and "satisfy the constraint" in str(error)
    )


def train(run: TrainingRun, control: Control) -> None:
    """Train and evaluate; ``PreemptedError`` if the worker is to stop, once a checkpoint is written."""
    with contextlib.ExitStack() as resources:
        # Closed whatever happens: a study of a thousand trials must not run out of file descriptors.
        env = training_environments(run.env_id, run.setup, run.seed)
        resources.callback(env.close)
        n_envs = min(run.n_eval_episodes, MOST_ENVIRONMENTS)
        make = partial(make_environment, run.env_id, **run.setup.environment)
        evaluator = Evaluator(make, env, seed=run.eval_seed, n_episodes=run.n_eval_episodes, n_envs=n_envs)
        resources.callback(evaluator.close)
        model, progress = control.checkpoints.restore(env) or (build(run, env), Progress())
        control.resume(progress)
        marks = EvaluateAtMarks(run, control, evaluator, progress)
        left = max(run.total_timesteps - progress.env_steps, 0)
        # Also without steps left: a signal in an evaluation may have come in the last rollout.
        if left > 0 or model._paused_at is not None:
            model.learn(left, callback=marks, log_interval=None, reset_num_timesteps=progress.env_steps == 0)
        control.count(model.num_timesteps)
        if not marks.is_stopped:
            marks.is_stopped = not marks.evaluate(model, run.marks[-1])
        if marks.is_stopped:
            if model.on_resume is None:  # or it has done nothing that its checkpoint does not hold
                marks.save(model)
            raise PreemptedError(f"stopped after {model.num_timesteps} environment steps")


def training_environments(env_id: str, setup: Setup, seed: int) -> VecEnv:
    """Environments to learn in, with the normaliser of the setup."""
    env = make_environments(env_id, setup.n_envs, seed, **setup.environment)
    return env if setup.normalize is None else VecNormalize(env, **setup.normalize)


def build(run: TrainingRun, env: VecEnv) -> Any:
    """The model of a run."""
    arguments = {"device": "cpu", **run.setup.arguments, "seed": run.seed, "compile": run.compile}
    return make_model(CLASSES[run.setup.algo], arguments.pop("policy"), env, arguments)


class EvaluateAtMarks(BaseCallback):
    """Evaluates at each mark, and writes checkpoints between two steps, where a run can go on exactly."""

    def __init__(self, run: TrainingRun, control: Control, evaluator: Evaluator, progress: Progress):
        super().__init__()
        self.run, self.control, self.evaluator = run, control, evaluator
        self.evaluations = dict(progress.evaluations)
        #: Whether the run was told to stop, and has.
        self.is_stopped = False
        self._last_checkpoint = time.monotonic()

    def save(self, model: Any) -> None:
        """Write a checkpoint."""
        self.control.checkpoints.save(model, Progress(model.num_timesteps, dict(self.evaluations)))
        self._last_checkpoint = time.monotonic()

    def evaluate(self, model: Any, mark: int) -> bool:
        """Evaluate once and report it; ``False`` if a signal came first."""
        if mark in self.evaluations:
            return True
        try:
            value = self.evaluator.evaluate(model).mean_return
        except EvaluationStoppedError:
            return False
        self.evaluations[mark] = value
        self.control.report(mark, value)
        return True

    def _on_step(self) -> bool:
        for mark in self.run.marks[:-1]:  # the end is evaluated after the last update
            if mark not in self.evaluations and self.num_timesteps >= mark:
                self.control.count(self.num_timesteps)
                if not self.evaluate(self.model, mark):
                    self.is_stopped = True
                    return False
        return True

    def _on_training_start(self) -> None:
        self.model.between_steps.append(self._between_steps)  # type: ignore[attr-defined]

    def _between_steps(self) -> bool:
        if not self._on_step():  # the evaluation that a signal cut short in the run that this one resumes
            return False
        self.control.count(self.num_timesteps)
        if self.num_timesteps >= self.run.total_timesteps:
            return True  # the last rollout is filled up and learned from; learn could not be asked for its rest alone
        if self.control.is_stopping():
            self.is_stopped = True
            return False
        if time.monotonic() - self._last_checkpoint >= self.control.checkpoints.every_seconds:
            self.save(self.model)
        return True


def evaluation_seed(stage: int, seed: int) -> int:
    """The first seed of a run's evaluation environments; stage 0 is the search, 1 finalists, 2 test.

    No other stage, and no training, uses it or the thousand after it.
    """
    return (SEED_BLOCK * (stage + 1) + SEEDS_PER_RUN * seed) % 2**32


def random_floor(env_id: str, environment: Mapping[str, Any] = MappingProxyType({}), seed: int = 0) -> float:
    """The lowest return of a policy that acts at random: a run that diverged is worth no more than this."""
    env = make_environment(env_id, **environment)
    env.action_space.seed(seed)
    returns = []
    for episode in range(RANDOM_EPISODES):
        env.reset(seed=seed + episode)
        total = 0.0
        for _ in range(MAX_EPISODE_STEPS):  # an environment without a time limit may never end under random actions
            _, reward, terminated, truncated, _ = env.step(env.action_space.sample())
            total += float(reward)
            if terminated or truncated:
                break
        returns.append(total)
    env.close()
    finite = [value for value in returns if np.isfinite(value)]
    return min(finite, default=0.0)
