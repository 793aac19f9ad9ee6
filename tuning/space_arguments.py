"""From a point of the space to what trains: environments, normaliser, constructor arguments."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Setup:
    """Everything that one run is built from; also of the baselines, which are no points of the space.

    :param name: for tables: ``"trial 12"``, ``"SB3 defaults"``, ``"rl_zoo3"``.
    :param algo: ``"notes_ppo"`` or ``"notes_a2c"``.
    :param n_envs: environments side by side.
    :param arguments: of the constructor of NotesPPO or NotesA2C, ``policy`` included, ``env`` and ``seed`` not.
    :param normalize: arguments of ``VecNormalize`` with the gamma that is trained with, ``None`` for none.
    """

    name: str
    algo: str
    n_envs: int
    arguments: dict[str, Any] = field(default_factory=dict)
    normalize: dict[str, Any] | None = None


def constructor_arguments(
    configuration: Mapping[str, Any], n_envs: int, base: Mapping[str, Any] | None = None, algo: str = "notes_ppo"
) -> dict[str, Any]:
    """Arguments for NotesPPO or NotesA2C (``batch_size`` divides ``n_steps * n_envs``; policy_kwargs are merged)."""
    raise NotImplementedError


def make_setup(name: str, algo: str, configuration: Mapping[str, Any], base: Mapping[str, Any]) -> Setup:
    """A configuration on a base (rl_zoo3's keys: n_envs, normalize, policy, policy_kwargs, use_sde, ...)."""
    raise NotImplementedError


def baseline_setup(name: str, algo: str, entry: Mapping[str, Any]) -> Setup:
    """A whole rl_zoo3 entry, or SB3's defaults (an empty entry), exactly as it is."""
    raise NotImplementedError
