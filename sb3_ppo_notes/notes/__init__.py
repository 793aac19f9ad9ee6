"""Thirty questions, each answered by an experiment that anybody can run.

``NOTES["why-min"]`` shows the note in Jupyter; ``.run()`` carries out its experiment, ``.claims()`` compares what it
measured with what the text says, ``.figure()`` draws it. ``python -m sb3_ppo_notes notes`` makes pages of all of them.
"""

import importlib
import pkgutil
import re
from collections.abc import Iterator, Mapping

from sb3_ppo_notes.notes.note import Claim, Frame, Note

__all__ = ["NOTES", "Claim", "Frame", "Note"]


class Notes(Mapping[str, Note]):
    """All notes by name, in the order of their numbers; a note's module is imported when it is asked for."""

    def __init__(self) -> None:
        modules = sorted(name for _, name, _ in pkgutil.iter_modules(__path__) if re.match(r"n\d\d_", name))
        self._modules = {name[4:].replace("_", "-"): name for name in modules}
        #: Of each note, in their order; none is imported for it.
        self.numbers = {name: int(module[1:3]) for name, module in self._modules.items()}

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
        """How many there are."""
        return len(self._modules)


NOTES = Notes()
