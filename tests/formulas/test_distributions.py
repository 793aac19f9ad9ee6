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


# -- bounded and state-dependent distributions ----------------------------------------------------------------


def doubles(*numbers):
    return tuple(th.tensor([[number]], dtype=th.float64) for number in numbers)


def density_on_grid(formulas_, parameters, grid):
    column = th.from_numpy(grid)[:, None]
    return formulas_.log_prob(tuple(p.expand_as(column) for p in parameters), column).numpy()


@pytest.mark.parametrize(
    ("ours", "parameters", "others"),
    [
        (formulas.BETA, (1.7, 3.2), (2.5, 1.4)),
        (formulas.SQUASHED_GAUSSIAN, (0.4, 0.6), (-0.2, 0.9)),
        (formulas.SQUASHED_GAUSSIAN, (1.5, 0.3), (1.0, 0.5)),
    ],
)
def test_bounded_distributions_by_numerical_integration(ours, parameters, others):
    parameters, others = doubles(*parameters), doubles(*others)

    def log_density(grid, of=parameters):
        return density_on_grid(ours, of, grid)

    edge = 1 - 1e-9
    integral = oracles.integrate(lambda x: np.exp(log_density(x)), -edge, edge, 400001)
    assert integral == pytest.approx(1, abs=1e-4)
    entropy = oracles.integrate(lambda x: -np.exp(log_density(x)) * log_density(x), -edge, edge, 400001)
    assert ours.entropy(parameters).item() == pytest.approx(entropy, abs=1e-3)
    kl = oracles.integrate(
        lambda x: np.exp(log_density(x)) * (log_density(x) - log_density(x, others)), -edge, edge, 400001
    )
    assert ours.kl(parameters, others).item() == pytest.approx(kl, abs=1e-3)
    mean = oracles.integrate(lambda x: np.exp(log_density(x)) * x, -edge, edge, 400001)
    th.manual_seed(0)
    samples = ours.sample(tuple(p.expand(200_000, 1) for p in parameters))
    assert samples.abs().max() <= 1
    assert samples.mean().item() == pytest.approx(mean, abs=5e-3)


def test_beta_equals_torchs():
    alpha, beta = seeded(6, 2).abs() + 1.1, seeded(2, 6).T.abs() + 1.2
    theirs = torch_distributions.Independent(torch_distributions.Beta(alpha, beta), 1)
    actions = 2 * theirs.sample() - 1
    assert formulas.BETA.log_prob((alpha, beta), actions).numpy() == pytest.approx(
        theirs.log_prob((actions + 1) / 2).numpy() - 2 * math.log(2), abs=1e-4
    )
    assert formulas.BETA.entropy((alpha, beta)).numpy() == pytest.approx(
        theirs.entropy().numpy() + 2 * math.log(2), abs=1e-5
    )
    other = torch_distributions.Independent(torch_distributions.Beta(beta, alpha), 1)
    expected = torch_distributions.kl_divergence(theirs, other)
    assert formulas.BETA.kl((alpha, beta), (beta, alpha)).numpy() == pytest.approx(expected.numpy(), abs=1e-4)
    assert formulas.BETA.mode((alpha, beta)).numpy() == pytest.approx(2 * theirs.mean.numpy() - 1, abs=1e-6)


def test_squashed_log_prob_equals_torchs_transformed_distribution():
    mean, std = seeded(6, 2), seeded(2, 6).T.abs() + 0.2
    tanh = torch_distributions.TanhTransform(cache_size=1)
    theirs = torch_distributions.TransformedDistribution(torch_distributions.Normal(mean, std), [tanh])
    actions = theirs.sample()
    ours = formulas.SQUASHED_GAUSSIAN.log_prob((mean, std), actions)
    assert ours.numpy() == pytest.approx(theirs.log_prob(actions).sum(1).numpy(), abs=1e-3)


def test_entropy_gradient_of_the_squashed_gaussian_is_right_and_sb3s_is_not():
    mean, log_std = th.tensor([[0.3]], dtype=th.float64), th.tensor([[0.5]], dtype=th.float64)

    def entropy(log_std):
        return formulas.SQUASHED_GAUSSIAN.entropy((mean, log_std.exp()))

    def slope(function):
        variable = log_std.clone().requires_grad_()
        function(variable).sum().backward()
        return variable.grad.item()

    finite = ((entropy(log_std + 1e-5) - entropy(log_std - 1e-5)) / 2e-5).item()
    assert slope(entropy) == pytest.approx(finite, abs=1e-6)
    assert abs(finite) > 0.1
    th.manual_seed(0)
    many = mean.expand(400_000, 1)
    actions = formulas.TANH_GAUSSIAN.sample((many, log_std.exp().expand_as(many)))

    def of_old_actions(variable):
        return -formulas.TANH_GAUSSIAN.log_prob((many, variable.exp().expand_as(many)), actions).mean()

    assert abs(slope(of_old_actions)) < 0.01


def test_bounded_log_probs_stay_finite_at_the_bounds():
    actions = th.tensor([[-1.0], [1.0]])
    one = th.ones(2, 1)
    for ours, parameters in ((formulas.BETA, (2 * one, 3 * one)), (formulas.SQUASHED_GAUSSIAN, (0 * one, one))):
        assert th.isfinite(ours.log_prob(parameters, actions)).all()


def test_masked_categorical_never_draws_a_forbidden_action():
    logits, masks = th.zeros(1000, 3), th.tensor([[True, False, True]]).expand(1000, 3)
    log_probs = categorical.log_probabilities(categorical.masked_logits(logits, masks))
    assert (categorical.categorical_sample(log_probs) != 1).all()
    assert categorical.categorical_entropy(log_probs)[0].item() == pytest.approx(math.log(2))
    assert categorical.categorical_kl(log_probs, log_probs).abs().max() == 0


def test_masked_bits_are_certain():
    logits, masks = th.zeros(100, 2), th.tensor([[True, False, True, True]]).expand(100, 4)
    odds = bernoulli.masked_log_odds(logits, masks)
    assert (bernoulli.bernoulli_sample(odds)[:, 0] == 0).all()
    assert bernoulli.bernoulli_entropy(odds)[0].item() == pytest.approx(math.log(2))
    actions = th.tensor([[0.0, 1.0]])
    assert bernoulli.bernoulli_log_prob(odds[:1], actions).item() == pytest.approx(-math.log(2))
    assert bernoulli.bernoulli_kl(odds, odds).abs().max() == 0


def test_all_true_masks_change_not_a_bit():
    logits = seeded(5, 4)
    assert th.equal(categorical.masked_logits(logits, th.ones(5, 4, dtype=th.bool)), logits)
    assert th.equal(bernoulli.masked_log_odds(logits, th.ones(5, 8, dtype=th.bool)), logits)
