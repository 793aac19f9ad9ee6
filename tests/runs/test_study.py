"""``python -m sb3_ppo_notes study``: tuning's commands where a checkout is at hand."""

import os
import subprocess
import sys

import pytest

import tuning.study
from sb3_ppo_notes import __main__
from sb3_ppo_notes.__main__ import main
from sb3_ppo_notes.runs import study


@pytest.mark.parametrize("words", [["status", "--study", "none"], ["run", "--help"], []])
def test_every_word_is_tunings(words, monkeypatch):
    seen = []
    monkeypatch.setattr(tuning.study, "main", lambda words, prog: seen.append(list(words)) or 3)
    assert main(["study", *words]) == 3
    assert seen == [words]


def test_words_of_the_process_are_taken_if_none_are_given(monkeypatch):
    monkeypatch.setattr(sys, "argv", ["prog", "study", "status"])
    assert study.study_words(None) == ["status"]
    assert study.study_words(["train", "study"]) is None
    monkeypatch.setattr(__main__.Study, "__call__", lambda self: len(self.words))
    assert main() == 1


def test_without_a_checkout_one_line_says_what_is_missing(monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(
        study.sb3_ppo_notes, "__file__", str(tmp_path / "site-packages" / "sb3_ppo_notes" / "__init__.py")
    )
    monkeypatch.chdir(tmp_path)
    assert main(["study", "run"]) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: study needs tuning/, which is no part of the installed package: ")
    assert error.count("\n") == 1
    # An installed package, and the command given in a checkout.
    (tmp_path / "tuning").mkdir()
    (tmp_path / "tuning" / "study.py").touch()
    assert study._checkout() == tmp_path


def test_without_optuna_one_line_says_how_to_get_it(monkeypatch, capsys):
    for name in [name for name in sys.modules if name.partition(".")[0] == "tuning"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "optuna", None)
    assert main(["study", "status"]) == 2
    assert capsys.readouterr().err.startswith("error: study needs optuna, which is not installed: pip install ")


def test_the_command_finds_the_checkout_from_elsewhere(tmp_path):
    command = [sys.executable, "-m", "sb3_ppo_notes", "study", "status", "--study", "none"]
    root = os.path.dirname(os.path.dirname(study.sb3_ppo_notes.__file__))
    environment = os.environ | {"PYTHONPATH": root}
    result = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    assert (result.returncode, result.stdout) == (2, "")
    assert result.stderr.startswith("error: storage must be a file that exists")
