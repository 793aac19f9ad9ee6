"""One update in numbers."""

from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import numpy as np
import torch as th
from stable_baselines3.common.buffers import RolloutBuffer

from sb3_ppo_notes.formulas.diagnostics import clip_fraction, effective_sample_size, explained_variance
from sb3_ppo_notes.rollouts.buffers import NotesRolloutBuffer
from sb3_ppo_notes.rules.kl_control import SAMPLE_ESTIMATORS


class KLEstimates(NamedTuple):
    """KL(old ‖ new) by every estimator of ``formulas.divergences``; nats.

    :param k1: mean of −log ρ; NaN where it is not known.
    :param k2: mean of ½·(log ρ)².
    :param k3: mean of (ρ − 1) − log ρ.
    :param exact: from the distributions' parameters, ``None`` where nobody asked for it.
    :param standard_error: of k3 − exact, ``None`` without ``exact``.
    """

    k1: float
    k2: float
    k3: float
    exact: float | None = None
    standard_error: float | None = None


class Scale(NamedTuple):
    """Mean, deviation and range of a rollout array."""

    mean: float
    std: float
    min: float
    max: float

    @classmethod
    def of(cls, array: Any) -> "Scale":
        """The scale of an array.

        :param array: of any shape.
        :return: in the array's units.
        """
        return cls(float(array.mean()), float(array.std()), float(array.min()), float(array.max()))


@dataclass(frozen=True)
class UpdateReport:
    """One update in numbers, or one epoch or one minibatch of it.

    The windows of what SB3 logs are SB3's: means over *all* minibatches of the update, but ``approx_kl`` over those of
    the *last* epoch. A number that nobody measured is NaN: a stock SB3 model tells only what it logs, and a minibatch
    from which only the critic learned has no ratios.

    :param policy_loss: mean over all minibatches, before any coefficient.
    :param value_loss: mean over all minibatches, before any coefficient.
    :param entropy_loss: −entropy, mean over all minibatches; nats.
    :param approx_kl: k3 estimate of KL(old ‖ new), mean over the minibatches of the last epoch; nats.
    :param clip_fraction: share of ratios outside the clip range, mean over all minibatches; 0 for a rule without a
        clip.
    :param loss: total loss of the last minibatch.
    :param explained_variance: of the rollout's returns by its values; NaN if the returns do not vary.
    :param gradient_norm: mean over all steps of the gradient's norm before it was clipped.
    :param n_gradient_steps: optimiser steps taken.
    :param stopped_in_epoch: the epoch that KL control ended early, ``None`` if it did not.
    :param window: what these are the numbers of.
    :param n_updates: epochs the policy has been trained for, SB3's ``train/n_updates``.
    :param num_timesteps: environment steps so far.
    :param epoch: number of the epoch within the update, ``None`` for a whole update.
    :param minibatch: number of the minibatch within the epoch, ``None`` for anything longer.
    :param stop_reason: what KL control saw when it stopped, ``None`` if it did not.
    :param kl: of each epoch (or of the one epoch, or minibatch): means over its minibatches, each measured before its
        step.
    :param kl_after: of each epoch, after its last step, on a few states of the rollout (40 to 1,024). Empty unless a
        callback with ``needs_exact_kl`` watches.
    :param ratio_min: smallest ρ.
    :param ratio_max: largest ρ.
    :param first_ratio_error: largest \\|ρ − 1\\| of the update's first minibatch, before any step: 0 but for rounding,
        or the log-probabilities of acting and learning differ.
    :param effective_sample_size: share of the samples that still count, mean over all minibatches.
    :param actor_gradient_norm: as ``gradient_norm``, of the weights that only the actor uses.
    :param critic_gradient_norm: as ``gradient_norm``, of the weights that only the critic uses.
    :param clipped_steps: share of the steps whose gradient was longer than allowed.
    :param learning_rate: of the (actor's) optimiser, at the end.
    :param advantages: of the rollout, before any normalisation; reward units. ``None`` but in an update's report.
    :param values: of the rollout, by the critic that gathered it; reward units. ``None`` likewise.
    :param returns: of the rollout, the critic's targets; reward units. ``None`` likewise.
    """

    policy_loss: float
    value_loss: float
    entropy_loss: float
    approx_kl: np.floating | float
    clip_fraction: float
    loss: float
    explained_variance: float
    gradient_norm: float
    n_gradient_steps: int
    stopped_in_epoch: int | None
    window: Literal["minibatch", "epoch", "update"] = "update"
    n_updates: int = 0
    num_timesteps: int = 0
    epoch: int | None = None
    minibatch: int | None = None
    stop_reason: str | None = None
    kl: tuple[KLEstimates, ...] = ()
    kl_after: tuple[KLEstimates, ...] = ()
    ratio_min: float = float("nan")
    ratio_max: float = float("nan")
    first_ratio_error: float = float("nan")
    effective_sample_size: float = float("nan")
    actor_gradient_norm: float = float("nan")
    critic_gradient_norm: float = float("nan")
    clipped_steps: float = float("nan")
    learning_rate: float = float("nan")
    advantages: Scale | None = None
    values: Scale | None = None
    returns: Scale | None = None

    @property
    def entropy(self) -> float:
        """Mean entropy of the policy; nats."""
        return -self.entropy_loss


def ratio_statistics(log_ratio: th.Tensor, clip_range: Any) -> dict[str, th.Tensor]:
    """Statistics of a minibatch's ratios: how far the policy has moved from the one that gathered it.

    :param log_ratio: ``[..., N]``, log π − log π_old; nats. Each row is a minibatch.
    :param clip_range: ε, infinite for a rule without a clip.
    :return: ``[...]`` each, by name; ``k1``, ``k2`` and ``k3`` are estimates of KL(old ‖ new) in nats.
    """
    ratio = th.exp(log_ratio)
    return {
        "clip_fraction": clip_fraction(ratio, clip_range).mean(-1),
        **{name: estimator(log_ratio).mean(-1) for name, estimator in SAMPLE_ESTIMATORS.items()},
        "ratio_min": ratio.amin(-1),
        "ratio_max": ratio.amax(-1),
        "effective_sample_size": effective_sample_size(ratio),
    }


#: Their names, in their order.
RATIO_STATISTICS = tuple(ratio_statistics(th.zeros(1), float("inf")))


def rollout_measures(buffer: RolloutBuffer, with_scales: bool) -> dict[str, Any]:
    """The part of a report that is about the rollout.

    The explained variance is summed in SB3's order (environment by environment): the order decides the last bit.

    :param buffer: full.
    :param with_scales: whether the scales of advantages, values and returns are asked for.
    :return: by the name of the report's field.
    """
    arrays = {name: getattr(buffer, name) for name in ("values", "returns", "advantages")}
    flat = {name: array.flatten() for name, array in arrays.items()}
    if isinstance(buffer, NotesRolloutBuffer):
        flat = {name: buffer.flat_of_all(array) for name, array in arrays.items()}
        arrays = arrays if buffer.shards is None else flat
    return {
        "explained_variance": explained_variance(flat["values"], flat["returns"]),
        **({name: Scale.of(array) for name, array in arrays.items()} if with_scales else {}),
    }
