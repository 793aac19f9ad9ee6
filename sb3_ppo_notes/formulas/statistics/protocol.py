"""The rule by which two algorithms are compared. Its numbers were fixed before anything was measured with it.

Nothing here is a knob: a margin chosen after the scores are seen proves whatever it was chosen for.
"""

from typing import Literal, NamedTuple

import numpy as np

from sb3_ppo_notes.formulas.advantages import FloatArray
from sb3_ppo_notes.formulas.checks import InvalidValueError, check_integer
from sb3_ppo_notes.formulas.statistics.bootstrap import RESAMPLES, bootstrap_interval
from sb3_ppo_notes.formulas.statistics.checks import check_same_tasks, checked_scores, finite_array
from sb3_ppo_notes.formulas.statistics.scores import iqm, probability_of_improvement
from sb3_ppo_notes.formulas.statistics.welch import holm_adjusted, welch_test

MARGIN = 0.05
SIGNIFICANCE = 0.05
SEEDS_TO_REPORT = 10
SEEDS_FOR_A_VERDICT = 20

Verdict = Literal["as good", "better", "worse", "no difference shown"]


class Comparison(NamedTuple):
    """A verdict and all that it rests on. Plain numbers, so that it compares and goes into JSON.

    :param verdict: what may be claimed about the candidate.
    :param difference: IQM of the candidate − IQM of the baseline; normalised scores.
    :param difference_interval: its 95 % interval; normalised scores.
    :param improvement: probability that a run of the candidate beats one of the baseline.
    :param improvement_interval: its 95 % interval.
    :param task_differences: of each task, mean of the candidate − mean of the baseline; normalised scores.
    :param task_p_values: of each task, Welch's p-value after Holm's correction.
    :param failed_runs: of the candidate, of the baseline.
    """

    verdict: Verdict
    difference: float
    difference_interval: tuple[float, float]
    improvement: float
    improvement_interval: tuple[float, float]
    task_differences: tuple[float, ...]
    task_p_values: tuple[float, ...]
    failed_runs: tuple[int, int]


def difference_of_iqms(candidate: FloatArray, baseline: FloatArray) -> FloatArray:
    """By how much the candidate's interquartile mean is the higher one.

        Δ = IQM(candidate) − IQM(baseline)

    0: equal. Changes sign when the arms are exchanged. Of normalised scores, 0.05 is 5 % of the way from a random
    policy to the reference.

    Source: Agarwal et al. 2021, §4.3.

    :param candidate: ``[..., seeds, tasks]``; normalised.
    :param baseline: ``[..., seeds, tasks]`` of the same tasks; normalised.
    :return: ``[...]``, a scalar for one pair; the scores' unit.
    :raises ValueError: for bad scores or different tasks.

    >>> float(difference_of_iqms(np.array([[0.0], [1.0], [1.0], [9.0]]), np.array([[0.5]])))
    0.5
    """
    candidate, baseline = checked_scores("candidate", candidate), checked_scores("baseline", baseline)
    check_same_tasks(candidate=candidate, baseline=baseline)
    return np.asarray(iqm(candidate) - iqm(baseline))


def worse_tasks(differences: FloatArray, adjusted_p_values: FloatArray) -> FloatArray:
    """Whether each task is shown to be worse.

        1 if x̄ < ȳ and p̃ < 0.05, else 0

    The test is two-sided, so an arm that is the same on every task is called worse on some task in about 2.5 % of all
    comparisons. 0 means "not shown", which is not "not worse".

    Source: Welch 1947 with Holm 1979; the comparison protocol of this package.

    :param differences: ``[tasks]``, mean of the candidate − mean of the baseline; the scores' unit.
    :param adjusted_p_values: ``[tasks]``, two-sided, after Holm's correction.
    :return: ``[tasks]``, 0 or 1.
    :raises ValueError: if the shapes differ.

    >>> worse_tasks(np.array([-0.1, -0.1, 0.1]), np.array([0.01, 0.2, 0.01])).tolist()
    [1.0, 0.0, 0.0]
    """
    differences, p_values = finite_array("differences", differences), finite_array("p_values", adjusted_p_values)
    if differences.shape != p_values.shape:
        raise InvalidValueError(
            f"adjusted_p_values must have shape {differences.shape}, one a task, got {p_values.shape}"
        )
    return ((differences < 0) & (p_values < SIGNIFICANCE)).astype(np.float64)


def verdict(
    difference_interval: tuple[float, float],
    improvement_interval: tuple[float, float],
    n_worse_tasks: int,
    failed_runs: tuple[int, int],
) -> Verdict:
    """What may be claimed about the candidate, the first line that holds.

        all of  Δ's lower end > −0.05
                P's upper end ≥ ½
                no task shown worse
                no more failed runs   :  "better" if Δ's lower end > 0, else "as good"
        any of  Δ's upper end < 0
                P's upper end < ½
                a task shown worse    :  "worse"
        neither                       :  "no difference shown"

    The burden of proof is the candidate's: few or scattered seeds widen the intervals and end in "no difference shown",
    never in "as good". "As good" is "not worse by more than 0.05", not "equal": an interval of (−0.03, −0.01) passes.
    More failed runs forbid "as good" and "better", but a count is no test and does not show "worse" by itself.

    Source: the comparison protocol of this package, written down before it was used; non-inferiority by the lower end
    of an interval as in Walker & Nowacki 2011.

    :param difference_interval: scalars, 95 % interval of Δ = IQM(candidate) − IQM(baseline); normalised scores.
    :param improvement_interval: scalars, 95 % interval of P = P(candidate > baseline).
    :param n_worse_tasks: on how many tasks the candidate is shown to be worse.
    :param failed_runs: of the candidate, of the baseline.
    :return: one of the four.
    :raises ValueError: for an interval that is none, or a negative count.

    >>> verdict((-0.04, 0.02), (0.4, 0.6), 0, (0, 0)), verdict((0.01, 0.02), (0.6, 0.7), 0, (0, 0))
    ('as good', 'better')
    >>> verdict((-0.09, -0.01), (0.2, 0.5), 0, (0, 0)), verdict((-0.09, 0.02), (0.4, 0.6), 0, (0, 0))
    ('worse', 'no difference shown')
    """
    for name, ends in (("difference_interval", difference_interval), ("improvement_interval", improvement_interval)):
        if np.shape(ends) != (2,) or not ends[0] <= ends[1]:
            raise InvalidValueError(f"{name} must be a lower and an upper end, got {ends!r}")
    for name, count in (("n_worse_tasks", n_worse_tasks), *(("failed_runs", count) for count in failed_runs)):
        check_integer(name, count, minimum=0)
    a_task_is_worse = n_worse_tasks > 0
    seldom_improves = improvement_interval[1] < 0.5
    more_failures = failed_runs[0] > failed_runs[1]
    if not (difference_interval[0] <= -MARGIN or seldom_improves or a_task_is_worse or more_failures):
        return "better" if difference_interval[0] > 0 else "as good"
    shown_worse = difference_interval[1] < 0 or seldom_improves or a_task_is_worse
    return "worse" if shown_worse else "no difference shown"


def comparison(
    candidate: FloatArray,
    baseline: FloatArray,
    failed_runs: tuple[int, int],
    generator: np.random.Generator,
    resamples: int = RESAMPLES,
    preliminary: bool = False,
) -> Comparison:
    """Everything the rule asks about two arms, and its verdict.

        Δ and P with stratified percentile intervals; Welch's test per task, Holm's correction over tasks; failed runs

    A run that failed (it raised, or its numbers were no longer finite) keeps its place with the score of a random
    policy, 0: leaving it out would reward the arm that fails more often.

    The rule does not change with the number of seeds. With 10 to 19 of them its intervals are a little too short (see
    ``bootstrap_interval``: 91 to 93 % instead of 95 %), so such a verdict has to be asked for, and called, preliminary.

    Source: the comparison protocol of this package; Agarwal et al. 2021, §4; Colas et al. 2019.

    :param candidate: ``[seeds, tasks]``, at least 20 seeds; normalised.
    :param baseline: ``[seeds, tasks]``, at least 20 seeds of the same tasks; normalised.
    :param failed_runs: of the candidate, of the baseline.
    :param generator: where the resamples come from; it moves on.
    :param resamples: of each of the two intervals.
    :param preliminary: whether 10 seeds are enough, for a verdict that is then shown as preliminary.
    :return: the verdict with the scalars, intervals and p-values that it rests on.
    :raises ValueError: for bad scores, too few seeds, different tasks, or impossible numbers of failed runs.
    :raises TypeError: if ``generator`` is none.

    >>> seeds = np.linspace(0.6, 1.0, 20)[:, np.newaxis]
    >>> comparison(seeds - 0.3, seeds, (0, 0), np.random.default_rng(0), resamples=200).verdict
    'worse'
    """
    minimum_seeds = SEEDS_TO_REPORT if preliminary else SEEDS_FOR_A_VERDICT
    candidate = checked_scores("candidate", candidate, minimum_seeds=minimum_seeds)
    baseline = checked_scores("baseline", baseline, minimum_seeds=minimum_seeds)
    check_same_tasks(candidate=candidate, baseline=baseline)
    _check_failed_runs(failed_runs, (candidate.size, baseline.size))
    arms = (candidate, baseline)
    difference = bootstrap_interval(difference_of_iqms, arms, generator, resamples=resamples)
    improvement = bootstrap_interval(probability_of_improvement, arms, generator, resamples=resamples)
    test = welch_test(candidate, baseline)
    p_values = holm_adjusted(test.p_values)
    difference_interval = (float(difference[0]), float(difference[1]))
    improvement_interval = (float(improvement[0]), float(improvement[1]))
    n_worse_tasks = int(worse_tasks(test.differences, p_values).sum())
    return Comparison(
        verdict=verdict(difference_interval, improvement_interval, n_worse_tasks, failed_runs),
        difference=float(difference_of_iqms(candidate, baseline)),
        difference_interval=difference_interval,
        improvement=float(probability_of_improvement(candidate, baseline)),
        improvement_interval=improvement_interval,
        task_differences=tuple(map(float, test.differences)),
        task_p_values=tuple(map(float, p_values)),
        failed_runs=failed_runs,
    )


def a_a_check(
    first: FloatArray,
    second: FloatArray,
    failed_runs: tuple[int, int],
    generator: np.random.Generator,
    resamples: int = RESAMPLES,
) -> bool:
    """Whether the rule finds two groups of seeds of one algorithm "as good", and nothing more.

        passes  ⇔  verdict(first, second) = "as good"

    The comparison's own test, made before it is believed. "Better" and "worse" are false claims: a sound harness
    makes one in 5 to 9 % of all checks (simulated), an unfair one (an arm evaluated with other episodes, a score read
    off at another step) nearly always. "No difference shown" says that these seeds scatter too much for a margin of
    0.05, and a candidate will hardly be called as good on these tasks either. How often the check passes with 20 seeds
    (simulated): standard deviation 0.05, 0.1, 0.2 on four tasks 93, 79, 30 %; on one task 78, 25, 8 %.

    Source: Kohavi, Tang & Xu 2020, "Trustworthy online controlled experiments", chapter 19; the comparison protocol of
    this package.

    :param first: ``[seeds, tasks]``, at least 20 seeds, run and scored as the candidate is; normalised.
    :param second: ``[seeds, tasks]``, at least 20 *other* seeds of the same algorithm, scored as the baseline is.
    :param failed_runs: of the first group, of the second.
    :param generator: where the resamples come from; it moves on.
    :param resamples: of each of the two intervals.
    :return: a scalar, whether the check passes.
    :raises ValueError: as ``comparison``; and if both groups are the same scores, though these vary from seed to seed.
    :raises TypeError: if ``generator`` is none.

    >>> seeds = np.linspace(0.9, 1.0, 40)[:, np.newaxis]
    >>> a_a_check(seeds[::2], seeds[1::2], (0, 0), np.random.default_rng(0), resamples=200)
    True
    """
    first, second = checked_scores("first", first), checked_scores("second", second)
    # Where every seed scores the same (CartPole at 500), equal groups are an honest result.
    if np.array_equal(first, second) and np.ptp(first, axis=0).any():
        raise InvalidValueError("second must come from other seeds than first, got the same scores")
    return comparison(first, second, failed_runs, generator, resamples).verdict == "as good"


def _check_failed_runs(failed_runs: tuple[int, int], runs: tuple[int, int]) -> None:
    if np.shape(failed_runs) != (2,):
        raise InvalidValueError(f"failed_runs must be a number for either arm, got {failed_runs!r}")
    for failed, total in zip(failed_runs, runs, strict=True):
        check_integer("failed_runs", failed, minimum=0)
        if failed > total:
            raise InvalidValueError(f"failed_runs must be at most the number of runs, {total}, got {failed}")
