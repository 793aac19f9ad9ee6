"""A function of tensors as the list of its operations, run without Python.

A small minibatch costs a hundred operations of a microsecond, and twice that for Python, and for autograd, which builds
a graph that is the same every time and walks it back. Here the function is called once while every operation is written
down, derivatives included, and the list is given to TorchScript's interpreter. It calls the very same kernels in the
very same order: the numbers are the same to the bit. Nothing is compiled or fused, so it is ready in twenty
milliseconds.

What Python decides on the way is decided for good, and so are its numbers; whoever calls comes with the same shapes.
TorchScript is used below its language: graph and interpreter, in PyTorch since 1.0. Should they go, nothing is lost but
time.
"""

from collections.abc import Callable, Sequence
from typing import Any

import torch as th
from torch.utils._python_dispatch import TorchDispatchMode

aten = th.ops.aten

#: How torch's own words are written in a list of operations.
CODES: dict[Any, int] = {
    th.contiguous_format: 0,
    th.preserve_format: 1,
    th.strided: 0,
    th.uint8: 0,
    th.int8: 1,
    th.int16: 2,
    th.int32: 3,
    th.int64: 4,
    th.float16: 5,
    th.float32: 6,
    th.float64: 7,
    th.bool: 11,
    th.bfloat16: 15,
}


class CannotScript(Exception):
    """A function is no fixed list of operations, and why."""


class Script:
    """The operations of a function.

    :param function: of tensors; gives a list of tensors. It may read others than its arguments: those stay the same
        objects.
    :param arguments: it is called with them, and does what it does.
    :param outputs: tensors that it may write to.
    :raises CannotScript: if what it does depends on the numbers in its tensors, or it draws random ones, or writes to
        others than ``outputs`` (a layer that counts its calls): whoever compares a run with a recording runs it twice.
    """

    def __init__(self, function: Callable[..., Any], arguments: Sequence[th.Tensor], outputs: Sequence[th.Tensor] = ()):
        try:
            recorder = _Recorder(arguments, outputs)
            self._is_optimizing, self._optimize = th._C._get_graph_executor_optimize, th._C._set_graph_executor_optimize
            self._below_autograd = th._C._AutoDispatchBelowAutograd
            with recorder:
                #: What the function gave while it was written down.
                self.first = [tensor.detach() for tensor in function(*arguments)]
            self._run = recorder.function(self.first)
        except CannotScript:
            raise
        except Exception as error:  # whatever this PyTorch does not know, or not like this
            raise CannotScript(str(error).partition("\n")[0]) from error
        self._bound = recorder.bound
        #: The others that it reads or writes to, and where they lay.
        self._places = [(tensor, tensor.data_ptr()) for tensor in (*recorder.bound, *recorder.roots)]

    def __call__(self, *arguments: th.Tensor) -> tuple[th.Tensor, ...]:
        """Results of the function for arguments of the same shapes and dtypes, without a graph."""
        was_optimizing = self._is_optimizing()
        # Nothing is to be fused, or done in another order.
        self._optimize(False)
        try:
            with self._below_autograd():
                results: tuple[th.Tensor, ...] = self._run(*arguments, *self._bound)
        finally:
            self._optimize(was_optimizing)
        return results

    @property
    def is_current(self) -> bool:
        """``True`` if all that it reads and writes to still lies where it lay."""
        return all(tensor.data_ptr() == place for tensor, place in self._places)


class _Recorder(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Writes down every operation."""

    def __init__(self, arguments: Sequence[th.Tensor], outputs: Sequence[th.Tensor]):
        super().__init__()  # type: ignore[no-untyped-call]
        #: Where lies what may be written to: outputs, and what an operation has made.
        self._writable = {_place(tensor) for tensor in outputs}
        self.graph: Any = th._C.Graph()
        #: By the id of a tensor: what stands for it in the graph. All are kept alive, so that no id is given twice.
        self._values: dict[int, Any] = {}
        self._alive: list[th.Tensor] = []
        self.bound: list[th.Tensor] = []
        #: Those of which only views are bound.
        self.roots: list[th.Tensor] = []
        for tensor in arguments:
            self._know(tensor, self.graph.addInput())

    def __torch_dispatch__(self, operation: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        tags = operation.tags
        if operation is aten._local_scalar_dense.default or th.Tag.dynamic_output_shape in tags:
            raise CannotScript(f"{operation} looks at the numbers")
        if th.Tag.nondeterministic_seeded in tags:
            raise CannotScript(f"{operation} draws random numbers")
        kwargs = kwargs or {}
        inputs = [
            args[index] if index < len(args) else kwargs.get(argument.name, argument.default_value)
            for index, argument in enumerate(operation._schema.arguments)
        ]
        self._check_writes(operation, inputs)
        result = operation(*args, **kwargs)
        if operation is aten.detach.default:
            self._know(result, self._value(args[0]))
        elif operation.is_view and self._is_bound(args[0]):
            # A view of what always lies at the same place does so, too.
            self.roots.append(args[0])
        else:
            self._write(operation._schema, inputs, result)
            if not operation.is_view:
                self._writable.update(map(_place, _tensors(result)))
        return result

    def _check_writes(self, operation: Any, inputs: list[Any]) -> None:
        for each, argument in zip(inputs, operation._schema.arguments, strict=True):
            is_written = argument.alias_info is not None and argument.alias_info.is_write
            if is_written and not self._writable.issuperset(map(_place, _tensors(each))):
                raise CannotScript(f"{operation} changes a tensor that lasts")

    def function(self, outputs: Sequence[th.Tensor]) -> Any:
        """The recorded operations as a function of arguments and bound tensors; gives a tuple."""
        values = [self._value(output) for output in outputs]
        kind = th._C.TupleType([value.type() for value in values])
        self.graph.registerOutput(self._node("prim::TupleConstruct", values, kind))
        return th._C._create_function_from_graph("step", self.graph)

    def _write(self, schema: Any, inputs: list[Any], result: Any) -> None:
        values = [self._input(each, argument.type) for each, argument in zip(inputs, schema.arguments, strict=True)]
        node = self.graph.create(schema.name, values, len(schema.returns))
        self.graph.appendNode(node)
        results = (result,) if len(schema.returns) == 1 else result or ()
        for value, each, returned in zip(node.outputs(), results, schema.returns, strict=True):
            value.setType(returned.type)
            if isinstance(each, th.Tensor):
                self._know(each, value)
            elif each is not None:  # a gradient that nobody asked for
                self._unpack(each, value)

    def _unpack(self, tensors: Sequence[th.Tensor], value: Any) -> None:
        node = self.graph.create("prim::ListUnpack", [value], len(tensors))
        self.graph.appendNode(node)
        for tensor, part in zip(tensors, node.outputs(), strict=True):
            part.setType(th._C.TensorType.get())
            self._know(tensor, part)

    def _input(self, value: Any, kind: Any) -> Any:
        """The graph's value for an argument of an operation."""
        if isinstance(value, th.Tensor):
            return self._value(value)
        if isinstance(value, list | tuple) and any(isinstance(each, th.Tensor) for each in value):
            return self._node("prim::ListConstruct", [self._value(each) for each in value], th._C.ListType.ofTensors())
        if isinstance(value, list | tuple) and not value:
            kind = kind.getElementType() if isinstance(kind, th._C.OptionalType) else kind
            return self._node("prim::ListConstruct", [], kind)
        if isinstance(value, th.dtype | th.layout | th.memory_format):
            value = CODES[value]
        elif isinstance(value, tuple):
            value = list(value)
        elif type(value) is int and str(kind) == "float":
            value = float(value)
        return self.graph.insertConstant(value)

    def _node(self, name: str, inputs: list[Any], kind: Any) -> Any:
        node = self.graph.create(name, inputs, 1)
        self.graph.appendNode(node)
        node.output().setType(kind)
        return node.output()

    def _know(self, tensor: th.Tensor, value: Any) -> None:
        self._alive.append(tensor)
        self._values[id(tensor)] = value

    def _is_bound(self, tensor: Any) -> bool:
        return id(tensor) not in self._values or any(tensor is each for each in self.bound)

    def _value(self, tensor: th.Tensor) -> Any:
        if id(tensor) not in self._values:
            self.bound.append(tensor)
            self._know(tensor, self.graph.addInput())
        return self._values[id(tensor)]


def _tensors(value: Any) -> list[th.Tensor]:
    return [each for each in (value if isinstance(value, list | tuple) else (value,)) if isinstance(each, th.Tensor)]


def _place(tensor: th.Tensor) -> int:
    return tensor.untyped_storage().data_ptr()
