"""A model's arguments as text that is read without running it.

Schedules and rules are written as Python writes them (``LinearSchedule(start=0.1, end=0.0, end_fraction=1.0)``) and
read by a parser that knows literals and the names below, and nothing else: no attribute access, no operators, no other
call. Classes are looked up in a list of names; what is not on it is refused, not imported.
"""

import ast
import dataclasses
import importlib
import re
from collections.abc import Callable, Mapping
from math import inf, nan
from typing import Any

import numpy as np
import torch as th
from stable_baselines3.common.utils import ConstantSchedule, FloatSchedule, LinearSchedule

import sb3_ppo_notes.rules as rules
from sb3_ppo_notes.formulas.checks import InvalidValueError

SCHEDULES: dict[str, Callable[..., Any]] = {
    cls.__name__: cls for cls in (FloatSchedule, ConstantSchedule, LinearSchedule)
}
RULES: dict[str, type] = {
    name: value for name, value in vars(rules).items() if isinstance(value, type) and dataclasses.is_dataclass(value)
}
#: Modules, and the names in them that a model may be built from.
CLASSES = {
    "stable_baselines3.common.policies": {"ActorCriticPolicy", "ActorCriticCnnPolicy", "MultiInputActorCriticPolicy"},
    "stable_baselines3.common.torch_layers": {"FlattenExtractor", "NatureCNN", "CombinedExtractor"},
    "stable_baselines3.common.buffers": {"RolloutBuffer", "DictRolloutBuffer"},
    "stable_baselines3.common.sb2_compat.rmsprop_tf_like": {"RMSpropTFLike"},
    "sb3_ppo_notes.policies.networks": {"NotesActorCriticPolicy", "NotesActorCriticCnnPolicy", "NotesMultiInputPolicy"},
    "sb3_ppo_notes.policies.recurrent": {
        *("NotesRecurrentPolicy", "NotesCnnRecurrentPolicy", "NotesMultiInputRecurrentPolicy")
    },
    "sb3_ppo_notes.policies.trunk": {"SharedTrunk"},
    "sb3_ppo_notes.rollouts.buffers": {"NotesRolloutBuffer", "NotesDictRolloutBuffer"},
}
#: Modules of which every class of a kind will do.
FAMILIES = {"torch.nn.modules.activation": th.nn.Module, "torch.optim": th.optim.Optimizer}
DEEPEST = 20
LONGEST = 20_000


class UnreadableError(InvalidValueError):
    """Text that says something else than what may be said here."""


def find_class(name: str) -> type:
    """A class by its full name; a ``ValueError`` for one that no model may be built from."""
    module, _, own = name.rpartition(".")
    if own in CLASSES.get(module, ()):
        try:
            kind: type = getattr(importlib.import_module(module), own)
        except (ImportError, AttributeError) as error:
            raise UnreadableError(f"class {name} is not there: {error}") from error
        return kind
    for family, base in FAMILIES.items():
        if module == family or module.startswith(family + "."):
            candidate = getattr(th.optim if base is th.optim.Optimizer else th.nn, own, None)
            if isinstance(candidate, type) and issubclass(candidate, base) and candidate.__module__ == module:
                return candidate
    raise UnreadableError(f"class {name} is not one that a model is built from here")


def class_path(kind: type) -> str | None:
    """The full name of a class, ``None`` for one that :func:`find_class` would not find by it."""
    name = f"{kind.__module__}.{kind.__qualname__}"
    try:
        return name if find_class(name) is kind else None
    except UnreadableError:
        return None


#: Calls that a description may hold; NumPy's floats, because a discount of that type makes advantages of that type.
CALLS: dict[str, Callable[..., Any]] = {
    **SCHEDULES,
    **RULES,
    **{f"np.{kind.__name__}": kind for kind in (np.float16, np.float32, np.float64)},
    "__class__": find_class,
}


def parse(text: str) -> Any:
    """The value of literals, schedules, rules and ``<class 'module.name'>``; a ``ValueError`` for any other text.

    >>> parse("LinearSchedule(start=0.1, end=0.0, end_fraction=1.0)")
    LinearSchedule(start=0.1, end=0.0, end_fraction=1.0)
    """
    return parse_expression(re.sub(r"<class '([\w.]+)'>", r"__class__('\1')", text), CALLS, {"inf": inf, "nan": nan})


def parse_expression(text: str, calls: Mapping[str, Callable[..., Any]], names: Mapping[str, Any]) -> Any:
    """The value of a Python expression of literals, these calls and these names; a ``ValueError`` for any other.

    Nothing else is run or looked up: no operators, no attributes but those in a name of the tables.

    >>> parse_expression("dict(sizes=[64, -1], layer=nn.Tanh)", {"dict": dict}, {"nn.Tanh": "Tanh"})
    {'sizes': [64, -1], 'layer': 'Tanh'}
    """
    if len(text) > LONGEST:
        raise UnreadableError(f"a description must have at most {LONGEST:,} characters, got {len(text):,}")
    try:
        return _value(ast.parse(text, mode="eval").body, calls, names, 0)
    except UnreadableError:
        raise
    except (SyntaxError, ValueError, TypeError, RecursionError, MemoryError) as error:
        raise UnreadableError(f"{text[:80]!r} cannot be read: {error}") from error


def _value(node: ast.expr, calls: Mapping[str, Callable[..., Any]], names: Mapping[str, Any], depth: int) -> Any:
    if depth > DEEPEST:
        raise UnreadableError("values are nested too deeply")

    def inner(part: ast.expr) -> Any:
        return _value(part, calls, names, depth + 1)

    match node:
        case ast.Constant(value=bool() | int() | float() | str() | None as value):
            return value
        case ast.UnaryOp(op=ast.USub(), operand=operand) if isinstance(value := inner(operand), int | float):
            return -value
        case ast.List(elts=items):
            return [inner(item) for item in items]
        case ast.Tuple(elts=items):
            return tuple(inner(item) for item in items)
        case ast.Dict(keys=keys, values=values):
            # No key stands for **more.
            pairs = [(key, value) for key, value in zip(keys, values, strict=True) if key is not None]
            if len(pairs) == len(keys):
                return {inner(key): inner(value) for key, value in pairs}
        case ast.Name() | ast.Attribute() if ast.unparse(node) in names:
            return names[ast.unparse(node)]
        case ast.Call(func=func, args=arguments, keywords=keywords) if ast.unparse(func) in calls:
            if all(keyword.arg for keyword in keywords):
                named = {str(keyword.arg): inner(keyword.value) for keyword in keywords}
                return _call(calls[ast.unparse(func)], [inner(argument) for argument in arguments], named, node)
    raise UnreadableError(f"{ast.unparse(node)[:80]!r} is not a plain value")


def _call(function: Callable[..., Any], positional: list[Any], named: dict[str, Any], node: ast.expr) -> Any:
    try:
        return function(*positional, **named)
    except (TypeError, ValueError, AssertionError, AttributeError) as error:
        raise UnreadableError(f"{ast.unparse(node)[:80]!r} cannot be built: {error}") from error


def to_json(value: Any) -> Any:
    """An argument of the constructor as JSON; ``{"$": "unreadable", ...}`` for what cannot be written."""
    if value is None or isinstance(value, bool | int | str) or (type(value) is float and value - value == 0):
        return value
    if isinstance(value, list):
        return {"$": "list", "items": [to_json(item) for item in value]}
    if isinstance(value, dict) and all(isinstance(key, str) for key in value):
        return {"$": "dict", "items": {key: to_json(item) for key, item in value.items()}}
    if isinstance(value, type):
        name = class_path(value)
        return {"$": "unreadable", "what": repr(value)} if name is None else {"$": "text", "text": f"<class '{name}'>"}
    text = repr(value)
    try:
        if repr(parse(text)) == text:
            return {"$": "text", "text": text}
    except UnreadableError:
        pass
    return {"$": "unreadable", "what": text[:200]}


def from_json(node: Any) -> Any:
    """The value of which :func:`to_json` made a node; a ``ValueError`` for one that could not be written."""
    if not isinstance(node, dict):
        return node
    if node["$"] == "list":
        return [from_json(item) for item in node["items"]]
    if node["$"] == "dict":
        return {key: from_json(item) for key, item in node["items"].items()}
    if node["$"] == "text":
        return parse(node["text"])
    raise UnreadableError(f"{node['what']} could not be written down")
