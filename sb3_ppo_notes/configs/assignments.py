"""Hyperparameters as words of a command line: ``n_steps=64 learning_rate=lin_3e-4 policy_kwargs.net_arch=[64,64]``."""

from collections.abc import Iterable, Mapping
from typing import Any

from sb3_ppo_notes.configs.words import value_from_word
from sb3_ppo_notes.envs.make import did_you_mean
from sb3_ppo_notes.formulas.checks import InvalidValueError

#: Keys of a configuration beside its hyperparameters, which ``train`` has no options for.
BESIDE = ("policy", "normalize", "frame_stack")


def assign(
    values: Mapping[str, Any], words: Iterable[str], known: Iterable[str], elsewhere: Iterable[str]
) -> dict[str, Any]:
    """The values of a configuration, with assignments on top.

    >>> assign({"hyperparameters": {"gamma": 0.9}}, ["n_steps=64", "policy_kwargs.net_arch=[64, 64]"], ["n_steps",
    ... "policy_kwargs"], [])
    {'hyperparameters': {'gamma': 0.9, 'n_steps': 64, 'policy_kwargs': {'net_arch': [64, 64]}}}

    :param values: by the names of ``RunConfig``.
    :param words: ``name=value``; a dot leads into a dictionary, whose other keys stay.
    :param known: names of hyperparameters.
    :param elsewhere: a configuration's other keys.
    :return: a copy.
    :raises ValueError: for a word of another form, an unknown name, or a name that is given twice.
    """
    assigned, known = dict(values), (*known, *BESIDE)
    assigned["hyperparameters"] = dict(values.get("hyperparameters") or {})
    given: dict[str, str] = {}
    for word in words:
        path, equals, text = (part.strip() for part in word.partition("="))
        if not equals or not text or not all(path.split(".")):
            raise InvalidValueError(f"set must be name=value or name.key=value, got {word!r}")
        if path in given:
            raise InvalidValueError(f"set must hold {path} once, got {given[path]!r} and {word!r}")
        given[path] = word
        name, *keys = path.split(".")
        if name not in known:
            raise InvalidValueError(_unknown(name, known, elsewhere))
        _put(
            assigned if name in BESIDE else assigned["hyperparameters"],
            [name, *keys],
            value_from_word("set", path, text),
        )
    return assigned


def _unknown(name: str, known: Iterable[str], elsewhere: Iterable[str]) -> str:
    if name in elsewhere:
        return (
            f"set must not hold {name!r}, which is no hyperparameter: it is an option, or a key of a configuration file"
        )
    hint = did_you_mean(name, known) or f" (known are {', '.join(known)})"
    return f"set must not hold the unknown name {name!r}{hint}"


def _put(values: dict[str, Any], path: list[str], value: Any) -> None:
    """Along a path of keys; every dictionary on it is copied."""
    *keys, last = path
    for key in keys:
        inner = values.get(key)
        values[key] = values = dict(inner) if isinstance(inner, Mapping) else {}
    values[last] = value
