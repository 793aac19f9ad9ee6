"""Environments of a run: those it learns in, and others, on seeds of their own, in which it is measured."""

from __future__ import annotations

from typing import Any

import gymnasium as gym
import numpy as np
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.vec_env import VecEnv, VecNormalize

from sb3_ppo_notes.callbacks import (
    MAX_EPISODE_STEPS,
    evaluate_episodes,
    synchronize_normalizers,
    with_frozen_normalizers,
)
from tuning.space.setup import Setup

#: Evaluation seeds of search, finalists and test lie so far apart, and so far from those of training (0, 1, ...).
SEED_BLOCK = 100_000_000
SEEDS_PER_RUN = 1_000
RANDOM_EPISODES = 20
MOST_ENVIRONMENTS = 16


def evaluation_seed(stage: int, seed: int) -> int:
    """The first seed of a run's evaluation environments; stage 0 is the search, 1 finalists, 2 test.

    No other stage, and no training, uses it or the thousand after it.
    """
    return (SEED_BLOCK * (stage + 1) + SEEDS_PER_RUN * seed) % 2**32


def training_environments(env_id: str, setup: Setup, seed: int) -> VecEnv:
    """Environments to learn in, with the normaliser of the setup."""
    env = make_vec_env(env_id, n_envs=setup.n_envs, seed=seed)
    return env if setup.normalize is None else VecNormalize(env, **setup.normalize)


class Evaluator:
    """Measures a model: the mean return of deterministic episodes in raw rewards, the same starts every time.

    Observations are normalised as in the training environments.
    """

    def __init__(self, env_id: str, n_episodes: int, seed: int, training: VecEnv):
        self.n_episodes, self.seed, self._training = n_episodes, seed, training
        own = make_vec_env(env_id, n_envs=min(n_episodes, MOST_ENVIRONMENTS), seed=seed)
        self.env: VecEnv = with_frozen_normalizers(own, training)

    def evaluate(self, model: Any) -> float:
        """The mean return; ``EvaluationStoppedError`` if a signal comes first. Nothing of the model changes."""
        synchronize_normalizers(self._training, self.env)
        self.env.seed(self.seed)
        return float(np.mean(evaluate_episodes(model, self.env, self.n_episodes)[0]))

    def close(self) -> None:
        """Close the environments."""
        self.env.close()


def random_floor(env_id: str, seed: int = 0) -> float:
    """The lowest return of a policy that acts at random: a run that diverged is worth no more than this."""
    env = gym.make(env_id)
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
