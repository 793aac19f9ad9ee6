"""Attributes, methods and pictures of environments in other processes."""

import warnings
from collections.abc import Sequence
from typing import Any

import gymnasium as gym
import numpy as np
from stable_baselines3.common.vec_env.base_vec_env import VecEnv, VecEnvIndices

from sb3_ppo_notes.envs.worker_errors import EnvWorkerError


class WorkerAttributes(VecEnv):
    """The part of a ``VecEnv`` over processes that has nothing to do with stepping, as ``SubprocVecEnv`` answers it.

    What an environment raises here is raised here, and leaves it as it was.
    """

    def _ask(self, command: str, data: Any, indices: VecEnvIndices) -> list[Any]:
        """The answer of each environment."""
        raise NotImplementedError

    def get_images(self) -> Sequence[np.ndarray | None]:
        """A picture of each environment.

        :return: ``[height, width, 3]`` each; ``None`` each, and a warning, unless the render mode is "rgb_array".
        """
        if self.render_mode != "rgb_array":
            warnings.warn(f"the render mode must be 'rgb_array' for images, got {self.render_mode!r}", stacklevel=2)
            return [None] * self.num_envs
        return self._ask("render", None, None)

    def has_attr(self, attr_name: str) -> bool:
        """Whether all environments have an attribute.

        :param attr_name: its name.
        :return: whether they do.
        """
        return all(self._ask("has_attr", attr_name, None))

    def get_attr(self, attr_name: str, indices: VecEnvIndices = None) -> list[Any]:
        """An attribute of the environments.

        :param attr_name: its name.
        :param indices: of which environments; ``None`` means all.
        :return: one value an environment.
        :raises AttributeError: if one does not have it.
        """
        return self._ask_by_name("get_attr", attr_name, attr_name, indices)

    def set_attr(self, attr_name: str, value: Any, indices: VecEnvIndices = None) -> None:
        """Give an attribute of the environments a value.

        :param attr_name: its name.
        :param value: the same for each.
        :param indices: of which environments; ``None`` means all.
        """
        self._ask("set_attr", (attr_name, value), indices)

    def env_method(
        self, method_name: str, *method_args: Any, indices: VecEnvIndices = None, **method_kwargs: Any
    ) -> list[Any]:
        """Call a method of the environments.

        :param method_name: its name.
        :param method_args: its arguments.
        :param indices: of which environments; ``None`` means all.
        :param method_kwargs: its keyword arguments.
        :return: one result an environment.
        :raises AttributeError: if one does not have it.
        :raises EnvWorkerError: if one raises something else.
        """
        return self._ask_by_name("env_method", method_name, (method_name, method_args, method_kwargs), indices)

    def env_is_wrapped(
        self, wrapper_class: type[gym.Wrapper[Any, Any, Any, Any]], indices: VecEnvIndices = None
    ) -> list[bool]:
        """Whether environments are inside a wrapper.

        :param wrapper_class: the wrapper.
        :param indices: of which environments; ``None`` means all.
        :return: one answer an environment.
        """
        return self._ask("is_wrapped", wrapper_class, indices)

    def _ask_by_name(self, command: str, name: str, data: Any, indices: VecEnvIndices) -> list[Any]:
        try:
            return self._ask(command, data, indices)
        except EnvWorkerError as error:
            if error.kind == "AttributeError":
                raise AttributeError(f"{name}: {error}") from error
            raise
