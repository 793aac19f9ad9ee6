"""Where studies are kept: what is understood, what is hidden, what is repaired."""

import json
import threading

import optuna
import pytest
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend
from optuna.trial import TrialState
from sqlalchemy.exc import IntegrityError, OperationalError, PendingRollbackError, ProgrammingError

from tuning.storage import Address, open_storage
from tuning.storage.database import Patience, PatientDatabase, close_databases, is_away, stale_callback_name
from tuning.storage.journal import RepairingBackend, journal_lock, repair
from tuning.worker.queues import ask_trial

SECRET = "s3cr:t/p@ss"
QUOTED = "s3cr%3At%2Fp%40ss"


@pytest.mark.parametrize(
    "text",
    ["study.txt", "study", "ftp://host/x", "redis://localhost", "oracle://u:hunter2@h/d", "x" * 300],
)
def test_a_storage_that_is_not_understood_is_refused_and_its_password_hidden(text):
    with pytest.raises(ValueError, match=r"^storage must be a file that ends in \.log or \.journal") as error:
        Address(text)
    assert "hunter2" not in str(error.value)


def test_a_url_with_an_unreadable_port_shows_no_password():
    with pytest.raises(ValueError, match="^storage must be") as error:
        Address("postgresql://user:pa:ss@wo@rd:notaport/db")
    assert "pa:ss" not in str(error.value)
    assert "rd:notaport" in str(error.value)


def test_a_mistyped_url_shows_no_password():
    with pytest.raises(ValueError, match="^storage must be") as error:
        Address("postgres//user:hunter2@host/db")
    assert "hunter2" not in str(error.value)


def test_a_missing_driver_says_what_to_install(monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(ValueError, match=r"^storage 'mysql://u:\*\*\*@h/d' needs a driver.*pip install 'pymysql'"):
        Address("mysql://u:hunter2@h/d")


def test_the_password_is_hidden_in_every_form():
    address = Address(f"postgresql://user:{QUOTED}@host/db?sslpassword=opensesame")
    assert address.url.password == SECRET
    for shown in (str(address), repr(address)):
        assert SECRET not in shown
        assert QUOTED not in shown
        assert "opensesame" not in shown
        assert "user" in shown
    text = address.hide(f"could not connect: {SECRET} {QUOTED} opensesame host")
    assert text == "could not connect: *** *** *** host"


def test_a_short_password_is_hidden_where_it_stands_and_leaves_other_words_alone():
    address = Address("postgresql://user:a@host/db")
    assert address.hide("postgresql://user:a@host/db: a fatal error") == "postgresql://user:***@host/db: a fatal error"


def test_a_database_that_cannot_be_opened_is_one_line_without_the_password(tmp_path):
    address = Address("postgresql://user:hunter2@127.0.0.1:9/db")
    with pytest.raises(ValueError, match="^storage must be a database that can be opened") as error:
        open_storage(address, 60, Patience(600.0))
    assert "hunter2" not in str(error.value)
    assert "\n" not in str(error.value)
    assert error.value.__cause__ is None


def test_looking_at_a_storage_does_not_make_it(tmp_path):
    for text in (str(tmp_path / "none.journal"), f"sqlite:///{tmp_path}/none.db"):
        with pytest.raises(ValueError, match="^storage must be a file that exists"):
            open_storage(Address(text), 60, Patience(), must_exist=True)
    assert not list(tmp_path.iterdir())


# Journals -----------------------------------------------------------------------------------------------------------


def written(path, n_trials=3, name="s"):
    study = optuna.create_study(
        study_name=name, storage=JournalStorage(JournalFileBackend(str(path))), load_if_exists=True
    )
    study.optimize(lambda trial: trial.suggest_float("x", 0, 1), n_trials=n_trials)
    return path.read_bytes()


def values(path, name="s"):
    """As a plain Optuna, such as its dashboard, reads it."""
    study = optuna.load_study(study_name=name, storage=JournalStorage(JournalFileBackend(str(path))))
    return [trial.value for trial in study.get_trials() if trial.state is TrialState.COMPLETE]


@pytest.mark.parametrize("cut", [1, 7, 40])
def test_a_torn_last_line_is_cut_off_and_kept(tmp_path, cut):
    path = tmp_path / "a.journal"
    whole = written(path)
    before = values(path)
    lines = whole.splitlines(keepends=True)
    path.write_bytes(whole + lines[-1][:-cut])
    open_storage(Address(str(path)), 60, Patience())
    assert path.read_bytes() == whole
    assert values(path) == before
    copies = list(tmp_path.glob("a.journal.torn-*"))
    assert [copy.read_bytes() for copy in copies] == [lines[-1][:-cut]]


def test_a_torn_tail_longer_than_a_block_is_cut_where_its_line_begins(tmp_path):
    path = tmp_path / "a.journal"
    whole = written(path)
    path.write_bytes(whole + b'{"op_code":8,"user_attr":{"x":"' + b"y" * 200_000)
    RepairingBackend(path)
    assert path.read_bytes() == whole


def test_a_journal_of_nothing_but_a_torn_line_becomes_empty(tmp_path):
    path = tmp_path / "a.journal"
    path.write_bytes(b'{"op_code":0,')
    RepairingBackend(path)
    assert path.read_bytes() == b""


def test_a_record_behind_a_torn_one_is_saved(tmp_path):
    # A worker dies in the middle of a line, and a tool that knows nothing of repairs appends to it.
    path = tmp_path / "a.journal"
    whole = written(path)
    lines = whole.splitlines(keepends=True)
    last = b"".join(lines[-1:])
    path.write_bytes(b"".join(lines[:-1]) + lines[3][:20] + last)
    before = path.stat().st_size
    RepairingBackend(path)
    assert values(path) == [json.loads(line)["values"][0] for line in lines if b'"values":[' in line]
    assert path.stat().st_size == before  # who reads at this moment keeps its place
    assert [copy.read_bytes() for copy in tmp_path.glob("*.torn-*")] == [lines[3][:20]]


def test_a_last_line_that_is_no_record_is_cut_off(tmp_path):
    path = tmp_path / "a.journal"
    whole = written(path)
    path.write_bytes(whole + b'{"op_code":5,"wor\n')
    RepairingBackend(path)
    assert path.read_bytes() == whole


def test_a_journal_damaged_in_the_middle_is_refused_and_left_alone(tmp_path):
    path = tmp_path / "a.journal"
    lines = written(path).splitlines(keepends=True)
    damaged = b"".join([*lines[:2], b"\0\0\0\0\n", *lines[2:]])
    path.write_bytes(damaged)
    with pytest.raises(ValueError, match="damaged: line 3 is no record"):
        repair(path)
    assert path.read_bytes() == damaged


def test_appending_after_somebody_died_in_the_middle_of_a_line_makes_two_good_lines(tmp_path):
    path = tmp_path / "a.journal"
    written(path)
    alive = optuna.load_study(study_name="s", storage=JournalStorage(RepairingBackend(path)))
    with path.open("ab") as file:
        file.write(b'{"op_code":5,"worker_id":"dead"')
    alive.optimize(lambda trial: trial.suggest_float("x", 0, 1), n_trials=2)
    assert len(values(path)) == 5
    assert list(tmp_path.glob("*.torn-*"))


def test_a_repair_waits_for_the_journals_lock(tmp_path):
    path = tmp_path / "a.journal"
    whole = written(path)
    path.write_bytes(whole + b"torn")
    lock = journal_lock(path)
    lock.acquire()
    opened = threading.Thread(target=RepairingBackend, args=(path,))
    opened.start()
    opened.join(timeout=0.3)
    try:
        assert opened.is_alive()
        assert path.read_bytes() == whole + b"torn"
    finally:
        lock.release()
    opened.join(timeout=20)
    assert path.read_bytes() == whole


@pytest.mark.slow
def test_a_lock_of_a_dead_process_is_broken_also_from_another_folder(tmp_path, monkeypatch, caplog):
    monkeypatch.setattr("tuning.storage.journal.LOCK_GRACE_SECONDS", 3)
    path = tmp_path / "a.journal"
    path.touch()
    journal_lock(path).acquire()  # and never released
    monkeypatch.chdir(tmp_path.parent)
    RepairingBackend((path.parent / path.name).relative_to(tmp_path.parent))
    assert written(path)


# Databases ----------------------------------------------------------------------------------------------------------


class Away(Exception):
    pass


def gone():
    return OperationalError("SELECT 1", {}, Away("server closed the connection"))


def test_patience_asks_again_until_the_database_answers(monkeypatch):
    pauses, said = [], []
    monkeypatch.setattr("time.sleep", pauses.append)
    answers = iter([gone(), gone(), gone(), "answer"])

    def ask():
        answer = next(answers)
        if isinstance(answer, Exception):
            raise answer
        return answer

    assert Patience(600.0, say=said.append).call(ask) == "answer"
    assert pauses == [0.25, 0.5, 1.0]  # longer from one to the next
    assert len(said) == 2  # once that it is away, once that it is back


def test_an_outage_of_thirty_seconds_is_waited_through(monkeypatch):
    clock, asked_at = [0.0], []
    monkeypatch.setattr("time.monotonic", lambda: clock[0])
    monkeypatch.setattr("time.sleep", lambda seconds: clock.__setitem__(0, clock[0] + seconds))

    def ask():
        asked_at.append(clock[0])
        if clock[0] < 30.0:
            raise gone()
        return "answer"

    said = []
    assert Patience(say=said.append).call(ask) == "answer"  # with the patience that nobody changed
    assert 30.0 <= asked_at[-1] <= 40.0
    assert len(asked_at) <= 10  # it is not asked without a rest
    assert said[-1] == f"the storage is back after {asked_at[-1]:.0f} s"


def test_patience_ends(monkeypatch):
    clock = [0.0]
    monkeypatch.setattr("time.monotonic", lambda: clock[0])
    monkeypatch.setattr("time.time", lambda: -1e9)  # a clock that is set back changes nothing
    monkeypatch.setattr("time.sleep", lambda seconds: clock.__setitem__(0, clock[0] + seconds))

    def ask():
        raise gone()

    with pytest.raises(OperationalError):
        Patience(30.0, say=lambda text: None).call(ask)
    assert clock[0] == pytest.approx(30.0)
    clock[0] = 0.0
    with pytest.raises(OperationalError):
        Patience(600.0, is_stopping=lambda: True, say=lambda text: None).call(ask)
    assert clock[0] == pytest.approx(10.0)  # whoever is to stop waits for last words only


def test_a_connection_that_is_lost_within_a_request_is_a_database_that_is_away():
    error = optuna.exceptions.StorageInternalError("commit")
    error.__cause__ = PendingRollbackError("Can't reconnect until invalid transaction is rolled back")
    assert is_away(error)
    error.__cause__ = IntegrityError("INSERT", {}, Away("duplicate key"))
    assert not is_away(error)


def test_a_database_that_was_there_before_is_waited_for_also_at_its_opening(tmp_path, monkeypatch):
    monkeypatch.setattr("time.sleep", lambda seconds: None)
    errors = [gone(), gone()]
    original = PatientDatabase.__init__

    def away_twice(self, *arguments, **keywords):
        if errors:
            raise errors.pop()
        original(self, *arguments, **keywords)

    monkeypatch.setattr(PatientDatabase, "__init__", away_twice)
    with pytest.raises(ValueError, match="^storage must be a database that can be opened"):
        database(tmp_path)
    errors[:] = [gone(), gone()]
    address, patience = Address(f"sqlite:///{tmp_path}/a.db"), Patience(600.0, say=lambda text: None)
    assert isinstance(open_storage(address, 60, patience, was_open=True), PatientDatabase)


def test_tables_that_another_machine_makes_at_this_moment_are_waited_for(tmp_path, monkeypatch):
    monkeypatch.setattr("tuning.storage.TABLE_PAUSE", 0.0)
    errors = [ProgrammingError("CREATE TABLE", {}, Away("already exists")), IntegrityError("", {}, Away("pg_type"))]
    original = PatientDatabase.__init__

    def beaten(self, *arguments, **keywords):
        if errors:
            raise errors.pop()
        original(self, *arguments, **keywords)

    monkeypatch.setattr(PatientDatabase, "__init__", beaten)
    assert isinstance(database(tmp_path), PatientDatabase)


def test_patience_is_for_databases_that_are_away_and_not_for_mistakes():
    calls = []

    def ask():
        calls.append(1)
        raise KeyError("no such study")

    with pytest.raises(KeyError):
        Patience(600.0).call(ask)
    assert len(calls) == 1


def database(tmp_path, **changes):
    return open_storage(Address(f"sqlite:///{tmp_path}/a.db"), 60, Patience(600.0, say=lambda text: None))


@pytest.fixture(autouse=True)
def all_closed():
    yield
    close_databases()


def test_every_request_to_a_database_is_patient(tmp_path, monkeypatch):
    monkeypatch.setattr("time.sleep", lambda seconds: None)
    storage = database(tmp_path)
    study = optuna.create_study(study_name="s", storage=storage)
    failures = iter([True, True, False] * 1000)
    original = storage.scoped_session.registry

    def flaky():
        if next(failures):
            raise gone()
        return original()

    monkeypatch.setattr(storage.scoped_session, "registry", flaky)
    trial = ask_trial(study)
    assert 0 <= trial.suggest_float("x", 0, 1) <= 1
    trial.report(1.0, 1)
    trial.set_user_attr("a", 1)
    study.tell(trial, 1.0)
    assert study.best_value == 1.0
    assert [t.state for t in study.trials] == [TrialState.COMPLETE]


def test_a_result_whose_receipt_was_lost_counts_as_told(tmp_path, monkeypatch):
    monkeypatch.setattr("time.sleep", lambda seconds: None)
    storage = database(tmp_path)
    study = optuna.create_study(study_name="s", storage=storage)
    trial = ask_trial(study)
    original = optuna.storages.RDBStorage.set_trial_state_values
    lost = iter([True, False, False])

    def loses_its_receipt(self, *arguments):
        result = original(self, *arguments)
        if next(lost):
            raise gone()
        return result

    monkeypatch.setattr(optuna.storages.RDBStorage, "set_trial_state_values", loses_its_receipt)
    assert storage.set_trial_state_values(trial._trial_id, TrialState.COMPLETE, [1.0])
    # A result that contradicts the stored one does not.
    with pytest.raises(optuna.exceptions.UpdateFinishedTrialError):
        storage.set_trial_state_values(trial._trial_id, TrialState.COMPLETE, [2.0])


def test_heartbeats_are_on_and_the_callbacks_name_is_that_of_this_optuna(tmp_path):
    storage = database(tmp_path)
    assert isinstance(storage, PatientDatabase)
    assert storage.get_heartbeat_interval() == 60
    assert storage.grace_period == 180
    assert callable(getattr(storage, stale_callback_name()))


def test_an_older_optunas_name_of_the_callback_is_found(monkeypatch):
    def old(self, url, *, heartbeat_interval=None, failed_trial_callback=None):
        pass

    monkeypatch.setattr(optuna.storages.RDBStorage, "__init__", old)
    assert stale_callback_name() == "failed_trial_callback"
