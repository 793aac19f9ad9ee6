"""Whether our functions are still the ones they were: somebody may try another formula in a running session."""

import sys
from types import FunctionType
from typing import Any

#: Where what a minibatch computes is written.
PARTS = ("formulas", "rules", "policies", "algorithms.loss", "algorithms.report")


def source_key() -> int:
    """A number that changes when somebody puts another function, or method, in the place of one of ours.

    :return: of all functions that a minibatch may call; 0.2 ms.
    """
    names = tuple(f"sb3_ppo_notes.{part}" for part in PARTS)
    modules = [module for name, module in list(sys.modules.items()) if name.startswith(names)]
    found: list[int] = []
    for module in modules:
        for value in list(vars(module).values()):
            found += map(id, _functions(value))
    return hash(tuple(found))


def _functions(value: Any) -> list[Any]:
    if isinstance(value, FunctionType):
        return [value]
    is_ours = isinstance(value, type) and value.__module__.startswith("sb3_ppo_notes.")
    return [value, *(each for each in vars(value).values() if isinstance(each, FunctionType))] if is_ours else []
