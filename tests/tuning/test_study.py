"""The shell's verbs: what they refuse, what they write, how they end."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import optuna
import pytest
import yaml
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend
from optuna.trial import TrialState

from tests.tuning.worker_objectives import cheap, made_settings
from tuning.commands.compare import comparison_table, optimism_line, score_matrix
from tuning.report import data as report_data
from tuning.storage import Address, open_storage
from tuning.storage.database import Patience
from tuning.study import main
from tuning.worker.identity import check_identity, create_or_join, identity_of
from tuning.worker.signals import StopSignals
from tuning.worker.worker import Worker

ROOT = Path(__file__).resolve().parent.parent.parent
RUN = ["run", "--env", "CartPole-v1", "--study", "s", "--budget", "100000"]


@pytest.fixture(autouse=True)
def elsewhere(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    # Nobody pulls the plug during these tests, and waiting for the disk is most of what they would do.
    monkeypatch.setattr("tuning.storage.journal.os.fsync", lambda descriptor: None)


def refused(capsys, arguments):
    """The one line that is said; nothing may have been written."""
    before = sorted(Path.cwd().rglob("*"))
    assert main(arguments) == 2
    assert sorted(Path.cwd().rglob("*")) == before
    lines = capsys.readouterr().err.strip().splitlines()
    assert len(lines) == 1, lines
    assert lines[0].startswith("error: ")
    return lines[0].removeprefix("error: ")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--storage", "study.txt"], r"storage must be a file that ends in \.log or \.journal"),
        (["--storage", "oracle://u:hunter2@h/d"], "storage must be"),
        (["--storage", "postgresql://u:hunter2@127.0.0.1:9/d"], "storage must be a database that can be opened"),
        (["--budget", "0"], "budget must be >= 1, got 0"),
        (["--budget", "10"], "budget must be >= "),
        (["--timeout", "0"], "timeout must be > 0 seconds, got 0"),
        (["--timeout", "-1"], "timeout must be > 0"),
        (["--max-trials", "0"], "max_trials must be >= 1, got 0"),
        (["--workers", "0"], "workers must be >= 1, got 0"),
        (["--n-timesteps", "0"], "n_timesteps must be >= 1, got 0"),
        (["--n-envs", "-1"], "n_envs must be >= 1, got -1"),
        (["--finalist-seeds", "150"], r"test seeds \[100, .*\] also used for tuning"),
        (["--test-seeds", "1"], "test_seeds must be >= 2, got 1"),
        (["--seed", "-1"], "seed must be in"),
        (["--patience", "-1"], "patience must be >= 0"),
        (["--sampler", "annealing"], "sampler must be one of tpe, random, gp, cma, qmc, got 'annealing'"),
        (["--env", "CartPool-v1"], "env must be the id of a registered environment, got 'CartPool-v1'.*CartPole"),
        (["--study", "a/b"], "study must be a name"),
        (["--study", "a.finalists"], "study must be a name"),
        (["--space", "none.yaml"], "none.yaml|space"),
        (["--vary", "rule.nothing"], "vary|rule.nothing"),
    ],
)
def test_bad_options_are_one_line_and_nothing_is_written(capsys, options, message):
    line = refused(capsys, [*RUN, *options])
    assert re.search(message, line), line
    assert "hunter2" not in line


def test_a_study_without_any_limit_is_refused(capsys):
    line = refused(capsys, ["run", "--env", "CartPole-v1"])
    assert line.startswith("budget must be given, or max_trials, or timeout")


def test_a_sampler_whose_package_is_missing_is_refused(capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "cmaes", None)
    assert "sampler 'cma' needs cmaes: pip install cmaes" in refused(capsys, [*RUN, "--sampler", "cma"])


def test_an_outdir_that_is_a_file_is_refused(capsys):
    Path("taken").touch()
    line = refused(capsys, [*RUN, "--outdir", "taken"])
    assert line.startswith("outdir must be a folder to write to, got taken")


def test_a_warm_start_outside_the_space_is_refused(capsys):
    Path("start.yaml").write_text(yaml.safe_dump({"CartPole-v1": {"learning_rate": 5.0}}))
    line = refused(capsys, [*RUN, "--warm-start", "start.yaml"])
    assert "learning_rate" in line
    assert "5.0" in line
    assert "outside" in line


@pytest.mark.parametrize("verb", ["status", "report", "export", "compare"])
def test_a_study_that_is_not_there_is_refused(capsys, verb):
    assert refused(capsys, [verb, "--study", "s"]).startswith("storage must be a file that exists")
    assert refused(capsys, [verb]).startswith("study must be given: --study NAME")


# A study that is there ----------------------------------------------------------------------------------------------


def opened(settings):
    return open_storage(Address(settings.storage), settings.heartbeat, Patience(1.0))


def worked(settings, stages=("search", "finalists", "test")):
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    create_or_join(settings, opened(settings), [])
    Worker(settings, StopSignals()).work(stages)


def place(tmp_path):
    return ["--study", "s", "--storage", str(tmp_path / "s.journal"), "--outdir", str(tmp_path / "out")]


def test_a_wrong_name_names_the_right_ones(tmp_path, capsys):
    worked(made_settings(tmp_path))
    for verb in ("status", "report", "export", "compare"):
        line = refused(capsys, [verb, *place(tmp_path), "--study", "t"])
        assert line == "study must be one of s, got 't'"


def test_a_study_without_a_completed_trial_is_told_cleanly(tmp_path, capsys):
    settings = made_settings(tmp_path)
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    study = create_or_join(settings, opened(settings), [])
    for _ in range(5):
        study.tell(study.ask(), state=TrialState.FAIL)
    line = refused(capsys, ["export", *place(tmp_path)])
    assert line.startswith("study 's' has no completed trial (5 failed)")
    assert "no winner yet" in refused(capsys, ["compare", *place(tmp_path)])
    assert main(["status", *place(tmp_path)]) == 0
    assert main(["report", *place(tmp_path)]) == 0
    assert (tmp_path / "out" / "report.md").exists()


def test_status_report_and_export_of_a_finished_study(tmp_path, capsys):
    settings = made_settings(tmp_path)
    worked(settings)
    assert main(["status", *place(tmp_path)]) == 0
    shown = capsys.readouterr().out
    assert re.search(r"best so far\s*│\s*1\d\d\.\d", shown), shown
    assert re.search(r"stale\s*│\s*0", shown)
    assert main(["report", *place(tmp_path)]) == 0
    assert main(["export", *place(tmp_path)]) == 0
    written = {path.name for path in (tmp_path / "out").iterdir()}
    assert {"trials.csv", "study.json", "report.md", "report.html", "CHECKLIST.md", "best.yml"} <= written
    best = yaml.safe_load((tmp_path / "out" / "best.yml").read_text())
    assert best["CartPole-v1"]["n_timesteps"] == 1000


def test_the_storage_is_one_for_optunas_own_tools(tmp_path):
    worked(made_settings(tmp_path))
    storage = JournalStorage(JournalFileBackend(str(tmp_path / "s.journal")))
    assert {study.study_name for study in storage.get_all_studies()} == {"s", "s.finalists", "s.test"}
    study = optuna.load_study(study_name="s", storage=storage)
    assert set(study.best_params) == {"learning_rate"}
    assert optuna.importance.get_param_importances(study)


def test_compare_runs_further_seeds_and_shows_intervals(tmp_path, capsys, monkeypatch):
    settings = made_settings(tmp_path)
    worked(settings)

    def here(settings, workers, show, stages):
        Worker(replace(settings, objective=cheap), StopSignals()).work(stages)
        return 0

    monkeypatch.setattr("tuning.commands.verbs.run_workers", here)
    assert main(["compare", *place(tmp_path), "--test-seeds", "5"]) == 0
    shown = capsys.readouterr().out
    assert re.search(r"tuned\s*│\s*5\s*│", shown), shown
    assert re.search(r"SB3 defaults\s*│\s*5\s*│", shown)
    assert "tuning score" in shown
    assert "minus test score" in shown


# Identity -------------------------------------------------------------------------------------------------------------


def test_a_study_is_joined_by_who_asks_for_the_same(tmp_path):
    settings = made_settings(tmp_path)
    one = create_or_join(settings, opened(settings), [])
    two = create_or_join(made_settings(tmp_path, budget=50_000, heartbeat=5), opened(settings), [])
    assert one._study_id == two._study_id
    assert two.user_attrs["budget"] == 50_000  # a budget may grow


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (dict(env_id="Acrobot-v1"), r"another environment \(\"CartPole-v1\", now \"Acrobot-v1\"\)"),
        (dict(algo="notes_a2c"), "another algorithm"),
        (dict(total_timesteps=2000), r"another length of a trial \(1000, now 2000\)"),
        (dict(base={"n_envs": 2}), r"another base \(key: n_envs: 1, now 2"),
        (dict(sampler="random"), "another sampler"),
        (dict(seed=3), "another seed"),
        (dict(n_eval_episodes=5), "another n_eval_episodes"),
    ],
)
def test_going_on_with_another_study_is_refused_and_the_difference_named(tmp_path, change, message):
    settings = made_settings(tmp_path)
    create_or_join(settings, opened(settings), [])
    before = (tmp_path / "s.journal").read_bytes()
    changed = made_settings(tmp_path, **change)
    with pytest.raises(ValueError, match="^study 's' was created with " + message):
        create_or_join(changed, opened(settings), [])
    assert (tmp_path / "s.journal").read_bytes() == before
    study = create_or_join(changed, opened(settings), [], allow_changed=True)
    assert study.user_attrs["identity"] == identity_of(changed)


def test_a_changed_space_and_protocol_are_refused_by_their_key(tmp_path):
    from tuning.space import Dimension, Space

    settings = made_settings(tmp_path)
    create_or_join(settings, opened(settings), [])
    wider = Space("notes_ppo", (Dimension("learning_rate", "float", 1e-6, 1e-1, log=True),))
    with pytest.raises(ValueError, match=r"created with another search space \(key: learning_rate"):
        create_or_join(replace(settings, space=wider), opened(settings), [])
    more = Space("notes_ppo", (*settings.space.dimensions, Dimension("ent_coef", "float", 1e-8, 0.1, log=True)))
    with pytest.raises(ValueError, match=r"created with another search space \(key: ent_coef: none, now"):
        create_or_join(replace(settings, space=more), opened(settings), [])
    protocol = replace(settings.protocol, test_seeds=(100, 101, 109))
    with pytest.raises(ValueError, match=r"created with another protocol \(key: test_seeds: \[100, 101, 102\], now"):
        create_or_join(replace(settings, protocol=protocol), opened(settings), [])


def test_an_unchanged_identity_passes_through_json():
    check_identity("s", json.loads(json.dumps({"a": [1, 2], "b": {"c": None}})), {"a": [1, 2], "b": {"c": None}})


# Comparison -----------------------------------------------------------------------------------------------------------


def record(**arms):
    tested = tuple(
        report_data.TestedSetup(name.replace("_", " "), dict(enumerate(scores))) for name, scores in arms.items()
    )
    return report_data.StudyRecord("s", "E-v0", "notes_ppo", 10, None, 0, 0.0, {}, {}, {}, {}, "", (), 3, 12.0, tested)


def test_scores_that_cannot_be_compared_are_refused():
    with pytest.raises(
        ValueError, match=r"^scores must be a finite \[runs, tasks\] array of at least 2 runs, 'B' has 1"
    ):
        score_matrix("scores", report_data.TestedSetup("B", {0: 1.0}))
    with pytest.raises(ValueError, match=r"^scores must be a finite .* 'B' has \[nan\]"):
        score_matrix("scores", report_data.TestedSetup("B", {0: 1.0, 1: float("nan")}))
    with pytest.raises(ValueError, match="has no test to compare"):
        comparison_table(record(tuned=[1.0, 2.0]))


def test_the_table_says_by_how_much_the_winner_is_better():
    rng = np.random.default_rng(0)
    made = record(tuned=list(10 + rng.normal(size=10)), SB3_defaults=list(4 + rng.normal(size=10)))
    columns = [list(column.cells) for column in comparison_table(made).columns]
    assert columns[0] == ["tuned", "SB3 defaults"]
    assert float(columns[4][1]) == pytest.approx(6.0, abs=1.0)
    low, high = map(float, columns[5][1].strip("[]").split(","))
    assert low < float(columns[4][1]) < high
    assert columns[6][1] == "1.00"
    assert optimism_line(record(tuned=[9.0, 10.0])) == "tuning score 12.0 minus test score 9.5: +2.5"


# As a process ---------------------------------------------------------------------------------------------------------


def shell(arguments, **options):
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    return subprocess.Popen(
        [sys.executable, str(ROOT / "tuning" / "study.py"), *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=environment,
        **options,
    )


@pytest.mark.slow
def test_the_command_works_as_the_documents_write_it():
    process = subprocess.run(
        [sys.executable, "tuning/study.py", "status", "--study", "none"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        env={key: value for key, value in os.environ.items() if key != "PYTHONPATH"},
    )
    assert process.returncode == 2
    assert process.stderr.startswith("error: storage must be a file that exists")


def waited_for(process, check, seconds=240):
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if check():
            return
        assert process.poll() is None, process.communicate()
        time.sleep(0.2)
    raise TimeoutError


@pytest.mark.slow
def test_signals_end_a_study_cleanly_and_the_same_command_goes_on(tmp_path):
    import psutil

    journal = tmp_path / "s.journal"
    arguments = ["run", "--env", "CartPole-v1", *place(tmp_path), "--budget", "36000", "--n-timesteps", "1500"]
    arguments += ["--finalists", "2", "--finalist-seeds", "1", "--test-seeds", "2", "--n-eval-episodes", "2"]

    def trials():
        if not journal.exists():
            return []
        try:
            return optuna.load_study(study_name="s", storage=JournalStorage(JournalFileBackend(str(journal)))).trials
        except KeyError:
            return []

    done = 0
    for number, code in ((signal.SIGINT, 130), (signal.SIGTERM, 143)):
        process = shell(arguments)
        waited_for(process, lambda: sum(t.state.is_finished() for t in trials()) > done)  # noqa: B023
        children = psutil.Process(process.pid).children(recursive=True)
        process.send_signal(number)
        _, errors = process.communicate(timeout=120)
        assert process.returncode == code, errors
        assert "the same command goes on from here" in errors
        assert "Traceback" not in errors
        _, alive = psutil.wait_procs(children, timeout=30)  # Python's own helper process takes a moment
        assert not alive
        assert not [trial for trial in trials() if trial.state is TrialState.RUNNING]
        done = sum(trial.state.is_finished() for trial in trials())
    process = shell(arguments)
    output, errors = process.communicate(timeout=280)
    assert process.returncode == 0, errors
    assert "tuning score" in output
    preempted = [trial for trial in trials() if trial.user_attrs.get("reason") == "preempted"]
    retried = {trial.user_attrs.get("retry_of") for trial in trials()}
    assert {trial.number for trial in preempted} <= retried
    assert (tmp_path / "out" / "best.yml").exists()
    assert sum(trial.user_attrs.get("env_steps", 0) for trial in trials()) <= 36_000
