"""Commands on environments that never end, or that pay NaN, from the shell: they end, can be stopped, and say why."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

# Whole processes.
pytestmark = pytest.mark.slow

ROOT = Path(__file__).resolve().parents[2]
MODULE = """
import gymnasium as gym
import numpy as np

class Endless(gym.Env):
    observation_space, action_space = gym.spaces.Box(-1, 1, (3,)), gym.spaces.Discrete(2)

    def __init__(self, render_mode=None):
        self.render_mode = render_mode

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        return np.zeros(3, np.float32), {}

    def step(self, action):
        return np.zeros(3, np.float32), 1.0, False, False, {}

class PaysNaN(Endless):
    def step(self, action):
        return np.zeros(3, np.float32), float("nan"), False, False, {}

for made in (Endless, PaysNaN):
    gym.register(f"{made.__name__}-v0", entry_point=f"strange:{made.__name__}")
"""
TRAIN = ["sb3_ppo_notes", "train", "--env", "strange:Endless-v0", "--total-timesteps", "64", "--n-envs", "1"]
STUDY = ["tuning.study", "run", "--n-timesteps", "1000", "--budget", "100000", "--outdir", "study"]


@pytest.fixture
def begun(tmp_path):
    """Start a command in a folder with the module."""
    (tmp_path / "strange.py").write_text(MODULE)
    processes = []

    def start(command):
        environment = os.environ | {"PYTHONPATH": f"{ROOT}{os.pathsep}{tmp_path}", "OMP_NUM_THREADS": "1"}
        process = subprocess.Popen(
            [sys.executable, "-m", *command],
            cwd=tmp_path,
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            # A shell's background job would be deaf to Ctrl-C.
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
        )
        processes.append(process)
        return process

    yield start
    for process in processes:
        process.kill()
        process.communicate()


def wait_for(path, seconds=120.0):
    deadline = time.monotonic() + seconds
    while not path.exists():
        assert time.monotonic() < deadline, f"{path} is not there"
        time.sleep(0.1)


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_train_is_stopped_in_its_last_evaluation_and_goes_on_with_it(number, code, begun, tmp_path):
    process = begun([*TRAIN, "--n-eval-episodes", "100000", "--outdir", "run"])
    wait_for(tmp_path / "run" / "model.zip")
    time.sleep(1.0)
    process.send_signal(number)
    printed, _ = process.communicate(timeout=30)
    assert process.returncode == code, printed
    assert "interrupted after 2,048 steps, go on with: train --resume run" in printed


def test_train_ends_by_itself_and_says_which_limit_cut_the_episodes(begun, tmp_path):
    process = begun([*TRAIN, "--n-eval-episodes", "1", "--outdir", "run"])
    printed, _ = process.communicate(timeout=120)
    assert process.returncode == 0, printed
    assert "was cut after MAX_EPISODE_STEPS = 10,000 steps" in printed
    assert "return 10000.0" in printed


def test_compare_ends_and_says_how_many_episodes_were_cut(begun):
    arms = "sb3:n_steps=16,batch_size=16,notes:n_steps=16,batch_size=16"
    options = ["--seeds", "2", "--total-timesteps", "32", "--n-eval-episodes", "1", "--outdir", "comparison"]
    process = begun(["sb3_ppo_notes", "compare", "--envs", "strange:Endless-v0", "--arms", arms, *options])
    printed, _ = process.communicate(timeout=240)
    assert process.returncode == 0, printed
    assert "note: 4 episodes of strange:Endless-v0 were cut after MAX_EPISODE_STEPS = 10,000 steps" in printed


def test_a_study_is_stopped_in_an_evaluation(begun, tmp_path):
    process = begun([*STUDY, "--env", "strange:Endless-v0", "--n-eval-episodes", "100000"])
    wait_for(tmp_path / "study")
    time.sleep(15.0)
    process.send_signal(signal.SIGTERM)
    printed, _ = process.communicate(timeout=60)
    assert process.returncode == 143, printed


def test_a_study_whose_environment_pays_nan_stops_after_three_trials_with_the_reason(begun):
    process = begun([*STUDY, "--env", "strange:PaysNaN-v0"])
    printed, _ = process.communicate(timeout=240)
    assert process.returncode == 1, printed
    assert "reward must be finite, got nan from environment 0 at step" in printed
    assert "so ended 3 trials in a row: see to the environment" in printed
    assert "search: 3 complete" in printed
