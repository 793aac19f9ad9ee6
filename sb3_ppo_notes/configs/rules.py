"""An update rule as plain data, for YAML and JSON files: names and numbers, nothing that would have to be run."""

import dataclasses
from collections.abc import Mapping
from typing import Any

from stable_baselines3.common.utils import FloatSchedule, LinearSchedule

import sb3_ppo_notes.rules as rules
from sb3_ppo_notes.formulas.checks import InvalidValueError
from sb3_ppo_notes.rules import UpdateRule


def rule_as_words(rule: UpdateRule) -> dict[str, Any]:
    """A rule as plain values: classes by name with their arguments, linear schedules as ``lin_0.2``.

    :param rule: any whose schedules are numbers or lines to 0.
    :return: by slot; what is as in ``UpdateRule()`` is left out.
    :raises ValueError: for a schedule that is a function of another kind.
    """
    stock = UpdateRule()
    slots = (field.name for field in dataclasses.fields(UpdateRule))
    return {slot: _words(getattr(rule, slot)) for slot in slots if getattr(rule, slot) != getattr(stock, slot)}


def rule_from_words(words: Any) -> UpdateRule:
    """The rule that :func:`rule_as_words` wrote.

    :param words: by slot.
    :return: an equal rule.
    :raises ValueError: for an unknown slot, class or argument.
    """
    try:
        return UpdateRule(**{slot: _built(value) for slot, value in dict(words).items()})
    except (TypeError, ValueError) as error:
        raise InvalidValueError(
            f"rule must map slots to choices of sb3_ppo_notes.rules, got {words!r}: {error}"
        ) from error


def _built(words: Any) -> Any:
    if isinstance(words, list):
        return tuple(map(_built, words))
    if isinstance(words, str) and words.startswith("lin_"):
        return LinearSchedule(float(words.removeprefix("lin_")), 0.0, 1.0)
    if not isinstance(words, Mapping):
        return words
    (name, arguments), *rest = words.items()
    # Only what this package exports as a choice is ever looked up, never what a file names at will.
    if rest or name not in rules.__all__ or name == "UpdateRule":
        raise InvalidValueError(f"{name!r} is no choice")
    return getattr(rules, name)(**{key: _built(value) for key, value in dict(arguments).items()})


def _words(choice: Any) -> Any:
    if isinstance(choice, tuple):
        return [_words(one) for one in choice]
    if isinstance(choice, FloatSchedule):
        return _words(choice.value_schedule)
    if isinstance(choice, LinearSchedule) and choice.end == 0.0 and choice.end_fraction == 1.0:
        return f"lin_{choice.start!r}"
    if dataclasses.is_dataclass(choice):
        values = {field.name: getattr(choice, field.name) for field in dataclasses.fields(choice) if field.init}
        return {type(choice).__name__: {name: _words(value) for name, value in values.items()}}
    if callable(choice):
        raise InvalidValueError(f"schedules of a rule must be numbers or lines to 0 to be written down, got {choice!r}")
    return choice
