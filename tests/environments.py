"""Small environments for every kind of space, and broken ones."""

import gymnasium as gym
import numpy as np
from gymnasium import spaces


class SpaceEnv(gym.Env):
    """Random observations, a reward that depends on the action, episodes of 7 to 13 steps; half of them are cut by a limit."""

    def __init__(self, observation_space, action_space):
        self.observation_space = observation_space
        self.action_space = action_space
        self.count = 0

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        if seed is not None:
            self.observation_space.seed(seed)
        self.count = 0
        self.length = int(self.np_random.integers(7, 14))
        return self.observation_space.sample(), {}

    def step(self, action):
        self.count += 1
        over = self.count >= self.length
        reward = float(np.mean(np.asarray(action, dtype=np.float64)))
        return self.observation_space.sample(), reward, over and self.length % 2 == 0, over and self.length % 2 == 1, {}


BOX = spaces.Box(-1, 1, (3,), dtype=np.float32)
IMAGE = spaces.Box(0, 255, (36, 36, 1), dtype=np.uint8)
DICT = spaces.Dict({"vector": BOX, "number": spaces.Discrete(4), "returns": spaces.Box(-2, 2, (2,), dtype=np.float32)})

SPACES = {
    "box": (BOX, spaces.Box(-1, 1, (2,), dtype=np.float32)),
    "discrete": (BOX, spaces.Discrete(3)),
    "discrete_observation": (spaces.Discrete(5), spaces.Discrete(3)),
    "multi_discrete": (BOX, spaces.MultiDiscrete([2, 3])),
    "multi_binary": (BOX, spaces.MultiBinary(3)),
    "dict": (DICT, spaces.Discrete(3)),
    "image": (IMAGE, spaces.Discrete(3)),
}


def make(name):
    return SpaceEnv(*SPACES[name])


class PoisonEnv(SpaceEnv):
    """Gives ``bad`` as observation or reward at its ``at``-th step."""

    def __init__(self, what, bad, at=5):
        super().__init__(*SPACES["box"])
        self.what, self.bad, self.at, self.steps = what, bad, at, 0

    def step(self, action):
        observation, reward, terminated, truncated, info = super().step(action)
        self.steps += 1
        if self.steps == self.at and self.what == "observation":
            observation = observation.copy()
            observation[1] = self.bad
        if self.steps == self.at and self.what == "reward":
            reward = self.bad
        return observation, reward, terminated, truncated, info


class ConstantRewardEnv(gym.Env):
    """One state, reward 1 for ever, cut by a limit of 8 steps: worth 1/(1-γ) to those who bootstrap and less to those who do not."""

    observation_space = spaces.Box(0, 1, (1,), dtype=np.float32)
    action_space = spaces.Discrete(2)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.count = 0
        return np.ones(1, dtype=np.float32), {}

    def step(self, action):
        self.count += 1
        return np.ones(1, dtype=np.float32), 1.0, False, self.count >= 8, {}
