"""Whether a run is long enough for compiling to pay."""

from __future__ import annotations

import math

from tuning.space.defaults import default_arguments
from tuning.space.setup import Setup
from tuning.worker.budget import whole_rollouts

#: Seconds that compiling takes with an empty cache; another configuration finds most of its code there only by luck.
COLD_SECONDS = 12.0
#: Seconds that compiling saves on one CPU thread, measured on CartPole with the default network: of each step of a
#: minibatch, and of each step of the environments.
SAVED_PER_MINIBATCH, SAVED_PER_STEP = 1.5e-3, 1.0e-3


def compiling_pays(setup: Setup, total_timesteps: int) -> bool:
    """True if compiling saves more than it costs.

    An estimate from counts and not from a stopwatch: compiled and eager runs differ by rounding, and the same study
    must come out the same on a machine that happens to be busy.
    """
    arguments = {**default_arguments(setup.algo), **setup.arguments}
    rollout = arguments["n_steps"] * setup.n_envs
    steps = whole_rollouts(total_timesteps, rollout)
    batch = min(arguments.get("batch_size") or rollout, rollout)
    minibatches = steps // rollout * arguments.get("n_epochs", 1) * math.ceil(rollout / batch)
    saved: float = minibatches * SAVED_PER_MINIBATCH + steps // setup.n_envs * SAVED_PER_STEP
    return saved > COLD_SECONDS
