"""The books of an update: what each minibatch gave, kept on the device until an epoch is over."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import groupby
from operator import itemgetter
from typing import Any, Literal

import numpy as np
import torch as th

from sb3_ppo_notes.algorithms.loss import LossTerms
from sb3_ppo_notes.algorithms.norms import GradientNorm, norms_by_owner
from sb3_ppo_notes.algorithms.program import NORMS
from sb3_ppo_notes.algorithms.report import RATIO_STATISTICS, KLEstimates, UpdateReport, ratio_statistics

#: Statistics of minibatches by name, ``[K]`` float32 each.
Table = dict[str, np.ndarray]
Window = Literal["minibatch", "epoch", "update"]


@dataclass
class UpdateRecord:
    """Collects the minibatches of one update on the device; an epoch's are read when it is over.

    :param clip_range: ε of the rule's clip; infinite for a rule without one.
    """

    clip_range: float = math.inf
    #: For each epoch in which the policy was looked at: each statistic of its minibatches.
    epochs: list[Table] = field(default_factory=list)
    #: Of each step taken: three norms of its gradient, and whether it was clipped.
    norms: list[tuple[float, ...]] = field(default_factory=list)
    #: Of each epoch, after its last step, where somebody wants to know.
    kl_after: list[KLEstimates] = field(default_factory=list)
    stopped_in_epoch: int | None = None
    stop_reason: str | None = None
    policy_is_stopped: bool = False
    update_is_stopped: bool = False
    #: Tables of the epoch that is not over yet.
    _open: list[Table] = field(default_factory=list)
    _terms: list[LossTerms] = field(default_factory=list)
    #: Of the ratios of each, ``None`` where they are yet to be found.
    _statistics: list[th.Tensor | None] = field(default_factory=list)
    _rows: list[th.Tensor] = field(default_factory=list)
    _gradients: list[GradientNorm] = field(default_factory=list)
    _owned: np.ndarray | None = None
    _max_grad_norm: float = math.inf
    #: How many epochs and steps there were when the current epoch, and the current minibatch, began.
    _marks: dict[str, tuple[int, int]] = field(default_factory=dict)

    def begin_phase(self, owned: np.ndarray, max_grad_norm: float | None) -> None:
        """Other weights are stepped from now on.

        :param owned: ``[2, P]``, which weight tensors are the actor's own and which the critic's.
        :param max_grad_norm: longest gradient, ``None`` for no limit.
        """
        self._owned = owned
        self._max_grad_norm = math.inf if max_grad_norm is None else max_grad_norm

    def add_minibatch(self, terms: LossTerms, statistics: th.Tensor | None = None) -> None:
        """Note what a minibatch gave.

        :param terms: its losses.
        :param statistics: ``[K]``, those of its ratios, where they are known already.
        """
        # Detached, so that the graphs of a whole epoch are not kept alive.
        loss, policy_loss, value_loss, entropy_loss = (each.detach() for each in terms[:4])
        self._terms.append(LossTerms(loss, policy_loss, value_loss, entropy_loss, terms.log_ratio, terms.exact_kl))
        self._statistics.append(statistics)

    def forget(self) -> None:
        """Forget everything: the update has been undone."""
        self.epochs, self.norms, self.kl_after = [], [], []
        self._open, self._terms, self._rows, self._gradients, self._statistics = [], [], [], [], []

    def drop_minibatch(self) -> None:
        """Forget the minibatch noted last: it is not finite, and would be all that is left of every mean."""
        self._terms.pop()
        self._statistics.pop()

    def add_row(self, row: th.Tensor) -> None:
        """Note what a compiled step gave.

        :param row: ``[M]``, its statistics.
        """
        self._rows.append(row)

    def add_gradient(self, norm: GradientNorm) -> None:
        """Note an eager step.

        :param norm: of its gradient, before it was clipped.
        """
        self._gradients.append(norm)

    def begin(self, window: Window) -> None:
        """An epoch, or a minibatch, begins.

        :param window: which of them.
        """
        self._marks[window] = len(self.epochs), len(self.norms)

    def end_minibatch(self, names: Sequence[str] = ()) -> None:
        """Read what has been noted so far: for those who want to see every minibatch.

        :param names: of a compiled step's statistics.
        """
        if self._rows:
            table = dict(zip(names, th.stack(self._rows, dim=1).cpu().numpy(), strict=True))
            for values in zip(*(table.pop(name).tolist() for name in NORMS), strict=True):
                self._add_norms(values)
            self._open.append(table)
        if self._gradients and self._owned is not None:
            parts = th.stack([norm.parts for norm in self._gradients]).cpu().numpy()
            owned = norms_by_owner(parts, self._owned).tolist()
            for norm, (actor, critic) in zip(self._gradients, owned, strict=True):
                self._add_norms((norm.total, actor, critic))
        if self._terms:
            self._open.append(self._table(self._terms))
        self._terms, self._rows, self._gradients, self._statistics = [], [], [], []

    def _add_norms(self, norms: tuple[float, ...]) -> None:
        self.norms.append((*norms, float(norms[0] > self._max_grad_norm)))

    def end_epoch(self, names: Sequence[str] = ()) -> None:
        """Close the epoch's books.

        :param names: of a compiled step's statistics.
        """
        self.end_minibatch(names)
        if self._open:
            common = [name for name in self._open[-1] if all(name in table for table in self._open)]
            self.epochs.append({name: np.concatenate([table[name] for table in self._open]) for name in common})
        self._open = []

    def _table(self, terms: list[LossTerms]) -> Table:
        columns: dict[str, list[th.Tensor]] = {}
        for name in LossTerms._fields:
            if name != "log_ratio" and getattr(terms[0], name) is not None:
                columns["exact" if name == "exact_kl" else name] = [th.stack([getattr(each, name) for each in terms])]
        kinds = [
            None if known is not None else len(each.log_ratio)
            for each, known in zip(terms, self._statistics, strict=True)
        ]
        for kind, group in groupby(zip(kinds, terms, self._statistics, strict=True), key=itemgetter(0)):
            _, some, known = zip(*group, strict=True)
            if kind is None:
                found = dict(zip(RATIO_STATISTICS, th.stack(known, dim=1), strict=True))
            else:
                # In one go where they are of one size. A row's mean is summed as a lone vector's is: the same bits.
                found = ratio_statistics(th.stack([each.log_ratio for each in some]), self.clip_range)
            for name, values in found.items():
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

    def report(self, window: Window = "update", **known: Any) -> UpdateReport:
        """Read everything.

        :param window: of the whole update, of the epoch that has just ended, or of the last minibatch.
        :param known: what the books do not hold, by the name of the report's field.
        :return: in numbers.
        """
        first_epoch, first_step = (0, 0) if window == "update" else self._marks[window]
        tables = self.epochs[first_epoch:]
        if window == "minibatch":
            tables = [{name: values[-1:] for name, values in table.items()} for table in self._open[-1:]]
        steps = self.norms[first_step:]
        means = [sum(column) / len(steps) for column in zip(*steps, strict=True)] if steps else [math.nan] * 4
        norms: dict[str, Any] = dict(zip((*NORMS, "clipped_steps"), means, strict=True))
        after = self.kl_after if window == "update" else self.kl_after[-1:] if window == "epoch" else []
        return UpdateReport(
            **_summary(tables),
            **norms,
            n_gradient_steps=len(steps),
            stopped_in_epoch=self.stopped_in_epoch,
            stop_reason=self.stop_reason,
            window=window,
            kl=tuple(map(_estimates, tables)),
            kl_after=tuple(after),
            first_ratio_error=self._first_ratio_error(),
            **known,
        )

    def _first_ratio_error(self) -> float:
        tables = self.epochs or self._open
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
