"""Asking a schedule without its noticing."""

import builtins
import copy
import dis
from collections.abc import Callable
from types import CellType, CodeType, FunctionType, MethodType
from typing import Any


def whole_copy(function: Any) -> Callable[..., Any] | None:
    """A function that gives what another would give, and leaves no trace in it.

    ``copy.deepcopy`` gives back functions as they are: what they have closed over is copied here. What they find
    elsewhere (a random generator, a counter of the module) cannot be.

    :param function: a function, or an object that is called.
    :return: ``None`` if there is none.

    >>> counter = iter([0.3, 0.2])
    >>> whole_copy(lambda progress: progress / 2)(1.0)
    0.5
    >>> whole_copy(lambda progress: next(counter)) is None
    True
    """
    code = _code_of(function)
    if code is None or not _globals_of(code) <= vars(builtins).keys():
        return None
    try:
        return _copied(function) if isinstance(function, FunctionType) else copy.deepcopy(function)
    except Exception:
        # Whatever the objects inside raise when they are copied: a generator, a lock, a file.
        return None


def _code_of(function: Any) -> CodeType | None:
    """What runs when it is called; ``None`` where Python cannot tell."""
    if isinstance(function, FunctionType | MethodType):
        return function.__code__
    inner = getattr(function, "value_schedule", None)  # SB3's FloatSchedule calls another
    called = type(function).__call__ if inner is None else inner
    return called.__code__ if isinstance(called, FunctionType) else None if inner is None else _code_of(inner)


def _globals_of(code: CodeType) -> set[str]:
    names = {each.argval for each in dis.get_instructions(code) if each.opname in ("LOAD_GLOBAL", "LOAD_NAME")}
    return names.union(*(_globals_of(each) for each in code.co_consts if isinstance(each, CodeType)))


def _copied(function: FunctionType) -> FunctionType:
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
