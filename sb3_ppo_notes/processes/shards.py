"""A training cut into shards: environments, generators and a permutation of their own each, and a process that holds
some of them. The number of shards decides what is computed, the number of processes only where.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch as th

from sb3_ppo_notes.formulas.checks import InvalidValueError
from sb3_ppo_notes.processes.group import Group, check_equal

#: Steps of the environments between two questions whether a process wants to stop.
STEPS_BETWEEN_QUESTIONS = 64


class Shards:
    """The shards of one training, and those that this process holds: as many as every other, in the order of ranks.

    Whatever is summed is summed over shards and in their order, so that the number of processes changes no bit.

    :param group: of the processes.
    :param n_shards: of the whole training; ``None`` for one a process.
    :param seed: of all shards.
    """

    def __init__(self, group: Group, n_shards: int | None, seed: int):
        self.group = group
        self.n_shards = group.size if n_shards is None else n_shards
        check_shards(self.n_shards, group)
        n_own = self.n_shards // group.size
        #: Numbers of the shards of this process.
        self.own = range(group.rank * n_own, (group.rank + 1) * n_own)
        self.set_seed(seed)

    def set_seed(self, seed: int) -> None:
        """Begin the random numbers of this process's shards anew.

        :param seed: of all shards, the same in all processes.
        """
        self.seed = seed
        self.generators = [Generator(seed, shard) for shard in self.own]

    @property
    def is_writer(self) -> bool:
        """``True`` in the one process that prints, logs, evaluates and saves."""
        return self.group.rank == 0

    def gather_vectors(self, vectors: Sequence[th.Tensor]) -> th.Tensor:
        """Vectors of all shards.

        :param vectors: one for each shard of this process, ``[n]`` float32 each.
        :return: ``[n_shards, n]``, valid until the next call but one.
        """
        vector = vectors[0] if len(vectors) == 1 else th.cat(list(vectors))
        return self.group.gather_vectors(vector).view(self.n_shards, -1)

    def gather(self, values: Sequence[Any]) -> list[Any]:
        """Values of all shards.

        :param values: one for each shard of this process; anything that can be pickled.
        :return: in the order of shards.
        """
        return [value for of_process in self.group.gather(list(values)) for value in of_process]

    def any(self, wish: bool) -> bool:
        """Ask all processes.

        :param wish: of this process.
        :return: on all ``True`` if one of them has said so.
        """
        return bool(self.group.gather_vectors(th.tensor([float(wish)])).any())

    def check_equal(self, digest: str, what: str) -> None:
        """Compare something that must be the same in all processes.

        :param digest: of this process.
        :param what: its name in an error.
        :raises ProcessesDivergedError: in all processes, naming those that differ.
        """
        check_equal(self.group, digest, what)

    @contextmanager
    def learning(self, digest: Callable[[], str]) -> Iterator[None]:
        """A context in which all learn together; an exception in one process is one in all.

        :param digest: gives that of the weights, which all must begin and end with alike.
        :return: the context.
        """
        with self.group.telling_failures():
            self.check_equal(digest(), "weights")
            yield
            self.check_equal(digest(), "weights at the end")

    def split(self, length: int) -> list[slice]:
        """The places of this process's shards in an array of its environments.

        :param length: B, environments of this process.
        :return: one slice a shard.
        """
        each = length // len(self.own)
        return [slice(number * each, (number + 1) * each) for number in range(len(self.own))]


def check_shards(n_shards: int, group: Group) -> None:
    """Refuse shards that cannot be divided among processes.

    :param n_shards: of the whole training.
    :param group: of the processes.
    :raises ValueError: if their number is no multiple.
    """
    if n_shards % group.size:
        raise InvalidValueError(
            f"shards must be a multiple of the number of processes, which is {group.size}, got {n_shards}"
        )


def check_total(name: str, total: Any, n_shards: int) -> None:
    """Refuse a size of the whole training that cannot be divided among shards.

    :param name: of the argument.
    :param total: of the argument; what is no number passes.
    :param n_shards: of the whole training.
    :raises ValueError: if it is no multiple.
    """
    if isinstance(total, int) and total % n_shards:
        raise InvalidValueError(
            f"{name} must be a multiple of the number of shards, which is {n_shards} (one a process unless --shards or "
            f"shards= says another), got {total} (it is that of the whole training)"
        )


def sum_in_order(vectors: th.Tensor) -> th.Tensor:
    """The sum over shards, one after the other: a library's sum may add in another order on another machine.

    :param vectors: ``[V, n]``.
    :return: ``[n]``.
    """
    total = vectors[0].clone()
    for vector in vectors[1:]:
        total += vector
    return total


class Generator:
    """The random numbers of one shard, kept apart from everybody else's.

    :param seed: of all shards.
    :param shard: number of this one.
    """

    def __init__(self, seed: int, shard: int):
        torch_seed, numpy_seed = np.random.SeedSequence(seed, spawn_key=(shard,)).generate_state(2)
        self._torch = th.Generator().manual_seed(int(torch_seed)).get_state()
        #: Of its permutations.
        self.numpy = np.random.default_rng(numpy_seed)

    @contextmanager
    def drawing(self) -> Iterator[None]:
        """Within it PyTorch's generator of the CPU draws this shard's numbers.

        :return: a context; after it everybody else's generator is as it was.
        """
        before = th.get_rng_state()
        th.set_rng_state(self._torch)
        try:
            yield
        finally:
            self._torch = th.get_rng_state()
            th.set_rng_state(before)

    def state_dict(self) -> dict[str, Any]:
        """To go on from.

        :return: plain numbers and a tensor.
        """
        return {"torch": self._torch, "numpy": self.numpy.bit_generator.state}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from :meth:`state_dict`.

        :param state: of a generator.
        """
        self._torch = state["torch"]
        self.numpy.bit_generator.state = state["numpy"]
