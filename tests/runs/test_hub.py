"""``hub``: a folder that the Hub reads, whose own code plays the model and repeats the number on the card."""

import csv
import json
import re
import signal
import sys
from contextlib import redirect_stdout
from io import StringIO

import imageio_ffmpeg
import numpy as np
import pytest
import torch as th
import yaml

from sb3_ppo_notes import NotesPPO
from sb3_ppo_notes.__main__ import main
from sb3_ppo_notes.callbacks import Episodes
from sb3_ppo_notes.configs.build import trained_environments
from sb3_ppo_notes.configs.run_config import RunConfig
from sb3_ppo_notes.runs.hub.card import Card
from tests.test_documents import run as run_command

SIZES = "n_steps: 16, batch_size: 16, n_epochs: 1"
COMMON = "n_envs: 2, total_timesteps: 64, n_eval_episodes: 3"
CASES = {
    "cartpole": f"{{env: CartPole-v1, {COMMON}, hyperparameters: {{{SIZES}}}}}",
    "pendulum": f"{{env: Pendulum-v1, normalize: true, frame_stack: 2, {COMMON}, hyperparameters: {{{SIZES}, clip_range: lin_0.3}}}}",
    "lstm": f"{{env: CartPole-v1, policy: MlpLstmPolicy, {COMMON}, hyperparameters: {{{SIZES}}}}}",
    "batch_ppo": f"{{env: Pendulum-v1, recipe: batch_ppo, {COMMON}, hyperparameters: {{n_steps: 16, batch_size: 32}}}}",
    "a2c": f"{{env: CartPole-v1, algo: a2c, {COMMON}}}",
}


def trained(folder, case="cartpole"):
    file = folder / "small.yaml"
    file.write_text(CASES[case])
    assert main(["train", "--config", str(file), "--outdir", str(folder / "run")]) == 0
    return folder / "run"


@pytest.fixture(scope="module")
def cartpole(tmp_path_factory):
    return trained(tmp_path_factory.mktemp("cartpole"))


def made(run, folder, *options):
    assert main(["hub", str(run), "--outdir", str(folder), *options]) == 0
    return folder


def evaluations(run):
    with (run / "evaluations.csv").open() as file:
        return [float(row["return"]) for row in csv.DictReader(file)]


def metadata(folder):
    return yaml.safe_load((folder / "README.md").read_text().split("---\n")[1])


def python_block(folder):
    [block] = re.findall(r"^```python\n(.*?)^```$", (folder / "README.md").read_text(), flags=re.M | re.S)
    return block


def assert_the_card_repeats_its_number(folder, monkeypatch):
    monkeypatch.chdir(folder.parent)
    printed = StringIO()
    with redirect_stdout(printed):
        exec(python_block(folder), {})
    [metric] = metadata(folder)["model-index"][0]["results"][0]["metrics"]
    assert printed.getvalue() == f"{metric['value']}\n"


@pytest.mark.parametrize(
    "case", ["pendulum", *(pytest.param(each, marks=pytest.mark.slow) for each in CASES if each != "pendulum")]
)
def test_the_code_on_the_card_repeats_the_evaluation_of_the_run(case, tmp_path, monkeypatch, capsys):
    run = trained(tmp_path, case)
    folder = made(run, tmp_path / "hub", "--film-steps", "0", "--repo", "me/hub")
    returns = evaluations(run)
    [metric] = metadata(folder)["model-index"][0]["results"][0]["metrics"]
    assert metric["value"] == f"{np.mean(returns):.2f} +/- {np.std(returns):.2f}"
    assert_the_card_repeats_its_number(folder, monkeypatch)
    assert not list(folder.rglob("*.pkl"))


def test_the_folder_holds_what_the_hub_and_people_look_for(cartpole, tmp_path, capsys):
    folder = made(cartpole, tmp_path / "there" / "hub", "--repo", "me/poles")
    assert {path.name for path in folder.iterdir()} == {
        "README.md",
        "config.yaml",
        "evaluations.csv",
        "ppo-CartPole-v1.zip",
        "progress.csv",
        "replay.mp4",
        "results.json",
    }
    assert {path.name for path in folder.parent.iterdir()} == {"hub"}
    assert imageio_ffmpeg.count_frames_and_secs(str(folder / "replay.mp4"))[0] == evaluations(cartpole)[0] + 1
    results = json.loads((folder / "results.json").read_text())
    assert (results["n_eval_episodes"], results["is_deterministic"]) == (3, True)
    assert results["mean_reward"] == pytest.approx(np.mean(evaluations(cartpole)), abs=1e-4)
    card = (folder / "README.md").read_text()
    assert "hf download me/poles --local-dir poles" in card
    assert "| policy objective | ClippedSurrogate(clip_range=0.2) |" in card
    assert "Trained for 64 environment steps" in card
    assert capsys.readouterr().out.splitlines()[-1] == f"upload it with: hf upload me/poles {folder} ."
    weights = NotesPPO.load(folder / "ppo-CartPole-v1", device="cpu").policy.state_dict()
    before = NotesPPO.load(cartpole / "model", device="cpu").policy.state_dict()
    assert all(th.equal(weights[name], before[name]) for name in before)


def test_the_best_model_so_far_goes_with_its_own_statistics(tmp_path, monkeypatch, capsys):
    file = tmp_path / "small.yaml"
    file.write_text(CASES["pendulum"].replace("env: ", "eval_every: 16, env: "))
    run = tmp_path / "run"
    assert main(["train", "--config", str(file), "--outdir", str(run)]) == 0
    returns = np.reshape(evaluations(run), (-1, 3))
    folder = made(run, tmp_path / "hub", "--best", "--film-steps", "0", "--repo", "me/hub")
    [metric] = metadata(folder)["model-index"][0]["results"][0]["metrics"]
    best = returns[returns.mean(axis=1).argmax()]
    assert metric["value"] == f"{np.mean(best):.2f} +/- {np.std(best):.2f}"
    assert (folder / "normalizer.json").read_text() == (run / "best_normalizer.json").read_text()
    assert_the_card_repeats_its_number(folder, monkeypatch)


def test_hugging_faces_own_reader_takes_the_metadata(cartpole, tmp_path):
    huggingface_hub = pytest.importorskip("huggingface_hub")
    folder = made(cartpole, tmp_path / "hub", "--film-steps", "0")
    card = huggingface_hub.ModelCard.load(folder / "README.md")  # raises for a model-index of another form
    assert card.data.library_name == "stable-baselines3"
    assert {"CartPole-v1", "reinforcement-learning", "sb3-ppo-notes"} <= set(card.data.tags)
    [result] = card.data.eval_results
    assert (result.task_type, result.dataset_type, result.metric_type) == (
        "reinforcement-learning",
        "CartPole-v1",
        "mean_reward",
    )
    assert huggingface_hub.ModelCardData(**yaml.safe_load(card.data.to_yaml())).to_dict() == card.data.to_dict()


@pytest.mark.parametrize("env", ["CartPole-v1", "ALE/Pong-v5", "package:Grid-v0"])
def test_the_zip_is_called_as_hugging_faces_package_for_sb3_calls_it(env):
    naming = pytest.importorskip("huggingface_sb3.naming_schemes")
    from sb3_ppo_notes.runs.hub.command import model_name

    config = RunConfig(name="a", env=env)
    assert f"{model_name(config)}.zip" == naming.ModelName("ppo", naming.EnvironmentName(env)).filename


def test_what_the_run_lacks_is_said(cartpole, tmp_path, capsys, monkeypatch):
    import shutil

    run = tmp_path / "run"
    shutil.copytree(cartpole, run)
    (run / "progress.csv").unlink()

    def no_renderer(*given):
        raise RuntimeError("no\nrenderer")

    monkeypatch.setattr("sb3_ppo_notes.runs.hub.command.Stage", no_renderer)
    folder = made(run, tmp_path / "hub")
    sentences = ["progress.csv, which the run does not have", "a film: RuntimeError: no renderer"]
    assert f"Not here: {'; '.join(sentences)}." in (folder / "README.md").read_text()
    assert "<video" not in (folder / "README.md").read_text()
    assert not (folder / "replay.mp4").exists()
    assert [f"note: {sentence}" for sentence in sentences] == capsys.readouterr().out.splitlines()[:2]


def test_a_run_that_was_stopped_says_how_far_it_came():
    episodes = Episodes([1.0], [1])
    text = str(Card(RunConfig(name="a", total_timesteps=5_000), "me/it", "it.zip", None, {}, 64, episodes, 0, None, ()))
    assert "Trained for 64 of 5,000 environment steps" in text


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--episodes", "0"], "episodes must be an int >= 1, got 0"),
        (["--film-steps", "-1"], "film_steps must be"),
        (["--repo", "name"], "repo must be a user or an organisation, / and a name, got 'name'"),
        (["--best"], "best must be left out for a run without best_model.zip"),
        (["--outdir", "RUN"], "outdir must be a new or an empty folder"),
    ],
)
def test_what_cannot_be_is_refused_in_one_line(options, message, cartpole, tmp_path, capsys):
    options = [str(cartpole) if option == "RUN" else option for option in options]
    outdir = [] if "--outdir" in options else ["--outdir", str(tmp_path / "hub")]
    assert main(["hub", str(cartpole), *outdir, *options]) == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "hub").exists()


def test_no_run_is_no_folder(tmp_path, capsys):
    assert main(["hub", str(tmp_path), "--outdir", str(tmp_path / "hub")]) == 2
    assert "run must be the folder of a run" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_a_folder_that_could_not_be_filled_does_not_appear(cartpole, tmp_path, monkeypatch):
    def broken(*given):
        raise OSError("the disk is full")

    monkeypatch.setattr("sb3_ppo_notes.runs.hub.command.write_text", broken)
    (tmp_path / "empty").mkdir()
    for folder in (tmp_path / "new" / "hub", tmp_path / "empty"):
        assert main(["hub", str(cartpole), "--outdir", str(folder), "--film-steps", "0"]) == 2
    assert [path.name for path in tmp_path.rglob("*")] == ["empty"]


def test_sigterm_in_the_evaluation_leaves_nothing_behind(cartpole, tmp_path, monkeypatch):
    from gymnasium.envs.classic_control import CartPoleEnv

    step = CartPoleEnv.step

    def stopped(self, action):
        signal.raise_signal(signal.SIGTERM)
        return step(self, action)

    monkeypatch.setattr(CartPoleEnv, "step", stopped)
    assert main(["hub", str(cartpole), "--outdir", str(tmp_path / "hub")]) == 143
    assert not list(tmp_path.iterdir())


def test_normalised_environments_are_not_made_without_what_was_learned(tmp_path):
    run = trained(tmp_path, "pendulum")
    with pytest.raises(ValueError, match="normalizer must be the file of what .* normalises by, got None"):
        trained_environments(run / "config.yaml")


@pytest.mark.parametrize("line", ["env: strangers:CartPole-v1", "env_wrapper: [strangers.Wrapper]"])
def test_nothing_that_a_stranger_has_put_into_the_folder_is_run(line, cartpole, tmp_path, monkeypatch):
    folder = made(cartpole, tmp_path / "hub", "--film-steps", "0", "--repo", "me/hub")
    (folder / "strangers.py").write_text(f"open({str(tmp_path / 'run')!r}, 'w')")
    config = yaml.safe_load((folder / "config.yaml").read_text()) | yaml.safe_load(line)
    (folder / "config.yaml").write_text(yaml.safe_dump(config))
    monkeypatch.chdir(folder.parent)
    with pytest.raises((ValueError, ImportError), match="strangers"):
        exec(python_block(folder), {})
    assert not (tmp_path / "run").exists()


@pytest.mark.slow
def test_the_commands_in_a_shell(cartpole, tmp_path):
    """As a new user: the folder is made, moved elsewhere, and its code run beside it in a fresh process."""
    folder = tmp_path / "hub"
    result = run_command(
        [sys.executable, "-m", "sb3_ppo_notes", "hub", str(cartpole), "--outdir", str(folder)], tmp_path
    )
    assert result.returncode == 0, result.stderr
    (tmp_path / "elsewhere").mkdir()
    moved = folder.rename(tmp_path / "elsewhere" / "ppo-CartPole-v1")
    (moved.parent / "play.py").write_text(python_block(moved))
    result = run_command([sys.executable, "play.py"], moved.parent)
    assert result.returncode == 0, result.stderr
    assert result.stdout.strip() in (moved / "README.md").read_text()
