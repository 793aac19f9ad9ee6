"""All notes as pages that refer to each other and to nothing else: text at once, numbers and pictures as they come."""

import base64
import hashlib
import itertools
import re
import traceback
from collections.abc import Iterator, Mapping
from functools import cache
from typing import Any, NamedTuple

import numpy as np

from sb3_ppo_notes._version import __version__
from sb3_ppo_notes.callbacks.symptoms import SYMPTOMS, WORDS
from sb3_ppo_notes.notes import NOTES
from sb3_ppo_notes.notes.equations.markup import line_mathml
from sb3_ppo_notes.notes.note import Claim, Note
from sb3_ppo_notes.notes.pages.glossary import TERMS
from sb3_ppo_notes.notes.pages.rendering import LANGUAGE_NAMES, article, document, head
from sb3_ppo_notes.notes.pages.searching import folded, texts_of
from sb3_ppo_notes.notes.pages.walk import STATIONS
from sb3_ppo_notes.notes.pages.walk_pages import STYLE as WALK_STYLE
from sb3_ppo_notes.notes.pages.walk_pages import Links, Target, anchors, index_body, page_of, station_body
from sb3_ppo_notes.notes.seeds import QUESTIONS, asked_in
from sb3_ppo_notes.pages import POLICY, escaped

#: Numbers; of more of them the smallest, the mean and the largest are written.
LONGEST_ROW = 3000
#: Only hides what does not fit what was typed; without it everything is there.
SCRIPT = r"""
const field = document.querySelector("#search"), items = [...document.querySelectorAll("[data-words]")];
const fold = text => text.normalize("NFKC").toLowerCase().replace(/[-_\s]+/g, " ").trim()
  .replace(/(\w{3})iz(e|ed|er|es|ing|ation)\b/g, "$1is$2");
field.closest("p").hidden = false;
field.addEventListener("input", () => {
  const words = fold(field.value).split(" ");
  for (const item of items) item.hidden = !words.every(word => item.dataset.words.includes(word));
});
"""
HASH = base64.b64encode(hashlib.sha256(SCRIPT.encode()).digest()).decode()
INDEX_POLICY = f"{POLICY}; script-src 'sha256-{HASH}'"


class Computed(NamedTuple):
    """A note whose experiment has been carried out, or has failed.

    :param name: of the note.
    :param page: HTML, whole.
    :param claims: with what was measured; none if the experiment failed.
    :param error: its traceback, or nothing.
    :param rows: the numbers of its result, see :func:`numbers_of`.
    """

    name: str
    page: str
    claims: tuple[Claim, ...]
    error: str
    rows: tuple[tuple[Any, ...], ...]

    @property
    def holds(self) -> bool:
        """Whether all claims hold on this machine."""
        return not self.error and all(claim.holds for claim in self.claims)


@cache
def _addresses() -> dict[Target, str]:
    """Of functions on the walk, from a note's page."""
    return {target: f"walk/{address}" for target, address in anchors().items()}


def walk_pages() -> Iterator[tuple[str, str]]:
    """The walk through the code; nothing in it is computed.

    :return: file names below ``walk/``, and HTML, whole.
    """
    notes: dict[Target, list[tuple[str, str]]] = {}
    tests: dict[Target, list[str]] = {}
    for note in NOTES.values():
        for formula in note.formulas:
            target = formula.__module__, formula.__qualname__
            notes.setdefault(target, []).append((note.question, f"../{note.name}.html"))
            # tests/formulas/test_objectives.py asserts what formulas/objectives.py says.
            room, file = formula.__module__.split(".")[1], formula.__module__.rpartition(".")[2]
            named = [test.rpartition("::")[2] for test in note.tests if test.startswith(f"tests/{room}/test_{file}")]
            tests[target] = [*tests.get(target, []), *(test for test in named if test not in tests.get(target, []))]
    links = Links(anchors(), notes, {target: named for target, named in tests.items() if named})
    to_notes = '<nav class="head"><a href="../index.html">All notes</a></nav>'
    body = "\n".join([to_notes, *index_body(links)])
    yield "index.html", document("A walk through the code", body, style=WALK_STYLE)
    for station in STATIONS:
        body = "\n".join([to_notes, *station_body(station, links, line_mathml)])
        yield page_of(station), document(station.title, body, style=WALK_STYLE)


def text_page(name: str) -> str:
    """A note's page before anything is computed.

    :param name: of the note.
    :return: HTML, whole.
    """
    note = NOTES[name]
    return document(note.question, head(note, NOTES.numbers) + article(note, None, addresses=_addresses()))


def computed(name: str, seed: int) -> Computed:
    """Carry out a note's experiment and draw it. An experiment that raises is shown with its traceback.

    :param name: of the note.
    :param seed: of the experiment.
    :return: everything that is written of it.
    """
    note, error = NOTES[name], ""
    try:
        body = article(note, seed, addresses=_addresses())
        claims, rows = note.claims(seed), tuple(numbers_of(note.run(seed)))
    except Exception:
        # Whatever goes wrong in one experiment is that note's result, and no reason to withhold the others.
        error = traceback.format_exc()
        body, claims, rows = article(note, None, error), (), ()
    said = f"<footer>Computed on this machine with seed {seed} by sb3_ppo_notes {__version__}.</footer>"
    return Computed(name, document(note.question, head(note, NOTES.numbers) + body + said), claims, error, rows)


def numbers_of(value: Any, name: str = "") -> Iterator[tuple[Any, ...]]:
    """The numbers of a result, for its table: an array's row in one line, behind its name; a very long one in brief.

    :param value: a ``NamedTuple``, or a part of it.
    :param name: of the part.
    :return: name and numbers of each.
    """
    parts = value._asdict() if hasattr(value, "_asdict") else value
    if isinstance(parts, list | tuple) and len({np.shape(part) for part in parts}) > 1:
        parts = dict(enumerate(parts))  # rows of different lengths
    if isinstance(parts, Mapping):
        for key, part in parts.items():
            yield from numbers_of(part, f"{name}/{key}" if name else str(key))
        return
    array = np.asarray(parts)
    if array.dtype.kind in "biufU":
        for place in np.ndindex(array.shape[:-1]):
            row = np.atleast_1d(array[place])
            if len(row) > LONGEST_ROW:
                row = np.array([row.min(), row.mean(), row.max()])
            yield "/".join((name, *map(str, place))), *map(_shortened, row.tolist())


def _shortened(number: Any) -> Any:
    return f"{number:.6g}" if isinstance(number, float) else number


def report(results: Mapping[str, Computed], seed: int) -> dict[str, Any]:
    """All claims with what was measured, for ``notes.json``.

    :param results: by the notes' names.
    :param seed: of the experiments.
    :return: plain data.
    """
    notes = [
        {
            "name": result.name,
            "holds": result.holds,
            "error": result.error,
            "claims": [
                {
                    "sentence": claim.sentence,
                    "holds": claim.holds,
                    "measured": _plain(claim.measured),
                    "relation": claim.relation,
                    "expected": _plain(claim.expected),
                    "tolerance": claim.tolerance,
                    "mutant": claim.mutant,
                }
                for claim in result.claims
            ],
        }
        for result in results.values()
    ]
    return {"version": __version__, "seed": seed, "notes": notes}


def _plain(value: Any) -> Any:
    array = np.asarray(value)
    if array.size > LONGEST_ROW // 10:
        return {"shape": list(array.shape), "min": float(array.min()), "max": float(array.max())}
    return array.tolist() if array.dtype.kind in "biuf" else str(value)


def index_page(results: Mapping[str, Computed | None]) -> str:
    """The first page: all notes, the questions that were asked, the field's words, what a run's numbers say.

    :param results: of the notes that are computed already; ``None`` for the others.
    :return: HTML, whole.
    """
    body = [
        "<h1>Thirty questions about PPO and A2C</h1>",
        "<p>Each is answered by an experiment that ran on this machine: the equation is the one above the function "
        "that computes it, the code shown is the code that ran, and every number in the text was measured.</p>",
        '<p>Or take <a href="walk/index.html">a walk through the code</a>, from <code>learn()</code> to the last '
        "formula.</p>",
        '<p hidden><label>Search in four languages and in symbols: <input id="search" type="search"></label></p>',
        *_list_of_notes(results),
        '<h2 id="questions">Seventy questions</h2>',
        _questions(),
        '<h2 id="symptoms">What do the numbers of a run tell?</h2>',
        _symptoms(),
        '<h2 id="glossary">Glossary</h2>',
        _glossary(),
    ]
    return document("Thirty questions about PPO and A2C", "\n".join(body), SCRIPT, INDEX_POLICY)


def _list_of_notes(results: Mapping[str, Computed | None]) -> Iterator[str]:
    for part, names in itertools.groupby(NOTES, NOTES.parts.__getitem__):
        yield f"<h2>{part}</h2><ul>"
        yield from (_entry(NOTES[name], results.get(name)) for name in names)
        yield "</ul>"


def _entry(note: Note, result: Computed | None) -> str:
    words = " ".join(folded(text) for importance, text in texts_of(note) if importance < 3)
    others = " · ".join(
        f'<span lang="{language}">{escaped(title)}</span>'
        for language, title in note.titles.items()
        if language != "en"
    )
    return (
        f'<li data-words="{escaped(words)}">{note.number}. <a href="{note.name}.html">{escaped(note.question)}</a> '
        f'{_verdict(result)}<br><span class="asked">{others}</span></li>'
    )


def _verdict(result: Computed | None) -> str:
    if result is None:
        return ""
    if result.error:
        return '<span class="broken"><b>✗ its experiment failed</b></span>'
    broken = sum(not claim.holds for claim in result.claims)
    if broken:
        return f'<span class="broken"><b>✗ {broken} of {len(result.claims)} claims do not hold here</b></span>'
    return f'<span class="asked">✓ {len(result.claims)} claims</span>'


def _table(headings: list[str], rows: Iterator[str]) -> str:
    head_ = "".join(f"<th>{heading}</th>" for heading in headings)
    return f'<div class="wide"><table><thead><tr>{head_}</tr></thead><tbody>{"".join(rows)}</tbody></table></div>'


def _questions() -> str:
    answered: dict[str, list[str]] = {question: [] for question in QUESTIONS}
    for note in NOTES.values():
        for question in note.answers:
            answered[question].append(f'<a href="{note.name}.html">{note.number}</a>')
    answered["A24"].append('<a href="#symptoms">below</a>')
    rows = (
        f'<tr data-words="{escaped(folded(text))}"><td>{escaped(text)}</td><td>{", ".join(answered[question])}</td>'
        f'<td class="asked">{escaped(asked_in(question))}</td></tr>'
        for question, text in QUESTIONS.items()
    )
    return _table(["question", "note", "asked in"], rows)


def _symptoms() -> str:
    def rows() -> Iterator[str]:
        for symptom in SYMPTOMS.values():
            text = re.sub(r"\{limit[^}]*\}", f"{symptom.limit:.3g}", re.sub(r"\{value[^}]*\}", "…", symptom.text))
            words = f"{symptom.measure} {text}"
            when = f"<code>{escaped(symptom.measure)}</code> {WORDS[symptom.is_bad]} {symptom.limit:.3g}"
            yield f'<tr data-words="{escaped(folded(words))}"><td>{when}</td><td>{escaped(text)}</td></tr>'

    return _table(["a measure of DiagnosticsCallback", "what it says"], rows())


def _glossary() -> str:
    def rows() -> Iterator[str]:
        for term in TERMS:
            words = (term.en, term.ja, term.fr, term.ko)
            cells = "".join(
                f'<td lang="{language}">{escaped(word)}</td>'
                for language, word in zip(LANGUAGE_NAMES, words, strict=True)
            )
            number = NOTES.numbers.get(term.note)
            link = f'<a href="{term.note}.html">{number}</a>' if number is not None else ""
            found_by = folded(" ".join((*words, term.symbol)))
            yield f'<tr data-words="{escaped(found_by)}">{cells}<td>{escaped(term.symbol)}</td><td>{link}</td></tr>'

    return _table([*LANGUAGE_NAMES.values(), "symbol", "note"], rows())


def markdown_table() -> str:
    """The questions with the notes' names, for ``docs/read.md``.

    :return: Markdown.
    """
    rows = [f"| {note.question} | `{name}` |" for name, note in NOTES.items()]
    return "\n".join(["| you ask | the note |", "|---|---|", *rows])


def front_page_table() -> str:
    """The questions, a row a part, for ``README.md``.

    :return: Markdown.
    """
    rows = [
        f"| {part} | {' '.join(NOTES[name].question for name in names)} |"
        for part, names in itertools.groupby(NOTES, NOTES.parts.__getitem__)
    ]
    return "\n".join(["| part | thirty questions |", "|---|---|", *rows])
