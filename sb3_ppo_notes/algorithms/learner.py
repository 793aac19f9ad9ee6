"""What an update needs of the algorithm it belongs to."""

from typing import Any, Protocol

import torch as th
from stable_baselines3.common.buffers import RolloutBuffer
from stable_baselines3.common.policies import ActorCriticPolicy

from sb3_ppo_notes.algorithms.compiled import Compiler
from sb3_ppo_notes.algorithms.optimizers import Phase
from sb3_ppo_notes.algorithms.stepping import GradientSteps
from sb3_ppo_notes.algorithms.watching import Watchers
from sb3_ppo_notes.rules import UpdateRule
from sb3_ppo_notes.rules.state import RuleState


class Learner(Protocol):
    """What the update needs of an algorithm."""

    policy: ActorCriticPolicy
    rollout_buffer: RolloutBuffer
    num_timesteps: int
    verbose: int
    rule_state: RuleState
    device: th.device
    #: Compiles the steps; ``None`` for eager ones.
    compiler: Compiler | None
    precision: str
    #: Takes the eager steps of each phase.
    gradient_steps: dict[str, GradientSteps]
    #: Of our functions, as they were when learning began.
    sources: tuple[Any, ...]
    #: Callbacks that want to see the update.
    watchers: Watchers
    #: What a loss, gradient or weight that is not finite leads to: "raise" or "skip_update".
    on_nonfinite: str
    _n_updates: int

    def _phases(self, rule: UpdateRule) -> list[Phase]:
        """Who is trained in an update, as policy and optimisers are now."""
