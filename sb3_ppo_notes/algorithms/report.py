"""What one update did, in numbers."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import groupby
from operator import itemgetter
from typing import Any

import numpy as np
import torch as th
from stable_baselines3.common.logger import Logger

from sb3_ppo_notes.algorithms.loss import LossTerms
from sb3_ppo_notes.formulas.diagnostics import clip_fraction, effective_sample_size
from sb3_ppo_notes.rules.kl_control import SAMPLE_ESTIMATORS


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


def ratio_statistics(log_ratio: th.Tensor, clip_range: Any) -> dict[str, th.Tensor]:
    """What the ratios of a minibatch say: how far the policy has moved from the one that gathered it.

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


@dataclass
class UpdateRecord:
    """Collects the minibatches of one update on the device; an epoch's are read when it is over.

    :param clip_range: ε of the rule's clip; infinite for a rule without one.
    """

    clip_range: float = math.inf
    #: For each epoch in which the policy was looked at: each statistic of its minibatches, ``[K]`` float32.
    epochs: list[dict[str, np.ndarray]] = field(default_factory=list)
    gradient_norms: list[float] = field(default_factory=list)
    stopped_in_epoch: int | None = None
    policy_is_stopped: bool = False
    update_is_stopped: bool = False
    _terms: list[LossTerms] = field(default_factory=list)
    _rows: list[th.Tensor] = field(default_factory=list)

    def add_minibatch(self, terms: LossTerms) -> None:
        """Note what a minibatch gave.

        :param terms: its losses.
        """
        # Detached, so that the graphs of a whole epoch are not kept alive.
        loss, policy_loss, value_loss, entropy_loss = (each.detach() for each in terms[:4])
        self._terms.append(LossTerms(loss, policy_loss, value_loss, entropy_loss, terms.log_ratio, terms.exact_kl))

    def add_row(self, row: th.Tensor) -> None:
        """Note what a compiled step gave.

        :param row: ``[M]``, its statistics.
        """
        self._rows.append(row)

    def end_epoch(self, names: Sequence[str] = ()) -> None:
        """Close the epoch's books.

        :param names: of a compiled step's statistics.
        """
        tables = []
        if self._rows:
            table = dict(zip(names, th.stack(self._rows, dim=1).cpu().numpy(), strict=True))
            self.gradient_norms += table.pop("gradient_norm").tolist()
            tables.append(table)
        if self._terms:
            tables.append(self._table(self._terms))
        self._terms, self._rows = [], []
        if tables:
            common = [name for name in tables[-1] if all(name in table for table in tables)]
            self.epochs.append({name: np.concatenate([table[name] for table in tables]) for name in common})

    def _table(self, terms: list[LossTerms]) -> dict[str, np.ndarray]:
        columns: dict[str, Any] = {}
        for name in LossTerms._fields:
            if name != "log_ratio" and getattr(terms[0], name) is not None:
                columns["exact" if name == "exact_kl" else name] = [getattr(each, name) for each in terms]
        lengths = [len(each.log_ratio) for each in terms]
        for _, group in groupby(zip(lengths, terms, strict=True), key=itemgetter(0)):
            # In one go where they are of one size. A row's mean is summed as that of a lone vector is: the same bits.
            log_ratios = th.stack([each.log_ratio for _, each in group])
            for name, values in ratio_statistics(log_ratios, self.clip_range).items():
                columns.setdefault(name, []).extend(values.unbind())
        return {name: th.stack(values).cpu().numpy() for name, values in columns.items()}

    def mean_kl(self, estimator: str) -> np.float32:
        """Mean KL(old ‖ new) over the minibatches of the last epoch, each weighing the same.

        :param estimator: ``"k1"``, ``"k2"``, ``"k3"`` or ``"exact"``.
        :return: nats; float32.
        """
        return np.float32(th.from_numpy(self.epochs[-1][estimator]).mean().item())

    def report(self, explained_variance: float) -> UpdateReport:
        """Read everything.

        :param explained_variance: of the rollout.
        :return: the update in numbers.
        """

        # Each number is rounded to float32 by torch and averaged in float64, the KL in float32: as SB3 does.
        def mean(name: str) -> float:
            return float(np.mean(np.concatenate([epoch[name] for epoch in self.epochs]).astype(np.float64)))

        return UpdateReport(
            policy_loss=mean("policy_loss"),
            value_loss=mean("value_loss"),
            entropy_loss=mean("entropy_loss"),
            approx_kl=np.mean(self.epochs[-1]["k3"]),
            clip_fraction=mean("clip_fraction"),
            loss=float(self.epochs[-1]["loss"][-1]),
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
