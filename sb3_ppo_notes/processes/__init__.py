"""Several processes that train one model: the group they form, and the shards of the training that they hold."""

from sb3_ppo_notes.processes.group import Alone, Distributed, Group, join_group
from sb3_ppo_notes.processes.shards import Shards

__all__ = ["Alone", "Distributed", "Group", "Shards", "join_group"]
