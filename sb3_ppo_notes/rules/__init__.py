"""The formulas of one update: small frozen dataclasses, one for each choice in each slot, and :class:`UpdateRule` that
holds them.
"""

from sb3_ppo_notes.rules.advantages import (
    GAE,
    AdvantageNormalization,
    LambdaReturn,
    MonteCarlo,
    MonteCarloReturn,
    NStep,
    NStepReturn,
    RolloutArrays,
    TDZero,
)
from sb3_ppo_notes.rules.kl_control import AdaptiveLearningRate, EarlyStop
from sb3_ppo_notes.rules.objectives import (
    ClippedSurrogate,
    ClippedValueError,
    HuberValueError,
    KLPenalty,
    PessimisticValueError,
    PolicyGradient,
    PolicyTerms,
    SquaredValueError,
)
from sb3_ppo_notes.rules.optimization import Optimization, OptimizerSettings, SeparateOptimizers
from sb3_ppo_notes.rules.schedules import Schedule
from sb3_ppo_notes.rules.update_rule import UpdateRule

__all__ = [
    "GAE",
    "AdaptiveLearningRate",
    "AdvantageNormalization",
    "ClippedSurrogate",
    "ClippedValueError",
    "EarlyStop",
    "HuberValueError",
    "KLPenalty",
    "LambdaReturn",
    "MonteCarlo",
    "MonteCarloReturn",
    "NStep",
    "NStepReturn",
    "Optimization",
    "OptimizerSettings",
    "PessimisticValueError",
    "PolicyGradient",
    "PolicyTerms",
    "RolloutArrays",
    "Schedule",
    "SeparateOptimizers",
    "SquaredValueError",
    "TDZero",
    "UpdateRule",
]
