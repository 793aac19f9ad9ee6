"""How far the new policy moved: sample estimates of KL(π_old ‖ π), the order in which PPO's samples were drawn.

Samples come from the old policy, so the estimates are of KL(old ‖ new), never of KL(new ‖ old): the two differ, write
the order. The exact divergences live with each distribution (``formulas.distributions``).
"""

import torch as th


def kl_k1(log_ratio: th.Tensor) -> th.Tensor:
    """The plain estimator of KL(π_old ‖ π).

        k1 = −log ρ = log π_old − log π

    Unbiased; negative for about half of the samples when the policies are close, so that the mean of an unlucky batch
    is negative and an early stop on it never comes.

    Source: Schulman 2020, "Approximating KL divergence"; Spinning Up's ``approx_kl``.

    :param log_ratio: ``[N]``, log ρ = log π − log π_old; nats.
    :return: ``[N]``; nats.

    >>> kl_k1(th.tensor([0.5])).item()
    -0.5
    """
    return -log_ratio


def kl_k2(log_ratio: th.Tensor) -> th.Tensor:
    """The squared estimator of KL(π_old ‖ π).

        k2 = ½·(log ρ)²

    Never negative and of low variance, but biased: right to second order in the step.

    Source: Schulman 2020, "Approximating KL divergence".

    :param log_ratio: ``[N]``, log ρ = log π − log π_old; nats.
    :return: ``[N]``, >= 0; nats.

    >>> kl_k2(th.tensor([0.5])).item()
    0.125
    """
    return 0.5 * log_ratio**2


def kl_k3(log_ratio: th.Tensor) -> th.Tensor:
    """The estimator SB3 logs and stops on.

        k3 = (ρ − 1) − log ρ

    Unbiased *and* never negative (x − 1 ≥ log x), 0 only at ρ = 1: k1 plus a term whose expectation is 0 and which
    moves against it.

    Source: Schulman 2020, "Approximating KL divergence"; SB3 pull request #419.

    :param log_ratio: ``[N]``, log ρ = log π − log π_old; nats.
    :return: ``[N]``, >= 0; nats.

    >>> kl_k3(th.tensor([0.0])).item()
    0.0
    """
    return (th.exp(log_ratio) - 1) - log_ratio
