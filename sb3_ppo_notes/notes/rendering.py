"""A note as HTML."""

from __future__ import annotations

import inspect
from typing import TYPE_CHECKING

from markdown_it import MarkdownIt

from sb3_ppo_notes.charts import svg
from sb3_ppo_notes.pages import escaped

if TYPE_CHECKING:
    from sb3_ppo_notes.notes.note import Note

MARKDOWN = MarkdownIt("commonmark", {"html": False}).enable("table")


def fragment(note: Note, seed: int) -> str:
    """A note's text, picture, code and claims.

    :param note: the note.
    :param seed: of its experiment.
    :return: HTML without a frame.
    """
    picture = svg(note.figure(seed), note.name, escaped(note.question), "broad")
    claims = "".join(
        f"<li>{'✓' if claim.holds else '✗'} {escaped(claim.sentence)} {escaped(claim.numbers)}</li>"
        for claim in note.claims(seed)
    )
    code = escaped(inspect.getsource(note.module.experiment))
    answer = MARKDOWN.render(note.answer(note.run(seed)))
    return f"<h1>{escaped(note.question)}</h1>{answer}<figure>{picture}</figure><ul>{claims}</ul><pre>{code}</pre>"
