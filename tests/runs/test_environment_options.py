"""--import, --env-kwargs and --wrapper: every command makes the same environments of them, in every process."""

import json
import os
import subprocess
import sys
from pathlib import Path

import gymnasium as gym
import pytest
import yaml

from sb3_ppo_notes.__main__ import main
from sb3_ppo_notes.configs.build import build_model, check_environment, environment_factory
from sb3_ppo_notes.configs.environments import EnvironmentOptions
from sb3_ppo_notes.configs.run_config import resolve_config
from sb3_ppo_notes.envs import SupervisedVecEnv

ROOT = Path(__file__).parents[2]
#: It cannot be made without its argument, and nobody learns in it without its wrapper.
PACKAGE = """
import gymnasium as gym
import numpy as np
from gymnasium import spaces


class Strange(gym.Env):
    metadata = {"render_modes": ["rgb_array"]}

    def __init__(self, goal, render_mode=None):
        self.goal, self.render_mode = goal, render_mode
        image = spaces.Box(-100, 100, (2,), dtype=np.float32)
        self.observation_space = spaces.Dict(image=image, mission=spaces.Text(9))
        self.action_space = spaces.Discrete(2)

    def shown(self):
        return {"image": np.array([self.count, self.goal[0]], dtype=np.float32), "mission": "go"}

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.count = 0
        return self.shown(), {}

    def step(self, action):
        self.count += 1
        return self.shown(), float(action == self.count % 2), self.count == self.goal[1], False, {}

    def render(self):
        return np.zeros((32, 32, 3), dtype=np.uint8)


class Image(gym.ObservationWrapper):
    def __init__(self, env, scale=1.0):
        super().__init__(env)
        self.scale, self.observation_space = scale, env.observation_space["image"]

    def observation(self, observation):
        return observation["image"] * np.float32(self.scale)


gym.register("Strange-v0", Strange)
"""
OPTIONS = [
    *("--import", "strange_package", "--env-kwargs", "goal=[3,9]"),
    *("--wrapper", "strange_package:Image:scale=0.5"),
]
AS_DATA = {
    "imports": ["strange_package"],
    "env_kwargs": {"goal": [3, 9]},
    "env_wrapper": [{"strange_package.Image": {"scale": 0.5}}],
}


@pytest.fixture(autouse=True)
def package(tmp_path, monkeypatch):
    """The package lies in the folder that commands are started in, and is unknown to this process afterwards."""
    (tmp_path / "strange_package.py").write_text(PACKAGE)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    yield
    sys.modules.pop("strange_package", None)
    gym.registry.pop("Strange-v0", None)


def run(*words):
    """A command in a process of its own, as a shell starts it."""
    environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    return subprocess.run([sys.executable, *words], env=environment, capture_output=True, text=True, check=False)


def train(*words):
    size = ["--n-envs", "2", "--total-timesteps", "4096", "--n-eval-episodes", "2", "--outdir", "run"]
    return main(["train", "--env", "Strange-v0", *size, *words])


def test_the_options_are_plain_data():
    words = EnvironmentOptions(
        imports=("strange_package",), env_kwargs=("goal:[3,9]",), wrapper=("strange_package:Image:scale=0.5",)
    )
    assert words.environment() == AS_DATA
    assert EnvironmentOptions().environment() == {}


@pytest.mark.parametrize(
    ("words", "error"),
    [
        (["--import", "no_such_package"], "import must be packages that are installed, got 'no_such_package'"),
        (["--env-kwargs", "goal"], "env_kwargs must be words of the form name=value, got 'goal'"),
        (
            [*OPTIONS[:2], "--env-kwargs", "gaol=[1,2]"],
            "env_kwargs must be arguments of Strange-v0, got {'gaol': [1, 2]}",
        ),
        (["--wrapper", "strange_package:Strange"], "env_wrapper must be import paths of gymnasium.Wrapper classes"),
        (["--wrapper", "strange_package:Imago"], "env_wrapper must be an import path, got 'strange_package.Imago'"),
        (["--wrapper", "strange_package:Image:0.5"], "wrapper must be words of the form name=value, got '0.5'"),
        (["--wrapper", "gymnasium.wrappers:TimeLimit:max_episode_steps=9"], "--env-kwargs max_episode_steps=100, say"),
        (OPTIONS[:4], "env must have an observation space of type Box"),
        ([], "env must be the id of a registered environment, got 'Strange-v0'"),
        ([], "'package:id', or --import package in a command"),
    ],
)
@pytest.mark.parametrize("command", [["train"], ["compare"], ["compare", "--arms", "sb3,notes"], ["bench"]])
def test_what_cannot_be_is_refused_before_anything_is_written(command, words, error, capsys, tmp_path):
    assert main([*command, "--env", "Strange-v0", *words]) == 2
    assert error in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir() if path.suffix != ".py" and path.name != "__pycache__"] == []


@pytest.mark.slow
def test_a_run_says_how_its_environments_are_made_and_is_resumed_and_filmed_so(capsys):
    assert train(*OPTIONS) == 0
    config = yaml.safe_load(Path("run/config.yaml").read_text())
    assert {key: config[key] for key in AS_DATA} == AS_DATA
    for words in (
        ["train", "--resume", "run", "--total-timesteps", "8192"],
        ["visualize", "--logdir", "run", "--episodes", "1", "--outdir", "videos"],
    ):
        result = run("-m", "sb3_ppo_notes", *words)
        assert result.returncode == 0, result.stderr
    assert "9 " in Path("videos/episodes.csv").read_text() or ",9," in Path("videos/episodes.csv").read_text()


def test_a_model_is_built_and_evaluated_in_the_same_environments():
    config, _ = resolve_config(None, {"env": "Strange-v0", "n_envs": 2} | AS_DATA)
    env = build_model(config).get_env()
    assert env.reset().tolist() == [[0, 1.5]] * 2
    env.close()
    assert environment_factory(config)().reset()[0].tolist() == [0, 1.5]
    assert check_environment("Strange-v0", **AS_DATA).shape == (2,)


def test_a_function_that_makes_an_environment_imports_what_registers_it_in_another_process():
    config, _ = resolve_config(None, {"env": "Strange-v0"} | AS_DATA)
    env = SupervisedVecEnv([environment_factory(config)] * 2)  # processes that know nothing of the package
    assert env.reset().tolist() == [[0, 1.5]] * 2
    env.close()


def test_a_configuration_may_name_a_package_in_one_word(tmp_path):
    (tmp_path / "c.yaml").write_text("env: Strange-v0\nimports: strange_package\nenv_kwargs: {goal: [1, 2]}\n")
    assert resolve_config("c.yaml", {})[0].imports == ["strange_package"]
    assert "Strange-v0" in gym.registry
    (tmp_path / "d.yaml").write_text("imports: [3]\n")
    with pytest.raises(TypeError, match=r"^imports must be a list of names, got \[3\]$"):
        resolve_config("d.yaml", {})


@pytest.mark.slow
def test_a_comparison_makes_them_in_its_processes_and_repeats_the_options():
    size = ["--total-timesteps", "256", "--n-envs", "2", "--seeds", "2", "--n-eval-episodes", "2"]
    arms = "sb3:n_steps=64,notes:n_steps=64"
    result = run("-m", "sb3_ppo_notes", "compare", "--envs", "Strange-v0", "--arms", arms, *size, *OPTIONS)
    assert result.returncode == 0, result.stderr
    records = [json.loads(path.read_text()) for path in Path("comparison/runs").glob("*.json")]
    assert len(records) == 5  # the fifth is the random policy's: a changed task has no published scale
    assert all(record["status"] == "finished" for record in records)
    assert all(record["run"]["settings"]["environment"] == AS_DATA for record in records)
    command = json.loads(Path("comparison/comparison.json").read_text())["command"]
    assert "--import strange_package --env-kwargs 'goal=[3,9]' --wrapper strange_package:Image:scale=0.5" in command


@pytest.mark.slow
def test_a_side_by_side_comparison_and_a_benchmark_make_them():
    size = ["--env", "Strange-v0", "--n-envs", "2", "--n-eval-episodes", "2"]
    words = ["compare", *size, "--total-timesteps", "4096", "--seeds", "1"]
    result = run("-m", "sb3_ppo_notes", *words, *OPTIONS)
    assert result.returncode == 0, result.stderr
    words = [
        "bench",
        *size,
        "--ours",
        "notes,notes+lean",
        "--rounds",
        "1",
        "--n-steps",
        "64",
        "--total-timesteps",
        "128",
    ]
    result = run("-m", "sb3_ppo_notes", *words, *OPTIONS)
    assert result.returncode == 0, result.stderr


def test_a_vector_environment_wraps_nothing(capsys):
    assert main(["bench", "--env", "Strange-v0", "--ours", "notes+vector", *OPTIONS]) == 2
    assert "wrapper must be left out with ours notes+vector" in capsys.readouterr().err


@pytest.mark.slow
def test_a_study_makes_them_in_its_workers_and_its_winner_says_how():
    pytest.importorskip("optuna")
    size = ["--n-envs", "2", "--n-timesteps", "512", "--max-trials", "2", "--finalists", "1", "--finalist-seeds", "1"]
    words = ["run", "--env", "Strange-v0", *size, "--test-seeds", "2", "--n-eval-episodes", "2", "--study", "s"]
    result = run(str(ROOT / "tuning" / "study.py"), *words, *OPTIONS)
    assert result.returncode == 0, result.stderr
    result = run(str(ROOT / "tuning" / "study.py"), "compare", "--study", "s", "--test-seeds", "3")
    assert result.returncode == 0, result.stderr
    best = Path("studies/s/best.yml").read_text()
    entry = yaml.safe_load(best)["Strange-v0"]
    assert {key: entry[key] for key in ("env_kwargs", "env_wrapper")} == {
        key: AS_DATA[key] for key in ("env_kwargs", "env_wrapper")
    }
    assert "--config best.yml --env Strange-v0 --import strange_package\n" in best
    assert "-conf best.yml --gym-packages strange_package\n" in best
