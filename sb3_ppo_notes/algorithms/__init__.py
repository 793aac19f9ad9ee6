"""NotesPPO, NotesA2C, and the one update they share."""

from sb3_ppo_notes.algorithms.a2c import NotesA2C
from sb3_ppo_notes.algorithms.ppo import NotesPPO

__all__ = ["NotesA2C", "NotesPPO"]
