"""Parameters as Optuna knows them: by a name whose choices can never change."""

from __future__ import annotations

import json
from collections.abc import Sequence

from optuna.distributions import (
    BaseDistribution,
    CategoricalDistribution,
    FloatDistribution,
    IntDistribution,
    check_distribution_compatibility,
)
from optuna.trial import FrozenTrial

from tuning.space.dimensions import Dimension


def distribution_of(dimension: Dimension) -> BaseDistribution:
    """A parameter's values as Optuna describes them."""
    if dimension.kind == "choice":
        return CategoricalDistribution(dimension.choices)
    if dimension.kind == "int":
        return IntDistribution(int(dimension.low), int(dimension.high))
    return FloatDistribution(dimension.low, dimension.high, log=dimension.log)


def optuna_names(dimensions: Sequence[Dimension], trials: Sequence[FrozenTrial]) -> dict[str, str]:
    """Optuna's name of each parameter of a study, by ours.

    Optuna lets the bounds of a range change, but neither choices nor the kind of a range: those that have changed since
    the study began are another parameter, with the choices in its name.
    """
    names = {}
    for dimension in dimensions:
        distribution = distribution_of(dimension)
        stored = (trial.distributions[dimension.name] for trial in trials if dimension.name in trial.distributions)
        is_same = all(_are_compatible(other, distribution) for other in stored)
        names[dimension.name] = dimension.name if is_same else f"{dimension.name} {_kind(dimension)}"
    return names


def _are_compatible(stored: BaseDistribution, distribution: BaseDistribution) -> bool:
    try:
        check_distribution_compatibility(stored, distribution)
    except ValueError:
        return False
    return True


def _kind(dimension: Dimension) -> str:
    if dimension.kind == "choice":
        return json.dumps(dimension.choices)
    return f"({'log ' if dimension.log else ''}{dimension.kind})"
