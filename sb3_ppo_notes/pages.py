"""The page of a report: one file with everything in it, no script, and nothing that is loaded from elsewhere."""

import base64
import html
import re
from collections.abc import Iterable, Sequence

#: The browser itself is told to load nothing: neither from the network nor from the disk.
POLICY = "default-src 'none'; style-src 'unsafe-inline'; img-src data:"
STYLE = """
:root { color-scheme: light; --ink: #1c1f23; --pale: #5c646e; --line: #d9dde2; --sheet: #f6f7f9; }
* { box-sizing: border-box; }
body { margin: 0 auto; padding: 1.5rem 1rem 4rem; max-width: 60rem; color: var(--ink); background: white;
  font: 16px/1.5 system-ui, "Segoe UI", Roboto, "Helvetica Neue", Arial, sans-serif; }
h1 { font-size: 1.7rem; line-height: 1.2; margin: 0 0 .3rem; overflow-wrap: anywhere; }
h2 { font-size: 1.2rem; margin: 2.6rem 0 .4rem; padding-top: .6rem; border-top: 1px solid var(--line); }
h3 { font-size: 1.05rem; margin: 0 0 .3rem; overflow-wrap: anywhere; }
p { margin: .4rem 0; max-width: 46rem; }
.pale, figcaption { color: var(--pale); font-size: .92rem; }
.card { margin: 1rem 0; padding: .9rem 1.1rem; border-left: .45rem solid var(--pale); background: var(--sheet); }
.card .headline { font-size: 1.3rem; font-weight: 650; margin: 0 0 .3rem; }
.good { border-color: #009e73; } .better { border-color: #0072b2; } .worse { border-color: #d55e00; }
.open { border-color: #e69f00; }
figure { margin: 1rem 0; } figcaption { max-width: 46rem; margin-top: .3rem; }
img { display: block; max-width: 100%; height: auto; } nav a { margin-right: 1rem; }
svg.plot { display: block; width: 100%; height: auto; } svg.narrow { display: none; max-width: 32rem; }
@media (max-width: 44rem) { svg.broad { display: none; } svg.narrow { display: block; } }
.wide { overflow-x: auto; } table { border-collapse: collapse; font-size: .9rem; margin: .6rem 0; }
th, td { padding: .25rem .7rem .25rem 0; text-align: left; vertical-align: top; border-bottom: 1px solid var(--line); }
th { font-weight: 600; } td.number, th.number { text-align: right; font-variant-numeric: tabular-nums; }
td.number { white-space: nowrap; } td { overflow-wrap: break-word; min-width: 4rem; }
tr.differs td { background: #fff4d6; }
pre, code { font: .86rem/1.45 ui-monospace, "SF Mono", Consolas, "DejaVu Sans Mono", monospace; }
pre { padding: .7rem; background: var(--sheet); white-space: pre-wrap; overflow-wrap: anywhere; margin: .5rem 0; }
details { margin: .6rem 0; } summary { cursor: pointer; font-weight: 600; }
"""


def escaped(value: object) -> str:
    """A value as text of a page.

    :param value: anything.
    :return: HTML.

    >>> escaped("a<b")
    'a&lt;b'
    """
    return html.escape(str(value))


def page(title: str, body: Iterable[str], style: str = STYLE, policy: str = POLICY) -> str:
    """The whole page.

    :param title: of the window.
    :param body: HTML.
    :param style: how it looks.
    :param policy: what the browser may load and run.
    :return: HTML.
    """
    return "\n".join(
        [
            "<!DOCTYPE html>",
            '<html lang="en"><head><meta charset="utf-8">',
            f'<meta http-equiv="Content-Security-Policy" content="{policy}">',
            '<meta name="viewport" content="width=device-width, initial-scale=1">',
            f"<title>{escaped(title)}</title>",
            f"<style>{style}</style></head><body>",
            *body,
            "</body></html>\n",
        ]
    )


def paragraph(text: str, kind: str = "") -> str:
    """A paragraph.

    :param text: plain.
    :param kind: its class.
    :return: HTML.
    """
    return f"<p{f' class={chr(34)}{kind}{chr(34)}' if kind else ''}>{escaped(text)}</p>"


def heading(text: str) -> str:
    """The heading of a section.

    :param text: plain.
    :return: HTML.
    """
    return f"<h2>{escaped(text)}</h2>"


def card(kind: str, title: str, headline: str, sentences: Iterable[str]) -> str:
    """A box with a result in it.

    :param kind: its class: ``good``, ``better``, ``worse`` or ``open``.
    :param title: what it is about.
    :param headline: the result.
    :param sentences: what it means.
    :return: HTML.
    """
    body = "".join(paragraph(sentence) for sentence in sentences)
    return f'<section class="card {kind}"><h3>{escaped(title)}</h3>{paragraph(headline, "headline")}{body}</section>'


def plot(broad: str, narrow: str, caption: str = "") -> str:
    """A plot, and how it is read.

    :param broad: the ``svg`` element for a screen.
    :param narrow: the one for a telephone; of the two only one is seen.
    :param caption: plain.
    :return: HTML.
    """
    below = f"<figcaption>{escaped(caption)}</figcaption>" if caption else ""
    return f"<figure>{broad}{narrow}{below}</figure>"


def picture(png: bytes, caption: str) -> str:
    """A picture, which is part of the page.

    :param png: the content of a PNG file.
    :param caption: plain.
    :return: HTML.
    """
    source = f"data:image/png;base64,{base64.b64encode(png).decode()}"
    text = escaped(caption)
    return f'<figure><img alt="{text}" src="{source}"><figcaption>{text}</figcaption></figure>'


def table(headings: Sequence[str], rows: Iterable[Sequence[object]], marked: Iterable[int] = ()) -> str:
    """A table; numbers, and what begins like one, stand to the right.

    :param headings: of the columns.
    :param rows: as long each.
    :param marked: indices of the rows to be set off.
    :return: HTML.
    """
    body, marked = [list(map(str, row)) for row in rows], set(marked)
    is_number = [
        index > 0 and bool(body) and all(_begins_like_a_number(row[index]) for row in body)
        for index in range(len(headings))
    ]
    kinds = [' class="number"' if number else "" for number in is_number]
    head = "".join(f"<th{kind}>{_breakable(text)}</th>" for kind, text in zip(kinds, headings, strict=True))
    lines = []
    for index, row in enumerate(body):
        texts = [escaped(text) if kind else _breakable(text) for kind, text in zip(kinds, row, strict=True)]
        cells = "".join(f"<td{kind}>{text}</td>" for kind, text in zip(kinds, texts, strict=True))
        lines.append(f"<tr{' class=differs' if index in marked else ''}>{cells}</tr>")
    return f'<div class="wide"><table><thead><tr>{head}</tr></thead><tbody>{"".join(lines)}</tbody></table></div>'


def _breakable(text: str) -> str:
    """An arm with many options is one long word."""
    return re.sub(r",(?=\S)", ",<wbr>", escaped(text))


def _begins_like_a_number(text: str) -> bool:
    return text[:1].isdigit() or text[:2] in ("–", "-") or (text[:1] in "+-−" and text[1:2].isdigit())


def details(summary: str, body: str) -> str:
    """Something that is unfolded by a click.

    :param summary: what it is.
    :param body: HTML.
    :return: HTML.
    """
    return f"<details><summary>{escaped(summary)}</summary>{body}</details>"


def preformatted(text: str) -> str:
    """A command, or an error.

    :param text: plain.
    :return: HTML.
    """
    return f"<pre>{escaped(text)}</pre>"
