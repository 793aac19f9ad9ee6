"""What a user sees of an environment that fails: its own error in one line, exit code 2, and nothing half done."""

import re
import subprocess
import sys
from pathlib import Path

import gymnasium as gym
import pytest
from stable_baselines3.common.vec_env import DummyVecEnv

from sb3_ppo_notes.__main__ import main
from sb3_ppo_notes.envs.errors import environment_error
from sb3_ppo_notes.formulas.checks import InvalidValueError

ROOT = Path(__file__).parents[2]
MODULE = '''
import gymnasium as gym
import numpy as np


class Line(gym.Env):
    """Ten steps an episode; fails where it is told to, from the n-th call on."""

    metadata = {"render_modes": ["rgb_array"], "render_fps": 5}
    observation_space, action_space = gym.spaces.Box(-1, 1, (3,)), gym.spaces.Discrete(2)

    def __init__(self, render_mode=None, fails_in=None, after=0):
        self.render_mode, self.fails_in, self.after = render_mode, fails_in, after
        self.calls = dict.fromkeys(("step", "reset", "render"), 0)
        self._call("init") if fails_in == "init" else None

    def _call(self, name):
        if name in self.calls:
            self.calls[name] += 1
        if name == self.fails_in and self.calls.get(name, 1) > self.after:
            raise KeyError(f"no key\\nin {name}")

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self._call("reset")
        self.t = 0
        return np.zeros(3, np.float32), {}

    def step(self, action):
        self._call("step")
        self.t += 1
        return np.zeros(3, np.float32), 1.0, self.t >= 10, False, {}

    def render(self):
        self._call("render")
        return np.zeros((16, 16, 3), np.uint8)


class Sum(Line):
    def __init__(self, render_mode=None):
        self.total = 1 + "one"


class Abstract(Line):
    def __init__(self, size, render_mode=None):
        super().__init__()


class WrongShape(Line):
    def step(self, action):
        return np.zeros(5, np.float32), 1.0, False, False, {}


class OldStep(Line):
    def step(self, action):
        return np.zeros(3, np.float32), 1.0, False, {}


class Silent(Line):
    def step(self, action):
        raise StopIteration


class Mute(Line):
    def step(self, action):
        class NoWord(Exception):
            def __str__(self):
                return self.args[7]

        raise NoWord


class Exits(Line):
    def step(self, action):
        raise SystemExit("the licence has expired")


class Breaks(gym.Wrapper):
    def step(self, action):
        raise LookupError("in the wrapper")


class BreaksAtOnce(gym.Wrapper):
    def __init__(self, env):
        raise LookupError("in its constructor")


def imports():
    import no_such_package


def nothing():
    return None


for name in ("Sum", "Missing", "Abstract", "WrongShape", "OldStep", "Silent", "Mute", "Exits", "imports", "nothing"):
    gym.register(f"{name.capitalize() if name.islower() else name}-v0", entry_point=f"broken_envs:{name}")
for name in ("init", "step", "reset", "render"):
    gym.register(f"{name.capitalize()}Fails-v0", entry_point="broken_envs:Line", kwargs={"fails_in": name})
gym.register("Late-v0", entry_point="broken_envs:Line", kwargs={"fails_in": "step", "after": 70})
gym.register("Second-v0", entry_point="broken_envs:Line", kwargs={"fails_in": "reset", "after": 1})
gym.register("Line-v0", entry_point="broken_envs:Line")
gym.register("Syntax-v0", entry_point="bad_syntax:Env")
gym.register("Licence-v0", entry_point="no_licence:Env")
'''
#: What of each environment is told, whatever the command is.
CONSTRUCTIONS = {
    "Sum-v0": "TypeError: unsupported operand type(s) for +: 'int' and 'str' (broken_envs.py:N, in __init__)",
    "Missing-v0": "AttributeError: module 'broken_envs' has no attribute 'Missing'",
    "Abstract-v0": "TypeError: Abstract.__init__() missing 1 required positional argument: 'size'",
    "Imports-v0": "ModuleNotFoundError: No module named 'no_such_package' (broken_envs.py:N, in imports)",
    "Nothing-v0": "TypeError: The environment must inherit from the gymnasium.Env class",
    "Syntax-v0": "SyntaxError: invalid syntax (bad_syntax.py, line 1)",
    "Licence-v0": "RuntimeError: no licence (no_licence.py:1, in <module>)",
    "InitFails-v0": "KeyError: 'no key\\nin init' (broken_envs.py:N, in _call)",
}
CALLS = {
    "ResetFails-v0": "KeyError: 'no key\\nin reset' (broken_envs.py:N, in _call)",
    "StepFails-v0": "KeyError: 'no key\\nin step' (broken_envs.py:N, in _call)",
    "Second-v0": "KeyError: 'no key\\nin reset' (broken_envs.py:N, in _call)",
}


@pytest.fixture(autouse=True)
def broken_envs(tmp_path, monkeypatch):
    folder = tmp_path / "modules"
    folder.mkdir()
    (folder / "broken_envs.py").write_text(MODULE)
    (folder / "bad_syntax.py").write_text("class Env(:")
    (folder / "no_licence.py").write_text("raise RuntimeError('no licence')")
    monkeypatch.syspath_prepend(str(folder))
    monkeypatch.setenv("PYTHONPATH", f"{folder}:{ROOT}")
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    registry = dict(gym.registry)
    yield
    gym.registry.clear()
    gym.registry.update(registry)
    sys.modules.pop("broken_envs", None)


def small(command, name):
    words = [command, "--env", f"broken_envs:{name}"]
    if command == "train":
        return [*words, "--total-timesteps", "64", "--config", "small.yaml"]
    if command == "compare":
        return [*words, "--total-timesteps", "64", "--seeds", "1", "--n-envs", "1"]
    return [*words, "--n-envs", "1", "--rounds", "1", "--total-timesteps", "64", "--n-steps", "64"]


def failure(words, capsys):
    """The one line on stderr, and what was left behind."""
    Path("small.yaml").write_text("env: Line-v0\nn_envs: 1\nhyperparameters: {n_steps: 32, batch_size: 32}\n")
    assert main(words) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    line = re.sub(r"(broken_envs\.py):\d+", r"\1:N", error.rstrip("\n"))
    return line, sorted(path.name for path in Path().iterdir() if path.name != "small.yaml")


@pytest.mark.parametrize("command", ["train", "compare", "bench"])
@pytest.mark.parametrize("name", CONSTRUCTIONS)
def test_what_an_environment_raises_while_it_is_made_is_told_as_it_is(name, command, capsys):
    error, left = failure(small(command, name), capsys)
    assert error.startswith(f"error: env 'broken_envs:{name}': {CONSTRUCTIONS[name]}")
    assert not left


@pytest.mark.parametrize("command", ["train", "compare"])
@pytest.mark.parametrize("name", CALLS)
def test_what_an_environment_raises_before_anything_was_learned_leaves_nothing_behind(name, command, capsys):
    error, left = failure(small(command, name), capsys)
    assert error.startswith(f"error: env '{name}': {CALLS[name]}")
    assert not left


@pytest.mark.parametrize("name", ["CartPoel-v1", "CartPole-v7", "Nowhere/Land-v1"])
@pytest.mark.parametrize("command", ["train", "compare", "bench"])
def test_an_id_that_nobody_registered_is_told_with_what_is_near(name, command, capsys):
    error, left = failure([command, "--env", name], capsys)
    assert error.startswith(f"error: env must be the id of a registered environment, got '{name}'")
    assert not name.startswith("CartPoel") or "did you mean 'CartPole-v1'" in error
    assert not left


@pytest.mark.filterwarnings("ignore:.*Core environment is written in old step API")
@pytest.mark.parametrize(
    ("name", "line"),
    [
        ("OldStep-v0", "ValueError: not enough values to unpack (expected 5, got 4)"),
        ("Silent-v0", "StopIteration (broken_envs.py:N, in step)"),
        (
            "Mute-v0",
            "NoWord: it has no message, its __str__ raises IndexError (broken_envs.py:N, in step), raised by environment",
        ),
        ("Exits-v0", "SystemExit: the licence has expired (broken_envs.py:N, in step)"),
    ],
)
def test_a_step_that_cannot_be_taken_names_the_environment(name, line, capsys):
    error, left = failure(small("train", name), capsys)
    assert error.startswith(f"error: env '{name}': {line}")
    assert not left


@pytest.mark.parametrize(
    ("wrapper", "line"),
    [
        ("Breaks", "LookupError: in the wrapper (broken_envs.py:N, in step), raised by environment 0, at step 8"),
        ("BreaksAtOnce", "LookupError: in its constructor (broken_envs.py:N, in __init__)"),
    ],
)
def test_a_wrapper_of_the_configuration_is_told_like_its_environment(wrapper, line, capsys):
    __import__("broken_envs")
    Path("wrapped.yaml").write_text(f"env: Line-v0\nenv_wrapper: [broken_envs.{wrapper}]\n")
    error, left = failure(["train", "--config", "wrapped.yaml"], capsys)
    assert error.startswith(f"error: env 'Line-v0': {line}")
    assert left == ["wrapped.yaml"]


def test_an_observation_of_another_shape_names_both_shapes_and_the_environment(capsys):
    error, left = failure(small("train", "WrongShape-v0"), capsys)
    assert error.startswith("error: observation must have the shape (3,) of its space, got (5,) from environment 0")
    assert not left


def test_arguments_that_a_constructor_does_not_take_are_the_configurations_fault(capsys):
    __import__("broken_envs")
    Path("kwargs.yaml").write_text("env: Line-v0\nenv_kwargs: {speed: 3}\n")
    error, _ = failure(["train", "--config", "kwargs.yaml"], capsys)
    assert error.startswith("error: env_kwargs must be arguments of Line-v0, got {'speed': 3} (Line.__init__() got an")


def test_an_existing_folder_stays_and_is_empty_again(capsys):
    Path("run").mkdir()
    _, left = failure([*small("train", "StepFails-v0"), "--outdir", "run"], capsys)
    assert left == ["run"]
    assert not list(Path("run").iterdir())


def test_what_was_learned_before_an_environment_failed_is_kept_and_can_be_resumed(capsys):
    words = [*small("train", "Late-v0"), "--total-timesteps", "96", "--checkpoint-every", "32", "--outdir", "run"]
    error, _ = failure(words, capsys)
    assert error.endswith("raised by environment 0, at step 71, after action 0") or error.endswith("action 1")
    assert Path("run/model.zip").exists()
    assert main(["train", "--resume", "run"]) == 2  # the environment is as it was
    assert "go on with: train --resume run" in capsys.readouterr().out
    capsys.readouterr()


def test_an_environment_that_cannot_be_rendered_is_told_before_it_is_filmed(capsys):
    error, left = failure([*small("train", "RenderFails-v0"), "--video-every", "32"], capsys)
    assert error.startswith("error: env 'RenderFails-v0': KeyError: 'no key\\nin render' (broken_envs.py:N, in _call)")
    assert not left


@pytest.mark.parametrize("call", ["reset", "step", "render"])
def test_visualize_tells_what_an_environment_raises_and_writes_nothing(call, capsys, monkeypatch):
    Path("small.yaml").write_text(
        "env: broken_envs:Line-v0\nn_envs: 1\nhyperparameters: {n_steps: 32, batch_size: 32}\n"
    )
    assert main(["train", "--config", "small.yaml", "--total-timesteps", "32", "--outdir", "run"]) == 0
    capsys.readouterr()
    text = (
        Path("run/config.yaml").read_text().replace("broken_envs:Line-v0", f"broken_envs:{call.capitalize()}Fails-v0")
    )
    Path("run/config.yaml").write_text(text)
    error, left = failure(["visualize", "--logdir", "run"], capsys)
    assert f"KeyError: 'no key\\nin {call}' (broken_envs.py:N, in _call)" in error
    assert error.startswith(f"error: env '{call.capitalize()}Fails-v0': ")
    assert left == ["run"]


def test_an_error_that_closing_raises_hides_no_other(capsys, monkeypatch):
    def close(self):
        raise OSError("cannot close either")

    __import__("broken_envs")
    monkeypatch.setattr(DummyVecEnv, "close", close)
    error, _ = failure(small("train", "StepFails-v0"), capsys)
    assert "KeyError" in error


def test_an_error_of_our_own_and_one_from_elsewhere_are_no_environments():
    class Refusing(gym.Env):
        def reset(self, **kwargs):
            raise InvalidValueError("reward must be finite, got nan in environment 0")

    for error, call in [(InvalidValueError, Refusing().reset), (ZeroDivisionError, lambda: 1 / 0)]:
        with pytest.raises(error) as caught:
            call()
        assert environment_error(caught.value) is None


@pytest.mark.slow
@pytest.mark.parametrize("name", ["ResetFails-v0", "StepFails-v0"])
def test_bench_tells_what_an_environment_raises_in_its_programs(name, capsys):
    error, left = failure(small("bench", name), capsys)
    assert error.startswith("error: sb3: env ")
    assert CALLS[name] in error
    assert not left


@pytest.mark.slow
def test_a_comparison_of_which_no_run_could_play_is_no_verdict_and_leaves_no_runs(capsys):
    words = ["compare", "--envs", "broken_envs:StepFails-v0", "--seeds", "2", "--total-timesteps", "64"]
    error, left = failure(words, capsys)
    assert error.startswith(f"error: env 'StepFails-v0': {CALLS['StepFails-v0']}")
    assert not left


def study(*words):
    command = [sys.executable, str(ROOT / "tuning" / "study.py"), *words]
    done = subprocess.run(command, capture_output=True, text=True)
    assert "Traceback" not in done.stderr
    *_, last = ["", *done.stderr.splitlines()]
    return done.returncode, re.sub(r"(broken_envs\.py):\d+", r"\1:N", last)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["ResetFails-v0", "StepFails-v0", "Second-v0"])
def test_a_study_whose_environment_fails_stops_with_the_environments_error(name):
    limits = ["--budget", "5000", "--n-timesteps", "500", "--n-eval-episodes", "1", "--test-seeds", "2"]
    code, line = study("run", "--env", f"broken_envs:{name}", "--study", "s", *limits, "--workers", "2")
    assert code == 2
    assert line.startswith(f"error: study 's' stopped, env '{name}': {CALLS[name]}")
    assert study("report", "--study", "s")[0] == 0


@pytest.mark.slow
@pytest.mark.parametrize("name", CONSTRUCTIONS)
def test_a_study_whose_environment_cannot_be_made_is_not_begun(name):
    code, line = study("run", "--env", f"broken_envs:{name}", "--study", "s", "--budget", "5000")
    assert code == 2
    assert line.startswith(f"error: env 'broken_envs:{name}': {CONSTRUCTIONS[name]}")
    assert not list(Path().iterdir())
