"""What one update did, in numbers."""

import math
from dataclasses import dataclass, field
from itertools import groupby
from operator import itemgetter

import numpy as np
import torch as th
from stable_baselines3.common.logger import Logger

from sb3_ppo_notes.algorithms.loss import LossTerms
from sb3_ppo_notes.formulas.diagnostics import clip_fraction
from sb3_ppo_notes.formulas.divergences import kl_k3


@dataclass(frozen=True)
class UpdateReport:
    """One update in numbers. The windows are SB3's: means over *all* epochs, but ``approx_kl`` over the *last* one.

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
    """

    policy_loss: float
    value_loss: float
    entropy_loss: float
    approx_kl: np.floating
    clip_fraction: float
    loss: float
    explained_variance: float
    gradient_norm: float
    n_gradient_steps: int
    stopped_in_epoch: int | None


@dataclass
class UpdateRecord:
    """Collects the minibatches of one update on the device; read once, at the end.

    :param clip_range: ε of the rule's clip; infinite for a rule without one.
    """

    clip_range: float = math.inf
    losses: list[tuple[th.Tensor, ...]] = field(default_factory=list)
    clip_fractions: list[th.Tensor] = field(default_factory=list)
    kls: list[th.Tensor] = field(default_factory=list)
    epoch_terms: list[LossTerms] = field(default_factory=list)
    gradient_norms: list[float] = field(default_factory=list)
    stopped_in_epoch: int | None = None
    policy_is_stopped: bool = False
    update_is_stopped: bool = False

    def start_epoch(self) -> None:
        """Forget the divergences of the epoch before: SB3 logs the last epoch's mean."""
        if not self.policy_is_stopped:
            self.kls = []
        self.epoch_terms = []

    def add_minibatch(self, terms: LossTerms) -> None:
        """Note what a minibatch gave.

        :param terms: its losses.
        """
        # Detached, so that the graphs of a whole epoch are not kept alive.
        loss, policy_loss, value_loss, entropy_loss = (each.detach() for each in terms[:4])
        self.losses.append((loss, policy_loss, value_loss, entropy_loss))
        self.epoch_terms.append(LossTerms(loss, policy_loss, value_loss, entropy_loss, terms.log_ratio, terms.exact_kl))

    def end_epoch(self) -> None:
        """Estimate the divergences of the epoch's minibatches, in one go where they are of one size."""
        terms = self.epoch_terms
        lengths = [len(each.log_ratio) for each in terms]
        for _, group in groupby(zip(lengths, terms, strict=True), key=itemgetter(0)):
            log_ratios = th.stack([each.log_ratio for _, each in group])
            # A row's mean is summed as that of a lone vector is: the same bits.
            self.kls += kl_k3(log_ratios).mean(-1).unbind()
            self.clip_fractions += clip_fraction(th.exp(log_ratios), self.clip_range).mean(-1).unbind()

    def report(self, explained_variance: float) -> UpdateReport:
        """Read everything.

        :param explained_variance: of the rollout.
        :return: the update in numbers.
        """
        # Each number is rounded to float32 by torch and averaged in float64, the KL in float32: as SB3 does.
        columns = [th.stack(column).cpu().numpy().astype(np.float64) for column in zip(*self.losses, strict=True)]
        _, policy_loss, value_loss, entropy_loss = (float(np.mean(column)) for column in columns)
        return UpdateReport(
            policy_loss=policy_loss,
            value_loss=value_loss,
            entropy_loss=entropy_loss,
            approx_kl=np.mean(th.stack(self.kls).cpu().numpy()),
            clip_fraction=float(np.mean(th.stack(self.clip_fractions).cpu().numpy().astype(np.float64))),
            loss=float(columns[0][-1]),
            explained_variance=explained_variance,
            gradient_norm=float(np.mean(self.gradient_norms)) if self.gradient_norms else float("nan"),
            n_gradient_steps=len(self.gradient_norms),
            stopped_in_epoch=self.stopped_in_epoch,
        )


def dump_last_update(logger: Logger, num_timesteps: int) -> None:
    """Log the last update too: SB3 writes its log *before* each update, so the last one never appears in it.

    :param logger: holds what the last update recorded.
    :param num_timesteps: environment steps so far.
    """
    recorded = dict(logger.name_to_value)
    if not any(name.startswith("train/") for name in recorded):
        return
    logger.record("time/total_timesteps", num_timesteps, exclude="tensorboard")
    logger.dump(step=num_timesteps)
    # Dumping empties the logger; whoever reads logger.name_to_value afterwards shall still find what SB3 leaves there.
    logger.name_to_value.update(recorded)
