"""Independent normal distributions (Box), and the state-dependent noise of gSDE, which is Gaussian too."""

import math

import torch as th


def sum_over_dimensions(terms: th.Tensor) -> th.Tensor:
    """The joint log-probability or entropy of independent dimensions: the sum of theirs.

    :param terms: ``[N, d]``; nats.
    :return: ``[N]``; nats.

    >>> sum_over_dimensions(th.ones(1, 3)).tolist()
    [3.0]
    """
    return terms.sum(dim=1)


def broadcast_std(mean: th.Tensor, log_std: th.Tensor) -> th.Tensor:
    """Standard deviations of every sample from one learned logarithm per dimension.

        σ = exp(log σ)

    The logarithm is what is learned: σ stays positive whatever the optimiser does. It does not depend on the state.

    Source: ``DiagGaussianDistribution`` of Stable-Baselines3.

    :param mean: ``[N, d]``, for the shape; action units.
    :param log_std: ``[d]``, log σ.
    :return: ``[N, d]``, > 0; action units.

    >>> broadcast_std(th.zeros(2, 1), th.zeros(1)).tolist()
    [[1.0], [1.0]]
    """
    return th.ones_like(mean) * log_std.exp()


def clamped_std(log_std: th.Tensor, bounds: tuple[float, float] = (-20.0, 2.0)) -> th.Tensor:
    """Standard deviations that a network gives, kept within bounds.

        σ = exp(clip(log σ, low, high))

    Source: skrl's ``GaussianMixin`` and its bounds.

    :param log_std: ``[N, d]``, log σ.
    :param bounds: low and high, of the logarithm.
    :return: ``[N, d]``, > 0; action units.

    >>> clamped_std(th.tensor([[0.0, -1000.0]]), bounds=(0.0, 1.0)).tolist()
    [[1.0, 1.0]]
    """
    return log_std.clamp(*bounds).exp()


def gaussian_log_prob(mean: th.Tensor, std: th.Tensor, actions: th.Tensor) -> th.Tensor:
    """Log-density of the actions.

        log π(a|s) = Σᵢ −(aᵢ−μᵢ)²/(2σᵢ²) − log σᵢ − log √(2π)

    A density, not a probability: it can exceed 1 and its logarithm can be positive. It is of the action *before* it is
    clipped to the environment's bounds.

    Source: ``torch.distributions.Normal.log_prob``, in its order of operations.

    :param mean: ``[N, d]``, μ; action units.
    :param std: ``[N, d]``, σ > 0; action units.
    :param actions: ``[N, d]``, a; action units.
    :return: ``[N]``; nats.

    >>> one = th.ones(1, 1)
    >>> gaussian_log_prob(0 * one, one, 0 * one).item()  # -½·log 2π
    -0.9189385175704956
    """
    variance = std**2
    log_densities = -((actions - mean) ** 2) / (2 * variance) - std.log() - math.log(math.sqrt(2 * math.pi))
    return sum_over_dimensions(log_densities)


def gaussian_entropy(std: th.Tensor) -> th.Tensor:
    """Differential entropy.

        H = Σᵢ ½ + ½·log 2π + log σᵢ

    It depends on σ alone, has no maximum, and is negative below σ ≈ 0.242: an entropy bonus on it never stops pushing σ
    up.

    Source: Cover & Thomas, theorem 8.4.1; ``torch.distributions.Normal.entropy``.

    :param std: ``[N, d]``, σ > 0; action units.
    :return: ``[N]``; nats.

    >>> gaussian_entropy(th.ones(1, 1)).item()
    1.4189385175704956
    """
    return sum_over_dimensions(0.5 + 0.5 * math.log(2 * math.pi) + th.log(std))


def gaussian_kl(old_mean: th.Tensor, old_std: th.Tensor, new_mean: th.Tensor, new_std: th.Tensor) -> th.Tensor:
    """Exact KL(old ‖ new) of two diagonal Gaussians.

        KL = Σᵢ ½·[(σ_old/σ)² + ((μ_old−μ)/σ)² − 1 − 2·log(σ_old/σ)]

    Not symmetric: σ 1 → 2 costs 0.318, σ 2 → 1 costs 0.807. A tanh on both sides changes nothing (the divergence of two
    distributions is that of their images under one bijection).

    Source: ``torch.distributions.kl``; batch-ppo's ``diag_normal_kl``.

    :param old_mean: ``[N, d]``, μ_old; action units.
    :param old_std: ``[N, d]``, σ_old; action units.
    :param new_mean: ``[N, d]``, μ; action units.
    :param new_std: ``[N, d]``, σ; action units.
    :return: ``[N]``, >= 0; nats.

    >>> zero, one = th.zeros(1, 1), th.ones(1, 1)
    >>> round(gaussian_kl(zero, one, zero, 2 * one).item(), 6)
    0.318147
    """
    variance_ratio = (old_std / new_std).pow(2)
    shift = ((old_mean - new_mean) / new_std).pow(2)
    return sum_over_dimensions(0.5 * (variance_ratio + shift - 1 - variance_ratio.log()))


def gaussian_sample(mean: th.Tensor, std: th.Tensor) -> th.Tensor:
    """A random action, written so that gradients can pass through it.

        a = μ + σ·ε ,   ε ~ N(0, 1)

    Source: the reparameterisation of Kingma & Welling 2013; ``Normal.rsample``, one draw of d numbers a row from
    torch's global generator.

    :param mean: ``[N, d]``, μ; action units.
    :param std: ``[N, d]``, σ; action units.
    :return: ``[N, d]``; action units.

    >>> gaussian_sample(th.ones(1, 1), th.zeros(1, 1)).item()
    1.0
    """
    noise = th.empty(mean.shape, dtype=mean.dtype, device=mean.device).normal_()
    return mean + noise * std


def state_dependent_std(latent: th.Tensor, weight_std: th.Tensor, epsilon: float = 1e-6) -> th.Tensor:
    """Standard deviation of gSDE's noise: features times random weights.

        σᵢ(s) = √(ε + Σₖ hₖ(s)²·wₖᵢ²)        the noise is hₖ(s)·Wₖᵢ, summed, with Wₖᵢ ~ N(0, wₖᵢ²)

    The noise is a *function of the state* until W is drawn again, so exploration is smooth in time instead of a new
    dice roll each step.

    Source: Raffin et al. 2021 (arXiv:2005.05719); ``StateDependentNoiseDistribution`` of Stable-Baselines3.

    :param latent: ``[N, k]``, h(s), without gradient: the noise must not train the features.
    :param weight_std: ``[k, d]``, w.
    :param epsilon: ε, keeps the root away from 0.
    :return: ``[N, d]``, > 0; action units.

    >>> state_dependent_std(th.tensor([[3.0, 4.0]]), th.ones(2, 1), epsilon=0.0).item()
    5.0
    """
    variance = th.mm(latent**2, weight_std**2)
    return th.sqrt(variance + epsilon)


def exploration_weight_std(log_std: th.Tensor, n_actions: int, use_expln: bool, epsilon: float = 1e-6) -> th.Tensor:
    """Standard deviations of gSDE's exploration weights.

        w = exp(log w)          with ``use_expln``:
        w = exp(log w) if log w ≤ 0 else log(1 + log w + ε) + 1

    The second grows like a logarithm, so that a large step cannot make the noise explode.

    Source: Raffin et al. 2021 (arXiv:2005.05719); ``StateDependentNoiseDistribution.get_std`` of Stable-Baselines3.

    :param log_std: ``[k, d]``, log w, or ``[k, 1]`` where one number serves all dimensions.
    :param n_actions: d.
    :param use_expln: the slower growth.
    :param epsilon: ε, keeps the logarithm's argument off 0.
    :return: ``[k, d]``, > 0.

    >>> exploration_weight_std(th.zeros(1, 1), n_actions=2, use_expln=False).tolist()
    [[1.0, 1.0]]
    """
    if use_expln:
        below = th.exp(log_std) * (log_std <= 0)
        above = (th.log1p(log_std * (log_std > 0) + epsilon) + 1.0) * (log_std > 0)
        std = below + above
    else:
        std = th.exp(log_std)
    if std.shape[1] == n_actions:
        return std
    return th.ones(len(log_std), n_actions, device=log_std.device) * std


def state_dependent_noise(latent: th.Tensor, weights: th.Tensor, weights_per_env: th.Tensor) -> th.Tensor:
    """GSDE's noise for the current weights.

        noiseᵢ = Σₖ hₖ(s)·Wₖᵢ

    Each environment has weights of its own, so that they explore differently; any other number of rows shares one
    matrix.

    Source: Raffin et al. 2021 (arXiv:2005.05719); ``StateDependentNoiseDistribution.get_noise`` of Stable-Baselines3.

    :param latent: ``[N, k]``, h(s).
    :param weights: ``[k, d]``, W.
    :param weights_per_env: ``[B, k, d]``.
    :return: ``[N, d]``; action units.

    >>> state_dependent_noise(th.ones(1, 2), th.ones(2, 1), th.ones(4, 2, 1)).item()
    2.0
    """
    if len(latent) == 1 or len(latent) != len(weights_per_env):
        return th.mm(latent, weights)
    return th.bmm(latent.unsqueeze(dim=1), weights_per_env).squeeze(dim=1)
