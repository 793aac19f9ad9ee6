"""Where a search starts: SB3's defaults, rl_zoo3's tuned values, and the user's own."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tuning.space import Configuration, Space


@dataclass(frozen=True)
class WarmStart:
    """One place to start from.

    :param name: ``"SB3 defaults"``, ``"rl_zoo3"`` or the file's name.
    :param configuration: a point of the space, ``None`` if it cannot be written as one.
    :param problem: why not, ``""`` otherwise.
    """

    name: str
    configuration: Configuration | None
    problem: str = ""


def zoo_entry(env_id: str, algo: str) -> dict[str, Any]:
    """rl_zoo3's hyperparameters for an environment ({} if it has none, or is not installed); YAML only, no eval."""
    raise NotImplementedError


def base_of(entry: Mapping[str, Any]) -> dict[str, Any]:
    """What of an rl_zoo3 entry is not tuned: n_envs, normalize, policy, policy_kwargs, use_sde, ..."""
    raise NotImplementedError


def warm_starts(
    env_id: str, space: Space, user_files: Sequence[str | Path] = (), base: Mapping[str, Any] | None = None
) -> list[WarmStart]:
    """SB3's defaults, rl_zoo3's entry, and the user's files: a user's row outside the space raises ``ValueError``."""
    raise NotImplementedError
