"""Attributes, methods, seeds and pictures of the environments inside a Gymnasium vector environment, in SB3's terms."""

import warnings
from collections.abc import Sequence
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium.vector import AsyncVectorEnv, SyncVectorEnv, VectorEnv
from stable_baselines3.common.env_util import is_wrapped
from stable_baselines3.common.monitor import Monitor
from stable_baselines3.common.vec_env import VecEnv
from stable_baselines3.common.vec_env.base_vec_env import VecEnvIndices

from sb3_ppo_notes.envs.autoreset import is_envpool
from sb3_ppo_notes.formulas.checks import InvalidValueError


class VectorAttributes(VecEnv):
    """The part of a ``VecEnv`` that has nothing to do with stepping.

    ``SyncVectorEnv`` and ``AsyncVectorEnv`` are composed of single environments, which are asked one by one. Others
    compute all environments at once (``CartPoleVectorEnv``, EnvPool): an attribute is then the vector environment's
    own, the same for each, and there is no method to call in each.
    """

    #: The environments, as the caller gave them.
    env: VectorEnv

    @property
    def _base(self) -> Any:
        return self.env.unwrapped

    @property
    def _is_composed(self) -> bool:
        return isinstance(self._base, SyncVectorEnv | AsyncVectorEnv)

    def seed(self, seed: int | None = None) -> Sequence[int | None]:
        """Seed the environments at the next reset, one after the other from ``seed`` on where they are seeded singly.

        :param seed: ``None`` draws one.
        :return: one seed an environment; ``None`` each for EnvPool, which is seeded when it is built.
        """
        if not is_envpool(self._base):
            return super().seed(None if seed is None else int(seed))
        fixed = self._base.config["seed"]
        if seed not in (None, fixed):
            warnings.warn(
                f"seed {seed} does not reach EnvPool, which was seeded with {fixed} when it was built: give it to "
                "envpool.make",
                stacklevel=2,
            )
        return [None] * self.num_envs

    def set_options(self, options: list[dict[str, Any]] | dict[str, Any] | None = None) -> None:
        """Options of the next reset.

        :param options: one dictionary for all environments, or a list of equal ones.
        :raises ValueError: if they differ, or name the mask that is set here.
        """
        each = [options or {}] * self.num_envs if options is None or isinstance(options, dict) else options
        if len(each) != self.num_envs or any(part != each[0] for part in each):
            raise InvalidValueError(f"options must be the same for all {self.num_envs} environments, got {options}")
        if "reset_mask" in each[0]:
            raise InvalidValueError(f"options must not hold 'reset_mask', got {options}")
        super().set_options(each[0])

    def close(self) -> None:
        """Close the environments."""
        self.env.close()

    def get_images(self) -> Sequence[np.ndarray | None]:
        """A picture of each environment.

        :return: ``[height, width, 3]`` each; ``None`` each, and a warning, unless the render mode is "rgb_array".
        """
        if self.render_mode != "rgb_array":
            warnings.warn(f"the render mode must be 'rgb_array' for images, got {self.render_mode!r}", stacklevel=2)
            return [None] * self.num_envs
        if is_envpool(self._base):
            return list(self._base.render(self._base.all_env_ids))
        pictures: Any = self.env.render()
        return list(pictures)

    def has_attr(self, attr_name: str) -> bool:
        """Whether all environments have an attribute.

        :param attr_name: its name.
        :return: whether they do.
        """
        if self._is_composed:
            # Asking an AsyncVectorEnv for an attribute that is not there ends its processes.
            return all(self._base.call("has_wrapper_attr", attr_name))
        return hasattr(self._base, attr_name)

    def get_attr(self, attr_name: str, indices: VecEnvIndices = None) -> list[Any]:
        """An attribute of the environments; where none are inside, the vector environment's.

        :param attr_name: its name.
        :param indices: of which environments; ``None`` means all.
        :return: one value an environment.
        :raises AttributeError: if they do not have it.
        """
        targets = list(self._get_indices(indices))
        if attr_name == "render_mode":
            return [self.env.render_mode for _ in targets]
        if not self.has_attr(attr_name):
            raise AttributeError(f"{type(self._base).__name__} has no attribute {attr_name!r}")
        if not self._is_composed:
            return [getattr(self._base, attr_name) for _ in targets]
        # get_wrapper_attr, because Gymnasium's get_attr calls what can be called.
        values = self._base.call("get_wrapper_attr", attr_name)
        return [values[index] for index in targets]

    def set_attr(self, attr_name: str, value: Any, indices: VecEnvIndices = None) -> None:
        """Give an attribute of the environments a value; where there are no single ones inside, the vector
        environment's.

        :param attr_name: its name.
        :param value: the same for each.
        :param indices: of which environments; ``None`` means all. Only ``SyncVectorEnv`` knows single ones.
        :raises AttributeError: if a vector environment without single ones has no such attribute.
        :raises ValueError: if the environment cannot tell single ones from all.
        """
        if isinstance(self._base, SyncVectorEnv):
            for index in self._get_indices(indices):
                self._base.envs[index].set_wrapper_attr(attr_name, value)
            return
        self._check_all(indices)
        if self._is_composed:
            # A list, because a value that is one itself would be taken for one value an environment.
            self._base.set_attr(attr_name, [value] * self.num_envs)
        elif self.has_attr(attr_name):
            setattr(self._base, attr_name, value)
        else:
            raise AttributeError(f"{type(self._base).__name__} has no attribute {attr_name!r}")

    def env_method(
        self, method_name: str, *method_args: Any, indices: VecEnvIndices = None, **method_kwargs: Any
    ) -> list[Any]:
        """Call a method of the environments.

        :param method_name: its name.
        :param method_args: its arguments.
        :param indices: of which environments; ``None`` means all. Only ``SyncVectorEnv`` knows single ones.
        :param method_kwargs: its keyword arguments.
        :return: one result an environment.
        :raises AttributeError: if they do not have it.
        :raises ValueError: if there are no single environments inside, or these cannot be told from all.
        """
        name = type(self._base).__name__
        if not self._is_composed or (
            isinstance(self._base, AsyncVectorEnv) and method_name in ("reset", "step", "close")
        ):
            raise InvalidValueError(
                f"method_name must be one that {name} can call in each environment, got {method_name!r}"
            )
        if not self.has_attr(method_name):
            raise AttributeError(f"{name} has no attribute {method_name!r}")
        if isinstance(self._base, SyncVectorEnv):
            targets = [self._base.envs[index] for index in self._get_indices(indices)]
            return [target.get_wrapper_attr(method_name)(*method_args, **method_kwargs) for target in targets]
        self._check_all(indices)
        return list(self._base.call(method_name, *method_args, **method_kwargs))

    def env_is_wrapped(
        self, wrapper_class: type[gym.Wrapper[Any, Any, Any, Any]], indices: VecEnvIndices = None
    ) -> list[bool]:
        """Whether environments are inside a wrapper. ``True`` for ``Monitor``, whose work is done here.

        :param wrapper_class: the wrapper.
        :param indices: of which environments; ``None`` means all.
        :return: one answer an environment.
        :raises ValueError: if the environments live in other processes and cannot be asked.
        """
        targets = list(self._get_indices(indices))
        if wrapper_class is Monitor:
            return [True for _ in targets]
        if isinstance(self._base, SyncVectorEnv):
            return [is_wrapped(self._base.envs[index], wrapper_class) for index in targets]
        if self._is_composed:
            raise InvalidValueError(
                f"wrapper_class must be Monitor where environments live in other processes, got "
                f"{wrapper_class.__name__}"
            )
        return [False for _ in targets]

    def _check_all(self, indices: VecEnvIndices) -> None:
        if sorted(self._get_indices(indices)) != list(range(self.num_envs)):
            name = type(self._base).__name__
            raise InvalidValueError(
                f"indices must be None for {name}, which reaches all environments or none, got {indices}"
            )
