"""rl_zoo3's YAML writes dictionaries as Python expressions. They are read here, not run."""

from __future__ import annotations

import ast
from typing import Any


def parsed_words(name: str, words: str) -> Any:
    """The value of ``"dict(log_std_init=-2, activation_fn=nn.ReLU)"`` and the like.

    Literals, ``dict(...)`` and names of classes are all that is understood; names stay words.

    >>> parsed_words("policy_kwargs", "dict(log_std_init=-2, activation_fn=nn.ReLU)")
    {'log_std_init': -2, 'activation_fn': 'ReLU'}
    """
    try:
        return _value(ast.parse(words.strip(), mode="eval").body)
    except (SyntaxError, ValueError) as error:
        raise ValueError(
            f"{name} must be a dict of numbers, words, lists and names of classes, got {words!r}"
        ) from error


def _value(node: ast.expr) -> Any:
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "dict" and not node.args:
        if any(keyword.arg is None for keyword in node.keywords):
            raise ValueError("**")
        return {str(keyword.arg): _value(keyword.value) for keyword in node.keywords}
    if isinstance(node, ast.Dict):
        keys = [_value(key) if key is not None else None for key in node.keys]
        return dict(zip(keys, map(_value, node.values), strict=True))
    if isinstance(node, ast.List | ast.Tuple):
        return [_value(element) for element in node.elts]
    if isinstance(node, ast.Attribute):
        return node.attr
    if isinstance(node, ast.Name):
        return node.id
    return ast.literal_eval(node)
