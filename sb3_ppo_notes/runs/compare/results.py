"""Results of a comparison as matrices: scores ``[seeds, tasks]`` and curves ``[seeds, points]`` of each arm."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from sb3_ppo_notes.configs.tuned import Scale
from sb3_ppo_notes.formulas.advantages import FloatArray
from sb3_ppo_notes.formulas.checks import InvalidValueError, NonFiniteError
from sb3_ppo_notes.formulas.statistics import bootstrap_interval, iqm, normalized_scores
from sb3_ppo_notes.runs.compare.pool import Key
from sb3_ppo_notes.runs.compare.run import FINISHED, POINTS, RANDOM

#: Resamples of what is only drawn; a verdict takes 50,000.
RESAMPLES_OF_PLOTS = 2000
#: Seed of every bootstrap, so that the same scores have the same intervals.
BOOTSTRAP_SEED = 0
#: Seconds of a record by which a speed is taken.
SPEEDS = {"steps_per_second": "train_seconds", "steps_per_cpu_second": "cpu_seconds"}


class Estimate(NamedTuple):
    """A number and its 95 % bootstrap interval."""

    value: float
    low: float
    high: float


@dataclass(frozen=True)
class Results:
    """All runs of a comparison: records by arm, task and seed, the baseline first, the scales complete."""

    arms: Sequence[str]
    envs: Sequence[str]
    seeds: Sequence[int]
    records: Mapping[Key, dict[str, Any]]
    scales: Mapping[str, Scale]

    def record(self, arm: str, env: str, seed: int) -> dict[str, Any]:
        """The record of one run."""
        return self.records[(arm, env, seed)]

    def is_failed(self, arm: str, env: str, seed: int) -> bool:
        """True for a run that ended without a score: it raised, or was killed."""
        return bool(self.record(arm, env, seed)["status"] != FINISHED)

    def failures(self, arm: str) -> list[tuple[str, int]]:
        """Task and seed of each run of an arm that failed."""
        return [(env, seed) for env in self.envs for seed in self.seeds if self.is_failed(arm, env, seed)]

    def returns(self, arm: str, env: str) -> FloatArray:
        """Final returns ``[seeds]``; a run that failed has a random policy's."""
        random = self.scales[env].random
        return np.array(
            [random if self.is_failed(arm, env, seed) else self.record(arm, env, seed)["score"] for seed in self.seeds],
            dtype=float,
        )

    def scores(self, arm: str) -> FloatArray:
        """Final scores on one scale, ``[seeds, tasks]``."""
        raw = np.stack([self.returns(arm, env) for env in self.envs], axis=1)
        low = np.array([self.scales[env].random for env in self.envs], dtype=float)
        high = np.array([self.scales[env].reference for env in self.envs], dtype=float)
        return normalized_scores(raw, low, high)

    def curves(self, arm: str, env: str, name: str) -> FloatArray:
        """The return, or a quantity of ``run.WATCHED``, while training: ``[seeds, POINTS]``, NaN where unknown.

        Returns have no gaps: each goes on until the next one, and a run that failed has a random policy's.
        """
        rows = []
        for seed in self.seeds:
            record = self.record(arm, env, seed)
            row = np.array(record.get("curves", {}).get(name, [None] * POINTS), dtype=float)
            if name == "return":
                is_failed = self.is_failed(arm, env, seed)
                row = fill_gaps(row, float(self.scales[env].random or 0.0) if is_failed else record["score"])
            rows.append(row)
        return np.stack(rows)

    def numbers(self, arm: str, env: str, name: str) -> FloatArray:
        """A number of each run that finished, by its name in the record or one of the two speeds."""
        finished = [self.record(arm, env, seed) for seed in self.seeds if not self.is_failed(arm, env, seed)]
        if name in SPEEDS:
            return np.array([record["steps"] / record[SPEEDS[name]] for record in finished], dtype=float)
        return np.array([record[name] for record in finished], dtype=float)

    def unlearnt_tasks(self) -> list[str]:
        """Tasks without a published scale on which no arm does better than a random policy."""
        return [env for env in self.envs if self.scales[env].source == NO_SCALE]


NO_SCALE = "none: no arm does better than a random policy"


def complete_scales(
    scales: Mapping[str, Scale], arms: Sequence[str], seeds: Sequence[int], records: Mapping[Key, dict[str, Any]]
) -> dict[str, Scale]:
    """The scales with what had to be measured, without ``None``; refused if the random policy could not be measured."""
    complete = {}
    for env, scale in scales.items():
        random, reference, source = scale.random, scale.reference, scale.source
        if random is None:
            measured = records[(RANDOM, env, 0)]
            if measured["status"] != FINISHED:
                raise InvalidValueError(f"envs: a random policy cannot play {env}: {measured['error']}")
            random = float(measured["score"])
        if reference is None or reference <= random:
            means = [
                np.mean([records[(arm, env, seed)].get("score", random) for seed in seeds], dtype=float) for arm in arms
            ]
            reference, source = float(max(means)), "the best arm's mean"
        if reference <= random:
            # Any scale will do: there is nothing to be measured with it, and nothing is claimed.
            reference, source = random + 1.0, NO_SCALE
        complete[env] = Scale(random, reference, source)
    return complete


def check_scores(records: Mapping[Key, dict[str, Any]]) -> None:
    """Refuse records that say "finished" and have no number."""
    for (arm, env, seed), record in records.items():
        score = record.get("score")
        if record["status"] == FINISHED and not (isinstance(score, int | float) and np.isfinite(score)):
            raise NonFiniteError(f"scores must be finite, got {score} for {arm} on {env}, seed {seed}")


def fill_gaps(curve: FloatArray, otherwise: float) -> FloatArray:
    """A curve ``[K]`` in which each value goes on until the next one, and the first one began at once.

    ``otherwise`` stands in for a curve of NaN only.

    >>> fill_gaps(np.array([np.nan, 2.0, np.nan, 3.0]), otherwise=0.0).tolist()
    [2.0, 2.0, 2.0, 3.0]
    """
    places = np.flatnonzero(np.isfinite(curve))
    if len(places) == 0:
        return np.full_like(curve, otherwise)
    latest = np.maximum(np.searchsorted(places, np.arange(len(curve)), side="right") - 1, 0)
    return np.asarray(curve[places[latest]])


def iqm_of_columns(values: FloatArray) -> FloatArray:
    """Interquartile mean over seeds, point by point: ``[..., seeds, points]`` to ``[..., points]``."""
    return np.stack([iqm(values[..., [point]]) for point in range(values.shape[-1])], axis=-1)


def estimate(statistic: Callable[..., FloatArray], *arms: FloatArray, resamples: int = RESAMPLES_OF_PLOTS) -> Estimate:
    """A statistic of one number with its interval, from ``[seeds, tasks]`` each with two seeds at least."""
    generator = np.random.default_rng(BOOTSTRAP_SEED)
    low, high = bootstrap_interval(statistic, arms, generator, resamples=resamples)
    return Estimate(float(statistic(*arms)), float(low), float(high))


def estimates(statistic: Callable[..., FloatArray], values: FloatArray) -> tuple[FloatArray, FloatArray, FloatArray]:
    """A statistic of many numbers, from ``[seeds, points]``: values, lower and upper ends, ``[points]`` each."""
    generator = np.random.default_rng(BOOTSTRAP_SEED)
    low, high = bootstrap_interval(statistic, [values], generator, resamples=RESAMPLES_OF_PLOTS)
    return np.asarray(statistic(values)), low, high
