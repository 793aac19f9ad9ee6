"""What one update did, in numbers."""

from dataclasses import dataclass, field

import numpy as np
import torch as th


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
    """Collects the minibatches of one update on the device; read once, at the end."""

    scalars: list[th.Tensor] = field(default_factory=list)
    kls: list[th.Tensor] = field(default_factory=list)
    gradient_norms: list[float] = field(default_factory=list)
    stopped_in_epoch: int | None = None

    def start_epoch(self) -> None:
        """Forget the divergences of the epoch before: SB3 logs the last epoch's mean."""
        self.kls = []

    def add_minibatch(self, scalars: list[th.Tensor], kl: th.Tensor) -> None:
        """Note what a minibatch gave.

        :param scalars: policy loss, value loss, entropy loss, clip fraction and total loss, 0-dimensional.
        :param kl: its mean estimate of KL(old ‖ new), 0-dimensional.
        """
        self.scalars.append(th.stack([scalar.detach() for scalar in scalars]))
        self.kls.append(kl)

    def report(self, explained_variance: float) -> UpdateReport:
        """Read everything.

        :param explained_variance: of the rollout.
        :return: the update in numbers.
        """
        # Each number is rounded to float32 by torch and averaged in float64, the KL in float32: as SB3 does.
        table = th.stack(self.scalars).cpu().numpy().astype(np.float64)
        policy_loss, value_loss, entropy_loss, clip_fraction = (float(np.mean(column)) for column in table.T[:4].copy())
        return UpdateReport(
            policy_loss=policy_loss,
            value_loss=value_loss,
            entropy_loss=entropy_loss,
            approx_kl=np.mean(th.stack(self.kls).cpu().numpy()),
            clip_fraction=clip_fraction,
            loss=float(table[-1, 4]),
            explained_variance=explained_variance,
            gradient_norm=float(np.mean(self.gradient_norms)) if self.gradient_norms else float("nan"),
            n_gradient_steps=len(self.gradient_norms),
            stopped_in_epoch=self.stopped_in_epoch,
        )
