"""``train`` on several processes: the group that torchrun has started, and what it asks of a configuration."""

import dataclasses
from collections.abc import Iterator
from contextlib import contextmanager

from sb3_ppo_notes.configs.run_config import RunConfig
from sb3_ppo_notes.formulas.checks import InvalidValueError
from sb3_ppo_notes.processes import Alone, Group, is_under_torchrun, join_group
from sb3_ppo_notes.processes.shards import check_shards, check_total


@contextmanager
def joined_group() -> Iterator[Group]:
    """The processes that torchrun has started, this one alone without it; an error of one is one of all."""
    group = join_group("auto") if is_under_torchrun() else Alone()
    with group.telling_failures():
        yield group
    group.close()


def processes_for(config: RunConfig, group: Group) -> Group | None:
    """The model's argument: ``None`` for a run without shards."""
    return None if config.shards is None else group


def with_shards(config: RunConfig, group: Group) -> RunConfig:
    """The configuration of a new run, which says how many shards it has if it has any: one a process, unless it says
    another number.

    :raises ValueError: if something cannot be divided.
    """
    n_shards = config.shards or (group.size if is_under_torchrun() else None)
    if n_shards is None:
        return config
    check_shards(n_shards, group)
    check_total("n_envs", config.n_envs, n_shards)
    check_total("batch_size", config.hyperparameters.get("batch_size"), n_shards)
    return dataclasses.replace(config, shards=n_shards)


def check_resumable(config: RunConfig, group: Group) -> None:
    """Refuse to go on with a run on processes that cannot share it.

    :raises ValueError: saying why.
    """
    if config.shards is None and is_under_torchrun():
        raise InvalidValueError(
            f"resume must be a run of several shards under torchrun, got {config.name}, which was begun in one process "
            "and goes on in one: without torchrun"
        )
    if config.shards is not None and config.shards % group.size:
        raise InvalidValueError(
            f"resume must be on a number of processes that divides the run's {config.shards} shards, got {group.size}"
        )
