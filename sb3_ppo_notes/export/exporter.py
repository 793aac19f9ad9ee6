"""Exporting: a file and what is to be known of it, written together once the file has played as the policy does."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple

import numpy as np
from gymnasium import spaces

from sb3_ppo_notes.callbacks.evaluation import preserve_generators
from sb3_ppo_notes.export.actor import BATCH, Actor
from sb3_ppo_notes.export.check import TOLERANCE, check
from sb3_ppo_notes.export.formats import PACKAGES, check_format, load, write
from sb3_ppo_notes.export.observations import Frames, Observation, observations_of
from sb3_ppo_notes.files import PACKAGES as LIBRARIES
from sb3_ppo_notes.files import versions, write_json
from sb3_ppo_notes.formulas.checks import InvalidValueError, check_integer


class Exported(NamedTuple):
    """What was written.

    :param path: of the file.
    :param description: of the JSON beside it.
    :param differences: largest difference to ``predict`` by output; relative, for numbers above 1.
    """

    path: Path
    description: Path
    differences: dict[str, float]


def export_policy(model: Any, path: str | Path, *, n_observations: int = 256) -> Exported:
    """Write a model's deterministic policy as a file that needs neither this package nor SB3 to run.

    The file takes observations as the environment itself gives them, and returns actions as the environment takes them:
    the statistics of normalisers, the scaling and transposition of images, clipping and stretching to the action space
    are inside, as they are now. Its inputs and outputs are described in a JSON file beside it.

    Before anything is left on the disk, observations of the model's environments are played through the file, memory
    and all. The environments begin anew for it, and once more when the model goes on learning.

    :param model: a NotesPPO or NotesA2C on the CPU, with environments.
    :param path: ends in ``.onnx`` (needs the extra ``export``) or ``.pt2`` (``torch.export``).
    :param n_observations: to play.
    :return: where it was written, and how far it is from ``predict``.
    :raises ValueError: if the model cannot be exported, or the file differs from ``predict`` by more than 1e-5.
    """
    path = Path(path)
    check_format(path)
    check_integer("n_observations", n_observations, minimum=1)
    if model.get_env() is None:
        raise InvalidValueError("model must have environments, in which its file is tried: load(..., env=...)")
    description = path.with_name(f"{path.name}.json")
    with _as_predicted(model), TemporaryDirectory(prefix=".export-", dir=path.parent) as beside:
        observations = observations_of(model.get_env())
        actor = Actor(model.policy, observations, is_masked=bool(getattr(model, "action_masking", False)))
        file = Path(beside) / path.name
        write(actor, file)
        run, runtime = load(file, actor.outputs)
        dtypes = {
            name: str(array.dtype) for name, array in run({each.name: each.zeros(1) for each in actor.inputs}).items()
        }
        differences = check(model, actor, run, observations, n_observations)
        worst = max(differences, key=lambda name: np.nan_to_num(differences[name], nan=np.inf))
        if not differences[worst] <= TOLERANCE:
            raise InvalidValueError(
                f"the file must agree with predict to {TOLERANCE:g}, got a difference of {differences[worst]:.2g} in "
                f"{worst}, by {runtime}: nothing was written"
            )
        checked = {"by": runtime, "observations": n_observations, "largest_difference": differences}
        write_json(
            file.with_name(description.name), _describe(model, actor, observations, dtypes) | {"checked": checked}
        )
        os.replace(file, path)
        os.replace(file.with_name(description.name), description)
    return Exported(path, description, differences)


@contextmanager
def _as_predicted(model: Any) -> Iterator[None]:
    """The policy as for ``predict``, in float32; no random number of the training is drawn."""
    policy = model.policy
    precision, is_training = getattr(policy, "precision", None), policy.training
    try:
        if precision is not None:
            policy.precision = "float32"
        policy.set_training_mode(False)
        with preserve_generators():
            yield
    finally:
        policy.set_training_mode(is_training)
        if precision is not None:
            policy.precision = precision


def _describe(model: Any, actor: Actor, observations: list[Observation], dtypes: dict[str, str]) -> dict[str, Any]:
    states = {f"next_{each.name}": each.shape for each in actor.inputs if each.name.startswith("state_")}
    shapes = {"action": (BATCH, *(model.action_space.shape or ())), "value": (BATCH,)} | states
    spaces_seen = {each.name: _describe_space(each.space) for each in observations}
    return {
        "policy": type(model.policy).__name__,
        "algorithm": type(model).__name__,
        "deterministic": True,
        "precision": "float32",
        "trained_in": getattr(model, "precision", "float32"),
        "inputs": [{"name": each.name, "shape": list(each.shape), "dtype": str(each.dtype)} for each in actor.inputs],
        "outputs": [{"name": name, "shape": list(shapes[name]), "dtype": dtypes[name]} for name in shapes],
        "states": {name.removeprefix("next_"): name for name in states},
        "frames": {each.name: _describe_frames(each.frames) for each in observations if each.frames is not None},
        "observation_space": spaces_seen if actor.is_dict else spaces_seen[observations[0].name],
        "action_space": _describe_space(model.action_space),
        "versions": versions((*LIBRARIES, *PACKAGES)),
    }


def _describe_frames(frames: Frames) -> dict[str, Any]:
    return {"n": frames.n, "axis": frames.axis, "before": frames.before.tolist()}


def _describe_space(space: spaces.Space[Any]) -> dict[str, Any]:
    """A space as plain data; bounds that are all alike as one number, infinite ones as words."""
    kind = {"kind": type(space).__name__, "shape": list(space.shape or ()), "dtype": str(space.dtype)}
    if isinstance(space, spaces.Box):
        return kind | {"low": _plain(space.low), "high": _plain(space.high)}
    if isinstance(space, spaces.Discrete):
        return kind | {"n": int(space.n)}
    if isinstance(space, spaces.MultiDiscrete):
        return kind | {"nvec": space.nvec.tolist()}
    return kind


def _plain(bounds: np.ndarray) -> Any:
    if bounds.size and (bounds == bounds.flat[0]).all():
        bound = bounds.flat[0].item()
        return bound if np.isfinite(bound) else str(bound)
    return [_plain(part) if part.ndim else _plain(part.reshape(1)) for part in bounds]
