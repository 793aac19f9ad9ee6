"""Never losing a run: exact checkpoints, files that are whole, models loaded without running their code."""

from sb3_ppo_notes.persistence.signals import GracefulStop, StopOnSignal

__all__ = ["GracefulStop", "StopOnSignal"]
