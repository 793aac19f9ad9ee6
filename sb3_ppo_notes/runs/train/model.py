"""Environments and model of a configuration."""

import importlib
import importlib.util
import inspect
import re
from collections.abc import Callable
from typing import Any

import gymnasium as gym
from gymnasium import spaces
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.monitor import Monitor
from stable_baselines3.common.preprocessing import is_image_space
from stable_baselines3.common.sb2_compat.rmsprop_tf_like import RMSpropTFLike
from stable_baselines3.common.vec_env import VecEnv, VecFrameStack, VecNormalize
from torch import nn, optim

from sb3_ppo_notes.algorithms.on_policy import NotesOnPolicyAlgorithm
from sb3_ppo_notes.configs.rules import rule_from_words
from sb3_ppo_notes.configs.tuned import is_atari
from sb3_ppo_notes.configs.zoo import ACTIVATIONS, OPTIMIZERS
from sb3_ppo_notes.envs.errors import is_wrong_call
from sb3_ppo_notes.envs.make import make_env
from sb3_ppo_notes.formulas.checks import InvalidTypeError, InvalidValueError
from sb3_ppo_notes.recipes import RECIPES
from sb3_ppo_notes.rollouts import LeanVecEnv
from sb3_ppo_notes.runs.train.config import ALGORITHMS, RunConfig


def built_model(config: RunConfig) -> NotesOnPolicyAlgorithm:
    """A model that is ready to learn, with its environments.

    :param config: of the run.
    :return: NotesPPO or NotesA2C.
    :raises ValueError: for a value that cannot be, or a package that is not installed; named.
    """
    check_environment(config)
    env = _environments(config)
    arguments = dict(config.hyperparameters, seed=config.seed, device=config.device)
    if "policy_kwargs" in arguments:
        arguments["policy_kwargs"] = with_classes(arguments["policy_kwargs"])
    if "rule" in arguments:
        arguments["rule"] = rule_from_words(arguments["rule"])
    algorithm = ALGORITHMS[config.algo]
    policy = config.policy
    if policy is not None:
        check_policy(policy, env.observation_space)
    model: NotesOnPolicyAlgorithm
    if config.recipe is None:
        model = algorithm(policy or suggested_policy(env.observation_space), env, **arguments)
    else:
        given = {} if policy is None else {"policy": policy}
        model = algorithm.from_recipe(config.recipe, env, **given, **arguments)
    return model


def _environments(config: RunConfig) -> VecEnv:
    env = make_vec_env(
        config.env,
        n_envs=config.n_envs or 1,
        seed=config.seed,
        wrapper_class=_wrap(config.env_wrapper),
        env_kwargs=config.env_kwargs,
        vec_env_cls=LeanVecEnv,
    )
    if config.normalize:
        # Rewards are divided by the deviation of the discounted return: the discount is the algorithm's.
        known = config.hyperparameters if config.recipe is None else RECIPES[config.recipe].hyperparameters
        gamma = {key: value for key, value in (known | config.hyperparameters).items() if key == "gamma"}
        given = config.normalize if isinstance(config.normalize, dict) else {}
        env = VecNormalize(env, **gamma | given)
    # In rl_zoo3's order: what is stacked is normalised already.
    return env if config.frame_stack is None else VecFrameStack(env, config.frame_stack)


def environment_factory(config: RunConfig, render: bool = False) -> Callable[[], gym.Env]:
    """How one environment like those of the training is made, without a VecEnv around it.

    :param config: of the run.
    :param render: whether it shall render pictures.
    :return: a function; its environment counts raw rewards.
    """
    mode = {"render_mode": "rgb_array"} if render else {}
    wrap = _wrap(config.env_wrapper)

    def make() -> gym.Env:
        env = Monitor(gym.make(config.env, **config.env_kwargs | mode))
        return env if wrap is None else wrap(env)

    return make


def check_environment(config: RunConfig, render: bool = False) -> None:
    """Refuse an environment that does not exist, or needs what is not installed.

    :param config: of the run.
    :param render: whether it will have to render.
    :raises ValueError: in one line that says what to do.
    """
    if is_atari(config.env) and importlib.util.find_spec("ale_py") is not None:
        gym.register_envs(importlib.import_module("ale_py"))
    elif is_atari(config.env):
        raise InvalidValueError(needs(config.env, "gymnasium[atari]"))
    if "atari_wrappers" in str(config.env_wrapper) and importlib.util.find_spec("cv2") is None:
        raise InvalidValueError(needs(config.env, "opencv-python"))
    try:
        make_env(gym.make(config.env, **config.env_kwargs), verbose=0).close()
        if render:
            _check_rendering(config)
    except gym.error.DependencyNotInstalled as error:
        package = re.search(r"gymnasium\[[\w-]+\]", str(error))
        if package is None:
            raise
        raise InvalidValueError(needs(config.env, package.group())) from error
    except gym.error.NameNotFound:
        make_env(config.env, verbose=0)  # refuses it with a suggestion
        raise
    except TypeError as error:
        if not config.env_kwargs or not is_wrong_call(error):
            raise
        raise InvalidValueError(
            f"env_kwargs must be arguments of {config.env}, got {config.env_kwargs} ({error.__cause__ or error})"
        ) from error
    _wrap(config.env_wrapper)


def _check_rendering(config: RunConfig) -> None:
    """Draw one picture. Renderers have errors of many kinds, and some come with the first picture only."""
    env = gym.make(config.env, **config.env_kwargs | {"render_mode": "rgb_array"})
    env.reset()
    try:
        env.render()
    except gym.error.DependencyNotInstalled:
        raise
    except Exception as error:
        if "mujoco" not in type(error).__module__:
            raise
        raise InvalidValueError(
            f"env {config.env!r} cannot be rendered here: {' '.join(str(error).split())} "
            "(without a display MuJoCo wants MUJOCO_GL=egl or osmesa)"
        ) from error
    env.close()


def needs(env: str, package: str) -> str:
    """The one line about a package that is missing.

    :param env: which environment needs it.
    :param package: as pip knows it.
    :return: what to do.
    """
    return f"env {env!r} needs a package that is not installed: pip install {package!r}"


def suggested_policy(space: spaces.Space[Any]) -> str:
    """The policy that fits observations.

    :param space: of the observations.
    :return: its name.

    >>> suggested_policy(spaces.Box(0.0, 1.0, (4,)))
    'MlpPolicy'
    """
    if isinstance(space, spaces.Dict):
        return "MultiInputPolicy"
    return "CnnPolicy" if is_image_space(space) else "MlpPolicy"


def check_policy(policy: str, space: spaces.Space[Any]) -> None:
    """Refuse a policy that cannot see.

    :param policy: its name.
    :param space: of the observations.
    :raises ValueError: if it is for other observations.
    """
    is_fitting = {
        "Multi": isinstance(space, spaces.Dict),
        # With normalize_images=False they are numbers between 0 and 1.
        "Cnn": is_image_space(space, normalized_image=True),
        "Mlp": not isinstance(space, spaces.Dict),
    }
    kind = next((kind for kind in is_fitting if policy.startswith(kind)), None)
    if kind is not None and not is_fitting[kind]:
        raise InvalidValueError(f"policy must be one for observations of {space}, got {policy!r}")


def with_classes(policy_kwargs: dict[str, Any]) -> dict[str, Any]:
    """Arguments of a policy with classes in the place of their names.

    :param policy_kwargs: plain data.
    :return: a copy.
    :raises ValueError: for a name that is not among the known ones.
    """
    if not isinstance(policy_kwargs, dict):
        raise InvalidTypeError(f"policy_kwargs must be names and values, got {policy_kwargs!r}")
    known: dict[str, dict[str, Any]] = {
        "activation_fn": {name: getattr(nn, name) for name in ACTIVATIONS},
        "optimizer_class": {name: getattr(optim, name, RMSpropTFLike) for name in OPTIMIZERS},
    }
    kwargs = dict(policy_kwargs)
    for key, classes in known.items():
        if key in kwargs:
            if kwargs[key] not in classes:
                raise InvalidValueError(f"{key} must be one of {', '.join(classes)}, got {kwargs[key]!r}")
            kwargs[key] = classes[kwargs[key]]
    return kwargs


def _wrap(paths: Any) -> Callable[[gym.Env], gym.Env] | None:
    """One function for all wrappers, ``None`` for none; a module is imported by its path, nothing else is run."""
    if not isinstance(paths, list):
        raise InvalidTypeError(f"env_wrapper must be a list of import paths, got {paths!r}")
    wrappers = [_wrapper(item) for item in paths]

    def wrap(env: gym.Env) -> gym.Env:
        for wrapper, kwargs in wrappers:
            env = wrapper(env, **kwargs)
        return env

    return wrap if wrappers else None


def _wrapper(item: Any) -> tuple[type[gym.Wrapper], dict[str, Any]]:
    path, kwargs = next(iter(item.items())) if isinstance(item, dict) and len(item) == 1 else (item, None)
    module, _, name = path.rpartition(".") if isinstance(path, str) else ("", "", "")
    try:
        wrapper = getattr(importlib.import_module(module), name) if module else None
    except (ImportError, AttributeError) as error:
        raise InvalidValueError(f"env_wrapper must be an import path, got {path!r} ({error})") from error
    if not (inspect.isclass(wrapper) and issubclass(wrapper, gym.Wrapper)) or not isinstance(kwargs or {}, dict):
        raise InvalidValueError(f"env_wrapper must be import paths of gymnasium.Wrapper classes, got {item!r}")
    return wrapper, kwargs or {}
