"""Networks: from observations to distribution parameters and values."""

from sb3_ppo_notes.policies.networks import (
    NotesActorCriticCnnPolicy,
    NotesActorCriticPolicy,
    NotesMultiInputActorCriticPolicy,
)
from sb3_ppo_notes.policies.recurrent import (
    NotesRecurrentActorCriticCnnPolicy,
    NotesRecurrentActorCriticPolicy,
    NotesRecurrentMultiInputActorCriticPolicy,
)
from sb3_ppo_notes.policies.trunk import SharedTrunk, shared_trunk

__all__ = [
    "NotesActorCriticCnnPolicy",
    "NotesActorCriticPolicy",
    "NotesMultiInputActorCriticPolicy",
    "NotesRecurrentActorCriticCnnPolicy",
    "NotesRecurrentActorCriticPolicy",
    "NotesRecurrentMultiInputActorCriticPolicy",
    "SharedTrunk",
    "shared_trunk",
]
