"""Spaces in which nobody can learn, refused before anything is built: what SB3 says of them is not about them."""

from typing import Any

import numpy as np
from gymnasium import spaces

from sb3_ppo_notes.formulas.checks import InvalidValueError

SUPPORTED = (spaces.Box, spaces.Discrete, spaces.MultiDiscrete, spaces.MultiBinary)
NAMES = ", ".join(space.__name__ for space in SUPPORTED)
FROM_ZERO = "numbers that begin at 0 (subtract the start in a wrapper)"


class UnsupportedSpaceError(InvalidValueError, NotImplementedError):
    """Nobody can learn in such a space. Of all the kinds of errors that stock SB3 raises for one."""


def check_spaces(
    observation_space: spaces.Space[Any], action_space: spaces.Space[Any], *, is_flattened: bool = False
) -> None:
    """Refuse spaces that SB3's buffers and distributions cannot serve.

    :param observation_space: of one environment.
    :param action_space: of one environment.
    :param is_flattened: whether SB3's own extractor makes one row of an observation, and no other that may know better.
    :raises ValueError: naming the space.
    """
    _check_action_space(action_space)
    is_dict = isinstance(observation_space, spaces.Dict)
    parts = list(observation_space.spaces.values()) if is_dict else [observation_space]  # type: ignore[attr-defined]
    for part in parts:
        if not isinstance(part, SUPPORTED):
            dictionary = "" if is_dict else ", or a Dict of such"
            _refuse("observation", f"of type {NAMES}{dictionary}", observation_space, part)
        _check_numbers("observation", observation_space, part)
        if is_flattened and (not part.shape or 0 in part.shape) and isinstance(part, spaces.Box):
            _refuse("observation", "of at least one number in one dimension if it is a Box", observation_space, part)
    if is_dict and not parts:
        _refuse("observation", "with something in it", observation_space, observation_space)


def _check_action_space(space: spaces.Space[Any]) -> None:
    if not isinstance(space, SUPPORTED):
        _refuse("action", f"of type {NAMES}", space, space)
    _check_numbers("action", space, space)
    if isinstance(space, spaces.MultiBinary) and not isinstance(space.n, int):
        because = f"Multi-dimensional MultiBinary({space.n}) action space is not supported"  # SB3's words
        _refuse("action", f"of one dimension: {because} (flatten it in a wrapper)", space, space)
    if isinstance(space, spaces.Box) and not np.all(np.isfinite([space.low, space.high])):
        bound = "Continuous action space must have a finite lower and upper bound"
        _refuse("action", f"within bounds: {bound}", space, space)
    if isinstance(space, spaces.Box) and 0 in space.shape:
        _refuse("action", "with something in it", space, space)


def _check_numbers(whose: str, space: spaces.Space[Any], part: spaces.Space[Any]) -> None:
    """One-hot vectors and categorical distributions count from 0, in one row."""
    if isinstance(part, spaces.MultiDiscrete) and part.nvec.ndim != 1:
        _refuse(whose, "of one dimension if it is a MultiDiscrete (flatten it in a wrapper)", space, part)
    # A file of an older Gymnasium may hold a space without a start.
    if isinstance(part, spaces.Discrete | spaces.MultiDiscrete) and np.any(getattr(part, "start", 0)):
        _refuse(whose, f"of {FROM_ZERO}", space, part)


def _refuse(whose: str, allowed: str, space: spaces.Space[Any], part: spaces.Space[Any]) -> None:
    where = "" if part is space else f", in which {part} is not"
    in_one_line = " ".join(f"{space}{where}".split())
    raise UnsupportedSpaceError(f"env must have an {whose} space {allowed}, got {in_one_line}")
