"""Choices of the update rule as parameters of a search: a name for each choice, and the rule that names make."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from functools import cache
from typing import Any

from sb3_ppo_notes.configs.values import constructor_arguments
from sb3_ppo_notes.recipes import RECIPES
from sb3_ppo_notes.rules import (
    GAE,
    AdaptiveLearningRate,
    AdvantageNormalization,
    ClippedSurrogate,
    ClippedValueError,
    EarlyStop,
    HuberValueError,
    KLPenalty,
    Optimization,
    PessimisticValueError,
    PolicyGradient,
    UpdateRule,
)
from tuning.space.defaults import default_arguments

#: The choice that SB3's arguments describe (clip_range, gae_lambda, target_kl, normalize_advantage).
STOCK = "stock"
OWN: dict[str, dict[str, Any]] = {
    "policy_objective": {"kl_penalty_paper": KLPenalty(adaptation="paper", cutoff_coef=0.0)},
    "value_objective": {
        "clipped": ClippedValueError(0.2),
        "pessimistic": PessimisticValueError(0.2),
        "huber": HuberValueError(1.0),
    },
    "kl_controls": {
        "adaptive_learning_rate": (AdaptiveLearningRate(),),
        "exact_early_stop": (EarlyStop(0.02, estimator="exact"),),
    },
}
# Slots that SB3's arguments describe well enough by themselves are not varied by a recipe's mere number.
DESCRIBED = (ClippedSurrogate, GAE)


@cache
def rule_choices(algo: str) -> Mapping[str, Mapping[str, Any]]:
    """The choices of each slot of the rule, by name: stock's (``None``), ours, and the recipes' of this algorithm."""
    stock = UpdateRule() if algo == "notes_ppo" else _a2c_rule()
    table: dict[str, dict[str, Any]] = {}
    for slot in (field.name for field in dataclasses.fields(UpdateRule)):
        if slot == "reward_scaling":
            continue  # the one choice there is destroys what a constant reward says
        choices: dict[str, Any] = {STOCK: None}
        if algo == "notes_ppo" or slot == "value_objective":
            choices |= OWN.get(slot, {})
        for name, recipe in RECIPES.items():
            choice = _without_own_optimizers(getattr(recipe.rule, slot))
            is_new = choice != getattr(stock, slot) and choice not in choices.values()
            if f"notes_{recipe.algorithm}" == algo and is_new and not isinstance(choice, DESCRIBED):
                choices[name] = choice
        if len(choices) > 1:
            table[slot] = choices
    return table


def rule_of(slots: Mapping[str, str], arguments: Mapping[str, Any], algo: str) -> UpdateRule | None:
    """The rule that named choices make, together with what SB3's arguments describe; ``None`` if all are stock's."""
    chosen = {slot: rule_choices(algo)[slot][name] for slot, name in slots.items() if name != STOCK}
    if not chosen:
        return None
    values = {**default_arguments(algo), **constructor_arguments(arguments)}
    scope = "minibatch" if values["normalize_advantage"] else "none"
    described: dict[str, Any] = {
        "advantage_estimator": GAE(values["gae_lambda"]),
        "advantage_normalization": AdvantageNormalization(scope),  # type: ignore[arg-type]
        "policy_objective": ClippedSurrogate(values["clip_range"]) if algo == "notes_ppo" else PolicyGradient(),
    }
    if values.get("clip_range_vf") is not None:
        described["value_objective"] = ClippedValueError(values["clip_range_vf"])
    if values.get("target_kl") is not None:
        described["kl_controls"] = (EarlyStop(values["target_kl"]),)
    return UpdateRule(**{**described, **chosen})


def _a2c_rule() -> UpdateRule:
    return UpdateRule(
        advantage_estimator=GAE(default_arguments("notes_a2c")["gae_lambda"]),
        advantage_normalization=AdvantageNormalization("none"),
        policy_objective=PolicyGradient(),
    )


def _without_own_optimizers(choice: Any) -> Any:
    """Separate optimisers have learning rates of their own, which no parameter of the search would reach."""
    return dataclasses.replace(choice, separate=None) if isinstance(choice, Optimization) else choice
