"""SB3's model files: written whole or not at all, and read whoever wrote them.

sb3-contrib's ``RecurrentPPO`` and ``MaskablePPO`` train the networks that ``NotesPPO`` trains, under other names: the
weights fit one by one, and so does the optimiser's memory of each. Their files are read without sb3-contrib.
"""

import base64
import json
import os
import pickletools
import warnings
import zipfile
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import cloudpickle
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.save_util import is_json_serializable, open_path

from sb3_ppo_notes._atomic import replacing
from sb3_ppo_notes.formulas.checks import InvalidTypeError, InvalidValueError
from sb3_ppo_notes.policies.networks import NotesActorCriticCnnPolicy, NotesActorCriticPolicy, NotesMultiInputPolicy
from sb3_ppo_notes.policies.recurrent import (
    NotesCnnRecurrentPolicy,
    NotesMultiInputRecurrentPolicy,
    NotesRecurrentPolicy,
)
from sb3_ppo_notes.rollouts import NotesDictRolloutBuffer, NotesRolloutBuffer

MASKABLE, RECURRENT = "sb3_contrib.common.maskable", "sb3_contrib.common.recurrent"
#: By module and name, without importing either.
POLICIES: dict[str, type] = {
    f"{MASKABLE}.policies.MaskableActorCriticPolicy": NotesActorCriticPolicy,
    f"{MASKABLE}.policies.MaskableActorCriticCnnPolicy": NotesActorCriticCnnPolicy,
    f"{MASKABLE}.policies.MaskableMultiInputActorCriticPolicy": NotesMultiInputPolicy,
    f"{RECURRENT}.policies.RecurrentActorCriticPolicy": NotesRecurrentPolicy,
    f"{RECURRENT}.policies.RecurrentActorCriticCnnPolicy": NotesCnnRecurrentPolicy,
    f"{RECURRENT}.policies.RecurrentMultiInputActorCriticPolicy": NotesMultiInputRecurrentPolicy,
}
#: Stock SB3 writes the name of its buffer although nobody asked for one; ours holds the same numbers, and is quicker.
BUFFERS: dict[str, type] = {
    f"{MASKABLE}.buffers.MaskableRolloutBuffer": NotesRolloutBuffer,
    f"{MASKABLE}.buffers.MaskableDictRolloutBuffer": NotesDictRolloutBuffer,
    "stable_baselines3.common.buffers.RolloutBuffer": NotesRolloutBuffer,
    "stable_baselines3.common.buffers.DictRolloutBuffer": NotesDictRolloutBuffer,
}
EQUIVALENTS = {"policy_class": POLICIES, "rollout_buffer_class": BUFFERS}
PICKLED = ":serialized:"


def check_no_policy_of_contrib(policy: Any) -> None:
    """Refuse a policy class of sb3-contrib, whose methods take other arguments than SB3's.

    :param policy: a name or a class.
    :raises ValueError: naming the class of ours that has the same networks.
    """
    for base in getattr(policy, "__mro__", ()):
        ours = POLICIES.get(f"{base.__module__}.{base.__qualname__}")
        if ours is not None:
            masks = ", with action_masking=True" if MASKABLE in base.__module__ else ""
            raise InvalidValueError(
                f"policy must be a class of SB3's or ours, got {policy.__name__} of sb3-contrib: {ours.__name__} has "
                f"the same networks{masks}"
            )


class ModelFile:
    """The file of a model, of ours, of stock SB3 or of sb3-contrib.

    :param path: the file, as SB3 takes it.
    """

    def __init__(self, path: Any):
        self.path = path
        data = _data_in(path)
        self._pickles = {
            name: base64.b64decode(item[PICKLED])
            for name, item in data.items()
            if isinstance(item, dict) and PICKLED in item
        }
        #: Attributes that the file does not have.
        self.attributes = {"action_masking": True} if is_masked(data) else {}

    def replacements(self, custom_objects: Any) -> dict[str, Any]:
        """Objects that SB3 takes in place of those that the file has pickled.

        :param custom_objects: of the caller, whose word counts.
        :return: by attribute.
        :raises TypeError: if it is no dictionary.
        """
        if not isinstance(custom_objects, dict | None):
            raise InvalidTypeError(f"custom_objects must be a dict or None, got {custom_objects!r}")
        names = {name: class_named_in(self._pickles.get(name, b"")) or "" for name in EQUIVALENTS}
        ours = {name: classes[names[name]] for name, classes in EQUIVALENTS.items() if names[name] in classes}
        # In old files of RecurrentPPO: the memory of environments that are gone.
        return ours | {"_last_lstm_states": None} | (custom_objects or {})

    @contextmanager
    def naming_missing_packages(self) -> Iterator[None]:
        """Say which part of the file needs a package that is not installed.

        :return: a context.
        :raises ModuleNotFoundError: naming the part and what can be done.
        """
        try:
            yield
        except ModuleNotFoundError as error:
            package = str(error.name)
            parts = [name for name, pickled in self._pickles.items() if package.encode() in pickled]
            if not parts:
                raise
            raise ModuleNotFoundError(
                f"path must be a file whose classes can be imported, got {self.path}, of which {', '.join(parts)} "
                f"{'needs' if len(parts) == 1 else 'need'} {package!r}, which is not installed (install it, or give "
                f"something else: custom_objects={{{parts[0]!r}: ...}})",
                name=error.name,
            ) from error


def is_masked(data: Mapping[str, Any]) -> bool:
    """``True`` for the file of a ``MaskablePPO``: only its policy's class says so.

    :param data: attributes, as JSON has them.
    :return: ``True`` if its environments say which actions are allowed.
    :raises ValueError: for actions that its networks give other numbers than ours.
    """
    policy, actions = (data.get(name) for name in ("policy_class", "action_space"))
    pickled = policy.get(PICKLED) if isinstance(policy, dict) else None
    name = class_named_in(base64.b64decode(pickled)) if isinstance(pickled, str) else None
    if name not in POLICIES or not str(name).startswith(MASKABLE):
        return False
    if isinstance(actions, dict) and "MultiBinary" in str(actions.get(":type:")):
        raise InvalidValueError(
            "path must not be the file of a MaskablePPO with MultiBinary actions: its network gives each bit two "
            "numbers, ours one, so that no weight fits (play it with sb3-contrib, or train it anew with "
            "action_masking=True)"
        )
    return True


def _data_in(path: Any) -> dict[str, Any]:
    """The attributes of a model as text; what SB3 will refuse is left to it."""
    file = open_path(path, "r", suffix="zip")
    try:
        with zipfile.ZipFile(file) as archive:
            data = json.loads(archive.read("data")) if "data" in archive.namelist() else {}
    except zipfile.BadZipFile:
        return {}
    finally:
        if file is not path:
            file.close()
    return data if isinstance(data, dict) else {}


def class_named_in(pickled: bytes) -> str | None:
    """The class that a pickle does nothing but name.

    The pickle is looked at and not run: it has to be the very sequence of instructions "this module, this name, the
    class of that name, stop".

    :param pickled: the pickle.
    :return: module and name; ``None`` for every other pickle.
    """
    words = []
    expected = ["BINUNICODE", "BINUNICODE", "STACK_GLOBAL", "STOP"]
    try:
        for instruction, argument, _ in pickletools.genops(pickled):
            name = instruction.name
            if name in ("PROTO", "FRAME", "MEMOIZE"):
                continue
            if not expected or name.removeprefix("SHORT_") != expected.pop(0):
                return None
            if argument is not None:
                words.append(str(argument))
    except Exception:
        return None
    return None if expected else ".".join(words)


# -- writing -------------------------------------------------------------------------------------------------------


def save_whole(
    model: BaseAlgorithm,
    save: Callable[..., None],
    path: Any,
    exclude: Iterable[str] | None,
    include: Iterable[str] | None,
) -> None:
    """Write a model's file; an old one of that name stays until the new one is complete and on the disk.

    SB3 empties it before it knows whether a new one can be written.

    :param model: that is saved.
    :param save: SB3's method, as it is.
    :param path: the file; ``.zip`` is added to a name without a suffix.
    :param exclude: attributes to leave out beside those that always are.
    :param include: attributes to put in although they usually are not.
    :raises TypeError: if an attribute cannot be pickled, naming it; nothing was written.
    """
    excluded = None if exclude is None else list(exclude)
    included = None if include is None else list(include)
    if not isinstance(path, str | os.PathLike):
        save(path, excluded, included)
        return
    with replacing(_target(Path(path))) as file:
        try:
            save(file, excluded, included)
        except Exception as error:
            name = _unpicklable(model, excluded or [], included or [])
            if name is None:
                raise
            raise InvalidTypeError(
                f"{name} must be something that can be pickled to be saved with the model, got "
                f"{vars(model)[name]!r} ({error}); {path} is as it was (leave it out with exclude=[{name!r}])"
            ) from error


def _unpicklable(model: BaseAlgorithm, exclude: list[str], include: list[str]) -> str | None:
    """The attribute that cannot be saved."""
    left_out = (set(exclude) | set(model._excluded_save_params())) - set(include)
    names, others = model._get_torch_save_params()
    left_out |= {name.split(".")[0] for name in names + others}
    for name, value in vars(model).items():
        if name in left_out or is_json_serializable(value):
            continue
        try:
            cloudpickle.dumps(value)
        except Exception:
            return name
    return None


def _target(path: Path) -> Path:
    """SB3's own target: a suffix for a bare name, another name beside a folder, a folder that is missing."""
    target = path if path.suffix else path.with_name(f"{path.name}.zip")
    if target.is_dir():
        warnings.warn(f"Path '{target}' is a folder. Will save instead to {target}_2", UserWarning, stacklevel=3)
        target = target.with_name(f"{target.name}_2")
    if not target.parent.exists():
        warnings.warn(f"Path '{target.parent}' does not exist. Will create it.", UserWarning, stacklevel=3)
        target.parent.mkdir(parents=True, exist_ok=True)
    return target
