"""Docstrings as HTML: prose, equations, tables, ``:param:`` lists and examples with their output."""

import re
from collections.abc import Callable
from typing import NamedTuple

from sb3_ppo_notes.pages import escaped

#: From an equation in Unicode to an element; ``None`` for what is no equation.
Mathematics = Callable[[str], str | None]
FIELD = re.compile(r":(param|return|raises|ivar)\s*([\w.]*):\s*(.*)", re.DOTALL)
UNIT = re.compile(r"dimensionless|nats|seconds|(environment )?steps|.*\bunits\b.*")
LABELS = ("Source:", "Deviation:", "Deviations:")


class Parameter(NamedTuple):
    """A line of the table of symbols.

    :param name: of the argument; ``"return"`` for what comes back.
    :param shape: as ``[N]``; empty if the docstring gives none.
    :param meaning: symbol, domain and the rest of the sentence.
    :param unit: what stands behind the semicolon; empty if nothing does.
    """

    name: str
    shape: str
    meaning: str
    unit: str


class Docstring(NamedTuple):
    """A docstring in its parts, each in the order of the text.

    :param heading: its first sentence.
    :param blocks: paragraphs, equations, tables and labelled sentences.
    :param parameters: of the ``:param:`` and ``:return:`` lines.
    :param errors: (exception, condition) of the ``:raises:`` lines.
    :param example: the doctest, with its output; empty if there is none.
    """

    heading: str
    blocks: tuple[str, ...]
    parameters: tuple[Parameter, ...]
    errors: tuple[tuple[str, str], ...]
    example: str


def parsed(text: str) -> Docstring:
    """The parts of a docstring.

    :param text: dedented, as ``inspect.getdoc`` gives it.
    :return: nothing of the text is lost.
    """
    heading, blocks, parameters, errors, examples = "", [], [], [], []
    for block in re.split(r"\n\s*\n", text.strip("\n")):
        if block.lstrip().startswith(">>>"):
            examples.append(block)
        elif block.startswith(":"):
            for line in re.split(r"\n(?=:)", block):
                kind, name, rest = FIELD.fullmatch(line).groups()  # type: ignore[union-attr]
                rest = " ".join(rest.split())
                if kind == "raises":
                    errors.append((name, rest))
                else:
                    parameters.append(_parameter(name or "return", rest))
        elif not heading:
            heading = block
        else:
            blocks.append(block)
    return Docstring(" ".join(heading.split()), tuple(blocks), tuple(parameters), tuple(errors), "\n\n".join(examples))


def _parameter(name: str, text: str) -> Parameter:
    shape = re.match(r"(``\[[^`]*\]``)(?: or ``\[[^`]*\]``| \(or ``\[[^`]*\]``\))?,?\s*", text)
    meaning = text[shape.end() :] if shape else text
    rest, _, unit = meaning.rpartition("; ")
    if not UNIT.fullmatch(unit.rstrip(".")):
        rest, unit = meaning, ""
    return Parameter(name, shape.group(0).strip(", ") if shape else "", rest, unit.rstrip("."))


def inline(text: str) -> str:
    """A sentence with code, emphasis and roles.

    :param text: as it stands in a docstring.
    :return: HTML.

    >>> inline("``a<b``, *not* :class:`~x.B`")
    '<code>a&lt;b</code>, <em>not</em> <code>B</code>'
    """
    parts = []
    for piece in re.split(r"(``[^`]+``|:\w+:`[^`]+`|(?<!\w)\*[^*\s][^*]*\*(?!\w))", " ".join(text.split())):
        if piece.startswith("``"):
            parts.append(f"<code>{escaped(piece[2:-2])}</code>")
        elif piece.startswith(":") and piece.endswith("`"):
            name = piece.split("`")[1]
            parts.append(f"<code>{escaped(name.rpartition('.')[2] if name.startswith('~') else name)}</code>")
        elif piece.startswith("*") and piece.endswith("*") and len(piece) > 2:
            parts.append(f"<em>{escaped(piece[1:-1])}</em>")
        else:
            parts.append(escaped(piece))
    return "".join(parts)


def block_html(block: str, mathematics: Mathematics) -> str:
    """One block of a docstring.

    :param block: paragraph, list, table, labelled sentence or indented equation.
    :param mathematics: draws equations.
    :return: HTML.
    """
    if re.match(r"\s*=+(\s+=+)+\s*\n", block):
        return _table(block)
    if block.startswith("    "):
        return "".join(_equation(line.strip(), mathematics) for line in _joined(block))
    if block.startswith(LABELS):
        pieces = re.split(r"\n(?=(?:Source|Deviations?):)", block)
        return "".join(
            f'<p class="label"><b>{p.partition(":")[0]}</b> {inline(p.partition(":")[2])}</p>' for p in pieces
        )
    if re.match(r"[-*] ", block):
        items = re.split(r"\n(?=[-*] )", block)
        return "<ul>" + "".join(f"<li>{inline(item[2:])}</li>" for item in items) + "</ul>"
    return f"<p>{inline(block)}</p>"


def _joined(block: str) -> list[str]:
    """The lines of an equation, with those that go on deeper joined to the one before."""
    lines: list[str] = []
    for line in block.splitlines():
        if line.startswith("     ") and lines:
            lines[-1] += " " + line.strip()
        else:
            lines.append(line)
    return lines


def _equation(line: str, mathematics: Mathematics) -> str:
    drawn = mathematics(line)
    return f'<div class="equation">{drawn}</div>' if drawn else f'<pre class="equation">{escaped(line)}</pre>'


def _table(block: str) -> str:
    """A table of reStructuredText's simple kind."""
    lines = [line.strip() for line in block.splitlines()]
    rules = [index for index, line in enumerate(lines) if line and set(line) <= {"=", " "}]
    starts = [match.start() for match in re.finditer("=+", lines[rules[0]])]
    edges = list(zip(starts, [*starts[1:], None], strict=True))

    def cells(line: str, tag: str) -> str:
        return "<tr>" + "".join(f"<{tag}>{inline(line[start:end])}</{tag}>" for start, end in edges) + "</tr>"

    head = "".join(cells(line, "th") for line in lines[rules[0] + 1 : rules[1]]) if len(rules) > 2 else ""
    first = rules[1] + 1 if len(rules) > 2 else rules[0] + 1
    body = "".join(cells(line, "td") for line in lines[first : rules[-1]])
    return f'<div class="wide"><table>{head}{body}</table></div>'


def parameters_html(parameters: tuple[Parameter, ...]) -> str:
    """The table of symbols: argument, shape, meaning, unit.

    :param parameters: of a docstring.
    :return: HTML; empty if there are none.
    """
    if not parameters:
        return ""
    columns = {
        "argument": [f"<code>{escaped(parameter.name)}</code>" for parameter in parameters],
        "shape": [inline(parameter.shape) for parameter in parameters],
        "meaning": [inline(parameter.meaning) for parameter in parameters],
        "unit": [inline(parameter.unit) for parameter in parameters],
    }
    shown = {name: cells for name, cells in columns.items() if any(cells)}
    head = "".join(f"<th>{name}</th>" for name in shown)
    cells_of_rows = zip(*shown.values(), strict=True)
    rows = "".join(f"<tr>{''.join(f'<td>{cell}</td>' for cell in cells)}</tr>" for cells in cells_of_rows)
    return f'<div class="wide"><table class="symbols"><tr>{head}</tr>{rows}</table></div>'
