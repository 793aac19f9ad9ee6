"""The equations of docstrings, read: a line of Unicode becomes a tree.

    L = min(ρ·Â, clip(ρ, 1−ε, 1+ε)·Â)

One tree has three readers: numbers (``equation_values.py``), by which a test compares the line with the function below
it; MathML for pages and LaTeX for notebooks (``equation_markup.py``). Nothing that is shown is a second copy.

The notation:

* a name is one Greek letter or a word of Latin ones, with accents, primes, a word below it (``σ_old``) and indices
  (``δₜ₊₁``, ``p_old,ᵢ``); ``V(sₜ)``, ``π(a|s)`` is a name with a label and no product;
* juxtaposition (``2σ``, ``γλ``) binds closer than ``·`` and ``/``, which go from left to right;
* ``log pᵢ`` takes what is juxtaposed, ``log(1−p)·q`` its bracket; ``tanh(x)²`` is the square of the tangent;
* a sum, ``Σᵢ``, reaches to the end of its bracket, and so does ``argmaxᵢ``;
* ``x if c else y``; chains ``a = b = c``; ``←`` where the new value has the name of the old one;
* equations of one block stand on lines of their own or are set apart by `` , `` or three spaces; a line that begins
  with ``else`` goes on with the one above it. What cannot be read is prose.
"""

import re
import unicodedata
from collections.abc import Iterator, Sequence
from typing import NamedTuple

SUBSCRIPTS = dict(zip("₀₁₂₃₄₅₆₇₈₉₊₋ₐₜᵢⱼₖₙᵣₛ", "0123456789+-atijknrs", strict=True))
SUPERSCRIPTS = dict(zip("⁰¹²³⁴⁵⁶⁷⁸⁹⁺⁻⁽⁾ⁿᵏᵗ", "0123456789+-()nkt", strict=True))
#: Followed by what they are applied to; the second line may stand alone, as the name of a number.
FUNCTIONS = frozenset(["log", "exp", "min", "max", "clip", "tanh", "atanh", "sigmoid", "softplus", "share", "Γ", "ψ"])
FUNCTIONS_OR_NAMES = frozenset(["mean", "std", "Var", "E", "B", "N"])
BIG = frozenset(["Σ", "argmax"])
COMPARISONS = frozenset("<>≤≥=")
WORDS = frozenset(["if", "else", "for"])
BRACKETS = {"(": ")", "[": "]", "|": "|", "‖": "‖"}
TOKEN = re.compile(
    rf"""(?P<number>\d+(\.\d+)?|½)
      | (?P<sub>[{"".join(SUBSCRIPTS)}]+)
      | (?P<sup>[{"".join(SUPERSCRIPTS)}]+)
      | (?P<name>∂?[A-Za-zÂĜ]\u0303?[A-Za-z]*\d*'*|∂?[α-ωΓΣ∇]'*)
      | (?P<below>_([A-Za-z]+|\{{[^}}]*\}}))
      | (?P<operator>[-+−·×/=←<>≤≥()\[\]|‖,;√])""",
    re.VERBOSE,
)


class EquationError(ValueError):
    """A line that is no equation of this notation."""


class Token(NamedTuple):
    kind: str
    text: str
    spaced: bool  # after a space


class Number(NamedTuple):
    text: str

    @property
    def value(self) -> float:
        """As a number."""
        return 0.5 if self.text == "½" else float(self.text)


class Name(NamedTuple):
    """``p_old,ᵢ(a|s)``: base ``p``, word ``old``, subscript ``i``, label ``(a|s)`` as its tokens."""

    base: str
    word: str = ""
    subscript: str = ""
    label: tuple[Token, ...] = ()

    @property
    def key(self) -> str:
        """What it is looked up by: everything but the indices."""
        label = "".join(token.text for token in self.label if token.kind != "sub")
        return f"{self.base}{'_' if self.word else ''}{self.word}{label}"

    @property
    def indices(self) -> tuple[str, ...]:
        """Its own and those in its label, each once: ``t+1`` of ``V(sₜ₊₁)``."""
        own = [self.subscript, *(_plain(token.text) for token in self.label if token.kind == "sub")]
        return tuple(dict.fromkeys(letter for index in own for letter in _split_index(index)))


class Call(NamedTuple):
    function: str
    arguments: tuple["Tree", ...]
    bracket: str  # "" where it has none


class Big(NamedTuple):
    """``Σᵢ body`` or ``argmaxᵢ body``."""

    operator: str
    letter: str
    body: "Tree"


class Group(NamedTuple):
    bracket: str
    body: "Tree"


class Power(NamedTuple):
    base: "Tree"
    exponent: str


class Root(NamedTuple):
    body: "Tree"


class Sign(NamedTuple):
    operator: str
    body: "Tree"


class Binary(NamedTuple):
    operator: str  # "" for juxtaposition
    left: "Tree"
    right: "Tree"


class Comparison(NamedTuple):
    operator: str
    left: "Tree"
    right: "Tree"


class Cases(NamedTuple):
    """``value if condition else otherwise``; without ``otherwise`` the equation speaks of these cases only."""

    value: "Tree"
    condition: Comparison
    otherwise: "Tree | None"
    word: str = "if"


class Equation(NamedTuple):
    """Sides that are all equal, and the relations between them; one side alone is what the function returns."""

    sides: tuple["Tree", ...]
    relations: tuple[str, ...]
    text: str


Tree = Number | Name | Call | Big | Group | Power | Root | Sign | Binary | Comparison | Cases


class Prose(NamedTuple):
    text: str


def blocks(docstring: str) -> list[str]:
    """The indented blocks of a docstring that are no examples, tables or lists.

    :param docstring: of a formula.
    :return: each without its indentation.
    """
    text = re.split(r"\n:\w|>>>", f"\n{docstring}")[0]
    found = re.findall(r"(?:^    .*\n?)+", text, flags=re.M)
    return [re.sub("^    ", "", block, flags=re.M).rstrip() for block in found if not block.lstrip().startswith("==")]


def pieces(block: str) -> list[Equation | Prose]:
    """What a block consists of.

    :param block: of :func:`blocks`.
    :return: its equations, and what is said between them, in order.
    """
    joined = re.sub(r"\n\s*(?=else\b)", " ", block)
    parts = [part.strip(" ,") for part in re.split(r"\s{3,}|\s+,\s+|\n", joined)]
    return [_equation_or_prose(part) for part in parts if part]


def _equation_or_prose(text: str) -> Equation | Prose:
    try:
        return parse(text)
    except EquationError:
        return Prose(text)


def parse(text: str) -> Equation:
    """One equation.

    :param text: a line.
    :return: its tree.
    :raises EquationError: if it is none.

    >>> parse("k2 = ½").sides
    (Name(base='k2', word='', subscript='', label=()), Number(text='½'))
    """
    parser = _Parser(tokens(text))
    sides, relations = [parser.side()], []
    while parser.next_is("=", "←"):
        relations.append(parser.take().text)
        sides.append(parser.side())
    parser.expect_end()
    return Equation(tuple(sides), tuple(relations), text)


def tokens(text: str) -> list[Token]:
    """A line in its smallest parts.

    :param text: a line.
    :return: in order.
    :raises EquationError: if a character belongs to none.
    """
    text = unicodedata.normalize("NFC", text)
    result, position = [], 0
    while position < len(text):
        spaced = text[position] == " "
        position += spaced
        match = TOKEN.match(text, position)
        if match is None or match.lastgroup is None:
            if spaced:
                continue
            raise EquationError(f"text must be an equation, got {text!r} with {text[position]!r} at {position}")
        kind = next(name for name in ("number", "sub", "sup", "name", "below", "operator") if match[name] is not None)
        result.append(Token(kind, match.group(), spaced))
        position = match.end()
    return result


def _plain(text: str) -> str:
    return "".join(SUBSCRIPTS.get(letter, SUPERSCRIPTS.get(letter, letter)) for letter in text)


def _split_index(index: str) -> Iterator[str]:
    """``ki`` is two indices, ``t+1`` and ``t+k`` are one."""
    yield from re.findall(r"[A-Za-z](?:[-+−][A-Za-z0-9]+)?|\d+", index)


class _Parser:
    def __init__(self, sequence: Sequence[Token]) -> None:
        self._tokens, self._position = sequence, 0

    def _peek(self, ahead: int = 0) -> Token:
        position = self._position + ahead
        return self._tokens[position] if position < len(self._tokens) else Token("end", "", True)

    def next_is(self, *texts: str) -> bool:
        return self._peek().text in texts

    def take(self, *texts: str) -> Token:
        token = self._peek()
        if token.kind == "end" or (texts and token.text not in texts):
            raise EquationError(f"expected {' or '.join(texts) or 'more'}, got {token.text!r}")
        self._position += 1
        return token

    def expect_end(self) -> None:
        if self._peek().kind != "end":
            raise EquationError(f"expected the end, got {self._peek().text!r}")

    def side(self) -> Tree:
        value = self._sum()
        if self.next_is("if", "for"):
            word = self.take().text
            condition = self._comparison()
            otherwise = None
            if self.next_is("else"):
                self.take()
                otherwise = self.side()
            return Cases(value, condition, otherwise, word)
        return value

    def _comparison(self) -> Comparison:
        left = self._sum()
        operator = self.take(*COMPARISONS).text
        return Comparison(operator, left, self._sum())

    def _sum(self) -> Tree:
        tree: Tree = Sign(self.take().text, self._product()) if self.next_is("−", "+", "-") else self._product()
        while self.next_is("+", "−", "-"):
            tree = Binary(self.take().text, tree, self._product())
        return tree

    def _product(self) -> Tree:
        tree = self._juxtaposed()
        while self.next_is("·", "/", "×"):
            tree = Binary(self.take().text, tree, self._juxtaposed())
        return tree

    def _juxtaposed(self) -> Tree:
        tree = self._power()
        # "k (…)" is nothing that anybody writes for a product, and words with spaces between them are prose.
        while self._peek().kind in ("name", "number") and not self._peek().spaced:
            tree = Binary("", tree, self._power())
        return tree

    def _power(self) -> Tree:
        tree = self._atom()
        if self._peek().kind == "sup" and not (isinstance(tree, Call) and not tree.bracket):
            tree = Power(tree, _plain(self.take().text))
        return tree

    def _atom(self) -> Tree:
        token = self.take()
        if token.kind == "number":
            return Number(token.text)
        if token.text == "√":
            return Root(self._atom())
        if token.text in BRACKETS:
            return self._group(token.text)
        if token.kind != "name" or token.text in WORDS:
            raise EquationError(f"expected a value, got {token.text!r}")
        if token.text in BIG:
            index = _plain(self.take().text) if self._peek().kind == "sub" else ""
            return Big(token.text, index, self._sum())
        is_applied = self._peek().kind in ("name", "number", "sup") or self.next_is("√", *BRACKETS)
        if token.text in FUNCTIONS or (is_applied and token.text in FUNCTIONS_OR_NAMES):
            return self._call(token.text)
        return self._name(token.text)

    def _group(self, bracket: str) -> Group:
        body: Tree = self._sum()
        if self.next_is(*COMPARISONS):
            body = Comparison(self.take().text, body, self._sum())
        self.take(BRACKETS[bracket])
        return Group(bracket, body)

    def _call(self, function: str) -> Tree:
        exponent = _plain(self.take().text) if self._peek().kind == "sup" else ""
        if self.next_is("(", "["):
            bracket = self.take().text
            arguments = [self._argument()]
            while self.next_is(",", ";"):
                self.take()
                arguments.append(self._argument())
            self.take(BRACKETS[bracket])
            call: Tree = Call(function, tuple(arguments), bracket)
        else:
            call = Call(function, (self._juxtaposed(),), "")
        return Power(call, exponent) if exponent else call

    def _argument(self) -> Tree:
        value = self.side()
        return Comparison(self.take().text, value, self._sum()) if self.next_is(*COMPARISONS) else value

    def _name(self, base: str) -> Name:
        word, index, label = "", "", []
        if self._peek().kind == "below":
            word = self.take().text[1:]
        if word.startswith("{"):
            word, index = "", word.strip("{}")
        if self.next_is(",") and self._peek(1).kind == "sub" and not self._peek(1).spaced:
            self.take()
        if self._peek().kind == "sub" and not self._peek().spaced:
            index = _plain(self.take().text)
        if index.isdigit():
            base, index = f"{base}{''.join(k for d in index for k, v in SUBSCRIPTS.items() if v == d)}", ""
        if self.next_is("(") and not self._peek().spaced:
            depth = 0
            while True:
                token = self.take()
                label.append(token)
                depth += (token.text == "(") - (token.text == ")")
                if depth == 0:
                    break
        return Name(base, word, index, tuple(label))
