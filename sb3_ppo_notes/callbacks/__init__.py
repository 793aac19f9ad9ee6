"""What is watched while it trains."""

from sb3_ppo_notes.callbacks.evaluation import MaskableEvalCallback, MaskedPredictor
from sb3_ppo_notes.callbacks.stopping import StopWhenAllSucceeded

__all__ = ["MaskableEvalCallback", "MaskedPredictor", "StopWhenAllSucceeded"]
