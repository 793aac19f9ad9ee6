"""``train`` and ``compare --recipes``."""

import json

import pytest

from sb3_ppo_notes import NotesA2C, NotesPPO
from sb3_ppo_notes.__main__ import main


@pytest.mark.parametrize(
    ("options", "algorithm", "file"),
    [
        (["--algo", "ppo", "--n-envs", "2", "--total-timesteps", "4096"], NotesPPO, None),
        (["--recipe", "tsukurinagara"], NotesA2C, None),
        (["--recipe", "skrl"], NotesPPO, None),
        (["--recipe", "batch_ppo", "--env", "Pendulum-v1", "--n-envs", "3"], NotesPPO, "normalizer"),
    ],
)
def test_train_writes_a_model(options, algorithm, file, tmp_path, capsys):
    assert (
        main(["train", "--total-timesteps", "600", "--n-eval-episodes", "1", "--outdir", str(tmp_path), *options]) == 0
    )
    printed = capsys.readouterr().out
    assert "return" in printed
    assert algorithm.load(tmp_path / "model").num_timesteps >= 600
    assert file is None or (tmp_path / file).exists()


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


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (["train", "--recipe", "skrll"], "error: recipe must be one of 'skrl', 'batch_ppo'"),
        (["train", "--total-timesteps", "0"], "error: total_timesteps must be an int >= 1, got 0"),
        (["train", "--env", "CartPoel-v1"], "error: env must be the id"),
        (["compare", "--recipes", "skrl,foo"], "error: recipes must be one of 'skrl'"),
        (["compare", "--recipes", ","], "error: recipes must be names separated by commas"),
    ],
)
def test_bad_input(arguments, line, tmp_path, capsys):
    assert main([*arguments, "--outdir", str(tmp_path / "out")]) == 2
    error = capsys.readouterr().err
    assert error.startswith(line)
    assert error.count("\n") == 1
    assert not (tmp_path / "out").exists()
