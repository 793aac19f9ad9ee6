"""Numbers that say how the update went. None of them has a gradient that anybody uses."""

import numpy as np
import torch as th

from sb3_ppo_notes.formulas.advantages import FloatArray
from sb3_ppo_notes.formulas.checks import check_shapes


def clip_fraction(ratio: th.Tensor, clip_range: float) -> th.Tensor:
    """Whether each ratio has left the clip range; the mean is the clip fraction.

        cᵢ = 1 if |ρᵢ − 1| > ε else 0

    Counted on both sides whatever the advantage's sign, so a sample that is counted may still have its gradient. 0 for
    many updates: the steps are timid. Above 0.4: they are wild.

    Source: OpenAI baselines PPO2; SB3's ``train/clip_fraction``.

    :param ratio: ``[N]``, ρ; dimensionless.
    :param clip_range: ε > 0; dimensionless.
    :return: ``[N]`` float, 0 or 1.

    >>> clip_fraction(th.tensor([1.0, 1.5]), clip_range=0.2).tolist()
    [0.0, 1.0]
    """
    return (th.abs(ratio - 1) > clip_range).float()


def effective_sample_size(ratio: th.Tensor) -> th.Tensor:
    """Share of the samples that still count when they are weighted by their ratios.

        ESS/N = (Σᵢ ρᵢ)² / (N·Σᵢ ρᵢ²)

    1: all count alike, as at the start of an update. 1/N: one sample is all that is left. What is lost here is lost to
    every average over the minibatch.

    Source: Kong 1992, "A note on importance sampling using standardized weights".

    :param ratio: ``[..., N]``, ρ > 0; dimensionless.
    :return: ``[...]`` in [1/N, 1]; dimensionless.

    >>> effective_sample_size(th.tensor([1.0, 1.0])).item(), effective_sample_size(th.tensor([1.0, 0.0])).item()
    (1.0, 0.5)
    """
    return ratio.sum(-1) ** 2 / (ratio.shape[-1] * (ratio**2).sum(-1))


def explained_variance(values: FloatArray, returns: FloatArray) -> float:
    """Share of the returns' variance that the critic accounts for.

        1 − Var[Ĝ − V] / Var[Ĝ]

    1: perfect. 0: as good as predicting the mean. Below 0: worse than that. NaN if the returns do not vary (there is
    nothing to explain).

    Source: OpenAI baselines; SB3's ``train/explained_variance``.

    :param values: ``[N]``, V: V(s) at collection; reward units.
    :param returns: ``[N]``, Ĝ, the targets; reward units.
    :return: at most 1, or NaN; dimensionless.
    :raises ValueError: if the shapes differ.

    >>> explained_variance(np.array([1.0, 2.0]), np.array([1.0, 2.0]))
    1.0
    """
    check_shapes(values=values, returns=returns)
    variance = np.var(returns)
    return float("nan") if variance == 0 else float(1 - np.var(returns - values) / variance)


def excess_kurtosis(values: FloatArray) -> float:
    """How heavy the tails are, next to a normal distribution's.

        E[(x − μ)⁴] / E[(x − μ)²]² − 3 ,   μ = E[x]

    0: as a normal distribution. −2: two values, equally often. Above 10 a few advantages decide every update.

    Source: Pearson 1905; ``scipy.stats.kurtosis``.

    :param values: ``[N]``, x, in any unit.
    :return: at least −2, or NaN if the values do not vary; dimensionless.

    >>> excess_kurtosis(np.array([-1.0, 1.0]))
    -2.0
    """
    deviations = np.asarray(values, dtype=np.float64) - np.mean(values, dtype=np.float64)
    variance = np.mean(deviations**2)
    return float("nan") if variance == 0 else float(np.mean(deviations**4) / variance**2 - 3)


def outside_share(values: FloatArray, low: FloatArray, high: FloatArray) -> FloatArray:
    """Share of the samples that lie outside their bounds, dimension by dimension.

    Of actions, before they are clipped: what lies outside is executed as the bound, and the policy cannot tell how far
    outside it was. Of observations: the space is not what it says.

    Source: Chou et al. 2017, "Improving Stochastic Policy Gradients … using the Beta Distribution", on what clipping
    does to a Gaussian policy.

    :param values: ``[N, d]``.
    :param low: ``[d]``, smallest value inside; −∞ for none.
    :param high: ``[d]``, largest value inside; ∞ for none.
    :return: ``[d]``, in [0, 1].

    >>> outside_share(np.array([[2.0, 0.0], [0.5, 0.0]]), np.array([-1.0, -1.0]), np.array([1.0, 1.0])).tolist()
    [0.5, 0.0]
    """
    shares: FloatArray = np.mean((values < low) | (values > high), axis=0)
    return shares
