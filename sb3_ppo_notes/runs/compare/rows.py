"""The rows behind every plot of a comparison: what is drawn, and what goes into its CSV."""

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np

from sb3_ppo_notes.formulas.advantages import FloatArray
from sb3_ppo_notes.formulas.statistics import performance_profile
from sb3_ppo_notes.runs.compare.results import Results, estimate, estimates, iqm_of_columns
from sb3_ppo_notes.runs.compare.run import POINTS, WATCHED
from sb3_ppo_notes.runs.compare.verdict import Judgement, areas

Row = dict[str, Any]
#: Thresholds at which a performance profile is drawn.
THRESHOLDS = 101


def run_rows(results: Results) -> list[Row]:
    """One row a run: its score, its speed, how it failed."""
    rows = []
    for arm in results.arms:
        scores, early = results.scores(arm), areas(results, arm)
        for column, env in enumerate(results.envs):
            returns = results.returns(arm, env)
            for row, seed in enumerate(results.seeds):
                record = results.record(arm, env, seed)
                speed = record["steps"] / record["train_seconds"] if "steps" in record else None
                rows.append(
                    {
                        "arm": arm,
                        "env": env,
                        "seed": seed,
                        "status": record["status"],
                        "return": float(returns[row]),
                        "score": float(scores[row, column]),
                        "area": float(early[row, column]),
                        "steps": record.get("steps"),
                        "train_seconds": record.get("train_seconds"),
                        "steps_per_second": speed,
                        "parameters": record.get("parameters"),
                        "error": record.get("error"),
                    }
                )
    return rows


def curve_rows(results: Results, budgets: Mapping[str, int]) -> list[Row]:
    """Learning curves: interquartile mean over seeds of the training returns, with pointwise intervals."""
    rows = []
    for env in results.envs:
        for arm in results.arms:
            values, low, high = estimates(iqm_of_columns, results.curves(arm, env, "return"))
            for point, steps in enumerate(grid(budgets[env])):
                numbers = {"iqm": float(values[point]), "low": float(low[point]), "high": float(high[point])}
                rows.append({"env": env, "arm": arm, "steps": steps, **numbers})
    return rows


def grid(budget: int) -> list[int]:
    """The points of a curve: ends of equal parts of the budget; environment steps.

    >>> grid(100_000)[:2]
    [2500, 5000]
    """
    return [round(budget * (point + 1) / POINTS) for point in range(POINTS)]


def seed_curve_rows(results: Results, budgets: Mapping[str, int]) -> list[Row]:
    """The curves of each run as they were; nothing where nothing was seen."""
    rows = []
    for arm, env in ((arm, env) for arm in results.arms for env in results.envs):
        for seed in results.seeds:
            curves = results.record(arm, env, seed).get("curves", {})
            for point, steps in enumerate(grid(budgets[env])):
                values = {name: curves.get(name, [None] * POINTS)[point] for name in ("return", *WATCHED)}
                rows.append({"arm": arm, "env": env, "seed": seed, "steps": steps, **values})
    return rows


def profile_rows(results: Results) -> list[Row]:
    """Performance profiles: share of runs above each score, with pointwise intervals."""
    scores = {arm: results.scores(arm) for arm in results.arms}
    together = np.concatenate(list(scores.values()))
    thresholds = np.linspace(min(together.min() - 0.02, 0.0), max(together.max() + 0.02, 1.0), THRESHOLDS)
    profile = partial(performance_profile, thresholds=thresholds)
    rows = []
    for arm in results.arms:
        columns = (thresholds, *estimates(profile, scores[arm]))
        for numbers in zip(*columns, strict=True):
            row = dict(zip(("threshold", "share", "low", "high"), map(float, numbers), strict=True))
            rows.append({"arm": arm, **row})
    return rows


def diagnostics_rows(results: Results, budgets: Mapping[str, int]) -> list[Row]:
    """KL, entropy, clip fraction and explained variance while training: median and quartiles over seeds."""
    rows = []
    for env, arm, name in ((env, arm, name) for env in results.envs for arm in results.arms for name in WATCHED):
        values = results.curves(arm, env, name)
        for point, steps in enumerate(grid(budgets[env])):
            finite = values[np.isfinite(values[:, point]), point]
            if len(finite):
                low, median, high = np.quantile(finite, [0.25, 0.5, 0.75])
                quartiles = {"median": float(median), "low": float(low), "high": float(high)}
                rows.append({"env": env, "arm": arm, "metric": name, "steps": steps, **quartiles})
    return rows


def speed_rows(results: Results) -> list[Row]:
    """Median steps per second and seconds of a training, with an interval where two runs finished."""
    rows = []
    for env in results.envs:
        for arm in results.arms:
            speeds = results.numbers(arm, env, "steps_per_second")[:, np.newaxis]
            result = estimate(_median, speeds) if len(speeds) >= 2 else None
            seconds = results.numbers(arm, env, "train_seconds")
            numbers = (None, None, None) if result is None else tuple(result)
            row = dict(zip(("steps_per_second", "low", "high"), numbers, strict=True))
            seconds_each = float(np.median(seconds)) if len(seconds) else None
            rows.append({"env": env, "arm": arm, "runs": len(speeds), **row, "train_seconds": seconds_each})
    return rows


def _median(values: FloatArray) -> FloatArray:
    return np.asarray(np.median(values, axis=(-2, -1)))


def interval_rows(judgements: Sequence[Judgement]) -> list[Row]:
    """The intervals that each verdict rests on, of candidates with at least ten seeds."""
    return [
        {
            "candidate": judgement.candidate,
            "baseline": judgement.baseline,
            "difference": judgement.numbers.difference,
            "difference_low": judgement.numbers.difference_interval[0],
            "difference_high": judgement.numbers.difference_interval[1],
            "improvement": judgement.numbers.improvement,
            "improvement_low": judgement.numbers.improvement_interval[0],
            "improvement_high": judgement.numbers.improvement_interval[1],
            "verdict": judgement.verdict,
        }
        for judgement in judgements
        if judgement.numbers is not None
    ]
