"""A whole study on CartPole, as a user runs it: it must find something that holds up on seeds nobody tuned on."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import yaml

from sb3_ppo_notes import NotesA2C
from tuning.space.setup import baseline_setup
from tuning.space.warm_starts import parse_entry
from tuning.worker.objective import TrainingRun, build, training_environments

ROOT = Path(__file__).resolve().parent.parent.parent
#: So short that stock PPO's two rollouts of 2048 steps would run on for half as long again; A2C's are as long as they say.
STEPS = 2_500

pytestmark = pytest.mark.slow


def finished(*command):
    """What a command prints, which must end well."""
    process = subprocess.run(
        [sys.executable, *command],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
    )
    assert process.returncode == 0, process.stderr
    return process.stdout


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    """Its folder, and what it printed."""
    out = tmp_path_factory.mktemp("study") / "out"
    command = ["run", "--env", "CartPole-v1", "--algo", "notes_a2c", "--budget", "60000", "--workers", "2"]
    command += ["--study", "cartpole", "--n-timesteps", str(STEPS), "--n-eval-episodes", "5", "--outdir", str(out)]
    return out, finished("tuning/study.py", *command)


def best(study):
    return yaml.safe_load((study[0] / "best.yml").read_text())["CartPole-v1"]


def test_sixty_thousand_steps_of_cartpole_beat_sb3s_defaults(study):
    out, printed = study
    record = json.loads((out / "study.json").read_text())
    assert record["env_steps"] <= 60_000
    scores = {arm["name"]: list(arm["scores"].values()) for arm in record["tested"]}
    assert len(scores["tuned"]) == len(scores["SB3 defaults"]) == 10
    assert np.mean(scores["tuned"]) > np.mean(scores["SB3 defaults"])
    assert "minus test score" in printed


def test_what_is_exported_builds_what_was_tuned(study):
    entry = best(study)
    assert entry["n_timesteps"] == STEPS
    setup = baseline_setup("best", "notes_a2c", parse_entry(entry))
    env = training_environments("CartPole-v1", setup, 0)
    model = build(TrainingRun(setup, "CartPole-v1", 0, STEPS, (STEPS,)), env)
    assert (model.n_steps, model.n_envs) == (entry["n_steps"], entry["n_envs"])
    env.close()


def test_train_config_trains_what_was_found(study, tmp_path):
    command = ["-m", "sb3_ppo_notes", "train", "--config", str(study[0] / "best.yml"), "--algo", "a2c"]
    few = ["--total-timesteps", "400", "--n-eval-episodes", "1", "--outdir", str(tmp_path / "run")]
    assert "CartPole-v1 after" in finished(*command, *few)
    model = NotesA2C.load(tmp_path / "run" / "model.zip")
    entry = best(study)
    for name in ("n_steps", "gamma", "ent_coef", "vf_coef", "max_grad_norm"):
        assert getattr(model, name) == entry[name], name


def test_rl_zoo3s_own_command_trains_what_was_found(study, tmp_path):
    pytest.importorskip("rl_zoo3", reason="rl_zoo3 is not installed")
    command = ["-m", "rl_zoo3.train", "--algo", "a2c", "--env", "CartPole-v1", "-conf", str(study[0] / "best.yml")]
    finished(*command, "-n", "400", "-f", str(tmp_path), "--eval-freq", "-1", "--seed", "1")
    (saved,) = tmp_path.rglob("config.yml")
    used = dict(yaml.unsafe_load(saved.read_text()))
    assert used == best(study)
    assert list(tmp_path.rglob("CartPole-v1.zip"))
