"""Vectorised environments: SB3's in fewer operations, supervised ones, Gymnasium's own, torch's; and wrappers."""

from sb3_ppo_notes.envs.errors import environment_error
from sb3_ppo_notes.envs.lean_vec_env import LeanVecEnv
from sb3_ppo_notes.envs.sharded_vec_env import ShardedVecEnv
from sb3_ppo_notes.envs.supervised_vec_env import SupervisedVecEnv
from sb3_ppo_notes.envs.torch_vec_env import TorchVecEnv
from sb3_ppo_notes.envs.vector_env import GymnasiumVecEnv, make_gymnasium_vec
from sb3_ppo_notes.envs.worker_errors import EnvWorkerError, EnvWorkerTimeoutError

__all__ = [
    "EnvWorkerError",
    "EnvWorkerTimeoutError",
    "GymnasiumVecEnv",
    "LeanVecEnv",
    "ShardedVecEnv",
    "SupervisedVecEnv",
    "TorchVecEnv",
    "environment_error",
    "make_gymnasium_vec",
]
