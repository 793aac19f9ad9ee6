"""What can go wrong with a training on several processes, done for real to real ones: nobody waits for ever, all say
the same, and the last checkpoint is whole and goes on exactly.
"""

import json
import os
import signal
import subprocess
import sys
import warnings
from pathlib import Path

import gymnasium as gym
import pytest
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.vec_env import VecNormalize

from sb3_ppo_notes import NotesPPO
from sb3_ppo_notes.algorithms.processes import digest_of
from sb3_ppo_notes.envs import ShardedVecEnv
from sb3_ppo_notes.persistence import ExactCheckpoint, load_checkpoint, save_checkpoint, storage
from sb3_ppo_notes.persistence.storage import checkpoints_in, read_checkpoint
from sb3_ppo_notes.processes import Alone
from tests.processes.forked import outcomes, values

ROOT = Path(__file__).parents[2]
SMALL = dict(n_steps=128, batch_size=64, n_epochs=1, seed=3, device="cpu", policy_kwargs=dict(net_arch=[8]))
TOTAL = 128 * 4 * 4

pytestmark = pytest.mark.slow


def environments(wrapper=None):
    return VecNormalize(make_vec_env("CartPole-v1", 2, wrapper_class=wrapper))


def new_model(group, wrapper=None, **settings):
    env = environments(wrapper) if group.size == 2 else ShardedVecEnv([environments(wrapper) for _ in range(2)])
    return NotesPPO("MlpPolicy", env, processes=group, shards=2, **SMALL | settings)


def straight(group):
    return digest_of(new_model(group).learn(TOTAL).policy)


def goes_on(group, folder):
    env = ShardedVecEnv([environments() for _ in range(2)])
    model = load_checkpoint(folder, env, device="cpu", processes=group)
    assert model.resume_report.is_exact, model.resume_report
    assert model.resume_report.skipped == ()
    model.learn(TOTAL - model.num_timesteps, reset_num_timesteps=False)
    return digest_of(model.policy)


def assert_goes_on(folder):
    """On one process, from the last checkpoint, as if nothing had happened."""
    assert values(goes_on, 1, folder) == values(straight, 1)


class Raises(BaseCallback):
    def __init__(self, at):
        super().__init__()
        self.at = at

    def _on_step(self):
        if self.num_timesteps == self.at:
            raise ZeroDivisionError("by a callback")
        return True


def with_a_callback_that_raises(group, folder):
    callbacks = [ExactCheckpoint(256, path=folder)] + ([Raises(900)] if group.rank == 1 else [])
    new_model(group).learn(TOTAL, callbacks)


def test_a_callback_that_raises_in_one_process_ends_all_and_the_last_checkpoint_goes_on(tmp_path):
    first, second = outcomes(with_a_callback_that_raises, 2, tmp_path, is_real=True)
    assert second[1] == "ZeroDivisionError: by a callback"
    assert first[1].startswith("RankFailedError: rank 1: ZeroDivisionError: by a callback")
    assert "_on_step" in first[1]  # and where
    assert read_checkpoint(tmp_path).document["num_timesteps"] == 768
    assert_goes_on(tmp_path)


class Pays(gym.RewardWrapper):
    """Another reward, after a while."""

    what = float("nan")

    def __init__(self, env):
        super().__init__(env)
        self.count = 0

    def reward(self, reward):
        self.count += 1
        return self.what if self.count == 200 else reward


class PaysTooMuch(Pays):
    what = 1e30


def with_a_reward_that_is_nan(group, on_nonfinite):
    model = new_model(group, Pays if group.rank == 1 else None, on_nonfinite=on_nonfinite)
    model.learn(TOTAL)


@pytest.mark.parametrize("on_nonfinite", ["raise", "skip_update"])
def test_a_nan_reward_in_one_process_is_named_in_all(on_nonfinite):
    """Whatever is done about numbers of the update: an environment that pays NaN is broken."""
    first, second = outcomes(with_a_reward_that_is_nan, 2, on_nonfinite, is_real=True)
    assert second[1].startswith("NonFiniteEnvironmentError: reward")
    assert "environment 0" in second[1]
    assert first[1].startswith("RankFailedError: rank 1: NonFiniteEnvironmentError: reward")


def with_a_reward_that_is_too_large(group, on_nonfinite):
    warnings.simplefilter("ignore", RuntimeWarning)  # their variance is not finite either
    env = make_vec_env("CartPole-v1", 2, wrapper_class=PaysTooMuch if group.rank == 1 else None)
    model = NotesPPO("MlpPolicy", env, processes=group, on_nonfinite=on_nonfinite, **SMALL)
    model.learn(TOTAL)
    return model.skipped_updates, digest_of(model.policy), model.num_timesteps


def test_a_loss_that_overflows_in_one_process_is_skipped_in_all():
    first, second = values(with_a_reward_that_is_too_large, 2, "skip_update", is_real=True)
    assert first == second
    assert first[0] > 0
    assert first[2] == TOTAL


def test_a_loss_that_overflows_in_one_process_is_raised_in_all():
    for kind, text, *_ in outcomes(with_a_reward_that_is_too_large, 2, "raise", is_real=True):
        assert kind == "error"
        assert text.startswith("NonFiniteError: ")
        assert "from shard 1 of 2" in text


def killed_while_writing(group, folder, rank, moment):
    model = new_model(group).learn(1024)
    save_checkpoint(model, folder)
    if group.rank == rank:
        own = getattr(storage, moment)

        def write(*arguments):
            own(*arguments)
            os.kill(os.getpid(), signal.SIGKILL)

        setattr(storage, moment, write)
    model.learn(512, reset_num_timesteps=False)
    save_checkpoint(model, folder)


@pytest.mark.parametrize(
    ("rank", "moment"),
    [(1, "_write_and_sync"), (0, "_write_and_sync"), (1, "_write_part"), (0, "_write_part"), (0, "begin_checkpoint")],
)
def test_a_process_that_is_killed_while_it_writes_leaves_the_checkpoint_before(rank, moment, tmp_path):
    ends = outcomes(killed_while_writing, 2, tmp_path, rank, moment, is_real=True)
    assert ends[rank] == ("gone",)
    assert ends[1 - rank][1].startswith("RankFailedError: ")
    assert [path.name for path in checkpoints_in(tmp_path)] == ["000001-step-1024"]
    assert read_checkpoint(tmp_path).skipped == ()
    assert list(tmp_path.glob(".tmp-*"))  # half of one, that nobody takes for a checkpoint
    assert_goes_on(tmp_path)
    save_checkpoint(_loaded(tmp_path), tmp_path)
    assert not list(tmp_path.glob(".tmp-*"))


def _loaded(folder):
    env = ShardedVecEnv([environments() for _ in range(2)])
    model = load_checkpoint(folder, env, device="cpu", processes=Alone())
    return model.learn(512, reset_num_timesteps=False)


def test_random_kills_lose_nothing_beyond_the_last_checkpoint_and_leave_no_process(tmp_path):
    """Six here; fifty by hand: see the module."""
    words = [sys.executable, "-m", "tests.processes.kills", str(tmp_path), "6", "0"]
    environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(words, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=500)
    assert done.returncode == 0, done.stderr
    seen = json.loads(done.stdout)
    assert seen["kills"] == 6
    assert [seen[name] for name in ("damaged", "steps_lost", "wrong_results", "hung")] == [0, 0, 0, 0]
    assert seen["slowest"] < 30
