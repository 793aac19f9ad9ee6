"""Many workers, one real PostgreSQL, and what may happen to both; the same with a journal."""

import os
import shutil
import tempfile
import threading
import time
from pathlib import Path

import optuna
import pytest
from optuna.trial import TrialState

from tests.tuning import worker_objectives as objectives
from tests.tuning.worker_objectives import made_settings
from tuning.report.record import read_record, stages_of
from tuning.storage import Address, open_storage
from tuning.storage.database import Patience, close_databases
from tuning.worker.identity import create_or_join
from tuning.worker.processes import run_workers
from tuning.worker.queues import never_ran

pytestmark = pytest.mark.slow

SECRET = "hunter2-and-more"
BUDGET = 7_000
OUTAGE_SECONDS = 30.0


class Postgres:
    """A server of its own, as the user that pgserver makes for root."""

    def __init__(self, folder: Path):
        import pgserver

        self.server = pgserver.get_server(folder, cleanup_mode="delete")
        self.url = f"postgresql://postgres:{SECRET}@/postgres?host={folder}"

    def stop(self) -> None:
        import pgserver

        command = ["-w", "-m", "fast", "stop"]
        pgserver.pg_ctl(command, pgdata=self.server.pgdata, user=self.server.system_user)

    def start(self) -> None:
        self.server.ensure_postgres_running()


@pytest.fixture
def postgres():
    # Its socket must lie where the server's user can go, which pytest's own folders forbid.
    folder = Path(tempfile.mkdtemp(prefix="tuning-pg-"))
    os.environ.setdefault("XDG_RUNTIME_DIR", str(folder))
    try:
        started = Postgres(folder / "data")
    except (ImportError, OSError, RuntimeError, AssertionError) as error:
        shutil.rmtree(folder, ignore_errors=True)
        pytest.skip(f"no PostgreSQL can be started here: {error}")
    yield started
    started.server.cleanup()
    shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture(autouse=True)
def all_closed():
    yield
    close_databases()


def opened(settings):
    return open_storage(Address(settings.storage), settings.heartbeat, Patience(60.0))


def make(settings):
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    return create_or_join(settings, opened(settings), [])


def checked(settings, budget):
    """What must hold of every study, whatever happened to its workers."""
    storage = opened(settings)
    study = optuna.load_study(study_name=settings.study, storage=storage)
    stages, record = stages_of(study, storage), read_record(study, storage, "here")
    every = [*stages.search, *stages.finalists, *stages.test]
    # Every trial is accounted for: none runs or waits, and what failed was run again.
    assert {trial.state for trial in every} <= {TrialState.COMPLETE, TrialState.PRUNED, TrialState.FAIL}
    for trials in (stages.search, stages.finalists, stages.test):
        retried = {trial.user_attrs.get("retry_of") for trial in trials}
        assert {trial.number for trial in trials if trial.state is TrialState.FAIL} <= retried
    assert record.env_steps <= budget
    scores = {trial.number: trial.value for trial in stages.search if trial.state is TrialState.COMPLETE}
    assert study.best_trial.number == max(scores, key=scores.get)
    finalists = [trial for trial in record.trials if trial.finalist_scores]
    assert record.winner in [trial.number for trial in finalists]
    assert max(scores, key=scores.get) in [trial.number for trial in finalists]
    assert [len(arm.scores) for arm in record.tested] == [3, 3]
    return study, stages


def retry_of_the_killed(stages):
    """The trial whose process was killed, and the one that went on with it."""
    retries = [trial for trial in stages.search if trial.user_attrs.get("deaths")]
    assert len(retries) == 1
    (retry,) = retries
    killed = next(trial for trial in stages.search if trial.number == retry.user_attrs["retry_of"])
    assert killed.state is TrialState.FAIL
    assert retry.params == killed.params
    return killed, retry


def check_went_on(killed, retry):
    # It was killed at the sixth of ten marks, and went on from a checkpoint not long before.
    assert retry.user_attrs["resumed_at"] >= 50
    if retry.state is TrialState.COMPLETE:
        assert retry.user_attrs["env_steps"] == 500 - retry.user_attrs["resumed_at"]
        assert list(retry.intermediate_values) == list(range(50, 501, 50))
    early = [step for step in retry.intermediate_values if step <= retry.user_attrs["resumed_at"]]
    assert [retry.intermediate_values[s] for s in early] == [killed.intermediate_values[s] for s in early]


def killed_settings(tmp_path, monkeypatch, **changes):
    monkeypatch.setenv("KILL_FLAG", str(tmp_path / "killed"))
    few = dict(total_timesteps=500, budget=BUDGET, n_eval_episodes=1, sampler="random")
    return made_settings(tmp_path, objective=objectives.killed_once, checkpoint_seconds=0.1, **{**few, **changes})


def test_four_workers_one_killed_and_the_database_restarted(tmp_path, monkeypatch, postgres, capfd):
    # As with the heartbeat that a user gets, 60 s, nobody is taken for dead because the database was away.
    settings = killed_settings(tmp_path, monkeypatch, storage=postgres.url, heartbeat=20)
    study = make(settings)
    restarted = []

    def restart_once():
        if restarted:
            return
        done = [trial for trial in study.get_trials(deepcopy=False) if trial.state.is_finished()]
        if len(done) >= 4:
            restarted.append(1)
            postgres.stop()
            time.sleep(OUTAGE_SECONDS)
            postgres.start()

    assert run_workers(settings, 4, restart_once) == 0
    assert restarted
    assert (tmp_path / "killed").exists()
    study, stages = checked(settings, BUDGET)
    check_went_on(*retry_of_the_killed(stages))
    assert len({trial.user_attrs["worker"]["pid"] for trial in stages.search}) >= 4
    # No password anywhere: in what was printed, stored or written.
    assert SECRET not in capfd.readouterr().err
    tables = postgres.server.psql(
        "select value_json from trial_user_attributes; select value_json from study_user_attributes;"
    )
    assert SECRET not in tables
    assert "learning_rate" in tables
    for path in tmp_path.rglob("*"):
        assert not path.is_file() or SECRET.encode() not in path.read_bytes()
    # As any other tool of Optuna's reads it.
    plain = optuna.storages.RDBStorage(postgres.url.replace("postgresql:", "postgresql+psycopg:"))
    assert optuna.load_study(study_name="s", storage=plain).best_value == study.best_value
    plain.remove_session()  # a connection that a session still holds is none of the pool's
    plain.engine.dispose()


def test_a_journal_with_a_killed_worker_a_torn_line_and_two_studies(tmp_path, monkeypatch):
    settings = killed_settings(tmp_path, monkeypatch)
    journal = Path(settings.storage)
    make(settings)
    make(made_settings(tmp_path, study="other"))
    torn = []

    def tear_once():
        # What a process leaves behind that dies in the middle of a line; the others are still at work.
        if torn or not (tmp_path / "killed").exists():
            return
        torn.append(1)
        with journal.open("ab") as file:
            file.write(b'{"op_code":8,"worker_id":"dead","trial_id":0,"user_attr":{"x')

    assert run_workers(settings, 2, tear_once) == 0
    assert torn
    _, stages = checked(settings, BUDGET)
    check_went_on(*retry_of_the_killed(stages))
    assert len(list(tmp_path.glob("s.journal.torn-*"))) == 1
    assert run_workers(made_settings(tmp_path, study="other"), 2, lambda: None) == 0
    checked(made_settings(tmp_path, study="other"), 20_000)
    checked(settings, BUDGET)


def test_workers_that_start_at_once_make_one_study(tmp_path, postgres):
    settings = made_settings(tmp_path, storage=postgres.url)
    errors, studies = [], []

    def make_it():
        try:
            studies.append(make(settings))
        except Exception as error:
            errors.append(error)

    threads = [threading.Thread(target=make_it) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not errors
    assert len({study._study_id for study in studies}) == 1


def test_twice_as_many_workers_as_the_budget_has_room_for(tmp_path):
    settings = made_settings(tmp_path, objective=objectives.slow, budget=7_000)
    make(settings)
    assert run_workers(settings, 4, lambda: None) == 0
    study, _ = checked(settings, 7_000)
    # Those for whom no room was left never ran.
    assert all(trial.user_attrs.get("env_steps", 0) == 0 for trial in study.trials if never_ran(trial))
