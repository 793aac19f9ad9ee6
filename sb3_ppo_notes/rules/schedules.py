"""Numbers that may change while training: a float, or a function of the progress that remains (1 at the start, 0 at the
end).
"""

import dataclasses
import math
from collections.abc import Callable
from numbers import Real
from typing import Any, TypeVar

from sb3_ppo_notes.formulas.checks import InvalidTypeError, InvalidValueError, check_real

Schedule = Callable[[float], float]
Choice = TypeVar("Choice")


#: Arguments for which infinity is a value too: it switches the limit off.
LIMITS = ("clip_range", "clip_range_vf")


def check_schedule(name: str, value: Any, *, minimum: float = 0.0, is_exclusive: bool = False) -> None:
    """Refuse what is neither a number in range nor a schedule. Schedules are not asked here, but when they are needed.

    :param name: the argument's name, first word of the message.
    :param value: a float or a function of the remaining progress.
    :param minimum: smallest allowed value, minus infinity for any.
    :param is_exclusive: whether a plain number has to lie above the minimum; a schedule may always end there.
    :raises TypeError: for anything else.
    :raises ValueError: for a number out of range.
    """
    if callable(value):
        return
    if isinstance(value, str):
        raise InvalidTypeError(
            f"{name} must be a float or a schedule, got str {value!r} (write the number without quotes; "
            'arguments of the constructor may also be "lin_3e-4")'
        )
    allowed = f"{_range(name, minimum, is_exclusive)} (a float or a schedule)"
    is_allowed = not isinstance(value, Real) or float(value) > minimum or (float(value) == minimum and not is_exclusive)
    check_real(name, value, allowed, is_allowed, may_be_infinite=name in LIMITS)


def _range(name: str, minimum: float, is_exclusive: bool = False) -> str:
    words = [] if math.isinf(minimum) else [f"{'>' if is_exclusive else '>='} {minimum:g}"]
    return " and ".join(words if name in LIMITS else [*words, "finite"])


def value_at(name: str, value: Any, progress_remaining: float, *, minimum: float = 0.0) -> float:
    """The number that a schedule gives now.

    :param name: the argument's name, first word of the message.
    :param value: a number, returned as a float, or a schedule.
    :param progress_remaining: 1 at the start, 0 at the end; dimensionless.
    :param minimum: smallest allowed value.
    :return: a float; finite, unless it is a limit.
    :raises TypeError: if the schedule returns no number.
    :raises ValueError: if it returns NaN, infinity or less than ``minimum``.
    """
    if not callable(value):
        return float(value)
    # SB3 wraps schedules in a FloatSchedule that casts the result; look inside, so that a None is called a None.
    result = getattr(value, "value_schedule", value)(progress_remaining)
    try:
        number = float(result)
    except (TypeError, ValueError) as error:
        raise InvalidTypeError(
            f"{name} schedule returned {result!r} at progress {progress_remaining}, it must return a float"
        ) from error
    if not number >= minimum or (math.isinf(number) and name not in LIMITS):
        raise InvalidValueError(
            f"{name} schedule returned {number} at progress {progress_remaining}, it must be {_range(name, minimum)}"
        )
    return number


def resolve(choice: Choice, progress_remaining: float) -> Choice:
    """A frozen dataclass with every schedule in it replaced by its present value.

    :param choice: an instance of a dataclass, left as it is.
    :param progress_remaining: 1 at the start, 0 at the end; dimensionless.
    :return: the same object if it holds no schedule, else a copy of plain floats.
    :raises ValueError: if a schedule returns a number that cannot be used.
    """
    fields = dataclasses.fields(choice)  # type: ignore[arg-type]
    present: dict[str, Any] = {}
    for field in fields:
        value = getattr(choice, field.name)
        if dataclasses.is_dataclass(value):
            resolved_value = resolve(value, progress_remaining)
            if resolved_value is not value:
                present[field.name] = resolved_value
        elif callable(value):
            present[field.name] = value_at(field.name, value, progress_remaining)
    if not present:
        return choice
    # Not dataclasses.replace: it would run the constructor's checks, and those refuse the 0 with which a schedule of
    # clip_range_vf may end.
    resolved = object.__new__(type(choice))
    for field in fields:
        object.__setattr__(resolved, field.name, present.get(field.name, getattr(choice, field.name)))
    return resolved
