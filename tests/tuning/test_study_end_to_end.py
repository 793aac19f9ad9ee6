"""A whole study on CartPole, as a user runs it: it must find something that holds up on seeds nobody tuned on."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import yaml

from tuning.objective import Run, build
from tuning.objective_environments import training_environments
from tuning.space_arguments import baseline_setup
from tuning.space_warm_starts import parsed_entry

ROOT = Path(__file__).resolve().parent.parent.parent
#: So short that stock PPO's two rollouts of 2048 steps would run on for half as long again; A2C's are as long as they say.
STEPS = 2_500

pytestmark = pytest.mark.slow


def test_sixty_thousand_steps_of_cartpole_beat_sb3s_defaults(tmp_path):
    command = ["run", "--env", "CartPole-v1", "--algo", "notes_a2c", "--budget", "60000", "--workers", "2"]
    command += ["--study", "cartpole", "--outdir", str(tmp_path / "out"), "--n-timesteps", str(STEPS)]
    finished = subprocess.run(
        [sys.executable, "tuning/study.py", *command, "--n-eval-episodes", "5"],
        cwd=ROOT,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
    )
    assert finished.returncode == 0, finished.stderr
    study = json.loads((tmp_path / "out" / "study.json").read_text())
    assert study["env_steps"] <= 60_000
    scores = {arm["name"]: list(arm["scores"].values()) for arm in study["tested"]}
    assert len(scores["tuned"]) == len(scores["SB3 defaults"]) == 10
    assert np.mean(scores["tuned"]) > np.mean(scores["SB3 defaults"])
    assert "minus test score" in finished.stdout
    # What is exported builds what was tuned.
    best = yaml.safe_load((tmp_path / "out" / "best.yml").read_text())["CartPole-v1"]
    assert best["n_timesteps"] == STEPS
    setup = baseline_setup("best", "notes_a2c", parsed_entry(best))
    env = training_environments("CartPole-v1", setup, 0)
    model = build(Run(setup, "CartPole-v1", 0, STEPS, (STEPS,)), env)
    assert model.n_steps == best["n_steps"]
    assert model.n_envs == best["n_envs"]
    env.close()
