"""An environment's own error in one line: which environment, what it says, and where in its code it was raised.

Nothing of this package is imported here: a benchmark's programs load the file in interpreters that lack the package.
"""

import os
import traceback
from types import CodeType, FrameType
from typing import Any

import gymnasium as gym
from gymnasium.vector import VectorEnv
from stable_baselines3.common.vec_env import VecEnv, VecEnvWrapper

#: Code that only calls environments: of interest is the line of the environment that it called.
CALLERS = ("gymnasium", "stable_baselines3", "sb3_ppo_notes", "importlib")

#: Said of an id that nobody has registered.
OTHER_PACKAGES = "if another package registers it: 'package:id', or --import package in a command"
#: Said of one that is unknown in another process only.
OTHER_PROCESSES = (
    "'package:id' imports what registers it there, too (an import below `if __name__` or in a notebook does not)"
)
UNKNOWN = (gym.error.NameNotFound, gym.error.NamespaceNotFound)


def environment_error(error: BaseException) -> str | None:
    """One line for the user about an error that an environment, a wrapper or their construction has raised.

    An error is an environment's if it passed through a method of one, or through ``gymnasium.make``.

    :param error: caught, with its traceback.
    :return: one line; ``None`` for any other error, and for one of this package's own, which says everything already.
    """
    if getattr(error, "is_self_contained", False):
        return None
    frames = [frame for frame, _ in traceback.walk_tb(error.__traceback__)]
    name = _environment_name(frames)
    if name is None:
        return None
    error = _cause_in_constructor(error, frames)
    text = " ".join(message_of(error).split())
    if isinstance(error, gym.error.UnregisteredEnv | gym.error.DeprecatedEnv):
        hint = f"; {OTHER_PACKAGES}" if isinstance(error, UNKNOWN) else ""
        return f"env must be the id of a registered environment, got {name!r}: {text}{hint}"
    notes = "".join(f", {' '.join(note.split())}" for note in getattr(error, "__notes__", []))
    what = type(error).__name__ + (f": {text}" if text else "")
    return f"env {name!r}: {what}{_location(error)}{notes}"


def message_of(error: BaseException) -> str:
    """``str(error)``, or a sentence about it where an environment's own class of errors fails at that too."""
    try:
        return str(error)
    except Exception as another:
        return f"it has no message, its __str__ raises {type(another).__name__}"


def is_wrong_call(error: TypeError) -> bool:
    """``True`` if ``gymnasium.make`` could not call a constructor with these arguments.

    ``False`` if the constructor was entered, and raised the error itself.
    """
    frames = [frame for frame, _ in traceback.walk_tb(error.__traceback__)]
    cause = _cause_in_constructor(error, frames)
    *_, (innermost, _) = traceback.walk_tb(cause.__traceback__)
    return innermost.f_code in _constructions()


def _constructions() -> tuple[CodeType, ...]:
    return gym.make.__code__, gym.make_vec.__code__


def _environment_name(frames: list[FrameType]) -> str | None:
    """The id that was asked for, or that the environment knows of itself; ``None`` if no environment was called."""
    name = None
    for frame in frames:
        code = frame.f_code
        first = frame.f_locals.get(code.co_varnames[0]) if code.co_argcount else None
        if code in _constructions():
            return str(getattr(first, "id", first))  # an EnvSpec, or the id itself
        if isinstance(first, gym.Env | VecEnv | VectorEnv):
            identifier = _identifier(first)
            if identifier is not None:
                return identifier
            name = name or type(first).__name__
    return name


def _identifier(environment: Any) -> str | None:
    """The id of an environment that may be no more than half built."""
    while isinstance(environment, gym.Wrapper | VecEnvWrapper):
        environment = vars(environment).get("env") or vars(environment).get("venv")
    if isinstance(environment, VecEnv):
        inner = vars(environment).get("envs") or [vars(environment).get("env")]
        return None if inner[0] is None else _identifier(inner[0])
    identifier = getattr(getattr(environment, "spec", None), "id", None)
    return None if identifier is None else str(identifier)


def _cause_in_constructor(error: BaseException, frames: list[FrameType]) -> BaseException:
    """``gymnasium.make`` raises a constructor's TypeError once more, with the arguments in its message."""
    is_repeated = frames[-1].f_code in _constructions() and type(error.__cause__) is type(error)
    return error.__cause__ if is_repeated and error.__cause__ is not None else error


def _location(error: BaseException) -> str:
    """The innermost line of the environment's own code."""
    location, is_within = "", False
    for frame, line in traceback.walk_tb(error.__traceback__):
        is_within = is_within or _environment_name([frame]) is not None
        code, module = frame.f_code, str(frame.f_globals.get("__name__", ""))
        if is_within and module.partition(".")[0] not in CALLERS:
            location = f" ({os.path.basename(code.co_filename)}:{line}, in {code.co_name})"
    return location
