"""Turning a Python function of tensors into compiled code: traced once, by running it once.

``torch.compile`` would translate the function's *source* and check on every call whether its assumptions still hold.
Here the function is run on example tensors while every operation is written down (``make_fx``), derivatives included,
and the list is handed to TorchInductor, the compiler behind ``torch.compile``. Whatever Python decides on the way
(which distribution, which rule) is decided for good; nothing is checked afterwards, so whoever calls must come with the
same shapes. Compiled code is kept on disk by Inductor and found there by the next process.
"""

import shutil
from collections.abc import Callable, Sequence
from typing import Any

import torch as th
from torch import fx

from sb3_ppo_notes._remarks import without_remarks
from sb3_ppo_notes.engine.gradient import Traceable

#: How Inductor compiles. Random numbers come from torch's generators, as in eager code.
OPTIONS: dict[str, Any] = {
    "fallback_random": True,
    # Trusts the processor's own word on its vector instructions; Inductor would compile six programs to try them.
    "cpp.vec_isa_ok": True,
}


def compiled(function: Callable[..., Any], arguments: Sequence[th.Tensor]) -> Callable[..., Any]:
    """A function in compiled form.

    :param function: of tensors alone; gives a tuple of tensors. It may write to its arguments with ``copy_``.
    :param arguments: examples, of the very shapes, dtypes and devices it will be called with. They are not changed.
    :return: takes the same arguments. Whatever else the function has read is fixed as it was.
    :raises CannotCompile: if the function reads weights that are not among its arguments, or Inductor fails.
    """
    with without_remarks("torch._inductor.ir"):
        from torch._inductor import compile as inductor_compile

    try:
        with (
            th.no_grad(),
            without_remarks("torch._inductor.ir"),
            Traceable(),
            th.random.fork_rng(devices=_cuda_devices(arguments)),
        ):
            graph, fakes = _traced(function, arguments)
        with th.no_grad(), without_remarks("torch._inductor.ir"):
            return inductor_compile(graph, fakes, options=options_for(arguments[0].device))  # type: ignore[no-any-return]
    except CannotCompile:
        raise
    except Exception as error:  # Inductor has no common class for its errors
        raise CannotCompile(_first_line(error)) from error


def _traced(function: Callable[..., Any], arguments: Sequence[th.Tensor]) -> tuple[fx.GraphModule, list[Any]]:
    """The operations of a function for these very shapes, and stand-ins for its arguments."""
    from torch._subclasses.fake_tensor import FakeTensorMode
    from torch.fx.experimental.proxy_tensor import make_fx
    from torch.fx.experimental.symbolic_shapes import ShapeEnv

    # On copies: tracing runs the function, and it writes to what it is given. It may draw random numbers, too.
    graph = make_fx(function)(*[argument.detach().clone() for argument in arguments])
    _check_constants(graph)
    for node in graph.graph.nodes:
        # What make_fx remembers of the examples' values belongs to no one FakeTensorMode.
        node.meta.clear()
    mode = FakeTensorMode(shape_env=ShapeEnv())
    return graph, [mode.from_tensor(argument.detach(), static_shapes=True) for argument in arguments]


class CannotCompile(Exception):
    """A function cannot be compiled, and why."""


def options_for(device: th.device) -> dict[str, Any]:
    """Inductor's options for a device: on a CPU the whole call in C++, because Python between the kernels would cost
    more than they do; on a GPU PyTorch's own CUDA graphs launch the kernels of a call at once (no GPU was at hand to
    try them).
    """
    if device.type != "cpu":
        return OPTIONS | {"triton.cudagraphs": True}
    from torch._inductor import cpu_vec_isa

    # The instructions are no part of the key under which Inductor keeps code on disk, but options are: code for another
    # processor (a folder shared by many machines, or ATEN_CPU_CAPABILITY) gave NaN.
    return OPTIONS | {"cpp_wrapper": True, "cpp.simdlen": cpu_vec_isa.pick_vec_isa().bit_width()}


def missing_for(device: th.device) -> str | None:
    """A thing that Inductor needs and this machine has not; ``None`` if compiling can be tried."""
    if device.type != "cpu":
        from torch.utils._triton import has_triton

        return None if has_triton() else "Triton (PyTorch's builds for a GPU bring it along)"
    with without_remarks("torch._inductor.ir"):
        from torch._inductor import config

    candidates = config.cpp.cxx if isinstance(config.cpp.cxx, list | tuple) else [config.cpp.cxx]
    has_compiler = any(candidate is not None and shutil.which(str(candidate)) for candidate in candidates)
    return None if has_compiler else "a C++ compiler (g++, or the one that CXX names)"


def _cuda_devices(arguments: Sequence[th.Tensor]) -> list[int]:
    return sorted({argument.device.index or 0 for argument in arguments if argument.is_cuda})


def _check_constants(graph: fx.GraphModule) -> None:
    """Refuse a graph with a weight baked into it: it would stay as it is while training goes on."""
    for node in graph.graph.nodes:
        if node.op == "get_attr":
            constant = getattr(graph, node.target)
            if isinstance(constant, th.nn.Parameter) or constant.requires_grad:
                raise CannotCompile("the policy uses weights that are not among its parameters()")


def _first_line(error: Exception) -> str:
    text = str(error).strip() or type(error).__name__
    return text.splitlines()[0][:200]
