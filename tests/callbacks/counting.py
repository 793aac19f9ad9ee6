"""An environment whose every number is known, and that draws from the global generators as bad ones do."""

import random

import gymnasium as gym
import numpy as np
import torch as th
from gymnasium import spaces
from stable_baselines3.common.monitor import Monitor
from stable_baselines3.common.vec_env import DummyVecEnv


class CountingEnv(gym.Env):
    """Episodes of ``length`` steps of reward 1; the picture gets brighter with every step."""

    metadata = {"render_modes": ["rgb_array"], "render_fps": 25}  # noqa: RUF012

    def __init__(self, length=5, render_mode=None, size=(33, 47), continuous=False):
        self.length, self.render_mode, self.size = length, render_mode, size
        self.observation_space = spaces.Box(-np.inf, np.inf, (2,), np.float32)
        self.action_space = spaces.Box(-1, 1, (1,)) if continuous else spaces.Discrete(2)
        self.steps = 0

    def _observation(self):
        random.random()
        th.rand(1)
        return np.array([self.steps, np.random.normal()], dtype=np.float32)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.steps = 0
        return self._observation(), {}

    def step(self, action):
        self.steps += 1
        return self._observation(), 1.0, self.steps >= self.length, False, {}

    def render(self):
        return np.full((*self.size, 3), min(10 * self.steps, 255), dtype=np.uint8)


def counting(n_envs=1, monitor=True, **kwargs):
    def make():
        env = CountingEnv(**kwargs)
        return Monitor(env) if monitor else env

    return DummyVecEnv([make] * n_envs)


def equal_parameters(one, other):
    return all(map(th.equal, one.policy.state_dict().values(), other.policy.state_dict().values()))
