"""Distributions: bit for bit those SB3 builds, right by integration, and KL against torch's."""

import math

import numpy as np
import pytest
import torch as th
from stable_baselines3.common import distributions as sb3
from torch import distributions as torch_distributions

from sb3_ppo_notes.formulas import distributions as formulas
from sb3_ppo_notes.formulas.distributions import bernoulli, categorical, gaussian, squashed
from tests import oracles


def seeded(*shape):
    return th.randn(*shape, generator=th.Generator().manual_seed(sum(shape)))


def split_log_probs(logits, sizes):
    return tuple(categorical.log_probabilities(part) for part in logits.split(sizes, dim=1))


def sb3_noise_distribution(squash, full_std=True, use_expln=False):
    distribution = sb3.StateDependentNoiseDistribution(2, full_std=full_std, use_expln=use_expln, squash_output=squash)
    _, log_std = distribution.proba_distribution_net(5, log_std_init=-0.5, latent_sde_dim=5)
    log_std = log_std.detach() + 0.7 * seeded(*log_std.shape)
    distribution.sample_weights(log_std, batch_size=7)
    latent, mean = seeded(7, 5), seeded(7, 2)
    std = gaussian.state_dependent_std(latent, gaussian.exploration_weight_std(log_std, 2, use_expln))
    return distribution.proba_distribution(mean, log_std, latent), (mean, std)


CASES = {
    "categorical": lambda: (
        formulas.CATEGORICAL,
        (categorical.log_probabilities(seeded(7, 3)),),
        sb3.CategoricalDistribution(3).proba_distribution(seeded(7, 3)),
    ),
    "multi_categorical": lambda: (
        formulas.MULTI_CATEGORICAL,
        split_log_probs(seeded(7, 5), [2, 3]),
        sb3.MultiCategoricalDistribution([2, 3]).proba_distribution(seeded(7, 5)),
    ),
    "bernoulli": lambda: (
        formulas.BERNOULLI,
        (seeded(7, 3),),
        sb3.BernoulliDistribution(3).proba_distribution(seeded(7, 3)),
    ),
    "gaussian": lambda: (
        formulas.GAUSSIAN,
        (seeded(7, 2), gaussian.broadcast_std(seeded(7, 2), th.tensor([-0.3, 0.4]))),
        sb3.DiagGaussianDistribution(2).proba_distribution(seeded(7, 2), th.tensor([-0.3, 0.4])),
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_formulas_are_bit_for_bit_those_of_sb3(name):
    ours, parameters, theirs = CASES[name]()
    th.manual_seed(5)
    actions = ours.sample(parameters)
    th.manual_seed(5)
    assert th.equal(actions, theirs.sample())
    assert th.equal(ours.log_prob(parameters, actions), theirs.log_prob(actions))
    assert th.equal(ours.entropy(parameters), theirs.entropy())
    assert th.equal(ours.mode(parameters), theirs.mode())


@pytest.mark.parametrize("squash", [False, True])
@pytest.mark.parametrize("full_std", [False, True])
@pytest.mark.parametrize("use_expln", [False, True])
def test_state_dependent_noise_is_bit_for_bit_that_of_sb3(squash, full_std, use_expln):
    theirs, parameters = sb3_noise_distribution(squash, full_std, use_expln)
    ours = formulas.TANH_GAUSSIAN if squash else formulas.GAUSSIAN
    noise = gaussian.state_dependent_noise(theirs._latent_sde, theirs.exploration_mat, theirs.exploration_matrices)
    unsquashed = parameters[0] + noise
    actions = th.tanh(unsquashed) if squash else unsquashed
    assert th.equal(actions, theirs.sample())
    assert th.equal(ours.log_prob(parameters, actions), theirs.log_prob(actions))
    assert th.equal(ours.mode(parameters), theirs.mode())
    assert (ours.entropy is None) == (theirs.entropy() is None)
    one = theirs._latent_sde[:1]
    assert th.equal(
        gaussian.state_dependent_noise(one, theirs.exploration_mat, theirs.exploration_matrices), theirs.get_noise(one)
    )


@pytest.mark.parametrize("name", CASES)
def test_exact_kl_equals_torchs(name):
    ours, old, _ = CASES[name]()
    new = tuple(parameter.abs() + 0.3 if name == "gaussian" else parameter * 0.5 for parameter in old)
    if "categorical" in name:
        new = tuple(categorical.log_probabilities(parameter) for parameter in new)
    kl = ours.kl(old, new)

    def as_torch(parameters):
        build = {
            "categorical": lambda: torch_distributions.Categorical(logits=parameters[0]),
            "bernoulli": lambda: torch_distributions.Independent(
                torch_distributions.Bernoulli(logits=parameters[0]), 1
            ),
            "gaussian": lambda: torch_distributions.Independent(torch_distributions.Normal(*parameters), 1),
        }
        return build[name]()

    if name == "multi_categorical":
        pairs = [
            (torch_distributions.Categorical(logits=p), torch_distributions.Categorical(logits=q))
            for p, q in zip(old, new, strict=True)
        ]
        expected = sum(torch_distributions.kl_divergence(p, q) for p, q in pairs)
    else:
        expected = torch_distributions.kl_divergence(as_torch(old), as_torch(new))
    assert kl.numpy() == pytest.approx(expected.numpy(), abs=1e-5)
    assert (kl >= -1e-6).all()
    assert ours.kl(old, old).abs().max() < 1e-6


@pytest.mark.parametrize(
    ("probabilities", "entropy"),
    [
        ([0.5, 0.5], 0.693147),
        ([0.9, 0.1], 0.325083),
        ([0.99, 0.01], 0.056002),
        ([1 / 3] * 3, 1.098612),
        ([1 / 6] * 6, 1.791759),
    ],
)
def test_categorical_entropy_golden_values(probabilities, entropy):
    log_probs = th.tensor([probabilities]).log()
    assert categorical.categorical_entropy(log_probs).item() == pytest.approx(entropy, abs=1e-6)


def test_entropy_of_a_certain_action_is_zero_and_not_nan():
    assert categorical.categorical_entropy(th.tensor([[0.0, -th.inf]])).item() == 0.0


def test_entropy_is_largest_for_the_uniform_policy():
    p = th.linspace(0.01, 0.99, 99)
    entropies = categorical.categorical_entropy(th.stack([p, 1 - p], dim=1).log())
    assert p[entropies.argmax()].item() == pytest.approx(0.5)
    assert entropies.max().item() == pytest.approx(math.log(2))


@pytest.mark.parametrize(("std", "entropy"), [(1.0, 1.418939), (0.5, 0.725791), (0.1, -0.883647)])
def test_gaussian_entropy_golden_values(std, entropy):
    assert gaussian.gaussian_entropy(th.tensor([[std]])).item() == pytest.approx(entropy, abs=1e-6)


def test_gaussian_kl_is_not_symmetric():
    zero, one = th.zeros(1, 1), th.ones(1, 1)
    assert gaussian.gaussian_kl(zero, one, zero, 2 * one).item() == pytest.approx(0.318147, abs=1e-6)
    assert gaussian.gaussian_kl(zero, 2 * one, zero, one).item() == pytest.approx(0.806853, abs=1e-6)
    assert gaussian.gaussian_kl(zero, one, 0.1 * one, one).item() == pytest.approx(0.005, abs=1e-6)


def test_gaussian_formulas_by_numerical_integration():
    mean, std = 0.3, 0.7

    def log_density(x):
        column = th.from_numpy(x)[:, None]
        return gaussian.gaussian_log_prob(th.full_like(column, mean), th.full_like(column, std), column).numpy()

    assert oracles.integrate(lambda x: np.exp(log_density(x)), -8, 8) == pytest.approx(1, abs=1e-9)
    entropy = oracles.integrate(lambda x: -np.exp(log_density(x)) * log_density(x), -8, 8)
    assert gaussian.gaussian_entropy(th.tensor([[std]], dtype=th.float64)).item() == pytest.approx(entropy, abs=1e-9)
    new = np.log(oracles.gaussian_density(np.linspace(-8, 8, 20001), -0.2, 1.1))
    kl = oracles.integrate(lambda x: np.exp(log_density(x)) * (log_density(x) - new), -8, 8)
    arguments = [th.tensor([[number]], dtype=th.float64) for number in (mean, std, -0.2, 1.1)]
    assert gaussian.gaussian_kl(*arguments).item() == pytest.approx(kl, abs=1e-9)


def test_tanh_gaussian_density_integrates_to_one():
    def density(actions):
        column = th.from_numpy(actions)[:, None]
        full = th.full_like
        return squashed.tanh_gaussian_log_prob(full(column, 0.4), full(column, 0.5), column, epsilon=0.0).exp().numpy()

    assert oracles.integrate(density, -0.99999, 0.99999, cells=400001) == pytest.approx(1, abs=1e-3)


def test_bernoulli_probabilities_sum_to_one():
    logits = th.tensor([[0.3, -1.2]], dtype=th.float64)
    outcomes = th.tensor([[0.0, 0], [0, 1], [1, 0], [1, 1]], dtype=th.float64)
    total = bernoulli.bernoulli_log_prob(logits.expand(4, 2), outcomes).exp().sum()
    assert total.item() == pytest.approx(1)


def test_sampling_draws_and_does_not_take_the_likeliest():
    th.manual_seed(0)
    log_probs = th.tensor([[0.9, 0.1]]).log().expand(10_000, 2)
    share = (categorical.categorical_sample(log_probs) == 0).double().mean().item()
    assert share == pytest.approx(0.9, abs=0.01)
    assert categorical.categorical_mode(log_probs).sum().item() == 0


def test_derivative_of_log_prob_is_onehot_minus_probabilities():
    logits = seeded(1, 4).requires_grad_()
    log_probs = categorical.log_probabilities(logits)
    categorical.categorical_log_prob(log_probs, th.tensor([2])).sum().backward()
    expected = th.eye(4)[2] - th.softmax(logits.detach(), dim=1)[0]
    assert logits.grad[0].numpy() == pytest.approx(expected.numpy(), abs=1e-6)


def test_kl_ignores_what_the_old_policy_excluded():
    old = th.tensor([[0.0, -th.inf]])
    new = th.tensor([[0.5, 0.5]]).log()
    assert categorical.categorical_kl(old, new).item() == pytest.approx(math.log(2))
    assert categorical.categorical_kl(old, old).item() == 0.0
