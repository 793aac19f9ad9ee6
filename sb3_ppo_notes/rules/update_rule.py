"""One choice in each slot: the whole of what distinguishes one PPO from another, and PPO from A2C."""

import dataclasses
from dataclasses import dataclass, field
from typing import Any, Literal

from sb3_ppo_notes.formulas.advantages import FloatArray
from sb3_ppo_notes.formulas.checks import InvalidTypeError, InvalidValueError, check_choice
from sb3_ppo_notes.formulas.normalization import trajectory_z_scores
from sb3_ppo_notes.rules.advantages import (
    GAE,
    AdvantageEstimator,
    AdvantageNormalization,
    LambdaReturn,
    RolloutArrays,
    ValueTarget,
)
from sb3_ppo_notes.rules.kl_control import AdaptiveLearningRate, EarlyStop, KLControl
from sb3_ppo_notes.rules.objectives import (
    ClippedSurrogate,
    KLPenalty,
    PolicyObjective,
    SquaredValueError,
    ValueObjective,
)
from sb3_ppo_notes.rules.optimization import Optimization
from sb3_ppo_notes.rules.schedules import resolve

SLOTS = {
    "reward_scaling": "reward scaling",
    "truncation": "time-limit truncation",
    "advantage_estimator": "advantage estimator",
    "value_target": "value target",
    "computed": "both computed",
    "advantage_normalization": "advantage normalisation",
    "policy_objective": "policy objective",
    "value_objective": "value objective",
    "kl_controls": "KL control",
    "optimization": "optimisation",
}


@dataclass(frozen=True, kw_only=True)
class UpdateRule:
    """The choices of one update, stock PPO's by default. Prints as a table, pickles, compares.

    :param reward_scaling: ``"none"``, or ``"trajectory_z_score"`` (moral_rl's, see
        :func:`~sb3_ppo_notes.formulas.normalization.trajectory_z_scores` for what it destroys).
    :param truncation: ``"bootstrap"`` adds γ·V(terminal observation) where a time limit cut an episode, ``"terminal"``
        adds nothing.
    :param advantage_estimator: how good each action was.
    :param value_target: what the critic should have said.
    :param computed: advantages and targets ``"once"`` a rollout, or again before ``"every_epoch"`` with the critic as
        it is then.
    :param advantage_normalization: over which samples advantages are normalised.
    :param policy_objective: what the policy ascends.
    :param value_objective: what the critic descends.
    :param kl_controls: what happens when the policy has moved far: at most one early stop and one adaptive learning
        rate.
    :param optimization: how an epoch is cut into minibatches, and how many optimisers there are.

    >>> print(UpdateRule())
    reward scaling           none
    time-limit truncation    bootstrap
    advantage estimator      GAE(gae_lambda=0.95)
    value target             LambdaReturn()
    both computed            once
    advantage normalisation  AdvantageNormalization(scope='minibatch', ddof=1, eps=1e-08)
    policy objective         ClippedSurrogate(clip_range=0.2)
    value objective          SquaredValueError()
    KL control               none
    optimisation             Optimization(order='shuffled', drop_last=False, separate=None)
    """

    reward_scaling: Literal["none", "trajectory_z_score"] = "none"
    truncation: Literal["bootstrap", "terminal"] = "bootstrap"
    advantage_estimator: AdvantageEstimator = field(default_factory=GAE)
    value_target: ValueTarget = field(default_factory=LambdaReturn)
    computed: Literal["once", "every_epoch"] = "once"
    advantage_normalization: AdvantageNormalization = field(default_factory=AdvantageNormalization)
    policy_objective: PolicyObjective = field(default_factory=ClippedSurrogate)
    value_objective: ValueObjective = field(default_factory=SquaredValueError)
    kl_controls: tuple[KLControl, ...] = ()
    optimization: Optimization = field(default_factory=Optimization)

    def __post_init__(self) -> None:
        check_choice("reward_scaling", self.reward_scaling, ("none", "trajectory_z_score"))
        check_choice("truncation", self.truncation, ("bootstrap", "terminal"))
        check_choice("computed", self.computed, ("once", "every_epoch"))
        for slot, method in (
            ("advantage_estimator", "advantages"),
            ("value_target", "returns"),
            ("policy_objective", "objective"),
            ("value_objective", "loss"),
        ):
            choice = getattr(self, slot)
            if not callable(getattr(choice, method, None)) or isinstance(choice, type):
                raise InvalidTypeError(
                    f"{slot} must be one of the choices in sb3_ppo_notes.rules, or have a method {method} as they do, "
                    f"got {choice!r}"
                )
        for slot, kind in (("advantage_normalization", AdvantageNormalization), ("optimization", Optimization)):
            choice = getattr(self, slot)
            if not isinstance(choice, kind):
                raise InvalidTypeError(f"{slot} must be an {kind.__name__}, got {choice!r}")
        controls = self.kl_controls
        if not isinstance(controls, tuple) or not all(isinstance(control, KLControl) for control in controls):
            raise InvalidTypeError(
                f"kl_controls must be a tuple of EarlyStop and AdaptiveLearningRate, got {controls!r}"
            )
        if len({type(control) for control in controls}) < len(controls):
            raise InvalidValueError(f"kl_controls must hold at most one control of each kind, got {controls!r}")

    def __str__(self) -> str:
        return _as_table(self.rows())

    def rows(self) -> dict[str, str]:
        """The rule as a table.

        :return: the choice in each slot, in words, by the slot's title.
        """
        return {title: _as_text(getattr(self, slot)) for slot, title in SLOTS.items()}

    def diff(self, other: "UpdateRule") -> str:
        """Only the slots in which two rules differ.

        :param other: another rule.
        :return: a table: slot, this rule's choice, the other's; empty if they are equal.

        >>> print(UpdateRule().diff(UpdateRule(truncation="terminal")))
        time-limit truncation  bootstrap  |  terminal
        """
        mine, theirs = self.rows(), other.rows()
        return _as_table(
            {title: f"{mine[title]}  |  {theirs[title]}" for title in mine if mine[title] != theirs[title]}
        )

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
        if self.reward_scaling == "trajectory_z_score":
            rollout = rollout._replace(rewards=trajectory_z_scores(rollout.rewards, rollout.nonterminal))
        advantages = self.advantage_estimator.advantages(rollout, gamma)
        # With a γ of NumPy's float64 they are computed in float64; SB3 rounds them before it adds the values.
        advantages = advantages.astype(rollout.values.dtype, copy=False)
        return advantages, self.value_target.returns(rollout, gamma, advantages)

    @property
    def early_stop(self) -> EarlyStop | None:
        """The early stop among the KL controls."""
        return next((control for control in self.kl_controls if isinstance(control, EarlyStop)), None)

    @property
    def adaptive_learning_rate(self) -> AdaptiveLearningRate | None:
        """The adaptive learning rate among the KL controls."""
        return next((control for control in self.kl_controls if isinstance(control, AdaptiveLearningRate)), None)

    @property
    def needs_exact_kl(self) -> bool:
        """``True`` if the update needs the old distribution's parameters."""
        return isinstance(self.policy_objective, KLPenalty) or any(
            control.estimator == "exact" for control in self.kl_controls
        )


def _as_text(choice: Any) -> str:
    if isinstance(choice, tuple):
        return ", ".join(map(str, choice)) or "none"
    return str(choice)


def _as_table(rows: dict[str, str]) -> str:
    width = max(map(len, rows), default=0)
    return "\n".join(f"{title:<{width}}  {text}" for title, text in rows.items())
