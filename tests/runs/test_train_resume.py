"""``train --resume``: a run that is cut by a signal, or killed, ends as if it had not been; what cannot go on says so."""

import csv
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import gymnasium as gym
import pytest
import yaml
from stable_baselines3.common.callbacks import BaseCallback
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from sb3_ppo_notes import NotesA2C, NotesPPO
from sb3_ppo_notes.__main__ import main
from sb3_ppo_notes.callbacks.evaluation import BoundedEpisodes
from sb3_ppo_notes.persistence.storage import checkpoints_in, read_checkpoint
from sb3_ppo_notes.runs.train import command as train
from sb3_ppo_notes.runs.train import evaluation as train_watching

# Whole runs, again and again.
pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]
SIZES = "n_steps: 16, batch_size: 16, n_epochs: 2, learning_rate: lin_1e-2"
NET = "policy_kwargs: {net_arch: [8]}"
CLOCK = ("time/fps", "time/time_elapsed")
# 100 steps are asked for, and 128 are made: whole rollouts of 16 steps of two environments.
COMMON = "n_envs: 2, total_timesteps: 100, n_eval_episodes: 1, eval_every: 24, checkpoint_every: 20"
CASES = {
    "cartpole": f"{{env: CartPole-v1, {COMMON}, hyperparameters: {{{SIZES}, {NET}}}}}",
    "pendulum": f"{{env: Pendulum-v1, normalize: true, {COMMON}, hyperparameters: {{{SIZES}, {NET}, use_sde: true}}}}",
    "filmed": f"{{env: Pendulum-v1, normalize: true, frame_stack: 2, video_every: 48, {COMMON}, hyperparameters: {{{SIZES}, {NET}}}}}",
    "lstm": f"{{env: CartPole-v1, policy: MlpLstmPolicy, {COMMON}, "
    f"hyperparameters: {{{SIZES}, policy_kwargs: {{lstm_hidden_size: 8}}}}}}",
    "masked": f"{{env: Tests/Doors-v0, {COMMON}, hyperparameters: {{{SIZES}, {NET}, action_masking: true}}}}",
    "a2c": f"{{env: CartPole-v1, algo: a2c, {COMMON}, hyperparameters: {{learning_rate: lin_1e-2, {NET}}}}}",
    "skrl": f"{{env: CartPole-v1, recipe: skrl, {COMMON}, hyperparameters: {{n_steps: 16, batch_size: 16}}}}",
    "batch_ppo": f"{{env: Pendulum-v1, recipe: batch_ppo, {COMMON}, hyperparameters: {{n_steps: 16, batch_size: 32}}}}",
    "tsukurinagara": f"{{env: CartPole-v1, recipe: tsukurinagara, algo: a2c, {COMMON}}}",
}


@pytest.fixture(autouse=True)
def doors():
    gym.register("Tests/Doors-v0", "tests.persistence.cases:Doors")
    yield
    del gym.registry["Tests/Doors-v0"]


class SignalAt(BaseCallback):
    """Sends this process a signal once so many steps are made."""

    def __init__(self, at, number):
        super().__init__()
        self.at, self.number = at, number

    def _on_step(self):
        if self.at is not None and self.num_timesteps >= self.at:
            signal.raise_signal(self.number)
            self.at = None
        return True


def begin(folder, text):
    """Train as a configuration says."""
    file = folder.with_suffix(".yaml")
    file.write_text(text)
    return main(["train", "--config", str(file), "--outdir", str(folder)])


@pytest.fixture
def cut(monkeypatch):
    """Run a command that a signal cuts."""

    def run(at, command, number=signal.SIGTERM):
        own = train._optional_callbacks
        with monkeypatch.context() as patch:
            patch.setattr(train, "_optional_callbacks", lambda *arguments: [*own(*arguments), SignalAt(at, number)])
            return command()

    return run


def resume(folder, *options):
    return main(["train", "--resume", str(folder), *options])


def model_of(folder, name="model"):
    algorithm = NotesA2C if "algo: a2c" in (folder / "config.yaml").read_text() else NotesPPO
    return algorithm.load(folder / name, device="cpu")


def rows_of(folder):
    with (folder / "progress.csv").open() as file:
        return [{key: value for key, value in row.items() if key not in CLOCK} for row in csv.DictReader(file)]


def assert_same_end(folder, straight):
    """Weights to the bit, and everything that a run leaves."""
    for name in ("model", "best_model"):
        mine, theirs = (model_of(each, name) for each in (folder, straight))
        assert mine.num_timesteps == theirs.num_timesteps
        states = [each.policy.state_dict() for each in (mine, theirs)]
        assert states[0].keys() == states[1].keys()
        assert all(bool((states[0][key] == states[1][key]).all()) for key in states[0]), name
    for name in ("normalizer.json", "best_normalizer.json", "evaluations.csv"):
        assert (folder / name).exists() == (straight / name).exists()
        if (straight / name).exists():
            assert (folder / name).read_text() == (straight / name).read_text(), name
    assert rows_of(folder) == rows_of(straight)
    lines = [json.loads(line) for line in (folder / "progress.json").read_text().splitlines()]
    assert len(lines) == len(rows_of(folder))
    assert not list(folder.glob("**/.tmp-*"))


def scalars_of(folder):
    """By name, what TensorBoard shows; where a run was cut a value may stand twice."""
    shown = EventAccumulator(str(folder)).Reload()
    names = [name for name in shown.Tags()["scalars"] if name not in CLOCK]
    return {name: {(event.step, event.value) for event in shown.Scalars(name)} for name in names}


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=pytest.mark.slow) if name == "filmed" else name for name in CASES]
)
def test_a_run_that_is_cut_twice_ends_as_the_straight_one(name, cut, tmp_path, capsys):
    generator = random.Random(f"two cuts of {name}")
    (tmp_path / "straight").mkdir()
    (tmp_path / "cut").mkdir()
    straight, folder = tmp_path / "straight" / "run", tmp_path / "cut" / "run"
    assert begin(straight, CASES[name]) == 0
    first = generator.randrange(1, 60)
    assert cut(first, lambda: begin(folder, CASES[name])) == 143
    line = capsys.readouterr().out.splitlines()[-1]
    assert line == f"interrupted after {first + first % 2} steps, go on with: train --resume {folder}"
    second = generator.randrange(first + 2, 97)
    assert cut(second, lambda: resume(folder), signal.SIGINT) == 130
    assert "exact: everything" in capsys.readouterr().out
    assert resume(folder) == 0
    assert "not exact" not in capsys.readouterr().out
    assert_same_end(folder, straight)
    videos = [sorted(path.name for path in each.glob("videos/*")) for each in (folder, straight)]
    assert videos[0] == videos[1]
    assert len(videos[0]) == (2 if name == "filmed" else 0)


def test_a_run_that_is_cut_in_the_rollout_beyond_its_last_step_finishes_that_rollout(cut, tmp_path):
    assert begin(tmp_path / "straight", CASES["cartpole"]) == 0
    assert cut(110, lambda: begin(tmp_path / "run", CASES["cartpole"])) == 143
    assert model_of(tmp_path / "run").num_timesteps == 110
    assert resume(tmp_path / "run") == 0
    assert model_of(tmp_path / "run").num_timesteps == 128
    assert_same_end(tmp_path / "run", tmp_path / "straight")


@pytest.mark.parametrize("place", ["in the first evaluation", "in its last step", "in the last evaluation"])
def test_a_run_that_is_cut_in_an_evaluation_ends_as_the_straight_one(place, tmp_path, monkeypatch, capsys):
    """The evaluation is left at once, and made when the run is resumed, of the same weights."""
    real, calls = BoundedEpisodes.step_async, [0, 0]

    def stepped(self, actions):
        calls[0] += 1
        if calls[0] == calls[1]:
            signal.raise_signal(signal.SIGTERM)
        real(self, actions)

    monkeypatch.setattr(BoundedEpisodes, "step_async", stepped)
    text = CASES["cartpole"]
    assert begin(tmp_path / "straight", text) == 0
    with (tmp_path / "straight" / "evaluations.csv").open() as file:
        lengths = [int(row["length"]) for row in csv.DictReader(file)]
    assert calls[0] == sum(lengths)
    calls[:] = [0, {"in the first evaluation": 1, "in its last step": lengths[0]}.get(place, sum(lengths) - 1)]
    assert begin(tmp_path / "cut", text) == 143
    assert "interrupted after" in capsys.readouterr().out
    assert resume(tmp_path / "cut") == 0
    assert_same_end(tmp_path / "cut", tmp_path / "straight")


@pytest.mark.parametrize("lost", ["after training", "after the evaluation"])
def test_a_run_that_is_killed_at_its_very_end_only_has_its_end_to_make(lost, tmp_path, monkeypatch):
    assert begin(tmp_path / "straight", CASES["cartpole"]) == 0

    def killed(*arguments):
        raise RuntimeError

    with monkeypatch.context() as patch:
        patch.setattr(train, "save_model" if lost == "after training" else "save_checkpoint", killed)
        with pytest.raises(RuntimeError):
            begin(tmp_path / "run", CASES["cartpole"])
    assert resume(tmp_path / "run") == 0
    assert_same_end(tmp_path / "run", tmp_path / "straight")


def test_tensorboard_shows_what_it_shows_of_the_straight_run(cut, tmp_path):
    assert begin(tmp_path / "straight", CASES["cartpole"]) == 0
    assert cut(70, lambda: begin(tmp_path / "run", CASES["cartpole"])) == 143
    before = {path.name for path in (tmp_path / "run").glob("events.*")}
    # As if it had been killed: the last checkpoint is of step 60, and the rollout until 64 has been logged.
    shutil.rmtree(checkpoints_in(tmp_path / "run" / "checkpoints")[-1])
    time.sleep(1.1)  # TensorBoard reads files by the second in their names
    assert resume(tmp_path / "run") == 0
    assert {path.name for path in (tmp_path / "run").glob("events.*")} > before
    mine, theirs = scalars_of(tmp_path / "run"), scalars_of(tmp_path / "straight")
    assert mine == theirs
    assert len(rows_of(tmp_path / "run")) == len(rows_of(tmp_path / "straight"))


def test_the_best_model_so_far_stays_the_best(cut, tmp_path, monkeypatch):
    given = iter([5, 1, 2, 3, 4])
    monkeypatch.setattr(train_watching, "evaluate_episodes", lambda *arguments: ([float(next(given))], [5]))
    assert cut(50, lambda: begin(tmp_path / "run", CASES["cartpole"])) == 143
    assert resume(tmp_path / "run") == 0
    assert model_of(tmp_path / "run", "best_model").num_timesteps == 24
    with (tmp_path / "run" / "evaluations.csv").open() as file:
        found = [(row["timesteps"], row["return"]) for row in csv.DictReader(file)]
    assert found == [("24", "5.0"), ("48", "1.0"), ("72", "2.0"), ("96", "3.0"), ("128", "4.0")]


def test_a_damaged_checkpoint_is_left_out_for_the_one_before(cut, tmp_path, capsys):
    assert begin(tmp_path / "straight", CASES["pendulum"]) == 0
    assert cut(70, lambda: begin(tmp_path / "run", CASES["pendulum"])) == 143
    newest = checkpoints_in(tmp_path / "run" / "checkpoints")[-1]
    (newest / "arrays.safetensors").write_bytes(b"half")
    capsys.readouterr()
    assert resume(tmp_path / "run") == 0
    printed = capsys.readouterr().out
    assert f"{tmp_path}/run/checkpoints/000003-step-60: step 60 of 100" in printed
    assert f"skipped: {newest.name}/arrays.safetensors has 4 bytes" in printed
    assert_same_end(tmp_path / "run", tmp_path / "straight")


def test_a_finished_run_goes_on_if_more_steps_are_asked_for(tmp_path, capsys):
    assert begin(tmp_path / "run", CASES["cartpole"]) == 0
    before = rows_of(tmp_path / "run")
    assert resume(tmp_path / "run", "--total-timesteps", "128") == 2
    assert capsys.readouterr().err.startswith("error: resume must be a run that is not finished, got ")
    assert resume(tmp_path / "run", "--total-timesteps", "150") == 0
    assert model_of(tmp_path / "run").num_timesteps == 160
    after = rows_of(tmp_path / "run")
    assert [{key: row[key] for key in before[0]} for row in after[: len(before)]] == before
    assert len(after) > len(before)
    steps = [line.split(",")[0] for line in (tmp_path / "run" / "evaluations.csv").read_text().splitlines()[1:]]
    assert steps == ["24", "48", "72", "96", "128", "144", "160"]
    assert resume(tmp_path / "run") == 2  # and now these are made


def test_environments_that_give_no_state_begin_new_episodes_and_the_report_says_so(cut, tmp_path, capsys, monkeypatch):
    assert cut(50, lambda: begin(tmp_path / "run", CASES["cartpole"])) == 143
    monkeypatch.setattr("sb3_ppo_notes.persistence.checkpoint.restore_environments", lambda *arguments: ["no state"])
    assert resume(tmp_path / "run") == 0
    assert "not exact: environments: new episodes begin" in capsys.readouterr().out
    assert model_of(tmp_path / "run").num_timesteps == 128  # the rollout that was begun is gathered again


def test_checkpoint_every_0_leaves_one_of_the_end_and_of_a_signal(cut, tmp_path):
    text = CASES["cartpole"].replace("checkpoint_every: 20", "checkpoint_every: 0")
    assert cut(50, lambda: begin(tmp_path / "run", text)) == 143
    assert [path.name for path in checkpoints_in(tmp_path / "run" / "checkpoints")] == ["000001-step-50"]
    assert resume(tmp_path / "run") == 0
    numbers = [path.name for path in checkpoints_in(tmp_path / "run" / "checkpoints")]
    assert numbers == ["000001-step-50", "000002-step-128", "000003-step-128"]


def test_the_last_three_checkpoints_stay(tmp_path):
    assert begin(tmp_path / "run", CASES["cartpole"]) == 0
    found = [read_checkpoint(path).document for path in checkpoints_in(tmp_path / "run" / "checkpoints")]
    assert [document["num_timesteps"] for document in found] == [120, 128, 128]
    assert all(document["problems"] == [] for document in found)


def test_a_signal_before_the_first_step_leaves_a_run_that_can_be_resumed(tmp_path, monkeypatch):
    assert begin(tmp_path / "straight", CASES["cartpole"]) == 0
    own = train.build_model

    def slowly(*arguments):
        signal.raise_signal(signal.SIGINT)
        return own(*arguments)

    with monkeypatch.context() as patch:
        patch.setattr(train, "build_model", slowly)
        assert begin(tmp_path / "run", CASES["cartpole"]) == 130
    assert model_of(tmp_path / "run").num_timesteps == 0
    assert resume(tmp_path / "run") == 0
    assert_same_end(tmp_path / "run", tmp_path / "straight")


def test_environments_and_files_are_closed_and_handlers_put_back(cut, tmp_path, monkeypatch):
    closed, made = [], []
    before = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]
    own = gym.make

    class Counted(gym.Wrapper):
        def close(self):
            closed.append(self)
            super().close()

    def counting(*arguments, **named):
        made.append(Counted(own(*arguments, **named)))
        return made[-1]

    monkeypatch.setattr(gym, "make", counting)
    assert cut(50, lambda: begin(tmp_path / "run", CASES["filmed"])) == 143
    assert set(map(id, made)) == set(map(id, closed))
    assert [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)] == before


# -- what cannot go on -----------------------------------------------------------------------------------------


def content_of(folder):
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.fixture
def begun(cut, tmp_path, capsys):
    assert cut(50, lambda: begin(tmp_path / "run", CASES["cartpole"])) == 143
    capsys.readouterr()
    return tmp_path / "run"


def remove_checkpoints(folder):
    shutil.rmtree(folder / "checkpoints")


def remove_configuration(folder):
    (folder / "config.yaml").unlink()


def damage_checkpoints(folder):
    for path in checkpoints_in(folder / "checkpoints"):
        (path / "manifest.json").write_text("{")


def of_a_later_release(folder):
    from sb3_ppo_notes.persistence.storage import _digest_of_fields

    for path in checkpoints_in(folder / "checkpoints"):
        fields = json.loads((path / "manifest.json").read_text()) | {"version": 99}
        del fields["sha256"]
        (path / "manifest.json").write_text(json.dumps(fields | {"sha256": _digest_of_fields(fields)}))


def other(key, value):
    def change(folder):
        document = yaml.safe_load((folder / "config.yaml").read_text())
        target = document if key in document else document["hyperparameters"]
        target[key] = value
        (folder / "config.yaml").write_text(yaml.safe_dump(document))

    return change


@pytest.mark.parametrize(
    ("change", "options", "line"),
    [
        (None, ["--algo", "ppo"], "algo must be left out with resume, whose config.yaml counts, got 'ppo'"),
        (None, ["--env", "CartPole-v1"], "env must be left out with resume"),
        (None, ["--seed", "0"], "seed must be left out with resume"),
        (None, ["--outdir", "x"], "outdir must be left out with resume"),
        (None, ["--logdir", "x"], "logdir must be left out with resume"),
        (None, ["--checkpoint-every", "5"], "checkpoint_every must be left out with resume"),
        (None, ["--total-timesteps", "99"], "total_timesteps must be an int >= 100, what the run was to make, got 99"),
        (remove_checkpoints, [], "resume must be a run with checkpoints to go on from, got "),
        (remove_configuration, [], "resume must be the folder of a run, with its config.yaml, got "),
        (shutil.rmtree, [], "resume must be the folder of a run, with its config.yaml, got "),
        (damage_checkpoints, [], "resume must be a run with a checkpoint that is whole, got "),
        (of_a_later_release, [], ""),
        (other("n_envs", 3), [], "n_envs must be 2 as in the checkpoint to resume, got 3"),
        (other("gamma", 0.5), [], "gamma must be in "),
        (other("seed", 5), [], "seed must be in "),
        (other("algo", "a2c"), [], ""),
        (other("env", "Pendulum-v1"), [], "observation_space must be "),
    ],
)
def test_bad_input_is_one_line_and_changes_nothing(change, options, line, begun, capsys):
    if change is not None:
        change(begun)
    before = content_of(begun.parent)
    assert resume(begun, *options) == 2
    error = capsys.readouterr().err
    assert error.startswith(f"error: {line}")
    assert error.count("\n") == 1
    assert content_of(begun.parent) == before


def test_a_checkpoint_of_a_later_release_says_what_to_do(begun, capsys):
    of_a_later_release(begun)
    assert resume(begun) == 2
    assert "update sb3_ppo_notes" in capsys.readouterr().err


def test_other_versions_are_named(begun, capsys, monkeypatch):
    monkeypatch.setattr("sb3_ppo_notes.persistence.checkpoint.versions", lambda names: dict.fromkeys(names, "9.9"))
    assert resume(begun) == 0
    assert "not exact: numpy: " in capsys.readouterr().out


def test_a_run_that_still_goes_on_is_not_resumed(begun, capsys):
    code = (
        "import sys, time; from pathlib import Path; from sb3_ppo_notes.persistence.locks import FolderLock\n"
        "with FolderLock(Path(sys.argv[1])): print('locked', flush=True); time.sleep(60)"
    )
    words = [sys.executable, "-c", code, str(begun / "checkpoints")]
    with subprocess.Popen(words, stdout=subprocess.PIPE, text=True, cwd=ROOT) as other_process:
        assert other_process.stdout.readline() == "locked\n"
        before = content_of(begun)
        assert resume(begun) == 2
        other_process.kill()
    assert "must be a folder that no other process writes to" in capsys.readouterr().err
    assert content_of(begun) == before


# -- real processes, killed at random moments ------------------------------------------------------------------

LONG = {
    "cartpole": "{env: CartPole-v1, n_envs: 4, total_timesteps: 12000, eval_every: 5000, n_eval_episodes: 1, "
    "checkpoint_every: 1000, hyperparameters: {n_steps: 64, batch_size: 64, n_epochs: 4, learning_rate: lin_1e-3}}",
    "pendulum": "{env: Pendulum-v1, normalize: true, n_envs: 2, total_timesteps: 8000, n_eval_episodes: 1, "
    "eval_every: 3000, checkpoint_every: 700, hyperparameters: {n_steps: 128, batch_size: 64, n_epochs: 4}}",
}


def started(words, folder):
    """A process that has begun to train."""
    environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    newest = max(checkpoints_in(folder / "checkpoints"), default=None)
    process = subprocess.Popen(
        [sys.executable, "-m", "sb3_ppo_notes", "train", *words],
        env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    while max(checkpoints_in(folder / "checkpoints"), default=None) == newest and process.poll() is None:
        time.sleep(0.01)
    return process


@pytest.mark.slow
@pytest.mark.parametrize("name", LONG)
def test_signals_and_kills_at_random_moments_change_nothing(name, tmp_path):
    assert begin(tmp_path / "straight", LONG[name]) == 0
    folder, file = tmp_path / "run", tmp_path / "straight.yaml"
    generator = random.Random(f"moments of {name}")
    words, ends = ["--config", str(file), "--outdir", str(folder)], []
    for number in (signal.SIGINT, signal.SIGKILL, signal.SIGTERM):
        process = started(words, folder)
        time.sleep(generator.uniform(0, 0.5))
        process.send_signal(number)
        out, err = process.communicate()
        ends.append(process.returncode)
        assert "Traceback" not in err
        stored = read_checkpoint(folder / "checkpoints")
        assert stored.skipped == ()
        if number != signal.SIGKILL:
            line = f"interrupted after {stored.document['num_timesteps']:,} steps, go on with: train --resume {folder}"
            assert out.splitlines()[-1] == line
        words = ["--resume", str(folder)]
    assert ends == [130, -signal.SIGKILL, 143]
    assert resume(folder) == 0
    assert_same_end(folder, tmp_path / "straight")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("config", "package", "steps"),
    [
        ("halfcheetah", "mujoco", 600),
        ("reacher", "mujoco", 600),
        ("atari-pong", "ale_py", 400),
        ("pendulum", None, 300),
    ],
)
def test_a_shipped_configuration_that_is_cut_ends_as_the_straight_run(
    config, package, steps, cut, tmp_path, capsys, monkeypatch
):
    monkeypatch.chdir(tmp_path)  # MuJoCo writes a log of its own where it is
    if package is not None:
        pytest.importorskip(package)
    options = ["--config", config, "--total-timesteps", str(steps), "--n-eval-episodes", "1"]
    if config == "pendulum":
        options += ["--n-envs", "1"]
    if config == "atari-pong":
        pytest.importorskip("cv2")
        options += ["--n-envs", "2"]
    assert main(["train", *options, "--outdir", str(tmp_path / "straight")]) == 0
    at = random.Random(config).randrange(20, steps)
    assert cut(at, lambda: main(["train", *options, "--outdir", str(tmp_path / "run")])) == 143
    assert resume(tmp_path / "run") == 0
    assert "not exact" not in capsys.readouterr().out
    (tmp_path / "run" / "best_model.zip").write_bytes((tmp_path / "run" / "model.zip").read_bytes())
    (tmp_path / "straight" / "best_model.zip").write_bytes((tmp_path / "straight" / "model.zip").read_bytes())
    assert_same_end(tmp_path / "run", tmp_path / "straight")


@pytest.mark.slow
def test_a_compiled_run_that_is_cut_ends_as_the_straight_one(cut, tmp_path):
    text = CASES["cartpole"].replace("n_epochs", "compile: true, n_epochs")
    assert begin(tmp_path / "straight", text) == 0
    assert cut(50, lambda: begin(tmp_path / "run", text)) == 143
    assert resume(tmp_path / "run") == 0
    assert_same_end(tmp_path / "run", tmp_path / "straight")
