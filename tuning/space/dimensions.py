"""One parameter of a search space: a range of numbers, or a list of choices."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol

import numpy as np


class Suggests(Protocol):
    """The part of an ``optuna.Trial`` that sampling needs."""

    def suggest_float(self, name: str, low: float, high: float, *, log: bool = False) -> float:
        """As Optuna's."""

    def suggest_int(self, name: str, low: int, high: int) -> int:
        """As Optuna's."""

    def suggest_categorical(self, name: str, choices: Sequence[Any]) -> Any:
        """As Optuna's."""


@dataclass(frozen=True)
class Dimension:
    """One parameter. A single choice, or a range of one number, is fixed: a trial is not asked for it.

    ``log`` makes a range of floats logarithmic; ``choices`` are numbers, strings, flags or ``None``.
    """

    name: str
    kind: Literal["float", "int", "choice"]
    low: float = 0.0
    high: float = 0.0
    log: bool = False
    choices: tuple[Any, ...] = ()

    def __post_init__(self) -> None:
        if self.kind == "choice":
            if not self.choices:
                raise ValueError(f"{self.name} must have at least 1 choice, got none")
            if any(self.choices.index(choice) != place for place, choice in enumerate(self.choices)):
                raise ValueError(f"{self.name} must list each choice once, got {list(self.choices)}")
            return
        for end in (self.low, self.high):
            is_number = isinstance(end, int | float) and not isinstance(end, bool) and math.isfinite(end)
            if not is_number or (self.kind == "int" and int(end) != end):
                raise ValueError(f"{self.name} must have a low and a high {self.kind}, got {end!r}")
        if self.low > self.high or (self.log and self.low <= 0):
            above = " > 0" if self.log else ""
            raise ValueError(f"{self.name} must have low{above} <= high, got [{self.low:g}, {self.high:g}]")

    @property
    def is_fixed(self) -> bool:
        """True if there is nothing to choose."""
        return len(self.choices) == 1 if self.kind == "choice" else self.low == self.high

    @property
    def fixed(self) -> Any:
        """The only value of a fixed dimension."""
        if self.kind == "choice":
            return self.choices[0]
        return int(self.low) if self.kind == "int" else float(self.low)

    def suggest(self, trial: Suggests, name: str | None = None) -> Any:
        """The value that a trial gets, under the name by which Optuna knows the parameter."""
        name = name or self.name
        if self.is_fixed:
            return self.fixed
        if self.kind == "choice":
            return trial.suggest_categorical(name, self.choices)
        if self.kind == "int":
            return trial.suggest_int(name, int(self.low), int(self.high))
        return trial.suggest_float(name, self.low, self.high, log=self.log)

    def random(self, rng: np.random.Generator) -> Any:
        """A value drawn uniformly, on the logarithm where ``log``; of a plain Python type."""
        if self.is_fixed:
            return self.fixed
        if self.kind == "choice":
            return self.choices[int(rng.integers(len(self.choices)))]
        if self.kind == "int":
            return int(rng.integers(int(self.low), int(self.high) + 1))
        low, high = (math.log(end) if self.log else end for end in (self.low, self.high))
        value = float(rng.uniform(low, high))
        return min(max(math.exp(value) if self.log else value, self.low), self.high)

    def allows(self, value: Any) -> bool:
        """True if a value lies in the dimension; a flag is no number here."""
        if self.kind == "choice":
            return any(
                value == choice and isinstance(value, bool) == isinstance(choice, bool) for choice in self.choices
            )
        # The last digit of 1 - (1 - x) does not make a value an outsider.
        slack = 1e-9 * (abs(self.low) + abs(self.high))
        return self._is_number(value) and self.low - slack <= value <= self.high + slack

    def _is_number(self, value: Any) -> bool:
        """True if a range of this kind could hold the value."""
        if isinstance(value, bool) or not isinstance(value, int | float) or (self.log and value <= 0):
            return False
        return self.kind == "float" or int(value) == value

    def widen(self, values: Sequence[Any]) -> Dimension:
        """The dimension, wide enough for values that another space had; a list if one is not of its kind."""
        outside = [value for value in dict.fromkeys(values) if not self.allows(value)]
        if not outside:
            return self
        if self.kind == "choice":
            return dataclasses.replace(self, choices=(*self.choices, *outside))
        if all(self._is_number(value) for value in outside):
            return dataclasses.replace(self, low=min(self.low, *outside), high=max(self.high, *outside))
        return Dimension(self.name, "choice", choices=tuple(dict.fromkeys(values)))

    def range_text(self) -> str:
        """The allowed values, for a message: ``"[0.1, 0.2]"`` or ``"one of 1, 5"``."""
        if self.kind == "choice":
            return "one of " + ", ".join(map(str, self.choices))
        return f"[{self.low:g}, {self.high:g}]"

    def as_data(self) -> dict[str, Any] | list[Any]:
        """The dimension as JSON or YAML holds it: a list of choices, or a mapping."""
        if self.kind == "choice":
            return list(self.choices)
        number = int if self.kind == "int" else float
        return {"kind": self.kind, "low": number(self.low), "high": number(self.high), "log": self.log}


def parse_dimension(name: str, description: Any, default: Dimension | None) -> Dimension:
    """A dimension as a YAML file gives it: a list of choices, a mapping with low and high, or one fixed value.

    What a mapping leaves out is as in ``default``.
    """
    if isinstance(description, list):
        return Dimension(name, "choice", choices=tuple(map(parse_number, description)))
    if not isinstance(description, Mapping):
        return Dimension(name, "choice", choices=(parse_number(description),))
    unknown = set(description) - {"low", "high", "log", "kind"}
    is_range = default is not None and default.kind != "choice"
    missing = set() if is_range else {"low", "high"} - set(description)
    if unknown or missing:
        problem = f"got unknown key {min(unknown)!r}" if unknown else f"{min(missing)!r} is missing"
        raise ValueError(f"{name} must be a list, one value, or a mapping of low, high, log and kind; {problem}")
    low, high = (
        parse_number(description[end]) if end in description else getattr(default, end) for end in ("low", "high")
    )
    both_ints = isinstance(low, int) and isinstance(high, int)
    kind = description.get(
        "kind", default.kind if default is not None and is_range else "int" if both_ints else "float"
    )
    if kind not in ("int", "float"):
        raise ValueError(f"{name} must have kind int or float, got {kind!r}")
    log = description.get("log", bool(default is not None and default.log))
    return Dimension(name, kind, low, high, bool(log))


def parse_number(value: Any) -> Any:
    """YAML reads 1e-4 (without a dot) as a word; here it is the number that was meant."""
    if not isinstance(value, str):
        return value
    try:
        return float(value)
    except ValueError:
        return value
