"""The two formats of a file: how it is written, and how it is run."""

import importlib.metadata
import importlib.util
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch as th

from sb3_ppo_notes._remarks import without_remarks
from sb3_ppo_notes.export.actor import BATCH, EXAMPLE, Actor
from sb3_ppo_notes.formulas.checks import InvalidValueError

#: Runs a file: arrays by name in, arrays by name out.
Run = Callable[[dict[str, np.ndarray]], dict[str, np.ndarray]]
ONNX, PT2 = ".onnx", ".pt2"
#: What the extra ``export`` installs.
PACKAGES = ("onnx", "onnxruntime", "onnxscript")


def check_format(path: Path) -> None:
    """Refuse a path before anything is computed: another format, no folder, packages that are not installed."""
    if path.suffix not in (ONNX, PT2):
        raise InvalidValueError(f"to must end in {ONNX} or {PT2}, got {str(path)!r}")
    if not path.parent.is_dir():
        raise InvalidValueError(f"to must lie in a folder that exists, got {str(path)!r}")
    if path.is_dir():
        raise InvalidValueError(f"to must be a file, got the folder {str(path)!r}")
    missing = [package for package in PACKAGES if path.suffix == ONNX and importlib.util.find_spec(package) is None]
    if missing:
        raise InvalidValueError(
            f"to must end in {PT2} where {', '.join(missing)} is not installed, got {str(path)!r}: "
            "pip install 'sb3-ppo-notes[export]'"
        )


def write(actor: Actor, path: Path) -> None:
    """Write an actor, in the format that the path's ending names."""
    arrays = {each.name: each.zeros(EXAMPLE) for each in actor.inputs}
    inputs = {name: th.as_tensor(array) for name, array in arrays.items()}
    batch = th.export.Dim(BATCH, min=1)
    free = {each.name: {each.shape.index(BATCH): batch} for each in actor.inputs}
    with th.no_grad(), without_remarks("torch.onnx"):
        try:
            program = th.export.export(actor, (inputs,), dynamic_shapes=(free,))
            if path.suffix == PT2:
                th.export.save(program, path)
                return
            names: dict[str, Any] = {"input_names": list(inputs), "output_names": list(actor.outputs)}
            th.onnx.export(program, (), str(path), **names, external_data=False, verbose=False, dynamo=True)
        except RuntimeError as error:  # of which torch's own errors are
            line = " ".join(str(error).split())
            raise InvalidValueError(f"model must have a policy that torch.export can trace ({line[:300]})") from error


def load(path: Path, names: tuple[str, ...]) -> tuple[Run, str]:
    """A file that was written, ready to run, and what runs it."""
    if path.suffix == PT2:
        return _torch(path), f"torch {th.__version__}"
    return _onnxruntime(path, names), f"onnxruntime {importlib.metadata.version('onnxruntime')}"


def _torch(path: Path) -> Run:
    module = th.export.load(path).module()

    def run(inputs: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        with th.no_grad():
            outputs = module({name: th.as_tensor(array) for name, array in inputs.items()})
        return {name: tensor.numpy() for name, tensor in outputs.items()}

    return run


def _onnxruntime(path: Path, names: tuple[str, ...]) -> Run:
    runtime: Any = importlib.import_module("onnxruntime")
    # From its bytes: a file that is open cannot be moved everywhere.
    session = runtime.InferenceSession(path.read_bytes(), providers=["CPUExecutionProvider"])
    wanted = {each.name for each in session.get_inputs()}

    def run(inputs: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        given = {name: array for name, array in inputs.items() if name in wanted}
        return dict(zip(names, session.run(list(names), given), strict=True))

    return run
