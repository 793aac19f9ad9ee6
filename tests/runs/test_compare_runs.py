"""The runs of a comparison, in real processes: what is done once, what a crash leaves, what is refused."""

import contextlib
import io
import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import gymnasium as gym
import numpy as np
import pytest
from gymnasium import spaces
from rich.console import Console
from stable_baselines3 import PPO
from stable_baselines3.common.callbacks import BaseCallback

from sb3_ppo_notes.__main__ import main
from sb3_ppo_notes.runs.compare import pool as compare_runs
from sb3_ppo_notes.runs.compare import run as compare_run
from sb3_ppo_notes.runs.compare.arms import Arm
from sb3_ppo_notes.runs.compare.models import Settings, settings_of
from sb3_ppo_notes.runs.compare.pool import RunsProgress, first_difference, run_all
from sb3_ppo_notes.runs.compare.run import Run, perform

ROOT = Path(__file__).parents[2]
HERE = "tests.runs.test_compare_runs"


class Levers(gym.Env):
    """Two levers, one of them pays; five pulls."""

    observation_space, action_space = spaces.Box(0, 1, (1,)), spaces.Discrete(2)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.pulls = 0
        return np.zeros(1, np.float32), {}

    def step(self, action):
        self.pulls += 1
        return np.zeros(1, np.float32), float(action), self.pulls == 5, False, {}


class LockedLevers(Levers):
    """Only the lever that does not pay may be pulled."""

    def action_masks(self):
        return np.array([True, False])


class Seeds(Levers):
    """Every step pays the seed that the environment was given."""

    def reset(self, *, seed=None, options=None):
        self.given = seed if seed is not None else self.given
        return super().reset(seed=seed)

    def step(self, action):
        return np.zeros(1, np.float32), float(self.given), True, False, {}


ENTRIES = {"CompareLevers-v0": Levers, "CompareLockedLevers-v0": LockedLevers, "CompareSeeds-v0": Seeds}
for name, entry_point in ENTRIES.items():
    if name not in gym.registry:
        gym.register(name, entry_point)
# A process of its own finds the environment in the module before the colon.
LEVERS, LOCKED, SEEDS = (f"{HERE}:{name}" for name in ENTRIES)


class OnFirePPO(PPO):
    """Raises with one seed and is killed with another; every start of a run is noted in a folder."""

    def __init__(self, *args, starts, **kwargs):
        super().__init__(*args, **kwargs)
        self.starts = Path(starts)

    def learn(self, *args, **kwargs):
        (self.starts / f"{self.seed}-{time.monotonic_ns()}").touch()
        if self.seed == 1:
            raise RuntimeError("the roof is on fire")
        if self.seed == 2 and not (self.starts / "no more kills").exists():
            os.kill(os.getpid(), signal.SIGKILL)
        return super().learn(*args, **kwargs)


QUICK = "n_steps=16,batch_size=16,n_epochs=1"
STOCK, NOTES = f"sb3:{QUICK}", f"notes:{QUICK}"
FEW = ["--total-timesteps", "64", "--n-eval-episodes", "4"]


def arguments(outdir, arms=f"{STOCK},{NOTES}", envs=LEVERS, seeds=2):
    return ["compare", "--envs", envs, "--arms", arms, "--seeds", str(seeds), *FEW, "--outdir", str(outdir)]


@pytest.mark.slow
def test_a_comparison_from_the_shell_to_the_files(tmp_path, capsys):
    outdir = tmp_path / "out"
    assert main(arguments(outdir)) == 0
    printed = capsys.readouterr().out
    assert "no verdict: identical, bit for bit, on all 2 seeds of 1 task" in " ".join(printed.split())
    assert all(len(line) <= 100 for line in printed.splitlines() if "written" not in line)
    document = json.loads((outdir / "comparison.json").read_text())
    assert document["tasks"][LEVERS]["source"] == "the best arm's mean"
    assert 1.5 < document["tasks"][LEVERS]["random"] < 3.5  # five pulls, half of them pay
    assert document["options"]["seeds"] == 2
    assert f"--arms {STOCK}" in document["command"].replace("'", "")
    assert sorted(path.suffix for path in (outdir / "runs").iterdir()) == [".json"] * 5
    assert (outdir / "report.html").exists()


@pytest.mark.slow
def test_resume_repeats_nothing_that_is_finished_and_keeps_failures(tmp_path, capsys):
    starts, outdir = tmp_path / "starts", tmp_path / "out"
    starts.mkdir()

    def compare(seeds, *words):
        arms = f"{STOCK},{HERE}:OnFirePPO:starts={starts},{QUICK}"
        code = main([*arguments(outdir, arms, seeds=seeds), *words])
        # Which seeds' runs have been started so far.
        return code, sorted(int(path.name.partition("-")[0]) for path in starts.glob("*-*"))

    assert compare(3, "--jobs", "2") == (0, [0, 1, 2])
    printed = " ".join(capsys.readouterr().out.split())
    assert "RuntimeError: the roof is on fire" in printed
    assert "the process was ended by signal 9" in printed
    stamps = {path: path.stat().st_mtime_ns for path in (outdir / "runs").glob("*.json")}
    (starts / "no more kills").touch()
    # The run that was killed says nothing of the algorithm and is done again; the one that raised has failed for good.
    assert compare(3, "--resume") == (0, [0, 1, 2, 2])
    assert len([path for path, stamp in stamps.items() if path.stat().st_mtime_ns != stamp]) == 1
    assert "signal 9" not in capsys.readouterr().out
    document = json.loads((outdir / "comparison.json").read_text())
    assert [run["status"] for run in document["runs"][-3:]] == ["finished", "failed", "finished"]
    assert document["runs_done_before"] == 6
    assert "the roof is on fire" in (outdir / "report.html").read_text()
    # More seeds go on, too.
    assert compare(4, "--resume") == (0, [0, 1, 2, 2, 3])


@pytest.mark.slow
def test_a_run_made_otherwise_is_refused(tmp_path, capsys):
    assert main(arguments(tmp_path)) == 0
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    capsys.readouterr()
    assert main(arguments(tmp_path)) == 2
    assert "error: outdir must be without runs unless --resume goes on with them" in capsys.readouterr().err
    assert main([*arguments(tmp_path), "--resume", "--n-envs", "2"]) == 2
    error = capsys.readouterr().err
    assert "outdir holds a run made otherwise, arm.overrides.n_envs was None and is 2" in error
    assert error.count("\n") == 1
    one = next((tmp_path / "runs").glob("notes*.json"))
    one.write_text(re.sub(r'"score": [-\d.]+', '"score": NaN', one.read_text()))
    assert main([*arguments(tmp_path), "--resume"]) == 2
    assert f"error: scores must be finite, got NaN in {one}" in capsys.readouterr().err
    one.write_text("half a fi")
    assert main([*arguments(tmp_path), "--resume"]) == 2
    assert f"error: outdir: {one} is not the file of a run" in capsys.readouterr().err
    assert all(path.read_bytes() == content for path, content in before.items() if path != one)


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (["--envs", "CartPoel-v1"], "error: env must be the id of a registered environment, got 'CartPoel-v1'"),
        (
            ["--envs", "CartPole-v1,CartPole-v1"],
            "error: envs must be ids of environments separated by commas, each once",
        ),
        (["--envs", " , "], "error: envs must be ids of environments"),
        (
            ["--envs", "LunarLander-v3"],
            "error: env 'LunarLander-v3' needs a package that is not installed: pip install 'gymnasium[box2d]'",
        ),
        (["--arms", "sb3"], "error: arms must be at least two"),
        (["--arms", "sb3,notes:bogus=1"], "error: arms: notes:bogus=1 has no argument 'bogus'"),
        (
            ["--arms", "sb3,stable_baselines3:DQN", "--envs", "Pendulum-v1"],
            "error: arms: stable_baselines3:DQN cannot be",
        ),
        (["--envs", "CartPole-v1", "--seeds", "1"], "error: seeds must be an int >= 2 (one run says nothing"),
        (["--envs", "CartPole-v1", "--seeds", "9", "--a-a"], "error: seeds must be an int >= 10 with --a-a, got 9"),
        (["--envs", "CartPole-v1", "--jobs", "0"], "error: jobs must be an int >= 1, got 0"),
        (["--envs", "CartPole-v1", "--total-timesteps", "0"], "error: total_timesteps must be an int >= 1, got 0"),
        (["--envs", "CartPole-v1", "--n-envs", "-1"], "error: n_envs must be an int >= 1, got -1"),
        (["--envs", "CartPole-v1", "--n-eval-episodes", "0"], "error: n_eval_episodes must be an int >= 1, got 0"),
        (["--envs", "CartPole-v1", "--resume"], "error: resume needs a folder with runs to go on with, got "),
        (["--envs", "CartPole-v1", "--recipes", "skrl"], "error: recipes must be written among the arms"),
        (["--envs", "CartPole-v1", "--env", "Pendulum-v1"], "error: env must be left out when there are envs"),
        (["--resume"], "error: resume needs --envs or --arms, got neither"),
        (["--jobs", "0"], "error: jobs needs --envs or --arms, got neither"),
        (["--a-a"], "error: a_a needs --envs or --arms, got neither"),
    ],
)
def test_bad_input_is_one_line_and_exit_code_2(words, line, tmp_path, capsys):
    if "'LunarLander-v3'" in line and "Box2D" in sys.modules:
        pytest.skip("Box2D is installed here")
    assert main(["compare", *words, "--outdir", str(tmp_path / "out")]) == 2
    error = capsys.readouterr().err
    assert error.startswith(line)
    assert error.count("\n") == 1
    assert not (tmp_path / "out").exists()


def test_an_outdir_within_a_file_is_refused(tmp_path, capsys):
    (tmp_path / "file").write_text("keep me")
    for outdir in (tmp_path / "file", tmp_path / "file" / "below"):
        assert main(arguments(outdir)) == 2
        assert "error: outdir must be a folder to read and write, got " in capsys.readouterr().err
    assert (tmp_path / "file").read_text() == "keep me"


def test_an_outdir_that_may_not_be_read_is_refused(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(os, "access", lambda path, mode: False)
    assert main(arguments(tmp_path)) == 2
    assert f"{tmp_path} is a closed folder" in capsys.readouterr().err


def processes_of_session(session):
    """Numbers of all processes in a session that are at work; a zombie is not."""
    found = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            state, _, _, its_session = stat.read_text().rpartition(")")[2].split()[:4]
            if int(its_session) == session and state != "Z":
                found.append(int(stat.parent.name))
    return found


def wait_until(condition, seconds=120):
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.1)


def interrupted(tmp_path, end):
    """Start a comparison that would take minutes, end it in the midst of its first runs, and see what is left."""
    command = [sys.executable, "-m", "sb3_ppo_notes", *arguments(tmp_path, seeds=3)]
    command[command.index("--total-timesteps") + 1] = "10000000"
    environment, runs = os.environ | {"PYTHONPATH": str(ROOT)}, tmp_path / "runs"
    process = subprocess.Popen(
        command, cwd=ROOT, env=environment, stderr=subprocess.PIPE, text=True, start_new_session=True
    )
    # The random policy has been measured, and others are at work.
    wait_until(lambda: list(runs.glob("random*.json")) and list(runs.glob("*.log")))
    assert len(processes_of_session(process.pid)) >= 3
    process.send_signal(end)
    _, error = process.communicate(timeout=60)
    wait_until(lambda: not processes_of_session(process.pid), seconds=20)
    return process.returncode, error


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="no /proc to look for processes in")
@pytest.mark.parametrize(("end", "expected"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_ctrl_c_and_sigterm_end_every_run_and_say_how_to_go_on(tmp_path, end, expected):
    code, error = interrupted(tmp_path, end)
    assert code == expected
    assert error.splitlines()[-1] == (
        "interrupted: 1 of 7 runs are done and kept; the same command with --resume goes on"
    )
    assert not (tmp_path / "comparison.json").exists()


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="no /proc to look for processes in")
def test_no_run_outlives_its_comparison(tmp_path):
    code, _ = interrupted(tmp_path, signal.SIGKILL)
    assert code == -signal.SIGKILL


def one_run(seed=0, target="stable_baselines3:PPO", env="CartPole-v1", **overrides):
    arm = Arm("x", target, {"n_steps": 64, "batch_size": 64, **overrides})
    return Run(arm, env, seed, 1024, 4, settings_of(arm, env))


def test_a_run_is_what_training_by_hand_is():
    from sb3_ppo_notes.runs.compare.models import build

    run, told = one_run(), []
    record = perform(run, told.append)
    by_hand = build(run.arm, run.env, run.settings, run.seed).learn(run.total_timesteps)
    assert record["parameters"] == compare_run.digest(by_hand)
    assert record["status"] == "finished"
    assert (told, record["steps"]) == ([512, 1024], 1024)
    assert len(record["episode_returns"]) == 4
    assert record["score"] == np.mean(record["episode_returns"])
    assert perform(one_run(seed=1), told.append)["parameters"] != record["parameters"]


def test_evaluation_has_seeds_of_its_own_and_is_deterministic():
    of_a_seed = {seed: perform(one_run(seed=seed, env=SEEDS), lambda steps: None) for seed in (0, 3)}
    # Four episodes in four environments; those of the training had the seeds 0 and 3.
    assert of_a_seed[0]["episode_returns"] == [10_000, 10_001, 10_002, 10_003]
    assert of_a_seed[3]["episode_returns"] == [10_030, 10_031, 10_032, 10_033]
    # The lever that the policy prefers, always.
    hardly_trained = perform(one_run(env=LEVERS, learning_rate=1e-9), lambda steps: None)
    assert len(set(hardly_trained["episode_returns"])) == 1


def test_watching_sees_what_the_logger_has_after_each_update():
    class Logged(BaseCallback):
        def _on_step(self):
            return True

        def _on_rollout_start(self):
            if "train/approx_kl" in self.logger.name_to_value:
                seen.append(float(self.logger.name_to_value["train/approx_kl"]))

        def _on_training_end(self):
            self._on_rollout_start()

    from sb3_ppo_notes.runs.compare.models import build

    run, seen = one_run(), []
    build(run.arm, run.env, run.settings, run.seed).learn(run.total_timesteps, callback=Logged())
    curves = perform(run, lambda steps: None)["curves"]
    assert [kl for kl in curves["kl"] if kl is not None] == pytest.approx(seen)
    assert len(seen) == 2
    assert all(0 < entropy <= np.log(2) + 1e-6 for entropy in curves["entropy"] if entropy is not None)


@pytest.mark.parametrize("target", ["sb3_contrib:MaskablePPO", "sb3_ppo_notes:NotesPPO", "sb3_contrib:TRPO"])
def test_masks_are_obeyed_in_training_and_evaluation(target):
    masking = {"action_masking": True} if "NotesPPO" in target else {}
    record = perform(one_run(target=target, env=LOCKED, **masking), lambda steps: None)
    assert record["status"] == "finished", record["traceback"]
    if "TRPO" not in target:
        assert record["score"] == 0.0  # the lever that pays is locked
    random = perform(Run(None, LOCKED, 0, 0, 5, settings_of(one_run().arm, LEVERS)), lambda steps: None)
    assert random["score"] == 0.0


@pytest.mark.parametrize(
    ("target", "env"), [("sb3_contrib:RecurrentPPO", "CartPole-v1"), ("stable_baselines3:A2C", "Pendulum-v1")]
)
def test_other_algorithms_run_too(target, env):
    arm = Arm("x", target)
    record = perform(Run(arm, env, 0, 512, 2, settings_of(arm, env)), lambda steps: None)
    assert record["status"] == "finished", record["traceback"]


@pytest.mark.parametrize("recipe", ["skrl", "batch_ppo", "tsukurinagara"])
def test_recipes_run_too(recipe):
    arm = Arm("x", f"recipe:{recipe}")
    record = perform(Run(arm, "CartPole-v1", 0, 512, 2, settings_of(arm, "CartPole-v1")), lambda steps: None)
    assert record["status"] == "finished", record["traceback"]


def test_atari_has_its_wrappers():
    pytest.importorskip("ale_py")
    arm = Arm("x", "stable_baselines3:PPO", {"n_steps": 8, "batch_size": 8, "n_envs": 1, "n_epochs": 1})
    settings = settings_of(arm, "ALE/Pong-v5")
    assert (settings.policy, settings.atari) == ("CnnPolicy", {})
    from sb3_ppo_notes.runs.compare.models import build, environments

    model = build(arm, "ALE/Pong-v5", settings, seed=0)
    assert model.observation_space.shape == (4, 84, 84)
    env = environments("ALE/Pong-v5", settings, 1, 0)
    env.reset()
    assert env.step([0])[3][0]["frame_number"] <= 40  # 30 no-ops at most, the ball, four frames: not four times four
    env.close()


def test_a_number_that_is_none_makes_the_run_a_failed_one():
    class Bad(PPO):
        def predict(self, *args, **kwargs):
            raise FloatingPointError("nan in the network\nand more")

    import sys

    sys.modules[HERE].Bad = Bad
    record = perform(one_run(target=f"{HERE}:Bad"), lambda steps: None)
    assert record["status"] == "failed"
    assert record["error"] == "FloatingPointError: nan in the network"
    assert "Traceback" in record["traceback"]


def test_identities_differ_in_what_a_result_depends_on():
    assert one_run().identity() == one_run().identity()
    assert first_difference(one_run().identity(), one_run(seed=1).identity()) == ("seed", 0, 1)
    name, was, now = first_difference(one_run().identity(), one_run(gamma=0.5).identity())
    assert (name, was, now) == ("arm.overrides.gamma", None, 0.5)


def test_names_of_files_are_safe_and_unique():
    odd = Settings("", 1, "MlpPolicy", {})
    runs = [
        Run(Arm(name, "x:Y"), env, 0, 1, 1, odd)
        for name in ("a/../b", "a_.._b", "ä" * 300)
        for env in ("ALE/Pong-v5", "m:E-v0")
    ]
    paths = [run.path for run in runs]
    assert len(set(paths)) == len(runs)
    assert all(re.fullmatch(r"[\w.+=-]{1,120}\.json", path) for path in paths)


def test_the_bar_shows_runs_speed_and_time_left():
    file = io.StringIO()
    runs = [one_run(seed) for seed in range(4)]
    with RunsProgress(runs, done=2, total=6, console=Console(file=file, force_terminal=True, width=120)) as progress:
        progress.show(runs[0])
        progress.count(512)
        time.sleep(0.2)
        progress.count(512)
        progress.finish(runs[0], 1024)
        progress.progress.refresh()
    text = re.sub(r"\x1b\[[\d;?]*[a-zA-Z]", "", file.getvalue())
    assert "3 of 6 runs" in text
    assert re.search(r"[\d,]+ steps/s", text)
    assert re.search(r"\d:\d\d:\d\d", text)
    assert "x, CartPole-v1, seed 0" in text


@pytest.mark.slow
def test_as_many_runs_go_side_by_side_as_there_are_jobs(tmp_path, monkeypatch):
    alive = []
    real = compare_runs._Child

    class Counted(real):
        def __init__(self, *arguments):
            super().__init__(*arguments)
            alive.append(self)
            counts.append(sum(child.process.is_alive() for child in alive))

    counts = []
    monkeypatch.setattr(compare_runs, "_Child", Counted)
    run_all([one_run(seed) for seed in range(5)], tmp_path, jobs=2)
    assert len(counts) == 5
    assert max(counts) <= 2


class Far(Levers):
    """What is seen is far from 0, and says which lever pays."""

    observation_space = spaces.Dict({"sign": spaces.Box(-1e3, 1e3, (1,)), "level": spaces.Box(-1e3, 1e3, (1,))})

    def _seen(self):
        self.paying = int(self.np_random.integers(2))
        return {"sign": np.array([2.0 * self.paying - 1], np.float32), "level": np.array([100.0], np.float32)}

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        return self._seen(), {}

    def step(self, action):
        self.pulls += 1
        reward = float(action == self.paying)
        return self._seen(), reward, self.pulls == 5, False, {}


gym.register("CompareFar-v0", Far)


@pytest.mark.parametrize(
    "normalize", [dict(norm_obs=False), dict(norm_obs_keys=["level"]), dict(epsilon=10.0), dict(clip_obs=0.01)]
)
def test_an_evaluation_sees_what_the_training_saw(normalize, monkeypatch):
    """Whatever is normalised there is normalised here, by the same statistics, and nothing else."""
    env, arm = f"{HERE}:CompareFar-v0", one_run().arm
    settings = Settings("", 2, "MultiInputPolicy", dict(n_steps=16, batch_size=16, n_epochs=1), normalize=normalize)
    seen = []

    def played(model, env, n_episodes):
        seen.append((model.env, env))
        return [0.0] * n_episodes, [5] * n_episodes

    monkeypatch.setattr(compare_run, "play_episodes", played)
    record = perform(Run(arm, env, 0, 32, 2, settings), lambda steps: None)
    assert record["status"] == "finished", record["traceback"]
    training, evaluation = seen[0]
    raw = {"sign": np.array([[1.0]], np.float32), "level": np.array([[90.0]], np.float32)}
    for key, expected in training.normalize_obs(raw).items():
        np.testing.assert_array_equal(evaluation.normalize_obs(raw)[key], expected)
    assert not evaluation.training
    assert not evaluation.norm_reward
