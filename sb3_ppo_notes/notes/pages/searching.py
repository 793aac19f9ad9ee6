"""Notes by words, in four languages and in symbols."""

import inspect
import re
import unicodedata
from collections.abc import Iterator

from sb3_ppo_notes.notes.equations import tree as equations
from sb3_ppo_notes.notes.note import Note
from sb3_ppo_notes.notes.pages.glossary import TERMS
from sb3_ppo_notes.notes.seeds import QUESTIONS


def folded(text: str) -> str:
    """Without the differences that nobody means when searching: case, width, hyphens, -ise or -ize.

    :param text: any.
    :return: to be compared.

    >>> folded("Log_Prob ＭＩＮ")
    'log prob min'
    """
    plain = unicodedata.normalize("NFKC", text).casefold().replace("-", " ").replace("_", " ")
    return " ".join(re.sub(r"(\w{3})iz(e|ed|er|es|ing|ation)\b", r"\1is\2", plain).split())


def texts_of(note: Note) -> Iterator[tuple[int, str]]:
    """What a note is found by, and how much that says: 0 titles, 1 terms, 2 questions and symbols, 3 the rest.

    :param note: the note.
    :return: ranks and texts.
    """
    yield from ((0, title) for title in (note.name, *note.titles.values()))
    for term in TERMS:
        if term.note == note.name:
            yield from ((1, word) for word in (term.en, term.ja, term.fr, term.ko))
            if term.symbol:
                yield 1, term.symbol
    yield from ((2, QUESTIONS[question]) for question in note.answers)
    for formula in note.formulas:
        yield 2, formula.__name__
        yield from ((2, block) for block in equations.blocks(inspect.getdoc(formula) or ""))
    yield 3, note.answer()


def question_asked(note: Note, query: str) -> str:
    """The question among those that a note answers that has most of a query's words.

    :param note: the note.
    :param query: words.
    :return: empty if none has any of them.
    """
    words = folded(query).split()
    counts = {QUESTIONS[id]: sum(word in folded(QUESTIONS[id]) for word in words) for id in note.answers}
    best = max(counts, key=counts.__getitem__)
    return best if counts[best] else ""


def rank(note: Note, query: str) -> int | None:
    """How well a query fits a note.

    :param note: the note.
    :param query: words; each has to be found.
    :return: 0 for the best, ``None`` where a word is missing.
    """
    texts = [(importance, folded(text)) for importance, text in texts_of(note)]
    whole = [importance for importance, text in texts if folded(query) in text]
    if whole:
        return min(whole)
    found = [[importance for importance, text in texts if word in text] for word in folded(query).split()]
    return 1 + max(map(min, found)) if found and all(found) else None
