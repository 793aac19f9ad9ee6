"""A group of processes that train one model, each with experience of its own; all call the same methods in the same
order. Nothing of ``torch.distributed`` is imported before a group is asked for.
"""

import os
from collections import Counter
from contextlib import AbstractContextManager, nullcontext
from typing import Any, Protocol

import torch as th

from sb3_ppo_notes.formulas.checks import InvalidTypeError, InvalidValueError
from sb3_ppo_notes.processes.failures import TIMEOUT, ProcessesDivergedError, ranks_in_words

#: Environment variables by which torchrun tells a process its place.
VARIABLES = ("RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")

#: Environment variable: ``gloo`` has processes of one host, too, exchange everything through sockets.
KIND = "SB3_PPO_NOTES_GROUP"


class Group(Protocol):
    """Processes that exchange numbers; a method returns when all have called it, on all with the same result.

    ``rank`` is this process's number, ``size`` how many there are, ``kind`` what the numbers travel by.
    """

    rank: int
    size: int
    kind: str

    def gather_vectors(self, vector: th.Tensor) -> th.Tensor:
        """The vectors of all processes, ``[n]`` float32 each and equally long, as ``[size, n]`` in the order of ranks.

        The result may be overwritten by the next call but one.

        :raises RankFailedError: if another process has failed, is gone, or does not come in time.
        """

    def gather(self, value: Any) -> list[Any]:
        """The values of all processes, anything that can be pickled, in the order of ranks.

        :raises RankFailedError: as above.
        """

    def telling_failures(self) -> AbstractContextManager[None]:
        """A context; whatever is raised in it is raised in all other processes, as a :class:`RankFailedError`."""

    def close(self) -> None:
        """Leave the group."""


class Alone:
    """The group of a single process."""

    rank = 0
    size = 1
    kind = "alone"

    def gather_vectors(self, vector: th.Tensor) -> th.Tensor:
        """The vector itself, ``[1, n]``."""
        return vector.unsqueeze(0)

    def gather(self, value: Any) -> list[Any]:
        """The value alone."""
        return [value]

    def telling_failures(self) -> AbstractContextManager[None]:
        """Nobody to tell."""
        return nullcontext()

    def close(self) -> None:
        """Nothing to leave."""


def check_equal(group: Group, digest: Any, what: str) -> None:
    """Compare something that must be the same in all processes.

    :param digest: of what is compared, such as a hash.
    :param what: is compared, in a word or two: first of the message.
    :raises ProcessesDivergedError: in all processes, if they differ.
    """
    digests = group.gather(digest)
    usual = Counter(digests).most_common(1)[0][0]  # of equally many those of the lowest rank
    others = [rank for rank, each in enumerate(digests) if each != usual]
    if others:
        raise ProcessesDivergedError(
            f"{what} must be equal in all processes: of {ranks_in_words(others)} "
            f"{', '.join(str(digests[rank]) for rank in others)}, of {ranks_in_words(_all_but(others, group))} {usual}",
            others,
        )


def _all_but(ranks: list[int], group: Group) -> list[int]:
    return [rank for rank in range(group.size) if rank not in ranks]


def check_processes(name: str, value: Any) -> None:
    """Refuse what is no group of processes.

    :param name: of the argument.
    :param value: of the argument.
    :raises TypeError: if it is neither ``"auto"`` nor a group.
    """
    if value != "auto" and not all(hasattr(value, each) for each in ("rank", "size", "gather_vectors", "gather")):
        raise InvalidTypeError(f"{name} must be None, 'auto' or a group, got {type(value).__name__} {value!r}")


def is_under_torchrun() -> bool:
    """Ask who has started this process.

    :return: ``True`` for torchrun.
    """
    return {"RANK", "WORLD_SIZE"} <= os.environ.keys()


def join_group(processes: Any, timeout: float = TIMEOUT) -> Group:
    """The group that an argument ``processes`` stands for.

    :param processes: ``"auto"`` for the processes that torchrun has started, or a group.
    :param timeout: of a group that is new: seconds after which a process that waits gives up.
    :return: of which this process is one; for ``"auto"`` one and the same until it is closed.
    :raises ValueError: for ``"auto"`` without torchrun's environment variables.
    :raises TypeError: for what is neither ``"auto"`` nor a group.
    """
    check_processes("processes", processes)
    if processes != "auto":
        return processes  # type: ignore[no-any-return]
    missing = [name for name in VARIABLES if name not in os.environ]
    if missing:
        raise InvalidValueError(
            f"processes='auto' needs the environment variables that torchrun sets, and there is no {missing[0]}: start "
            "the program with torchrun --nproc-per-node N, or leave processes out"
        )
    from sb3_ppo_notes.processes.distributed import Distributed
    from sb3_ppo_notes.processes.shared_memory import SharedMemory

    if Distributed.open is None:
        is_one_host = os.environ.get("LOCAL_WORLD_SIZE") == os.environ["WORLD_SIZE"]
        kind = SharedMemory if is_one_host and os.environ.get(KIND) != "gloo" else Distributed
        return kind(timeout)
    return Distributed.open
