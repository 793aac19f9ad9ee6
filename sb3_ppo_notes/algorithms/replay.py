"""A compiled step as a CUDA graph: recorded once, and from then on launched as one.

On a GPU the step of a small minibatch costs more to launch, kernel by kernel, than to compute. A graph is launched as a
whole; the price is that it knows addresses and no tensors. So what a step reads and writes in place stays where it lies
(weights, optimiser state), what comes anew with each minibatch is copied to where the graph looks for it, and what the
graph gives is copied before the next launch overwrites it.
"""

import logging
from collections.abc import Callable, Collection, Sequence
from typing import Any, Protocol

import torch as th

logger = logging.getLogger("sb3_ppo_notes")

#: How far a launched step may be from the recorded one, relative and absolute: sums taken in another order.
TOLERANCE = 1e-4, 1e-6


class Tape(Protocol):
    """What a device offers to record with."""

    def __init__(self, device: th.device): ...

    def warm_up(self, function: Callable[[], Any]) -> Any:
        """Call a function so that all it needs is there: libraries, workspaces, compiled kernels.

        :param function: without arguments.
        :return: its result.
        """

    def record(self, function: Callable[[], Any]) -> Any:
        """Call a function and write down what it launches, without launching it.

        :param function: without arguments.
        :return: its result, which has no numbers yet.
        """

    def replay(self) -> None:
        """Launch what was written down; the numbers of the result are there afterwards."""


class CudaTape:
    """A CUDA graph.

    :param device: of all tensors.
    """

    def __init__(self, device: th.device):
        self.device = device
        self.graph = th.cuda.CUDAGraph()

    def warm_up(self, function: Callable[[], Any]) -> Any:
        """Call a function on a stream of its own: what the legacy stream initialises cannot be recorded.

        :param function: without arguments.
        :return: its result.
        """
        with th.cuda.device(self.device):
            stream = th.cuda.Stream()  # type: ignore[no-untyped-call]
            stream.wait_stream(th.cuda.current_stream())
            with th.cuda.stream(stream):
                result = function()
            th.cuda.current_stream().wait_stream(stream)
        return result

    def record(self, function: Callable[[], Any]) -> Any:
        """Capture what a function launches.

        :param function: without arguments.
        :return: its result, in the graph's own memory.
        """
        with th.cuda.device(self.device), th.cuda.graph(self.graph):
            return function()

    def replay(self) -> None:
        """Launch the graph on the current stream."""
        self.graph.replay()


#: By the type of a device. A CPU launches nothing.
TAPES: dict[str, type[Tape]] = {"cuda": CudaTape}


class Recorded:
    """A function of tensors that is recorded when it is first called.

    The first call is made twice: as it is, on copies, and launched from the recording. Only if both agree the recording
    is used from then on.

    :param function: gives a tuple of tensors, draws no random numbers and keeps nothing from one call to the next.
    :param bound: which arguments it reads and writes where they lie; it may read all others, but not write to them.
    """

    def __init__(self, function: Callable[..., Any], bound: Collection[int]):
        self.function = function
        self.bound = sorted(bound)
        #: Why the function is called as it is; ``None`` while it is recorded.
        self.reason: str | None = None
        #: Where the bound arguments lay when it was recorded.
        self._places: list[int] = []
        #: What all others are copied to, and which arguments these are.
        self._columns: list[tuple[list[th.Tensor], list[int]]] = []
        self._tape: Any = None
        self._outputs: Sequence[th.Tensor] = ()

    def __call__(self, *arguments: th.Tensor) -> Any:
        """Call the function.

        :param arguments: of the same shapes and dtypes at every call.
        :return: what the function gives; nobody writes to it later.
        """
        if self.reason is not None:
            return self.function(*arguments)
        if self._places != [arguments[index].data_ptr() for index in self.bound]:
            return self._first_call(arguments)
        for mine, given in self._columns:
            th._foreach_copy_(mine, [arguments[index] for index in given])
        self._tape.replay()
        return self._result()

    def _first_call(self, arguments: Sequence[th.Tensor]) -> Any:
        """Call the function on copies and record it; where both disagree, what it did to the copies counts."""
        copies = [argument.clone() for argument in arguments]
        bound = [arguments[index] for index in self.bound]
        tape = TAPES[arguments[0].device.type](arguments[0].device)
        expected = tape.warm_up(lambda: self.function(*copies))
        stepped = [copies[index] for index in self.bound]
        try:
            self._record(tape, arguments)
            if not all(map(_agree, (*bound, *self._outputs), (*stepped, *expected))):
                raise RuntimeError("launched at once, it gave other numbers")
        except RuntimeError as error:
            self.reason = str(error).partition("\n")[0]
            self._tape, self._outputs, self._columns = None, (), []
            logger.warning("compile=True: steps are launched kernel by kernel, recording one failed: %s", self.reason)
            th._foreach_copy_(bound, stepped)
            return expected
        self._places = [argument.data_ptr() for argument in bound]
        return self._result()

    def _record(self, tape: Tape, arguments: Sequence[th.Tensor]) -> None:
        """Record a call, and make it."""
        own = {index: argument.clone() for index, argument in enumerate(arguments) if index not in self.bound}
        lying = [own.get(index, argument) for index, argument in enumerate(arguments)]
        # By dtype: that is how they can be copied in one launch.
        by_dtype: dict[th.dtype, list[int]] = {}
        for index, argument in own.items():
            by_dtype.setdefault(argument.dtype, []).append(index)
        self._columns = [([own[index] for index in column], column) for column in by_dtype.values()]
        self._tape, self._outputs = tape, tape.record(lambda: self.function(*lying))
        tape.replay()

    def _result(self) -> Any:
        return tuple(output.clone() for output in self._outputs)


def recorded(function: Callable[..., Any], device: th.device, bound: Collection[int]) -> Callable[..., Any]:
    """A function as a recording, where its device has something to record with.

    :param function: see :class:`Recorded`.
    :param device: of its arguments.
    :param bound: see :class:`Recorded`.
    :return: takes and gives the same.
    """
    return Recorded(function, bound) if device.type in TAPES else function


def _agree(found: th.Tensor, wanted: th.Tensor) -> bool:
    if not found.is_floating_point():
        return th.equal(found, wanted)
    relative, absolute = TOLERANCE
    return th.allclose(found, wanted, relative, absolute, equal_nan=True)
