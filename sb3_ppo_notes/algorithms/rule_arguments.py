"""Translating between an ``UpdateRule`` and the arguments by which SB3 describes the same choices."""

import inspect
from collections.abc import Mapping
from typing import Any

from stable_baselines3.common.utils import ConstantSchedule, FloatSchedule

from sb3_ppo_notes.formulas.checks import InvalidValueError
from sb3_ppo_notes.policies.actor_critic import has_known_distribution
from sb3_ppo_notes.policies.recurrent import NotesRecurrentPolicy
from sb3_ppo_notes.rollouts import NotesRolloutBuffer
from sb3_ppo_notes.rules import GAE, LambdaReturn, UpdateRule

#: Arguments that a rule with separate optimisers gives to each of them.
OPTIMIZER_ARGUMENTS = ("learning_rate", "n_epochs", "max_grad_norm")
RULE_ARGUMENTS = ("gae_lambda", "clip_range", "clip_range_vf", "normalize_advantage", "target_kl")


def arguments_of(rule: UpdateRule) -> dict[str, Any]:
    """What SB3's arguments would have to be for a rule.

    :param rule: any rule.
    :return: values by argument name; arguments that have no meaning for the rule are left out.
    """
    settings: dict[str, Any] = {"normalize_advantage": rule.advantage_normalization.scope != "none"}
    for choice, name in (
        (rule.advantage_estimator, "gae_lambda"),
        (rule.policy_objective, "clip_range"),
        (rule.value_objective, "clip_range_vf"),
    ):
        if hasattr(choice, name):
            settings[name] = getattr(choice, name)
    if rule.early_stop is not None:
        settings["target_kl"] = rule.early_stop.target
    return settings


def take_arguments_from(rule: UpdateRule, model: Any) -> None:
    """Set SB3's attributes to what the rule says, after making sure that nobody asked for something else.

    An argument that has its default counts as not given.

    :param rule: the rule that was given.
    :param model: its attributes are set.
    :raises ValueError: if an attribute says otherwise than the rule.
    """
    defaults = _own_parameters(type(model))
    for name, wanted in _wanted(rule, defaults).items():
        given, default = plain(getattr(model, name)), defaults[name].default
        if given not in (default, plain(wanted)):
            raise InvalidValueError(
                f"{name} must agree with rule, which has {wanted!r}, got {given!r} (give one of the two)"
            )
        setattr(model, name, wanted)
    if rule.optimization.separate is not None:
        for name in OPTIMIZER_ARGUMENTS:
            if name in defaults and plain(getattr(model, name)) != defaults[name].default:
                raise InvalidValueError(
                    f"{name} must be left out with a rule that has separate optimizers (each has its own), got "
                    f"{getattr(model, name)!r}"
                )


def check_unchanged(rule: UpdateRule, model: Any) -> None:
    """Refuse to go on when somebody has changed an attribute that the given rule overrides: it would have no effect.

    :param rule: the rule that was given.
    :param model: its attributes are looked at.
    :raises ValueError: naming the attribute.
    """
    for name, wanted in _wanted(rule, _own_parameters(type(model))).items():
        if plain(getattr(model, name)) != plain(wanted):
            raise InvalidValueError(
                f"{name} must stay as rule has it ({wanted!r}), got {getattr(model, name)!r}: "
                "build the model with another rule"
            )


def _wanted(rule: UpdateRule, defaults: Mapping[str, inspect.Parameter]) -> dict[str, Any]:
    """What every argument that a rule overrides has to be; its default, if it has no meaning for the rule."""
    settings = arguments_of(rule)
    return {name: settings.get(name, defaults[name].default) for name in RULE_ARGUMENTS if name in defaults}


def _own_parameters(algorithm: type) -> Mapping[str, inspect.Parameter]:
    """The constructor's parameters of NotesPPO or NotesA2C, also for a subclass that takes ``*args, **kwargs``."""
    own = next(base for base in algorithm.__mro__ if base.__module__.startswith("sb3_ppo_notes.algorithms."))
    return inspect.signature(own.__init__).parameters  # type: ignore[misc]


def check_rule_fits(rule: UpdateRule, policy: Any, buffer: Any) -> None:
    """Refuse a rule that this policy or this buffer cannot serve.

    :param rule: the choices.
    :param policy: the policy that was built.
    :param buffer: the rollout buffer that was built.
    :raises ValueError: naming what does not fit.
    """
    is_stock_estimate = isinstance(rule.advantage_estimator, GAE) and isinstance(rule.value_target, LambdaReturn)
    is_stock = is_stock_estimate and (rule.optimization.order, rule.optimization.drop_last) == ("shuffled", False)
    is_stock = is_stock and rule.advantage_normalization.scope != "rollout" and not rule.needs_exact_kl
    is_stock = is_stock and (rule.computed, rule.reward_scaling) == (UpdateRule.computed, UpdateRule.reward_scaling)
    if not is_stock and not isinstance(buffer, NotesRolloutBuffer):
        raise InvalidValueError(
            f"rollout_buffer_class must be NotesRolloutBuffer or a subclass for this rule, "
            f"got {type(buffer).__name__}: "
            "SB3's buffers compute GAE and shuffle, whatever the rule says. What differs from stock:\n"
            + UpdateRule().diff(rule)
        )
    if rule.needs_exact_kl and not has_known_distribution(policy):
        raise InvalidValueError(
            f"policy must leave evaluate_actions to SB3 for a rule that needs the exact KL, got "
            f"{type(policy).__name__}, whose distribution cannot be read"
        )


def check_context(policy: Any, buffer: Any, rule: UpdateRule, action_masking: bool) -> None:
    """Refuse memory and masks where they cannot be served.

    :param policy: the policy that was built.
    :param buffer: the rollout buffer that was built.
    :param rule: the choices.
    :param action_masking: whether actions are masked.
    :raises ValueError: naming what does not fit.
    """
    is_recurrent = isinstance(policy, NotesRecurrentPolicy)
    if (is_recurrent or action_masking) and not isinstance(buffer, NotesRolloutBuffer):
        raise InvalidValueError(
            f"rollout_buffer_class must be NotesRolloutBuffer or a subclass, got {type(buffer).__name__}: "
            "SB3's buffers store neither recurrent states nor action masks"
        )
    if is_recurrent and rule.computed == "every_epoch":
        raise InvalidValueError(
            "computed must be 'once' with a recurrent policy, got 'every_epoch': the states that the new weights "
            "would have had at the rollout's episode ends are not known"
        )
    if is_recurrent and rule.optimization.separate is not None:
        raise InvalidValueError("separate must be None with a recurrent policy, whose critic reads the actor's memory")
    if action_masking and not has_known_distribution(policy):
        raise InvalidValueError(
            f"action_masking must be False for {type(policy).__name__}, which evaluates actions by itself and "
            "would not see the masks"
        )


def plain(value: Any) -> Any:
    """A constant schedule as its number.

    :param value: anything.
    :return: the number of a ``FloatSchedule`` around a constant, else the value itself.
    """
    if isinstance(value, FloatSchedule):
        value = value.value_schedule
    return value.val if isinstance(value, ConstantSchedule) else value
