"""A group of processes that train one model, each with experience of its own; all call the same methods in the same
order. Nothing of ``torch.distributed`` is imported before a group is asked for.
"""

import os
from typing import Any, Protocol

import torch as th

from sb3_ppo_notes.formulas.checks import InvalidValueError

#: Environment variables by which torchrun tells a process its place.
VARIABLES = ("RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")


class Group(Protocol):
    """Processes that exchange numbers; a method returns when all have called it, on all with the same result.

    ``rank`` is this process's number, ``size`` how many there are.
    """

    rank: int
    size: int

    def gather_vectors(self, vector: th.Tensor) -> th.Tensor:
        """The vectors of all processes, ``[n]`` float32 each and equally long, as ``[size, n]`` in the order of ranks.

        The result may be overwritten by the next call but one.
        """

    def gather(self, value: Any) -> list[Any]:
        """The values of all processes, anything that can be pickled, in the order of ranks."""

    def close(self) -> None:
        """Leave the group."""


class Alone:
    """The group of a single process."""

    rank = 0
    size = 1

    def gather_vectors(self, vector: th.Tensor) -> th.Tensor:
        """The vector itself, ``[1, n]``."""
        return vector.unsqueeze(0)

    def gather(self, value: Any) -> list[Any]:
        """The value alone."""
        return [value]

    def close(self) -> None:
        """Nothing to leave."""


class Distributed:
    """A process group of ``torch.distributed``: gloo on CPUs, NCCL on GPUs."""

    def __init__(self) -> None:
        import torch.distributed as dist

        self._dist = dist
        if not dist.is_initialized():
            dist.init_process_group("gloo")
        self.rank, self.size = dist.get_rank(), dist.get_world_size()

    def gather_vectors(self, vector: th.Tensor) -> th.Tensor:
        """The vectors of all processes, ``[size, n]``."""
        gathered = vector.new_empty(self.size, len(vector))
        self._dist.all_gather_single(gathered.view(-1), vector)
        return gathered

    def gather(self, value: Any) -> list[Any]:
        """The values of all processes."""
        values: list[Any] = [None] * self.size
        self._dist.all_gather_object(values, value)
        return values

    def close(self) -> None:
        """Leave the group."""
        self._dist.destroy_process_group()


def join_group(processes: Any) -> Group:
    """The group that an argument ``processes`` stands for.

    :param processes: ``"auto"`` for the processes that torchrun has started, or a group.
    :return: of which this process is one.
    :raises ValueError: for ``"auto"`` without torchrun's environment variables.
    """
    if processes != "auto":
        return processes  # type: ignore[no-any-return]
    missing = [name for name in VARIABLES if name not in os.environ]
    if missing:
        raise InvalidValueError(
            f"processes='auto' needs the environment variables that torchrun sets, and there is no {missing[0]}: start "
            "the program with torchrun --nproc-per-node N, or leave processes out"
        )
    return Distributed()
