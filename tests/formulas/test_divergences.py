"""Estimators of KL(old ‖ new)."""

import math

import numpy as np
import pytest
import torch as th
from hypothesis import given

from sb3_ppo_notes.formulas.diagnostics import clip_fraction, explained_variance
from sb3_ppo_notes.formulas.distributions import categorical, gaussian
from sb3_ppo_notes.formulas.divergences import kl_k1, kl_k2, kl_k3
from tests import oracles
from tests.strategies import float_vectors

OLD, NEW = np.array([0.5, 0.5]), np.array([0.6, 0.4])
LOG_RATIO = th.from_numpy(np.log(NEW / OLD))


def test_golden_values_per_action():
    assert kl_k1(LOG_RATIO).numpy() == pytest.approx([-0.182322, 0.223144], abs=1e-6)
    assert kl_k2(LOG_RATIO).numpy() == pytest.approx([0.016621, 0.024897], abs=1e-6)
    assert kl_k3(LOG_RATIO).numpy() == pytest.approx([0.017678, 0.023144], abs=1e-6)


def test_expectations_under_the_old_policy():
    exact = oracles.categorical_kl(OLD, NEW)
    assert exact == pytest.approx(0.020411, abs=1e-6)
    for estimator, expected in ((kl_k1, exact), (kl_k3, exact), (kl_k2, 0.020759)):
        assert float(OLD @ estimator(LOG_RATIO).numpy()) == pytest.approx(expected, abs=1e-6)


def test_expected_gradient_of_k1_and_k3_is_the_gradient_of_the_exact_divergence():
    # Samples of the old policy, KL(old ‖ new): as a loss k1 and k3 are unbiased here, k2 is not.
    logits = th.tensor([0.3, -0.2], dtype=th.float64, requires_grad=True)
    old = th.from_numpy(OLD)

    def slope(of):
        return th.autograd.grad(of(th.log_softmax(logits, 0)), logits)[0].numpy()

    exact = slope(lambda new: (old * (old.log() - new)).sum())
    for estimator, is_unbiased in ((kl_k1, True), (kl_k3, True), (kl_k2, False)):
        expected = slope(lambda new, estimator=estimator: (old * estimator(new - old.log())).sum())
        assert (np.abs(expected - exact).max() < 1e-12) == is_unbiased


def test_k1_of_an_unlucky_batch_never_stops_anybody():
    only_action_0 = LOG_RATIO[:1]
    assert kl_k1(only_action_0).item() < 0 < kl_k3(only_action_0).item()


def test_estimators_of_two_gaussians():
    # N(0,1) → N(.1,1): exact KL .005; k1 is negative for almost half of the samples, k3 never.
    samples = th.randn(200_000, 1, generator=th.Generator().manual_seed(0), dtype=th.float64)
    one = th.ones_like(samples)
    log_ratio = gaussian.gaussian_log_prob(0.1 * one, one, samples) - gaussian.gaussian_log_prob(0 * one, one, samples)
    assert kl_k3(log_ratio).mean().item() == pytest.approx(0.005, abs=1e-4)
    assert kl_k3(log_ratio).std().item() == pytest.approx(0.0071, abs=2e-4)
    assert kl_k1(log_ratio).std().item() == pytest.approx(0.1, abs=2e-3)
    assert (kl_k1(log_ratio) < 0).double().mean().item() == pytest.approx(0.48, abs=0.01)


@given(float_vectors(5, -3, 3))
def test_k2_and_k3_are_never_negative_and_zero_only_without_a_change(log_ratio):
    log_ratio = th.from_numpy(log_ratio).double()
    for estimator in (kl_k2, kl_k3):
        assert (estimator(log_ratio) >= -1e-15).all()  # rounding: exp(x) - 1 - x near 0
    assert kl_k3(th.zeros(3)).tolist() == [0.0, 0.0, 0.0]


def test_clip_fraction_counts_both_sides_strictly():
    # .75 and 1.25 lie exactly on the border of ε = .25 and do not count.
    ratios = th.tensor([0.5, 0.75, 1.0, 1.25, 1.5])
    assert clip_fraction(ratios, 0.25).tolist() == [1, 0, 0, 0, 1]


def test_explained_variance_cases():
    returns = np.array([1.0, 2.0, 3.0, 4.0])
    assert explained_variance(returns, returns) == 1.0
    assert explained_variance(np.full(4, 7.0), returns) == 0.0
    assert explained_variance(-returns, returns) == pytest.approx(-3.0)  # Var[2R]/Var[R] = 4
    assert math.isnan(explained_variance(returns, np.full(4, 2.0)))


@given(float_vectors(6), float_vectors(6))
def test_explained_variance_is_at_most_one(values, returns):
    share = explained_variance(values.astype(float), returns.astype(float))
    assert math.isnan(share) or share <= 1


def test_exact_categorical_kl_is_what_the_estimators_estimate():
    old, new = th.from_numpy(np.log(OLD))[None], th.from_numpy(np.log(NEW))[None]
    assert categorical.categorical_kl(old, new).item() == pytest.approx(oracles.categorical_kl(OLD, NEW), abs=1e-12)
