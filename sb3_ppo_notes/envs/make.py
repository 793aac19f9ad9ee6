"""One environment or several from an id, refused by name before anything is built on them."""

import difflib
from collections.abc import Iterable
from typing import Any, TypeAlias

import gymnasium as gym
from gymnasium.vector import VectorEnv
from stable_baselines3.common.base_class import maybe_make_env
from stable_baselines3.common.type_aliases import GymEnv
from stable_baselines3.common.vec_env import VecEnv

from sb3_ppo_notes.envs.autoreset import is_envpool
from sb3_ppo_notes.envs.errors import OTHER_PACKAGES, UNKNOWN
from sb3_ppo_notes.envs.spaces import check_spaces
from sb3_ppo_notes.envs.torch_vec_env import steps_many
from sb3_ppo_notes.envs.vector_env import GymnasiumVecEnv
from sb3_ppo_notes.formulas.checks import InvalidTypeError, InvalidValueError

#: Environments that an algorithm takes: SB3's kinds, and several of Gymnasium's at once.
AnyEnv: TypeAlias = GymEnv | VectorEnv[Any, Any, Any]


class UnknownEnvironmentError(*UNKNOWN, ValueError):  # type: ignore[misc]
    """No environment of that name is registered."""


def make_env(env: Any, verbose: int) -> Any:
    """The environment itself, made where an id was given.

    :param env: an id, an environment, a VecEnv, or a vector environment of Gymnasium's or EnvPool's.
    :param verbose: 1 lets SB3 say that it makes one.
    :return: an environment, or a VecEnv.
    :raises ValueError: if there is none, the name is unknown, or nobody can learn in its spaces.
    :raises TypeError: if it is of a kind that has to be adapted first; the message says by what.
    """
    if env is None:
        raise InvalidValueError(
            "env is required to build a model, got None (give one here, or load a saved model first)"
        )
    if isinstance(env, str):
        try:
            env = maybe_make_env(env, verbose)
        except UNKNOWN as error:
            raise UnknownEnvironmentError(
                f"env must be the id of a registered environment, got {env!r}{did_you_mean(env, gym.registry)}; "
                f"{OTHER_PACKAGES}"
            ) from error
    env = as_vec_env(env)
    # An environment of OpenAI's Gym has spaces of its own classes until SB3 wraps it.
    if isinstance(env, gym.Env | VecEnv):
        check_spaces(env.observation_space, env.action_space)
    return env


def as_vec_env(env: Any) -> Any:
    """Several environments in SB3's terms, where they come in another library's.

    :param env: whatever an algorithm was given.
    :return: a ``VecEnv`` for ``gymnasium.make_vec``'s and EnvPool's; anything else as it is.
    :raises TypeError: for EnvPool's other interfaces, and for environments that step side by side on a device.
    :raises ValueError: if a vector environment cannot be told in SB3's terms.
    """
    if isinstance(env, VectorEnv):
        return GymnasiumVecEnv(env)
    if isinstance(env, str | VecEnv) or env is None:
        return env
    if is_envpool(env):
        raise InvalidTypeError(
            f"env must be of EnvPool's gymnasium interface (envpool.make_gymnasium), got {type(env).__name__}"
        )
    if isinstance(env, gym.Env) and steps_many(env):
        raise InvalidTypeError(
            f"env must be one environment or a VecEnv, got {type(env.unwrapped).__name__}, which steps several at "
            "once: give the algorithm sb3_ppo_notes.envs.TorchVecEnv(env)"
        )
    return env


def did_you_mean(word: str, names: Iterable[str], most: int = 3) -> str:
    """The names that a misspelt word is near to, for the end of an error message.

    :param word: as the user wrote it.
    :param names: those that there are.
    :param most: suggestions at most.
    :return: `` (did you mean 'a', 'b'?)``, or nothing if none is near.

    >>> did_you_mean("gama", ["gamma", "gae_lambda"])
    " (did you mean 'gamma'?)"
    """
    close = difflib.get_close_matches(word, list(names), n=most)
    return f" (did you mean {', '.join(map(repr, close))}?)" if close else ""
