"""Several processes that train one model: the group they form, and the shards of the training that they hold."""

from sb3_ppo_notes.processes.failures import ProcessesDivergedError, RankFailedError
from sb3_ppo_notes.processes.group import Alone, Group, check_equal, is_under_torchrun, join_group
from sb3_ppo_notes.processes.shards import Shards
from sb3_ppo_notes.processes.writer import on_writer

__all__ = [
    "Alone",
    "Group",
    "ProcessesDivergedError",
    "RankFailedError",
    "Shards",
    "check_equal",
    "is_under_torchrun",
    "join_group",
    "on_writer",
]
