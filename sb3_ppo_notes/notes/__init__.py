"""Thirty questions, each answered by an experiment that anybody can run.

``NOTES["why-min"]`` shows the note in Jupyter; ``.run()`` carries out its experiment, ``.claims()`` compares what it
measured with what the text says, ``.figure()`` draws it. ``python -m sb3_ppo_notes notes`` makes pages of all of them.
"""

import importlib
import pkgutil
from collections.abc import Iterator, Mapping

from sb3_ppo_notes.notes.note import Claim, Frame, Note

__all__ = ["NOTES", "PARTS", "Claim", "Frame", "Note"]
#: Folder -> the part's name; in this order the notes are read.
PARTS = {
    "words": "Words",
    "returns": "Returns",
    "objective": "The objective",
    "kl": "KL",
    "entropy": "Entropy",
    "step": "Loss and step",
    "machinery": "Machinery",
}


class Notes(Mapping[str, Note]):
    """All notes by name, in the order of their numbers; a note's module is imported when it is asked for."""

    def __init__(self) -> None:
        folders = {part: [f"{folder}/{part}" for folder in __path__] for part in PARTS}
        modules = [(part, name) for part, paths in folders.items() for _, name, _ in pkgutil.iter_modules(paths)]
        self._modules = {_name_of(module): f"{part}.{module}" for part, module in modules}
        #: Of each note, in their order; none is imported for it.
        self.numbers = {_name_of(module): int(module[1:3]) for _, module in modules}
        #: Of each note the name of its part.
        self.parts = {_name_of(module): PARTS[part] for part, module in modules}

    def __getitem__(self, name: str) -> Note:
        """A note.

        :param name: of it.
        :return: the note.
        :raises KeyError: if there is none of this name.
        """
        note: Note = importlib.import_module(f"{__name__}.{self._modules[name]}").NOTE
        return note

    def __iter__(self) -> Iterator[str]:
        """Their names."""
        return iter(self._modules)

    def __len__(self) -> int:
        """Number of notes."""
        return len(self._modules)


def _name_of(module: str) -> str:
    return module[4:].replace("_", "-")


NOTES = Notes()
