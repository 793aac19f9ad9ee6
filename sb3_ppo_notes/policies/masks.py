"""Action masks: which actions a state allows, in sb3-contrib's convention."""

from typing import Any

import numpy as np
import torch as th
from gymnasium import spaces
from stable_baselines3.common.vec_env import VecEnv

from sb3_ppo_notes.formulas.checks import InvalidValueError

METHOD = "action_masks"


def mask_sizes(action_space: spaces.Space[Any]) -> list[int]:
    """Entries of a mask, for each independent choice.

    :param action_space: Discrete(n): [n]; MultiDiscrete: its sizes; MultiBinary(n): n pairs, first "0 is allowed", then
        "1 is".
    :return: their sizes.
    :raises ValueError: for a space of which no single action can be forbidden.
    """
    if isinstance(action_space, spaces.Discrete):
        return [int(action_space.n)]
    if isinstance(action_space, spaces.MultiDiscrete):
        return [int(size) for size in action_space.nvec]
    if isinstance(action_space, spaces.MultiBinary):
        return [2] * int(np.prod(action_space.shape))
    raise InvalidValueError(
        f"action_masking must be False unless actions are Discrete, MultiDiscrete or MultiBinary, got {action_space}"
    )


def check_masking(env: VecEnv) -> None:
    """Refuse to mask what cannot be masked.

    :param env: vectorised environments.
    :raises ValueError: if their actions form a Box, or one of them has no ``action_masks`` method.
    """
    mask_sizes(env.action_space)
    if not env.has_attr(METHOD):
        raise InvalidValueError(
            f"action_masking must be False unless every environment has a method {METHOD}(), got {env} "
            "(sb3-contrib's ActionMasker wrapper adds one)"
        )


def collect_masks(env: VecEnv) -> np.ndarray:
    """The masks of all environments, for the observations they have just given.

    :param env: vectorised environments, in this process or in others.
    :return: ``[B, n]`` bool.
    :raises ValueError: if a mask has the wrong shape or allows nothing.
    """
    sizes = mask_sizes(env.action_space)
    masks = [_as_bool(mask, f" from environment {index}") for index, mask in enumerate(env.env_method(METHOD))]
    for index, mask in enumerate(masks):
        if mask.size != sum(sizes):
            raise InvalidValueError(
                f"action_masks must have {sum(sizes)} entries for {env.action_space}, got shape {mask.shape} from "
                f"environment {index}"
            )
    stacked: np.ndarray = np.stack([mask.reshape(-1) for mask in masks])
    _check_something_is_allowed(stacked, sizes)
    return stacked


def mask_tensor(action_masks: Any, action_space: spaces.Space[Any], n: int, device: th.device) -> th.Tensor:
    """Masks that a user gave, as a tensor.

    :param action_masks: ``[N, n]``, or ``[n]`` for a single observation; numbers count as ``True`` unless they are 0.
    :param action_space: of the policy.
    :param n: number of observations.
    :param device: of the policy.
    :return: ``[N, n]`` bool.
    :raises ValueError: if the shape is wrong, or a mask allows nothing.
    """
    masks = _as_bool(action_masks)
    sizes = mask_sizes(action_space)
    if masks.size != n * sum(sizes):
        raise InvalidValueError(
            f"action_masks must have shape ({n}, {sum(sizes)}) for {action_space}, got {masks.shape}"
        )
    masks = masks.reshape(n, sum(sizes))
    _check_something_is_allowed(masks, sizes)
    return th.as_tensor(masks, device=device)


def _as_bool(mask: Any, whose: str = "") -> np.ndarray:
    """A mask in whatever form: array, list, tensor of any device, bools or numbers."""
    try:
        return np.asarray(mask.detach().cpu() if isinstance(mask, th.Tensor) else mask, dtype=bool)
    except ValueError as error:
        raise InvalidValueError(
            f"action_masks must be rectangular (of a MultiDiscrete: the parts in one row), got {mask!r}{whose}"
        ) from error


def _check_something_is_allowed(masks: np.ndarray, sizes: list[int]) -> None:
    for component, part in enumerate(np.split(masks, np.cumsum(sizes)[:-1], axis=1)):
        if not part.any(axis=1).all():
            row = int(np.argmin(part.any(axis=1)))
            raise InvalidValueError(
                f"action_masks must allow at least one action, got none for component {component} in row {row}"
            )
