"""The report as Markdown, and as one page that needs no network."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from sb3_ppo_notes import pages
from tuning.report.sections import Section

CAPTIONS = {
    "test_seeds": "Test scores, one dot a seed",
    "test_learning_curves": "Learning in the test: median, lowest and highest over seeds",
    "history": "Scores in the order of the trials",
    "learning_curves": "Learning curves of the search",
    "importances": "Importance of the parameters",
    "parallel_coordinates": "Parallel coordinates of the completed trials",
}


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
    links = "".join(f'<a href="#s{place}">{pages.escaped(one.title)}</a>' for place, one in enumerate(sections))
    body = [f"<h1>{pages.escaped(title)}</h1>", f"<nav>{links}</nav>"]
    for place, section in enumerate(sections):
        text = "".join(map(pages.paragraph, section.paragraphs))
        body += [f'<section id="s{place}">', pages.heading(section.title)]
        body.append(f'<div class="card better">{text}</div>' if place == 0 else text)
        if section.rows:
            body.append(pages.table(section.header, section.rows))
        if section.code:
            body.append(pages.preformatted(section.code))
        body += [pages.picture(pictures[name], CAPTIONS[name]) for name in section.pictures]
        body.append("</section>")
    return pages.page(title, body)


def _row(cells: Sequence[str]) -> str:
    return "| " + " | ".join(cell.replace("|", "\\|").replace("\n", " ") for cell in cells) + " |"
