"""A study as it lies in its storage, read once, as plain values."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import optuna
from optuna.storages import BaseStorage
from optuna.trial import FrozenTrial, TrialState

from tuning.report.data import StudyRecord, TestedSetup, TrialRecord
from tuning.selection import Choice, Protocol
from tuning.selection.trials import arm_of, choose_winner, job_scores, key_of, search_scores
from tuning.worker.budget import steps_used
from tuning.worker.identity import IDENTITY
from tuning.worker.queues import (
    FINALISTS,
    TEST,
    find_study,
    has_error,
    never_ran,
)
from tuning.worker.reaper import is_dead

STATES = {
    TrialState.COMPLETE: "complete",
    TrialState.PRUNED: "pruned",
    TrialState.FAIL: "failed",
    TrialState.RUNNING: "running",
    TrialState.WAITING: "waiting",
}


def open_study(name: str, storage: BaseStorage) -> optuna.Study:
    """A study that must be there; the error names those that are."""
    study = find_study(name, storage)
    if study is None or IDENTITY not in study.user_attrs:
        names = sorted(
            other.study_name for other in storage.get_all_studies() if not other.study_name.endswith((FINALISTS, TEST))
        )
        raise ValueError(
            f"study must be one of {', '.join(names) or 'those in the storage, which is empty'}, got {name!r}"
        )
    return study


def protocol_of(study: optuna.Study) -> Protocol:
    """The protocol that a study was made with."""
    return Protocol.from_fingerprint(study.user_attrs[IDENTITY]["protocol"])


@dataclass(frozen=True)
class Stages:
    """The trials of the three stages, as far as they ran."""

    search: list[FrozenTrial]
    finalists: list[FrozenTrial]
    test: list[FrozenTrial]


def stages_of(study: optuna.Study, storage: BaseStorage) -> Stages:
    """All trials of a study."""
    others = [find_study(study.study_name + suffix, storage) for suffix in (FINALISTS, TEST)]
    further = [other.get_trials(deepcopy=False) if other is not None else [] for other in others]
    search = [trial for trial in study.get_trials(deepcopy=False) if not never_ran(trial)]
    return Stages(search, *([trial for trial in trials if not never_ran(trial)] for trials in further))


def read_record(study: optuna.Study, storage: BaseStorage, where: str) -> StudyRecord:
    """Everything that reports are made from; ``where`` is the storage, its password hidden."""
    stages, attributes = stages_of(study, storage), study.user_attrs
    identity, protocol = attributes[IDENTITY], protocol_of(study)
    choice = choose_winner(stages.search, stages.finalists, protocol)
    reruns: dict[int, dict[int, float]] = defaultdict(dict)
    for (arm, seed), score in job_scores(stages.finalists, protocol).items():
        reruns[int(arm.rpartition(" ")[2])][seed] = score
    return StudyRecord(
        name=study.study_name,
        env_id=identity["env"],
        algo=identity["algo"],
        total_timesteps=identity["n_timesteps"],
        budget=attributes.get("budget"),
        env_steps=steps_used([*stages.search, *stages.finalists]),
        seconds=_seconds([*stages.search, *stages.finalists, *stages.test]),
        space=identity["space"],
        protocol=identity["protocol"],
        base=identity["base"],
        versions=attributes.get("versions", {}),
        storage=where,
        trials=tuple(_trial_record(trial, reruns.get(trial.number, {})) for trial in stages.search),
        winner=None if choice is None else int(str(choice.key)),
        tuning_score=None if choice is None else choice.score,
        tested=_tested(stages.test, protocol, choice),
        warm_start_problems=tuple(attributes.get("warm_start_problems", ())),
    )


def _trial_record(trial: FrozenTrial, reruns: dict[int, float]) -> TrialRecord:
    attributes = trial.user_attrs
    error = str(attributes.get("error", "")).strip().splitlines()
    reason = attributes.get("reason", "stale" if trial.state is TrialState.FAIL else "")
    return TrialRecord(
        number=trial.number,
        state=STATES[trial.state],
        reason=reason,
        score=trial.values[0] if trial.state is TrialState.COMPLETE and trial.values else None,
        configuration=attributes.get("configuration", dict(trial.params)),
        evaluations=dict(trial.intermediate_values),
        env_steps=attributes.get("env_steps", 0),
        seconds=_seconds([trial]),
        origin=attributes.get("origin", "sampler"),
        error=error[-1] if error else "",
        finalist_scores=dict(sorted(reruns.items())),
    )


def _tested(trials: Sequence[FrozenTrial], protocol: Protocol, choice: Choice | None) -> tuple[TestedSetup, ...]:
    if choice is None:
        return ()
    winner = arm_of(int(str(choice.key)))
    scores: dict[str, dict[int, float]] = defaultdict(dict)
    curves: dict[str, dict[int, dict[int, float]]] = defaultdict(dict)
    by_key = {key_of(trial): trial for trial in trials if trial.state is TrialState.COMPLETE}
    for (arm, seed), score in sorted(job_scores(trials, protocol).items()):
        # A continued search may have runs of an earlier winner, too.
        if arm == winner or not arm.startswith("trial "):
            name = "tuned" if arm == winner else arm
            scores[name][seed] = score
            curves[name][seed] = dict(by_key[arm, seed].intermediate_values)
    names = sorted(scores, key=lambda name: (name != "tuned", name != "SB3 defaults", name))
    return tuple(TestedSetup(name, scores[name], curves[name]) for name in names)


def _seconds(trials: Sequence[FrozenTrial]) -> float:
    starts = [trial.datetime_start for trial in trials if trial.datetime_start]
    ends = [trial.datetime_complete for trial in trials if trial.datetime_complete]
    return max(0.0, (max(ends) - min(starts)).total_seconds()) if starts and ends else 0.0


def summary(study: optuna.Study, storage: BaseStorage) -> dict[str, Any]:
    """The state of a study in a few numbers, in the order in which they are shown."""
    stages = stages_of(study, storage)
    every = [*stages.search, *stages.finalists, *stages.test]
    running = [trial for trial in every if trial.state is TrialState.RUNNING]
    count = {state: sum(trial.state is state for trial in stages.search) for state in STATES}
    used, budget = steps_used([*stages.search, *stages.finalists]), study.user_attrs.get("budget")
    scores = search_scores(stages.search)
    return {
        "stage": "test" if stages.test else "finalists" if stages.finalists else "search",
        "complete": count[TrialState.COMPLETE],
        "pruned": count[TrialState.PRUNED],
        "diverged": sum(bool(trial.user_attrs.get("diverged")) for trial in stages.search),
        "failed": sum(map(has_error, every)),
        "waiting": sum(trial.state is TrialState.WAITING for trial in every),
        "running": len(running),
        "stale": sum(is_dead(trial.user_attrs.get("worker", {})) for trial in running),
        "finalist runs": sum(trial.state is TrialState.COMPLETE for trial in stages.finalists),
        "test runs": sum(trial.state is TrialState.COMPLETE for trial in stages.test),
        "steps used": used,
        "budget left": None if budget is None else max(0, budget - used),
        "best so far": max(scores.values(), default=None),
    }
