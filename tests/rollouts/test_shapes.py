"""An observation of another shape than its space: one error, whichever vectorised environment it comes through."""

import re

import gymnasium as gym
import numpy as np
import pytest
from gymnasium import spaces
from stable_baselines3.common.vec_env import DummyVecEnv, SubprocVecEnv, VecNormalize, VecTransposeImage

from sb3_ppo_notes import NotesPPO
from sb3_ppo_notes.formulas.checks import InvalidValueError
from sb3_ppo_notes.rollouts import LeanVecEnv
from sb3_ppo_notes.rollouts.step_errors import check_batch, shape_error
from tests.environments import make


class Growing(gym.Env):
    """From its ``at``-th observation on they are larger than the space says."""

    action_space = spaces.Discrete(2)

    def __init__(self, shape=(4,), larger=(5,), at=3, in_a_dict=False):
        picture = len(shape) == 3
        box = spaces.Box(0, 255, shape, np.uint8) if picture else spaces.Box(0, 1, shape)
        self.observation_space = spaces.Dict(seen=box) if in_a_dict else box
        self.shape, self.larger, self.at, self.count, self.in_a_dict = shape, larger, at, 0, in_a_dict

    def observe(self):
        self.count += 1
        array = np.zeros(self.larger if self.count > self.at else self.shape, np.float32)
        return {"seen": array} if self.in_a_dict else array

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        return self.observe(), {}

    def step(self, action):
        return self.observe(), 0.0, False, False, {}


def learn(env, policy="MlpPolicy"):
    NotesPPO(policy, env, n_steps=8, batch_size=8, device="cpu").learn(8)


PICTURE = dict(shape=(8, 8, 3), larger=(9, 8, 3))
VEC_ENVS = {
    "bare": lambda make: make(),
    "dummy": lambda make: DummyVecEnv([make] * 2),
    "lean": lambda make: LeanVecEnv([make] * 2),
    "normalised": lambda make: VecNormalize(DummyVecEnv([make] * 2)),
    "transposed": lambda make: VecTransposeImage(DummyVecEnv([make] * 2)),
}


@pytest.mark.parametrize("vec_env", VEC_ENVS)
def test_a_picture_of_changing_size_is_named_with_environment_and_step(vec_env):
    words = "observation must have the shape (8, 8, 3) of its space, got (9, 8, 3) from environment 0"
    with pytest.raises(InvalidValueError, match="^" + re.escape(words)) as caught:
        learn(VEC_ENVS[vec_env](lambda: Growing(**PICTURE)))
    assert caught.value.__notes__[0].startswith("raised by environment 0, at step ")


@pytest.mark.parametrize("vec_env", ["dummy", "lean"])
def test_the_key_and_the_first_observation_are_named_too(vec_env):
    words = "observation['seen'] must have the shape (4,) of its space, got (5,) from environment 0"
    with pytest.raises(InvalidValueError, match="^" + re.escape(words)):
        learn(VEC_ENVS[vec_env](lambda: Growing(in_a_dict=True)), "MultiInputPolicy")
    with pytest.raises(InvalidValueError, match="^observation must have the shape .* from environment 0"):
        learn(VEC_ENVS[vec_env](lambda: Growing(at=0)))


def test_environments_in_processes_are_named_where_they_differ_and_as_a_batch_where_they_agree():
    for second, words in (
        (9, "(4,) of its space, got (5,) from environment 0"),
        (3, "(2, 4), 2 times its space, got (2, 5)"),
    ):
        env = SubprocVecEnv([Growing, lambda at=second: Growing(at=at)], start_method="fork")
        with pytest.raises(InvalidValueError, match="^" + re.escape(f"observation must have the shape {words}")):
            learn(env)
        env.close()


def test_a_batch_that_can_be_reshaped_passes():
    check_batch(np.zeros((2, 1)), spaces.Discrete(3), 2)
    check_batch(np.zeros((2, 3, 1)), spaces.Box(0, 1, (3,)), 2)
    with pytest.raises(InvalidValueError, match=r"^observation must have the shape \(2, 3\), 2 times its space"):
        check_batch(np.zeros((2, 2)), spaces.Box(0, 1, (3,)), 2)


def test_an_environments_own_error_stays_what_it_was():
    class Broken(Growing):
        def step(self, action):
            raise ValueError("could not broadcast my own thing")

    with pytest.raises(ValueError, match="^could not broadcast my own thing") as caught:
        learn(DummyVecEnv([Broken]))
    assert shape_error(caught.value, make("box").observation_space) is None
