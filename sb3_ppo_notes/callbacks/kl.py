"""The KL divergence of each update: a watch over updates that move the policy too far, or nowhere."""

from collections.abc import Callable
from typing import Any

from sb3_ppo_notes.algorithms.report import UpdateReport
from sb3_ppo_notes.callbacks.updates import BandCallback
from sb3_ppo_notes.formulas.checks import InvalidValueError, check_choice, check_flag, check_positive
from sb3_ppo_notes.rules.kl_control import ESTIMATORS


class KLCallback(BandCallback):
    """Watches KL(old ‖ new) of every update.

    It logs, in nats: ``notes/kl/k1``, ``k2`` and ``k3`` (means over the last epoch's minibatches, as SB3's
    ``train/approx_kl``, which is ``k3``), ``notes/kl/exact`` (from the distributions' parameters, after the last step,
    on 40 to 1,024 states of the rollout), ``notes/kl/k3_after`` (by samples, in the same states),
    ``notes/kl/first_epoch``, ``notes/kl/by_epoch/0``, ``1``, … and ``notes/kl/stopped_in_epoch``.

    Why look at it at all: the clip takes away the reward for going far and forbids nothing. 0.01 to 0.02 is usual; 0.03
    for many updates means that the old rollout says little about the new policy; 10⁻⁵ that nothing happens.

    :param kl_max: nats; above it the policy moves too fast. ``None`` for no limit.
    :param kl_min: nats; below it the policy hardly moves. ``None`` for no limit.
    :param estimator: which one is held against the band: ``"k1"``, ``"k2"``, ``"k3"`` or ``"exact"``.
    :param patience: updates in a row outside the band before anything is done about it.
    :param stop: end the training then.
    :param on_leave: called with the report then, and at every further update outside.
    :param exact: measure the exact KL too: one more pass over 40 to 1,024 states an epoch.
    :param every: look at every so many updates; ``None`` for as many as make up 2,048 environment steps.
    :param verbose: 1 tells once what cannot be seen of a stock model.
    :raises ValueError: for a limit that is not positive or a band without room, naming it.
    """

    cannot_see = ("the KL of single epochs and minibatches", "k1 and k2 while it learns", "when it stopped early")

    def __init__(
        self,
        kl_max: float | None = 0.03,
        kl_min: float | None = None,
        estimator: str = "k3",
        patience: int = 5,
        stop: bool = False,
        on_leave: Callable[[UpdateReport], Any] | None = None,
        exact: bool = True,
        every: int | None = None,
        verbose: int = 0,
    ):
        super().__init__(("large", "small"), patience, stop, on_leave, every, verbose)
        for name, limit in (("kl_max", kl_max), ("kl_min", kl_min)):
            if limit is not None:
                check_positive(name, limit)
        if kl_max is not None and kl_min is not None and not kl_min < kl_max:
            raise InvalidValueError(f"kl_min must be < kl_max, got kl_min={kl_min} and kl_max={kl_max}")
        check_choice("estimator", estimator, ESTIMATORS)
        check_flag("exact", exact)
        if estimator == "exact" and not exact:
            raise InvalidValueError('exact must be True for estimator="exact", got False')
        self.kl_max, self.kl_min, self.estimator = kl_max, kl_min, estimator
        self.needs_exact_kl = self.needs_probe = exact

    def _watch(self, report: UpdateReport) -> None:
        numbers = _kl_numbers(report)
        for name, value in numbers.items():
            self.logger.record(f"notes/kl/{name}", value)
        after = numbers.get(f"{self.estimator}_after")
        kl = numbers.get(self.estimator, after)
        # A single minibatch (A2C) is measured before its step, when nothing has moved yet.
        if report.n_gradient_steps == 1 and after is not None:
            kl = after
        if kl is None:
            self._warn("unknown", f"{self.estimator} of KL(old ‖ new) cannot be seen of {type(self.model).__name__}")
            return
        times = f"for {self.patience} updates in a row" if self.patience > 1 else "in an update"
        far = (
            f"the policy moves too far: KL(old ‖ new) is {kl:.3g} nats, above {self.kl_max} {times}; lower "
            "learning_rate or n_epochs, or set target_kl=0.015 to stop such updates early"
        )
        near = (
            f"the policy hardly moves: KL(old ‖ new) is {kl:.3g} nats, below {self.kl_min} {times}; raise "
            "learning_rate, or look whether rewards differ at all"
        )
        self._judge("large", self.kl_max is not None and kl > self.kl_max, far, report)
        self._judge("small", self.kl_min is not None and kl < self.kl_min, near, report)


def _kl_numbers(report: UpdateReport) -> dict[str, float]:
    """The KL's estimates in a report, by the name that each is logged under."""
    numbers: dict[str, float] = {}
    if report.kl:
        last = report.kl[-1]
        numbers = {name: getattr(last, name) for name in ("k1", "k2", "k3")}
        numbers["first_epoch"] = report.kl[0].k3
        numbers |= {f"by_epoch/{epoch}": each.k3 for epoch, each in enumerate(report.kl) if len(report.kl) > 1}
    if report.kl_after:
        after = report.kl_after[-1]
        numbers |= {f"{name}_after": getattr(after, name) for name in ("k1", "k2", "k3")}
        if after.exact is not None:
            numbers["exact"] = after.exact
    elif report.kl and report.kl[-1].exact is not None:
        numbers["exact"] = report.kl[-1].exact
    if report.stopped_in_epoch is not None:
        numbers["stopped_in_epoch"] = report.stopped_in_epoch
    return {name: value for name, value in numbers.items() if value == value}
