"""Gathering experience and storing it: the collector, the buffers, vectorised environments."""

from sb3_ppo_notes.rollouts.buffers import NotesDictRolloutBuffer, NotesRolloutBuffer
from sb3_ppo_notes.rollouts.collector import collect_rollouts
from sb3_ppo_notes.rollouts.finite import FiniteGuard, guard_normalizer
from sb3_ppo_notes.rollouts.lean_vec_env import LeanVecEnv
from sb3_ppo_notes.rollouts.vector_env import GymnasiumVecEnv, make_gymnasium_vec

__all__ = [
    "FiniteGuard",
    "GymnasiumVecEnv",
    "LeanVecEnv",
    "NotesDictRolloutBuffer",
    "NotesRolloutBuffer",
    "collect_rollouts",
    "guard_normalizer",
    "make_gymnasium_vec",
]
