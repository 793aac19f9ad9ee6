"""Deliberate bugs that only a note's claims are about: in a note's own experiment, or in a line that no other test watches.

``test_note_mutants.py`` plants them and asks the claims that name them to fail. In the order of the notes.
"""

from typing import NamedTuple


class NoteMutant(NamedTuple):
    name: str
    file: str
    right: str
    wrong: str


NOTE_MUTANTS = [
    NoteMutant(
        "note 13: the foil does not clip",
        "notes/n13_why_min.py",
        "return th.clamp(ratio, 1 - clip_range, 1 + clip_range) * advantages",
        "return ratio * advantages",
    ),
]
