"""Evaluations while ``train`` trains, and the best model so far."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import gymnasium as gym
import numpy as np
from rich.table import Table
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.vec_env import VecEnv

from sb3_ppo_notes.callbacks.evaluation import (
    EVALUATION_SEED_OFFSET,
    EvaluationStoppedError,
    evaluate_episodes,
    own_environment,
    synchronize_normalizers,
)
from sb3_ppo_notes.files import write_csv
from sb3_ppo_notes.runs.train.folder import EVALUATIONS, save_model


@dataclass(frozen=True)
class Result:
    """One evaluation: steps trained before it, mean and deviation of the return, mean length in environment steps."""

    steps: int
    mean: float
    deviation: float
    length: float


class Evaluation(BaseCallback):
    """Evaluates the deterministic policy on seeds that training never saw, in raw rewards.

    Every episode goes into ``evaluations.csv``; means are logged under SB3's names, ``eval/mean_reward`` and
    ``eval/mean_ep_length``; with ``every``, the best model so far is kept as ``best_model.zip``. The evaluation at the
    end, after the last update, is the caller's. All that it remembers are the episodes, which a checkpoint holds. One
    that a signal ends is made when the run is resumed, before its first step.

    :param env: makes the environment.
    :param folder: of the run.
    :param every: environment steps between two evaluations, ``None`` for none but those that are asked for.
    :param n_episodes: of each evaluation.
    :param seed: of the training; another one is derived from it, the same at each evaluation.
    :param on_result: called with each result.
    """

    #: Of several processes the first has it alone.
    is_of_one_process = True

    def __init__(
        self,
        env: Callable[[], gym.Env],
        folder: Path,
        every: int | None,
        n_episodes: int,
        seed: int,
        on_result: Callable[[Result], object] = lambda result: None,
    ):
        super().__init__()
        self.folder = folder
        self.every = every
        self.n_episodes = n_episodes
        self._make, self._seed, self._on_result = env, seed + EVALUATION_SEED_OFFSET, on_result
        self._rows: list[tuple[int, int, float, int]] = []
        self._count = 0
        self._is_due = False
        self._env: VecEnv | None = None

    def _init_callback(self) -> None:
        self._env = own_environment(self._make, self.training_env, self._seed)

    def _on_step(self) -> bool:
        if self.every is not None and self.num_timesteps // self.every > self._count:
            self._count = self.num_timesteps // self.every
            self._is_due = self.num_timesteps < self.model._total_timesteps
        return self._goes_on_after_evaluation()

    def _on_training_start(self) -> None:
        self.model.between_steps.append(self._goes_on_after_evaluation)  # type: ignore[attr-defined]

    def _goes_on_after_evaluation(self) -> bool:
        if self._is_due:
            try:
                self.evaluate()
            except EvaluationStoppedError:
                return False
            self._is_due = False
        return True

    @property
    def results(self) -> list[Result]:
        """One an evaluation, the newest last."""
        results: list[list[tuple[int, int, float, int]]] = []
        for row in self._rows:
            if row[1] == 1:
                results.append([])
            results[-1].append(row)
        return [_result(rows) for rows in results]

    def close(self) -> None:
        """Close its environment."""
        if self._env is not None:
            self._env.close()

    def evaluate(self) -> Result:
        """Evaluate now.

        :raises EvaluationStoppedError: if a signal came.
        """
        assert self._env is not None  # since training started
        self._env.seed(self._seed)
        synchronize_normalizers(self.training_env, self._env)
        returns, lengths = evaluate_episodes(self.model, self._env, self.n_episodes)
        steps, best = self.model.num_timesteps, max((earlier.mean for earlier in self.results), default=-np.inf)
        self._rows += [(steps, number, *row) for number, row in enumerate(zip(returns, lengths, strict=True), start=1)]
        write_csv(self.folder / EVALUATIONS, ("timesteps", "episode", "return", "length"), self._rows)
        result = self.results[-1]
        if self.every is not None and result.mean > best:
            save_model(self.model, self.folder, "best_model.zip", "best_normalizer.json")  # type: ignore[arg-type]
        self.logger.record("eval/mean_reward", result.mean)
        self.logger.record("eval/mean_ep_length", result.length)
        self._on_result(result)
        return result


def _result(rows: Sequence[tuple[int, int, float, int]]) -> Result:
    returns, lengths = [row[2] for row in rows], [row[3] for row in rows]
    return Result(rows[0][0], float(np.mean(returns)), float(np.std(returns)), float(np.mean(lengths)))


def evaluations_table(results: Sequence[Result]) -> Table:
    """One row an evaluation."""
    table = Table(title="evaluations")
    for heading in ("steps", "return", "+/-", "length"):
        table.add_column(heading, justify="right")
    for result in results:
        table.add_row(f"{result.steps:,}", f"{result.mean:.1f}", f"{result.deviation:.1f}", f"{result.length:.1f}")
    return table
