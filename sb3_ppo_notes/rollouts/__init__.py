"""Gathering experience and storing it: the collector, the buffers, vectorised environments."""

from sb3_ppo_notes.envs.errors import environment_error
from sb3_ppo_notes.envs.lean_vec_env import LeanVecEnv
from sb3_ppo_notes.envs.supervised_vec_env import SupervisedVecEnv
from sb3_ppo_notes.envs.vector_env import GymnasiumVecEnv, make_gymnasium_vec
from sb3_ppo_notes.envs.worker_errors import EnvWorkerError, EnvWorkerTimeoutError
from sb3_ppo_notes.rollouts.buffers import NotesDictRolloutBuffer, NotesRolloutBuffer, minibatches_of
from sb3_ppo_notes.rollouts.collector import collect_rollouts
from sb3_ppo_notes.rollouts.finite import FiniteGuard, guard_environments

__all__ = [
    "EnvWorkerError",
    "EnvWorkerTimeoutError",
    "FiniteGuard",
    "GymnasiumVecEnv",
    "LeanVecEnv",
    "NotesDictRolloutBuffer",
    "NotesRolloutBuffer",
    "SupervisedVecEnv",
    "collect_rollouts",
    "environment_error",
    "guard_environments",
    "make_gymnasium_vec",
    "minibatches_of",
]
