"""What is watched while it trains."""

from sb3_ppo_notes.callbacks.diagnostics import DiagnosticsCallback
from sb3_ppo_notes.callbacks.entropy import EntropyCallback
from sb3_ppo_notes.callbacks.evaluation import (
    MAX_EPISODE_STEPS,
    EvaluationStoppedError,
    MaskableEvalCallback,
    MaskedPredictor,
    evaluate_episodes,
)
from sb3_ppo_notes.callbacks.kl import KLCallback
from sb3_ppo_notes.callbacks.phases import Phase, PhasesCallback
from sb3_ppo_notes.callbacks.solved import StopWhenSolved
from sb3_ppo_notes.callbacks.stopping import StopWhenAllSucceeded
from sb3_ppo_notes.callbacks.updates import TrainingWarning, UpdateCallback
from sb3_ppo_notes.callbacks.video import VideoCallback
from sb3_ppo_notes.callbacks.watching import synchronize_normalizers, with_frozen_normalizers

__all__ = [
    "MAX_EPISODE_STEPS",
    "DiagnosticsCallback",
    "EntropyCallback",
    "EvaluationStoppedError",
    "KLCallback",
    "MaskableEvalCallback",
    "MaskedPredictor",
    "Phase",
    "PhasesCallback",
    "StopWhenAllSucceeded",
    "StopWhenSolved",
    "TrainingWarning",
    "UpdateCallback",
    "VideoCallback",
    "evaluate_episodes",
    "synchronize_normalizers",
    "with_frozen_normalizers",
]
