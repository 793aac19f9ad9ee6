"""A Gaussian sent through tanh: actions that cannot leave (−1, 1)."""

import math

import numpy as np
import torch as th
from torch.nn.functional import softplus

from sb3_ppo_notes.formulas.distributions.gaussian import gaussian_entropy, gaussian_log_prob

_ROOTS, _WEIGHTS = np.polynomial.hermite_e.hermegauss(32)
#: Points and weights by which E[f(ε)] = Σ w·f(point) for a standard normal ε.
QUADRATURE = (_ROOTS, _WEIGHTS / _WEIGHTS.sum())


def inverse_tanh(actions: th.Tensor) -> th.Tensor:
    """What was squashed.

        x = atanh(a) = ½·(log(1+a) − log(1−a))

    An action of exactly ±1 is moved inwards by one rounding unit first: its inverse would be infinite.

    Source: ``TanhBijector.inverse`` of Stable-Baselines3 (from Pyro).

    :param actions: ``[N, d]``, a, in [−1, 1].
    :return: ``[N, d]``, finite.

    >>> inverse_tanh(th.zeros(1, 1)).item()
    0.0
    """
    eps = th.finfo(actions.dtype).eps
    bounded = actions.clamp(min=-1.0 + eps, max=1.0 - eps)
    return 0.5 * (bounded.log1p() - (-bounded).log1p())


def tanh_gaussian_log_prob(mean: th.Tensor, std: th.Tensor, actions: th.Tensor, epsilon: float = 1e-6) -> th.Tensor:
    """Log-density of a squashed action.

        log π(a|s) = Σᵢ log N(xᵢ; μᵢ, σᵢ) − log(1 − tanh(xᵢ)² + ε) ,   x = atanh(a)

    The change of variables: where tanh is flat, much probability is pressed into little space and the density rises.

    Source: Haarnoja et al. 2018 (arXiv:1812.05905) appendix C; ``StateDependentNoiseDistribution`` of
    Stable-Baselines3.

    :param mean: ``[N, d]``, μ, before the tanh.
    :param std: ``[N, d]``, σ > 0, before the tanh.
    :param actions: ``[N, d]``, a, in [−1, 1].
    :param epsilon: ε, keeps the logarithm finite at the bounds.
    :return: ``[N]``; nats.

    >>> zero, one = th.zeros(1, 1), th.ones(1, 1)
    >>> round(tanh_gaussian_log_prob(zero, one, zero, epsilon=0.0).item(), 6)  # at 0 tanh has slope 1
    -0.918939
    """
    unsquashed = inverse_tanh(actions)
    correction = th.sum(th.log(1.0 - th.tanh(unsquashed) ** 2 + epsilon), dim=1)
    return gaussian_log_prob(mean, std, unsquashed) - correction


def log_tanh_slope(unsquashed: th.Tensor) -> th.Tensor:
    """Logarithm of tanh's slope, without cancellation.

        log(1 − tanh(x)²) = 2·(log 2 − x − softplus(−2x))

    Source: the identity 1 − tanh² = 4/(eˣ+e⁻ˣ)²; used so in TensorFlow Probability's Tanh bijector.

    :param unsquashed: ``[N, d]``, x.
    :return: ``[N, d]``, <= 0.

    >>> log_tanh_slope(th.zeros(1, 1)).item()
    0.0
    """
    return 2 * (math.log(2) - unsquashed - softplus(-2 * unsquashed))


def squashed_gaussian_log_prob(mean: th.Tensor, std: th.Tensor, actions: th.Tensor) -> th.Tensor:
    """Log-density of a squashed action, by the slope that does not cancel.

        log π(a|s) = Σᵢ log N(xᵢ; μᵢ, σᵢ) − log(1 − tanh(xᵢ)²) ,   x = atanh(a)

    Source: Haarnoja et al. 2018 (arXiv:1812.05905) appendix C.
    Deviation: SB3 adds ε = 1e-6 inside the logarithm (see :func:`tanh_gaussian_log_prob`, kept for gSDE).

    :param mean: ``[N, d]``, μ, before the tanh.
    :param std: ``[N, d]``, σ > 0, before the tanh.
    :param actions: ``[N, d]``, a, in [−1, 1].
    :return: ``[N]``; nats.

    >>> zero, one = th.zeros(1, 1), th.ones(1, 1)
    >>> round(squashed_gaussian_log_prob(zero, one, zero).item(), 6)
    -0.918939
    """
    unsquashed = inverse_tanh(actions)
    return gaussian_log_prob(mean, std, unsquashed) - log_tanh_slope(unsquashed).sum(dim=1)


def squashed_gaussian_entropy(mean: th.Tensor, std: th.Tensor) -> th.Tensor:
    """Entropy of a squashed Gaussian, with the right gradient.

        H = Σᵢ H(N(μᵢ, σᵢ)) + E[log(1 − tanh(μᵢ + σᵢ·ε)²)] ,   ε ~ N(0, 1)

    The expectation is written over ε and not over actions (reparameterised), so that its gradient is the entropy's.
    SB3's −log π of the *old* actions has an expected gradient of zero at ratio 1 and regularises nothing. Each
    dimension's expectation is an integral over one number: Gauss–Hermite quadrature takes it at fixed points, without
    any randomness.

    Source: Kingma & Welling 2013 (arXiv:1312.6114) section 2.4; Abramowitz & Stegun 25.4.46.

    :param mean: ``[N, d]``, μ, before the tanh.
    :param std: ``[N, d]``, σ > 0, before the tanh.
    :return: ``[N]``, at most d·log 2; nats.

    >>> round(squashed_gaussian_entropy(th.zeros(1, 1), th.full((1, 1), 1e-3)).item(), 3)  # tanh is the identity there
    -5.489
    """
    points, weights = (th.as_tensor(part, dtype=mean.dtype, device=mean.device) for part in QUADRATURE)
    slopes = log_tanh_slope(mean.unsqueeze(-1) + std.unsqueeze(-1) * points)
    return gaussian_entropy(std) + (slopes * weights).sum(dim=(1, 2))
