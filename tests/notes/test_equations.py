"""The equation above a function is what the function computes."""

import contextlib
import importlib
import inspect
import itertools
import pkgutil
import re

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import sb3_ppo_notes.formulas
from sb3_ppo_notes.notes import NOTES
from sb3_ppo_notes.notes.equations import tree as eq
from sb3_ppo_notes.notes.equations.values import Context, SilentError, definitions_in, value
from sb3_ppo_notes.notes.pages.sections import sections_of
from sb3_ppo_notes.notes.pages.walk import STATIONS
from tests.notes.equation_cases import CASES

CASE_NAMES = [case.name for case in CASES]
every_case = pytest.mark.parametrize("case", CASES, ids=CASE_NAMES)

#: What a docstring's blocks hold beside equations, and why it is not compared with numbers. The list may only shrink.
PROSE = {
    "approximate_rank": "the smallest r of a set: written as a set",
    "bootstrap_time_limits": "when a value is added is the caller's to say: it is 0 elsewhere",
    "gae": "the sum that the recursion comes to; test_gae_equals_the_explicit_sum has it",
    "cut_into_chunks": "counts steps from an episode's first one",
    "masked_log_odds": "three cases of a pair of masks",
    "beta_sample": "how random numbers are distributed",
    "categorical_log_prob": "a derivative; the note on log_prob compares it with autograd",
    "categorical_sample": "how random numbers are distributed",
    "largest_entropy": "one number a distribution",
    "gaussian_sample": "how random numbers are distributed",
    "state_dependent_std": "how random numbers are distributed",
    "exploration_weight_std": "says which equation holds when",
    "squashed_gaussian_entropy": "how the expectation's variable is distributed",
    "lstm_gates": "what the layer before computes",
    "trajectory_z_scores": "says over which samples",
}
#: Equations that are read, and compared with numbers elsewhere: {formula: numbers in its block}.
ELSEWHERE = {
    "policy_gradient": {1},  # a derivative; test_the_gradient_is_the_policy_gradient
}
#: Deliberate mistakes that nobody can notice, how many of a case, and why.
SURVIVORS = {
    "next_nonterminal": (1, "T−2 for T−1 says less, and nothing wrong"),
    "squashed_gaussian_entropy": (1, "minus a standard normal variable is one"),
    "streaming_std": (2, "10⁻⁸ is below the tolerance"),
}
#: Nothing to be swapped in them.
WITHOUT_MISTAKES = {"multi_categorical_entropy", "multi_categorical_kl", "categorical_mode"}
SWAPPED = {"min": "max", "max": "min", "log": "exp", "exp": "log", "tanh": "sigmoid", "sigmoid": "tanh", "Var": "E"}


def formulas():
    package = sb3_ppo_notes.formulas
    for _, name, _ in pkgutil.walk_packages(package.__path__, f"{package.__name__}."):
        for attribute, function in vars(importlib.import_module(name)).items():
            if inspect.isfunction(function) and function.__module__ == name and not attribute.startswith("_"):
                yield function


def blocks_of(function):
    return eq.blocks(inspect.getdoc(function) or "")


def equations_of(function):
    pieces = [piece for block in blocks_of(function) for piece in eq.pieces(block)]
    return [piece for piece in pieces if isinstance(piece, eq.Equation)]


def disagreement(case, equations, seed):
    """The first place where an equation is not the function's, or None."""
    situation = case.draw(np.random.default_rng(seed))
    keys = {
        equations[number].sides[0].key
        for number in situation.outputs
        if isinstance(equations[number].sides[0], eq.Name)
    }
    context = Context(situation.bound, definitions_in(equations, keys))
    for number, output in situation.outputs.items():
        equation, speaks = equations[number], False
        for place in itertools.product(*map(range, output.values.shape)):
            there = context.here(**situation.at, **dict(zip(output.axes, place, strict=True)))
            with contextlib.suppress(SilentError):
                wrong = wrong_side(equation, there, float(output.values[place]))
                speaks = True
                if wrong is not None:
                    return f"{equation.text} at {there.at}: {wrong}"
        if not speaks:
            return f"{equation.text} says nothing anywhere"
    return None


def wrong_side(equation, context, expected):
    values = [value(side, context) for side in equation.sides[1:] or equation.sides]
    left = equation.sides[0]
    if not isinstance(left, eq.Name) and len(equation.sides) > 1:
        with contextlib.suppress(eq.EquationError):  # the output's own name, as log π(a|s)
            values.append(value(left, context))
    elif isinstance(left, eq.Name) and left.subscript not in ("", *"ijknt") and left.key in context.bound:
        expected = value(left, context)  # of one row alone
    wrong = [computed for computed in values if not abs(computed - expected) <= 1e-6 * max(1.0, abs(expected))]
    return f"{wrong[0]} is not {expected}" if wrong else None


@every_case
@settings(max_examples=15, deadline=None)
@given(seed=st.integers(0, 2**32 - 1))
def test_the_equation_is_the_functions(case, seed):
    assert disagreement(case, equations_of(case.function), seed) is None


@every_case
def test_each_symbol_stands_in_the_line_of_its_argument(case):
    lines = dict(re.findall(r"^:param (\w+): ((?:.|\n)*?)(?=\n:|\n\n|\Z)", inspect.getdoc(case.function), flags=re.M))
    for symbol, argument in case.symbols.items():
        bare = symbol.removesuffix("ₜ")
        assert bare in lines[argument].replace("sₜ", "s") or symbol in lines[argument] or symbol == argument, (
            f"{symbol} is not named by :param {argument}: {lines[argument]}"
        )


def mutations(tree):  # noqa: C901  # one line for each kind of mistake
    """Each tree with one mistake in it."""
    if isinstance(tree, eq.Binary):
        for operator in {"+": "−", "−": "+", "·": "/", "/": "·", "": "/"}.get(tree.operator, ""):
            yield tree._replace(operator=operator)
        if tree.operator in ("·", ""):
            yield tree.left
            yield tree.right
    if isinstance(tree, eq.Sign) and tree.operator != "+":
        yield tree.body
    if isinstance(tree, eq.Call) and tree.function in SWAPPED:
        yield tree._replace(function=SWAPPED[tree.function])
    if isinstance(tree, eq.Call) and tree.function == "clip":
        yield tree.arguments[0]
    if isinstance(tree, eq.Comparison):
        yield tree._replace(operator={"<": ">", ">": "<", "≤": ">", "≥": "<", "=": "<"}[tree.operator])
    if isinstance(tree, eq.Cases) and tree.otherwise is not None:
        yield tree.value
        yield tree.otherwise
    if isinstance(tree, eq.Power) and tree.exponent.isdigit():
        yield tree.base
        yield tree._replace(exponent=str(int(tree.exponent) + 1))
    if isinstance(tree, eq.Root):
        yield tree.body
    if isinstance(tree, eq.Number):
        yield tree._replace(text=str(tree.value + 1))
    if isinstance(tree, eq.Name) and tree.subscript == "t+1":
        yield tree._replace(subscript="t")
    if isinstance(tree, eq.Name) and any(token.text == "ₜ₊₁" for token in tree.label):
        yield tree._replace(
            label=tuple(token._replace(text="ₜ") if token.kind == "sub" else token for token in tree.label)
        )
    # NamedTuples of trees, and tuples of them.
    if isinstance(tree, tuple) and not isinstance(tree, eq.Token):
        for position, part in enumerate(tree):
            for mutated in mutations(part):
                changed = [*tree[:position], mutated, *tree[position + 1 :]]
                yield type(tree)(*changed) if hasattr(tree, "_fields") else tuple(changed)


def mutants_of(case):
    """The right-hand sides of what is compared, and of the definitions that they refer to, with one mistake in each."""
    equations, situation = equations_of(case.function), case.draw(np.random.default_rng(0))
    for number, equation in enumerate(equations):
        is_defined_here = not isinstance(equation.sides[0], eq.Name) or equation.sides[0].key not in situation.bound
        is_a_definition = is_defined_here and len(equation.sides) > 1 and number not in ELSEWHERE.get(case.name, ())
        if number in situation.outputs or is_a_definition:
            first = 1 if len(equation.sides) > 1 else 0
            for sides in mutations(equation.sides[first:]):
                mutant = equation._replace(sides=(*equation.sides[:first], *sides))
                yield [*equations[:number], mutant, *equations[number + 1 :]]


def is_refuted(case, equations):
    for seed in range(25):
        try:
            if disagreement(case, equations, seed) is not None:
                return True
        except (eq.EquationError, ArithmeticError, ValueError):
            return True  # an index out of bounds, the logarithm of a negative number
    return False


@every_case
def test_a_mistake_in_the_equation_is_noticed(case):
    mutants = list(mutants_of(case))
    assert bool(mutants) != (case.name in WITHOUT_MISTAKES)
    survivors = [mutant for mutant in mutants if not is_refuted(case, mutant)]
    allowed, _ = SURVIVORS.get(case.name, (0, ""))
    assert len(survivors) == allowed, survivors


def test_nearly_every_mistake_is_noticed():
    mistakes = sum(len(list(mutants_of(case))) for case in CASES)
    assert mistakes > 700
    assert sum(number for number, _ in SURVIVORS.values()) < 0.1 * mistakes


def test_what_is_no_equation_is_listed_with_its_reason():
    read = {
        function.__name__
        for function in formulas()
        if "statistics" not in function.__module__
        for block in blocks_of(function)
        for piece in eq.pieces(block)
        if isinstance(piece, eq.Prose)
    }
    assert read == set(PROSE)


def test_nearly_all_blocks_are_compared():
    with_blocks = [f for f in formulas() if "statistics" not in f.__module__ and blocks_of(f)]
    compared = {case.function.__name__ for case in CASES}
    assert {function.__name__ for function in with_blocks} - compared == {
        "approximate_rank",
        "cut_into_chunks",
        "masked_log_odds",
        "largest_entropy",
    }
    assert len(compared) >= 70


def test_no_page_shows_an_equation_that_is_not_compared():
    shown = [formula for name in NOTES for formula in NOTES[name].formulas]
    shown += [
        getattr(importlib.import_module(f"sb3_ppo_notes.{module}"), section.name)
        for station in STATIONS
        for module in station.modules
        for section in sections_of(f"sb3_ppo_notes.{module}")
        if section.name and "." not in section.name
    ]
    assert set(filter(equations_of, shown)) <= {case.function for case in CASES}


@pytest.mark.parametrize("text", ["", "a =", "log", "(a", "a b", "Σᵢ", "a = = b", "5 if", "€", "if", "a ₜ"])
def test_what_cannot_be_read_is_an_error(text):
    with pytest.raises(eq.EquationError):
        eq.parse(text)
