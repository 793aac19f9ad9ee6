"""One environment or several from an id, refused by name before anything is built on them."""

import difflib
from collections.abc import Iterable
from typing import Any

import gymnasium as gym
from stable_baselines3.common.base_class import maybe_make_env
from stable_baselines3.common.vec_env import VecEnv

from sb3_ppo_notes.envs.spaces import check_spaces
from sb3_ppo_notes.formulas.checks import InvalidValueError


class UnknownEnvironmentError(gym.error.NameNotFound, ValueError):
    """No environment of that name is registered."""


def make_env(env: Any, verbose: int) -> Any:
    """The environment itself, made where an id was given.

    :param env: an id, an environment or a VecEnv.
    :param verbose: 1 lets SB3 say that it makes one.
    :return: an environment.
    :raises ValueError: if there is none, the name is unknown, or nobody can learn in its spaces.
    """
    if env is None:
        raise InvalidValueError(
            "env is required to build a model, got None (give one here, or load a saved model first)"
        )
    if isinstance(env, str):
        try:
            env = maybe_make_env(env, verbose)
        except gym.error.NameNotFound as error:
            raise UnknownEnvironmentError(
                f"env must be the id of a registered environment, got {env!r}{did_you_mean(env, gym.registry)}"
            ) from error
    # An environment of OpenAI's Gym has spaces of its own classes until SB3 wraps it.
    if isinstance(env, gym.Env | VecEnv):
        check_spaces(env.observation_space, env.action_space)
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
