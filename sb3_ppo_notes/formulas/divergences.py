"""How far the new policy moved: sample estimates of KL(π_old ‖ π), the order in which PPO's samples were drawn.

Samples come from the old policy, so the estimates are of KL(old ‖ new), never of KL(new ‖ old): the two differ, write
the order. The exact divergences live with each distribution (``formulas.distributions``).
"""

import torch as th

from sb3_ppo_notes.formulas.checks import check_shapes


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


def kl_cutoff(kl: th.Tensor, threshold: float, coefficient: float) -> th.Tensor:
    """A wall behind the KL penalty: nothing up to the threshold, then steeply more.

        c·(KL − KL_max)²  if KL > KL_max else 0

    Value and slope are both 0 at the threshold, so the wall begins without a kink.

    Source: batch-ppo's ``_policy_loss``.

    :param kl: ``[N]`` or scalar, KL: exact KL(old ‖ new); nats.
    :param threshold: KL_max; nats.
    :param coefficient: c >= 0.
    :return: same shape, >= 0, to be subtracted from an objective.

    >>> kl_cutoff(th.tensor([0.5, 2.0]), threshold=1.0, coefficient=10.0).tolist()
    [0.0, 10.0]
    """
    return coefficient * th.clamp(kl - threshold, min=0.0) ** 2


def kl_penalized(surrogate: th.Tensor, kl: th.Tensor, coefficient: float) -> th.Tensor:
    """The surrogate with the distance from the old policy held against it.

        L = ρ·Â − β·KL(π_old ‖ π)

    A soft trust region in place of PPO's clip: β = 0 is the bare surrogate, a huge β forbids any change.

    Source: PPO (arXiv:1707.06347) eq. 8.

    :param surrogate: ``[N]``, ρ·Â; units of the advantages.
    :param kl: ``[N]``, exact KL(π_old ‖ π) in each state, with gradient; nats.
    :param coefficient: β >= 0.
    :return: ``[N]``, to be maximised.
    :raises ValueError: if the shapes differ.

    >>> kl_penalized(th.tensor([1.0]), th.tensor([0.25]), coefficient=2.0).item()
    0.5
    """
    check_shapes(surrogate=surrogate, kl=kl)
    return surrogate - coefficient * kl
