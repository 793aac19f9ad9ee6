"""The settings of a study that each of its workers gets."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import optuna

from tuning.selection import Protocol
from tuning.space import Configuration, Space
from tuning.space.defaults import default_arguments
from tuning.space.setup import Setup, baseline_setup, make_setup
from tuning.space.warm_starts import zoo_entry
from tuning.worker.budget import Limits, whole_rollouts
from tuning.worker.objective import Objective, train

#: Samplers by name, and what each of them needs beside Optuna.
SAMPLERS = {
    "tpe": ("TPESampler", ()),
    "random": ("RandomSampler", ()),
    "gp": ("GPSampler", ("scipy", "torch")),
    "cma": ("CmaEsSampler", ("cmaes",)),
    "qmc": ("QMCSampler", ("scipy",)),
}
STARTUP_TRIALS = 10
#: Seconds that compiling takes with an empty cache; another configuration finds most of its code there only by luck.
COLD_SECONDS = 12.0
#: Seconds that compiling saves on one CPU thread, measured on CartPole with the default network: of each step of a
#: minibatch, and of each step of the environments.
SAVED_PER_MINIBATCH, SAVED_PER_STEP = 1.5e-3, 1.0e-3


@dataclass(frozen=True)
class Settings:
    """A study's rules and this machine's part in it.

    ``storage`` holds the password: not for printing. ``folder`` is of this machine's checkpoints. ``base`` is what is
    not tuned, by rl_zoo3's keys. ``budget`` counts environment steps of search and finalists, ``max_trials`` and
    ``timeout`` (seconds) the search alone. ``heartbeat``, ``patience``, ``checkpoint_seconds`` and ``poll_seconds`` are
    seconds: between two signs of life, that a database may be away, between two checkpoints of a run, between two looks
    at a storage that others work on.
    """

    study: str
    storage: str = field(repr=False)
    folder: Path
    env_id: str
    algo: str
    space: Space
    base: Mapping[str, Any]
    protocol: Protocol
    total_timesteps: int
    budget: int | None = None
    max_trials: int | None = None
    timeout: float | None = None
    seed: int = 0
    sampler: str = "tpe"
    n_eval_episodes: int = 10
    compile: str = "auto"
    baselines: tuple[Setup, ...] = ()
    heartbeat: int = 60
    patience: float = 600.0
    checkpoint_seconds: float = 30.0
    poll_seconds: float = 1.0
    objective: Objective = train

    def limits(self) -> Limits:
        """When the search ends, its clock started now."""
        n_reruns = self.protocol.finalist_runs
        return Limits(self.budget, self.max_trials, self.timeout, n_reruns, self.total_timesteps)

    def planned(self, setup: Setup) -> int:
        """Environment steps of a whole run."""
        return whole_rollouts(self.total_timesteps, rollout_of(setup))

    def compiles(self, setup: Setup) -> bool:
        """True if the update of a run is to be compiled."""
        return self.compile == "on" or (self.compile == "auto" and compiling_pays(setup, self.total_timesteps))


def rollout_of(setup: Setup) -> int:
    """Environment steps of a rollout, over all its environments."""
    return int({**default_arguments(setup.algo), **setup.arguments}["n_steps"]) * setup.n_envs


def compiling_pays(setup: Setup, total_timesteps: int) -> bool:
    """True if compiling saves more than it costs.

    An estimate from counts and not from a stopwatch: compiled and eager runs differ by rounding, and the same study
    must come out the same on a machine that happens to be busy.
    """
    arguments = {**default_arguments(setup.algo), **setup.arguments}
    rollout = rollout_of(setup)
    steps = whole_rollouts(total_timesteps, rollout)
    batch = min(arguments.get("batch_size") or rollout, rollout)
    minibatches = steps // rollout * arguments.get("n_epochs", 1) * math.ceil(rollout / batch)
    saved: float = minibatches * SAVED_PER_MINIBATCH + steps // setup.n_envs * SAVED_PER_STEP
    return saved > COLD_SECONDS


def sampler_seed(seed: int, index: int) -> int:
    """The seed of the suggestions of one trial; ``index`` counts the trials before it, retries left out.

    Each trial has its own, so that a resumed study does not repeat its first suggestions, and two workers never suggest
    alike.
    """
    return int.from_bytes(hashlib.sha256(f"{seed}/{index}".encode()).digest()[:4], "big")


def check_sampler(name: str) -> None:
    """Refuse a sampler that is unknown, or whose libraries are not installed."""
    if name not in SAMPLERS:
        raise ValueError(f"sampler must be one of {', '.join(SAMPLERS)}, got {name!r}")
    for module in SAMPLERS[name][1]:
        try:
            __import__(module)
        except ImportError:
            raise ValueError(f"sampler {name!r} needs {module}: pip install {module}") from None


def make_sampler(name: str, seed: int, study_seed: int) -> optuna.samplers.BaseSampler:
    """A sampler for one trial; a quasi-random sequence is one for all trials, and so seeded by the study's."""
    kind: Callable[..., optuna.samplers.BaseSampler] = getattr(optuna.samplers, SAMPLERS[name][0])
    if name == "qmc":
        return kind(seed=study_seed, scramble=True, warn_independent_sampling=False)
    if name == "random":
        return kind(seed=seed)
    if name == "tpe":
        return kind(seed=seed, n_startup_trials=STARTUP_TRIALS, multivariate=True, constant_liar=True)
    if name == "gp":
        return kind(seed=seed, n_startup_trials=STARTUP_TRIALS, deterministic_objective=False)
    return kind(seed=seed, n_startup_trials=STARTUP_TRIALS, warn_independent_sampling=False)


def setup_of(settings: Settings, number: int, configuration: Configuration) -> Setup:
    """The setup that a trial's configuration trains."""
    return make_setup(f"trial {number}", settings.algo, configuration, settings.base)


def baselines(env_id: str, algo: str, environment: Mapping[str, Any] | None = None) -> tuple[Setup, ...]:
    """The setups that a winner is tested against, in the study's ``environment``: SB3's defaults, rl_zoo3's if any."""
    entry = zoo_entry(env_id, algo)
    entries: dict[str, dict[str, Any]] = {"SB3 defaults": {}} | ({"rl_zoo3": entry} if entry else {})
    setups = (baseline_setup(name, algo, content) for name, content in entries.items())
    return tuple(replace(setup, environment=dict(environment or {})) for setup in setups)
