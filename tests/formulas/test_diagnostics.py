"""Diagnostics against closed forms and scipy."""

import math

import numpy as np
import pytest
import scipy.stats
import torch as th
from hypothesis import given
from hypothesis import strategies as st

from sb3_ppo_notes.formulas.activity import approximate_rank, dormant_share, relative_change, saturated_share
from sb3_ppo_notes.formulas.diagnostics import excess_kurtosis, outside_share
from sb3_ppo_notes.formulas.distributions import (
    BERNOULLI,
    BETA,
    CATEGORICAL,
    GAUSSIAN,
    MULTI_CATEGORICAL,
    SQUASHED_GAUSSIAN,
)
from sb3_ppo_notes.formulas.distributions.categorical import log_probabilities, masked_logits
from sb3_ppo_notes.formulas.distributions.dimensions import dimensions_of, largest_entropy, relative_entropy


@given(st.integers(0, 2**31), st.integers(2, 200))
def test_excess_kurtosis_is_scipys(seed, n):
    values = np.random.default_rng(seed).standard_t(5, n)
    assert excess_kurtosis(values) == pytest.approx(scipy.stats.kurtosis(values))


def test_excess_kurtosis_of_a_constant_is_nan():
    assert math.isnan(excess_kurtosis(np.ones(5)))


def test_outside_share_counts_both_sides_and_not_the_bounds():
    values = np.array([[-2.0, 1.0], [2.0, 1.0], [0.0, 9.0], [1.0, -1.0]])
    assert outside_share(values, np.array([-1.0, -1.0]), np.array([1.0, np.inf])).tolist() == [0.5, 0.0]


@given(st.integers(1, 12), st.integers(0, 2**31))
def test_approximate_rank_of_orthogonal_directions_is_their_number(rank, seed):
    generator = np.random.default_rng(seed)
    basis = np.linalg.qr(generator.normal(size=(40, 12)))[0][:, :rank]
    mixed = basis @ np.linalg.qr(generator.normal(size=(12, 12)))[0][:rank]
    assert approximate_rank(th.from_numpy(mixed)) == rank


def test_approximate_rank_against_singular_values():
    features = np.random.default_rng(0).normal(size=(50, 20)) * 0.5 ** np.arange(20)
    squares = np.linalg.svd(features, compute_uv=False) ** 2
    share = np.cumsum(squares) / squares.sum()
    assert approximate_rank(th.from_numpy(features)) == int(np.argmax(share >= 0.99)) + 1
    assert approximate_rank(th.zeros(3, 2)) == 0


def test_dormant_units_are_measured_against_their_own_layer():
    activations = th.tensor([[1.0, 0.0, 0.01], [-1.0, 0.0, -0.01]])
    # mean strength 1.01/3: scores 2.97, 0, 0.03
    assert float(dormant_share(activations)) == pytest.approx(1 / 3)
    assert float(dormant_share(activations, 0.1)) == pytest.approx(2 / 3)
    assert float(dormant_share(100 * activations)) == pytest.approx(1 / 3)
    assert float(dormant_share(th.zeros(2, 3))) == 1.0


def test_saturated_share_is_of_both_ends():
    assert float(saturated_share(th.tensor([[0.999, -0.999, 0.98, 0.0]]))) == 0.5


def test_relative_change_is_a_length_over_a_length():
    assert float(relative_change(th.tensor([0.0, 2.0]), th.tensor([3.0, 6.0]))) == pytest.approx(2.5)


def random_parameters(formulas):
    th.manual_seed(0)
    if formulas is CATEGORICAL:
        return (log_probabilities(th.randn(5, 4)),)
    if formulas is MULTI_CATEGORICAL:
        return tuple(log_probabilities(th.randn(5, n)) for n in (2, 3))
    if formulas is BERNOULLI:
        return (th.randn(5, 3),)
    if formulas is BETA:
        return 1 + th.rand(5, 2), 1 + th.rand(5, 2)
    return th.randn(5, 2), 0.3 + th.rand(5, 2)


@pytest.mark.parametrize("formulas", [CATEGORICAL, MULTI_CATEGORICAL, BERNOULLI, GAUSSIAN, SQUASHED_GAUSSIAN, BETA])
def test_dimensions_add_up_to_the_whole(formulas):
    parameters = random_parameters(formulas)
    parts = dimensions_of(formulas, parameters)
    total = th.stack([each.entropy(own) for each, own in parts]).sum(0)
    th.testing.assert_close(total, formulas.entropy(parameters))


@pytest.mark.parametrize("formulas", [CATEGORICAL, BERNOULLI, SQUASHED_GAUSSIAN, BETA])
def test_no_entropy_is_above_the_largest(formulas):
    for each, own in dimensions_of(formulas, random_parameters(formulas)):
        assert (each.entropy(own) <= largest_entropy(each, own) + 1e-6).all()


def test_the_largest_entropy_is_that_of_indifference():
    uniform = {
        CATEGORICAL: (log_probabilities(th.zeros(1, 7)),),
        BERNOULLI: (th.zeros(1, 1),),
        BETA: (th.ones(1, 1), th.ones(1, 1)),
    }
    for formulas, parameters in uniform.items():
        assert float(formulas.entropy(parameters)) == pytest.approx(
            float(largest_entropy(formulas, parameters)), abs=1e-6
        )
    assert largest_entropy(GAUSSIAN, (th.zeros(1, 1), th.ones(1, 1))) is None


def test_masked_actions_do_not_count_as_choices():
    masks = th.tensor([[True, True, False, False], [False, True, False, False]])
    parameters = (log_probabilities(masked_logits(th.zeros(2, 4), masks)),)
    assert largest_entropy(CATEGORICAL, parameters).tolist() == pytest.approx([math.log(2), 0.0])
    entropies = CATEGORICAL.entropy(parameters)
    assert relative_entropy(entropies, largest_entropy(CATEGORICAL, parameters)) == pytest.approx(1.0)
    assert math.isnan(relative_entropy(th.zeros(2), th.zeros(2)))
