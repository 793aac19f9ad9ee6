"""Per-minibatch metrics of one update, kept on the device until the epoch ends."""

import math
from collections.abc import Sequence
from itertools import groupby
from operator import attrgetter
from typing import Any, Literal

import numpy as np
import torch as th

from sb3_ppo_notes.algorithms.report import KLEstimates, UpdateReport, ratio_statistics
from sb3_ppo_notes.engine import Step
from sb3_ppo_notes.rules.loss import LOSSES

#: Statistics of minibatches by name, ``[K]`` float32 each.
Table = dict[str, np.ndarray]
Window = Literal["minibatch", "epoch", "update"]
#: Norms of the gradient before it was clipped: of all weights, of the actor's own, of the critic's own.
NORMS = ("gradient_norm", "actor_gradient_norm", "critic_gradient_norm")


class Metrics:
    """Collects the steps of one update.

    :param clip_range: ε of the rule's clip; infinite for a rule without one.
    """

    def __init__(self, clip_range: float = math.inf):
        self.clip_range = clip_range
        #: For each epoch in which the policy was looked at: each statistic of its minibatches.
        self.epochs: list[Table] = []
        #: Three norms of each step's gradient, and whether it was clipped.
        self.norms: list[tuple[float, ...]] = []
        #: KL after each epoch's last step, where a callback asks for it.
        self.kl_after: list[KLEstimates] = []
        self._max_grad_norm = math.inf
        #: Of the present epoch: tables that were read from the device, and steps that were not.
        self._tables: list[Table] = []
        self._steps: list[Step] = []
        #: Number of epochs and steps when the present epoch began, and of steps when the device was last read.
        self._epoch_start = (0, 0)
        self._read_start = 0

    def begin_phase(self, max_grad_norm: float | None) -> None:
        """Other weights are trained from now on.

        :param max_grad_norm: longest gradient, ``None`` for no limit.
        """
        self._max_grad_norm = math.inf if max_grad_norm is None else max_grad_norm

    def begin_epoch(self) -> None:
        """An epoch begins."""
        self._epoch_start = len(self.epochs), len(self.norms)

    def add(self, step: Step) -> None:
        """Keep the result of a minibatch; nothing is read from the device.

        :param step: taken or refused.
        """
        self._steps.append(step)

    def abandon(self) -> None:
        """Drop everything: the update was rolled back."""
        self.epochs, self.norms, self.kl_after, self._tables, self._steps = [], [], [], [], []

    def read(self) -> None:
        """Read the steps so far from the device."""
        steps, self._steps = self._steps, []
        self._read_start = len(self.norms)
        norms = [step.norms for step in steps if step.norms is not None]
        if norms:
            limit = self._max_grad_norm
            self.norms += [(*values, values[0] > limit) for values in th.stack(norms).tolist()]
        steps = [step for step in steps if step.losses is not None]
        if steps:
            self._tables.append(self._table(steps))

    def end_epoch(self) -> None:
        """Close an epoch."""
        self.read()
        if self._tables:
            names = [name for name in self._tables[-1] if all(name in table for table in self._tables)]
            self.epochs.append({name: np.concatenate([table[name] for table in self._tables]) for name in names})
        self._tables = []

    def _table(self, steps: list[Step]) -> Table:
        losses = th.stack([step.losses for step in steps])  # type: ignore[misc]
        columns = {name: [column] for name, column in zip(LOSSES, losses.unbind(1), strict=False)}
        log_ratios: list[Any] = [step.log_ratio for step in steps]
        for _, group in groupby(log_ratios, key=attrgetter("shape")):
            # In one go where they are of one size. A row's mean is summed as a lone vector's is: the same bits.
            for name, values in ratio_statistics(th.stack(list(group)), self.clip_range).items():
                columns.setdefault(name, []).append(values)
        return {name: th.cat(parts).cpu().numpy() for name, parts in columns.items()}

    def mean_kl(self, estimator: str) -> np.float32:
        """Mean KL(old ‖ new) over the minibatches of the last epoch, each weighing the same.

        :param estimator: ``"k1"``, ``"k2"``, ``"k3"`` or ``"exact"``.
        :return: nats; float32.
        """
        if not self.epochs:
            # Every minibatch was skipped.
            return np.float32(math.nan)
        return np.float32(th.from_numpy(self.epochs[-1][estimator]).mean().item())

    def report(self, window: Window = "update", **others: Any) -> UpdateReport:
        """Read everything.

        :param window: of the whole update, of the epoch that has just ended, or of a minibatch that was just read.
        :param others: further fields of the report, by name.
        :return: in numbers.
        """
        first_epoch, first_step = self._epoch_start if window == "epoch" else (0, 0)
        tables = self.epochs[first_epoch:]
        if window == "minibatch":
            first_step = self._read_start
            tables = [{name: values[-1:] for name, values in table.items()} for table in self._tables[-1:]]
        steps = self.norms[first_step:]
        means = [sum(column) / len(steps) for column in zip(*steps, strict=True)] if steps else [math.nan] * 4
        norms: dict[str, Any] = dict(zip((*NORMS, "clipped_steps"), means, strict=True))
        after = self.kl_after if window == "update" else self.kl_after[-1:] if window == "epoch" else []
        return UpdateReport(
            **_summary(tables),
            **norms,
            n_gradient_steps=len(steps),
            window=window,
            kl=tuple(map(_estimates, tables)),
            kl_after=tuple(after),
            first_ratio_error=self._first_ratio_error(),
            **others,
        )

    def _first_ratio_error(self) -> float:
        tables = self.epochs or self._tables
        if not tables:
            return math.nan
        return float(max(abs(tables[0][name][0] - 1.0) for name in ("ratio_min", "ratio_max")))


def _summary(tables: Sequence[Table]) -> dict[str, Any]:
    """The report's numbers that come from minibatches.

    Each number is rounded to float32 by torch and averaged in float64, the KL in float32: as SB3 does.
    """

    def mean(name: str) -> float:
        if not tables:
            return math.nan
        if len(tables) == len(tables[0][name]) == 1:
            return float(tables[0][name][0])  # a single minibatch, as in A2C: nothing to average
        return float(np.mean(np.concatenate([table[name] for table in tables]).astype(np.float64)))

    means = ("policy_loss", "value_loss", "entropy_loss", "clip_fraction", "effective_sample_size")
    return {
        **{name: mean(name) for name in means},
        "approx_kl": _mean(tables[-1]["k3"]) if tables else math.nan,
        "loss": float(tables[-1]["loss"][-1]) if tables else math.nan,
        "ratio_min": float(min((table["ratio_min"].min() for table in tables), default=math.nan)),
        "ratio_max": float(max((table["ratio_max"].max() for table in tables), default=math.nan)),
    }


def _estimates(table: Table) -> KLEstimates:
    exact = float(_mean(table["exact"])) if "exact" in table else None
    k1, k2, k3 = (float(_mean(table[name])) for name in ("k1", "k2", "k3"))
    return KLEstimates(k1, k2, k3, exact)


def _mean(values: np.ndarray) -> Any:
    """float32; of a single minibatch, as in A2C, there is nothing to average."""
    return values[0] if len(values) == 1 else np.mean(values)
