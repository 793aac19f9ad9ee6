"""Scaling of rewards and observations by their own statistics."""

from typing import NamedTuple

import numpy as np

from sb3_ppo_notes.formulas.advantages import FloatArray
from sb3_ppo_notes.formulas.checks import check_shapes


class Moments(NamedTuple):
    """Running count, mean and sum of squared deviations.

    :param n: samples seen; ``VecNormalize`` begins with a fraction of one.
    :param mean: ``[...]``, of the samples.
    :param deviations: ``[...]``, Σ(x − mean)².
    """

    n: float
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
    if len(samples) == 0:
        return moments
    mean = samples.mean(axis=0, dtype=np.float64)
    return pooled_moments(moments, Moments(len(samples), mean, ((samples - mean) ** 2).sum(axis=0)))


def pooled_moments(moments: Moments, others: Moments) -> Moments:
    """Moments of two sets of samples together.

        n = n₁+n₂ ,  μ = μ₁ + d·n₂/n ,  M = M₁ + M₂ + d²·n₁n₂/n ,  d = μ₂ − μ₁

    Where both have the same mean the deviations add up; what lies between two means is a deviation, too.

    Source: Chan, Golub & LeVeque 1979.

    :param moments: n₁, μ₁ and M₁, ``[...]``.
    :param others: n₂, μ₂ and M₂ of other samples, not both empty.
    :return: a new triple.

    >>> pooled_moments(Moments(2, np.float64(1.0), np.float64(0.0)), Moments(2, np.float64(3.0), np.float64(0.0)))
    Moments(n=4, mean=np.float64(2.0), deviations=np.float64(4.0))
    """
    count = moments.n + others.n
    shift = others.mean - moments.mean
    return Moments(
        count,
        moments.mean + shift * others.n / count,
        moments.deviations + others.deviations + shift**2 * moments.n * others.n / count,
    )


def moments_since(moments: Moments, before: Moments) -> Moments:
    """Moments of the samples that have come since, the inverse of :func:`pooled_moments`.

        n₂ = n−n₁ ,  d = (μ − μ₁)·n/n₂ ,  μ₂ = μ₁ + d ,  M₂ = M − M₁ − d²·n₁n₂/n

    Several that began with the same statistics and went on by themselves are one again when the samples since then are
    pooled: pooling the statistics themselves would count what they have in common several times.

    Source: Chan, Golub & LeVeque 1979, solved for the second set.

    :param moments: n, μ and M of all samples, ``[...]``.
    :param before: n₁, μ₁ and M₁ of the first of them.
    :return: those of the others, all 0 if there are none.

    >>> moments_since(Moments(4, np.float64(2.0), np.float64(4.0)), Moments(2, np.float64(1.0), np.float64(0.0)))
    Moments(n=2, mean=np.float64(3.0), deviations=np.float64(0.0))
    """
    n_new = moments.n - before.n
    if n_new == 0:
        return Moments(0, np.zeros_like(moments.mean), np.zeros_like(moments.deviations))
    shift = (moments.mean - before.mean) * (moments.n / n_new)
    deviations = moments.deviations - before.deviations - shift**2 * (before.n * n_new / moments.n)
    # A sum of squares, but for rounding.
    return Moments(n_new, before.mean + shift, np.maximum(deviations, 0.0))


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
