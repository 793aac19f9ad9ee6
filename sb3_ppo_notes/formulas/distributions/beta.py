"""Independent Beta distributions, stretched to [−1, 1]: bounded actions without a pile of probability at the bounds."""

import math

import torch as th
from torch.nn.functional import softplus


def beta_parameters(outputs: th.Tensor) -> tuple[th.Tensor, th.Tensor]:
    """The two shape parameters, both above 1.

        αᵢ = 1 + softplus(zᵢ)   βᵢ = 1 + softplus(z_{d+i})

    Above 1 the density has one mode inside the bounds; at or below 1 it would be infinite at one of them.

    Source: Chou, Maturana & Scherer 2017, section 4.

    :param outputs: ``[N, 2·d]``, z, of the network: first the α of all dimensions, then the β.
    :return: α and β, ``[N, d]`` each, > 1; dimensionless.

    >>> [round(part.item(), 4) for part in beta_parameters(th.zeros(1, 2))]
    [1.6931, 1.6931]
    """
    alpha, beta = (1.0 + softplus(part) for part in outputs.chunk(2, dim=1))
    return alpha, beta


def log_beta_function(alpha: th.Tensor, beta: th.Tensor) -> th.Tensor:
    """Logarithm of the normalising constant.

        log B(α, β) = log Γ(α) + log Γ(β) − log Γ(α+β)

    Source: Abramowitz & Stegun 6.2.2.

    :param alpha: ``[N, d]``, α > 0.
    :param beta: ``[N, d]``, β > 0.
    :return: ``[N, d]``.

    >>> log_beta_function(th.ones(1, 1), th.ones(1, 1)).item()
    0.0
    """
    return th.lgamma(alpha) + th.lgamma(beta) - th.lgamma(alpha + beta)


def beta_log_prob(alpha: th.Tensor, beta: th.Tensor, actions: th.Tensor) -> th.Tensor:
    """Log-density of actions in [−1, 1].

        log π(a|s) = Σᵢ (αᵢ−1)·log xᵢ + (βᵢ−1)·log(1−xᵢ) − log B(αᵢ, βᵢ) − log 2 ,   x = (a+1)/2

    The log 2 is the stretching from [0, 1] to an interval twice as long. An action at a bound is moved inwards by a
    rounding unit: its density is 0.

    Source: Chou, Maturana & Scherer 2017 eq. 9.

    :param alpha: ``[N, d]``, α > 1.
    :param beta: ``[N, d]``, β > 1.
    :param actions: ``[N, d]``, a, in [−1, 1].
    :return: ``[N]``; nats.

    >>> uniform = th.ones(1, 1)
    >>> round(beta_log_prob(uniform, uniform, th.zeros(1, 1)).exp().item(), 6)  # α = β = 1 is uniform on [-1, 1]
    0.5
    """
    eps = th.finfo(actions.dtype).eps
    unit = ((actions + 1) / 2).clamp(eps, 1 - eps)
    log_densities = (alpha - 1) * unit.log() + (beta - 1) * (-unit).log1p() - log_beta_function(alpha, beta)
    return (log_densities - math.log(2)).sum(dim=1)


def beta_entropy(alpha: th.Tensor, beta: th.Tensor) -> th.Tensor:
    """Differential entropy on [−1, 1].

        H = Σᵢ log B(α, β) − (α−1)·ψ(α) − (β−1)·ψ(β) + (α+β−2)·ψ(α+β) + log 2

    Unlike a Gaussian's it has a maximum: d·log 2, the uniform distribution, so an entropy bonus cannot push for ever.

    Source: Johnson, Kotz & Balakrishnan 1995, chapter 25.

    :param alpha: ``[N, d]``, α > 1.
    :param beta: ``[N, d]``, β > 1.
    :return: ``[N]``, at most d·log 2; nats.

    >>> round(beta_entropy(th.ones(1, 1), th.ones(1, 1)).item(), 6)
    0.693147
    """
    total = alpha + beta
    own = (alpha - 1) * th.digamma(alpha) + (beta - 1) * th.digamma(beta)
    entropies = log_beta_function(alpha, beta) - own + (total - 2) * th.digamma(total) + math.log(2)
    return entropies.sum(dim=1)


def beta_kl(old_alpha: th.Tensor, old_beta: th.Tensor, new_alpha: th.Tensor, new_beta: th.Tensor) -> th.Tensor:
    """Exact KL(old ‖ new). The stretching does not change it.

        KL = Σᵢ log B(α',β') − log B(α,β) + (α−α')·ψ(α) + (β−β')·ψ(β) + (α'−α+β'−β)·ψ(α+β)

    Source: Rauber, Braun & Berns 2008.

    :param old_alpha: ``[N, d]``, α.
    :param old_beta: ``[N, d]``, β.
    :param new_alpha: ``[N, d]``, α'.
    :param new_beta: ``[N, d]``, β'.
    :return: ``[N]``, >= 0; nats.

    >>> two = th.full((1, 1), 2.0)
    >>> beta_kl(two, two, two, two).item()
    0.0
    """
    divergences = (
        log_beta_function(new_alpha, new_beta)
        - log_beta_function(old_alpha, old_beta)
        + (old_alpha - new_alpha) * th.digamma(old_alpha)
        + (old_beta - new_beta) * th.digamma(old_beta)
        + (new_alpha - old_alpha + new_beta - old_beta) * th.digamma(old_alpha + old_beta)
    )
    return divergences.sum(dim=1)


def beta_sample(alpha: th.Tensor, beta: th.Tensor) -> th.Tensor:
    """Random actions.

        a = 2·g₁/(g₁+g₂) − 1 ,   g₁ ~ Gamma(α) ,   g₂ ~ Gamma(β)

    Source: Johnson, Kotz & Balakrishnan 1995, chapter 25.

    :param alpha: ``[N, d]``, α > 1.
    :param beta: ``[N, d]``, β > 1.
    :return: ``[N, d]`` in [−1, 1].

    >>> abs(beta_sample(th.full((1, 1), 1e6), th.full((1, 1), 1e6)).item()) < 0.01
    True
    """
    first, second = th._standard_gamma(alpha), th._standard_gamma(beta)
    return 2 * first / (first + second) - 1


def beta_mean(alpha: th.Tensor, beta: th.Tensor) -> th.Tensor:
    """The deterministic action: the mean, not the mode.

        E[a] = 2·α/(α+β) − 1

    Source: Johnson, Kotz & Balakrishnan 1995, chapter 25.

    :param alpha: ``[N, d]``, α > 1.
    :param beta: ``[N, d]``, β > 1.
    :return: ``[N, d]`` in (−1, 1).

    >>> beta_mean(th.ones(1, 1), th.full((1, 1), 3.0)).item()
    -0.5
    """
    return 2 * alpha / (alpha + beta) - 1
