"""The pages of the walk: code right, note left, and links between all that belongs together."""

import re
from collections.abc import Iterable, Mapping
from functools import cache
from typing import NamedTuple

from pygments.lexers.python import PythonLexer
from pygments.token import STANDARD_TYPES

from sb3_ppo_notes.notes.pages.docstrings import Docstring, Mathematics, block_html, inline, parameters_html, parsed
from sb3_ppo_notes.notes.pages.sections import Section, callers, references_in, sections_of, source_of
from sb3_ppo_notes.notes.pages.walk import BESIDE, STATIONS, Station
from sb3_ppo_notes.pages import escaped

#: (module, qualified name)
Target = tuple[str, str]
STYLE = """
body { max-width: 84rem; }
nav.bar { display: block; font-size: .92rem; color: var(--pale); margin: .2rem 0 1rem; }
.section { display: grid; grid-template-columns: minmax(0, 27rem) minmax(0, 1fr); gap: 0 1.4rem;
  align-items: start;
  border-top: 1px solid var(--line); padding: .8rem 0; }
.section > .note { min-width: 0; }
  .section > .note > :first-child { margin-top: 0; } .section h3 { scroll-margin-top: 1rem; }
.section h3 a { color: inherit; text-decoration: none; }
.section pre.code { margin: 0; padding: .6rem 0; white-space: pre; overflow-x: auto;
  position: sticky; top: .6rem; max-height: 97vh; font-size: .8rem; }
pre.code .n { display: inline-block; width: 3rem; padding-right: .9rem; text-align: right; color: var(--pale);
  user-select: none; opacity: .7; }
pre.code a { color: inherit; text-decoration: underline; text-decoration-color: var(--line);
  text-underline-offset: 2px; }
pre.code a:hover { text-decoration-color: currentColor; }
.equation { margin: .5rem 0; overflow-x: auto; overflow-y: hidden; } pre.equation { font-size: .95rem; }
.label { font-size: .92rem; color: var(--pale); } .links { font-size: .88rem; color: var(--pale); }
.k { color: #8b3a9e; } .s { color: #2f7d32; } .c { color: #6a737d; font-style: italic; } .m { color: #a3591b; }
.f { color: #1d5fa8; font-weight: 600; }
@media (max-width: 60rem) {
  .section { grid-template-columns: minmax(0, 1fr); }
  .section > pre.code { margin-top: .5rem; position: static; max-height: none; }
}
@media (prefers-color-scheme: dark) {
  .k { color: #d9a0e6; } .s { color: #9ccc9f; } .c { color: #8b949e; } .m { color: #e0a86b; } .f { color: #82b8f0; }
}
"""
#: Pygments' short names, in so many colours as a reader can tell apart.
COLORS = {"k": "k", "ow": "k", "s": "s", "c": "c", "m": "m", "nf": "f", "nc": "f"}


def page_of(station: Station) -> str:
    """File name of a station, below ``walk/``.

    :param station: of the walk.
    :return: the same for ever: pages of others link to it.

    >>> page_of(STATIONS[0])
    '01-loop.html'
    """
    return f"{station.number:02}-{station.name}.html"


def anchors() -> dict[Target, str]:
    """Address of every function, class and method of the walk: its page, and its own name as the anchor.

    :return: relative to ``walk/``.
    """
    addresses = {}
    for station in STATIONS:
        for module in station.modules:
            for section in sections_of(f"sb3_ppo_notes.{module}"):
                if section.name:
                    addresses[(section.module, section.name)] = f"{page_of(station)}#{section.name}"
    return addresses


class Links(NamedTuple):
    """What a section points to besides its own code.

    :param addresses: of what is on the walk.
    :param notes: (title, address) of the notes that use an object.
    :param tests: names of the tests that assert it.
    """

    addresses: Mapping[Target, str]
    notes: Mapping[Target, list[tuple[str, str]]]
    tests: Mapping[Target, list[str]]


def station_body(station: Station, links: Links, mathematics: Mathematics) -> list[str]:
    """A station's page, without the frame.

    :param station: of the walk.
    :param links: to notes, tests and other stations.
    :param mathematics: draws equations.
    :return: HTML.
    """
    body = [_bar(station), f"<h1>{station.number} · {escaped(station.title)}</h1>", f"<p>{inline(station.text)}</p>"]
    for module in station.modules:
        path = module.replace(".", "/") + ".py"
        body.append(f'<h2 id="{module}"><code translate="no">{path}</code></h2>')
        body += [_section(section, links, mathematics) for section in sections_of(f"sb3_ppo_notes.{module}")]
    return [*body, _bar(station)]


def _bar(station: Station) -> str:
    before = STATIONS[station.number - 2] if station.number > 1 else None
    after = STATIONS[station.number] if station.number < len(STATIONS) else None
    parts = [f'<a href="index.html">{len(STATIONS)} stations</a>', f"you are at {station.number}"]
    parts += [f'before: <a href="{page_of(before)}">{before.name}</a>'] if before else []
    parts += [f'next: <a href="{page_of(after)}">{after.name}</a>'] if after else []
    return f'<nav class="bar">{" · ".join(parts)}</nav>'


def _section(section: Section, links: Links, mathematics: Mathematics) -> str:
    """Note on the left, code on the right."""
    note = _note(section, links, mathematics)
    code = code_html(section, links.addresses)
    return f'<div class="section"><div class="note">{note}</div>{code}</div>'


def _note(section: Section, links: Links, mathematics: Mathematics) -> str:
    parts = []
    if section.name:
        anchor = escaped(section.name)
        parts.append(f'<h3 id="{anchor}"><a href="#{anchor}"><code translate="no">{anchor}</code></a></h3>')
    parts += docstring_html(parsed(section.docstring), mathematics)
    target = (section.module, section.name)
    parts += _links(target, links)
    return "".join(parts)


def docstring_html(docstring: Docstring, mathematics: Mathematics) -> list[str]:
    """A docstring: heading, prose and equations, table of symbols, errors, example with its output.

    :param docstring: in its parts.
    :param mathematics: draws equations.
    :return: HTML.
    """
    parts = [f"<p><b>{inline(docstring.heading)}</b></p>"] if docstring.heading else []
    parts += [block_html(block, mathematics) for block in docstring.blocks]
    parts.append(parameters_html(docstring.parameters))
    parts += [f'<p class="label"><b>{escaped(error)}</b> {inline(reason)}</p>' for error, reason in docstring.errors]
    if docstring.example:
        parts.append(f'<pre translate="no">{escaped(docstring.example)}</pre>')
    return parts


def _links(target: Target, links: Links) -> list[str]:
    lists = []
    if target in links.notes:
        lists.append(("notes", [f'<a href="{address}">{escaped(title)}</a>' for title, address in links.notes[target]]))
    if target in links.tests:
        lists.append(("asserted by", [f"<code>{escaped(test)}</code>" for test in links.tests[target]]))
    if target[1] and target in callers():
        lists.append(("called by", [_reference(place, links.addresses) for place in callers()[target]]))
    return [f'<p class="links"><b>{label}:</b> {", ".join(items)}</p>' for label, items in lists]


def _reference(target: Target, addresses: Mapping[Target, str]) -> str:
    module, name = target
    text = f"<code>{escaped(module.removeprefix('sb3_ppo_notes.'))}.{escaped(name)}</code>"
    return f'<a href="{addresses[target]}">{text}</a>' if target in addresses else text


def code_html(section: Section, addresses: Mapping[Target, str]) -> str:
    """The lines of a section with the file's own numbers, colored, names linked to where they are explained.

    :param section: of a file.
    :param addresses: of what is on the walk.
    :return: a ``pre`` element.
    """
    if not section.lines:
        return "<div></div>"
    lines = _colored_lines(section.module, frozenset(addresses.items()))
    rows = "\n".join(f'<span class="n">{number}</span>{lines[number - 1]}' for number in section.lines)
    return f'<pre class="code" translate="no">{rows}</pre>'


@cache
def _colored_lines(module: str, addresses: frozenset[tuple[Target, str]]) -> list[str]:
    address_of = dict(addresses)
    links = {
        (reference.line, reference.column): address_of[reference.target]
        for reference in references_in(module)
        if reference.target in address_of
    }
    return list(_colored(source_of(module).text, links))


def _colored(text: str, links: Mapping[tuple[int, int], str]) -> Iterable[str]:
    parts: list[str] = []
    line, column = 1, 0
    for kind, value in PythonLexer(stripnl=False, ensurenl=False).get_tokens(text):
        for index, piece in enumerate(re.split("(\n)", value)):
            if index % 2:
                yield "".join(parts)
                line, column, parts = line + 1, 0, []
            elif piece:
                parts.append(_token(piece, STANDARD_TYPES.get(kind, ""), links.get((line, column))))
                column += len(piece)
    yield "".join(parts)


def _token(text: str, kind: str, href: str | None) -> str:
    color = COLORS.get(kind) or COLORS.get(kind[:1] if kind[:1] in "ksmc" else "", "")
    shown = f'<span class="{color}">{escaped(text)}</span>' if color else escaped(text)
    return f'<a href="{escaped(href)}">{shown}</a>' if href else shown


def index_body(links: Links) -> list[str]:
    """The first page of the walk: stations, an index of functions and one of symbols.

    :param links: to stations.
    :return: HTML.
    """
    rows = "".join(
        f'<li><a href="{page_of(station)}">{escaped(station.title)}</a> <span class="pale">'
        f"{', '.join(f'{module.replace(chr(46), chr(47))}.py' for module in station.modules)}</span></li>"
        for station in STATIONS
    )
    functions = sorted(
        (name, address)
        for (module, name), address in links.addresses.items()
        if module.startswith("sb3_ppo_notes.formulas") and not name.startswith("_")
    )
    formulas = ", ".join(_named_links(functions))
    symbols = "".join(
        f"<tr><td>{escaped(symbol)}</td><td>{', '.join(_named_links(uses))}</td></tr>"
        for symbol, uses in symbol_index(links.addresses).items()
    )
    beside = "".join(f"<li><code>{room}/</code>: {escaped(reason)}</li>" for room, reason in BESIDE.items())
    return [
        "<h1>A walk through the code</h1>",
        "<p>From <code>learn()</code> to the last formula. Code stands right, its note left; every equation on these "
        "pages has been evaluated against the function beside it.</p>",
        f"<ol>{rows}</ol>",
        f"<h2>Formulas</h2><p>{formulas}</p>",
        f'<h2>Symbols</h2><div class="wide"><table>{symbols}</table></div>',
        f"<h2>Not on the walk</h2><ul>{beside}</ul>",
    ]


def _named_links(uses: Iterable[tuple[str, str]]) -> list[str]:
    return [f'<a href="{address}"><code>{escaped(name)}</code></a>' for name, address in uses]


# A letter, Greek ones among them, with its accents, primes, indices and argument, at the start of a sentence.
SYMBOL = re.compile(
    r"(?:log )?[A-Za-z\u0391-\u03c9\u2207][\u0300-\u036f\u2032]*[₀-₉ₐ-ₜ_]*(?:\([^)]*\))?(?=[,;:. ]|$| in | >| ∈)"
)


def symbol_index(addresses: Mapping[Target, str]) -> dict[str, list[tuple[str, str]]]:
    """Symbols of the formulas' ``:param:`` lines, and the functions that explain them.

    :param addresses: of what is on the walk.
    :return: symbol -> (function, address).
    """
    index: dict[str, list[tuple[str, str]]] = {}
    for (module, name), address in sorted(addresses.items()):
        if not module.startswith("sb3_ppo_notes.formulas"):
            continue
        docstring = next(section.docstring for section in sections_of(module) if section.name == name)
        for parameter in parsed(docstring).parameters:
            match = SYMBOL.match(parameter.meaning)
            if match and (len(match.group()) <= 2 or not match.group().isascii() or "(" in match.group()):
                index.setdefault(match.group().strip(), []).append((name, address))
    return dict(sorted(index.items()))
