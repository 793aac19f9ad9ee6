"""Callbacks: what is seen of a training, and when it ends; evaluation."""

from sb3_ppo_notes.callbacks.diagnostics import DiagnosticsCallback
from sb3_ppo_notes.callbacks.entropy import EntropyCallback
from sb3_ppo_notes.callbacks.evaluation import (
    EVALUATION_SEED_OFFSET,
    MAX_EPISODE_STEPS,
    Episodes,
    EvaluationStoppedError,
    Evaluator,
    MaskableEvalCallback,
    MaskedPredictor,
    evaluate_episodes,
    synchronize_normalizers,
    with_frozen_normalizers,
)
from sb3_ppo_notes.callbacks.kl import KLCallback
from sb3_ppo_notes.callbacks.phases import Phase, PhasesCallback
from sb3_ppo_notes.callbacks.stopping import StopWhenAllSucceeded, StopWhenSolved
from sb3_ppo_notes.callbacks.updates import TrainingWarning, UpdateCallback
from sb3_ppo_notes.callbacks.video import VideoCallback

__all__ = [
    "EVALUATION_SEED_OFFSET",
    "MAX_EPISODE_STEPS",
    "DiagnosticsCallback",
    "EntropyCallback",
    "Episodes",
    "EvaluationStoppedError",
    "Evaluator",
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
