"""The errors of this package, and the checks that raise them: name of the argument, its value, the allowed range."""

import math
from collections.abc import Sequence
from numbers import Integral, Real
from typing import Any


class InvalidValueError(ValueError, AssertionError):
    """An argument outside its range. Also an ``AssertionError``, because that is what stock SB3 raises in places."""

    #: Its message says everything that the user needs, wherever it was raised.
    is_self_contained = True


class InvalidTypeError(TypeError, AssertionError):
    """An argument of the wrong type. Also an ``AssertionError``, because that is what stock SB3 raises in places."""

    is_self_contained = True


class NonFiniteError(ValueError):
    """NaN or infinity where a number must be: says what, in which environment and at which step.

    A ``ValueError``, so that rl_zoo3's optimiser takes the trial for a failed one instead of ending the study.
    """

    is_self_contained = True


class NonFiniteEnvironmentError(NonFiniteError):
    """NaN or infinity that an environment gave: no other hyperparameters will mend it."""


def check_shapes(**arrays: Any) -> None:
    """Refuse arrays of unequal shape, so that ``[N] - [N, 1]`` can never broadcast to ``[N, N]`` unnoticed.

    :param arrays: the arrays or tensors to compare, by the name that the message shall use.
    :raises ValueError: if two shapes differ; the message shows every shape.

    >>> import numpy as np
    >>> check_shapes(values=np.zeros(3), returns=np.zeros((3, 1)))  # doctest: +IGNORE_EXCEPTION_DETAIL
    Traceback (most recent call last):
    InvalidValueError: values and returns must have one shape, got values (3,), returns (3, 1)
    """
    shapes = {name: tuple(array.shape) for name, array in arrays.items()}
    first, *others = shapes.values()
    # Compared, and not counted in a set: a length that is only a symbol, while code is traced, has no hash.
    if any(shape != first for shape in others):
        found = ", ".join(f"{name} {shape}" for name, shape in shapes.items())
        raise InvalidValueError(f"{' and '.join(shapes)} must have one shape, got {found}")


def check_integer(name: str, value: Any, *, minimum: int, because: str = "") -> None:
    """Refuse everything but an int of at least ``minimum``.

    :param name: the argument's name, first word of the message.
    :param value: what the user gave. ``True`` is no int here: it is a flag in the wrong place.
    :param minimum: smallest allowed value.
    :param because: a closing half sentence for the message.
    :raises TypeError: for another type than int (NumPy's integers count as int).
    :raises ValueError: below the minimum.
    """
    if isinstance(value, bool) or not isinstance(value, Integral):
        raise InvalidTypeError(f"{name} must be an int >= {minimum}, got {type(value).__name__} {value!r}")
    if value < minimum:
        raise InvalidValueError(f"{name} must be an int >= {minimum}{because}, got {value}")


def check_real(
    name: str, value: Any, allowed: str, is_allowed: bool | None = None, *, may_be_infinite: bool = False
) -> None:
    """Refuse everything but a number in its range.

    :param name: the argument's name, first word of the message.
    :param value: what the user gave.
    :param allowed: the range in words, for the message ("in [0, 1]").
    :param is_allowed: whether the value lies in that range; ``None`` where every finite number does.
    :param may_be_infinite: whether infinity is a value too, as of a limit that is none.
    :raises TypeError: if it is no number.
    :raises ValueError: if it is NaN, infinite or outside the range.
    """
    if isinstance(value, bool) or not isinstance(value, Real):
        raise InvalidTypeError(f"{name} must be {allowed}, got {type(value).__name__} {value!r}")
    if math.isnan(value) or (math.isinf(value) and not may_be_infinite) or is_allowed is False:
        raise InvalidValueError(f"{name} must be {allowed}, got {value!r}")


def check_positive(name: str, value: Any, *, words: str = "> 0 and finite", may_be_infinite: bool = False) -> None:
    """Refuse everything but a number above zero.

    :param name: the argument's name, first word of the message.
    :param value: what the user gave.
    :param words: the range in words.
    :param may_be_infinite: whether infinity is a value too.
    :raises TypeError: if it is no number.
    :raises ValueError: if it is not above zero, or not finite and has to be.
    """
    is_positive = not isinstance(value, Real) or float(value) > 0
    check_real(name, value, words, is_allowed=is_positive, may_be_infinite=may_be_infinite)


def check_fraction(name: str, value: Any) -> None:
    """Refuse everything but a number in [0, 1].

    :param name: the argument's name, first word of the message.
    :param value: what the user gave.
    :raises TypeError: if it is no number.
    :raises ValueError: if it lies outside [0, 1] or is NaN.
    """
    check_real(name, value, "in [0, 1]", is_allowed=not isinstance(value, Real) or 0 <= float(value) <= 1)


def check_choice(name: str, value: Any, choices: Sequence[Any]) -> None:
    """Refuse everything but one of the listed choices.

    :param name: the argument's name, first word of the message.
    :param value: what the user gave.
    :param choices: what is allowed.
    :raises ValueError: if ``value`` is none of them.
    """
    if value not in choices:
        raise InvalidValueError(f"{name} must be one of {', '.join(map(repr, choices))}, got {value!r}")


def check_flag(name: str, value: Any) -> None:
    """Refuse everything but ``True`` and ``False``, also as 1 and 0 or as NumPy's bool.

    :param name: the argument's name, first word of the message.
    :param value: what the user gave. Not ``"no"`` and not ``None``: Python takes the one for true, the other for false.
    :raises TypeError: for another type than bool, and for other numbers.
    """
    is_number = isinstance(value, Integral) or str(getattr(value, "dtype", None)) == "bool"
    if not (is_number and value in (0, 1)):
        raise InvalidTypeError(f"{name} must be True or False, got {type(value).__name__} {value!r}")
