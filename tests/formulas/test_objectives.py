"""Objectives and errors: the clip table, bounds, gradients."""

import numpy as np
import pytest
import torch as th
from hypothesis import given
from hypothesis import strategies as st

from sb3_ppo_notes.formulas import objectives as formulas
from sb3_ppo_notes.formulas.checks import InvalidValueError
from tests import oracles
from tests.strategies import float_vectors

RATIOS = float_vectors(6, 0.0, 3.0)
ADVANTAGES = float_vectors(6)


def gradient(function, *inputs):
    """d sum(function) / d first input."""
    first = inputs[0].clone().requires_grad_()
    function(first, *inputs[1:]).sum().backward()
    return first.grad


@pytest.mark.parametrize(
    ("advantage", "ratio", "objective", "slope"),
    [
        (1.0, 0.5, 0.5, 1.0),  # worse than before where it should be likelier: the minimum keeps the gradient
        (1.0, 1.0, 1.0, 1.0),
        (1.0, 1.5, 1.2, 0.0),  # likelier than the clip rewards: no gradient
        (-1.0, 0.5, -0.8, 0.0),  # rarer than the clip rewards: no gradient
        (-1.0, 1.0, -1.0, -1.0),
        (-1.0, 1.5, -1.5, -1.0),  # likelier though it was bad: the minimum keeps the gradient
    ],
)
def test_gradient_table_of_the_clip(advantage, ratio, objective, slope):
    ratio, advantage = th.tensor([ratio]), th.tensor([advantage])
    assert formulas.clipped_surrogate(ratio, advantage, 0.2).item() == pytest.approx(objective)
    assert gradient(formulas.clipped_surrogate, ratio, advantage, 0.2).item() == slope


@given(RATIOS, ADVANTAGES, st.floats(0.01, 0.9))
def test_clipped_surrogate_is_a_lower_bound(ratios, advantages, clip_range):
    ratios, advantages = th.from_numpy(ratios), th.from_numpy(advantages)
    clipped = formulas.clipped_surrogate(ratios, advantages, clip_range)
    assert (clipped <= formulas.surrogate(ratios, advantages)).all()


@given(RATIOS, ADVANTAGES, st.floats(0.01, 0.9))
def test_clipped_surrogate_equals_the_piecewise_form(ratios, advantages, clip_range):
    clipped = formulas.clipped_surrogate(th.from_numpy(ratios), th.from_numpy(advantages), clip_range)
    pairs = zip(ratios.astype(float), advantages.astype(float), strict=True)
    expected = [oracles.clipped_surrogate(ratio, advantage, clip_range) for ratio, advantage in pairs]
    assert clipped.numpy() == pytest.approx(expected, rel=1e-5, abs=1e-5)


@given(float_vectors(6, -3.0, 0.0), ADVANTAGES)
def test_at_ratio_one_the_gradient_is_the_policy_gradient(log_probs, advantages):
    log_probs, advantages = th.from_numpy(log_probs), th.from_numpy(advantages)

    def ppo(new):
        return formulas.clipped_surrogate(formulas.probability_ratio(new, log_probs), advantages, 0.2)

    assert th.equal(gradient(ppo, log_probs), gradient(formulas.policy_gradient, log_probs, advantages))


def test_score_function_gradient_on_a_bandit():
    # Three arms, θ = (.2, -.1, .4), rewards (1, 0, 2): ∇E[R] = p·(R - E[R]) analytically.
    theta, rewards = th.tensor([0.2, -0.1, 0.4], dtype=th.float64), th.tensor([1.0, 0.0, 2.0], dtype=th.float64)
    p = th.softmax(theta, dim=0)

    def expected_objective(logits):
        return p * formulas.policy_gradient(th.log_softmax(logits, dim=0), rewards)

    assert gradient(expected_objective, theta) == pytest.approx(p * (rewards - (p * rewards).sum()), abs=1e-12)
    assert gradient(expected_objective, theta) == pytest.approx(th.tensor([-0.0548, -0.2907, 0.3454]), abs=1e-4)


def test_value_clip_table():
    # V_old = 0, target 1, ε = .2
    values, old, target = th.tensor([0.1, 0.5, 1.0, -0.5]), th.zeros(4), th.ones(4)
    assert formulas.squared_value_error(values, target).numpy() == pytest.approx([0.81, 0.25, 0, 2.25])
    clipped = formulas.squared_value_error(formulas.clipped_values(values, old, 0.2), target)
    assert clipped.numpy() == pytest.approx([0.81, 0.64, 0.64, 1.44])
    pessimistic = formulas.pessimistic_value_error(values, old, target, 0.2)
    assert pessimistic.numpy() == pytest.approx([0.81, 0.64, 0.64, 2.25])


def test_clipped_value_that_moved_away_has_no_gradient_but_the_pessimistic_one_has():
    # V = -.5 is further from the target 1 than V_old = 0 was.
    away, old, target = th.tensor([-0.5]), th.zeros(1), th.ones(1)

    def clipped(values):
        return formulas.squared_value_error(formulas.clipped_values(values, old, 0.2), target)

    def pessimistic(values):
        return formulas.pessimistic_value_error(values, old, target, 0.2)

    assert gradient(clipped, away).item() == 0.0
    assert gradient(pessimistic, away).item() == -3.0  # 2·(V - target)


@given(float_vectors(8), float_vectors(8))
def test_mean_squared_error_is_the_mean_of_the_squares(values, returns):
    expected = np.mean((values.astype(float) - returns.astype(float)) ** 2)
    assert formulas.mean_squared_error(th.from_numpy(values), th.from_numpy(returns)).item() == pytest.approx(
        expected, rel=1e-5
    )


def test_huber_golden_values():
    distances = th.tensor([0.5, 1.0, 2.0, -3.0])
    assert formulas.huber_value_error(distances, th.zeros(4)).tolist() == [0.125, 0.5, 1.5, 2.5]
    assert gradient(formulas.huber_value_error, distances, th.zeros(4)).tolist() == [0.5, 1.0, 1.0, -1.0]


def test_normalisation_golden_values():
    # (1,2,3,4): mean 2.5, deviations (-1.5,-.5,.5,1.5), variance 5/3 with N-1 and 5/4 with N
    advantages = th.tensor([1.0, 2.0, 3.0, 4.0])
    assert formulas.normalize_advantages(advantages).numpy() == pytest.approx(
        [-1.161895, -0.387298, 0.387298, 1.161895], abs=1e-6
    )
    assert formulas.normalize_advantages(advantages, ddof=0).numpy() == pytest.approx(
        [-1.341641, -0.447214, 0.447214, 1.341641], abs=1e-6
    )


@pytest.mark.parametrize("deviation", [1.0, 1e-3, 1e-6])
@pytest.mark.parametrize("size", [5, 16, 64, 100])
def test_rows_are_normalised_to_the_bit_as_each_by_itself(size, deviation):
    """Also where they are nearly alike, as after a constant reward: SB3 normalises one minibatch after the other."""
    rows = 16 + deviation * th.randn(50, size, generator=th.Generator().manual_seed(size))
    for row, normalised in zip(rows, formulas.normalize_advantages(rows), strict=True):
        assert th.equal(normalised, (row - row.mean()) / (row.std() + 1e-8))


def test_normalising_minibatches_turns_signs_that_the_rollout_keeps():
    # 1..4 are all below the mean of (1..4, 101..104), but each half alone has its own mean.
    both = th.tensor([1.0, 2, 3, 4, 101, 102, 103, 104])
    whole = formulas.normalize_advantages(both)
    halves = th.cat([formulas.normalize_advantages(half) for half in both.split(4)])
    assert whole[:4].numpy() == pytest.approx([-0.963, -0.944, -0.926, -0.907], abs=1e-3)
    assert (th.sign(whole) != th.sign(halves)).tolist() == [False, False, True, True, True, True, False, False]


@given(float_vectors(7), st.floats(0.5, 20), st.floats(-50, 50))
def test_normalisation_ignores_scale_and_shift(advantages, scale, shift):
    advantages = th.from_numpy(advantages).double()
    if advantages.std() < 1e-2:
        return
    moved = formulas.normalize_advantages(advantages * scale + shift)
    assert moved.numpy() == pytest.approx(formulas.normalize_advantages(advantages).numpy(), abs=1e-4)


def test_constant_advantages_become_zero_and_one_sample_stays():
    assert formulas.normalize_advantages(th.full((5,), 3.0)).tolist() == [0.0] * 5
    assert formulas.normalize_advantages(th.tensor([3.0])).tolist() == [3.0]


@pytest.mark.parametrize(
    "formula",
    [
        formulas.policy_gradient,
        formulas.probability_ratio,
        formulas.surrogate,
        formulas.squared_value_error,
        formulas.mean_squared_error,
        formulas.huber_value_error,
        lambda a, b: formulas.clipped_surrogate(a, b, 0.2),
        lambda a, b: formulas.clipped_values(a, b, 0.2),
    ],
)
def test_a_column_never_broadcasts_against_a_row(formula):
    with pytest.raises(InvalidValueError, match="one shape"):
        formula(th.zeros(4), th.zeros(4, 1))
