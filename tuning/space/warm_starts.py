"""Starting points of a search: SB3's defaults, rl_zoo3's tuned values, and the user's own."""

from __future__ import annotations

import importlib.util
import inspect
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sb3_ppo_notes.configs.values import linear_start
from sb3_ppo_notes.configs.zoo import parse_dict
from tuning.space import Configuration, Dimension, Space, read_yaml
from tuning.space.defaults import CLASSES
from tuning.space.dimensions import parse_number
from tuning.space.setup import ACTIVATIONS, ENVIRONMENT_KEYS, NET_ARCHS, ZERO_AT, zoo_algorithm

#: Keys that a run of ours cannot serve.
UNSUPPORTED = ("vec_env_wrapper", "callback", "frame_stack", "monitor_kwargs")


@dataclass(frozen=True)
class WarmStart:
    """One place to start from: a point of the space, or ``None`` and the reason why it cannot be written as one."""

    name: str
    configuration: Configuration | None
    problem: str = ""


def zoo_entry(env_id: str, algo: str) -> dict[str, Any]:
    """rl_zoo3's hyperparameters for an environment; {} if it has none, or is not installed.

    Its YAML alone is read, nothing of it is imported or evaluated. Classes stay names.
    """
    specification = importlib.util.find_spec("rl_zoo3")
    if specification is None or specification.origin is None:
        return {}
    path = Path(specification.origin).parent / "hyperparams" / f"{zoo_algorithm(algo)}.yml"
    if not path.exists():
        return {}
    return parse_entry(read_yaml("rl_zoo3", path).get(env_id) or {})


def parse_entry(entry: Mapping[str, Any]) -> dict[str, Any]:
    """An entry with its expressions, such as ``"dict(log_std_init=-2)"``, and words like ``1e-4`` as plain values."""
    return {
        key: parse_dict(value, key)
        if key in ("normalize", "policy_kwargs", "env_kwargs") and isinstance(value, str)
        else parse_number(value)
        for key, value in entry.items()
    }


def base_of(entry: Mapping[str, Any]) -> dict[str, Any]:
    """The part of an entry that is not searched."""
    for key in UNSUPPORTED:
        if key in entry:
            raise ValueError(
                f"base must not hold {key!r}, got {entry[key]!r}: register an environment that is wrapped already"
            )
    return {key: value for key, value in entry.items() if key != "n_timesteps"}


def warm_starts(
    env_id: str, space: Space, user_files: Sequence[str | Path] = (), base: Mapping[str, Any] | None = None
) -> list[WarmStart]:
    """SB3's defaults, rl_zoo3's entry if it has one, and the user's files, as points of the space.

    An entry that is no point of it is reported and left out, never changed until it fits; in a user's file that is an
    error. Such a file holds an entry in rl_zoo3's format, under the environment's id or alone; keys that it lacks are
    as in ``base``, or else as in SB3.
    """
    sources: list[tuple[str, Mapping[str, Any], bool]] = [("SB3 defaults", {}, False)]
    entry = zoo_entry(env_id, space.algo)
    if entry:
        sources.append(("rl_zoo3", entry, False))
    sources += [(Path(path).name, _read(path, env_id), True) for path in user_files]
    starts = []
    for name, content, is_users in sources:
        try:
            if is_users:
                content = {**(base or {}), **content}
            starts.append(WarmStart(name, as_configuration(content, space, "warm start" if is_users else name)))
        except ValueError as error:
            if is_users:
                raise ValueError(f"{error} (in {name})") from error
            starts.append(WarmStart(name, None, str(error)))
    return starts


def as_configuration(entry: Mapping[str, Any], space: Space, what: str) -> Configuration:
    """An entry, by SB3's names (``gamma``) or the space's (``one_minus_gamma``), as a point of the space.

    What it does not say is SB3's default. What lies outside is refused: "warm start 'gamma'=1.2 outside [0.97,
    0.9999]".
    """
    parameters = inspect.signature(CLASSES[space.algo].__init__).parameters
    names = {dimension.name for dimension in space.dimensions}
    for key in entry:
        if key not in parameters and key not in names and key not in ENVIRONMENT_KEYS:
            raise ValueError(f"{what} {key!r} is neither a parameter of the space nor an argument of {space.algo}")
    defaults = {name: parameter.default for name, parameter in parameters.items()}
    configuration = {one.name: _value_of(one, entry, defaults, what) for one in space.dimensions}
    space.validate(configuration, what)
    return configuration


def _value_of(dimension: Dimension, entry: Mapping[str, Any], defaults: Mapping[str, Any], what: str) -> Any:
    name = dimension.name
    if name == "learning_rate":
        return _initial(dimension, entry.get(name, defaults[name]), what)
    if name in entry and name not in ZERO_AT:
        return entry[name]
    if name in entry and name.startswith("one_minus_"):
        return entry[name] or ZERO_AT[name]
    policy_kwargs = entry.get("policy_kwargs") or {}
    if name == "net_arch":
        return _network(policy_kwargs.get("net_arch", [64, 64]), what)
    if name == "activation_fn":
        return _activation(policy_kwargs.get("activation_fn", "Tanh"), what)
    if name == "lr_schedule":
        return "constant" if linear_start(entry.get("learning_rate")) is None else "linear"
    if name.startswith("rule."):
        return "stock"
    theirs = name.removeprefix("one_minus_").removesuffix("_pow")
    value = entry.get(theirs, defaults[theirs])
    if name.endswith("_pow"):
        return _exponent(dimension, theirs, value, what)
    if name.startswith("one_minus_"):
        return _distance_to_one(dimension, theirs, value, what)
    return ZERO_AT[name] if name in ZERO_AT and value == 0 else value


def _initial(dimension: Dimension, value: Any, what: str) -> Any:
    """The number that a schedule begins with; ``lr_schedule`` says whether it is one."""
    start = linear_start(value)
    initial = value if start is None else start
    if dimension.allows(initial):
        return initial
    raise ValueError(f"{what} 'learning_rate'={value!r} outside {dimension.range_text()}")


def _exponent(dimension: Dimension, theirs: str, value: Any, what: str) -> int:
    if isinstance(value, int) and value > 0 and value & (value - 1) == 0 and dimension.allows(value.bit_length() - 1):
        return value.bit_length() - 1
    values = dimension.choices or (int(dimension.low), int(dimension.high))
    allowed = ", ".join(str(2**one) for one in values)
    raise ValueError(f"{what} {theirs!r}={value!r} outside the powers of 2 in [{allowed}]")


def _distance_to_one(dimension: Dimension, theirs: str, value: Any, what: str) -> float:
    if isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value):
        distance = float(f"{1 - value:.12g}")
        distance = ZERO_AT[dimension.name] if dimension.name in ZERO_AT and distance == 0 else distance
        if dimension.allows(distance):
            return distance
    if dimension.kind == "choice":
        allowed = "one of " + ", ".join(f"{1 - choice:g}" for choice in dimension.choices)
    else:
        allowed = f"[{1 - dimension.high:g}, {1 - dimension.low:g}]"
    raise ValueError(f"{what} {theirs!r}={value!r} outside {allowed}")


def _network(net_arch: Any, what: str) -> str:
    for name, units in NET_ARCHS.items():
        if net_arch in (name, units, {"pi": units, "vf": units}):
            return name
    raise ValueError(f"{what} 'net_arch'={net_arch!r} outside {', '.join(map(str, NET_ARCHS.values()))}")


def _activation(name: str, what: str) -> str:
    for ours, activation in ACTIVATIONS.items():
        if name in (ours, activation):
            return ours
    raise ValueError(f"{what} 'activation_fn'={name!r} outside {', '.join(ACTIVATIONS)}")


def _read(path: str | Path, env_id: str) -> dict[str, Any]:
    content = read_yaml("warm start", path)
    if isinstance(content, dict) and isinstance(content.get(env_id), dict):
        content = content[env_id]
    if not isinstance(content, dict) or any(
        isinstance(value, dict) for key, value in content.items() if "-v" in str(key)
    ):
        raise ValueError(f"warm start must map names to values, under {env_id!r} or alone, got {path}")
    return parse_entry(content)
