"""Gathering experience and storing it: the collector, the buffers, vectorised environments."""

from sb3_ppo_notes.rollouts.buffers import NotesDictRolloutBuffer, NotesRolloutBuffer
from sb3_ppo_notes.rollouts.collector import collect_rollouts
from sb3_ppo_notes.rollouts.finite import FiniteGuard, guard_normalizer

__all__ = ["FiniteGuard", "NotesDictRolloutBuffer", "NotesRolloutBuffer", "collect_rollouts", "guard_normalizer"]
