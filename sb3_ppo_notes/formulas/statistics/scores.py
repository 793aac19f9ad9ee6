"""One number, or one curve, for a whole matrix of scores.

Scores are ``[seeds, tasks]``, one final score a run. Leading axes are resamples of the bootstrap: every function works
on ``[..., seeds, tasks]`` and reduces the last two, so that thousands of resamples are one call.
"""

import numpy as np

from sb3_ppo_notes.formulas.advantages import FloatArray
from sb3_ppo_notes.formulas.checks import InvalidValueError, check_real
from sb3_ppo_notes.formulas.statistics.checks import check_same_tasks, checked_scores, finite_array


def normalized_scores(scores: FloatArray, random_scores: FloatArray, reference_scores: FloatArray) -> FloatArray:
    """Scores on one scale for all tasks.

        x ← (x − random) / (reference − random)    per task

    0 plays like a random policy, 1 like the reference, and it may leave [0, 1] on either side. Without it a mean over
    CartPole (up to 500) and Pendulum (down to −1600) is Pendulum's alone.

    Source: Mnih et al. 2015, "Human-level control", Figure 3 (human-normalised).

    :param scores: ``[..., seeds, tasks]``; reward units.
    :param random_scores: ``[tasks]``, mean return of a random policy; reward units.
    :param reference_scores: ``[tasks]``, above the random ones; reward units.
    :return: ``[..., seeds, tasks]``; dimensionless.
    :raises ValueError: for bad scores, other tasks, or a reference that is not above random.

    >>> normalized_scores(np.array([[260.0, -800.0]]), np.array([20.0, -1200.0]), np.array([500.0, -200.0])).tolist()
    [[0.5, 0.4]]
    """
    scores = checked_scores("scores", scores)
    low, high = finite_array("random_scores", random_scores), finite_array("reference_scores", reference_scores)
    for name, values in (("random_scores", low), ("reference_scores", high)):
        if values.shape != scores.shape[-1:]:
            raise InvalidValueError(f"{name} must have shape {scores.shape[-1:]}, one a task, got {values.shape}")
    if not (high > low).all():
        task = int(np.flatnonzero(high <= low)[0])
        raise InvalidValueError(
            f"reference_scores must be above random_scores, got {high[task]} <= {low[task]} for task {task}"
        )
    return np.asarray((scores - low) / (high - low))


def iqm(scores: FloatArray) -> FloatArray:
    """Interquartile mean: the mean of the middle half of all runs, whatever their tasks.

        IQM = mean of x₍c+1₎ … x₍n−c₎ ,   c = ⌊n/4⌋ ,   n = seeds × tasks, sorted

    Between mean and median: one lucky or crashed run out of four does not move it, and it still uses half of the data
    (the median: two numbers). With fewer than 4 runs nothing is cut and it is the mean; where n is no multiple of 4 a
    little more than half is kept. Only for scores on one scale; see ``normalized_scores``.

    Source: Agarwal et al. 2021, "Deep RL at the edge of the statistical precipice", §4.3; rliable's ``aggregate_iqm``.

    :param scores: ``[..., seeds, tasks]``; normalised.
    :return: ``[...]``, a scalar for one matrix; the scores' unit.
    :raises ValueError: for bad scores.

    >>> float(iqm(np.array([[0.0, 2.0], [4.0, 1000.0]])))  # 0 and 1000 are cut
    3.0
    """
    scores = checked_scores("scores", scores)
    runs = np.sort(scores.reshape(*scores.shape[:-2], -1), axis=-1)
    cut = runs.shape[-1] // 4
    return np.asarray(runs[..., cut : runs.shape[-1] - cut].mean(axis=-1))


def optimality_gap(scores: FloatArray, target: float = 1.0) -> FloatArray:
    """How far the runs fall short of a target, on average.

        γ − mean(min(x, γ))

    0: every run reached it. What a run has above the target does not make up for another one below, as it would in a
    mean. Lower is better.

    Source: Agarwal et al. 2021, §4.3; rliable's ``aggregate_optimality_gap``.

    :param scores: ``[..., seeds, tasks]``; normalised.
    :param target: γ, any finite number; 1 is the reference of ``normalized_scores``.
    :return: ``[...]``, a scalar for one matrix, >= 0; the scores' unit.
    :raises ValueError: for bad scores or a target that is not finite.

    >>> float(optimality_gap(np.array([[0.5, 3.0], [1.0, 0.0]])))  # (0.5 + 0 + 0 + 1) / 4
    0.375
    """
    check_real("target", target, "a finite number")
    # As a mean of shortfalls, which is exactly 0 where all reach the target; γ − mean rounds.
    return np.asarray(np.maximum(target - checked_scores("scores", scores), 0).mean(axis=(-2, -1)))


def performance_profile(scores: FloatArray, thresholds: FloatArray) -> FloatArray:
    """Share of runs above each threshold: the tail of the score distribution.

        F(τ) = 1/M Σₘ 1/N Σₙ [xₙₘ > τ]

    Falls from 1 to 0. Where one profile lies above the other everywhere, that arm is better at every percentile; where
    they cross, one number cannot rank them. The area under it over [0, ∞) is the mean.

    Source: Agarwal et al. 2021, §4.2 ("run-score distribution"); rliable's ``run_score_deviation``.

    :param scores: ``[..., seeds, tasks]``, N seeds of M tasks; normalised.
    :param thresholds: ``[K]``, τ; the scores' unit.
    :return: ``[..., K]``, in [0, 1]; dimensionless.
    :raises ValueError: for bad scores or thresholds.

    >>> performance_profile(np.array([[0.0, 0.5], [1.0, 1.5]]), np.array([-1.0, 0.5, 2.0])).tolist()
    [1.0, 0.5, 0.0]
    """
    scores, thresholds = checked_scores("scores", scores), finite_array("thresholds", thresholds)
    if thresholds.ndim != 1:
        raise InvalidValueError(f"thresholds must have shape [K], got {thresholds.shape}")
    return np.asarray((scores[..., np.newaxis] > thresholds).mean(axis=(-3, -2)))


def probability_of_improvement(candidate: FloatArray, baseline: FloatArray) -> FloatArray:
    """How likely a run of the candidate is to beat a run of the baseline on a task drawn at random.

        P = 1/M Σₘ 1/(N·K) Σᵢⱼ ([xᵢₘ > yⱼₘ] + ½·[xᵢₘ = yⱼₘ])

    ½: as often above as below. 1: the candidate's worst run beats the baseline's best. It says how *often*, never by
    how much, and needs no normalised scores. With the arms exchanged it is 1 − P, because ties count half.

    Source: Agarwal et al. 2021, §4.3 (Mann & Whitney 1947: U/(N·K) per task).

    :param candidate: ``[..., seeds, tasks]``, x, N seeds.
    :param baseline: ``[..., seeds, tasks]``, y, K seeds (may differ from N) of the same tasks.
    :return: ``[...]``, a scalar for one pair, in [0, 1]; dimensionless.
    :raises ValueError: for bad scores or different tasks.

    >>> float(probability_of_improvement(np.array([[1.0], [3.0]]), np.array([[0.0], [1.0]])))  # 1, ½, 1, 1
    0.875
    """
    candidate, baseline = checked_scores("candidate", candidate), checked_scores("baseline", baseline)
    check_same_tasks(candidate=candidate, baseline=baseline)
    ours, theirs = candidate[..., :, np.newaxis, :], baseline[..., np.newaxis, :, :]
    above, ties = np.count_nonzero(ours > theirs, axis=(-3, -2)), np.count_nonzero(ours == theirs, axis=(-3, -2))
    pairs = candidate.shape[-2] * baseline.shape[-2]
    return np.asarray((2 * above + ties).sum(axis=-1) / (2 * pairs * candidate.shape[-1]))


def sample_efficiency_area(curves: FloatArray, steps: FloatArray) -> FloatArray:
    """Mean height of each learning curve: the area under it over the budget.

        A = 1/(s_K − s₁) · Σₖ (sₖ₊₁ − sₖ)·(xₖ + xₖ₊₁)/2

    Of two runs that end equally high the one that rose earlier has the larger area. A flat curve's area is its height;
    a run that learns nothing until its last evaluation keeps nearly none of what it then shows. Only to be compared at
    equal ``steps``.

    Source: Taylor & Stone 2009, "Transfer learning for RL domains", §2.1 ("total reward"), divided by the budget.

    :param curves: ``[..., seeds, points]``, score at each evaluation.
    :param steps: ``[points]``, where the evaluations were, increasing; environment steps.
    :return: ``[..., seeds]``; the scores' unit.
    :raises ValueError: for bad curves, fewer than two points, or steps that do not increase.

    >>> sample_efficiency_area(np.array([[0.0, 1.0, 1.0], [0.0, 0.0, 1.0]]), np.array([0, 10, 40])).tolist()
    [0.875, 0.375]
    """
    curves, steps = checked_scores("curves", curves, columns="points"), finite_array("steps", steps)
    if steps.shape != curves.shape[-1:] or len(steps) < 2:
        raise InvalidValueError(
            f"steps must have shape {curves.shape[-1:]}, one a point, and at least two, got {steps.shape}"
        )
    widths = np.diff(steps)
    if not (widths > 0).all():
        raise InvalidValueError(f"steps must increase, got {steps.tolist()}")
    return np.asarray((curves[..., 1:] + curves[..., :-1]) / 2 @ widths / (steps[-1] - steps[0]))
