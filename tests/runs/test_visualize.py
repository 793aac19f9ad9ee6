"""``train`` -> ``visualize``: videos that decode, of the right length, in which something moves; and how it fails."""

import csv
import re
import subprocess
from pathlib import Path

import imageio_ffmpeg
import numpy as np
import pytest
from matplotlib.figure import Figure
from matplotlib.image import imread

from sb3_ppo_notes.__main__ import main
from sb3_ppo_notes.callbacks import video
from sb3_ppo_notes.callbacks.video import Episode, render_headless, video_file
from sb3_ppo_notes.runs.visualize import command as visualize
from sb3_ppo_notes.runs.visualize import sheet as visualize_sheet
from sb3_ppo_notes.runs.visualize.sheet import frames_at, steps_of

CONFIG = """
env: {env}
n_envs: 2
total_timesteps: 64
n_eval_episodes: 2
normalize: {normalize}
hyperparameters: {{n_steps: 16, batch_size: 32, n_epochs: 1}}
"""


def trained(folder, env="CartPole-v1", normalize="true", *options):
    (folder / "small.yaml").write_text(CONFIG.format(env=env, normalize=normalize))
    assert main(["train", "--config", str(folder / "small.yaml"), "--outdir", str(folder / "run"), *options]) == 0
    return folder / "run"


@pytest.fixture(scope="module")
def cartpole(tmp_path_factory):
    return trained(tmp_path_factory.mktemp("cartpole"))


def decoded(path, folder):
    folder.mkdir()
    ffmpeg = [imageio_ffmpeg.get_ffmpeg_exe(), "-v", "error", "-i", str(path), "-fps_mode", "passthrough"]
    subprocess.run([*ffmpeg, "-vf", "scale=60:60", f"{folder}/%06d.png"], check=True, stdin=subprocess.DEVNULL)
    return [imread(png) for png in sorted(folder.iterdir())]


def rows_of(path):
    with path.open() as file:
        return list(csv.DictReader(file))


@pytest.mark.parametrize("env", ["CartPole-v1", pytest.param("Pendulum-v1", marks=pytest.mark.slow)])
def test_from_training_to_videos(env, tmp_path, capsys):
    run = trained(tmp_path, env)
    assert main(["visualize", "--logdir", str(run), "--outdir", str(tmp_path / "videos"), "--episodes", "2"]) == 0
    videos = [f"run-episode-{number}.mp4" for number in (1, 2)]
    names = sorted(path.name for path in (tmp_path / "videos").iterdir())
    assert names == sorted([*videos, "contact_sheet.png", "episodes.csv"])
    rows = rows_of(tmp_path / "videos" / "episodes.csv")
    assert [row["file"] for row in rows] == videos
    for row in rows:
        frames = decoded(tmp_path / "videos" / row["file"], tmp_path / row["file"].removesuffix(".mp4"))
        assert len(frames) == int(row["length"]) + 1
        assert len({frame.tobytes() for frame in frames}) > len(frames) // 2
        assert np.abs(frames[0] - frames[-1]).max() > 0.3
    if env == "Pendulum-v1":
        assert [row["length"] for row in rows] == ["200", "200"]
    # The first episode is the first that the run was evaluated on: weights and normaliser have come back.
    evaluated = rows_of(run / "evaluations.csv")[0]
    assert float(rows[0]["return"]) == pytest.approx(float(evaluated["return"]), abs=1e-4)
    assert rows[0]["length"] == evaluated["length"]
    sheet = imread(tmp_path / "videos" / "contact_sheet.png")
    assert sheet.shape[1] > 1000
    assert sheet.std() > 0.05
    printed = capsys.readouterr().out
    assert f"{float(rows[1]['return']):.1f}" in printed


@pytest.mark.slow
@pytest.mark.parametrize("config", ["cartpole", "pendulum"])
def test_a_shipped_configuration_is_filmed_headless(config, tmp_path):
    import os
    import sys

    environment = {key: value for key, value in os.environ.items() if key not in ("DISPLAY", "WAYLAND_DISPLAY")}
    steps = {"cartpole": "6000", "pendulum": "4096"}[config]
    for command in (
        ["train", "--config", config, "--total-timesteps", steps, "--video-every", "3000", "--outdir", "run"],
        ["visualize", "--logdir", "run", "--episodes", "3"],
    ):
        done = subprocess.run(
            [sys.executable, "-m", "sb3_ppo_notes", *command],
            cwd=tmp_path,
            env=environment | {"PYTHONPATH": str(Path(visualize.__file__).parents[2])},
            capture_output=True,
            text=True,
            timeout=300,
            check=False,
        )
        assert done.returncode == 0, done.stderr
    assert len(list((tmp_path / "run" / "videos").iterdir())) >= 1
    rows = rows_of(tmp_path / "videos" / "episodes.csv")
    frames = [imageio_ffmpeg.count_frames_and_secs(str(tmp_path / "videos" / row["file"]))[0] for row in rows]
    assert frames == [int(row["length"]) + 1 for row in rows]


@pytest.mark.parametrize("recipe", ["tsukurinagara", pytest.param("batch_ppo", marks=pytest.mark.slow)])
def test_a_recipes_run_is_filmed(recipe, tmp_path):
    env = {"tsukurinagara": "CartPole-v1", "batch_ppo": "Pendulum-v1"}[recipe]
    options = ["--recipe", recipe, "--env", env, "--n-envs", "2", "--total-timesteps", "200", "--n-eval-episodes", "1"]
    assert main(["train", *options, "--outdir", str(tmp_path / "run")]) == 0
    options = ["--outdir", str(tmp_path / "videos"), "--episodes", "1"]
    assert main(["visualize", "--logdir", str(tmp_path / "run"), *options]) == 0
    (row,) = rows_of(tmp_path / "videos" / "episodes.csv")
    evaluated = rows_of(tmp_path / "run" / "evaluations.csv")[0]
    assert float(row["return"]) == pytest.approx(
        float(evaluated["return"]), abs=1e-3
    )  # raw, though the recipe changes it


def test_the_same_seed_gives_the_same_film_and_another_another(cartpole, tmp_path, monkeypatch):
    monkeypatch.setattr(visualize, "draw_contact_sheet", lambda *arguments: None)
    returns = []
    for name, seed in (("a", "7"), ("b", "7"), ("c", "8")):
        options = ["--outdir", str(tmp_path / name), "--episodes", "1", "--seed", seed, "--max-steps", "4"]
        assert main(["visualize", "--logdir", str(cartpole), *options]) == 0
        returns.append((tmp_path / name / "run-episode-1.mp4").read_bytes())
    assert returns[0] == returns[1] != returns[2]
    (row,) = rows_of(tmp_path / "a" / "episodes.csv")
    assert (row["length"], row["is_cut"], float(row["return"])) == ("4", "True", 4.0)


def test_a_contact_sheet_shows_five_steps_of_each_episode(tmp_path):
    assert steps_of(Episode(Path("x.mp4"), 0.0, 9, is_cut=False)) == [0, 2, 4, 6, 9]
    assert steps_of(Episode(Path("x.mp4"), 0.0, 1, is_cut=False)) == [0, 0, 0, 0, 1]
    with video_file(tmp_path / "x.mp4", 30) as add_frame:
        for brightness in range(0, 250, 25):
            add_frame(np.full((32, 48, 3), brightness, np.uint8))
    frames = frames_at(tmp_path / "x.mp4", [0, 2, 4, 6, 9])
    assert [round(float(frame.mean()) * 255 / 25) for frame in frames] == [0, 2, 4, 6, 9]
    assert [round(float(frame.mean()) * 255 / 25) for frame in frames_at(tmp_path / "x.mp4", [0, 0, 1])] == [0, 0, 1]
    with pytest.raises(ValueError, match=r"x.mp4 must have the frames \[0, 10\]"):
        frames_at(tmp_path / "x.mp4", [0, 10])


def test_a_contact_sheet_of_many_episodes_shows_the_first_and_says_so(tmp_path, monkeypatch):
    with video_file(tmp_path / "x.mp4", 30) as add_frame:
        for _ in range(2):
            add_frame(np.zeros((32, 48, 3), np.uint8))
    seen = []
    real = Figure.suptitle
    monkeypatch.setattr(Figure, "suptitle", lambda figure, text, **kwargs: seen.append(text) or real(figure, text))
    monkeypatch.setattr(visualize_sheet, "MAX_ROWS", 2)
    for n in (2, 3):
        episodes = [Episode(tmp_path / "x.mp4", 0.0, 1, is_cut=False)] * n
        visualize_sheet.draw_contact_sheet(episodes, "run", tmp_path / f"{n}.png")
    assert seen == ["run", "run, the first 2 of 3 episodes"]
    assert imread(tmp_path / "2.png").shape == imread(tmp_path / "3.png").shape


@pytest.mark.parametrize(("display", "given"), [(None, None), (":0", None), (None, "osmesa")])
def test_headless_means_no_display_and_the_users_word_counts(display, given, monkeypatch):
    for name, value in (
        ("DISPLAY", display),
        ("WAYLAND_DISPLAY", None),
        ("MUJOCO_GL", given),
        ("SDL_VIDEODRIVER", given),
    ):
        monkeypatch.delenv(name, raising=False)
        if value is not None:
            monkeypatch.setenv(name, value)
    monkeypatch.setattr(video.sys, "platform", "linux")
    render_headless()
    import os

    expected = (given, given) if given else (None, None) if display else ("dummy", "egl")
    assert (os.environ.get("SDL_VIDEODRIVER"), os.environ.get("MUJOCO_GL")) == expected
    monkeypatch.delenv("SDL_VIDEODRIVER", raising=False)
    monkeypatch.delenv("MUJOCO_GL", raising=False)


# -- bad input: one line, exit code 2, nothing half-written ----------------------------------------------------


def refused(arguments, capsys):
    assert main(["visualize", *map(str, arguments)]) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ")
    assert error.count("\n") == 1
    return error.removeprefix("error: ")


@pytest.mark.parametrize(
    ("option", "value", "line"),
    [
        ("--episodes", "0", "episodes must be an int >= 1, got 0"),
        ("--max-steps", "0", "max_steps must be an int >= 1, got 0"),
        ("--seed", "-1", "seed must be an int >= 0, got -1"),
    ],
)
def test_bad_numbers_are_refused(option, value, line, cartpole, tmp_path, capsys):
    assert refused(["--logdir", cartpole, "--outdir", tmp_path / "out", option, value], capsys).startswith(line)
    assert not (tmp_path / "out").exists()


def broken(run, tmp_path, name, text):
    """A copy of a run with one file replaced, or taken away."""
    copy = tmp_path / "copy"
    copy.mkdir()
    for path in run.iterdir():
        if path.is_file() and path.name != name:
            (copy / path.name).write_bytes(path.read_bytes())
    if text is not None:
        (copy / name).write_bytes(text)
    return copy


@pytest.mark.parametrize(
    ("name", "text", "line"),
    [
        ("model.zip", None, "logdir must be the folder of a run, got .*copy, which has no model.zip"),
        ("config.yaml", None, "logdir must be the folder of a run, got .*copy, which has no config.yaml"),
        ("normalizer.json", None, ".*copy must hold normalizer.json, what its normaliser has learned"),
        ("normalizer.json", b"{}", ".*normalizer.json must hold what this run's normaliser has learned"),
        ("model.zip", b"", ".*model.zip must be the model of this run's configuration"),
        ("model.zip", b"PK\x03\x04 half of a file", ".*model.zip must be the model of this run's configuration"),
        ("config.yaml", b"env: [", "config .*config.yaml must be plain YAML"),
        ("config.yaml", b"env: Nothing-v7", "env must be the id of a registered environment, got 'Nothing-v7'"),
        ("config.yaml", b"env: Acrobot-v1", ".*model.zip must be the model of this run's configuration"),
    ],
)
def test_a_folder_that_is_no_run_is_refused(name, text, line, cartpole, tmp_path, capsys):
    error = refused(["--logdir", broken(cartpole, tmp_path, name, text), "--outdir", tmp_path / "out"], capsys)
    assert re.match(line, error), error
    assert not (tmp_path / "out").exists()


def test_a_folder_of_runs_is_refused_with_their_names(cartpole, tmp_path, capsys):
    error = refused(["--logdir", cartpole.parent, "--outdir", tmp_path / "out"], capsys)
    assert error.strip().endswith("which has no config.yaml; it holds the runs run")
    error = refused(["--logdir", tmp_path / "nowhere", "--outdir", tmp_path / "out"], capsys)
    assert "nowhere, which is none" in error
    (tmp_path / "file").write_text("")
    error = refused(["--logdir", cartpole, "--outdir", tmp_path / "file"], capsys)
    assert error.startswith("outdir must be a folder, got the file")


def test_a_model_file_can_run_nothing(cartpole, tmp_path):
    import pickle
    import zipfile

    class Touch:
        def __reduce__(self):
            return (Path.touch, (tmp_path / "sentinel",))

    copy = broken(cartpole, tmp_path, "model.zip", b"")
    with zipfile.ZipFile(cartpole / "model.zip") as old, zipfile.ZipFile(copy / "model.zip", "w") as new:
        for name in old.namelist():
            new.writestr(name, old.read(name))
        new.writestr("evil.pth", pickle.dumps(Touch(), protocol=2))
    main(["visualize", "--logdir", str(copy), "--outdir", str(tmp_path / "out"), "--episodes", "1"])
    assert not (tmp_path / "sentinel").exists()


def test_all_files_appear_or_none(cartpole, tmp_path, capsys, monkeypatch):
    def full(*args, **kwargs):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(visualize, "draw_contact_sheet", full)
    options = ["--logdir", cartpole, "--episodes", "1"]
    assert "No space left on device" in refused([*options, "--outdir", tmp_path / "new"], capsys)
    assert not (tmp_path / "new").exists()
    (tmp_path / "old").mkdir()
    (tmp_path / "old" / "run-episode-1.mp4").write_text("old")
    refused([*options, "--outdir", tmp_path / "old"], capsys)
    assert [(path.name, path.read_text()) for path in (tmp_path / "old").iterdir()] == [("run-episode-1.mp4", "old")]
