"""``train``: what it writes, that it can be repeated, how it fails; and ``compare --recipes``."""

import csv
import json
import os
import re
from pathlib import Path

import pytest
import torch as th
import yaml
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.vec_env import VecNormalize
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from sb3_ppo_notes import NotesA2C, NotesPPO
from sb3_ppo_notes.__main__ import main
from sb3_ppo_notes.callbacks.evaluation import EVALUATION_SEED_OFFSET, evaluate_episodes, with_frozen_normalizers
from sb3_ppo_notes.configs import build as train_model
from sb3_ppo_notes.configs.build import build_model, check_environment
from sb3_ppo_notes.configs.normalizers import load_normalizer, normalizer_statistics
from sb3_ppo_notes.configs.run_config import RunConfig, resolve_config
from sb3_ppo_notes.formulas.checks import InvalidValueError
from sb3_ppo_notes.runs.train import command as train
from sb3_ppo_notes.runs.train import evaluation as train_watching
from sb3_ppo_notes.runs.train.folder import load_weights, new_folder, save_model

SMALL = """
env: {env}
n_envs: 2
total_timesteps: 96
n_eval_episodes: 2
normalize: {normalize}
hyperparameters: {{n_steps: 16, batch_size: 16, n_epochs: 2, learning_rate: 1e-2, gamma: 0.9, {more}}}
"""


@pytest.fixture
def small(tmp_path):
    def path(env="CartPole-v1", normalize="false", more=""):
        file = tmp_path / "small.yaml"
        file.write_text(SMALL.format(env=env, normalize=normalize, more=more))
        return str(file)

    return path


def weights(folder, name="model.zip"):
    return NotesPPO.load(folder / name, device="cpu").policy.state_dict()


def rows_of(path):
    with path.open() as file:
        return list(csv.DictReader(file))


@pytest.mark.parametrize(
    ("options", "algorithm", "file"),
    [
        (["--algo", "ppo", "--n-envs", "2", "--total-timesteps", "4096"], NotesPPO, None),
        (["--recipe", "tsukurinagara"], NotesA2C, None),
        (["--recipe", "skrl"], NotesPPO, None),
        (["--recipe", "batch_ppo", "--env", "Pendulum-v1", "--n-envs", "3"], NotesPPO, "normalizer.json"),
    ],
)
def test_train_writes_a_model(options, algorithm, file, tmp_path, capsys):
    assert (
        main(["train", "--total-timesteps", "600", "--n-eval-episodes", "1", "--outdir", str(tmp_path), *options]) == 0
    )
    printed = capsys.readouterr().out
    assert "return" in printed
    assert algorithm.load(tmp_path / "model").num_timesteps >= 600
    assert (tmp_path / "normalizer.json").exists() == (file is not None)


def test_the_folder_of_a_run(small, tmp_path, capsys):
    options = ["--eval-every", "40", "--video-every", "64", "--seed", "5", "--logdir", str(tmp_path / "logs")]
    assert main(["train", "--config", small("Pendulum-v1", "true"), *options]) == 0
    (folder,) = (tmp_path / "logs").iterdir()
    assert re.fullmatch(r"\d{8}T\d{6}-small", folder.name)
    names = {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}
    events = {name for name in names if name.startswith("events.out.tfevents")}
    checkpoints = {name for name in names if name.startswith("checkpoints/0")}
    assert {name.split("/")[1] for name in checkpoints} == {"000001-step-96", "000002-step-96"}  # with the evaluation
    video = f"videos/{folder.name}-Pendulum-v1-step-000000064-episode-1.mp4"
    assert names - events - checkpoints == {
        "checkpoints/.lock",
        "config.yaml",
        "model.zip",
        "normalizer.json",
        "best_model.zip",
        "best_normalizer.json",
        "evaluations.csv",
        "progress.csv",
        "progress.json",
        video,
    }
    printed = capsys.readouterr().out
    assert "mlp_extractor.policy_net" in printed
    assert "Pendulum-v1 after 96 steps: return -" in printed
    assert "\r" not in printed  # no progress bar where there is no terminal
    assert all(len(line) <= 80 for line in printed.splitlines() if not line.startswith("written"))
    # Two episodes at 40 and 80 steps (the first steps from there on) and at the end.
    rows = rows_of(folder / "evaluations.csv")
    assert [(row["timesteps"], row["episode"]) for row in rows] == [
        (str(steps), str(number)) for steps in (40, 80, 96) for number in (1, 2)
    ]
    assert {row["length"] for row in rows} == {"200"}
    assert all(-2000 < float(row["return"]) < 0 for row in rows)  # raw rewards, though training sees normalised ones
    means = [f"{sum(float(row['return']) for row in rows[at : at + 2]) / 2:.1f}" for at in (0, 2, 4)]
    assert re.findall(r"(\d+) +│ +(-[\d.]+) │", printed) == list(zip(["40", "80", "96"], means, strict=True))
    progress = rows_of(folder / "progress.csv")
    assert float(progress[-1]["eval/mean_reward"]) == pytest.approx(sum(float(row["return"]) for row in rows[-2:]) / 2)
    assert [row["time/total_timesteps"] for row in progress].count("96") == 3  # rollout, last update, last evaluation
    lines = [json.loads(line) for line in (folder / "progress.json").read_text().splitlines()]
    assert len(lines) == len(progress)
    scalars = EventAccumulator(str(folder)).Reload()
    assert {"train/approx_kl", "time/fps", "eval/mean_reward", "notes/video/return"} <= set(scalars.Tags()["scalars"])


def test_hyperparameters_without_a_file(tmp_path):
    words = ["--set", "n_steps=16", "learning_rate=lin_1e-2", "batch_size=16", "--set", "policy_kwargs.net_arch=[8, 8]"]
    options = ["--n-envs", "2", "--total-timesteps", "96", "--n-eval-episodes", "1"]
    assert main(["train", *words, *options, "--outdir", str(tmp_path / "first")]) == 0
    model = NotesPPO.load(tmp_path / "first" / "model.zip", device="cpu")
    assert (model.n_steps, model.batch_size, model.policy_kwargs) == (16, 16, {"net_arch": [8, 8]})
    assert model.learning_rate(0.5) == pytest.approx(0.005)
    config = str(tmp_path / "first" / "config.yaml")
    assert main(["train", "--config", config, "--outdir", str(tmp_path / "again")]) == 0
    for name, weight in weights(tmp_path / "first").items():
        assert th.equal(weight, weights(tmp_path / "again")[name])
    assert main(["train", "--resume", str(tmp_path / "again"), "--set", "n_steps=8"]) == 2


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["--compile"], {"n_steps": 16, "compile": True}),
        (["--no-compile"], {"n_steps": 16, "compile": False}),
        ([], {"n_steps": 16}),
    ],
)
def test_compile_is_a_hyperparameter_with_an_option_of_its_own(words, expected, monkeypatch, tmp_path, capsys):
    def build(config, processes):
        assert config.hyperparameters == expected
        raise InvalidValueError("that was all")

    monkeypatch.setattr(train, "build_model", build)
    assert main(["train", "--set", "n_steps=16", *words, "--outdir", str(tmp_path / "run")]) == 2
    assert capsys.readouterr().err == "error: that was all\n"


def test_compile_is_said_once(tmp_path, capsys):
    assert main(["train", "--set", "compile=true", "--no-compile", "--outdir", str(tmp_path / "run")]) == 2
    assert capsys.readouterr().err == "error: set must hold compile once, got 'compile=true' and 'compile=False'\n"
    assert not (tmp_path / "run").exists()


def test_a_run_is_repeated_from_its_own_configuration(small, tmp_path):
    first, second, other = (tmp_path / name for name in ("first", "second", "other"))
    config = small("CartPole-v1", "{norm_reward: false}", "policy_kwargs: {activation_fn: ReLU, net_arch: [8]}")
    assert main(["train", "--config", config, "--eval-every", "50", "--outdir", str(first)]) == 0
    assert main(["train", "--config", str(first / "config.yaml"), "--outdir", str(second)]) == 0
    # Bit for bit, and it does not matter whether it is filmed or evaluated.
    options = ["--video-every", "32", "--eval-every", "20"]
    assert main(["train", "--config", str(first / "config.yaml"), "--outdir", str(other), *options]) == 0
    for folder in (second, other):
        assert all(map(th.equal, weights(first).values(), weights(folder).values()))
        assert (first / "normalizer.json").read_text() == (folder / "normalizer.json").read_text()
    assert (first / "config.yaml").read_text() == (second / "config.yaml").read_text()
    written = yaml.safe_load((first / "config.yaml").read_text())
    assert (written["hyperparameters"]["policy_kwargs"]["activation_fn"], written["eval_every"]) == ("ReLU", 50)
    assert str(tmp_path) not in (first / "config.yaml").read_text()


def test_the_last_evaluation_is_that_of_the_saved_model(small, tmp_path):
    assert main(["train", "--config", small("Pendulum-v1", "true"), "--outdir", str(tmp_path / "run")]) == 0
    config, _ = resolve_config(str(tmp_path / "run" / "config.yaml"), {})
    model = build_model(config)
    load_weights(model, tmp_path / "run" / "model.zip")
    load_normalizer(model.env, tmp_path / "run" / "normalizer.json")
    rows = rows_of(tmp_path / "run" / "evaluations.csv")
    mean = sum(float(row["return"]) for row in rows) / 2
    env = make_vec_env("Pendulum-v1", seed=config.seed + EVALUATION_SEED_OFFSET)
    returns, _ = evaluate_episodes(model, with_frozen_normalizers(env, model.env), 2)
    assert sum(returns) / 2 == pytest.approx(mean, abs=1e-4)


@pytest.mark.parametrize(("returns", "best"), [([1, 3, 2], 64), ([1, 2, 3], 96), ([3, 3, 1], 32)])
def test_the_best_model_is_kept_be_it_the_last(returns, best, small, tmp_path, monkeypatch):
    given = iter(returns)
    monkeypatch.setattr(train_watching, "evaluate_episodes", lambda *arguments: ([float(next(given))], [5]))
    assert main(["train", "--config", small(), "--eval-every", "32", "--outdir", str(tmp_path / "run")]) == 0
    assert NotesPPO.load(tmp_path / "run" / "best_model").num_timesteps == best
    # At 96 steps it is evaluated once, after the last update.
    assert [row["timesteps"] for row in rows_of(tmp_path / "run" / "evaluations.csv")] == ["32", "64", "96"]


def test_every_evaluation_begins_alike(small, tmp_path):
    config = small("Pendulum-v1", more="learning_rate: 1.0e-30")
    assert main(["train", "--config", config, "--eval-every", "32", "--outdir", str(tmp_path / "run")]) == 0
    returns = [row["return"] for row in rows_of(tmp_path / "run" / "evaluations.csv")]
    # Two episodes each, of a policy that learns nothing.
    assert returns[:2] == returns[2:4] == returns[4:]
    assert returns[0] != returns[1]


def test_weights_that_are_excluded_are_not_counted(small, tmp_path, capsys):
    options = ["--exclude", "mlp_extractor", "--total-timesteps", "32", "--outdir", str(tmp_path / "run")]
    assert main(["train", "--config", small(), *options]) == 0
    printed = capsys.readouterr().out
    assert "mlp_extractor.policy_net" not in printed
    assert re.search(r"all\W+195\b", printed)  # (64 + 1)·2 + (64 + 1)


def test_two_runs_of_one_second_have_folders_of_their_own(tmp_path):
    folders = [new_folder(tmp_path / "logs", "ALE/Pong v5") for _ in range(4)]
    assert len(set(folders)) == 4
    assert all(folder.is_dir() for folder in folders)
    assert all(re.fullmatch(r"\d{8}T\d{6}-ALE-Pong-v5(-\d)?", folder.name) for folder in folders)


def test_an_interrupted_run_keeps_what_was_trained(small, tmp_path, monkeypatch, capsys):
    class Interrupts(train.Evaluation):
        def _on_step(self):
            if self.num_timesteps >= 64:
                raise KeyboardInterrupt
            return True

    monkeypatch.setattr(train, "Evaluation", Interrupts)
    assert main(["train", "--config", small(), "--outdir", str(tmp_path / "run")]) == 130
    assert "interrupted after 64 steps" in capsys.readouterr().out
    assert NotesPPO.load(tmp_path / "run" / "model").num_timesteps == 64


# -- files: whole or not there ---------------------------------------------------------------------------------


def test_a_model_that_cannot_be_written_leaves_the_old_one(small, tmp_path, monkeypatch):
    model = build_model(resolve_config(small("Pendulum-v1", "true"), {})[0])
    save_model(model, tmp_path)
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}

    def full(descriptor):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space left"):
        save_model(model, tmp_path)
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before


def test_every_file_is_on_the_disk_before_it_takes_its_place(small, tmp_path, monkeypatch):
    synced, moved = [], {}
    fsync, replace = os.fsync, os.replace

    def watched_fsync(descriptor):
        synced.append(os.fstat(descriptor).st_ino)
        fsync(descriptor)

    def watched_replace(source, target):
        is_on_disk, n_synced = os.stat(source).st_ino in synced, len(synced)
        moved[Path(target).name] = (is_on_disk, Path(source).parent == Path(target).parent, n_synced)
        replace(source, target)

    monkeypatch.setattr(os, "fsync", watched_fsync)
    monkeypatch.setattr(os, "replace", watched_replace)
    assert main(["train", "--config", small("Pendulum-v1", "true"), "--outdir", str(tmp_path / "run")]) == 0
    for name in ("config.yaml", "normalizer.json", "model.zip", "evaluations.csv"):
        is_on_disk, is_beside, n_synced = moved[name]
        assert is_on_disk, name
        assert is_beside, name
        assert synced[n_synced] == os.stat(tmp_path / "run").st_ino  # the folder, which holds the name
    assert not [path for path in (tmp_path / "run").iterdir() if path.name.startswith(".")]


@pytest.mark.parametrize("kind", ["true", "{norm_obs: false}", "{norm_reward: false, clip_obs: 2.0}"])
def test_statistics_of_a_normaliser_come_back_exactly(kind, small, tmp_path):
    config = resolve_config(small("Pendulum-v1", kind), {})[0]
    model = build_model(config).learn(64)
    save_model(model, tmp_path)
    fresh = build_model(config)
    load_normalizer(fresh.env, tmp_path / "normalizer.json")
    assert normalizer_statistics(fresh.env) == normalizer_statistics(model.env)
    assert normalizer_statistics(fresh.env) != normalizer_statistics(build_model(config).env)
    raw = model.env.venv.reset()
    assert isinstance(fresh.env, VecNormalize)
    assert (fresh.env.normalize_obs(raw) == model.env.normalize_obs(raw)).all()
    assert not fresh.env.training


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("{", "must hold what this run's normaliser has learned"),
        ("[]", "must hold what this run's normaliser has learned"),
        ('{"kind": "StreamingNormalize"}', "statistics of a StreamingNormalize"),
        ('{"kind": "VecNormalize"}', "must hold what this run's normaliser has learned"),
        (
            '{"kind": "VecNormalize", "observation": {"": {"mean": [0], "var": [1], "count": 1}}}',
            r"shape \(1,\) for \(3,\)",
        ),
    ],
)
def test_damaged_statistics_are_refused(text, words, small, tmp_path):
    model = build_model(resolve_config(small("Pendulum-v1", "true"), {})[0])
    (tmp_path / "normalizer.json").write_text(text)
    with pytest.raises(ValueError, match=words):
        load_normalizer(model.env, tmp_path / "normalizer.json")


# -- bad input -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (["train", "--recipe", "skrll"], "error: recipe must be one of 'skrl', 'batch_ppo'"),
        (["train", "--total-timesteps", "0"], "error: total_timesteps must be an int >= 1, got 0"),
        (["train", "--env", "CartPoel-v1"], "error: env must be the id"),
        (["train", "--env", "Nowhere/Land-v1"], "error: env must be the id of a registered environment"),
        (["train", "--config", "cartpol"], "error: config must be one of atari-pong, cartpole"),
        (["train", "--config", "cartpole", "--recipe", "skrl"], "error: recipe must be left out when config is given"),
        (["train", "--video-every", "0"], "error: video_every must be an int >= 1 or nothing, got 0"),
        (["train", "--eval-every", "-3"], "error: eval_every must be an int >= 1 or nothing, got -3"),
        (["train", "--n-envs", "0"], "error: n_envs must be an int >= 1 or nothing, got 0"),
        (["train", "--seed", "-1"], "error: seed must be an int >= 0, got -1"),
        (["train", "--exclude", "("], "error: exclude must be a regular expression, got '('"),
        (["train", "--device", "gpu"], "error: device must be 'cpu' or "),
        (["compare", "--recipes", "skrl,foo"], "error: recipes must be one of 'skrl'"),
        (["compare", "--recipes", ","], "error: recipes must be names separated by commas"),
    ],
)
def test_bad_input(arguments, line, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main([*arguments, "--outdir", str(tmp_path / "out")]) == 2
    error = capsys.readouterr().err
    assert error.startswith(line)
    assert error.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


def test_folders_that_cannot_hold_a_run_are_refused(tmp_path, capsys):
    (tmp_path / "file").write_text("")
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "model.zip").write_text("precious")
    for option, folder, words in [
        ("--logdir", "file", "logdir must be a folder, got the file"),
        ("--outdir", "file", "outdir must be a folder, got the file"),
        ("--outdir", "full", "outdir must be a new or an empty folder, so that no run is lost"),
    ]:
        assert main(["train", option, str(tmp_path / folder)]) == 2
        assert capsys.readouterr().err.startswith(f"error: {words}")
    assert (tmp_path / "full" / "model.zip").read_text() == "precious"


@pytest.mark.parametrize(
    ("env", "raised", "package"),
    [
        ("A-v0", 'MuJoCo is not installed, run `pip install "gymnasium[mujoco]"`', "'gymnasium[mujoco]'"),
        ("B-v0", 'Box2D is not installed, you can install it by run `pip install swig` followed by `pip install '
                 '"gymnasium[box2d]"`', "'gymnasium[box2d]'"),
    ],
)  # fmt: skip
def test_a_package_that_is_missing_is_named(env, raised, package, monkeypatch):
    def make(*args, **kwargs):
        raise train_model.gym.error.DependencyNotInstalled(raised)

    monkeypatch.setattr(train_model.gym, "make", make)
    with pytest.raises(
        ValueError, match=re.escape(f"env '{env}' needs a package that is not installed: pip install {package}")
    ):
        check_environment(env)


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("env: Blackjack-v1", "env must have an observation space of type Box, Discrete, MultiDiscrete, MultiBinary"),
        ("env: CartPole-v1\npolicy: CnnPolicy", "policy must be one for observations of Box"),
        ("env: CartPole-v1\nnormalize: {clip_obs: x}", "normalize.clip_obs must be > 0 and finite, got str 'x'"),
        ("env: CartPole-v1\nhyperparameters: {n_steps: 0}", "n_steps must be"),
        ("env: CartPole-v1\nhyperparameters: {policy_kwargs: {net_arch: abc}}", ""),
        ("env: CartPole-v1\nhyperparameters: {policy_kwargs: {log_std: 0}}", ""),
    ],
)
def test_a_configuration_that_cannot_be_built_leaves_nothing_behind(text, line, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("bad.yaml").write_text(text)
    assert main(["train", "--config", "bad.yaml"]) == 2
    error = capsys.readouterr().err
    assert error.startswith(f"error: {line}")
    assert error.count("\n") == 1
    assert [path.name for path in tmp_path.iterdir()] == ["bad.yaml"]


@pytest.mark.parametrize(
    ("env", "wrapper", "missing", "package"),
    [
        ("PongNoFrameskip-v4", [], "ale_py", "gymnasium[atari]"),
        ("ALE/Pong-v5", [], "ale_py", "gymnasium[atari]"),
        ("CartPole-v1", ["stable_baselines3.common.atari_wrappers.AtariWrapper"], "cv2", "opencv-python"),
    ],
)
def test_what_atari_needs_is_named(env, wrapper, missing, package, monkeypatch):
    real = train_model.importlib.util.find_spec
    monkeypatch.setattr(train_model.importlib.util, "find_spec", lambda name: None if name == missing else real(name))
    with pytest.raises(ValueError, match=re.escape(f"pip install {package!r}")):
        check_environment(env, env_wrapper=wrapper)


@pytest.mark.parametrize(
    ("config", "words"),
    [
        (
            dict(env_wrapper=["os.system"]),
            "env_wrapper must be import paths of gymnasium.Wrapper classes, got 'os.system'",
        ),
        (dict(env_wrapper=["gymnasium.wrappers.Nothing"]), "env_wrapper must be an import path, got"),
        (dict(env_wrapper=["no.such.module.Wrapper"]), "env_wrapper must be an import path, got"),
        (dict(env_wrapper=["Wrapper"]), "env_wrapper must be import paths of gymnasium.Wrapper classes"),
        (dict(env_wrapper=[{"gymnasium.wrappers.TimeLimit": 3}]), "env_wrapper must be import paths of"),
        (dict(env_wrapper="gymnasium.wrappers.TimeLimit"), "env_wrapper must be a list of import paths"),
        (dict(env_kwargs={"gravity": 3}), "env_kwargs must be arguments of CartPole-v1, got"),
    ],
)
def test_wrappers_and_arguments_of_environments_are_checked(config, words):
    with pytest.raises((ValueError, TypeError), match=re.escape(words)):
        check_environment(**{"env": "CartPole-v1"} | config)


def test_wrappers_with_arguments_frames_and_arguments_of_environments_are_used():
    config = RunConfig(
        name="x",
        n_envs=2,
        env_wrapper=[
            "gymnasium.wrappers.FlattenObservation",
            {"gymnasium.wrappers.TimeLimit": {"max_episode_steps": 3}},
        ],
        env_kwargs={"sutton_barto_reward": True},
        frame_stack=4,
        normalize={"norm_reward": False},
        hyperparameters=dict(n_steps=8, batch_size=8, gamma=0.5),
    )
    model = build_model(config)
    assert model.observation_space.shape == (16,)
    assert model.env.venv.gamma == 0.5
    model.env.reset()
    steps = [model.env.step([0, 0]) for _ in range(3)]
    assert [step[2].tolist() for step in steps] == [[False, False], [False, False], [True, True]]
    assert steps[0][1].tolist() == [0.0, 0.0]  # Sutton and Barto's reward


# -- compare --recipes -----------------------------------------------------------------------------------------


def test_compare_recipes_side_by_side(tmp_path, capsys):
    options = [
        "--recipes",
        "skrl,minimal_rl,tsukurinagara",
        "--total-timesteps",
        "500",
        "--seeds",
        "2",
        "--n-eval-episodes",
        "1",
    ]
    assert main(["compare", *options, "--outdir", str(tmp_path)]) == 0
    printed = capsys.readouterr().out
    assert all(name in printed for name in ("skrl", "minimal_rl", "tsukurinagara"))
    assert all(len(line) <= 80 for line in printed.splitlines() if "written" not in line)
    results = json.loads((tmp_path / "comparison.json").read_text())["results"]
    assert len(results) == 6
    assert (tmp_path / "learning_curves.png").exists()
    assert (tmp_path / "learning_curves.csv").read_text().count("minimal_rl") > 2
