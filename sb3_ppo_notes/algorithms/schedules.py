"""Schedules among the arguments: written as text, asked no more often than by stock SB3, and without a trace."""

import builtins
import copy
import dis
import math
import re
from collections.abc import Callable, Mapping
from types import CellType, CodeType, FunctionType, MethodType, ModuleType
from typing import Any

import numpy as np
from stable_baselines3.common.utils import ConstantSchedule, FloatSchedule, LinearSchedule

from sb3_ppo_notes.rules.schedules import value_at

#: Kinds of global variables that reading cannot change.
CONSTANTS = (bool, int, float, str, type(None))
#: Modules of functions of their arguments; NumPy's random numbers apart.
CALCULATING = ("math", "numpy")
#: Instructions by which a function leaves a trace in its module, or brings in another.
REACHING_OUT = ("STORE_GLOBAL", "DELETE_GLOBAL", "IMPORT_NAME")


def as_schedule(value: Any) -> Any:
    """The schedule that rl_zoo3's ``"lin_3e-4"`` stands for, and Python's number for one of NumPy's.

    :param value: anything.
    :return: a schedule from that number to 0 if it is such a string, else the value itself.

    >>> as_schedule("lin_0.5")
    LinearSchedule(start=0.5, end=0.0, end_fraction=1.0)
    """
    is_scalar = isinstance(value, np.ndarray | np.generic) and value.ndim == 0
    if is_scalar and not isinstance(value, float):
        return value.item()  # SB3 takes Python's numbers only
    match = re.fullmatch(r"lin_(\d+(\.\d*)?([eE][+-]?\d+)?)", value) if isinstance(value, str) else None
    return LinearSchedule(float(match.group(1)), 0.0, 1.0) if match else value


def plain(value: Any) -> Any:
    """A constant schedule as its number.

    :param value: anything.
    :return: the number of a ``FloatSchedule`` around a constant, else the value itself.
    """
    if isinstance(value, FloatSchedule):
        value = value.value_schedule
    return value.val if isinstance(value, ConstantSchedule) else value


def ask_schedules(arguments: Mapping[str, Any]) -> None:
    """Refuse schedules that begin with a number out of range.

    A copy of each is asked, because stock asks these for the first time in its first update: one that counts its calls
    shall count the same, and one that cannot be copied with all it knows is asked then, too. (The learning rate's is
    asked by SB3 when the policy is built.)

    :param arguments: values by name.
    :raises TypeError: if a schedule returns no number.
    :raises ValueError: if it returns one out of range.
    """
    for name in ("clip_range", "clip_range_vf", "ent_coef", "vf_coef"):
        schedule = arguments.get(name)
        if callable(schedule) and (copied := whole_copy(schedule)) is not None:
            value_at(name, copied, 1.0, minimum=-math.inf if name == "ent_coef" else 0.0)


class AnsweredOnce:
    """A schedule whose first answer has been checked already, so that it is asked no more often than by stock.

    :param name: of the argument, for the message.
    :param schedule: of the remaining progress.
    :raises TypeError: if it returns no number.
    :raises ValueError: if it returns one out of range.
    """

    def __init__(self, name: str, schedule: Callable[[float], float]):
        self.schedule = schedule
        self._answers = [value_at(name, schedule, 1.0)]

    def __call__(self, progress_remaining: float) -> float:
        """The next number."""
        return self._answers.pop() if self._answers else self.schedule(progress_remaining)


def whole_copy(function: Any) -> Callable[..., Any] | None:
    """A function that gives what another would give, and leaves no trace in it.

    ``copy.deepcopy`` gives back functions as they are: what they have closed over is copied here. What they find
    elsewhere (a random generator, a list of the module) cannot be.

    :param function: a function, or an object that is called.
    :return: ``None`` if there is none.

    >>> answers = [0.3, 0.2]
    >>> whole_copy(lambda progress: progress / 2)(1.0)
    0.5
    >>> whole_copy(lambda progress: answers.pop()) is None
    True
    """
    code = _code_of(function)
    if code is None or not _keeps_to_itself(code, _globals_of(function)):
        return None
    try:
        return _copy_function(function) if isinstance(function, FunctionType) else copy.deepcopy(function)
    except Exception:
        # Whatever the objects inside raise when they are copied: a generator, a lock, a file.
        return None


def _innermost(function: Any) -> Any:
    """The function that runs in the end."""
    if isinstance(function, FunctionType | MethodType):
        return function
    inner = getattr(function, "value_schedule", None)  # SB3's FloatSchedule calls another
    return type(function).__call__ if inner is None else _innermost(inner)


def _code_of(function: Any) -> CodeType | None:
    return getattr(_innermost(function), "__code__", None)


def _globals_of(function: Any) -> dict[str, Any]:
    return getattr(_innermost(function), "__globals__", {})


def _keeps_to_itself(code: CodeType, names: dict[str, Any]) -> bool:
    for each in dis.get_instructions(code):
        if each.opname in REACHING_OUT:
            return False
        if each.opname in ("LOAD_GLOBAL", "LOAD_NAME") and not _is_harmless(each.argval, code, names):
            return False
    return all(_keeps_to_itself(inner, names) for inner in code.co_consts if isinstance(inner, CodeType))


def _is_harmless(name: str, code: CodeType, names: dict[str, Any]) -> bool:
    if name not in names:
        return hasattr(builtins, name)
    value = names[name]
    if isinstance(value, ModuleType):
        return value.__name__ in CALCULATING and "random" not in code.co_names
    if isinstance(value, FunctionType):
        return value.__closure__ is None and _keeps_to_itself(value.__code__, value.__globals__)
    return isinstance(value, CONSTANTS)


def _copy_function(function: FunctionType) -> FunctionType:
    cells = [CellType(_deep(cell.cell_contents)) for cell in function.__closure__ or ()]
    copied = FunctionType(
        function.__code__, function.__globals__, function.__name__, copy.deepcopy(function.__defaults__), tuple(cells)
    )
    copied.__kwdefaults__ = copy.deepcopy(function.__kwdefaults__)
    return copied


def _deep(thing: Any) -> Any:
    """A copy; of a function one that leaves no trace, too."""
    if not isinstance(thing, FunctionType):
        return copy.deepcopy(thing)
    copied = whole_copy(thing)
    if copied is None:
        raise TypeError(f"{thing.__qualname__} cannot be copied")
    return copied
