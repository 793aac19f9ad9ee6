"""A note as HTML: for Jupyter, and as a page of its own."""

from __future__ import annotations

import ast
import html
import inspect
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import numpy as np
from markdown_it import MarkdownIt
from matplotlib.collections import Collection
from matplotlib.figure import Figure
from pygments import highlight
from pygments.formatters import HtmlFormatter
from pygments.lexers import PythonLexer

import sb3_ppo_notes.pages as pages
from sb3_ppo_notes.charts import INK, svg
from sb3_ppo_notes.notes.equations import tree as equations
from sb3_ppo_notes.notes.equations.markup import block_mathml
from sb3_ppo_notes.notes.pages.docstrings import inline
from sb3_ppo_notes.notes.seeds import QUESTIONS, asked_in
from sb3_ppo_notes.pages import escaped

if TYPE_CHECKING:
    from sb3_ppo_notes.notes.note import Claim, Note

MARKDOWN = MarkdownIt("commonmark", {"html": False}).enable("table")
PACKAGE = Path(pages.__file__).parent
LANGUAGE_NAMES = {"en": "English", "ja": "日本語", "fr": "français", "ko": "한국어"}
LARGEST_COLLECTION = 500
#: Pygments' classes that have a colour here; a span of any other is only weight.
COLOURED = ("c", "c1", "k", "kn", "kc", "ow", "s1", "s2", "sd", "se", "si", "sa", "mi", "mf", "nf", "nc", "nd", "fm")

STYLE = """
:root { color-scheme: light dark; --ink: #1c1f23; --pale: #5c646e; --line: #d9dde2; --sheet: #f6f7f9; --ground: #fff;
  --good: #007a58; --bad: #b84600; --link: #0062a0; --word: #0062a0; --text: #7a4b00; --said: #667;
  --blue: #0072b2; }
@media (prefers-color-scheme: dark) { :root { --ink: #e4e7eb; --pale: #9aa4b0; --line: #363c44; --sheet: #1d2126;
  --ground: #14171a; --good: #35c79c; --bad: #ff9a5c; --link: #6bb8f0; --word: #7fc1f2; --text: #e3b76a;
  --said: #98a2ae; --blue: #4fa9e6; } }
* { box-sizing: border-box; }
body { margin: 0 auto; padding: 1rem 1rem 4rem; max-width: 48rem; color: var(--ink); background: var(--ground);
  font: 16px/1.55 system-ui, "Segoe UI", Roboto, "Helvetica Neue", Arial, sans-serif; overflow-wrap: break-word; }
a { color: var(--link); } h1 { font-size: 1.7rem; line-height: 1.2; margin: .8rem 0 .2rem; }
h2 { font-size: 1.15rem; margin: 2.2rem 0 .4rem; padding-top: .5rem; border-top: 1px solid var(--line); }
nav.head, .titles, .asked, .pale, footer, figcaption { color: var(--pale); font-size: .88rem; }
nav.head { display: flex; gap: 1rem; flex-wrap: wrap; justify-content: space-between; }
.titles span { margin-right: 1rem; }
.wide, .equation { overflow-x: auto; } table { border-collapse: collapse; font-size: .92rem; margin: .7rem 0; }
th, td { padding: .25rem .8rem .25rem 0; text-align: left; vertical-align: top; border-bottom: 1px solid var(--line); }
.equation { padding: .5rem .8rem; margin: .4rem 0; background: var(--sheet); border-left: .2rem solid var(--line); }
.equation p { margin: .25rem 0; white-space: nowrap; }
.said { color: var(--said); white-space: normal; }
/* One of them comes with macOS, Windows and most Linux desktops: without such a font indices are not lowered. */
math { font-family: "STIX Two Math", "Cambria Math", "Latin Modern Math", "DejaVu Math TeX Gyre", "Libertinus Math",
  math; font-size: 1.08em; }
math { margin-right: 1.2em; } figure { margin: 1rem 0; } svg text { font-family: system-ui, sans-serif; }
svg.plot { display: block; width: 100%; max-width: 36rem; height: auto; } code { overflow-wrap: anywhere; }
pre, code { font: .84rem/1.45 ui-monospace, "SF Mono", Consolas, "DejaVu Sans Mono", monospace; }
pre { padding: .7rem .8rem; background: var(--sheet); overflow-x: auto; white-space: pre; overflow-wrap: normal; }
.claims { list-style: none; padding: 0; } .claims li { margin: .45rem 0; padding-left: 1.5rem; text-indent: -1.5rem; }
.claims b { display: inline-block; width: 1.5rem; text-indent: 0; color: var(--good); }
.claims .broken b, .broken > b { color: var(--bad); }
.numbers { display: block; text-indent: 0; color: var(--pale); font-size: .88rem; }
.slider { border: 1px solid var(--line); padding: .5rem .9rem; margin: 1rem 0; } .slider legend { color: var(--pale); }
.slider label { margin-right: .7rem; } .slider .frames { clear: both; } .slider .frames > figure { display: none; }
details { margin: .6rem 0; } summary { cursor: pointer; } [hidden] { display: none; }
.c, .c1 { color: var(--pale); font-style: italic; } .k, .kn, .kc, .ow { color: var(--word); }
.s1, .s2, .sd, .se, .si, .sa, .mi, .mf { color: var(--text); } .nf, .nc, .nd, .fm { font-weight: 600; }
"""


def document(title: str, body: str, script: str = "", policy: str = pages.POLICY, style: str = "") -> str:
    """A whole page that loads nothing.

    :param title: of the window.
    :param body: HTML.
    :param script: the one script that there is, if any; the policy has to allow it.
    :param policy: what the browser may do.
    :param style: of this kind of page, beside what all have.
    :return: HTML.
    """
    scripts = [f"<script>{script}</script>"] if script else []
    return pages.page(title, [body, *scripts], style=STYLE + style, policy=policy)


def fragment(note: Note, seed: int) -> str:
    """A note as Jupyter shows it, with its own style.

    :param note: the note.
    :param seed: of its experiment.
    :return: HTML without a frame.
    """
    style = STYLE[STYLE.index(".wide") :]
    return f'<style>{style}</style><div class="note">{article(note, seed)}</div>'


def article(
    note: Note, seed: int | None, error: str = "", addresses: Mapping[tuple[str, str], str] = MappingProxyType({})
) -> str:
    """Everything of a note below the head of its page.

    :param note: the note.
    :param seed: of its experiment; ``None`` for its text alone.
    :param error: the traceback of an experiment that has failed.
    :param addresses: of functions on the walk, by module and name.
    :return: HTML.
    """
    result = None if seed is None or error else note.run(seed)
    titles = "".join(
        f'<span lang="{language}">{escaped(title)}</span>'
        for language, title in note.titles.items()
        if language != "en"
    )
    parts = [f"<h1>{escaped(note.question)}</h1>", f'<p class="titles">{titles}</p>']
    parts.append(f'<div class="answer">{markdown(note.answer(result))}</div>')
    parts += _formulas(note, addresses)
    if error:
        parts.append(
            f'<p class="broken"><b>✗</b> The experiment raised an error on this machine.</p><pre>{escaped(error)}</pre>'
        )
    elif seed is None:
        parts.append('<p class="asked">Picture and numbers are computed next, on this machine.</p>')
    else:
        parts += ["<h2>Picture</h2>", _picture(note, seed), *_slider(note, seed)]
        parts += ["<h2>Claims</h2>", claims_list(note.claims(seed))]
    parts += _code(note)
    parts += ["<h2>Asserted elsewhere too</h2>", _listed(f"<code>{escaped(test)}</code>" for test in note.tests)]
    asked = (f"{escaped(QUESTIONS[answer])} <i>({answer}, {escaped(asked_in(answer))})</i>" for answer in note.answers)
    parts += ["<h2>Who asked</h2>", f'<div class="asked">{_listed(asked)}</div>']
    return "\n".join(parts)


def markdown(text: str) -> str:
    """Prose as HTML.

    :param text: Markdown.
    :return: HTML; whatever is HTML in the text is shown as text.
    """
    rendered: str = MARKDOWN.render(text)
    return rendered.replace("<table>", '<div class="wide"><table>').replace("</table>", "</table></div>")


def claims_list(claims: tuple[Claim, ...]) -> str:
    """What a note asserts, beside what was measured.

    :param claims: of the note.
    :return: HTML.
    """
    items = [
        f"<li{'' if claim.holds else ' class=broken'}><b>{'✓' if claim.holds else '✗'}</b>{escaped(claim.sentence)}"
        f'<span class="numbers">{escaped(claim.numbers)}. Breaks with the bug “{escaped(claim.mutant)}”.</span></li>'
        for claim in claims
    ]
    return f'<ul class="claims">{"".join(items)}</ul>'


def highlighted(source: str) -> str:
    """Python in colours.

    :param source: the code.
    :return: the inside of a ``pre`` element.
    """
    marked = highlight(source, PythonLexer(stripall=False), HtmlFormatter(nowrap=True))
    # Spans do not nest.
    return re.sub(
        r'<span class="([^"]*)">([^<]*)</span>', lambda span: span[0] if span[1] in COLOURED else span[2], marked
    )


def code_that_ran(note: Note) -> list[str]:
    """The source of what an experiment consists of: its functions and classes, without what draws and what claims.

    :param note: the note.
    :return: each as it stands in the file, ``experiment`` first.
    """
    module = note.module
    source = inspect.getsource(module).splitlines()
    nodes = [node for node in ast.parse("\n".join(source)).body if isinstance(node, ast.FunctionDef | ast.ClassDef)]
    names = [node.name for node in nodes if node.name not in ("experiment", "picture", "frame", "claims")]
    return [inspect.getsource(getattr(module, name)).rstrip() for name in ("experiment", *names)]


def picture_as_svg(figure: Figure, name: str, described: str) -> str:
    """A figure in the page's own ink, light or dark.

    :param figure: drawn with :data:`sb3_ppo_notes.notes.note.STYLE`.
    :param name: unique in the page.
    :param described: for those who do not see it.
    :return: an ``svg`` element.
    """
    for collection in figure.findobj(Collection):
        # Thousands of little shapes are megabytes of text; as a picture within the picture they are kilobytes.
        shapes = max(len(collection.get_paths()), len(np.asarray(collection.get_offsets())))
        collection.set_rasterized(shapes > LARGEST_COLLECTION)
    text = svg(figure, name, html.escape(described), "broad")
    text = re.sub(rf"{INK}|#000000\b", "currentColor", text)
    text = re.sub(r"#0072b2\b", "var(--blue, #0072b2)", text)
    # The page's letters; a hundredth of a point is finer than any screen; names that nothing refers to, and spaces.
    text = re.sub(r"font-family: [^;\"]*;? ?", "", text)
    text = re.sub(r"(\d\.\d\d)\d+", r"\1", text)
    text = re.sub(r' transform="rotate\(-0 [^"]*"', "", text)
    referred = set(re.findall(r"#([^\")]+)", text))
    text = re.sub(r' id="([^"]+)"', lambda name: name[0] if name[1] in referred else "", text)
    return re.sub(r">\s+<", "><", re.sub(r"<!--.*?-->|\n(?=\")", "", text, flags=re.S)).replace(" \n", " ")


def _picture(note: Note, seed: int) -> str:
    return f"<figure>{picture_as_svg(note.figure(seed), note.name, f'picture of: {note.question}')}</figure>"


def _slider(note: Note, seed: int) -> list[str]:
    """Radio buttons and style alone: each position is a picture that was computed, so no formula exists twice."""
    frames = getattr(note.run(seed), "frames", {})
    if not frames:
        return []
    checked = len(frames) // 2
    buttons, figures, rules = [], [], []
    for number, label in enumerate(frames):
        name = f"{note.name}-{number}"
        mark = " checked" if number == checked else ""
        buttons.append(f'<input type="radio" name="{note.name}" id="{name}"{mark}><label for="{name}">{label}</label>')
        drawn = picture_as_svg(note.figure(seed, label), f"{name}-frame", f"{note.slider}: {label}")
        figures.append(f"<figure>{drawn}</figure>")
        rules.append(f"#{name}:checked ~ .frames > :nth-child({number + 1}) {{ display: block; }}")
    return [
        f"<style>{' '.join(rules)}</style>",
        f'<fieldset class="slider"><legend>{escaped(note.slider)}</legend>{" ".join(buttons)}',
        f'<div class="frames">{"".join(figures)}</div></fieldset>',
    ]


def _formulas(note: Note, addresses: Mapping[tuple[str, str], str]) -> list[str]:
    parts = ["<h2>Formulas and functions</h2>"]
    for formula in note.formulas:
        documentation = inspect.getdoc(formula) or ""
        drawn = [block_mathml(block) for block in equations.blocks(documentation)]
        name = f"<code>{formula.__qualname__}</code>"
        address = addresses.get((formula.__module__, formula.__qualname__))
        link = f'<a href="{address}">{name}</a>' if address else name
        said = "" if drawn else f": {inline(documentation.splitlines()[0])}"
        parts += [*drawn, f'<p class="asked">{link}, {escaped(_place(formula))}{said}</p>']
    return parts


def _place(formula: Callable[..., Any]) -> str:
    return Path(inspect.getsourcefile(formula) or "").relative_to(PACKAGE.parent).as_posix()


def _code(note: Note) -> list[str]:
    shown = "\n\n\n".join(code_that_ran(note))
    path = f"sb3_ppo_notes/notes/{note.module.__name__.rpartition('.')[2]}.py"
    return [
        "<h2>The code that ran</h2>",
        f'<pre translate="no">{highlighted(shown)}</pre>',
        f'<p class="asked">Run it: <code>python -m sb3_ppo_notes notes {note.name}</code>; all of it: {path}</p>',
    ]


def _listed(items: Any) -> str:
    return f"<ul>{''.join(f'<li>{item}</li>' for item in items)}</ul>"


def head(note: Note, names: Mapping[str, int]) -> str:
    """The way to the other notes.

    :param note: the note.
    :param names: of all notes, with their numbers.
    :return: HTML.
    """
    order = list(names)
    place = order.index(note.name)
    links = [
        '<a href="index.html">All notes</a>',
        '<a href="walk/index.html">The walk</a>',
        f"<span>{note.number} of {len(order)}</span>",
        *(f'<a href="{name}.html">{mark}</a>' for name, mark in _neighbours(order, place)),
    ]
    return f"<nav class='head'>{' '.join(links)}</nav>"


def _neighbours(order: list[str], place: int) -> list[tuple[str, str]]:
    before = [(order[place - 1], "← before")] if place else []
    return before + ([(order[place + 1], "next →")] if place + 1 < len(order) else [])
