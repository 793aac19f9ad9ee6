"""An update rule as plain data, for YAML and JSON files: names and numbers, nothing that would have to be run."""

import dataclasses
from collections.abc import Mapping
from typing import Any

from stable_baselines3.common.utils import ConstantSchedule, FloatSchedule, LinearSchedule

import sb3_ppo_notes.rules as rules
from sb3_ppo_notes.algorithms.schedules import as_schedule
from sb3_ppo_notes.formulas.checks import InvalidValueError
from sb3_ppo_notes.rules import UpdateRule


def rule_as_data(rule: UpdateRule, *, complete: bool = False) -> dict[str, Any]:
    """A rule as plain values: classes by name with their arguments, linear schedules as ``lin_0.2``.

    :param rule: any whose schedules are numbers or lines to 0.
    :param complete: also what is as in ``UpdateRule()``, which is left out else.
    :return: by slot.
    :raises ValueError: for a schedule that is a function of another kind.
    """
    stock = UpdateRule()
    slots = (field.name for field in dataclasses.fields(UpdateRule))
    return {
        slot: _data(getattr(rule, slot)) for slot in slots if complete or getattr(rule, slot) != getattr(stock, slot)
    }


def rule_from_data(data: Any) -> UpdateRule:
    """The rule that :func:`rule_as_data` wrote.

    :param data: by slot.
    :return: an equal rule.
    :raises ValueError: for an unknown slot, class or argument.
    """
    try:
        return UpdateRule(**{slot: _choice(value) for slot, value in dict(data).items()})
    except (TypeError, ValueError) as error:
        raise InvalidValueError(
            f"rule must map slots to choices of sb3_ppo_notes.rules, got {data!r}: {error}"
        ) from error


def _choice(data: Any) -> Any:
    if isinstance(data, list):
        return tuple(map(_choice, data))
    if not isinstance(data, Mapping):
        return as_schedule(data)
    (name, arguments), *rest = data.items()
    # Only what this package exports as a choice is ever looked up, never what a file names at will.
    if rest or name not in rules.__all__ or name == "UpdateRule":
        raise InvalidValueError(f"{name!r} is no choice")
    return getattr(rules, name)(**{key: _choice(value) for key, value in dict(arguments).items()})


def _data(choice: Any) -> Any:
    if isinstance(choice, tuple):
        return [_data(one) for one in choice]
    if isinstance(choice, FloatSchedule):
        return _data(choice.value_schedule)
    if isinstance(choice, ConstantSchedule):
        return choice.val
    if isinstance(choice, LinearSchedule) and choice.end == 0.0 and choice.end_fraction == 1.0:
        return f"lin_{choice.start!r}"
    if dataclasses.is_dataclass(choice):
        values = {field.name: getattr(choice, field.name) for field in dataclasses.fields(choice) if field.init}
        return {type(choice).__name__: {name: _data(value) for name, value in values.items()}}
    if callable(choice):
        raise InvalidValueError(f"schedules of a rule must be numbers or lines to 0 to be written down, got {choice!r}")
    return choice
