"""The identity of a study: no run continues it as another."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping, Sequence
from typing import Any

import optuna
from optuna.storages import BaseStorage
from optuna.trial import TrialState

from sb3_ppo_notes.files import versions
from tuning.space.names import optuna_names
from tuning.space.warm_starts import WarmStart
from tuning.worker.queues import find_study, never_ran
from tuning.worker.settings import Settings

IDENTITY = "identity"
#: A score depends on these so much that those of another task cannot be compared.
TASK = ("env", "algo", "n_timesteps")
#: Seconds in which a new study is filled, unless its maker has died.
CREATION_SECONDS = 10.0
#: Packages that a result depends on, as pip knows them.
PACKAGES = ("stable-baselines3", "torch", "gymnasium", "numpy", "optuna", "rl-zoo3")
PARTS = {"space": "search space", "env": "environment", "algo": "algorithm", "n_timesteps": "length of a trial"}


def identity_of(settings: Settings) -> dict[str, Any]:
    """Everything that must not change while a study is under way, as JSON values."""
    identity = {
        "env": settings.env_id,
        "algo": settings.algo,
        "space": settings.space.fingerprint(),
        "base": dict(settings.base),
        "protocol": settings.protocol.fingerprint(),
        "n_timesteps": settings.total_timesteps,
        "n_eval_episodes": settings.n_eval_episodes,
        "sampler": settings.sampler,
        "seed": settings.seed,
        "compile": settings.compile,
    }
    return dict(json.loads(json.dumps(identity, default=str)))


def check_identity(name: str, stored: Mapping[str, Any], current: Mapping[str, Any]) -> None:
    """Refuse to go on with a study as another, naming the first difference."""
    for part in {**current, **stored}:
        before, now = stored.get(part), current.get(part)
        if before == now:
            continue
        what = f"study {name!r} was created with another {PARTS.get(part, part)}"
        remedy = "; give it another name, or --allow-changed-config"
        if isinstance(before, dict) and isinstance(now, dict):
            keys = [key for key in {**before, **now} if before.get(key) != now.get(key)]
            details = ", ".join(f"{key}: {_short(before.get(key))}, now {_short(now.get(key))}" for key in keys[:3])
            raise ValueError(f"{what} (key: {details}){remedy}")
        raise ValueError(f"{what} ({_short(before)}, now {_short(now)}){remedy}")


def _short(value: Any) -> str:
    text = "none" if value is None else json.dumps(value)
    return text if len(text) <= 60 else text[:57] + "..."


def create_or_join(
    settings: Settings, storage: BaseStorage, starts: Sequence[WarmStart], allow_changed: bool = False
) -> optuna.Study:
    """The study, made with its warm starts queued, or opened if it is as asked for.

    If it is another, nothing is written and an error says so; with ``allow_changed`` it becomes this one.
    """
    name, current = settings.study, identity_of(settings)
    study = _study(name, storage)
    stored = study.user_attrs.get(IDENTITY)
    if stored is not None and not allow_changed:
        check_identity(name, stored, current)
    if stored is not None and stored != current:
        check_comparable(study, stored, current)
        _withdraw_queued(study, storage)
    if stored != current:
        for start in starts:
            if start.configuration is not None:
                _queue(study, settings, start)
        study.set_user_attr(
            "warm_start_problems", [f"{s.name}: {s.problem}" for s in starts if s.configuration is None]
        )
    if stored != current:
        study.set_user_attr("versions", versions(PACKAGES))
        study.set_user_attr(IDENTITY, current)  # last: with it, all the rest is there
    if study.user_attrs.get("budget") != settings.budget:
        study.set_user_attr("budget", settings.budget)
    return study


def _study(name: str, storage: BaseStorage) -> optuna.Study:
    study = find_study(name, storage)
    if study is None:
        try:
            return optuna.create_study(study_name=name, storage=storage, direction="maximize")
        except optuna.exceptions.DuplicatedStudyError:
            study = optuna.load_study(study_name=name, storage=storage)
    deadline = time.monotonic() + CREATION_SECONDS
    while IDENTITY not in study.user_attrs:
        # Another machine is making it just now. If that died in between, we go on where it stopped.
        if time.monotonic() > deadline:
            break
        time.sleep(0.2)
    return study


def check_comparable(study: optuna.Study, stored: Mapping[str, Any], current: Mapping[str, Any]) -> None:
    """Refuse if trials have run, and environment, algorithm or length of a trial are others now."""
    if all(trial.state is TrialState.WAITING or never_ran(trial) for trial in study.get_trials(deepcopy=False)):
        return
    for part in TASK:
        if stored.get(part) != current[part]:
            raise ValueError(
                f"study {study.study_name!r} has trials with another {PARTS[part]} ({_short(stored.get(part))}, now "
                f"{_short(current[part])}), whose scores cannot be compared; give it another name"
            )


def _withdraw_queued(study: optuna.Study, storage: BaseStorage) -> None:
    """End the trials that wait: they were queued for a configuration that is another now."""
    for trial in study.get_trials(deepcopy=False, states=(TrialState.WAITING,)):
        try:
            storage.set_trial_user_attr(trial._trial_id, "reason", "changed")
            storage.set_trial_state_values(trial._trial_id, TrialState.FAIL)
        except optuna.exceptions.UpdateFinishedTrialError:
            continue


def _queue(study: optuna.Study, settings: Settings, start: WarmStart) -> None:
    assert start.configuration is not None
    trials = study.get_trials(deepcopy=False)
    if any(trial.user_attrs.get("configuration") == start.configuration for trial in trials if not never_ran(trial)):
        return  # it has run already, before the study was changed
    names = optuna_names(settings.space.dimensions, trials)
    parameters = {names[key]: value for key, value in start.configuration.items() if key in names}
    waiting = study.get_trials(deepcopy=False, states=(TrialState.WAITING,))
    if all(trial.system_attrs.get("fixed_params") != parameters for trial in waiting):
        study.enqueue_trial(parameters, user_attrs={"origin": start.name})
