"""The report as Markdown, and as one page that needs no network."""

from __future__ import annotations

import base64
import html
from collections.abc import Mapping, Sequence

from tuning.report.sections import Section

CAPTIONS = {
    "test_seeds": "Test scores, one dot a seed",
    "test_learning_curves": "Learning in the test: median, lowest and highest over seeds",
    "history": "Scores in the order of the trials",
    "learning_curves": "Learning curves of the search",
    "importances": "Importance of the parameters",
    "parallel_coordinates": "Parallel coordinates of the completed trials",
}
STYLE = """
body { font: 16px/1.5 system-ui, sans-serif; color: #1c1c1c; max-width: 62rem; margin: 2rem auto; padding: 0 1rem; }
h1 { font-size: 1.6rem; margin-bottom: .2rem; } h2 { font-size: 1.2rem; margin-top: 2.2rem; }
.result { background: #eef5fb; border-left: 4px solid #0072b2; padding: .4rem 1rem; }
.result p { margin: .4rem 0; }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; font-size: .85rem; margin: .6rem 0; }
th, td { text-align: left; padding: .25rem .7rem .25rem 0; border-bottom: 1px solid #ddd; vertical-align: top; }
th { border-bottom: 2px solid #888; white-space: nowrap; } td { overflow-wrap: anywhere; }
.wide td { white-space: nowrap; }
img { max-width: 100%; height: auto; display: block; } figure { margin: 1rem 0; }
figcaption { color: #555; font-size: .85rem; }
pre { background: #f5f5f5; padding: .8rem; overflow-x: auto; font-size: .85rem; }
nav a { margin-right: 1rem; }
"""


def markdown(title: str, sections: Sequence[Section]) -> str:
    """``report.md``; its pictures lie beside it."""
    lines = [f"# {title}", ""]
    for section in sections:
        lines += [f"## {section.title}", ""]
        for paragraph in section.paragraphs:
            lines += [paragraph, ""]
        if section.rows:
            lines += [_row(section.header), _row(["---"] * len(section.header))]
            lines += [_row(row) for row in section.rows]
            lines.append("")
        if section.code:
            lines += ["```yaml", section.code.rstrip("\n"), "```", ""]
        for name in section.pictures:
            lines += [f"![{CAPTIONS[name]}]({name}.png)", ""]
    return "\n".join(lines).rstrip("\n") + "\n"


def page(title: str, sections: Sequence[Section], pictures: Mapping[str, bytes]) -> str:
    """``report.html``: one file, pictures and style within; the first section is set off as the result."""
    body = []
    for place, section in enumerate(sections):
        words = "".join(f"<p>{html.escape(paragraph)}</p>" for paragraph in section.paragraphs)
        inner = f'<div class="result">{words}</div>' if place == 0 else words
        inner += _table(section) + (f"<pre>{html.escape(section.code)}</pre>" if section.code else "")
        for name in section.pictures:
            data = base64.b64encode(pictures[name]).decode()
            caption = html.escape(CAPTIONS[name])
            inner += f'<figure><img alt="{caption}" src="data:image/png;base64,{data}">'
            inner += f"<figcaption>{caption}</figcaption></figure>"
        body.append(f'<section id="s{place}"><h2>{html.escape(section.title)}</h2>{inner}</section>')
    links = "".join(f'<a href="#s{place}">{html.escape(one.title)}</a>' for place, one in enumerate(sections))
    escaped = html.escape(title)
    return (
        f'<!doctype html>\n<html lang="en"><head><meta charset="utf-8"><title>{escaped}</title>'
        f'<meta name="viewport" content="width=device-width, initial-scale=1"><style>{STYLE}</style></head>'
        f"<body><h1>{escaped}</h1><nav>{links}</nav>{''.join(body)}</body></html>\n"
    )


def _row(cells: Sequence[str]) -> str:
    return "| " + " | ".join(cell.replace("|", "\\|").replace("\n", " ") for cell in cells) + " |"


def _table(section: Section) -> str:
    if not section.rows:
        return ""
    head = "".join(f"<th>{html.escape(cell)}</th>" for cell in section.header)
    rows = "".join("<tr>" + "".join(f"<td>{html.escape(cell)}</td>" for cell in row) + "</tr>" for row in section.rows)
    kind = "scroll wide" if len(section.header) > 4 else "scroll"
    return f'<div class="{kind}"><table><thead><tr>{head}</tr></thead><tbody>{rows}</tbody></table></div>'
