"""The search space: names (rl_zoo3's), ranges and choices, and what the update rules add to them."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from tuning.space.defaults import DIMENSIONS, FURTHER, LIMITS
from tuning.space.dimensions import Dimension, Suggests, parse_dimension
from tuning.space.rules import rule_choices

Configuration = dict[str, Any]
"""A point of a space: flat, JSON-able values by the parameter's name (``learning_rate``, ``n_steps_pow``, ...)."""

__all__ = ["Configuration", "Dimension", "Space", "Suggests"]


@dataclass(frozen=True)
class Space:
    """The parameters of one algorithm, in the order in which a trial is asked for them."""

    algo: str
    dimensions: tuple[Dimension, ...]

    def __post_init__(self) -> None:
        _check_algorithm(self.algo)
        names = [dimension.name for dimension in self.dimensions]
        twice = sorted({name for name in names if names.count(name) > 1})
        if twice:
            raise ValueError(f"space must hold each parameter once, got {twice[0]!r} twice")

    @classmethod
    def default(cls, algo: str) -> Space:
        """rl_zoo3's space, wide enough for SB3's defaults and most of rl_zoo3's tuned values, and what we add."""
        _check_algorithm(algo)
        return cls(algo, DIMENSIONS[algo])

    @classmethod
    def from_yaml(cls, path: str | Path, algo: str) -> Space:
        """The default space, changed by a file: ``name: [choices]``, ``name: value`` or ``name: {low: 1, high: 2}``.

        With ``replace: true`` only what the file lists is searched.
        """
        _check_algorithm(algo)
        content = read_yaml("space", path)
        if not isinstance(content, dict):
            raise ValueError(f"space must map names to ranges, got {path} with {type(content).__name__}")
        replaces = content.pop("replace", False)
        defaults = {dimension.name: dimension for dimension in DIMENSIONS[algo]}
        allowed = {*defaults, *FURTHER, *(f"rule.{slot}" for slot in rule_choices(algo))}
        dimensions = {} if replaces else dict(defaults)
        for name, description in content.items():
            if name not in allowed:
                raise ValueError(
                    f"space must name parameters of {algo}, got {name!r} (known: {', '.join(sorted(allowed))})"
                )
            try:
                dimension = parse_dimension(name, description, defaults.get(name))
                _check_meaning(dimension, algo)
            except ValueError as error:
                raise ValueError(f"space {path}: {error}") from error
            dimensions[name] = dimension
        return cls(algo, tuple(dimensions.values()))

    def vary(self, slots: Sequence[str]) -> Space:
        """The space with choices of the update rule, such as ``rule.policy_objective``, as further parameters."""
        choices = {f"rule.{slot}": tuple(names) for slot, names in rule_choices(self.algo).items()}
        for slot in slots:
            if slot not in choices:
                raise ValueError(f"vary must be among {', '.join(choices)}, got {slot!r}")
        present = {dimension.name for dimension in self.dimensions}
        new = [Dimension(slot, "choice", choices=choices[slot]) for slot in dict.fromkeys(slots) if slot not in present]
        return dataclasses.replace(self, dimensions=(*self.dimensions, *new))

    def fit(self, n_envs: int, total_timesteps: int) -> Space:
        """The space without rollouts so long that fewer than two of them make a trial; refused if none is left."""
        most = total_timesteps // (2 * n_envs)
        return dataclasses.replace(self, dimensions=tuple(_shorten(one, most) for one in self.dimensions))

    def sample(self, trial: Suggests, names: Mapping[str, str] | None = None) -> Configuration:
        """Ask a trial for a point, under Optuna's ``names`` where they are not ours.

        What is fixed is not asked, and not among ``trial.params``.
        """
        return {one.name: one.suggest(trial, (names or {}).get(one.name)) for one in self.dimensions}

    def widen(self, configurations: Sequence[Mapping[str, Any]]) -> Space:
        """The space, wide enough for points of the spaces that a study had before."""
        dimensions = (
            one.widen([tried[one.name] for tried in configurations if one.name in tried]) for one in self.dimensions
        )
        return dataclasses.replace(self, dimensions=tuple(dimensions))

    def random(self, rng: np.random.Generator) -> Configuration:
        """A point drawn uniformly, on the logarithm where the range is."""
        return {dimension.name: dimension.random(rng) for dimension in self.dimensions}

    def validate(self, configuration: Mapping[str, Any], what: str = "configuration") -> None:
        """Refuse what is no point of this space: "warm start 'n_epochs'=7 outside one of 1, 5"."""
        dimensions = {dimension.name: dimension for dimension in self.dimensions}
        for name, value in configuration.items():
            if name not in dimensions:
                raise ValueError(f"{what} {name!r} is no parameter of the space ({', '.join(dimensions)})")
            if not dimensions[name].allows(value):
                raise ValueError(f"{what} {name!r}={value!r} outside {dimensions[name].range_text()}")
        missing = [name for name in dimensions if name not in configuration]
        if missing:
            allowed = dimensions[missing[0]].range_text()
            raise ValueError(f"{what} must give {missing[0]!r}, which the space has ({allowed})")

    def fingerprint(self) -> dict[str, Any]:
        """The space as JSON-able values: what a resumed study compares, key by key."""
        return {dimension.name: dimension.as_data() for dimension in self.dimensions}

    @classmethod
    def from_fingerprint(cls, values: Mapping[str, Any], algo: str) -> Space:
        """The space that a fingerprint was taken of."""
        return cls(algo, tuple(parse_dimension(name, value, None) for name, value in values.items()))


def _check_algorithm(algo: str) -> None:
    if algo not in DIMENSIONS:
        raise ValueError(f"algo must be one of {', '.join(DIMENSIONS)}, got {algo!r}")


def _check_meaning(dimension: Dimension, algo: str) -> None:
    """Refuse ranges and choices that no model could be built from."""
    limits = {**{one.name: one for one in DIMENSIONS[algo]}, **FURTHER}
    if dimension.name.startswith("rule."):
        slot = dimension.name.removeprefix("rule.")
        limits[dimension.name] = Dimension(dimension.name, "choice", choices=tuple(rule_choices(algo)[slot]))
    hard = LIMITS.get(dimension.name, limits[dimension.name])
    values = dimension.choices if dimension.kind == "choice" else (dimension.low, dimension.high)
    if dimension.kind != "choice" and hard.kind == "choice":
        raise ValueError(f"{dimension.name} must be a list or one value, got a range")
    for value in values:
        if not hard.allows(value):
            raise ValueError(f"{dimension.name} must be in {hard.range_text()}, got {value!r}")


def _shorten(dimension: Dimension, most: int) -> Dimension:
    if dimension.name not in ("n_steps", "n_steps_pow"):
        return dimension
    if dimension.kind == "choice":
        is_power = dimension.name.endswith("_pow")
        choices = tuple(value for value in dimension.choices if (2**value if is_power else value) <= most)
        if choices:
            return dataclasses.replace(dimension, choices=choices)
    else:
        highest = min(int(dimension.high), (most.bit_length() - 1) if dimension.name.endswith("_pow") else most)
        if highest >= dimension.low:
            return dataclasses.replace(dimension, high=highest)
    raise ValueError(
        f"total_timesteps must leave room for two rollouts of {dimension.name} {dimension.range_text()}, not {most}"
    )


def read_yaml(what: str, path: str | Path) -> Any:
    """The content of a YAML file."""
    try:
        return yaml.safe_load(Path(path).read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise ValueError(f"{what} must be a readable YAML file, got {path}: {' '.join(str(error).split())}") from error
