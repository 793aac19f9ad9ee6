"""What is watched while it trains."""

from sb3_ppo_notes.callbacks.diagnostics import DiagnosticsCallback
from sb3_ppo_notes.callbacks.entropy import EntropyCallback
from sb3_ppo_notes.callbacks.evaluation import MaskableEvalCallback, MaskedPredictor
from sb3_ppo_notes.callbacks.kl import KLCallback
from sb3_ppo_notes.callbacks.phases import Phase, PhasesCallback
from sb3_ppo_notes.callbacks.solved import StopWhenSolved
from sb3_ppo_notes.callbacks.stopping import StopWhenAllSucceeded
from sb3_ppo_notes.callbacks.updates import TrainingWarning, UpdateCallback
from sb3_ppo_notes.callbacks.video import VideoCallback

__all__ = [
    "DiagnosticsCallback",
    "EntropyCallback",
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
]
