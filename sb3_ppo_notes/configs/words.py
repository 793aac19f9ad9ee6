"""Words of the command line as plain data: ``name=value``, or rl_zoo3's ``name:value``. Nothing of them is run."""

import re
from collections.abc import Iterable
from typing import Any

import yaml

from sb3_ppo_notes.configs.values import with_numbers
from sb3_ppo_notes.configs.zoo import parse_dict, parse_value
from sb3_ppo_notes.formulas.checks import InvalidValueError


def data_from_words(option: str, words: Iterable[str]) -> dict[str, Any]:
    """Names and values from words; a dot in a name leads into a dictionary.

    :param option: which option they were given to, for messages.
    :param words: ``name=value`` or ``name:value``; see :func:`value_from_word`.
    :return: plain data.
    :raises ValueError: for a word of another form, or a name that is there twice.

    >>> data_from_words("env_kwargs", ["render_mode=rgb_array", "goal:[1,2]", "config.lanes_count=3"])
    {'render_mode': 'rgb_array', 'goal': [1, 2], 'config': {'lanes_count': 3}}
    """
    data: dict[str, Any] = {}
    for word in words:
        match = re.fullmatch(r"\s*([A-Za-z_]\w*(?:\.\w+)*)\s*[=:]\s*(.*\S)\s*", word, flags=re.S)
        if match is None:
            raise InvalidValueError(f"{option} must be words of the form name=value, got {word!r}")
        *path, name = match.group(1).split(".")
        place: Any = data
        for part in path:
            place = place.setdefault(part, {}) if isinstance(place, dict) else None
        if not isinstance(place, dict) or name in place:
            raise InvalidValueError(f"{option} must give each name once, got another value for it in {word!r}")
        place[name] = value_from_word(option, match.group(1), match.group(2))
    return data


def value_from_word(option: str, name: str, text: str) -> Any:
    """What a text stands for: a literal of Python's, ``dict(...)``, ``nn.Tanh``, or a value as YAML has it.

    :param option: which option it was given to, for messages.
    :param name: of the value, for messages.
    :param text: the text.
    :return: plain data; the text itself where it is a word.
    :raises ValueError: for one that begins as a list or a dictionary and is none.

    >>> [value_from_word("set", "x", text) for text in ("1e-3", "true", "(1, 2)", "lin_3e-4", "'3'", "{a: 1}")]
    [0.001, True, [1, 2], 'lin_3e-4', '3', {'a': 1}]
    """
    if text.startswith("dict("):
        return parse_dict(text, name)
    try:
        return parse_value(text)
    except ValueError:
        pass
    try:
        if text.startswith("("):
            raise yaml.YAMLError
        return with_numbers(yaml.safe_load(text))
    except yaml.YAMLError as error:
        raise InvalidValueError(f"{option} must have values as in YAML, got {name}={text}") from error


def split_at_commas(text: str) -> list[str]:
    """The parts of a text between commas that are in no brackets and no quotes.

    :param text: the text.
    :return: the parts.

    >>> split_at_commas("net_arch=[64,64],gamma=0.9")
    ['net_arch=[64,64]', 'gamma=0.9']
    """
    parts, depth, quote = [""], 0, ""
    for letter in text:
        if quote or letter in "'\"":
            quote = "" if letter == quote else quote or letter
        depth += 0 if quote else (letter in "([{") - (letter in ")]}")
        if letter == "," and depth == 0 and not quote:
            parts.append("")
        else:
            parts[-1] += letter
    return parts
