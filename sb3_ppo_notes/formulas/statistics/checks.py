"""What every statistic refuses: scores that are no numbers, seeds that are too few, tasks that do not match."""

from typing import Any

import numpy as np

from sb3_ppo_notes.formulas.advantages import FloatArray
from sb3_ppo_notes.formulas.checks import InvalidTypeError, InvalidValueError, NonFiniteError


def checked_scores(name: str, scores: Any, *, minimum_seeds: int = 1, columns: str = "tasks") -> FloatArray:
    """Scores in float64, or an error that names the first thing wrong with them.

    :param name: the argument's name, first word of the message.
    :param scores: ``[..., seeds, tasks]``.
    :param minimum_seeds: fewest seeds allowed.
    :param columns: what the last axis holds, for the message.
    :return: ``[..., seeds, tasks]`` float64.
    :raises ValueError: for another shape, an empty axis, too few seeds, NaN or infinity.
    """
    array = finite_array(name, scores, " (a run that failed has the score of a random policy)")
    if array.ndim < 2:
        raise InvalidValueError(f"{name} must have shape [seeds, {columns}], got {array.shape}")
    if array.shape[-2] < minimum_seeds:
        raise InvalidValueError(f"{name} must have at least {minimum_seeds} seeds, got {array.shape[-2]}")
    if 0 in array.shape:
        raise InvalidValueError(f"{name} must have at least one seed and one of {columns}, got shape {array.shape}")
    return array


def finite_array(name: str, values: Any, because: str = "") -> FloatArray:
    """Numbers in float64, or an error that says where the first one is that is none.

    :param name: the argument's name, first word of the message.
    :param values: anything NumPy makes an array of.
    :param because: a closing half sentence for the message about NaN.
    :return: the same in float64.
    :raises TypeError: if they are nothing that has numbers.
    :raises ValueError: for text, or rows of unequal length.
    :raises NonFiniteError: for NaN or infinity.
    """
    try:
        array = np.asarray(values, dtype=np.float64)
    except TypeError:
        raise InvalidTypeError(f"{name} must be an array of numbers, got {type(values).__name__} {values!r}") from None
    except ValueError:
        # Text, or rows of unequal length: seeds that were not all run on the same tasks.
        raise InvalidValueError(f"{name} must hold numbers only, in rows of one length, got {values!r}") from None
    wrong = np.argwhere(~np.isfinite(array))
    if len(wrong):
        place = tuple(map(int, wrong[0]))
        raise NonFiniteError(f"{name} must be finite, got {array[place]} at {list(place)}{because}")
    return array


def check_same_tasks(**arms: FloatArray) -> None:
    """Refuse arms that were not run on the same tasks.

    :param arms: ``[..., seeds, tasks]`` each, by the name that the message shall use.
    :raises ValueError: if the numbers of tasks differ.
    """
    counts = {name: scores.shape[-1] for name, scores in arms.items()}
    if len(set(counts.values())) > 1:
        found = ", ".join(f"{name} {count}" for name, count in counts.items())
        raise InvalidValueError(f"{' and '.join(counts)} must have the same tasks, got {found}")


def check_generator(generator: Any) -> None:
    """Refuse everything but a NumPy generator: a seed given here would repeat the same draws in every call.

    :param generator: what the user gave.
    :raises TypeError: for anything else, NumPy's global generator and ``RandomState`` included.
    """
    if not isinstance(generator, np.random.Generator):
        raise InvalidTypeError(
            f"generator must be a numpy.random.Generator, got {type(generator).__name__} {generator!r}"
        )
