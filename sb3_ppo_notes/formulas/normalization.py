"""Scaling of rewards and observations by their own statistics."""

from typing import NamedTuple

import numpy as np

from sb3_ppo_notes.formulas.advantages import FloatArray
from sb3_ppo_notes.formulas.checks import check_shapes


class Moments(NamedTuple):
    """Running count, mean and sum of squared deviations.

    :param n: samples seen.
    :param mean: ``[...]``, of the samples.
    :param deviations: ``[...]``, Σ(x − mean)².
    """

    n: int
    mean: FloatArray
    deviations: FloatArray


def merged_moments(moments: Moments, samples: FloatArray) -> Moments:
    """Moments of everything seen, the new samples included.

        n = n₁+n₂ ,  μ = μ₁ + d·n₂/n ,  M = M₁ + M₂ + d²·n₁n₂/n ,  d = μ₂ − μ₁

    The same whether samples come one by one or in any batches, and without the cancellation of E[x²] − E[x]².

    Source: Chan, Golub & LeVeque 1979; batch-ppo's ``StreamingNormalize`` in its one-by-one form (Welford 1962).

    :param moments: n₁, μ₁ and M₁ so far.
    :param samples: ``[N, ...]``, new ones: their n₂, μ₂ and M₂ are computed.
    :return: a new triple.

    >>> merged_moments(Moments(0, np.zeros(()), np.zeros(())), np.array([1.0, 2.0, 3.0]))[1:]
    (np.float64(2.0), np.float64(2.0))
    """
    n_new = len(samples)
    if n_new == 0:
        return moments
    count = moments.n + n_new
    mean = samples.mean(axis=0, dtype=np.float64)
    shift = mean - moments.mean
    deviations = ((samples - mean) ** 2).sum(axis=0)
    return Moments(
        count,
        moments.mean + shift * n_new / count,
        moments.deviations + deviations + shift**2 * moments.n * n_new / count,
    )


def streaming_std(moments: Moments) -> FloatArray:
    """Standard deviation as batch-ppo's normaliser takes it.

        σ = √(M/(n−1) + 10⁻⁴) + 10⁻⁸

    The constant under the root keeps a feature that has hardly varied yet from being blown up.

    Source: batch-ppo, ``parts/normalize.py``.

    :param moments: n, mean and M of what was seen.
    :return: ``[...]``, 1 while fewer than two samples were seen.

    >>> round(float(streaming_std(Moments(3, np.float64(2.0), np.float64(2.0)))), 5)
    1.00005
    """
    if moments.n < 2:
        return np.ones_like(np.asarray(moments.deviations, dtype=np.float64))
    return np.asarray(np.sqrt(moments.deviations / (moments.n - 1) + 1e-4) + 1e-8)


def trajectory_z_scores(rewards: FloatArray, nonterminal: FloatArray, eps: float = 1e-5) -> FloatArray:
    """Rewards standardised within each trajectory.

        r ← (r − mean(r)) / (std(r) + eps)    over the steps of one episode (or the part of it in this rollout)

    A demonstration of what to avoid: it erases how good a trajectory *was*. Rewards (1, 2, 3) and (101, 102, 103)
    become the same, a constant reward (CartPole's) becomes 0 whether the pole stood for 5 steps or for 500.

    Source: moral_rl's ``ppo.py`` (the code of the French note).

    :param rewards: ``[T, B]``, r; reward units.
    :param nonterminal: ``[T, B]``, 0 where sₜ₊₁ starts another episode.
    :param eps: added to the standard deviation (ddof 0).
    :return: ``[T, B]``; standard deviations.
    :raises ValueError: if the shapes differ.

    >>> constant = np.ones((4, 1))
    >>> trajectory_z_scores(constant, constant).ravel().tolist()
    [0.0, 0.0, 0.0, 0.0]
    """
    check_shapes(rewards=rewards, nonterminal=nonterminal)
    scores = np.empty_like(rewards)
    for environment in range(rewards.shape[1]):
        ends = np.flatnonzero(nonterminal[:-1, environment] == 0) + 1
        for trajectory in np.split(np.arange(len(rewards)), ends):
            part = rewards[trajectory, environment]
            scores[trajectory, environment] = (part - part.mean()) / (part.std() + eps)
    return scores
