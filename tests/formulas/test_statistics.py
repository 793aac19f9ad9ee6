"""Statistics of comparisons: hand-computed cases, SciPy, what must hold for all scores, and how often an interval is right."""

import itertools
import json
import math

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from scipy import special
from scipy import stats as scipy_stats

from sb3_ppo_notes.formulas import statistics as formulas
from sb3_ppo_notes.formulas.checks import InvalidTypeError, InvalidValueError, NonFiniteError
from sb3_ppo_notes.formulas.statistics import bootstrap
from tests.strategies import MODERATE


def matrices(min_seeds=1, max_seeds=9, max_tasks=4, elements=MODERATE):
    shapes = st.tuples(st.integers(min_seeds, max_seeds), st.integers(1, max_tasks))
    return shapes.flatmap(lambda shape: hnp.arrays(np.float64, shape, elements=elements))


@st.composite
def pairs(draw, min_seeds=1, elements=MODERATE):
    """Two arms of the same tasks; few distinct values, so that ties are common."""
    tasks = draw(st.integers(1, 4))
    sizes = st.integers(min_seeds, 9)
    return tuple(draw(hnp.arrays(np.float64, (draw(sizes), tasks), elements=elements)) for _ in range(2))


SMALL = st.integers(-3, 3).map(float)


def generator(seed=0):
    return np.random.default_rng(seed)


def column(*numbers):
    return np.array(numbers, dtype=np.float64)[:, np.newaxis]


# One number or curve


@pytest.mark.parametrize(
    ("scores", "expected"),
    [
        ([[1, 8], [3, 2], [5, 100], [-50, 4]], 3.5),  # −50 1 | 2 3 4 5 | 8 100
        ([[1], [2], [3], [4], [100]], 3),  # 5 runs: one cut at either end
        ([[1], [2], [9]], 4),  # fewer than 4: the mean
        ([[7]], 7),
    ],
)
def test_iqm_golden_values(scores, expected):
    assert formulas.iqm(np.array(scores, float)) == expected


@given(matrices())
def test_iqm_is_scipys_trimmed_mean_of_all_runs(scores):
    assert formulas.iqm(scores) == pytest.approx(scipy_stats.trim_mean(scores, 0.25, axis=None), abs=1e-12)


@given(matrices(), MODERATE, MODERATE)
def test_iqm_follows_every_affine_map(scores, factor, shift):
    # Also a falling one: as much is cut below as above.
    assert formulas.iqm(factor * scores + shift) == pytest.approx(factor * formulas.iqm(scores) + shift, abs=1e-9)


@given(matrices(), st.randoms(use_true_random=False))
def test_iqm_lies_between_the_extremes_and_knows_no_order(scores, random):
    mean = formulas.iqm(scores)
    assert scores.min() - 1e-12 <= mean <= scores.max() + 1e-12
    runs = scores.ravel().tolist()
    random.shuffle(runs)
    assert formulas.iqm(np.array(runs).reshape(scores.shape)) == pytest.approx(mean, abs=1e-12)


@given(matrices(min_seeds=4))
def test_a_quarter_of_crashed_runs_moves_the_iqm_no_further_than_the_other_runs_go(scores):
    crashed = scores.ravel().copy()
    crashed[: len(crashed) // 4] = -1e9
    assert formulas.iqm(crashed.reshape(scores.shape)) >= scores.min() - 1e-9


def test_optimality_gap_golden_values():
    scores = np.array([[0.5, 3], [1, 0]])
    assert formulas.optimality_gap(scores) == 0.375  # (½ + 0 + 0 + 1)/4
    assert formulas.optimality_gap(scores, target=2) == 1.125  # (1½ + 0 + 1 + 2)/4
    assert formulas.optimality_gap(scores, target=0) == 0


@given(matrices(elements=MODERATE.map(abs)), st.integers(0, 640).map(lambda number: number / 64))
def test_optimality_gap_is_the_target_minus_the_area_under_the_profile(scores, target):
    # ∫₀^γ P(x > τ) dτ = mean(min(x, γ)). The profile is a step function with steps at multiples of 1/64, so the sum is exact.
    thresholds = np.arange(0, target, 1 / 64)
    area = formulas.performance_profile(scores, thresholds).sum() / 64
    assert formulas.optimality_gap(scores, target) == pytest.approx(target - area, abs=1e-12)


def test_performance_profile_golden_value():
    scores = np.array([[0.0, 0.5], [1.0, 1.5]])
    profile = formulas.performance_profile(scores, np.array([-1, 0, 0.4, 0.5, 1, 1.5]))
    assert profile.tolist() == [1, 0.75, 0.75, 0.5, 0.25, 0]  # strictly above: a run at the threshold does not count


@given(matrices(elements=SMALL), hnp.arrays(np.float64, 5, elements=MODERATE))
def test_performance_profile_is_one_minus_scipys_distribution_function_and_falls(scores, thresholds):
    thresholds = np.sort(thresholds)
    profile = formulas.performance_profile(scores, thresholds)
    assert profile == pytest.approx(scipy_stats.ecdf(scores.ravel()).sf.evaluate(thresholds), abs=1e-12)
    assert (np.diff(profile) <= 0).all()


def test_probability_of_improvement_golden_values():
    ours, theirs = np.array([[1.0, 0], [3, 0]]), np.array([[0.0, 1], [1, 2], [2, 3]])
    # First task: 1 beats 0, ties 1, loses to 2; 3 beats all three: (1.5 + 3)/6 = ¾. Second: never. Mean of the tasks.
    assert formulas.probability_of_improvement(ours, theirs) == 0.375
    assert formulas.probability_of_improvement(ours, ours) == 0.5
    assert formulas.probability_of_improvement(ours[:, :1] + 9, theirs[:, :1]) == 1


@given(pairs(elements=SMALL))
def test_probability_of_improvement_is_mann_whitneys_u_per_pair(arms):
    ours, theirs = arms
    u = [scipy_stats.mannwhitneyu(x, y, method="asymptotic").statistic for x, y in zip(ours.T, theirs.T, strict=True)]
    expected = np.mean(u) / (len(ours) * len(theirs))
    assert formulas.probability_of_improvement(ours, theirs) == pytest.approx(expected, abs=1e-12)


@given(pairs(elements=SMALL))
def test_probability_of_improvement_and_its_converse_add_up_to_one(arms):
    ours, theirs = arms
    both_ways = formulas.probability_of_improvement(ours, theirs) + formulas.probability_of_improvement(theirs, ours)
    assert both_ways == pytest.approx(1, abs=1e-15)


@given(pairs(elements=SMALL))
def test_probability_of_improvement_needs_no_scale(arms):
    ours, theirs = arms
    assert formulas.probability_of_improvement(ours, theirs) == formulas.probability_of_improvement(ours**3, theirs**3)


def test_normalized_scores_put_random_at_zero_and_the_reference_at_one():
    low, high = np.array([20.0, -1200]), np.array([500.0, -200])
    raw = np.array([low, high, [260, -1000], [-220, 800]])
    assert formulas.normalized_scores(raw, low, high).tolist() == [[0, 0], [1, 1], [0.5, 0.2], [-0.5, 2]]


def test_sample_efficiency_area_golden_value():
    # Unequal steps: 10·½ + 30·1 and 10·0 + 30·½ of a budget of 40. The points count by the steps between them.
    areas = formulas.sample_efficiency_area(np.array([[0.0, 1, 1], [0, 0, 1]]), np.array([100, 110, 140]))
    assert areas.tolist() == [0.875, 0.375]


@given(matrices(max_tasks=1), st.integers(2, 9))
def test_a_flat_curve_has_its_own_height_as_area(heights, points):
    areas = formulas.sample_efficiency_area(np.repeat(heights, points, axis=1), np.cumsum(np.arange(1, points + 1)))
    assert areas == pytest.approx(heights[:, 0])


@given(hnp.arrays(np.float64, (3, 6), elements=MODERATE), hnp.arrays(np.float64, 6, elements=MODERATE, unique=True))
def test_sample_efficiency_area_does_not_change_when_points_on_the_line_are_added(curves, steps):
    steps = np.sort(steps)
    finer = np.sort(np.concatenate([steps, (steps[1:] + steps[:-1]) / 2]))
    interpolated = np.array([np.interp(finer, steps, curve) for curve in curves])
    areas = formulas.sample_efficiency_area(curves, steps)
    assert formulas.sample_efficiency_area(interpolated, finer) == pytest.approx(areas, abs=1e-9)


def test_one_call_on_all_resamples_equals_one_call_on_each():
    ours, theirs = generator().integers(0, 5, (2, 7, 6, 3)).astype(float)
    steps, thresholds = np.array([0.0, 1, 3]), np.array([1.0, 2.5])
    for statistic in (
        formulas.iqm,
        formulas.optimality_gap,
        lambda scores: formulas.performance_profile(scores, thresholds),
        lambda scores: formulas.sample_efficiency_area(scores, steps),
        lambda scores: formulas.normalized_scores(scores, np.zeros(3), np.ones(3)),
    ):
        assert statistic(ours).tolist() == [statistic(one).tolist() for one in ours]
    for statistic in (formulas.probability_of_improvement, formulas.difference_of_iqms):
        assert statistic(ours, theirs).tolist() == [statistic(*two).tolist() for two in zip(ours, theirs, strict=True)]


# Intervals


def test_interval_equals_the_enumeration_of_all_resamples():
    # Three seeds: 27 resamples, the mean's exact quantiles. The sums 0, 1, 2, 4, … are apart, so an estimated quantile is
    # exactly right unless it falls next to a step of the distribution function.
    seeds = [0.0, 3, 12]
    means = np.sort([np.mean(draw) for draw in itertools.product(seeds, repeat=3)])
    interval = formulas.bootstrap_interval(
        lambda scores: scores.mean((-2, -1)), [column(*seeds)], generator(), 0.8, 20_000
    )
    # 10 % and 90 % of 27: the 3rd and the 25th.
    assert interval == pytest.approx([means[2], means[24]])
    assert interval == pytest.approx([1, 9])


def test_interval_is_scipys_percentile_interval():
    scores = generator(3).lognormal(size=(20, 1))
    ours = formulas.bootstrap_interval(formulas.iqm, [scores], generator())
    theirs = scipy_stats.bootstrap(
        (scores[:, 0],),
        lambda runs, axis: scipy_stats.trim_mean(runs, 0.25, axis=axis),
        n_resamples=50_000,
        method="percentile",
        rng=generator(1),
    ).confidence_interval
    # 50,000 draws each: the ends' own standard error is about a hundredth of the interval's width.
    assert ours == pytest.approx(np.array(theirs), abs=0.03 * np.ptp(ours))


def test_each_task_is_resampled_for_itself():
    scores = np.array([[1.0, 10], [2, 20], [3, 30]])
    resamples = formulas.stratified_resamples(scores, generator(), 6000)
    assert set(np.unique(resamples[..., 0])) == {1, 2, 3}
    assert set(np.unique(resamples[..., 1])) == {10, 20, 30}
    # Each of the nine combinations in a row equally often: rows are not kept together. In every row, not only on average.
    for row in range(3):
        combinations = resamples[:, row, 0] * 100 + resamples[:, row, 1]
        _, counts = np.unique(combinations, return_counts=True)
        assert len(counts) == 9
        assert scipy_stats.chisquare(counts).pvalue > 0.001


def test_seeds_that_agree_leave_no_uncertainty_however_far_apart_the_tasks_are():
    scores = np.tile([0.0, 0.5, 1.0, 9.0], (5, 1))
    assert formulas.bootstrap_interval(formulas.iqm, [scores], generator(), resamples=200).tolist() == [0.75, 0.75]


def test_arms_are_resampled_independently():
    # A paired resample of an arm against itself would always say exactly 0.
    arm = generator(5).normal(size=(20, 1))
    low, high = formulas.bootstrap_interval(formulas.difference_of_iqms, [arm, arm], generator(), resamples=2000)
    assert low < -0.2
    assert high > 0.2


def test_the_given_generator_alone_decides():
    scores = generator(1).normal(size=(10, 2))
    before = np.random.get_state()[1].copy()
    first, again, other = (
        formulas.bootstrap_interval(formulas.iqm, [scores], generator(seed), resamples=500).tolist()
        for seed in (7, 7, 8)
    )
    assert first == again
    assert first != other
    assert np.array_equal(np.random.get_state()[1], before)


def test_many_resamples_come_in_batches_and_none_is_lost(monkeypatch):
    monkeypatch.setattr(bootstrap, "_SCORES_PER_BATCH", 70)
    sizes = []

    def number_of_the_resample(ours, theirs):
        assert len(ours) == len(theirs)
        sizes.append(len(ours))
        return np.arange(sum(sizes) - len(ours), sum(sizes))

    arms = [np.zeros((4, 2)), np.zeros((3, 2))]
    interval = formulas.bootstrap_interval(number_of_the_resample, arms, generator(), 0.5, resamples=23)
    assert sizes == [5, 5, 5, 5, 3]
    assert interval == pytest.approx([5.5, 16.5])  # a quarter and three quarters of 0 … 22


def test_interval_of_a_curve_has_two_ends_at_every_point():
    scores = generator(2).uniform(size=(20, 3))
    thresholds = np.linspace(0, 1, 11)

    def profile(resamples):
        return formulas.performance_profile(resamples, thresholds)

    low, high = formulas.bootstrap_interval(profile, [scores], generator(), resamples=500)
    assert low.shape == high.shape == (11,)
    assert ((low <= profile(scores)) & (profile(scores) <= high)).all()
    assert low.min() >= 0
    assert high.max() <= 1


@given(matrices(min_seeds=2), st.floats(0.05, 0.9))
def test_more_confidence_is_a_wider_interval(scores, confidence):
    narrow, wide = (
        formulas.bootstrap_interval(formulas.iqm, [scores], generator(), level, resamples=50)
        for level in (confidence, confidence + 0.09)
    )
    assert wide[0] <= narrow[0] <= narrow[1] <= wide[1]


def test_percentile_interval_golden_value():
    assert formulas.percentile_interval(np.arange(41.0)).tolist() == pytest.approx([1, 39])  # 2.5 % and 97.5 % of 40


def normal(draw, seeds):
    return draw.normal(0.8, 0.2, (seeds, 1))


def four_normal_tasks(draw, seeds):
    return draw.normal([0.5, 0.7, 0.9, 1.0], [0.05, 0.1, 0.2, 0.1], (seeds, 4))


def one_run_in_five_fails(draw, seeds):
    return np.where(
        draw.random((seeds, 1)) < 0.2, draw.normal(0.1, 0.05, (seeds, 1)), draw.normal(0.9, 0.05, (seeds, 1))
    )


def four_tasks_with_a_ceiling(draw, seeds):
    return np.minimum(1, draw.normal([0.5, 0.9, 1.0, 0.8], 0.15, (seeds, 4)))


DISTRIBUTIONS = [normal, four_normal_tasks, one_run_in_five_fails, four_tasks_with_a_ceiling]


def coverage(statistic, truth, arms, experiments, basic=False):
    """Share of experiments whose 95 % interval holds the truth."""
    draw = generator(11)
    hits = 0
    for _ in range(experiments):
        samples = arms(draw)
        low, high = formulas.bootstrap_interval(statistic, samples, draw, resamples=600)
        if basic:
            low, high = 2 * statistic(*samples) - high, 2 * statistic(*samples) - low
        hits += low <= truth <= high
    return hits / experiments


@pytest.mark.slow
@pytest.mark.parametrize("distribution", DISTRIBUTIONS)
def test_interval_of_the_iqm_covers_the_truth_at_20_seeds(distribution):
    # 2,000 experiments: the measured share has a standard error of 0.5 %.
    truth = formulas.iqm(distribution(generator(), 1_000_000))
    assert 0.92 <= coverage(formulas.iqm, truth, lambda draw: [distribution(draw, 20)], 2000) <= 0.97


@pytest.mark.slow
@pytest.mark.parametrize("distribution", DISTRIBUTIONS)
@pytest.mark.parametrize(
    ("statistic", "truth"), [(formulas.difference_of_iqms, 0.0), (formulas.probability_of_improvement, 0.5)]
)
def test_intervals_of_two_arms_cover_the_truth_at_20_seeds(statistic, truth, distribution):
    arms = lambda draw: [distribution(draw, 20), distribution(draw, 20)]  # noqa: E731
    assert 0.92 <= coverage(statistic, truth, arms, 500) <= 0.98


@pytest.mark.slow
def test_five_seeds_are_too_few_for_a_95_percent_interval():
    truth = formulas.iqm(normal(generator(), 1_000_000))
    assert coverage(formulas.iqm, truth, lambda draw: [normal(draw, 5)], 1000) < 0.92


@pytest.mark.slow
def test_the_basic_interval_would_cover_too_little():
    truth = formulas.iqm(normal(generator(), 1_000_000))
    assert coverage(formulas.iqm, truth, lambda draw: [normal(draw, 20)], 2000, basic=True) < 0.93


# Tests


def test_welch_golden_value():
    # x = (1, 2, 3): mean 2, s² = 1, a = 1/3. y = (2, 4, 6, 8): mean 5, s² = 20/3, b = 5/3. a + b = 2.
    # t = −3/√2; df = 4 / ((1/9)/2 + (25/9)/3) = 4 / (53/54) = 216/53.
    test = formulas.welch_test(column(1, 2, 3), column(2, 4, 6, 8))
    assert test.differences == pytest.approx([-3])
    assert test.statistics == pytest.approx([-3 / math.sqrt(2)])
    assert test.degrees_of_freedom == pytest.approx([216 / 53])


@pytest.mark.parametrize("seed", range(20))
def test_welch_is_scipys_to_ten_digits(seed):
    draw = generator(seed)
    ours = draw.normal(draw.normal(size=4), 10 ** draw.uniform(-3, 3, 4), (draw.integers(2, 60), 4))
    theirs = draw.normal(draw.normal(size=4), 10 ** draw.uniform(-3, 3, 4), (draw.integers(2, 60), 4))
    test, expected = formulas.welch_test(ours, theirs), scipy_stats.ttest_ind(ours, theirs, equal_var=False)
    assert test.statistics == pytest.approx(expected.statistic, rel=1e-10)
    assert test.degrees_of_freedom == pytest.approx(expected.df, rel=1e-10)
    assert test.p_values == pytest.approx(expected.pvalue, rel=1e-10, abs=1e-10)


# SciPy warns where two scores differ by next to nothing; its numbers are right all the same.
@pytest.mark.filterwarnings("ignore:Precision loss occurred:RuntimeWarning")
@given(pairs(min_seeds=2))
def test_welch_is_scipys_for_scores_that_vary(arms):
    ours, theirs = arms
    assume((np.ptp(ours, axis=0) + np.ptp(theirs, axis=0) > 0).all())
    expected = scipy_stats.ttest_ind(ours, theirs, equal_var=False)
    assert formulas.welch_test(ours, theirs).p_values == pytest.approx(expected.pvalue, abs=1e-10)


@given(pairs(min_seeds=2))
def test_exchanging_the_arms_turns_the_sign_and_keeps_the_p_value(arms):
    forth, back = formulas.welch_test(*arms), formulas.welch_test(*arms[::-1])
    assert np.array_equal(forth.differences, -back.differences)
    assert forth.p_values == pytest.approx(back.p_values, abs=1e-12)


@pytest.mark.parametrize("constant", [500.0, 0.1, 1 / 3])
def test_arms_that_never_vary_differ_exactly_if_their_constants_do(constant):
    # 20 times 0.1 and 30 times 0.1 have means and variances that are off by rounding, in different last digits.
    same = formulas.welch_test(np.full((20, 1), constant), np.full((30, 1), constant))
    assert [float(part[0]) for part in same] == [0, 0, 48, 1]
    other = formulas.welch_test(np.full((20, 1), constant), np.full((30, 1), constant + 0.25))
    assert [float(part[0]) for part in other] == [pytest.approx(-0.25), -math.inf, 48, 0]


def test_one_arm_that_never_varies_leaves_the_other_ones_degrees_of_freedom():
    test = formulas.welch_test(column(1, 2, 3), np.full((9, 1), 2.5))
    assert test.degrees_of_freedom == pytest.approx([2])
    assert test.p_values == pytest.approx(scipy_stats.ttest_1samp([1, 2, 3], 2.5).pvalue, abs=1e-12)


def test_nearly_constant_scores_do_not_underflow():
    ours, theirs = 1e-120 * column(1, 2, 3), 1e-120 * column(3, 4, 6)
    assert formulas.welch_test(ours, theirs).p_values == pytest.approx(
        formulas.welch_test(1e120 * ours, 1e120 * theirs).p_values
    )


@given(st.floats(-60, 60), st.floats(0.5, 1000))
def test_p_value_is_scipys(statistic, degrees_of_freedom):
    expected = 2 * scipy_stats.t.sf(abs(statistic), degrees_of_freedom)
    assert formulas.student_t_p_value(statistic, degrees_of_freedom) == pytest.approx(expected, rel=1e-9, abs=1e-11)


@given(st.floats(-1000, 1000))
def test_p_value_has_its_closed_forms(statistic):
    size = abs(statistic)
    assert formulas.student_t_p_value(statistic, 1) == pytest.approx(1 - 2 * math.atan(size) / math.pi, abs=1e-12)
    assert formulas.student_t_p_value(statistic, 2) == pytest.approx(1 - size / math.hypot(size, 2**0.5), abs=1e-12)
    # The normal's tail is the limit; at 10⁵ degrees of freedom it is off by a few millionths.
    assert formulas.student_t_p_value(statistic, 1e5) == pytest.approx(math.erfc(size / 2**0.5), abs=1e-5)


def test_p_value_at_the_ends():
    assert formulas.student_t_p_value(0.0, 5) == 1
    assert formulas.student_t_p_value(math.inf, 5) == formulas.student_t_p_value(-math.inf, 5) == 0
    # 1 − x has no digits left here when it is computed by subtraction.
    assert 1 - formulas.student_t_p_value(1e-9, 1) == pytest.approx(2e-9 / math.pi, rel=1e-6)


@given(st.floats(0.001, 0.999), st.floats(0.1, 300), st.floats(0.1, 300))
def test_incomplete_beta_is_scipys_and_symmetric(x, a, b):
    share = formulas.incomplete_beta(x, 1 - x, a, b)
    assert share == pytest.approx(special.betainc(a, b, x), rel=1e-9, abs=1e-12)
    assert share + formulas.incomplete_beta(1 - x, x, b, a) == pytest.approx(1, abs=1e-12)


@given(st.floats(0, 1), st.integers(1, 12), st.integers(1, 12))
def test_incomplete_beta_is_a_binomial_tail(x, k, others):
    # Iₓ(k, n−k+1) = P(at least k of n successes).
    n = k + others - 1
    tail = sum(math.comb(n, i) * x**i * (1 - x) ** (n - i) for i in range(k, n + 1))
    assert formulas.incomplete_beta(x, 1 - x, k, others) == pytest.approx(tail, abs=1e-12)


def test_holm_golden_values():
    # Sorted .01 .02 .03 .04: 4·.01, 3·.02, 2·.03, 1·.04 -> never falling: .04 .06 .06 .06
    assert formulas.holm_adjusted(np.array([0.04, 0.01, 0.03, 0.02])) == pytest.approx([0.06, 0.04, 0.06, 0.06])
    assert formulas.holm_adjusted(np.array([0.6, 0.5])).tolist() == [1, 1]
    assert formulas.holm_adjusted(np.array([0.3])).tolist() == [0.3]


P_VALUES = hnp.arrays(np.float64, st.integers(1, 6), elements=st.integers(0, 64).map(lambda number: number / 64))


@given(P_VALUES)
def test_holm_is_the_closed_test_of_bonferroni(p_values):
    # A hypothesis is rejected if every set of hypotheses that holds it is rejected by Bonferroni.
    everyone = range(len(p_values))
    subsets = [s for size in range(1, len(p_values) + 1) for s in itertools.combinations(everyone, size)]
    expected = [max(min(1, len(s) * min(p_values[list(s)])) for s in subsets if i in s) for i in everyone]
    assert formulas.holm_adjusted(p_values).tolist() == expected


@given(P_VALUES)
def test_holm_never_falls_below_the_raw_value_nor_rises_above_bonferronis(p_values):
    adjusted = formulas.holm_adjusted(p_values)
    assert (adjusted >= p_values).all()
    assert (adjusted <= np.minimum(1, len(p_values) * p_values)).all()
    assert (np.diff(adjusted[np.argsort(p_values)]) >= 0).all()


# The rule

HALF = (0.4, 0.6)


@pytest.mark.parametrize(
    ("difference", "improvement", "n_worse_tasks", "failed_runs", "expected"),
    [
        ((-0.04, 0.02), HALF, 0, (0, 0), "as good"),
        ((-0.05, 0.02), HALF, 0, (0, 0), "no difference shown"),  # the margin itself is not above the margin
        ((-0.0499, 0.9), HALF, 0, (0, 0), "as good"),
        ((-0.03, -0.01), HALF, 0, (0, 0), "as good"),  # a loss, and one that the margin allows
        ((-0.04, 0.02), (0.3, 0.5), 0, (0, 0), "as good"),  # P's upper end may be ½ ...
        ((-0.04, 0.02), (0.3, 0.499), 0, (0, 0), "worse"),  # ... and not below it
        ((0.0, 0.02), HALF, 0, (0, 0), "as good"),  # 0 is not excluded
        ((0.001, 0.02), HALF, 0, (0, 0), "better"),
        ((0.001, 0.02), HALF, 0, (2, 2), "better"),
        ((0.001, 0.02), HALF, 0, (2, 1), "no difference shown"),  # more failed runs forbid every praise ...
        ((-0.04, 0.02), HALF, 0, (1, 0), "no difference shown"),
        ((-0.04, 0.02), HALF, 0, (0, 1), "as good"),  # ... fewer do not
        ((0.001, 0.02), (0.6, 0.7), 1, (0, 0), "worse"),  # better on average, at the cost of one task
        ((-0.04, 0.02), HALF, 2, (0, 0), "worse"),
        ((-0.2, -0.06), (0.1, 0.4), 0, (0, 0), "worse"),
        ((-0.2, -0.001), HALF, 0, (0, 0), "worse"),
        ((-0.2, 0.0), HALF, 0, (0, 0), "no difference shown"),
        ((-0.2, 0.3), HALF, 0, (0, 0), "no difference shown"),  # few seeds: wide, and no praise
    ],
)
def test_verdict_table(difference, improvement, n_worse_tasks, failed_runs, expected):
    assert formulas.verdict(difference, improvement, n_worse_tasks, failed_runs) == expected


INTERVALS = st.tuples(MODERATE, MODERATE).map(lambda ends: tuple(sorted(number / 20 for number in ends)))
IMPROVEMENTS = st.tuples(st.integers(0, 8), st.integers(0, 8)).map(lambda ends: tuple(sorted(n / 8 for n in ends)))


@given(INTERVALS, IMPROVEMENTS, st.integers(0, 2), st.integers(0, 2))
def test_never_better_in_both_directions_and_never_better_by_a_wider_interval(difference, improvement, worse, failed):
    praise = formulas.verdict(difference, improvement, worse, (failed, 1))
    mirrored = formulas.verdict(
        (-difference[1], -difference[0]), (1 - improvement[1], 1 - improvement[0]), 0, (1, failed)
    )
    assert not (praise == "better" and mirrored == "better")
    wider = formulas.verdict((difference[0] - 1, difference[1] + 1), improvement, worse, (failed, 1))
    assert wider in ("no difference shown", "worse")
    assert praise != "no difference shown" or wider == "no difference shown"


def test_difference_of_iqms_is_above_zero_where_the_candidate_is_higher():
    ours, theirs = column(0, 5, 6, 100), column(1, 2, 9)  # means of 5 6 and of 1 2 9
    assert formulas.difference_of_iqms(ours, theirs) == 1.5
    assert formulas.difference_of_iqms(theirs, ours) == -1.5


def test_worse_tasks_are_lower_and_significant():
    differences, p_values = np.array([-1.0, -1, -1, 1, 0]), np.array([0.049, 0.05, 0.9, 0.001, 1])
    assert formulas.worse_tasks(differences, p_values).tolist() == [1, 0, 0, 0, 0]


def arm(seed, shift=0.0, sd=0.05, seeds=20):
    return generator(seed).normal(0.8, sd, (seeds, 4)) + np.asarray(shift)


def verdict_of(candidate, baseline, failed_runs=(0, 0)):
    return formulas.comparison(candidate, baseline, failed_runs, generator(), resamples=1000).verdict


def test_a_a_passes():
    assert verdict_of(arm(0), arm(1)) == "as good"
    assert formulas.a_a_check(arm(0), arm(1), (0, 0), generator(), resamples=1000)
    assert formulas.a_a_check(arm(0), arm(1, seeds=25), (0, 0), generator(), resamples=1000)


@pytest.mark.parametrize(
    ("shift", "expected"),
    [
        (-0.15, "worse"),  # sabotaged
        ([0, 0, 0, -0.08], "worse"),  # on one task only: the IQM over all four hardly moves
        (+0.15, "better"),
        ([0.3, 0.3, 0.3, -0.15], "worse"),  # three tasks won do not pay for one lost
    ],
)
def test_a_difference_is_found(shift, expected):
    assert verdict_of(arm(0, shift), arm(1)) == expected
    assert not formulas.a_a_check(arm(0, shift), arm(1), (0, 0), generator(), resamples=1000)


def test_the_iqm_alone_would_have_missed_the_one_bad_task():
    result = formulas.comparison(arm(0, [0, 0, 0, -0.08]), arm(1), (0, 0), generator(), resamples=1000)
    assert formulas.verdict(result.difference_interval, result.improvement_interval, 0, (0, 0)) == "as good"
    assert [p < 0.05 for p in result.task_p_values] == [False, False, False, True]
    assert result.verdict == "worse"


def test_scattered_seeds_are_no_proof_of_equality():
    noisy = arm(0, sd=0.5), arm(1, sd=0.5)
    assert verdict_of(*noisy) == "no difference shown"
    assert not formulas.a_a_check(*noisy, (0, 0), generator(), resamples=1000)


def test_both_arms_at_the_ceiling_are_as_good():
    ceiling = np.ones((20, 2))
    result = formulas.comparison(ceiling, ceiling, (0, 0), generator(), resamples=100)
    assert result == ("as good", 0, (0, 0), 0.5, (0.5, 0.5), (0, 0), (1, 1), (0, 0))
    assert formulas.a_a_check(ceiling, ceiling, (0, 0), generator(), resamples=100)


def test_more_failed_runs_are_not_as_good():
    assert verdict_of(arm(0), arm(1), (1, 0)) == "no difference shown"
    assert verdict_of(arm(0), arm(1), (1, 1)) == "as good"


def test_comparison_holds_the_numbers_it_rests_on():
    ours, theirs = arm(0, [0.2, 0, 0, 0]), arm(1, seeds=23)
    result = formulas.comparison(ours, theirs, (1, 2), generator(), resamples=1000)
    assert result.difference == formulas.iqm(ours) - formulas.iqm(theirs)
    assert result.improvement == formulas.probability_of_improvement(ours, theirs)
    assert result.difference_interval[0] < result.difference < result.difference_interval[1]
    assert result.improvement_interval[0] < result.improvement < result.improvement_interval[1]
    welch = scipy_stats.ttest_ind(ours, theirs, equal_var=False)
    assert result.task_differences == pytest.approx(ours.mean(axis=0) - theirs.mean(axis=0))
    assert result.task_p_values == pytest.approx(formulas.holm_adjusted(welch.pvalue), abs=1e-10)
    assert result.failed_runs == (1, 2)
    assert result == formulas.comparison(ours, theirs, (1, 2), generator(), resamples=1000)
    assert json.loads(json.dumps(result._asdict()))["verdict"] == result.verdict


def test_ten_seeds_are_enough_for_a_preliminary_verdict_by_the_same_rule():
    ten = dict(generator=generator(), resamples=1000, preliminary=True)
    assert formulas.comparison(arm(0, -0.15, seeds=10), arm(1, seeds=10), (0, 0), **ten).verdict == "worse"
    twenty = (arm(0), arm(1), (0, 0), generator(), 1000)
    assert formulas.comparison(*twenty) == formulas.comparison(*twenty[:3], generator(), 1000, preliminary=True)


def test_the_numbers_of_the_rule_are_the_registered_ones():
    assert (formulas.MARGIN, formulas.SIGNIFICANCE, formulas.CONFIDENCE) == (0.05, 0.05, 0.95)
    assert (formulas.RESAMPLES, formulas.SEEDS_FOR_A_VERDICT, formulas.SEEDS_TO_REPORT) == (50_000, 20, 10)


@pytest.mark.slow
@pytest.mark.parametrize("distribution", DISTRIBUTIONS)
def test_the_rule_seldom_claims_a_difference_where_there_is_none(distribution):
    draw = generator(4)
    claims = [
        formulas.comparison(distribution(draw, 20), distribution(draw, 20), (0, 0), draw, resamples=300).verdict
        for _ in range(400)
    ]
    assert claims.count("better") / 400 < 0.05
    assert (claims.count("better") + claims.count("worse")) / 400 < 0.10
    assert {"better", "worse"} <= set(claims)  # an interval that never claims anything would be too wide


@pytest.mark.slow
def test_a_loss_of_the_whole_margin_is_hardly_ever_called_as_good():
    draw = generator(6)
    verdicts = [
        formulas.comparison(
            draw.normal(0.75, 0.05, (20, 4)), draw.normal(0.8, 0.05, (20, 4)), (0, 0), draw, resamples=300
        ).verdict
        for _ in range(200)
    ]
    assert verdicts.count("as good") + verdicts.count("better") <= 0.05 * 200


# Bad input

GOOD = np.linspace(0, 1, 40).reshape(20, 2)


def with_value(value):
    scores = GOOD.copy()
    scores[3, 1] = value
    return scores


def interval_of(*arms, statistic=formulas.iqm, draw=None, **settings):
    return formulas.bootstrap_interval(statistic, arms, generator() if draw is None else draw, **settings)


def comparison_of(candidate, baseline=GOOD, failed_runs=(0, 0)):
    return formulas.comparison(candidate, baseline, failed_runs, generator(), resamples=10)


REFUSED = {
    "nan": (NonFiniteError, r"^scores must be finite, got nan at \[3, 1\]", lambda: formulas.iqm(with_value(np.nan))),
    "infinity": (NonFiniteError, r"^scores must be finite, got -inf at", lambda: formulas.iqm(with_value(-np.inf))),
    "nan in a gap": (NonFiniteError, "^scores must be", lambda: formulas.optimality_gap(with_value(np.nan))),
    "nan in a profile": (NonFiniteError, "^scores", lambda: formulas.performance_profile(with_value(np.nan), GOOD[0])),
    "nan threshold": (NonFiniteError, "^thresholds must", lambda: formulas.performance_profile(GOOD, np.array([np.nan]))),
    "nan candidate": (NonFiniteError, "^candidate must", lambda: formulas.probability_of_improvement(with_value(np.nan), GOOD)),
    "nan baseline": (NonFiniteError, "^baseline must", lambda: formulas.probability_of_improvement(GOOD, with_value(np.nan))),
    "nan in Welch": (NonFiniteError, "^baseline must", lambda: formulas.welch_test(GOOD, with_value(np.nan))),
    "nan in an interval": (NonFiniteError, r"^arms\[1\] must be", lambda: interval_of(GOOD, with_value(np.nan))),
    "nan in a comparison": (NonFiniteError, "^candidate must", lambda: comparison_of(with_value(np.nan))),
    "nan in a curve": (NonFiniteError, "^curves must", lambda: formulas.sample_efficiency_area(with_value(np.nan), [0, 1])),
    "nan step": (NonFiniteError, "^steps must", lambda: formulas.sample_efficiency_area(GOOD, [0, np.nan])),
    "nan reference": (NonFiniteError, "^reference_scores must", lambda: formulas.normalized_scores(GOOD, [0, 0], [1, np.nan])),
    "nan p-value": (NonFiniteError, "^p_values must", lambda: formulas.holm_adjusted(np.array([np.nan]))),
    "nan statistic": (InvalidValueError, "^statistic must be a number, got nan", lambda: formulas.student_t_p_value(math.nan, 3)),
    "nan estimate": (NonFiniteError, "^estimates must", lambda: formulas.percentile_interval(np.array([1, np.nan]))),
    "one seed in Welch": (InvalidValueError, "^baseline must have at least 2 seeds, got 1", lambda: formulas.welch_test(GOOD, GOOD[:1])),
    "one seed in an interval": (InvalidValueError, r"^arms\[0\] must have at least 2 seeds, got 1", lambda: interval_of(GOOD[:1])),
    "one seed in a resample": (InvalidValueError, "^scores must have at least 2 seeds", lambda: formulas.stratified_resamples(GOOD[:1], generator())),
    "one seed in a comparison": (InvalidValueError, "^candidate must have at least 20 seeds, got 1", lambda: comparison_of(GOOD[:1])),
    "9 seeds in a preliminary comparison": (InvalidValueError, "^candidate must have at least 10 seeds, got 9", lambda: formulas.comparison(GOOD[:9], GOOD, (0, 0), generator(), 10, preliminary=True)),
    "19 seeds in a comparison": (InvalidValueError, "^baseline must have at least 20 seeds, got 19", lambda: comparison_of(GOOD, GOOD[:19])),
    "unequal tasks in P": (InvalidValueError, "candidate and baseline must have the same tasks, got candidate 2, baseline 1", lambda: formulas.probability_of_improvement(GOOD, GOOD[:, :1])),
    "unequal tasks in a difference": (InvalidValueError, "must have the same tasks", lambda: formulas.difference_of_iqms(GOOD, GOOD[:, :1])),
    "unequal tasks in Welch": (InvalidValueError, "must have the same tasks", lambda: formulas.welch_test(GOOD[:, :1], GOOD)),
    "unequal tasks in an interval": (InvalidValueError, r"arms\[0\] and arms\[1\] must have the same tasks", lambda: interval_of(GOOD, GOOD[:, :1])),
    "unequal tasks in a comparison": (InvalidValueError, "must have the same tasks", lambda: comparison_of(GOOD[:, :1])),
    "ragged rows": (InvalidValueError, "^scores must hold numbers only, in rows of one length", lambda: formulas.iqm([[1, 2], [3]])),
    "text": (InvalidValueError, "^scores must hold numbers only", lambda: formulas.iqm([["a"]])),
    "no numbers": (InvalidTypeError, "^scores must be an array of numbers, got dict", lambda: formulas.iqm({})),
    "a vector": (InvalidValueError, r"^scores must have shape \[seeds, tasks\], got \(20,\)", lambda: formulas.iqm(GOOD[:, 0])),
    "a curve as a vector": (InvalidValueError, r"^curves must have shape \[seeds, points\]", lambda: formulas.sample_efficiency_area([1, 2], [0, 1])),
    "no seeds": (InvalidValueError, "^scores must have at least 1 seeds, got 0", lambda: formulas.iqm(np.zeros((0, 2)))),
    "no tasks": (InvalidValueError, "^scores must have at least one seed and one of tasks", lambda: formulas.iqm(np.zeros((2, 0)))),
    "a batch in Welch": (InvalidValueError, "must have shape", lambda: formulas.welch_test(GOOD[np.newaxis], GOOD)),
    "a batch in an interval": (InvalidValueError, r"^arms\[0\] must have shape \[seeds, tasks\]", lambda: interval_of(GOOD[np.newaxis])),
    "a seed for a generator": (InvalidTypeError, "^generator must be a numpy.random.Generator, got int 0", lambda: interval_of(GOOD, draw=0)),
    "NumPy's old generator": (InvalidTypeError, "^generator must be", lambda: interval_of(GOOD, draw=np.random.RandomState(0))),
    "no resamples": (InvalidValueError, "^resamples must be an int >= 1, got 0", lambda: interval_of(GOOD, resamples=0)),
    "half a resample": (InvalidTypeError, "^resamples must be an int >= 1, got float", lambda: interval_of(GOOD, resamples=0.5)),
    "confidence in percent": (InvalidValueError, r"^confidence must be in \(0, 1\), got 95", lambda: interval_of(GOOD, confidence=95)),
    "certainty": (InvalidValueError, r"^confidence must be in \(0, 1\), got 1.0", lambda: interval_of(GOOD, confidence=1.0)),
    "no arms": (InvalidValueError, "^arms must hold at least one", lambda: interval_of()),
    "a mean over resamples": (InvalidValueError, r"^statistic must return \[R, ...\]", lambda: interval_of(GOOD, statistic=np.mean)),
    "target": (InvalidValueError, "^target must be a finite number, got nan", lambda: formulas.optimality_gap(GOOD, math.nan)),
    "thresholds": (InvalidValueError, r"^thresholds must have shape \[K\], got \(20, 2\)", lambda: formulas.performance_profile(GOOD, GOOD)),
    "reference at random": (InvalidValueError, "^reference_scores must be above random_scores, got 0.0 <= 0.0 for task 1", lambda: formulas.normalized_scores(GOOD, [0, 0], [1, 0])),
    "references of other tasks": (InvalidValueError, r"^random_scores must have shape \(2,\)", lambda: formulas.normalized_scores(GOOD, [0], [1, 1])),
    "steps that stand still": (InvalidValueError, r"^steps must increase, got \[1.0, 1.0\]", lambda: formulas.sample_efficiency_area(GOOD, [1, 1])),
    "steps of other curves": (InvalidValueError, r"^steps must have shape \(2,\)", lambda: formulas.sample_efficiency_area(GOOD, [1, 2, 3])),
    "one point": (InvalidValueError, "and at least two", lambda: formulas.sample_efficiency_area(GOOD[:, :1], [1])),
    "degrees of freedom": (InvalidValueError, "^degrees_of_freedom must be > 0", lambda: formulas.student_t_p_value(1.0, 0.0)),
    "x": (InvalidValueError, r"^x must be in \[0, 1\], got 1.5", lambda: formulas.incomplete_beta(1.5, 0.0, 1.0, 1.0)),
    "a": (InvalidValueError, "^a must be > 0", lambda: formulas.incomplete_beta(0.5, 0.5, 0.0, 1.0)),
    "p-value": (InvalidValueError, r"^p_values must be in \[0, 1\], got \[1.5\]", lambda: formulas.holm_adjusted([1.5])),
    "no p-values": (InvalidValueError, r"^p_values must have shape \[m\]", lambda: formulas.holm_adjusted([])),
    "p-values of other tasks": (InvalidValueError, r"^adjusted_p_values must have shape \(2,\)", lambda: formulas.worse_tasks(GOOD[0], [0.5])),
    "an interval the wrong way round": (InvalidValueError, r"^difference_interval must be a lower and an upper end, got \(1, 0\)", lambda: formulas.verdict((1, 0), HALF, 0, (0, 0))),
    "an interval of nan": (InvalidValueError, "^improvement_interval must", lambda: formulas.verdict((0, 1), (math.nan, 1), 0, (0, 0))),
    "a negative count": (InvalidValueError, "^n_worse_tasks must be an int >= 0, got -1", lambda: formulas.verdict((0, 1), HALF, -1, (0, 0))),
    "failed runs below zero": (InvalidValueError, "^failed_runs must be an int >= 0, got -1", lambda: comparison_of(GOOD, failed_runs=(0, -1))),
    "more failed than run": (InvalidValueError, "^failed_runs must be at most the number of runs, 40, got 41", lambda: comparison_of(GOOD, failed_runs=(41, 0))),
    "failed runs of one arm": (InvalidValueError, "^failed_runs must be a number for either arm, got 3", lambda: comparison_of(GOOD, failed_runs=3)),
    "the same seeds twice": (InvalidValueError, "^second must come from other seeds", lambda: formulas.a_a_check(GOOD, GOOD, (0, 0), generator())),
}  # fmt: skip


@pytest.mark.parametrize("name", REFUSED)
def test_bad_input_is_refused_by_name(name):
    error, message, call = REFUSED[name]
    with pytest.raises(error, match=message):
        call()


def test_formulas_leave_their_inputs_alone():
    ours, theirs = arm(0), arm(1)
    kept = ours.copy(), theirs.copy()
    formulas.comparison(ours, theirs, (0, 0), generator(), resamples=10)
    formulas.sample_efficiency_area(ours, np.arange(4))
    formulas.performance_profile(ours, np.arange(3))
    p_values = np.array([0.2, 0.01])
    formulas.holm_adjusted(p_values)
    assert np.array_equal(ours, kept[0])
    assert np.array_equal(theirs, kept[1])
    assert p_values.tolist() == [0.2, 0.01]
