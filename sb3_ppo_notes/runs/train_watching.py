"""What ``train`` looks at while it trains: evaluations, and the best model so far."""

from collections.abc import Callable
from pathlib import Path

import gymnasium as gym
import numpy as np
from stable_baselines3.common.callbacks import BaseCallback

from sb3_ppo_notes.callbacks.watching import evaluate_episodes, own_environment, synchronize_normalizers
from sb3_ppo_notes.runs.evaluation import EVALUATION_SEED_OFFSET
from sb3_ppo_notes.runs.train_files import save_model, write_evaluations


class Evaluation(BaseCallback):
    """Evaluates the deterministic policy on seeds that training never saw, in raw rewards.

    Every episode goes into ``evaluations.csv``; means are logged under SB3's names, ``eval/mean_reward`` and
    ``eval/mean_ep_length``; the best model so far is kept as ``best_model.zip``.

    :param env: makes the environment.
    :param folder: of the run.
    :param every: environment steps between two evaluations, ``None`` for none but those that are asked for.
    :param n_episodes: of each evaluation.
    :param seed: of the training; another one is derived from it, the same at each evaluation.
    """

    def __init__(self, env: Callable[[], gym.Env], folder: Path, every: int | None, n_episodes: int, seed: int):
        super().__init__()
        self.folder = folder
        self.every = every
        self.n_episodes = n_episodes
        #: Mean and standard deviation of the return, the newest last; reward units.
        self.results: list[tuple[float, float]] = []
        self._make, self._seed = env, seed + EVALUATION_SEED_OFFSET
        self._rows: list[tuple[int, int, float, int]] = []
        self._count = 0

    def _init_callback(self) -> None:
        self._env = own_environment(self._make, self.training_env, self._seed)

    def _on_step(self) -> bool:
        if self.every is not None and self.num_timesteps // self.every > self._count:
            self._count = self.num_timesteps // self.every
            best = max((mean for mean, _ in self.results), default=-np.inf)
            mean, _ = self.evaluate()
            if mean > best:
                save_model(self.model, self.folder, "best_model.zip", "best_normalizer.json")  # type: ignore[arg-type]
        return True

    def evaluate(self) -> tuple[float, float]:
        """Evaluate now.

        :return: mean and standard deviation of the return; reward units.
        """
        self._env.seed(self._seed)
        synchronize_normalizers(self.training_env, self._env)
        returns, lengths = evaluate_episodes(self.model, self._env, self.n_episodes)
        steps = self.model.num_timesteps
        self._rows += [(steps, number, *row) for number, row in enumerate(zip(returns, lengths, strict=True), start=1)]
        write_evaluations(self._rows, self.folder)
        self.results.append((float(np.mean(returns)), float(np.std(returns))))
        self.logger.record("eval/mean_reward", self.results[-1][0])
        self.logger.record("eval/mean_ep_length", float(np.mean(lengths)))
        return self.results[-1]
