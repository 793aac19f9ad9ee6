"""Is one arm worse on one task? Welch's test, and Holm's correction for having asked once per task."""

import math
from typing import NamedTuple

import numpy as np

from sb3_ppo_notes.formulas.advantages import FloatArray
from sb3_ppo_notes.formulas.checks import InvalidValueError, check_positive, check_real
from sb3_ppo_notes.formulas.statistics.checks import check_same_tasks, checked_scores, finite_array


class WelchTest(NamedTuple):
    """Welch's test of each task.

    :param differences: ``[tasks]``, mean of the candidate − mean of the baseline; the scores' unit.
    :param statistics: ``[tasks]``, t; dimensionless.
    :param degrees_of_freedom: ``[tasks]``, need not be whole; dimensionless.
    :param p_values: ``[tasks]``, two-sided, in [0, 1].
    """

    differences: FloatArray
    statistics: FloatArray
    degrees_of_freedom: FloatArray
    p_values: FloatArray


def welch_test(candidate: FloatArray, baseline: FloatArray) -> WelchTest:
    """Welch's t-test of every task, whether the two means differ.

        t = (x̄ − ȳ) / √(a + b) ,   df = (a + b)² / (a²/(N−1) + b²/(K−1)) ,   a = s²ₓ/N ,  b = s²ᵧ/K

    The two variances may differ (Student's test assumes that they do not, and an algorithm that fails on some seeds
    breaks that). Unpaired. Equal variances and N = K: df = 2N − 2. One arm that does not vary at all: df is the other
    one's N − 1.

    Source: Welch 1947, "The generalization of Student's problem"; recommended for this by Colas et al. 2018, 2019.

    Deviation: where neither arm varies SciPy returns NaN; here equal constants have p = 1 and different ones p = 0,
    with df = N + K − 2. CartPole at 500 on every seed of both arms is such a case, and a common one.

    :param candidate: ``[seeds, tasks]``, x, N >= 2 seeds.
    :param baseline: ``[seeds, tasks]``, y, K >= 2 seeds of the same tasks.
    :return: four arrays ``[tasks]``.
    :raises ValueError: for bad scores, one seed, or different tasks.

    >>> test = welch_test(np.array([[1.0], [2.0], [3.0]]), np.array([[3.0], [4.0], [5.0]]))  # a = b = 1/3
    >>> [round(float(number[0]), 4) for number in test]
    [-2.0, -2.4495, 4.0, 0.0705]
    """
    candidate = checked_scores("candidate", candidate, minimum_seeds=2)
    baseline = checked_scores("baseline", baseline, minimum_seeds=2)
    check_same_tasks(candidate=candidate, baseline=baseline)
    if candidate.ndim != 2 or baseline.ndim != 2:
        raise InvalidValueError(
            f"candidate and baseline must have shape [seeds, tasks], got {candidate.shape} and {baseline.shape}"
        )
    (mean, spread), (other_mean, other_spread) = _mean_and_error(candidate), _mean_and_error(baseline)
    difference, variance = mean - other_mean, spread + other_spread
    varies = variance > 0
    share = np.divide(spread, variance, out=np.full_like(variance, 0.5), where=varies)
    n, k = len(candidate), len(baseline)
    # Of shares, not of variances: those of nearly constant scores underflow when squared.
    freedom = np.where(varies, 1 / (share**2 / (n - 1) + (1 - share) ** 2 / (k - 1)), n + k - 2)
    without_variance = np.where(difference == 0, 0.0, np.copysign(np.inf, difference))
    statistic = np.divide(difference, np.sqrt(variance), out=without_variance, where=varies)
    p_values = [student_t_p_value(float(t), float(nu)) for t, nu in zip(statistic, freedom, strict=True)]
    return WelchTest(difference, statistic, freedom, np.array(p_values))


def _mean_and_error(scores: FloatArray) -> tuple[FloatArray, FloatArray]:
    # Measured from the first seed, so that a constant column has a variance of exactly 0 and keeps its own value as its
    # mean: twenty times 0.1 have a mean of 0.10000000000000002, and "differ" from thirty times 0.1 with p = 0.
    shifted = scores - scores[0]
    return scores[0] + shifted.mean(axis=0), shifted.var(axis=0, ddof=1) / len(scores)


def student_t_p_value(statistic: float, degrees_of_freedom: float) -> float:
    """Two-sided p-value of Student's t.

        P(|T| ≥ |t|) = I_x(df/2, ½) ,   x = df / (df + t²)

    1 at t = 0, 0 at infinity. df → ∞: the normal's. df = 1: Cauchy's, 1 − 2·arctan|t|/π, with tails so heavy that
    t = 12.7 is just significant.

    Source: Abramowitz & Stegun 1964, 26.5.27 and 26.7.1.

    :param statistic: t, a scalar of any size, infinity included.
    :param degrees_of_freedom: df > 0, a scalar that need not be whole.
    :return: a scalar in [0, 1].
    :raises ValueError: for NaN, or degrees of freedom that are not above zero.

    >>> round(student_t_p_value(1.0, 1.0), 12)  # 1 − 2·arctan(1)/π
    0.5
    >>> round(student_t_p_value(12.706204736, 1.0), 9)
    0.05
    """
    check_positive("degrees_of_freedom", degrees_of_freedom)
    if math.isnan(statistic):
        raise InvalidValueError(f"statistic must be a number, got {statistic}")
    # x and 1 − x, each computed by itself: for a small t, 1 − x by subtraction has no digits left.
    ratio = abs(statistic) / math.sqrt(degrees_of_freedom)
    if ratio > 1:
        small = 1 / ratio
        x, complement = small * small / (1 + small * small), 1 / (1 + small * small)
    else:
        x, complement = 1 / (1 + ratio * ratio), ratio * ratio / (1 + ratio * ratio)
    return incomplete_beta(x, complement, degrees_of_freedom / 2, 0.5)


def incomplete_beta(x: float, complement: float, a: float, b: float) -> float:
    """Regularised incomplete beta function Iₓ(a, b): the share of a beta distribution below x.

        Iₓ(a, b) = xᵃ(1−x)ᵇ / (a·B(a, b)) · 1/(1 + d₁/(1 + d₂/(1 + …)))
        d₂ₖ = k(b−k)x / ((a+2k−1)(a+2k)) ,   d₂ₖ₊₁ = −(a+k)(a+b+k)x / ((a+2k)(a+2k+1))

    The fraction converges fast left of the distribution's bulk; right of it Iₓ(a, b) = 1 − I₁₋ₓ(b, a) is taken.
    a = b = 1: x itself. By hand, because the formulas know NumPy and torch only and neither has this function.

    Source: Abramowitz & Stegun 1964, 26.5.8 (DLMF 8.17.22), by Lentz's method (Press et al. 1992, §5.2 and §6.4).

    :param x: a scalar in [0, 1].
    :param complement: 1 − x, given apart because the subtraction would lose its digits.
    :param a: > 0, a scalar.
    :param b: > 0, a scalar.
    :return: a scalar in [0, 1].
    :raises ValueError: for an argument out of range.

    >>> round(incomplete_beta(0.5, 0.5, 2.0, 1.0), 12)  # x²
    0.25
    """
    for name, value in (("x", x), ("complement", complement)):
        check_real(name, value, "in [0, 1]", is_allowed=0 <= value <= 1)
    check_positive("a", a)
    check_positive("b", b)
    if x == 0 or complement == 0:
        return float(complement == 0)
    log_beta = math.lgamma(a) + math.lgamma(b) - math.lgamma(a + b)
    front = math.exp(a * math.log(x) + b * math.log(complement) - log_beta)
    if x > (a + 1) / (a + b + 2):
        return 1.0 - front / b * _beta_fraction(complement, b, a)
    return front / a * _beta_fraction(x, a, b)


def _beta_fraction(x: float, a: float, b: float) -> float:
    """1/(1 + d₁/(1 + …)) from the top: Lentz multiplies the ratios of consecutive numerators and denominators."""
    fraction, upper, lower = 1.0, 1.0, 0.0
    # About √max(a, b) pairs of terms are needed; the bound only ends a loop that does not come to rest.
    for k in range(10_000):
        even = k * (b - k) * x / ((a + 2 * k - 1) * (a + 2 * k)) if k > 0 else 1.0
        odd = -(a + k) * (a + b + k) * x / ((a + 2 * k) * (a + 2 * k + 1))
        for d in (even, odd):
            # Never exactly 0, where the next ratio would divide by it.
            lower = 1 / (1 + d * lower or 1e-300)
            upper = 1 + d / upper or 1e-300
            fraction *= upper * lower
        # Even terms are no sign of rest: for a large a they all but vanish from the start.
        if abs(upper * lower - 1) < 1e-15:
            break
    return fraction - 1


def holm_adjusted(p_values: FloatArray) -> FloatArray:
    """P-values that may be held against one significance level although several tests were made.

        p̃₍ᵢ₎ = max over j ≤ i of min(1, (m−j+1)·p₍ⱼ₎) ,   p₍₁₎ ≤ … ≤ p₍ₘ₎

    Rejecting where p̃ < α, at least one false rejection among all m tests has a probability of at most α, however the
    tests depend on each other. The smallest is multiplied by m (Bonferroni), the largest by 1; so it is never weaker
    than Bonferroni, which multiplies all by m. One test alone: unchanged.

    Source: Holm 1979, "A simple sequentially rejective multiple test procedure".

    :param p_values: ``[m]``, in [0, 1].
    :return: ``[m]``, in the same order, each at least its p-value and at most 1.
    :raises ValueError: for another shape, no test at all, or a value outside [0, 1].

    >>> holm_adjusted(np.array([0.25, 0.0625, 0.125])).tolist()  # 3·0.0625; 2·0.125; 1·0.25
    [0.25, 0.1875, 0.25]
    """
    p_values = finite_array("p_values", p_values)
    if p_values.ndim != 1 or len(p_values) == 0:
        raise InvalidValueError(f"p_values must have shape [m], m >= 1, got {p_values.shape}")
    if not ((p_values >= 0) & (p_values <= 1)).all():
        raise InvalidValueError(f"p_values must be in [0, 1], got {p_values.tolist()}")
    order = np.argsort(p_values)
    multiplied = np.arange(len(p_values), 0, -1) * p_values[order]
    adjusted = np.empty_like(p_values)
    adjusted[order] = np.minimum(np.maximum.accumulate(multiplied), 1)
    return adjusted
