"""The numbers of a report, computed from the record of a study."""

from __future__ import annotations

import statistics
from collections import Counter
from dataclasses import dataclass

import numpy as np
import optuna

from sb3_ppo_notes.formulas.statistics import bootstrap_interval, iqm
from tuning.report.data import StudyRecord, TestedSetup, TrialRecord
from tuning.selection import optimism
from tuning.space import Space
from tuning.space.names import distribution_of

TUNED = "tuned"
RESAMPLE_SEED = 0


def ranking(record: StudyRecord) -> list[TrialRecord]:
    """The completed trials that did not diverge: finalists first, by the mean over their fresh seeds, then by score.

    The winner, if there is one, is the first.
    """
    complete = [trial for trial in record.trials if trial.score is not None and trial.state == "complete"]

    def rank(trial: TrialRecord) -> tuple[bool, int, float, int]:
        fresh = list(trial.finalist_scores.values())
        worth = statistics.fmean(fresh) if fresh else trial.score
        return trial.number != record.winner, -len(fresh), -(worth or 0.0), trial.number

    return sorted((trial for trial in complete if trial.reason != "diverged"), key=rank)


def best_trial(record: StudyRecord) -> TrialRecord:
    """The winner; before the finalists have decided, the best of the search."""
    trials = ranking(record)
    if not trials:
        counts = outcomes(record)
        others = ", ".join(f"{counts[name]} {name}" for name in counts if counts[name]) or "no trials at all"
        raise ValueError(f"study {record.name!r} has no completed trial ({others}) - see report.md")
    return trials[0]


def outcomes(record: StudyRecord) -> Counter[str]:
    """Counts of trials by state; diverged ones apart from complete ones."""
    return Counter("diverged" if trial.reason == "diverged" else trial.state for trial in record.trials)


@dataclass(frozen=True)
class ArmNumbers:
    """One arm of the test: its scores, their mean, and their interquartile mean with its 95 % interval.

    The interval is NaN for a single seed.
    """

    name: str
    scores: tuple[float, ...]
    mean: float
    iqm: float
    low: float
    high: float


def arm_numbers(arm: TestedSetup) -> ArmNumbers:
    """The numbers of one arm of the test."""
    scores = np.array([arm.scores[seed] for seed in sorted(arm.scores)])[:, None]
    low = high = float("nan")
    if len(scores) > 1:
        interval = bootstrap_interval(iqm, [scores], np.random.default_rng(RESAMPLE_SEED))
        low, high = float(interval[0]), float(interval[1])
    return ArmNumbers(
        arm.name, tuple(map(float, scores[:, 0])), float(scores.mean()), float(np.squeeze(iqm(scores))), low, high
    )


def tuned_arm(record: StudyRecord) -> TestedSetup | None:
    """The winner's arm of the test, ``None`` before it has run."""
    return next((arm for arm in record.tested if arm.name == TUNED and arm.scores), None)


def optimism_of(record: StudyRecord) -> float | None:
    """Tuning score minus test score of the winner; above 0 is too optimistic; ``None`` before the test."""
    arm = tuned_arm(record)
    if arm is None or record.tuning_score is None:
        return None
    return optimism(record.tuning_score, list(arm.scores.values()))


def tried_space(record: StudyRecord) -> Space:
    """The space of a study with all that its trials tried while it had another one."""
    space = Space.from_fingerprint(record.space, record.algo)
    return space.widen([trial.configuration for trial in ranking(record)])


def importances(record: StudyRecord) -> dict[str, float]:
    """Share of each parameter in what tells the best trials from the others (Optuna's PED-ANOVA), largest first.

    Fewer than four completed trials say nothing, and give {}.
    """
    dimensions = [dimension for dimension in tried_space(record).dimensions if not dimension.is_fixed]
    trials = [trial for trial in ranking(record) if all(one.name in trial.configuration for one in dimensions)]
    scores = {trial.score for trial in trials}
    if len(trials) < 4 or len(scores) < 2 or not dimensions:
        return {}
    distributions = {one.name: distribution_of(one) for one in dimensions}
    verbosity = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    try:
        study = optuna.study.create_study(storage=optuna.storages.InMemoryStorage(), direction="maximize")
        for trial in trials:
            parameters = {name: trial.configuration[name] for name in distributions}
            study.add_trial(
                optuna.trial.create_trial(params=parameters, distributions=distributions, value=trial.score)
            )
        shares = optuna.importance.get_param_importances(
            study, evaluator=optuna.importance.PedAnovaImportanceEvaluator()
        )
    finally:
        optuna.logging.set_verbosity(verbosity)
    return {name: float(share) for name, share in sorted(shares.items(), key=lambda item: -item[1])}
