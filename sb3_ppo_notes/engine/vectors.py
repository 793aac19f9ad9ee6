"""All weights in one vector: what lets an optimiser step them in a handful of operations.

A policy's parameters become views of one vector. To everybody else nothing has changed: ``state_dict``, ``save``,
``load``, ``predict`` and in-place writes see the parameters they always saw. Every part begins on a 64-byte boundary,
where the allocator would have put it: a matrix product may round differently at another alignment.
"""

from collections.abc import Sequence
from itertools import accumulate

import torch as th

#: Elements a part's length is rounded up to: 64 bytes of float32.
STRIDE = 16


class FlatVector:
    """One vector, and the tensors that lie in it.

    :param like: tensors whose shapes the parts shall have; one device and dtype.
    :param fill: what stands in the vector at first, the padding included.
    """

    def __init__(self, like: Sequence[th.Tensor], fill: float = 0.0):
        self.shapes = [tensor.shape for tensor in like]
        self.lengths = [tensor.numel() for tensor in like]
        *self.starts, size = accumulate((_padded(length) for length in self.lengths), initial=0)
        self.vector = like[0].new_full((size,), fill)
        self.parts = self.split(self.vector)

    def split(self, vector: th.Tensor) -> list[th.Tensor]:
        """Views of a vector laid out like this one, in the order and of the shapes of the tensors."""
        triples = zip(self.starts, self.lengths, self.shapes, strict=True)
        return [vector[start : start + length].view(shape) for start, length, shape in triples]

    def joined(self, tensors: Sequence[th.Tensor]) -> th.Tensor:
        """Tensors of the shapes of the parts as one new vector laid out like this one."""
        pieces = []
        for tensor, length in zip(tensors, self.lengths, strict=True):
            pieces.append(tensor.reshape(-1))
            if _padded(length) > length:
                pieces.append(tensor.new_zeros(_padded(length) - length))
        return th.cat(pieces)


def _padded(length: int) -> int:
    return -(-length // STRIDE) * STRIDE


def flattened(parameters: Sequence[th.nn.Parameter]) -> FlatVector:
    """The vector whose parts these parameters are; they become so, if they are not yet.

    Their values stay. Who holds the parameter sees no difference; who holds its ``data`` from before holds a copy.
    """
    with th.no_grad():
        flat = FlatVector(parameters)
        storage = parameters[0].untyped_storage()
        if storage.nbytes() == flat.vector.untyped_storage().nbytes():
            flat.vector.set_(storage, 0, flat.vector.shape, (1,))
            flat.parts = flat.split(flat.vector)
        pairs = list(zip(parameters, flat.parts, strict=True))
        if all(parameter.data_ptr() == part.data_ptr() for parameter, part in pairs):
            return flat
        flat = FlatVector(parameters)
        for parameter, part in zip(parameters, flat.parts, strict=True):
            part.copy_(parameter)
            parameter.data = part
    return flat
