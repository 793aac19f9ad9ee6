"""One choice in each slot: the whole of what distinguishes one PPO from another, and PPO from A2C."""

import dataclasses
from dataclasses import dataclass, field
from typing import Any, Literal

from sb3_ppo_notes.formulas.advantages import FloatArray
from sb3_ppo_notes.formulas.checks import check_choice
from sb3_ppo_notes.rules.advantages import (
    GAE,
    AdvantageEstimator,
    AdvantageNormalization,
    LambdaReturn,
    RolloutArrays,
    ValueTarget,
)
from sb3_ppo_notes.rules.kl_control import EarlyStop
from sb3_ppo_notes.rules.objectives import ClippedSurrogate, PolicyObjective, SquaredValueError, ValueObjective
from sb3_ppo_notes.rules.optimization import Optimization
from sb3_ppo_notes.rules.schedules import resolve

SLOTS = {
    "advantage_estimator": "advantage estimator",
    "value_target": "value target",
    "truncation": "time-limit truncation",
    "advantage_normalization": "advantage normalisation",
    "policy_objective": "policy objective",
    "value_objective": "value objective",
    "kl_control": "KL control",
    "optimization": "optimisation",
}


@dataclass(frozen=True, kw_only=True)
class UpdateRule:
    """The choices of one update, stock PPO's by default. Prints as a table, pickles, compares.

    :param advantage_estimator: how good each action was.
    :param value_target: what the critic should have said.
    :param truncation: ``"bootstrap"`` adds γ·V(terminal observation) where a time limit cut an episode, ``"terminal"``
        adds nothing.
    :param advantage_normalization: over which samples advantages are normalised.
    :param policy_objective: what the policy ascends.
    :param value_objective: what the critic descends.
    :param kl_control: what happens when the policy has moved far; ``None`` for nothing.
    :param optimization: how an epoch is cut into minibatches.

    >>> print(UpdateRule())
    advantage estimator      GAE(gae_lambda=0.95)
    value target             LambdaReturn()
    time-limit truncation    bootstrap
    advantage normalisation  AdvantageNormalization(scope='minibatch', ddof=1, eps=1e-08)
    policy objective         ClippedSurrogate(clip_range=0.2)
    value objective          SquaredValueError()
    KL control               none
    optimisation             Optimization(shuffle=True, drop_last=False)
    """

    advantage_estimator: AdvantageEstimator = field(default_factory=GAE)
    value_target: ValueTarget = field(default_factory=LambdaReturn)
    truncation: Literal["bootstrap", "terminal"] = "bootstrap"
    advantage_normalization: AdvantageNormalization = field(default_factory=AdvantageNormalization)
    policy_objective: PolicyObjective = field(default_factory=ClippedSurrogate)
    value_objective: ValueObjective = field(default_factory=SquaredValueError)
    kl_control: EarlyStop | None = None
    optimization: Optimization = field(default_factory=Optimization)

    def __post_init__(self) -> None:
        check_choice("truncation", self.truncation, ("bootstrap", "terminal"))

    def __str__(self) -> str:
        width = max(map(len, SLOTS.values()))
        return "\n".join(f"{title:<{width}}  {choice}" for title, choice in self.rows().items())

    def rows(self) -> dict[str, str]:
        """The rule as a table.

        :return: the choice in each slot, in words, by the slot's title.
        """
        choices = {title: getattr(self, slot) for slot, title in SLOTS.items()}
        return {title: "none" if choice is None else str(choice) for title, choice in choices.items()}

    def at(self, progress_remaining: float) -> "UpdateRule":
        """The rule with every schedule in it replaced by its present value.

        :param progress_remaining: 1 at the start, 0 at the end; dimensionless.
        :return: a rule of plain numbers; this very one if it has no schedule.
        :raises ValueError: if a schedule returns a number that cannot be used.
        """
        changed: dict[str, Any] = {}
        for slot in SLOTS:
            choice = getattr(self, slot)
            resolved = resolve(choice, progress_remaining) if dataclasses.is_dataclass(choice) else choice
            if resolved is not choice:
                changed[slot] = resolved
        return dataclasses.replace(self, **changed) if changed else self

    def estimate(self, rollout: RolloutArrays, gamma: float) -> tuple[FloatArray, FloatArray]:
        """Advantages and value targets of a rollout.

        :param rollout: arrays ``[T, B]``.
        :param gamma: γ in [0, 1].
        :return: advantages and returns, ``[T, B]`` each; reward units.
        """
        advantages = self.advantage_estimator.advantages(rollout, gamma)
        return advantages, self.value_target.returns(rollout, gamma, advantages)
