"""A Gaussian sent through tanh: actions that cannot leave (−1, 1)."""

import torch as th

from sb3_ppo_notes.formulas.distributions.gaussian import gaussian_log_prob


def inverse_tanh(actions: th.Tensor) -> th.Tensor:
    """What was squashed.

        x = atanh(a) = ½·(log(1+a) − log(1−a))

    An action of exactly ±1 is moved inwards by one rounding unit first: its inverse would be infinite.

    Source: ``TanhBijector.inverse`` of Stable-Baselines3 (from Pyro).

    :param actions: ``[N, d]`` in [−1, 1].
    :return: ``[N, d]``, finite.

    >>> inverse_tanh(th.zeros(1, 1)).item()
    0.0
    """
    eps = th.finfo(actions.dtype).eps
    bounded = actions.clamp(min=-1.0 + eps, max=1.0 - eps)
    return 0.5 * (bounded.log1p() - (-bounded).log1p())


def tanh_gaussian_log_prob(mean: th.Tensor, std: th.Tensor, actions: th.Tensor, epsilon: float = 1e-6) -> th.Tensor:
    """Log-density of a squashed action.

        log π(a|s) = log N(x; μ, σ) − Σᵢ log(1 − tanh(xᵢ)² + ε) ,   x = atanh(a)

    The change of variables: where tanh is flat, much probability is pressed into little space and the density rises.

    Source: Haarnoja et al. 2018 (arXiv:1812.05905) appendix C; ``StateDependentNoiseDistribution`` of
    Stable-Baselines3.

    :param mean: ``[N, d]`` before the tanh.
    :param std: ``[N, d]``, > 0, before the tanh.
    :param actions: ``[N, d]`` in [−1, 1].
    :param epsilon: keeps the logarithm finite at the bounds.
    :return: ``[N]``; nats.

    >>> zero, one = th.zeros(1, 1), th.ones(1, 1)
    >>> round(tanh_gaussian_log_prob(zero, one, zero, epsilon=0.0).item(), 6)  # at 0 tanh has slope 1
    -0.918939
    """
    unsquashed = inverse_tanh(actions)
    correction = th.sum(th.log(1.0 - th.tanh(unsquashed) ** 2 + epsilon), dim=1)
    return gaussian_log_prob(mean, std, unsquashed) - correction
