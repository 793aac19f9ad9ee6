"""Never losing a run: exact checkpoints, files that are whole, models loaded without running their code."""

from sb3_ppo_notes.persistence.archive import UnsafeModelError
from sb3_ppo_notes.persistence.checkpoint import ResumeReport, load_checkpoint, save_checkpoint
from sb3_ppo_notes.persistence.environments import Restorable
from sb3_ppo_notes.persistence.exact import ExactCheckpoint
from sb3_ppo_notes.persistence.safe import load_safe
from sb3_ppo_notes.persistence.signals import GracefulStop, StopOnSignal
from sb3_ppo_notes.persistence.storage import CheckpointCorruptError, CheckpointVersionError

__all__ = [
    "CheckpointCorruptError",
    "CheckpointVersionError",
    "ExactCheckpoint",
    "GracefulStop",
    "Restorable",
    "ResumeReport",
    "StopOnSignal",
    "UnsafeModelError",
    "load_checkpoint",
    "load_safe",
    "save_checkpoint",
]
