"""A study gone on with as another: what can be compared works on and is reported, what cannot is refused first."""

from dataclasses import replace
from pathlib import Path

import optuna
import pytest
from optuna.trial import TrialState

from tests.tuning import worker_objectives as objectives
from tests.tuning.worker_objectives import made_settings
from tuning.report import write_report
from tuning.report.numbers import importances, ranking, tried_space
from tuning.report.pictures import _parallel_coordinates
from tuning.report.record import read_record
from tuning.space import Dimension, Space
from tuning.space.warm_starts import WarmStart
from tuning.storage import Address, open_storage
from tuning.storage.database import Patience
from tuning.worker.identity import create_or_join, identity_of
from tuning.worker.queues import has_error
from tuning.worker.signals import StopSignals
from tuning.worker.worker import Worker

RATE = Dimension("learning_rate", "float", 1e-5, 5e-3, log=True)
EPOCHS = Dimension("n_epochs", "choice", choices=(1, 4, 5, 10, 20))
CLIP = Dimension("clip_range", "choice", choices=(0.1, 0.2, "lin_0.2"))
NORM = Dimension("max_grad_norm", "float", 0.3, 5.0, log=True)
POWER = Dimension("n_steps_pow", "int", 3, 8)
SPACE = Space("notes_ppo", (RATE, EPOCHS, CLIP, NORM, POWER))
#: What of the space is another in the second half, ``None`` for a parameter that is gone.
CHANGES = {
    "fewer choices": {"n_epochs": Dimension("n_epochs", "choice", choices=(4, 10))},
    "other choices": {"n_epochs": Dimension("n_epochs", "choice", choices=(2, 3))},
    "choices in another order": {"n_epochs": Dimension("n_epochs", "choice", choices=(20, 10, 5, 4, 1))},
    "one choice": {"n_epochs": Dimension("n_epochs", "choice", choices=(7,))},
    "narrower bounds": {"max_grad_norm": replace(NORM, low=0.9, high=1.1), "n_steps_pow": replace(POWER, high=4)},
    "other bounds": {"max_grad_norm": replace(NORM, low=6.0, high=9.0), "learning_rate": replace(RATE, high=1e-1)},
    "no logarithm": {"max_grad_norm": replace(NORM, log=False)},
    "a list for a range": {"max_grad_norm": Dimension("max_grad_norm", "choice", choices=(0.5, 2.0))},
    "a range for a list": {"clip_range": Dimension("clip_range", "float", 0.1, 0.3)},
    "a whole number for a number": {"max_grad_norm": Dimension("max_grad_norm", "int", 1, 3)},
    "one parameter less": {"clip_range": None},
    "one parameter more": {"ent_coef": Dimension("ent_coef", "float", 1e-8, 0.1, log=True)},
}


@pytest.fixture(autouse=True)
def unhurried(monkeypatch):
    monkeypatch.setattr("tuning.storage.journal.os.fsync", lambda descriptor: None)
    monkeypatch.setattr("sb3_ppo_notes._atomic.os.fsync", lambda descriptor: None)
    optuna.logging.set_verbosity(optuna.logging.ERROR)


def opened(settings):
    return open_storage(Address(settings.storage), settings.heartbeat, Patience(1.0))


def searched(settings, max_trials, starts=(), allow_changed=False):
    settings = replace(settings, max_trials=max_trials, budget=None)
    study = create_or_join(settings, opened(settings), list(starts), allow_changed)
    Worker(settings, StopSignals()).work(("search",))
    return optuna.load_study(study_name=study.study_name, storage=opened(settings))


def begun(folder, **options):
    settings = made_settings(folder, objective=objectives.cheap, space=SPACE, **options)
    searched(settings, 5)
    return settings


def changed(space, change):
    dimensions = {one.name: one for one in space.dimensions} | change
    return Space(space.algo, tuple(one for one in dimensions.values() if one is not None))


FAST = ("fewer choices", "narrower bounds", "a range for a list")


@pytest.mark.parametrize(
    "change", [pytest.param(name, marks=() if name in FAST else pytest.mark.slow) for name in CHANGES]
)
def test_a_study_goes_on_in_another_space_and_its_report_counts_all_trials(change, tmp_path):
    settings = begun(tmp_path)
    space = changed(SPACE, CHANGES[change])
    study = searched(replace(settings, space=space), 12, allow_changed=True)
    assert not any(map(has_error, study.trials))
    new = [trial.user_attrs["configuration"] for trial in study.trials[5:] if "configuration" in trial.user_attrs]
    assert len(new) == 7
    for configuration in new:
        space.validate(configuration)
    record = read_record(study, opened(settings), "here")
    # What was found before counts as much as what is found now, where it can be told on the new axes.
    assert len(record.trials) == 12
    for trial in ranking(record):
        if len(trial.configuration) == len(space.dimensions):
            tried_space(record).validate(trial.configuration)
    importances(record)
    _parallel_coordinates(record)


@pytest.mark.slow
def test_a_study_of_two_spaces_has_a_whole_report(tmp_path):
    settings = begun(tmp_path)
    space = changed(SPACE, CHANGES["fewer choices"])
    study = searched(replace(settings, space=space), 12, allow_changed=True)
    written = write_report(read_record(study, opened(settings), "here"), tmp_path / "report")
    assert {"report.html", "trials.csv", "importances.png", "parallel_coordinates.png"} <= {
        path.name for path in written
    }


@pytest.mark.filterwarnings("ignore::optuna.exceptions.ExperimentalWarning")
@pytest.mark.parametrize(
    "sampler", ["random", *(pytest.param(name, marks=pytest.mark.slow) for name in ("gp", "cma", "qmc"))]
)
def test_every_sampler_goes_on_in_another_space(sampler, tmp_path):
    pytest.importorskip("cmaes" if sampler == "cma" else "scipy")
    settings = begun(tmp_path, sampler=sampler)
    change = CHANGES["fewer choices"] | CHANGES["narrower bounds"] | CHANGES["a range for a list"]
    space = changed(SPACE, change)
    study = searched(replace(settings, space=space), 12, allow_changed=True)
    assert not any(map(has_error, study.trials))
    for trial in study.trials[5:]:
        space.validate(trial.user_attrs["configuration"])


def test_a_study_that_goes_back_to_its_first_space_knows_its_first_trials(tmp_path):
    settings = begun(tmp_path)
    other = replace(settings, space=changed(SPACE, CHANGES["fewer choices"]))
    searched(other, 7, allow_changed=True)
    study = searched(settings, 9, allow_changed=True)
    assert ["n_epochs" in trial.params for trial in study.trials] == [True] * 5 + [False] * 2 + [True] * 2


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (dict(env_id="Acrobot-v1"), r'another environment \("CartPole-v1", now "Acrobot-v1"\)'),
        (
            dict(algo="notes_a2c", space=Space("notes_a2c", (RATE,))),
            r'another algorithm \("notes_ppo", now "notes_a2c"\)',
        ),
        (dict(total_timesteps=2000), r"another length of a trial \(1000, now 2000\)"),
    ],
)
def test_scores_of_another_task_are_not_compared_even_if_changes_are_allowed(change, words, tmp_path):
    settings = begun(tmp_path)
    path = Path(Address(settings.storage).path)
    before = path.read_bytes()
    with pytest.raises(ValueError, match=f"^study 's' has trials with {words}, whose scores cannot be compared"):
        searched(replace(settings, **change), 12, allow_changed=True)
    assert path.read_bytes() == before
    study = optuna.load_study(study_name="s", storage=opened(settings))
    importances(read_record(study, opened(settings), "here"))


@pytest.mark.parametrize(
    "change",
    [
        dict(base={"n_envs": 2}),
        pytest.param(dict(sampler="random"), marks=pytest.mark.slow),
        pytest.param(dict(seed=3), marks=pytest.mark.slow),
        pytest.param(dict(n_eval_episodes=5), marks=pytest.mark.slow),
    ],
    ids=["base", "sampler", "seed", "n_eval_episodes"],
)
def test_other_changes_are_allowed_on_demand(change, tmp_path):
    settings = begun(tmp_path)
    wanted = replace(settings, **change)
    study = searched(wanted, 8, allow_changed=True)
    assert study.user_attrs["identity"] == identity_of(wanted)
    assert not any(map(has_error, study.trials))
    importances(read_record(study, opened(settings), "here"))


def test_what_was_queued_for_the_old_space_is_replaced_by_what_fits_the_new_one(tmp_path):
    settings = begun(tmp_path)
    study = optuna.load_study(study_name="s", storage=opened(settings))
    study.enqueue_trial({"n_epochs": 20, "learning_rate": 1e-3}, user_attrs={"origin": "old"})
    space = changed(SPACE, CHANGES["fewer choices"])
    point = dict(learning_rate=2e-3, n_epochs=10, clip_range=0.2, max_grad_norm=0.5, n_steps_pow=5)
    start = WarmStart("new", point)
    study = searched(replace(settings, space=space), 8, [start], allow_changed=True)
    old, new = (
        next(trial for trial in study.trials if trial.user_attrs.get("origin") == name) for name in ("old", "new")
    )
    assert old.state is TrialState.FAIL
    assert old.user_attrs["reason"] == "changed"
    assert new.user_attrs["configuration"] == point
    assert not any(map(has_error, study.trials))
    record = read_record(study, opened(settings), "here")
    assert "old" not in {trial.origin for trial in record.trials}


def test_a_dimension_covers_whatever_was_tried():
    assert NORM.widen([0.1, 9]) == replace(NORM, low=0.1, high=9)
    assert NORM.widen([0.5]) is NORM
    assert NORM.widen([0.5, -1.0]).choices == (0.5, -1.0)
    assert POWER.widen([2.5]).choices == (2.5,)
    assert EPOCHS.widen([7, 4, 7]).choices == (1, 4, 5, 10, 20, 7)
    assert Dimension("clip_range", "float", 0.1, 0.3).widen(["lin_0.2", 0.2]).choices == ("lin_0.2", 0.2)
