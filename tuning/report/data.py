"""The record of a study: plain values, read from Optuna once, from which all reports are made."""

from __future__ import annotations

import dataclasses
import math
import re
from dataclasses import dataclass, field
from typing import Any, TypeVar

Record = TypeVar("Record")
PASSWORD = re.compile(r"(\w+://[^\s:/@]*):[^\s/]*@")


@dataclass(frozen=True)
class TrialRecord:
    """One trial.

    :param number: Optuna's.
    :param state: ``"complete"``, ``"pruned"``, ``"failed"``, ``"running"`` or ``"waiting"``.
    :param reason: ``""``, ``"median"``, ``"diverged"``, ``"error"``, ``"preempted"``, ``"stale"``.
    :param score: mean of its last three evaluations on the search seed, ``None`` unless complete.
    :param configuration: its point of the space.
    :param evaluations: mean returns by environment step.
    :param env_steps: environment steps it used.
    :param seconds: wall-clock time.
    :param origin: ``"sampler"``, or the warm start's name.
    :param error: last line of the traceback, ``""`` for none.
    :param finalist_scores: by seed; empty unless it was a finalist.
    """

    number: int
    state: str
    reason: str = ""
    score: float | None = None
    configuration: dict[str, Any] = field(default_factory=dict)
    evaluations: dict[int, float] = field(default_factory=dict)
    env_steps: int = 0
    seconds: float = 0.0
    origin: str = "sampler"
    error: str = ""
    finalist_scores: dict[int, float] = field(default_factory=dict)


@dataclass(frozen=True)
class TestedSetup:
    """One arm of the final test: ``"tuned"``, ``"SB3 defaults"`` or ``"rl_zoo3"``, its scores by test seed.

    ``learning_curves`` holds evaluations by environment step, by test seed.
    """

    __test__ = False  # its name begins like a test's, which it is not

    name: str
    scores: dict[int, float]
    learning_curves: dict[int, dict[int, float]] = field(default_factory=dict)


@dataclass(frozen=True)
class StudyRecord:
    """A study.

    :param name: of the study.
    :param env_id: of the environment.
    :param algo: ``"notes_ppo"`` or ``"notes_a2c"``.
    :param total_timesteps: environment steps of a full trial.
    :param budget: environment steps of the whole study, ``None`` for no limit.
    :param env_steps: environment steps used, pruned and failed trials included.
    :param seconds: wall-clock, from the first trial's start to the last one's end.
    :param space: ``Space.fingerprint()``.
    :param protocol: ``Protocol.fingerprint()``.
    :param base: what is not tuned, by rl_zoo3's keys.
    :param versions: of the packages.
    :param storage: the URL, its password hidden.
    :param trials: all of them.
    :param winner: number of the chosen trial, ``None`` before the finalists are decided.
    :param tuning_score: its honest tuning score.
    :param tested: the arms of the final test, the tuned one first.
    :param warm_start_problems: what could not be started from, and why.
    :param sampler: what proposed the configurations.
    """

    name: str
    env_id: str
    algo: str
    total_timesteps: int
    budget: int | None
    env_steps: int
    seconds: float
    space: dict[str, Any]
    protocol: dict[str, Any]
    base: dict[str, Any]
    versions: dict[str, str]
    storage: str
    trials: tuple[TrialRecord, ...]
    winner: int | None = None
    tuning_score: float | None = None
    tested: tuple[TestedSetup, ...] = ()
    warm_start_problems: tuple[str, ...] = ()
    sampler: str = ""


def without_passwords(value: Record) -> Record:
    """The same with every ``scheme://user:password@host`` made ``scheme://user:***@host``."""
    return _clean(value)  # type: ignore[no-any-return]


def plain(value: Any) -> Any:
    """A value as JSON holds it; NaN and infinity become ``None``, keys become strings."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {field.name: plain(getattr(value, field.name)) for field in dataclasses.fields(value)}
    if isinstance(value, dict):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value


def _clean(value: Any) -> Any:
    if isinstance(value, str):
        return PASSWORD.sub(r"\1:***@", value)
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        changes = {field.name: _clean(getattr(value, field.name)) for field in dataclasses.fields(value)}
        return dataclasses.replace(value, **changes)
    if isinstance(value, dict):
        return {_clean(key): _clean(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(_clean(item) for item in value)
    return value
