"""An equation's tree as MathML for pages and as LaTeX for notebooks.

MathML Core is drawn by the browser itself: no script, no font, no request. Every line stays one line high (a quotient
is a slash, a bracket has the height of a letter), so that no font with stretching glyphs is asked for.
"""

import re
import unicodedata

from sb3_ppo_notes.notes.equations.tree import (
    BRACKETS,
    SUBSCRIPTS,
    Big,
    Binary,
    Call,
    Cases,
    Comparison,
    Equation,
    Group,
    Name,
    Number,
    Power,
    Prose,
    Root,
    Sign,
    Token,
    Tree,
    _plain,
    pieces,
)
from sb3_ppo_notes.pages import escaped

THIN = '<mspace width="0.17em"/>'
WIDE = '<mspace width="0.9em"/>'
ACCENTS = {"\u0302": ("^", "hat"), "\u0303": ("~", "tilde")}
GREEK = {
    **{"α": r"\alpha", "β": r"\beta", "γ": r"\gamma", "δ": r"\delta", "ε": r"\varepsilon", "θ": r"\theta"},
    **{"λ": r"\lambda", "μ": r"\mu", "π": r"\pi", "ρ": r"\rho", "σ": r"\sigma", "τ": r"\tau", "ψ": r"\psi"},
    **{"Γ": r"\Gamma"},
}
OPERATORS = {"·": r"\cdot ", "−": "-", "←": r"\leftarrow ", "≤": r"\le ", "≥": r"\ge ", "×": r"\times ", "‖": r"\|"}


def block_mathml(block: str) -> str:
    """A block of a docstring: its equations one below the other, what is said between them as text.

    :param block: of :func:`sb3_ppo_notes.notes.equations.tree.blocks`.
    :return: HTML.
    """
    lines = re.sub(r"\n\s*(?=else\b)", " ", block).split("\n")
    return f'<div class="equation" translate="no">{"".join(f"<p>{_line(line)}</p>" for line in lines)}</div>'


def line_mathml(line: str) -> str | None:
    """A line of a docstring, if there is an equation in it.

    :param line: Unicode.
    :return: HTML; ``None`` for what is prose alone.
    """
    return _line(line) if any(isinstance(piece, Equation) for piece in pieces(line)) else None


def _line(line: str) -> str:
    return " ".join(
        f'<span class="said">{escaped(piece.text)}</span>' if isinstance(piece, Prose) else equation_mathml(piece)
        for piece in pieces(line)
    )


def equation_mathml(equation: Equation) -> str:
    """One equation as a ``math`` element, with the line of Unicode for those who hear it.

    :param equation: its tree.
    :return: HTML.
    """
    line = mathml(equation.sides[0])
    for relation, side in zip(equation.relations, equation.sides[1:], strict=True):
        line += f"{_mo(relation)}{mathml(side)}"
    return f'<math alttext="{escaped(equation.text)}"><mrow>{line}</mrow></math>'


def _mo(operator: str) -> str:
    return f'<mo stretchy="false">{escaped(operator)}</mo>'


def mathml(tree: Tree) -> str:  # noqa: C901  # one case for each kind of node
    """A tree as elements of MathML.

    :param tree: of an equation.
    :return: elements, without a ``math`` around them.
    """
    match tree:
        case Number(text):
            return f"<mn>{text}</mn>"
        case Name():
            return _name_mathml(tree)
        case Call(function, arguments, bracket):
            return _call_mathml(function, arguments, bracket)
        case Big(operator, index, body):
            symbol = "<mo largeop='false'>∑</mo>" if operator == "Σ" else f"<mi>{operator}</mi>"
            below = f"<msub>{symbol}<mi>{index}</mi></msub>" if index else symbol
            return f"<mrow>{below}{THIN}{mathml(body)}</mrow>"
        case Group(bracket, body):
            return f"<mrow>{_mo(bracket)}{mathml(body)}{_mo(BRACKETS[bracket])}</mrow>"
        case Power(Group(bracket, body), exponent):
            # On the closing bracket alone: above the whole it would stand above the highest accent inside.
            closing = f"<msup>{_mo(BRACKETS[bracket])}{_row(_index_mathml(exponent))}</msup>"
            return f"<mrow>{_mo(bracket)}{mathml(body)}{closing}</mrow>"
        case Power(Call(function, arguments, bracket) as call, exponent) if bracket:
            whole = mathml(call).removesuffix(f"{_mo(BRACKETS[bracket])}</mrow>")
            return f"{whole}<msup>{_mo(BRACKETS[bracket])}{_row(_index_mathml(exponent))}</msup></mrow>"
        case Power(base, exponent):
            return f"<msup>{_row(mathml(base))}{_row(_index_mathml(exponent))}</msup>"
        case Root(body):
            return f"<msqrt>{mathml(body.body if isinstance(body, Group) and body.bracket == '(' else body)}</msqrt>"
        case Sign(operator, body):
            return f"<mrow><mo form='prefix'>{operator}</mo>{mathml(body)}</mrow>"
        case Binary(operator, left, right):
            between = f"<mo>{operator}</mo>" if operator else ""
            return f"{mathml(left)}{between}{mathml(right)}"
        case Comparison(operator, left, right):
            return f"{mathml(left)}{_mo(operator)}{mathml(right)}"
        case Cases(value, condition, otherwise, word):
            rest = f"<mtext>&#160; else &#160;</mtext>{mathml(otherwise)}" if otherwise is not None else ""
            return f"{mathml(value)}<mtext>&#160; {word} &#160;</mtext>{mathml(condition)}{rest}"


def _call_mathml(function: str, arguments: tuple[Tree, ...], bracket: str) -> str:
    separators = [";" if function == "N" else ",", *"," * len(arguments)]
    inside = mathml(arguments[0])
    for argument, separator in zip(arguments[1:], separators, strict=False):
        inside += f"<mo separator='true'>{separator}</mo>{mathml(argument)}"
    if bracket:
        inside = f"{_mo(bracket)}{inside}{_mo(BRACKETS[bracket])}"
    elif not isinstance(arguments[0], Group):
        inside = THIN + inside
    return f"<mrow><mi mathvariant='normal'>{function}</mi>{inside}</mrow>"


def _row(elements: str) -> str:
    return f"<mrow>{elements}</mrow>"


def _index_mathml(index: str) -> str:
    parts = re.findall(r"[A-Za-z_]+|\d+|.", index)
    return "".join(
        f"<mn>{part}</mn>" if part.isdigit() else f"<mi>{part}</mi>" if part.isalpha() else f"<mo>{part}</mo>"
        for part in parts
    )


def _name_mathml(name: Name) -> str:
    plain, accent, digits, primes = _parts(name.base)
    base = f"<mi>{plain}</mi>" if plain else ""
    if accent:
        base = f"<mover accent='true'>{base}<mo stretchy='false'>{ACCENTS[accent][0]}</mo></mover>"
    if primes:
        base = f"<mrow>{base}<mo lspace='0' rspace='0'>{'′' * primes}</mo></mrow>"
    below = [digits and f"<mn>{digits}</mn>", name.word and f"<mi mathvariant='normal'>{name.word}</mi>"]
    below.append(name.subscript and _index_mathml(name.subscript))
    subscript = "<mo separator='true'>,</mo>".join(part for part in below if part)
    element = f"<msub>{base}{_row(subscript)}</msub>" if subscript else base
    return f"<mrow>{element}{_label_mathml(name.label)}</mrow>" if name.label else element


def _label_mathml(label: tuple[Token, ...]) -> str:
    elements: list[str] = []
    for token in label:
        if token.kind in ("sub", "below") and elements:
            inside = _index_mathml(_plain(token.text.lstrip("_")))
            elements[-1] = f"<msub>{elements[-1]}{_row(inside)}</msub>"
        elif token.kind == "name":
            elements.append(_name_mathml(Name(token.text)))
        elif token.kind == "number":
            elements.append(f"<mn>{token.text}</mn>")
        else:
            elements.append(_mo(token.text))
    return "".join(elements)


def _parts(base: str) -> tuple[str, str, str, int]:
    """``Â₁'`` is ``A``, a hat, ``1`` and one prime."""
    digits = "".join(SUBSCRIPTS[letter] for letter in base if letter in SUBSCRIPTS)
    plain = unicodedata.normalize("NFD", "".join(letter for letter in base if letter not in SUBSCRIPTS))
    accent = next((letter for letter in plain if letter in ACCENTS), "")
    return (
        plain.replace(accent, "").replace("'", "") if accent else plain.replace("'", ""),
        accent,
        digits,
        base.count("'"),
    )


def equation_latex(equation: Equation) -> str:
    """One equation for a notebook.

    :param equation: its tree.
    :return: LaTeX, without dollars.
    """
    parts = [latex(equation.sides[0])]
    for relation, side in zip(equation.relations, equation.sides[1:], strict=True):
        parts += [OPERATORS.get(relation, relation), latex(side)]
    return " ".join(parts)


def latex(tree: Tree) -> str:
    """A tree as LaTeX.

    :param tree: of an equation.
    :return: LaTeX, without dollars.
    """
    match tree:
        case Number(text):
            return r"\tfrac12" if text == "½" else text
        case Name():
            return _name_latex(tree)
        case Call(function, arguments, bracket):
            inside = ", ".join(map(latex, arguments))
            return rf"\operatorname{{{_letters_latex(function)}}}" + (
                f"{bracket}{inside}{BRACKETS[bracket]}" if bracket else rf"\, {inside}"
            )
        case Big(operator, index, body):
            symbol = r"\textstyle\sum" if operator == "Σ" else rf"\operatorname{{{operator}}}"
            return f"{symbol}_{{{index}}} {latex(body)}"
        case Group(bracket, body):
            closing = BRACKETS[bracket]
            return f"{OPERATORS.get(bracket, bracket)}{latex(body)}{OPERATORS.get(closing, closing)}"
        case Power(base, exponent):
            return f"{{{latex(base)}}}^{{{exponent}}}"
        case Root(body):
            return rf"\sqrt{{{latex(body.body if isinstance(body, Group) and body.bracket == '(' else body)}}}"
        case Sign(operator, body):
            return f"{OPERATORS.get(operator, operator)}{latex(body)}"
        case Binary(operator, left, right) | Comparison(operator, left, right):
            return f"{latex(left)} {OPERATORS.get(operator, operator)} {latex(right)}"
        case Cases(value, condition, otherwise, word):
            rest = rf" \text{{ else }} {latex(otherwise)}" if otherwise is not None else ""
            return rf"{latex(value)} \text{{ {word} }} {latex(condition)}{rest}"


def _letters_latex(text: str) -> str:
    return "".join(f"{GREEK[letter]} " if letter in GREEK else letter for letter in text)


def _name_latex(name: Name) -> str:
    plain, accent, digits, primes = _parts(name.base)
    letters = _letters_latex(plain.replace("∂", r"\partial ").replace("∇", r"\nabla "))
    base = letters if len(plain) == 1 or "\\" in letters else rf"\mathrm{{{letters}}}"
    if accent:
        base = rf"\{ACCENTS[accent][1]}{{{base}}}"
    below = ",".join(
        part
        for part in (digits, rf"\mathrm{{{name.word}}}" if name.word else "", name.subscript.replace("−", "-"))
        if part
    )
    label = "".join(
        f"_{{{_plain(token.text.lstrip('_'))}}}"
        if token.kind in ("sub", "below")
        else _name_latex(Name(token.text))
        if token.kind == "name"
        else OPERATORS.get(token.text, token.text)
        for token in name.label
    )
    return base + "'" * primes + (f"_{{{below}}}" if below else "") + label
