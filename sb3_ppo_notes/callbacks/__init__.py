"""What is watched while it trains."""

from sb3_ppo_notes.callbacks.diagnostics import DiagnosticsCallback
from sb3_ppo_notes.callbacks.entropy import EntropyCallback
from sb3_ppo_notes.callbacks.evaluation import MaskableEvalCallback, MaskedPredictor
from sb3_ppo_notes.callbacks.kl import KLCallback
from sb3_ppo_notes.callbacks.stopping import StopWhenAllSucceeded
from sb3_ppo_notes.callbacks.updates import TrainingWarning, UpdateCallback

__all__ = [
    "DiagnosticsCallback",
    "EntropyCallback",
    "KLCallback",
    "MaskableEvalCallback",
    "MaskedPredictor",
    "StopWhenAllSucceeded",
    "TrainingWarning",
    "UpdateCallback",
]
