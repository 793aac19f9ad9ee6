"""Carries out acting and learning: eagerly, from recorded operations, or by compiled code.

Enter through :class:`Engine`.
"""

from sb3_ppo_notes.engine.descent import Phase, Trains
from sb3_ppo_notes.engine.engine import Engine, EngineReport, Execution
from sb3_ppo_notes.engine.step import Step, Stepper, StepSettings

__all__ = ["Engine", "EngineReport", "Execution", "Phase", "Step", "StepSettings", "Stepper", "Trains"]
