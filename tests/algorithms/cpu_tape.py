"""A CUDA graph's rules on a CPU: every operation is written down with its very tensors, and replayed on their memory.

What cannot be captured on a GPU is refused here, what a replay would not see is not seen here, and recording has no
effect: the result has no numbers before the first replay.
"""

import math

import torch as th
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

#: They make Python wait for a number: a stream that is being captured has none.
READING = ("_local_scalar_dense", "item", "nonzero", "is_nonzero", "equal", "masked_select")


def tensors_in(*trees):
    return [leaf for leaf in tree_leaves(trees) if isinstance(leaf, th.Tensor)]


def storage(tensor):
    return tensor.untyped_storage().data_ptr()


class Recorder(TorchDispatchMode):
    def __init__(self):
        super().__init__()
        self.calls = []
        self.made = {}  # by storage: what the recording has allocated
        self.found = {}  # by storage: what was there before, and its numbers

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        name = function.overloadpacket.__name__
        if name in READING:
            raise RuntimeError(f"operation not permitted when stream is capturing: {name}")
        given = tensors_in(args, kwargs)
        for tensor in given:
            if storage(tensor) not in self.made and storage(tensor) not in self.found:
                whole = th.empty(0, dtype=tensor.dtype).set_(tensor.untyped_storage())
                self.found[storage(tensor)] = whole, whole.clone()
        result = function(*args, **kwargs)
        outputs = tensors_in(result)
        lie_in = {storage(tensor) for tensor in given}
        fresh = [output for output in outputs if storage(output) not in lie_in]
        self.made |= {storage(output): output for output in fresh}
        if fresh or function._schema.is_mutable:
            self.calls.append((function, args, kwargs, fresh))
        return result

    def end(self):
        """Nothing has been launched."""
        for whole, before in self.found.values():
            whole.copy_(before)
        for tensor in self.made.values():
            tensor.fill_(math.nan if tensor.is_floating_point() else False)


class CpuTape:
    """The :class:`~sb3_ppo_notes.engine.cuda_graph.Tape` of a CPU."""

    replays = 0

    def __init__(self, device):
        self.recorder = Recorder()

    def warm_up(self, function):
        return function()

    def record(self, function):
        with self.recorder:
            result = function()
        self.recorder.end()
        return result

    def replay(self):
        type(self).replays += 1
        for function, args, kwargs, fresh in self.recorder.calls:
            new = [
                output
                for output in tensors_in(function(*args, **kwargs))
                if not any(output is argument for argument in tensors_in(args, kwargs))
            ]
            if fresh:
                for old, output in zip(fresh, new, strict=True):
                    old.copy_(output)
