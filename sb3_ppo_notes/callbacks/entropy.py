"""The policy's entropy, action dimension by action dimension."""

import math
from collections.abc import Callable
from typing import Any

import torch as th

from sb3_ppo_notes.algorithms.probe import Probe
from sb3_ppo_notes.algorithms.report import UpdateReport
from sb3_ppo_notes.callbacks.updates import BandCallback
from sb3_ppo_notes.formulas.checks import InvalidValueError, check_positive
from sb3_ppo_notes.formulas.distributions import GAUSSIAN, SQUASHED_GAUSSIAN, TANH_GAUSSIAN
from sb3_ppo_notes.formulas.distributions.dimensions import dimensions_of, largest_entropy, relative_entropy
from sb3_ppo_notes.policies.actor_critic import formulas_of


class EntropyNumbers:
    """Entropy and deviation of every action dimension, over some states of a rollout."""

    def __init__(self, probe: Probe):
        formulas: Any = formulas_of(probe.policy)
        with th.no_grad():
            parts = dimensions_of(formulas, probe.parameters())
            largest = [largest_entropy(*part) for part in parts]
            entropy = [each.entropy(parameters) if each.entropy else None for each, parameters in parts]
        #: Nats; empty where the entropy has no closed form.
        self.by_dimension = [float(each.mean()) for each in entropy if each is not None]
        pairs = [
            (one, bound) for one, bound in zip(entropy, largest, strict=True) if one is not None and bound is not None
        ]
        #: As a share of the largest possible one; empty where there is none.
        self.relative_by_dimension = [relative_entropy(*pair) for pair in pairs]
        #: The same for the whole action; NaN where there is none.
        self.relative = math.nan
        if pairs:
            entropies, bounds = (th.stack(each).sum(0) for each in zip(*pairs, strict=True))
            self.relative = relative_entropy(entropies, bounds)
        #: Mean σ; empty where the distribution has none.
        self.std_by_dimension: list[float] = []
        if formulas in (GAUSSIAN, SQUASHED_GAUSSIAN, TANH_GAUSSIAN):
            self.std_by_dimension = [float(parameters[1].mean()) for _, parameters in parts]


class EntropyCallback(BandCallback):
    """Watches the policy's entropy: in nats, as a share of the largest possible, and by action dimension.

    It logs ``notes/entropy/mean`` (nats, over the update's minibatches), ``notes/entropy/relative``,
    ``notes/entropy/0``, ``1``, … (nats by dimension, after the update) and, for Gaussian policies, ``notes/std/0``,
    ``1``, ….

    When is entropy largest? When nothing is preferred: log n for n actions, log 2 a dimension for a density on [−1, 1].
    A Gaussian has no largest entropy, so there the deviation is watched instead. A healthy run starts at about 1 and
    falls slowly; a fall to 0 early on means that exploring has ended before learning has.

    :param relative_low: share of the largest entropy below which the policy counts as collapsed; ``None`` for no limit.
    :param std_low: smallest deviation of a Gaussian's dimension, in action units; ``None`` for no limit.
    :param std_high: largest one; ``None`` for no limit.
    :param patience: updates in a row before anything is done about it.
    :param stop: end the training then.
    :param on_leave: called with the report then, and at every further update outside.
    :param every: look at every so many updates; ``None`` for as many as make up 2,048 environment steps.
    :param verbose: 1 tells once what cannot be seen of a stock model.
    :raises ValueError: for a limit out of range, naming it.
    """

    needs_probe = True
    cannot_see = ("its entropy if its distribution is not one of SB3's",)

    def __init__(
        self,
        relative_low: float | None = 0.05,
        std_low: float | None = math.exp(-3),
        std_high: float | None = math.exp(1.5),
        patience: int = 3,
        stop: bool = False,
        on_leave: Callable[[UpdateReport], Any] | None = None,
        every: int | None = None,
        verbose: int = 0,
    ):
        super().__init__(("collapse", "std_low", "std_high"), patience, stop, on_leave, every, verbose)
        if relative_low is not None:
            check_positive("relative_low", relative_low)
            if relative_low >= 1:
                raise InvalidValueError(f"relative_low must be in (0, 1) or None, got {relative_low}")
        for name, limit in (("std_low", std_low), ("std_high", std_high)):
            if limit is not None:
                check_positive(name, limit)
        if std_low is not None and std_high is not None and not std_low < std_high:
            raise InvalidValueError(f"std_low must be < std_high, got std_low={std_low} and std_high={std_high}")
        self.relative_low, self.std_low, self.std_high = relative_low, std_low, std_high

    def _watch(self, report: UpdateReport) -> None:
        if report.entropy == report.entropy:
            self.logger.record("notes/entropy/mean", report.entropy)
        model: Any = self.model
        probe = self._probe if self.is_stock else Probe.of(model.policy, model.rollout_buffer)
        if probe is None:
            return
        numbers = EntropyNumbers(probe)
        if numbers.relative == numbers.relative:
            self.logger.record("notes/entropy/relative", numbers.relative)
        for key, values in (("entropy", numbers.by_dimension), ("std", numbers.std_by_dimension)):
            for index, value in enumerate(values):
                self.logger.record(f"notes/{key}/{index}", value)
        self._judge_all(numbers, report)

    def _judge_all(self, numbers: EntropyNumbers, report: UpdateReport) -> None:
        low, high = min(numbers.std_by_dimension, default=math.nan), max(numbers.std_by_dimension, default=math.nan)
        raise_it = "raise ent_coef, or lower learning_rate"
        findings = {
            "collapse": (
                self.relative_low is not None and numbers.relative < self.relative_low,
                f"the policy hardly explores any more: its entropy is {numbers.relative:.1%} of the largest possible, "
                f"below {self.relative_low or 0:.0%}; if the task is not solved yet, {raise_it}",
            ),
            "std_low": (
                self.std_low is not None and low < self.std_low,
                f"action dimension {_argmin(numbers.std_by_dimension)} hardly varies any more: its standard deviation "
                f"is {low:.3g}, below {self.std_low or 0:.3g}; if the task is not solved yet, {raise_it}",
            ),
            "std_high": (
                self.std_high is not None and high > self.std_high,
                f"the standard deviation of action dimension {_argmax(numbers.std_by_dimension)} runs away: it is "
                f"{high:.3g}, above {self.std_high or 0:.3g}; lower ent_coef (0 is SB3's default), or use a bounded "
                'distribution: policy_kwargs=dict(action_distribution="beta")',
            ),
        }
        for side, (is_outside, text) in findings.items():
            self._judge(side, is_outside, text, report)


def _argmin(values: list[float]) -> int:
    return values.index(min(values)) if values else 0


def _argmax(values: list[float]) -> int:
    return values.index(max(values)) if values else 0
