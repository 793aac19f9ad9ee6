"""What one process does for all: files, above all."""

from collections.abc import Callable
from typing import TypeVar

from sb3_ppo_notes.processes.group import Group

T = TypeVar("T")


def on_writer(group: Group, action: Callable[[], T]) -> T:
    """Call a function in rank 0 alone; all processes call this together.

    :param group: of the processes.
    :param action: its result can be pickled.
    :return: its result, in all processes.
    :raises OSError: in all processes, if it was raised there; so is a ``ValueError``.
    """
    value: T | None = None
    error: Exception | None = None
    if group.rank == 0:
        try:
            value = action()
        except (OSError, ValueError) as raised:
            error = raised
    value, error = group.gather((value, error))[0]
    if error is not None:
        raise error
    return value
