"""Model files of stock SB3 and of sb3-contrib: which classes of ours stand in for those that they name.

sb3-contrib's ``RecurrentPPO`` and ``MaskablePPO`` train the networks that ``NotesPPO`` trains, under other names: the
weights fit one by one, and so does the optimiser's memory of each. Their files are read without sb3-contrib.
"""

import base64
import json
import pickletools
import zipfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, TypeVar

import torch as th
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.save_util import open_path
from stable_baselines3.common.type_aliases import GymEnv

from sb3_ppo_notes.formulas.checks import InvalidTypeError, InvalidValueError
from sb3_ppo_notes.policies.networks import NotesActorCriticCnnPolicy, NotesActorCriticPolicy, NotesMultiInputPolicy
from sb3_ppo_notes.policies.recurrent import (
    NotesCnnRecurrentPolicy,
    NotesMultiInputRecurrentPolicy,
    NotesRecurrentPolicy,
)
from sb3_ppo_notes.rollouts import NotesDictRolloutBuffer, NotesRolloutBuffer

SelfAlgorithm = TypeVar("SelfAlgorithm", bound="ReadsFilesOfOthers")
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


class ReadsFilesOfOthers(BaseAlgorithm):
    """``load`` of SB3's format, whoever wrote it."""

    @classmethod
    def load(
        cls: type[SelfAlgorithm],
        path: Any,
        env: GymEnv | None = None,
        device: th.device | str = "auto",
        custom_objects: dict[str, Any] | None = None,
        print_system_info: bool = False,
        force_reset: bool = True,
        **kwargs: Any,
    ) -> SelfAlgorithm:
        """Load a model from a zip file of ours, of stock SB3 or of sb3-contrib's ``RecurrentPPO`` and ``MaskablePPO``.

        :param path: the file.
        :param env: environments to learn in; none are needed to predict.
        :param device: where the networks shall be.
        :param custom_objects: by name, in place of what the file has.
        :param print_system_info: of the file's machine and this one.
        :param force_reset: whether the environments begin anew.
        :param kwargs: attributes to change.
        :return: the model.
        :raises TypeError: if custom_objects is no dictionary.
        :raises ValueError: if it is no such file, or one with other networks than ours.
        :raises ModuleNotFoundError: if the file needs a package that is not installed, naming which part of it does.
        """
        file = ModelFile(path)
        replaced, kwargs = file.custom_objects(custom_objects), file.attributes | kwargs
        with file.names_what_is_missing():
            return super().load(path, env, device, replaced, print_system_info, force_reset, **kwargs)


class ModelFile:
    """What SB3's ``load`` is to put in the place of what a model's file names.

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

    def custom_objects(self, given: Any) -> dict[str, Any]:
        """What SB3 shall not unpickle, and take instead.

        :param given: by the caller, whose word counts.
        :return: by attribute.
        :raises TypeError: if it is no dictionary.
        """
        if not isinstance(given, dict | None):
            raise InvalidTypeError(f"custom_objects must be a dict or None, got {given!r}")
        names = {name: class_named_in(self._pickles.get(name, b"")) or "" for name in EQUIVALENTS}
        ours = {name: classes[names[name]] for name, classes in EQUIVALENTS.items() if names[name] in classes}
        # In old files of RecurrentPPO: the memory of environments that are gone.
        return ours | {"_last_lstm_states": None} | (given or {})

    @contextmanager
    def names_what_is_missing(self) -> Iterator[None]:
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
    """Whether a file is of a ``MaskablePPO``: only its policy's class says so.

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
            found = json.loads(archive.read("data")) if "data" in archive.namelist() else {}
    except zipfile.BadZipFile:
        return {}
    finally:
        if file is not path:
            file.close()
    return found if isinstance(found, dict) else {}


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
