"""A model in a training on several processes: its share of the environments, what all of them must agree on, and what
only one of them does.
"""

import hashlib
import os
import random
import warnings
from collections.abc import Mapping, Sequence
from operator import itemgetter
from typing import Any

import numpy as np
import torch as th
from stable_baselines3.common import callbacks as of_sb3
from stable_baselines3.common.callbacks import (
    BaseCallback,
    CallbackList,
    CheckpointCallback,
    EvalCallback,
    EventCallback,
)
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.logger import Logger
from stable_baselines3.common.vec_env import VecEnv

from sb3_ppo_notes.algorithms.watchers import family_of
from sb3_ppo_notes.envs import ShardedVecEnv
from sb3_ppo_notes.formulas.checks import InvalidValueError
from sb3_ppo_notes.processes import Group, Shards, is_under_torchrun
from sb3_ppo_notes.processes.shards import check_total
from sb3_ppo_notes.rollouts import NotesRolloutBuffer

#: Updates between two comparisons of the weights.
UPDATES_BETWEEN_COMPARISONS = 100
#: Arguments that may differ from process to process.
OF_ONE_PROCESS = {"env", "processes", "verbose", "tensorboard_log", "device", "policy", "_init_setup_model"}
#: SB3's callbacks that only report, or write files: the first process has them alone.
REPORTING = (CheckpointCallback, EvalCallback, of_sb3.ProgressBarCallback)


def warn_of_processes_apart() -> None:
    """Warn if torchrun has started several processes, and nobody has said whether they train one model."""
    if is_under_torchrun() and os.environ["WORLD_SIZE"] != "1":
        warnings.warn(
            f"each of {os.environ['WORLD_SIZE']} processes (WORLD_SIZE) trains a model of its own: "
            "processes='auto' trains one together, processes=None says that this is meant",
            UserWarning,
            stacklevel=4,
        )


def make_shards(group: Group, n_shards: int | None, seed: int | None) -> Shards:
    """The shards of a training; all processes call this together.

    :param group: of the processes.
    :param n_shards: of all, ``None`` for one a process.
    :param seed: of all; ``None`` lets the first process draw one.
    :return: those of this process.
    :raises ValueError: if the processes were given different seeds.
    """
    check_same_arguments(group, {"seed": seed})
    if seed is None:
        seed = group.gather(int(np.random.SeedSequence().generate_state(1)[0]))[0]
    return Shards(group, n_shards, seed)


def check_same_arguments(group: Group, arguments: Mapping[str, Any]) -> None:
    """Refuse processes that were given different arguments.

    :param group: of the processes.
    :param arguments: values by name.
    :raises ValueError: naming the first argument that differs.
    """
    plain = (bool, int, float, str, type(None))
    mine = {name: value for name, value in arguments.items() if name not in OF_ONE_PROCESS and isinstance(value, plain)}
    arguments_of_all = group.gather(mine)
    for name in mine:
        values = [each.get(name) for each in arguments_of_all]
        if any(value != values[0] for value in values):
            raise InvalidValueError(f"{name} must be the same in all processes, got {values}")


def share_of(env: Any, shards: Shards) -> Any:
    """The environments of this process.

    :param env: its share: a vectorised environment, of several shards a :class:`ShardedVecEnv`; or an id, of which each
        shard gets one environment.
    :param shards: of the training.
    :return: an environment with a part for each shard.
    :raises ValueError: if it cannot be divided.
    """
    n_own = len(shards.own)
    if n_own == 1:
        return env
    if isinstance(env, str):
        return ShardedVecEnv([make_vec_env(env) for _ in shards.own])
    if isinstance(env, VecEnv) and len(getattr(env.unwrapped, "shards", ())) == n_own:
        return env
    raise InvalidValueError(
        f"env must be a ShardedVecEnv of {n_own} vectorised environments, one for each shard of this process "
        f"(shards={shards.n_shards} on {shards.group.size} processes), got {type(env).__name__}"
    )


def check_division(model: Any, shards: Shards) -> None:
    """Refuse sizes that cannot be divided among the shards.

    :param model: built, but for its networks.
    :param shards: of the training.
    :raises ValueError: naming the argument.
    """
    if model.env is not None:
        share_of(model.env, shards)
    spaces = f"{model.observation_space} and {model.action_space}"
    n_envs, all_spaces = zip(*shards.group.gather((model.n_envs, spaces)), strict=True)
    if len(set(n_envs)) > 1:
        raise InvalidValueError(f"env must have equally many environments in all processes, got {list(n_envs)}")
    if len(set(all_spaces)) > 1:
        raise InvalidValueError(f"env must have the same spaces in all processes, got {'; '.join(all_spaces)}")
    check_total("batch_size", model.batch_size, shards.n_shards)
    if model.use_sde and len(shards.own) > 1:
        raise InvalidValueError("use_sde must be False where a process holds several shards, got True")
    kind = model.rollout_buffer_class
    if not issubclass(kind, NotesRolloutBuffer) or kind.get is not NotesRolloutBuffer.get:
        raise InvalidValueError(
            f"rollout_buffer_class must be NotesRolloutBuffer with several processes, got {kind.__name__}"
        )


def seed_share(env: VecEnv | None, shards: Shards) -> None:
    """Seed this process's environments as one process with all of them would, and the generators that are nobody's.

    :param env: of this process.
    :param shards: of the training.
    """
    first = shards.own.start
    numpy_seed, python_seed, cuda_seed = np.random.SeedSequence(shards.seed, spawn_key=(first, 1)).generate_state(3)
    np.random.seed(int(numpy_seed))  # noqa: NPY002 (wrappers of somebody's own draw from it)
    random.seed(int(python_seed))
    th.cuda.manual_seed_all(int(cuda_seed))  # a policy on a GPU draws its actions there
    if env is not None:
        env.seed(shards.seed + first * (env.num_envs // len(shards.own)))


def silence(model: Any) -> None:
    """Take from a model everything that it would print or log.

    :param model: of a process that is not the first.
    """
    model.verbose = 0
    model.tensorboard_log = None
    model.set_logger(Logger(folder=None, output_formats=[]))


def check_evaluations(model: Any, callback: Any) -> None:
    """Refuse SB3's ``EvalCallback`` where it would not find the statistics of a normaliser.

    :param model: that learns.
    :param callback: as SB3 has wrapped it.
    :raises ValueError: if a process has several shards, and normalisers inside them.
    """
    if not isinstance(model.env.unwrapped, ShardedVecEnv) or model.get_vec_normalize_env() is None:
        return
    if any(getattr(type(each), "_on_step", None) is EvalCallback._on_step for each in family_of(callback)):
        raise InvalidValueError(
            "callback must have MaskableEvalCallback of sb3_ppo_notes.callbacks for an evaluation, where a process has "
            "several shards with VecNormalize, whose statistics SB3's does not find; got EvalCallback"
        )


class ProgressBarCallback(of_sb3.ProgressBarCallback):
    """SB3's bar, which goes on by the steps of all processes.

    :param size: number of processes.
    """

    def __init__(self, size: int):
        super().__init__()
        self.size = size

    def _on_step(self) -> bool:
        self.pbar.update((self.size - 1) * self.training_env.num_envs)
        return super()._on_step()


def without_reports(callback: Any) -> Any:
    """A callback without those inside it that only report, or write files; the others print nothing.

    :param callback: what ``learn`` was given.
    :return: the same kind of thing, possibly ``None``.
    """
    if isinstance(callback, CallbackList):
        callback.callbacks = without_reports(callback.callbacks)
        return callback
    if isinstance(callback, list):
        kept = [without_reports(each) for each in callback]
        return [each for each in kept if each is not None]
    if isinstance(callback, REPORTING) or getattr(callback, "is_of_one_process", False):
        return None
    if type(callback).__module__.startswith("stable_baselines3.") and isinstance(callback, EventCallback):
        return None if without_reports(callback.callback) is None else callback
    if isinstance(callback, BaseCallback):
        callback.verbose = 0
    return callback


def digest_of(policy: Any) -> str:
    """A number that two policies share if their weights and buffers are the same, to the bit.

    :param policy: any module.
    :return: SHA-256, hexadecimal.
    """
    digest = hashlib.sha256()
    for name, tensor in policy.state_dict().items():
        digest.update(name.encode())
        digest.update(tensor.detach().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()


class Episodes:
    """The episodes that ended in this process's shards since the last rollout ended.

    :param shards: of the training.
    """

    def __init__(self, shards: Shards):
        self.shards = shards
        #: Of each shard: the step of the training at which one ended, and what of it is kept.
        self.pending: list[list[tuple[int, str, Any]]] = [[] for _ in shards.own]

    def copy(self) -> "Episodes":
        """The same episodes, to which others can be added.

        :return: with lists of its own.
        """
        others = Episodes(self.shards)
        others.pending = [list(each) for each in self.pending]
        return others

    def add(self, infos: Sequence[Mapping[str, Any]], dones: Any, step: int) -> None:
        """Note what ended in a step, as SB3's ``_update_info_buffer`` does.

        :param infos: of each environment.
        :param dones: ``[B]``, where an episode ended.
        :param step: of the training.
        """
        for pending, part in zip(self.pending, self.shards.split(len(infos)), strict=True):
            for index in range(part.start, part.stop):
                if (episode := infos[index].get("episode")) is not None:
                    pending.append((step, "episode", episode))
                if (success := infos[index].get("is_success")) is not None and dones is not None and dones[index]:
                    pending.append((step, "success", success))

    def merge_into(self, model: Any) -> None:
        """Put the episodes of all shards into a model's statistics, in the order in which they ended: the statistics
        are of the last ones. All processes call this together.

        :param model: whose ``ep_info_buffer`` and ``ep_success_buffer`` grow.
        """
        buffers = {"episode": model.ep_info_buffer, "success": model.ep_success_buffer}
        ended = [each for pending in self.shards.gather(self.pending) for each in pending]
        for _, name, value in sorted(ended, key=itemgetter(0)):
            buffers[name].append(value)
        self.pending = [[] for _ in self.shards.own]
