"""``python -m sb3_ppo_notes.zoo``: rl_zoo3's commands with our algorithms, and what is said where rl_zoo3 is another."""

import importlib.util
import os
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import imageio_ffmpeg
import numpy as np
import pytest
import torch as th
import yaml
from stable_baselines3.common.callbacks import EvalCallback
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.vec_env import VecNormalize

from sb3_ppo_notes import NotesA2C, NotesPPO, zoo
from sb3_ppo_notes.rules import HuberValueError

ROOT = Path(__file__).parent.parent
#: Doors of which one is locked, at every step another one; whoever tries it ends the program. Notes the actions taken.
DOORS = """
import os

import gymnasium as gym
import numpy as np
from gymnasium import spaces


class Doors(gym.Env):
    metadata = {"render_modes": ["rgb_array"], "render_fps": 10}
    observation_space, action_space = spaces.Box(0, 1, (4,)), spaces.Discrete(4)

    def __init__(self, render_mode=None):
        self.render_mode = render_mode

    def next(self):
        self.open = np.arange(4) != self.np_random.integers(4)
        return self.np_random.uniform(size=4).astype(np.float32), {}

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.steps = 0
        return self.next()

    def action_masks(self):
        return self.open

    def step(self, action):
        assert self.open[action], "a locked door"
        if "DOORS_TAKEN" in os.environ:
            with open(os.environ["DOORS_TAKEN"], "a") as file:
                file.write(f"{action} ")
        self.steps += 1
        return self.next()[0], float(action == 2), self.steps == 5, False, {}

    def render(self):
        return np.full((32, 32, 3), 50 * self.steps, np.uint8)


gym.register("Doors-v0", Doors)
"""
VALUES = {
    "Doors-v0": {
        "n_timesteps": 512,
        "policy": "MlpLstmPolicy",
        "action_masking": True,
        "n_envs": 2,
        "n_steps": 32,
        "batch_size": 32,
        "learning_rate": "lin_1e-2",
        "ent_coef": "lin_0.01",
        "normalize": True,
        "rule": {"value_objective": {"HuberValueError": {"beta": 0.5}}},
        "policy_kwargs": "dict(lstm_hidden_size=16, net_arch=[16])",
    }
}


# -- what a user types ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("words", "code"), [([], 2), (["--help"], 0)])
def test_without_a_command_its_commands_are_shown(words, code, capsys):
    assert zoo.main(words) == code
    assert "train,optimize,enjoy,record_video" in capsys.readouterr().out


def test_an_unknown_command_is_refused(capsys):
    assert zoo.main(["trian"]) == 2
    assert (
        capsys.readouterr().err == "error: command must be one of train, optimize, enjoy, record_video, got 'trian'\n"
    )


def completed(command, words, monkeypatch):
    monkeypatch.setattr(zoo, "_hyperparameters", lambda stock: f"{stock}.yml")
    return zoo._with_defaults(words, zoo._options(command, words))


@pytest.mark.parametrize(
    ("command", "words", "defaults"),
    [
        ("train", [], ["--algo", "notes_ppo", "-conf", "ppo.yml"]),
        ("train", ["--algo", "notes_a2c", "-n", "-1"], ["--algo", "notes_a2c", "-conf", "a2c.yml"]),
        ("train", ["-params", "a:1", "b:'lin_1'"], ["--algo", "notes_ppo", "-conf", "ppo.yml"]),
        ("train", ["-conf", "mine.yml"], ["--algo", "notes_ppo"]),
        ("train", ["--conf-file=mine.yml"], ["--algo", "notes_ppo"]),
        ("train", ["--conf", "mine.yml"], ["--algo", "notes_ppo"]),  # as argparse abbreviates
        ("optimize", ["-optimize"], ["--algo", "notes_ppo", "-conf", "ppo.yml"]),
        ("enjoy", ["--no-render"], ["--algo", "notes_ppo", "-f", "logs"]),
        ("enjoy", ["--folder", "mine"], ["--algo", "notes_ppo"]),
        ("record_video", ["-f", "mine", "-o", "films"], ["--algo", "notes_ppo"]),
    ],
)
def test_what_rl_zoo3_has_no_default_of_ours_for_is_added(command, words, defaults, monkeypatch):
    assert completed(command, words, monkeypatch) == [*defaults, *words]


# -- another rl_zoo3, or none -----------------------------------------------------------------------------------------


def module_with(name, names=()):
    module = ModuleType(name)
    vars(module).update({key: {"ppo": None, "a2c": None} for key in names})  # tables, where it matters
    return module


@pytest.fixture
def fake_zoo(monkeypatch):
    """A package that has what is looked for, and nothing else."""
    modules = {name: module_with(name, names) for name, names in zoo.NAMES.items()}
    for name, module in modules.items():
        monkeypatch.setitem(sys.modules, name, module)
    monkeypatch.setattr(zoo, "_version", lambda: "9.9")
    return modules


def test_a_wrong_command_is_one_line_where_python_runs_the_module():
    command = [sys.executable, "-m", "sb3_ppo_notes.zoo", "enjoi"]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (result.returncode, result.stderr.count("\n")) == (2, 1)
    assert result.stderr.startswith("error: command must be one of train, optimize")


@pytest.mark.parametrize("command", ["train", "enjoy", "record_video", "optimize"])
def test_without_rl_zoo3_one_line_says_how_to_get_it(command, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "rl_zoo3", None)
    monkeypatch.setattr(zoo, "COMMANDS", dict.fromkeys(zoo.COMMANDS, ("rl_zoo3.train", None)))
    assert zoo.main([command]) == 2
    line = "error: zoo needs rl_zoo3, which is not installed: pip install 'sb3-ppo-notes[zoo]'\n"
    assert capsys.readouterr().err == line


def test_what_rl_zoo3_needs_and_does_not_ask_for_is_asked_for_before_anything_runs(monkeypatch, capsys):
    monkeypatch.setitem(zoo.COMMANDS, "optimize", ("rl_zoo3.train", "no_such_package"))
    for words in (["optimize"], ["train", "--optimize-hyperparameters"], ["train", "-optimize"]):
        assert zoo.main(words) == 2
        assert "error: zoo needs no_such_package, which is not installed" in capsys.readouterr().err


@pytest.mark.parametrize(("module", "name"), [(module, name) for module, names in zoo.NAMES.items() for name in names])
def test_a_name_that_rl_zoo3_no_longer_has_is_named(module, name, fake_zoo, capsys):
    delattr(fake_zoo[module], name)
    assert zoo.main(["train"]) == 2
    line = f"error: rl_zoo3 must have {module}.{name}, as 2.9.2 has; installed is 9.9, without it\n"
    assert capsys.readouterr().err == line


def test_without_its_file_of_values_one_is_asked_for(fake_zoo, tmp_path, capsys):
    fake_zoo["rl_zoo3"].__file__ = str(tmp_path / "__init__.py")
    assert zoo.main(["train"]) == 2
    assert "error: conf-file must be given: rl_zoo3 9.9 has no " in capsys.readouterr().err


@pytest.mark.parametrize("name", ["rl_zoo3.utils", "sb3_ppo_notes.algorithms", "an_environment"])
def test_what_a_user_gave_is_refused_in_one_line_and_a_bug_is_shown_whole(name, fake_zoo, monkeypatch, capsys):
    module = module_with("rl_zoo3.train")
    exec("def train():\n    raise AssertionError('no such folder')", scope := {"__name__": name})
    module.train = scope["train"]
    monkeypatch.setitem(sys.modules, "rl_zoo3.train", module)
    monkeypatch.setattr(zoo, "_mask_evaluations", lambda manager: None)
    monkeypatch.setattr(zoo, "_hyperparameters", lambda stock: f"{stock}.yml")
    monkeypatch.setattr(sys, "argv", ["prog"])
    if name == "an_environment":
        with pytest.raises(AssertionError, match="no such folder"):
            zoo.main(["train"])
    else:
        assert zoo.main(["train"]) == 2
        assert capsys.readouterr().err == "error: no such folder\n"


# -- what rl_zoo3 is told ---------------------------------------------------------------------------------------------


def test_a_rule_and_schedules_are_read_from_plain_data():
    rule = {"value_objective": {"HuberValueError": {"beta": 0.5}}}
    model = zoo.ZooAlgorithm(NotesPPO)(policy="MlpPolicy", env="CartPole-v1", n_steps=64, rule=rule, ent_coef="lin_0.1")
    assert model.rule.value_objective == HuberValueError(0.5)
    assert model.ent_coef(0.5) == pytest.approx(0.05)
    assert zoo.ZooAlgorithm(NotesA2C).__name__ == "NotesA2C"


@pytest.fixture
def masked_agent(tmp_path):
    NotesPPO("MlpPolicy", doors_class()(), n_steps=64, action_masking=True, seed=0).save(tmp_path / "model")
    return tmp_path / "model"


def doors_class():
    names = {}
    exec(DOORS.replace("gym.register", "print"), names)
    return names["Doors"]


def test_an_agent_with_masks_plays_under_masks(masked_agent):
    algorithm = zoo.ZooAlgorithm(NotesPPO)
    assert isinstance(algorithm.load(masked_agent), NotesPPO)  # to go on with: the collector asks for masks
    algorithm.played = env = make_vec_env(doors_class(), 2, seed=0)
    agent, observation, actions = algorithm.load(masked_agent), env.reset(), []
    for _ in range(20):  # whoever tries a locked door ends the program
        actions.append(agent.predict(observation, deterministic=True)[0])
        observation, *_ = env.step(actions[-1])
    assert len(np.unique(actions)) > 1


def test_an_agent_with_masks_does_not_play_where_there_are_none(masked_agent):
    algorithm = zoo.ZooAlgorithm(NotesPPO)
    algorithm.played = make_vec_env("CartPole-v1")
    with pytest.raises(ValueError, match=r"env must have a method action_masks\(\)"):
        algorithm.load(masked_agent)


def test_evaluations_are_masked(fake_zoo):
    manager = fake_zoo["rl_zoo3.exp_manager"]
    manager.EvalCallback, manager.TrialEvalCallback = EvalCallback, type("TrialEvalCallback", (EvalCallback,), {})
    zoo._mask_evaluations(manager)
    env = make_vec_env(doors_class(), 1, seed=0)
    for callback in (manager.EvalCallback, manager.TrialEvalCallback):
        model = NotesPPO("MlpPolicy", env, n_steps=32, batch_size=32, action_masking=True, seed=0)
        model.learn(32, callback=callback(make_vec_env(doors_class(), 1, seed=1), eval_freq=16, verbose=0, warn=False))


# -- all four, from end to end ----------------------------------------------------------------------------------------


def run(words, folder, **environment):
    command = [sys.executable, "-m", "sb3_ppo_notes.zoo", *words]
    environment = os.environ | {"PYTHONPATH": f"{ROOT}{os.pathsep}{folder}", "OMP_NUM_THREADS": "1"} | environment
    result = subprocess.run(
        command, cwd=folder, env=environment, capture_output=True, text=True, timeout=600, check=False
    )
    assert result.returncode == 0, result.stdout + result.stderr
    return result.stdout


def needs(*packages):
    missing = [package for package in packages if importlib.util.find_spec(package) is None]
    return pytest.mark.skipif(bool(missing), reason=f"no {', '.join(missing)} (pip install 'sb3-ppo-notes[zoo]')")


@pytest.fixture(scope="module")
def doors(tmp_path_factory):
    """A folder in which an agent with memory, masks and a normaliser was trained, with evaluations on the way."""
    folder = tmp_path_factory.mktemp("doors")
    (folder / "doors.py").write_text(DOORS)
    (folder / "doors.yml").write_text(yaml.safe_dump(VALUES))
    words = ["-conf", "doors.yml", "--eval-freq", "128", "--save-freq", "256", "--seed", "3"]
    assert "New best mean reward!" in run(["train", *TASK, *words], folder)
    return folder


TASK = ["--env", "Doors-v0", "--gym-packages", "doors"]


@needs("rl_zoo3", "requests")
@pytest.mark.slow
def test_enjoy_plays_what_was_trained(doors):
    """The same actions as the model's own, with its memory, under the masks, behind the statistics it has learned."""
    printed = run(["enjoy", *TASK, "--no-render", "-n", "40", "--seed", "5"], doors, DOORS_TAKEN="taken")
    assert "8 Episodes" in printed
    taken = list(map(int, (doors / "taken").read_text().split()))
    assert taken == own_play(doors, 40)
    run(["enjoy", *TASK, "--no-render", "-n", "40", "--load-best"], doors)
    run(["enjoy", *TASK, "--no-render", "-n", "40", "--load-last-checkpoint", "--n-envs", "2", "--stochastic"], doors)


def own_play(folder, n_steps):
    """Actions of the model, asked by itself."""
    run_folder = folder / "logs" / "notes_ppo" / "Doors-v0_1"
    env = VecNormalize.load(run_folder / "Doors-v0" / "vecnormalize.pkl", make_vec_env(doors_class(), seed=5))
    env.training = False
    model = NotesPPO.load(run_folder / "Doors-v0.zip")
    observation, state, start, actions = env.reset(), None, np.ones(1, bool), []
    for _ in range(n_steps):
        masks = np.stack(env.env_method("action_masks"))
        action, state = model.predict(observation, state, start, deterministic=True, action_masks=masks)
        observation, _, start, _ = env.step(action)
        actions.append(int(action[0]))
    return actions


@needs("rl_zoo3", "moviepy")
@pytest.mark.slow
@pytest.mark.parametrize("n_envs", [1, 2])
def test_record_video_films_it(n_envs, doors):
    printed = run(["record_video", *TASK, "-n", "12", "--n-envs", str(n_envs), "-o", f"films-{n_envs}"], doors)
    assert "Saving video to" in printed
    [film] = (doors / f"films-{n_envs}").glob("*.mp4")
    assert imageio_ffmpeg.count_frames_and_secs(film)[0] == 13


@needs("rl_zoo3", "pandas")
@pytest.mark.slow
def test_optimize_searches_with_masks_and_memory(doors):
    # A search draws what a rule says, too.
    values = {"Doors-v0": {name: value for name, value in VALUES["Doors-v0"].items() if name != "rule"}}
    (doors / "searched.yml").write_text(yaml.safe_dump(values))
    words = ["-conf", "searched.yml", "-n", "256", "--n-trials", "2", "--n-evaluations", "2", "--eval-episodes", "1"]
    printed = run(["optimize", *TASK, *words, "--no-optim-plots", "--seed", "1"], doors)
    assert "Number of finished trials:  2" in printed
    [table] = (doors / "logs" / "notes_ppo").glob("report_Doors-v0_*.csv")
    assert table.read_text().count("COMPLETE") == 2


@needs("rl_zoo3")
@pytest.mark.slow
@pytest.mark.parametrize("kind", ["ppo", "a2c"])
def test_trained_by_rl_zoo3_ours_equals_stock(kind, tmp_path):
    words = ["--env", "CartPole-v1", "-n", "512", "--seed", "1", "--eval-freq", "200", "--eval-episodes", "1"]
    for algo in (kind, f"notes_{kind}"):
        run(["train", "--algo", algo, *words], tmp_path)
    algorithm = {"ppo": NotesPPO, "a2c": NotesA2C}[kind]
    stock, ours = (
        algorithm.load(tmp_path / "logs" / algo / "CartPole-v1_1" / "CartPole-v1.zip")
        for algo in (kind, f"notes_{kind}")
    )
    for one, other in zip(stock.policy.parameters(), ours.policy.parameters(), strict=True):
        assert th.equal(one, other)
