"""PPO and A2C for Stable-Baselines3 that can be read, trusted and that outrun the stock ones."""

from sb3_ppo_notes._version import __version__
from sb3_ppo_notes.algorithms import NotesA2C, NotesPPO

__all__ = ["NotesA2C", "NotesPPO", "__version__"]
