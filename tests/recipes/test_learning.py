"""Every recipe learns its task, over three seeds, within a stated number of steps."""

import gymnasium as gym
import numpy as np
import pytest
from gymnasium import spaces
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.evaluation import evaluate_policy

from sb3_ppo_notes import NotesA2C, NotesPPO
from sb3_ppo_notes.callbacks import with_frozen_normalizers
from sb3_ppo_notes.recipes import RECIPES


class NameTheCue(gym.Env):
    """75 steps; each shows one of four cues and pays 1 for naming it. Rewards differ *within* a trajectory: all that moral_rl's z-score leaves."""

    observation_space = spaces.Box(0, 1, (4,), dtype=np.float32)
    action_space = spaces.Discrete(4)

    def _show(self):
        self.cue = int(self.np_random.integers(4))
        return np.eye(4, dtype=np.float32)[self.cue]

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.count = 0
        return self._show(), {}

    def step(self, action):
        self.count += 1
        reward = float(action == self.cue)
        return self._show(), reward, False, self.count >= 75, {}


# recipe: environment, return to reach, environment steps within which, how often it is looked
TASKS = {
    "skrl": ("CartPole-v1", 475, 60_000, 10_000),
    "minimal_rl": ("CartPole-v1", 475, 60_000, 10_000),
    "spinning_up": ("CartPole-v1", 475, 80_000, 20_000),
    "tsukurinagara": ("CartPole-v1", 475, 600_000, 20_000),
    "batch_ppo": ("Pendulum-v1", -300, 1_500_000, 100_000),
    "moral_rl": (NameTheCue, 70, 60_000, 10_000),
}


def steps_to_threshold(name, seed):
    env_id, threshold, limit, interval = TASKS[name]
    algorithm = NotesA2C if RECIPES[name].algorithm == "a2c" else NotesPPO
    env = env_id if isinstance(env_id, str) else make_vec_env(env_id, RECIPES[name].n_envs, seed=seed)
    model = algorithm.from_recipe(name, env, seed=seed, device="cpu")
    while model.num_timesteps < limit:
        model.learn(interval, reset_num_timesteps=False)
        evaluation = with_frozen_normalizers(make_vec_env(env_id, 1, seed=1000 + seed), model.env)
        mean, _ = evaluate_policy(model, evaluation, n_eval_episodes=10)
        if mean >= threshold:
            return model.num_timesteps
    return None


@pytest.mark.slow
@pytest.mark.parametrize("seed", [0, 1, 2])
@pytest.mark.parametrize("name", sorted(TASKS, key="batch_ppo".__ne__))  # the longest first
def test_recipe_learns(name, seed, record_property):
    steps = steps_to_threshold(name, seed)
    record_property("steps_to_threshold", steps)
    print(f"STEPS {name} seed {seed}: {steps}")
    assert steps is not None
