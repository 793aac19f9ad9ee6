"""What an equation says in numbers, by a plain reading of its tree, one element at a time.

No array operation is used, so nothing can be broadcast by mistake: this is the oracle that a test compares the formula
with, not a second implementation anybody would run.
"""

import itertools
import math
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import NamedTuple

import numpy as np
import torch as th

from sb3_ppo_notes.notes.equations.tree import (
    Big,
    Binary,
    Call,
    Cases,
    Comparison,
    Equation,
    EquationError,
    Group,
    Name,
    Number,
    Power,
    Root,
    Sign,
    Tree,
)

#: Stands for a standard normal variable: E[…] integrates over it.
STANDARD_NORMAL = "standard normal"
_POINTS, _WEIGHTS = np.polynomial.hermite_e.hermegauss(32)
_WEIGHTS = _WEIGHTS / _WEIGHTS.sum()
AVERAGES: Mapping[str, Callable[[np.ndarray], float]] = {
    "E": lambda values: float(values.mean()),
    "mean": lambda values: float(values.mean()),
    "share": lambda values: float(values.mean()),
    "Var": lambda values: float(values.var()),
    "std": lambda values: float(values.std()),
}


def _softplus(x: float) -> float:
    return max(x, 0.0) + math.log1p(math.exp(-abs(x)))


FUNCTIONS: Mapping[str, Callable[..., float]] = {
    "log": math.log,
    "exp": math.exp,
    "min": min,
    "max": max,
    "clip": lambda x, low, high: min(max(x, low), high),
    "tanh": math.tanh,
    "atanh": math.atanh,
    "sigmoid": lambda x: 1 / (1 + math.exp(-x)),
    "softplus": _softplus,
    "Γ": math.gamma,
    "B": lambda a, b: math.exp(math.lgamma(a) + math.lgamma(b) - math.lgamma(a + b)),
    "ψ": lambda x: float(th.digamma(th.tensor(x, dtype=th.float64))),
    "N": lambda x, mean, std: math.exp(-(((x - mean) / std) ** 2) / 2) / (std * math.sqrt(2 * math.pi)),
}


class Bound(NamedTuple):
    """A symbol's numbers: ``axes`` names each axis by the letter of its index, ``"Ni"`` for ``[N, n]``."""

    values: np.ndarray
    axes: str = ""


class SilentError(EquationError):
    """Here the equation says nothing: its ``if`` or ``for`` is not met."""


@dataclass(frozen=True)
class Context:
    """What symbols mean.

    :param bound: by :attr:`sb3_ppo_notes.notes.equations.tree.Name.key`.
    :param definitions: of symbols that other equations of the block say: ``p`` by ``p = sigmoid(z)``.
    :param at: the value of each index letter here.
    :param normal: the value of the standard normal variable here.
    """

    bound: Mapping[str, Bound | str]
    definitions: Mapping[str, tuple[tuple[str, ...], Tree]] = field(default_factory=dict)
    at: Mapping[str, int] = field(default_factory=dict)
    normal: float = 0.0

    def here(self, **at: int) -> "Context":
        """The same somewhere else.

        :param at: values of index letters.
        :return: with these letters changed.
        """
        return replace(self, at={**self.at, **at})


def value(tree: Tree, context: Context) -> float:  # noqa: C901  # one case for each kind of node
    """The number that a tree comes to.

    :param tree: of an equation, or of a part of it.
    :param context: what its symbols mean.
    :return: a number; a comparison is 0 or 1.
    :raises EquationError: if a symbol is bound to nothing.
    """
    match tree:
        case Number():
            return tree.value
        case Name():
            return _looked_up(tree, context)
        case Group("|", body):
            return abs(value(body, context))
        case Group("‖", body):
            return math.sqrt(sum(value(body, there) ** 2 for there in _everywhere(body, context)))
        case Group(_, body):
            return value(body, context)
        case Power(Name() as name, exponent) if exponent.startswith("("):
            return _looked_up(name, context, exponent.strip("()"))
        case Power(base, exponent):
            return value(base, context) ** _index(exponent, context)
        case Root(body):
            return math.sqrt(value(body, context))
        case Sign(operator, body):
            return -value(body, context) if operator in "−-" else value(body, context)
        case Binary():
            return _binary(tree, context)
        case Comparison():
            return float(_compared(tree, context))
        case Cases(shown, condition, otherwise, _):
            if _compared(condition, context):
                return value(shown, context)
            if otherwise is None:
                raise SilentError(f"nothing is said where {condition} is not met")
            return value(otherwise, context)
        case Big(operator, index, body):
            terms = [value(body, context.here(**{index: i})) for i in range(_size(index, body, context))]
            return float(np.argmax(terms)) if operator == "argmax" else math.fsum(terms)
        case Call(function, arguments, _) if function in AVERAGES:
            return _average(function, arguments[0], context)
        case Call(function, arguments, _):
            if function not in FUNCTIONS:
                raise EquationError(f"{function} is no function of numbers")
            return FUNCTIONS[function](*(value(argument, context) for argument in arguments))


def _binary(tree: Binary, context: Context) -> float:
    left, right = value(tree.left, context), value(tree.right, context)
    if tree.operator == "/":
        return left / right
    if tree.operator in "−-+" and tree.operator:
        return left + right if tree.operator == "+" else left - right
    return left * right


def _compared(condition: Comparison, context: Context) -> bool:
    left, right = value(condition.left, context), value(condition.right, context)
    return {"<": left < right, ">": left > right, "≤": left <= right, "≥": left >= right, "=": left == right}[
        condition.operator
    ]


def _average(function: str, body: Tree, context: Context) -> float:
    names = [context.bound.get(name.key) for name in names_in(body)]
    if STANDARD_NORMAL in names:
        return math.fsum(
            weight * value(body, replace(context, normal=float(point)))
            for point, weight in zip(_POINTS, _WEIGHTS, strict=True)
        )
    everywhere = list(_everywhere(body, context, with_indices=function == "share"))
    return AVERAGES[function](np.array([value(body, there) for there in everywhere]))


def _everywhere(body: Tree, context: Context, with_indices: bool = False) -> Iterator[Context]:
    """All places along the axes that the symbols of a tree leave open: an average runs over the samples."""
    sizes: dict[str, int] = {}
    for name in names_in(body):
        bound = context.bound.get(name.key)
        if isinstance(bound, Bound):
            addressed = set() if with_indices else _addressed(bound.axes, name.indices)
            axes = enumerate(zip(bound.axes, bound.values.shape, strict=True))
            sizes.update({letter: size for position, (letter, size) in axes if position not in addressed})
        elif name.key in context.definitions and with_indices:
            sizes.update({letter: _size(letter, context.definitions[name.key][1], context) for letter in name.indices})
    for place in itertools.product(*(range(size) for size in sizes.values())):
        yield context.here(**dict(zip(sizes, place, strict=True)))


def _addressed(axes: str, indices: Sequence[str]) -> dict[int, str]:
    """Which index belongs to which axis: ``t+1`` and ``T−1`` to the axis ``t``, one of another letter to the last."""
    result: dict[int, str] = {}
    for index in reversed(indices):
        letter = index[0].lower()
        free = [position for position in range(len(axes)) if position not in result]
        position = axes.index(letter) if letter in axes else free[-1]
        result[position] = index
    return result


def names_in(tree: object) -> Iterator[Name]:
    """Every symbol of a tree.

    :param tree: of an equation, or several.
    :return: from left to right.
    """
    if isinstance(tree, Name):
        yield tree
    elif isinstance(tree, tuple):
        for part in tree:
            yield from names_in(part)


def _size(letter: str, body: Tree, context: Context) -> int:
    """How far an index runs: the length of the axis that it stands for."""
    for name in names_in(body):
        bound = context.bound.get(name.key)
        if isinstance(bound, Bound):
            for position, index in _addressed(bound.axes, name.indices or tuple(bound.axes)).items():
                if index == letter:
                    return len(bound.values.swapaxes(0, position))
        elif name.key in context.definitions:
            return _size("i" if letter in name.indices else letter, context.definitions[name.key][1], context)
    raise EquationError(f"index {letter} belongs to no symbol that is bound")


def _looked_up(name: Name, context: Context, upper: str = "") -> float:
    indices = [index for index in (*name.indices, upper) if index]
    bound = context.bound.get(name.key)
    if isinstance(bound, Bound):
        return _element(name, bound, indices, context)
    if bound == STANDARD_NORMAL:
        return context.normal
    if name.key in context.definitions:
        letters, tree = context.definitions[name.key]
        places = [_index(index, context) for index in indices]
        return value(tree, context.here(**dict(zip(letters or "i", places, strict=False))))
    if name.key in context.at:
        return context.at[name.key]
    if name.key == "π":
        return math.pi
    raise EquationError(f"{name.key} is bound to nothing")


def _element(name: Name, bound: Bound, indices: list[str], context: Context) -> float:
    addressed = _addressed(bound.axes, indices)
    place = []
    for position, (letter, size) in enumerate(zip(bound.axes, bound.values.shape, strict=True)):
        at = _index(addressed.get(position, letter), context)
        if at == size and letter == "t":
            return _looked_up(_beyond_the_end(name), context)
        if not 0 <= at < size:
            raise EquationError(f"{name.key} has no element {at}")
        place.append(at)
    return float(bound.values[tuple(place)])


def _beyond_the_end(name: Name) -> Name:
    """``Âₜ₊₁`` of the last step is ``Â_T``, and ``V(sₜ₊₁)`` is ``V(s_T)``."""
    if not name.label:
        return Name(name.base, "T")
    label = [token for token in name.label if token.kind != "sub"]
    return Name(name.base, name.word, "", (*label[:-1], label[-1]._replace(kind="below", text="_T"), label[-1]))


def _index(index: str, context: Context) -> int:
    """``t+1``, ``d+i``, ``T−1``, ``2``, ``-4``, ``k``."""
    total, sign = 0.0, 1
    for part in re.findall(r"[-+−]|[A-Za-z]+|\d+", index):
        if part in "-+−":
            sign = 1 if part == "+" else -1
        else:
            total += sign * (int(part) if part.isdigit() else _letter(part, context))
    return int(total)


def _letter(letter: str, context: Context) -> float:
    if letter in context.at:
        return context.at[letter]
    if letter in context.bound:
        return _looked_up(Name(letter), context)
    raise EquationError(f"index {letter} has no value")


def definitions_in(equations: list[Equation], outputs: set[str]) -> dict[str, tuple[tuple[str, ...], Tree]]:
    """Symbols that equations of a block explain by others.

    :param equations: of a block.
    :param outputs: keys of what the function returns: no definitions.
    :return: for each symbol its indices and what it stands for.
    """
    return {
        equation.sides[0].key: (equation.sides[0].indices, equation.sides[-1])
        for equation in equations
        if len(equation.sides) > 1 and isinstance(equation.sides[0], Name) and equation.sides[0].key not in outputs
    }
