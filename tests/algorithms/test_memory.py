"""Image rollouts are kept once, as bytes: no more memory than stock SB3 at its peak."""

import json
import subprocess
import sys

import pytest

PROGRAM = """
import json, resource, sys
import gymnasium as gym, numpy as np, torch as th
from gymnasium import spaces
from stable_baselines3 import PPO
from stable_baselines3.common.env_util import make_vec_env
from sb3_ppo_notes import NotesPPO

class Pictures(gym.Env):
    observation_space = spaces.Box(0, 255, (4, 84, 84), np.uint8)
    action_space = spaces.Discrete(3)
    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        return np.full((4, 84, 84), 7, np.uint8), {}
    def step(self, action):
        return np.full((4, 84, 84), 8, np.uint8), 1.0, False, False, {}

th.set_num_threads(1)
algorithm = {"stock": PPO, "notes": NotesPPO}[sys.argv[1]]
model = algorithm("CnnPolicy", make_vec_env(Pictures, 4), n_steps=1024, batch_size=32, n_epochs=1, device="cpu")
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
data = model.rollout_buffer
_, callback = model._setup_learn(4096)
model.collect_rollouts(model.env, callback, data, 1024)
for number, minibatch in enumerate(data.get(32)):
    assert minibatch.observations.dtype == th.uint8 or algorithm is PPO
    model.policy.evaluate_actions(minibatch.observations, minibatch.actions.long().flatten())[0].sum().backward()
    if number == 2:
        break
print(json.dumps([before / 1024, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024]))
"""


def peak(who):
    """Megabytes before the rollout and at the peak."""
    done = subprocess.run([sys.executable, "-c", PROGRAM, who], capture_output=True, text=True, check=True)
    return json.loads(done.stdout.splitlines()[-1])


@pytest.mark.slow
def test_images_take_no_more_memory_than_stock():
    (_, stock), (before, notes) = peak("stock"), peak("notes")
    rollout = 4096 * 4 * 84 * 84 / 2**20  # 110 MB
    assert notes <= stock
    # The rollout once, and what a minibatch needs; a second copy of it would show.
    assert notes - before < 1.7 * rollout
