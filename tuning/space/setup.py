"""A point of the space as the setup of a run: environments, normaliser, constructor arguments."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from sb3_ppo_notes.configs.build import normalizer_arguments
from sb3_ppo_notes.configs.rules import rule_from_data
from sb3_ppo_notes.configs.values import with_classes
from tuning.space.defaults import CLASSES, default_arguments
from tuning.space.rules import rule_of

#: rl_zoo3's networks by rl_zoo3's names.
NET_ARCHS = {"tiny": [64], "small": [64, 64], "medium": [256, 256]}
ACTIVATIONS = {"tanh": "Tanh", "relu": "ReLU", "elu": "ELU", "leaky_relu": "LeakyReLU"}
#: Here a range on the logarithm, which cannot hold 0, ends: the end stands for 0.
ZERO_AT = {"ent_coef": 1e-8, "one_minus_gae_lambda": 1e-4}
#: Keys of an entry that describe the environments and not the model.
ENVIRONMENT_KEYS = ("n_envs", "normalize", "n_timesteps", "imports", "env_kwargs", "env_wrapper")
RULE_ARGUMENTS = ("clip_range", "clip_range_vf", "gae_lambda", "target_kl", "normalize_advantage")


@dataclass(frozen=True)
class Setup:
    """Everything that one run is built from; also of the baselines, which are no points of the space.

    ``name`` is for tables (``"trial 12"``, ``"SB3 defaults"``, ``"rl_zoo3"``); ``arguments`` are the constructor's,
    with ``policy`` and without ``env`` and ``seed``; ``normalize`` holds arguments of ``VecNormalize``, with the gamma
    that is trained with; ``environment`` holds ``imports``, ``env_kwargs`` and ``env_wrapper``, as far as said.
    """

    name: str
    algo: str
    n_envs: int
    arguments: dict[str, Any] = field(default_factory=dict)
    normalize: dict[str, Any] | None = None
    environment: dict[str, Any] = field(default_factory=dict)


def environment_of(base: Mapping[str, Any]) -> dict[str, Any]:
    """What a base says of the environment beside its id; rl_zoo3 writes one wrapper without a list around it."""
    said = {key: base[key] for key in ("imports", "env_kwargs", "env_wrapper") if base.get(key)}
    if isinstance(said.get("env_wrapper"), str | dict):
        said["env_wrapper"] = [said["env_wrapper"]]
    return said


def constructor_arguments(
    configuration: Mapping[str, Any], n_envs: int, base: Mapping[str, Any] | None = None, algo: str = "notes_ppo"
) -> dict[str, Any]:
    """Arguments for NotesPPO or NotesA2C.

    What the configuration says goes before what the base says, and SB3's default is what neither says. ``batch_size``
    is the largest divisor of ``n_steps * n_envs`` up to the one asked for. ``policy_kwargs`` are merged: what the base
    says of the initial deviation, say, survives the search's network.
    """
    arguments = plain_arguments(configuration, n_envs, base, algo)
    arguments["policy_kwargs"] = with_classes(arguments.get("policy_kwargs", {}))
    slots = {name.removeprefix("rule."): value for name, value in configuration.items() if name.startswith("rule.")}
    written = (base or {}).get("rule")
    rule = rule_of(slots, arguments, algo) or (rule_from_data(written) if written else None)
    if rule is not None:
        arguments = {name: value for name, value in arguments.items() if name not in RULE_ARGUMENTS}
        arguments["rule"] = rule
    return arguments


def plain_arguments(
    configuration: Mapping[str, Any], n_envs: int, base: Mapping[str, Any] | None, algo: str
) -> dict[str, Any]:
    """:func:`constructor_arguments` as plain data, which a YAML file can hold; without the rule's choices."""
    parameters = inspect.signature(CLASSES[algo].__init__).parameters
    arguments = {key: value for key, value in (base or {}).items() if key not in ENVIRONMENT_KEYS}
    unknown = sorted(set(arguments) - set(parameters))
    if unknown:
        raise ValueError(f"base must hold arguments of {CLASSES[algo].__name__}, got {unknown[0]!r}")
    arguments.setdefault("policy", "MlpPolicy")
    arguments |= _convert(configuration, algo)
    network = _network(configuration)
    if network or "policy_kwargs" in arguments:
        arguments["policy_kwargs"] = {**(arguments.get("policy_kwargs") or {}), **network}
    if "batch_size" in parameters:
        default = default_arguments(algo)
        size = arguments.get("n_steps", default["n_steps"]) * n_envs
        arguments["batch_size"] = _divisor(size, arguments.get("batch_size", default["batch_size"]))
    return {name: arguments[name] for name in parameters if name in arguments}


def make_setup(name: str, algo: str, configuration: Mapping[str, Any], base: Mapping[str, Any]) -> Setup:
    """A configuration on a base, which holds what is not searched by rl_zoo3's keys: n_envs, normalize, policy, ..."""
    n_envs = int(base.get("n_envs", 1))
    arguments = constructor_arguments(configuration, n_envs, base, algo)
    normalize = normalizer_arguments(base.get("normalize") or False, {})
    if normalize is not None:
        # Whatever gamma the base has for it: the returns that it scales are discounted as the model discounts them.
        normalize["gamma"] = arguments.get("gamma", default_arguments(algo)["gamma"])
    return Setup(name, algo, n_envs, arguments, normalize, environment_of(base))


def baseline_setup(name: str, algo: str, entry: Mapping[str, Any]) -> Setup:
    """A whole entry of rl_zoo3's, as it is; an empty one is SB3's defaults."""
    return make_setup(name, algo, {}, entry)


def zoo_algorithm(algo: str) -> str:
    """rl_zoo3's name of an algorithm."""
    return algo.removeprefix("notes_")


def _convert(configuration: Mapping[str, Any], algo: str) -> dict[str, Any]:
    converted: dict[str, Any] = {}
    for name, value in configuration.items():
        if name in ("net_arch", "activation_fn", "lr_schedule") or name.startswith("rule."):
            continue
        if name in ZERO_AT and value <= ZERO_AT[name]:
            value = 0.0
        if name.startswith("one_minus_"):
            converted[name.removeprefix("one_minus_")] = _one_minus(value)
        elif name.endswith("_pow"):
            converted[name.removesuffix("_pow")] = 2**value
        else:
            converted[name] = value
    if configuration.get("lr_schedule") == "linear":
        initial = converted.get("learning_rate", default_arguments(algo)["learning_rate"])
        converted["learning_rate"] = f"lin_{float(initial)!r}"
    return converted


def _network(configuration: Mapping[str, Any]) -> dict[str, Any]:
    network: dict[str, Any] = {}
    if "net_arch" in configuration:
        units = NET_ARCHS[configuration["net_arch"]]
        network["net_arch"] = {"pi": list(units), "vf": list(units)}
    if "activation_fn" in configuration:
        network["activation_fn"] = ACTIVATIONS[configuration["activation_fn"]]
    return network


def _divisor(size: int, most: int) -> int:
    """The largest divisor of ``size`` up to ``wanted``, but 2 or more: a single advantage cannot be normalised."""
    if size < 2:
        return size
    largest = next((divisor for divisor in range(min(most, size), 1, -1) if size % divisor == 0), None)
    return largest or next(divisor for divisor in range(2, size + 1) if size % divisor == 0)


def _one_minus(value: float) -> float:
    """1 - value without its rounding: 0.98 and not 0.98000000000000002."""
    return float(f"{1 - value:.12g}")
