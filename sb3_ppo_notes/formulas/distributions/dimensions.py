"""A distribution over several action dimensions, taken apart: they are independent, so everything is a sum."""

import math

import torch as th

from sb3_ppo_notes.formulas.distributions import (
    BERNOULLI,
    BETA,
    CATEGORICAL,
    MULTI_CATEGORICAL,
    SQUASHED_GAUSSIAN,
    DistributionFormulas,
    Parameters,
)

#: A log-probability below, or a log-odds beyond, is not a policy's: there a mask forbids.
FORBIDDEN = 1e4


def dimensions_of(
    formulas: DistributionFormulas, parameters: Parameters
) -> list[tuple[DistributionFormulas, Parameters]]:
    """The distribution of each action dimension alone.

        H(π) = Σᵢ H(πᵢ)          log π(a) = Σᵢ log πᵢ(aᵢ)

    Source: independence of the factors, Cover & Thomas, theorem 2.6.6.

    :param formulas: of the whole.
    :param parameters: ``[N, ...]`` each.
    :return: formulas and parameters of each dimension; a Discrete action is one.

    >>> len(dimensions_of(BERNOULLI, (th.zeros(5, 3),)))
    3
    """
    if formulas is CATEGORICAL:
        return [(CATEGORICAL, parameters)]
    if formulas is MULTI_CATEGORICAL:
        return [(CATEGORICAL, (log_probs,)) for log_probs in parameters]
    columns = zip(*(th.split(parameter, 1, dim=1) for parameter in parameters), strict=True)
    return [(formulas, tuple(column)) for column in columns]


def largest_entropy(formulas: DistributionFormulas, parameters: Parameters) -> th.Tensor | None:
    """The entropy that one dimension would have if it were uniform over what it may do.

        log n for n allowed actions, log 2 for a bit, log 2 for a density on [−1, 1]

    When is entropy largest? When nothing is preferred. A Gaussian has no largest one: it grows with σ without end.

    Source: Cover & Thomas, theorem 2.6.4 and example 12.2.4.

    :param formulas: of one dimension.
    :param parameters: ``[N, ...]`` each; masked actions do not count.
    :return: ``[N]``; nats. ``None`` where there is no largest one.

    >>> round(largest_entropy(CATEGORICAL, (th.zeros(1, 4),)).item(), 4)
    1.3863
    """
    first = parameters[0]
    if formulas is CATEGORICAL:
        return th.log((first > -FORBIDDEN).sum(dim=1).float())
    if formulas is BERNOULLI:
        return math.log(2) * (first.abs() < FORBIDDEN).sum(dim=1)
    if formulas in (BETA, SQUASHED_GAUSSIAN):
        return first.new_full((len(first),), math.log(2))
    return None


def relative_entropy(entropies: th.Tensor, largest: th.Tensor) -> float:
    """Entropy as a share of the largest possible one, over all states.

        (Σₙ Hₙ) / (Σₙ H_max,ₙ)

    1: every state is left to chance. 0: every state is decided. A sum and not a mean of ratios: a state with a single
    allowed action has no entropy to lose and no weight. A density can be narrower than any point and goes below 0.

    Source: Shannon 1948, section 7.

    :param entropies: ``[N]``, H(π(·|s)); nats.
    :param largest: ``[N]``, H_max; nats.
    :return: at most 1; NaN where nothing can be chosen at all. Dimensionless.

    >>> relative_entropy(th.tensor([0.5, 0.0]), th.tensor([1.0, 0.0]))
    0.5
    """
    total = largest.sum()
    return float("nan") if total == 0 else float(entropies.sum() / total)
