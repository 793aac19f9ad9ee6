"""Which formulas one update uses: small frozen dataclasses, one for each choice in each slot, and :class:`UpdateRule`
that holds them.
"""

from sb3_ppo_notes.rules.advantages import GAE, AdvantageNormalization, LambdaReturn, RolloutArrays
from sb3_ppo_notes.rules.kl_control import EarlyStop
from sb3_ppo_notes.rules.objectives import (
    ClippedSurrogate,
    ClippedValueError,
    PolicyGradient,
    PolicyTerms,
    SquaredValueError,
)
from sb3_ppo_notes.rules.optimization import Optimization
from sb3_ppo_notes.rules.schedules import Schedule
from sb3_ppo_notes.rules.update_rule import UpdateRule

__all__ = [
    "GAE",
    "AdvantageNormalization",
    "ClippedSurrogate",
    "ClippedValueError",
    "EarlyStop",
    "LambdaReturn",
    "Optimization",
    "PolicyGradient",
    "PolicyTerms",
    "RolloutArrays",
    "Schedule",
    "SquaredValueError",
    "UpdateRule",
]
