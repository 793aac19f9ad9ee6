"""The report: complete, honest about what is not known yet, without passwords or pickles, and whole or not at all."""

import csv
import io
import json
import os
import re

import pytest
import yaml

from tests.tuning.records import record
from tuning.report import study_json, trials_csv, write_report
from tuning.report.checklist import checklist
from tuning.report.data import TestedSetup, TrialRecord, plain, without_passwords
from tuning.report.numbers import arm_numbers, importances, optimism_of, outcomes, ranking
from tuning.report.page import markdown, page
from tuning.report.sections import Section, number, sections_of

PICTURES = {"test_seeds", "test_learning_curves", "history", "learning_curves", "importances", "parallel_coordinates"}
TEXTS = {"report.html", "report.md", "CHECKLIST.md", "trials.csv", "study.json"}


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    folder = tmp_path_factory.mktemp("report") / "deep" / "inside"
    return folder, write_report(record(), folder)


def test_everything_is_written_and_nothing_else(written):
    folder, paths = written
    expected = TEXTS | {"best.yml"} | {f"{name}.png" for name in PICTURES}
    assert {path.name for path in paths} == expected == {path.name for path in folder.iterdir()}


def test_no_file_is_a_pickle_or_holds_the_password(written):
    folder, paths = written
    for path in paths:
        content = path.read_bytes()
        assert b"secret" not in content
        assert not content.startswith(b"\x80")
        assert path.suffix in (".html", ".md", ".csv", ".json", ".yml", ".png")
    assert "postgresql://tuner:***@db.example.org/studies" in (folder / "study.json").read_text()


def test_the_page_needs_no_network(written):
    text = (written[0] / "report.html").read_text()
    assert text.count("data:image/png;base64,") == len(PICTURES)
    assert not re.findall(r"(?:src|href)=\"(?!data:|#)", text)
    assert "<script" not in text
    assert "@import" not in text
    assert "img-src data:" in text  # the page forbids its reader's browser everything else


@pytest.mark.parametrize("name", ["report.html", "report.md"])
def test_the_report_says_it_all(written, name):
    text = (written[0] / name).read_text()
    for words in (
        "scores 463.2 on 10 seeds that nobody tuned on, against SB3 defaults 313.4 and rl_zoo3 451.0",
        "Tuning score minus test score: 353.4 - 463.2 = -109.9",
        "Top 10",
        "38 (winner)",
        "PED-ANOVA",
        "of 2,000,000; 62 min",
        "RuntimeError: no such door",
        "NonFiniteError",
        "outside one of 0.1, 0.2",
        "[100, 101, 102, 103, 104, 105, 106, 107, 108, 109]",
        "tpe, seed 0",
    ):
        assert words in text, words


def test_markdown_pictures_lie_beside_it(written):
    folder, _ = written
    names = re.findall(r"!\[.*?\]\((.*?)\)", (folder / "report.md").read_text())
    assert len(names) == len(PICTURES)
    assert all((folder / name).read_bytes().startswith(b"\x89PNG") for name in names)


def test_the_csv_has_a_row_a_trial_and_its_evaluations():
    study = record()
    rows = list(csv.DictReader(io.StringIO(trials_csv(study))))
    assert [int(row["number"]) for row in rows] == list(range(40))
    winner = rows[study.winner]
    assert winner["is_winner"] == "1"
    assert sum(row["is_winner"] == "1" for row in rows) == 1
    assert float(winner["learning_rate"]) == study.trials[study.winner].configuration["learning_rate"]
    assert float(winner["return_at_50000"]) == study.trials[study.winner].evaluations[50_000]
    assert float(winner["finalist_mean"]) == pytest.approx(study.tuning_score)
    assert float(winner["seed_4"]) == study.trials[study.winner].finalist_scores[4]
    assert rows[3]["error"] == "RuntimeError: no such door"


def test_the_json_is_strict_and_holds_the_record():
    study = record()
    content = json.loads(study_json(study), parse_constant=lambda word: pytest.fail(word))
    assert content["optimism"] == pytest.approx(optimism_of(study))
    assert content["winner"] == content["ranking"][0] == study.winner
    assert content["trials"][7]["configuration"] == study.trials[7].configuration
    assert sum(content["importances"].values()) == pytest.approx(1)
    assert plain({1: float("nan"), "a": (float("inf"), 2)}) == {"1": None, "a": [None, 2]}


def test_optimism_is_tuning_score_minus_the_mean_over_test_seeds():
    arms = (TestedSetup("tuned", {100: 10.0, 101: 20.0}),)
    assert optimism_of(record(tested=False, tuning_score=18.0)) is None
    study = record(tuning_score=18.0)
    assert optimism_of(type(study)(**{**vars(study), "tested": arms})) == 3.0


def test_an_arm_is_told_with_its_interval():
    numbers = arm_numbers(TestedSetup("x", {3: 1.0, 1: 2.0, 2: 3.0, 4: 100.0}))
    assert numbers.scores == (2.0, 3.0, 1.0, 100.0)
    assert (numbers.mean, numbers.iqm) == (26.5, 2.5)
    assert 1.0 <= numbers.low < numbers.high <= 100.0
    assert arm_numbers(TestedSetup("x", {1: 2.0})).low != arm_numbers(TestedSetup("x", {1: 2.0})).low  # NaN


def test_finalists_come_first_by_fresh_seeds_and_diverged_trials_never():
    study = record()
    order = [trial.number for trial in ranking(study)]
    assert order[0] == study.winner
    assert 5 not in order
    assert [len(study.trials[number].finalist_scores) for number in order[:6]] == [4, 3, 2, 1, 1, 0]
    assert outcomes(study) == {"complete": 25, "pruned": 13, "failed": 1, "diverged": 1}


def test_the_importances_find_the_parameter_that_matters():
    shares = importances(record())
    assert next(iter(shares)) == "learning_rate"
    assert shares["learning_rate"] > 0.5
    assert importances(record(3, finalists=False, tested=False)) == {}


def test_what_is_not_known_yet_is_said():
    headline = sections_of(record(tested=False), [])[0].paragraphs
    assert "has not been tested yet" in " ".join(headline)
    headline = sections_of(record(finalists=False, tested=False), [])[0].paragraphs
    assert "one lucky seed" in " ".join(headline)


def test_flaw_9_a_study_without_a_completed_trial_is_reported_all_the_same(tmp_path):
    study = record(finalists=False, tested=False)
    study = record(finalists=False, tested=False, trials=tuple(t for t in study.trials if t.state != "complete"))
    paths = {path.name for path in write_report(study, tmp_path)}
    assert paths >= TEXTS
    assert "best.yml" not in paths
    assert "No trial has been completed" in (tmp_path / "report.md").read_text()
    assert "RuntimeError: no such door" in (tmp_path / "report.md").read_text()


def test_a_study_without_any_trial_is_reported(tmp_path):
    write_report(record(finalists=False, tested=False, trials=(), env_steps=0), tmp_path)
    assert "Trials: none yet" in (tmp_path / "report.md").read_text()


def test_the_checklist_is_filled_in_and_owns_up():
    text = checklist(record())
    assert len(re.findall(r"^\| \d+ \|", text, flags=re.M)) >= 14
    for words in (
        "yes: disjoint seeds",
        "[0, 1, 2, 3, 4]",
        "tuning minus test: -109.9",
        "no: SB3's defaults",
        "1 failed, 1 diverged, 13 pruned",
    ):
        assert words in text
    protocol = record().protocol | {"test_seeds": [4, 100]}
    assert "no: seeds [4] were used for both" in checklist(record(protocol=protocol))
    assert "not yet: the test has not run" in checklist(record(tested=False))


def test_the_best_file_in_the_report_is_the_exported_one(written):
    from tuning.report.export import best_yaml

    text = (written[0] / "best.yml").read_text()
    assert text == best_yaml(record())
    assert yaml.safe_load(text)["CartPole-v1"]["n_envs"] == 8


def test_what_users_wrote_is_escaped():
    sections = [Section("<b>", ("<script>alert(1)</script>",), ("a|b",), (("<i>|",),), code="<u>")]
    html = page("<t>", sections, {})
    assert not re.findall(r"<(?:b|i|u|t|script)>", html)
    assert "\\|" in markdown("t", sections)


def test_a_report_on_a_full_disk_leaves_the_old_one_and_no_rubbish(tmp_path, monkeypatch):
    write_report(record(), tmp_path)
    before = {file.name: file.read_bytes() for file in tmp_path.iterdir()}

    def full(descriptor):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space left"):
        write_report(record(), tmp_path)
    assert {file.name: file.read_bytes() for file in tmp_path.iterdir()} == before


def test_passwords_are_hidden_wherever_they_stand():
    hidden = without_passwords({"a": ["mysql+pymysql://u:p@ss@h:3306/db", ("redis://:pw@h",)], "b": "http://h:80/x@y"})
    assert hidden == {"a": ["mysql+pymysql://u:***@h:3306/db", ("redis://:***@h",)], "b": "http://h:80/x@y"}
    trial = TrialRecord(1, "failed", error="could not connect to postgresql://u:pw@h/db")
    assert without_passwords(trial).error == "could not connect to postgresql://u:***@h/db"


def test_numbers_are_short():
    assert [number(value) for value in (None, float("nan"), 1234.56, 0.000123456, -3.0)] == [
        "-",
        "-",
        "1,234.6",
        "0.0001235",
        "-3",
    ]
