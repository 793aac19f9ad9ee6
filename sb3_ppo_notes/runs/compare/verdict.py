"""The verdicts of a comparison, and what they say in words."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Literal

import numpy as np

from sb3_ppo_notes.formulas.advantages import FloatArray
from sb3_ppo_notes.formulas.statistics import (
    MARGIN,
    RESAMPLES,
    SEEDS_FOR_A_VERDICT,
    SEEDS_TO_REPORT,
    Comparison,
    comparison,
    iqm,
    optimality_gap,
    sample_efficiency_area,
)
from sb3_ppo_notes.runs.compare.phrases import headline, meaning, with_sign
from sb3_ppo_notes.runs.compare.results import BOOTSTRAP_SEED, Estimate, Results, estimate
from sb3_ppo_notes.runs.compare.run import POINTS


@dataclass(frozen=True)
class Summary:
    """One arm in numbers, over all tasks; normalised.

    :param iqm: interquartile mean of the final scores.
    :param optimality_gap: shortfall of the runs to 1 on average.
    :param area: interquartile mean of the area under the training curves.
    """

    arm: str
    iqm: Estimate
    optimality_gap: Estimate
    area: Estimate
    failed_runs: int


@dataclass(frozen=True)
class Judgement:
    """The verdict on a candidate.

    :param verdict: one of the four, ``None`` where none can be given.
    :param identical: every weight and every episode of all runs are equal bit for bit.
    :param preliminary: there are fewer seeds than a verdict asks for.
    :param meaning: sentences, for somebody who has not read the protocol.
    :param numbers: that the rule looked at, ``None`` below ten seeds.
    :param speed_ratio: median steps per second over the baseline's, by task; ``None`` where runs are missing.
    :param cpu_speed_ratio: the same by processor time, which others on the machine disturb less.
    """

    candidate: str
    baseline: str
    verdict: str | None
    identical: bool
    preliminary: bool
    headline: str
    meaning: tuple[str, ...]
    numbers: Comparison | None
    speed_ratio: dict[str, Estimate | None]
    cpu_speed_ratio: dict[str, Estimate | None]


@dataclass(frozen=True)
class AACheck:
    """The comparison's own test: the baseline against itself with other seeds."""

    arm: str
    outcome: Literal["passed", "not conclusive", "FAILED"]
    meaning: str
    numbers: Comparison


def summary(results: Results, arm: str) -> Summary:
    """One arm in numbers."""
    scores = results.scores(arm)
    return Summary(
        arm=arm,
        iqm=estimate(iqm, scores),
        optimality_gap=estimate(optimality_gap, scores),
        area=estimate(iqm, areas(results, arm)),
        failed_runs=len(results.failures(arm)),
    )


def areas(results: Results, arm: str) -> FloatArray:
    """Mean heights of the training curves, ``[seeds, tasks]``: how early the runs learnt."""
    columns = []
    for env in results.envs:
        scale = results.scales[env]
        raw = sample_efficiency_area(results.curves(arm, env, "return"), np.arange(1.0, POINTS + 1))
        columns.append((raw - scale.random) / (scale.reference - scale.random))  # type: ignore[operator]
    return np.stack(columns, axis=1)


def judge(results: Results, candidate: str) -> Judgement:
    """The verdict on a candidate against the first arm."""
    baseline, seeds = results.arms[0], len(results.seeds)
    numbers = None
    if seeds >= SEEDS_TO_REPORT:
        failed_runs = (len(results.failures(candidate)), len(results.failures(baseline)))
        numbers = _compare(results.scores(candidate), results.scores(baseline), failed_runs)
    identical = are_identical(results, candidate, baseline)
    verdict = None if numbers is None or results.unlearnt_tasks() else "as good" if identical else numbers.verdict
    return Judgement(
        candidate=candidate,
        baseline=baseline,
        verdict=verdict,
        identical=identical,
        preliminary=verdict is not None and not identical and seeds < SEEDS_FOR_A_VERDICT,
        headline=headline(results, verdict, identical),
        meaning=meaning(results, candidate, baseline, verdict, identical, numbers),
        numbers=numbers,
        speed_ratio=_speed_ratios(results, candidate, baseline, "steps_per_second"),
        cpu_speed_ratio=_speed_ratios(results, candidate, baseline, "steps_per_cpu_second"),
    )


def _compare(candidate: FloatArray, baseline: FloatArray, failed_runs: tuple[int, int]) -> Comparison:
    generator, preliminary = np.random.default_rng(BOOTSTRAP_SEED), len(candidate) < SEEDS_FOR_A_VERDICT
    return comparison(candidate, baseline, failed_runs, generator, RESAMPLES, preliminary)


def are_identical(results: Results, one: str, other: str) -> bool:
    """Are all parameters and evaluation episodes of two arms equal, bit for bit? A run that failed equals none."""
    for env in results.envs:
        for seed in results.seeds:
            if results.is_failed(one, env, seed) or results.is_failed(other, env, seed):
                return False
            a, b = results.record(one, env, seed), results.record(other, env, seed)
            if a["parameters"] != b["parameters"] or a["episode_returns"] != b["episode_returns"]:
                return False
    return True


def _speed_ratios(results: Results, candidate: str, baseline: str, name: str) -> dict[str, Estimate | None]:
    ratios = {}
    for env in results.envs:
        ours, theirs = (results.numbers(arm, env, name)[:, np.newaxis] for arm in (candidate, baseline))
        ratios[env] = estimate(ratio_of_medians, ours, theirs) if min(len(ours), len(theirs)) >= 2 else None
    return ratios


def ratio_of_medians(ours: FloatArray, theirs: FloatArray) -> FloatArray:
    """Ratio of the medians over runs: ``[..., runs, 1]`` each to ``[...]``."""
    return np.asarray(np.median(ours, axis=(-2, -1)) / np.median(theirs, axis=(-2, -1)))


def a_a_check(results: Results, others: Sequence[int]) -> AACheck:
    """Compare the baseline with itself, by seeds that no candidate was judged by."""
    arm = results.arms[0]
    again = Results([arm], results.envs, others, results.records, results.scales)
    failed_runs = (len(again.failures(arm)), len(results.failures(arm)))
    numbers = _compare(again.scores(arm), results.scores(arm), failed_runs)
    against = f"{arm} with seeds {others[0]} to {others[-1]} against {arm} with seeds {results.seeds[0]} to"
    low, high = (with_sign(end) for end in numbers.difference_interval)
    say = partial(AACheck, arm, numbers=numbers)
    sentence = f"{against} {results.seeds[-1]}: {numbers.verdict}, difference between {low} and {high}"
    if numbers.verdict == "as good":
        return say("passed", f"{sentence}.")
    if numbers.verdict == "no difference shown":
        return say("not conclusive", f"{sentence}. These seeds scatter too much for a margin of {MARGIN}: use more.")
    return say("FAILED", f"{sentence}. It is the same algorithm: this comparison finds differences that are not there.")
