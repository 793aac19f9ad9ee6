"""Numbers that may change while training: a float, or a function of the progress that remains (1 at the start, 0 at the
end).
"""

import dataclasses
import math
from collections.abc import Callable
from typing import Any, TypeVar

from sb3_ppo_notes.formulas.checks import InvalidTypeError, InvalidValueError, check_positive, check_real

Schedule = Callable[[float], float]
Choice = TypeVar("Choice")


def check_schedule(name: str, value: Any, *, positive: bool = True) -> None:
    """Refuse what is neither a number in range nor a schedule that starts in range.

    :param name: the argument's name, first word of the message.
    :param value: a float or a function of the remaining progress.
    :param positive: whether a plain number has to be above 0 (else any finite number will do).
    :raises TypeError: for anything else.
    :raises ValueError: for a number out of range.
    """
    if callable(value):
        value_at(name, value, 1.0)
    elif isinstance(value, str):
        raise InvalidTypeError(
            f"{name} must be a float or a schedule, got str {value!r} (write the number without quotes; "
            'arguments of the constructor may also be "lin_3e-4")'
        )
    elif positive:
        check_positive(name, value, words="> 0 and finite (a float or a schedule)")
    else:
        check_real(name, value, "finite (a float or a schedule)")


def value_at(name: str, value: float | Schedule, progress_remaining: float, *, minimum: float = 0.0) -> float:
    """The number that a schedule gives now.

    0 is allowed here, unlike for a plain number: a linear schedule ends there, exactly once.

    :param name: the argument's name, first word of the message.
    :param value: a float, returned as it is, or a schedule.
    :param progress_remaining: 1 at the start, 0 at the end; dimensionless.
    :param minimum: smallest allowed value.
    :return: a finite float.
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
            f"{name} schedule returned {result!r} at progress {progress_remaining}, it must return a finite float"
        ) from error
    if not math.isfinite(number) or number < minimum:
        raise InvalidValueError(
            f"{name} schedule returned {number} at progress {progress_remaining}, it must be finite and >= {minimum:g}"
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
    # Not dataclasses.replace: it would run the constructor's checks, and those refuse the 0 that a linear schedule ends
    # with.
    resolved = object.__new__(type(choice))
    for field in fields:
        object.__setattr__(resolved, field.name, present.get(field.name, getattr(choice, field.name)))
    return resolved
