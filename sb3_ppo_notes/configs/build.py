"""Plain data as environments and models: for ``train``, ``compare`` and ``bench``, and for tuning."""

import dataclasses
import importlib
import importlib.util
import re
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import gymnasium as gym
from gymnasium import spaces
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.monitor import Monitor
from stable_baselines3.common.preprocessing import is_image_space
from stable_baselines3.common.vec_env import VecEnv, VecFrameStack, VecNormalize

from sb3_ppo_notes.algorithms.on_policy import NotesOnPolicyAlgorithm
from sb3_ppo_notes.configs.environments import import_packages
from sb3_ppo_notes.configs.normalizers import load_normalizer, normalizer_statistics
from sb3_ppo_notes.configs.run_config import ALGORITHMS, RunConfig, resolve_config
from sb3_ppo_notes.configs.tuned import is_atari
from sb3_ppo_notes.configs.values import constructor_arguments, wrap_function
from sb3_ppo_notes.envs import LeanVecEnv, ShardedVecEnv
from sb3_ppo_notes.envs.errors import UNKNOWN, is_wrong_call
from sb3_ppo_notes.envs.make import make_env
from sb3_ppo_notes.formulas.checks import InvalidValueError
from sb3_ppo_notes.processes import Group, Shards
from sb3_ppo_notes.recipes import RECIPES


def build_model(config: RunConfig, processes: Group | None = None) -> NotesOnPolicyAlgorithm:
    """A model that is ready to learn, with its environments.

    :param config: of the run.
    :param processes: that train it together, as many shards as the configuration says; all call this.
    :return: NotesPPO or NotesA2C.
    :raises ValueError: for a value that cannot be, or a package that is not installed; named.
    """
    check_environment(config.env, config.env_kwargs, config.env_wrapper, imports=config.imports)
    env = _share_of_environments(config, processes) if processes else _training_environments(config)
    policy = config.policy
    if policy is not None:
        check_policy(policy, env.observation_space)
    elif config.recipe is None:
        policy = suggest_policy(env.observation_space)
    arguments = dict(config.hyperparameters, seed=config.seed, device=config.device)
    if processes is not None:
        arguments |= {"processes": processes, "shards": config.shards}
    model: NotesOnPolicyAlgorithm = make_model(ALGORITHMS[config.algo], policy, env, arguments, config.recipe)
    return model


def make_model(
    algorithm: Any, policy: str | None, env: VecEnv, arguments: Mapping[str, Any], recipe: str | None = None
) -> Any:
    """A model of any class.

    :param algorithm: SB3's, sb3-contrib's, ours or a user's.
    :param policy: its name; ``None`` for the recipe's.
    :param env: to learn in.
    :param arguments: of the constructor, plain data for :func:`.values.constructor_arguments`.
    :param recipe: a key of ``RECIPES``, whose values the arguments come on top of; ``None`` for none.
    :return: the model.
    :raises ValueError: for a value that cannot be.
    """
    arguments = constructor_arguments(arguments)
    if recipe is None:
        return algorithm(policy, env, **arguments)
    return algorithm.from_recipe(recipe, env, **({} if policy is None else {"policy": policy}), **arguments)


def normalizer_arguments(normalize: bool | Mapping[str, Any], arguments: Mapping[str, Any]) -> dict[str, Any] | None:
    """Arguments of ``VecNormalize``, with the model's discount: the return whose deviation it takes is discounted.

    :param normalize: whether to normalise, or with which arguments.
    :param arguments: of the model.
    :return: ``None`` for no normaliser.

    >>> normalizer_arguments({"norm_obs": False}, {"gamma": 0.9}), normalizer_arguments(False, {})
    ({'gamma': 0.9, 'norm_obs': False}, None)
    """
    if normalize is False:
        return None
    gamma = {"gamma": arguments["gamma"]} if "gamma" in arguments else {}
    return gamma | (dict(normalize) if isinstance(normalize, Mapping) else {})


def _share_of_environments(config: RunConfig, processes: Group) -> VecEnv:
    """The environments of each of this process's shards, seeded as one process with all of them would."""
    shards = Shards(processes, config.shards, config.seed)
    n_each = (config.n_envs or 1) // shards.n_shards
    parts = [
        _training_environments(dataclasses.replace(config, n_envs=n_each, seed=config.seed + number * n_each))
        for number in shards.own
    ]
    return parts[0] if len(parts) == 1 else ShardedVecEnv(parts)


def _training_environments(config: RunConfig) -> VecEnv:
    own = (config.imports, config.env_kwargs, config.env_wrapper)
    env = make_environments(config.env, config.n_envs or 1, config.seed, *own, vec_env_cls=LeanVecEnv)
    of_recipe = {} if config.recipe is None else RECIPES[config.recipe].hyperparameters
    normalize = normalizer_arguments(config.normalize or False, of_recipe | config.hyperparameters)
    if normalize is not None:
        env = VecNormalize(env, **normalize)
    # In rl_zoo3's order: what is stacked is normalised already.
    return env if config.frame_stack is None else VecFrameStack(env, config.frame_stack)


def trained_environments(config: str | Path, normalizer: str | Path | None = None, n_envs: int = 1) -> VecEnv:
    """Environments that show a trained model what it saw in training; their normaliser learns no more.

    :param config: a run's ``config.yaml``.
    :param normalizer: its ``normalizer.json``, where it has one.
    :param n_envs: stepped side by side.
    :return: behind the wrappers of the configuration, and of its recipe; a ``Monitor`` counts raw rewards.
    :raises ValueError: for a file that is none, or an environment that cannot be made here.
    """
    run = resolve_config(str(config), {"n_envs": n_envs})[0]
    check_environment(run.env, run.env_kwargs, run.env_wrapper)
    env = _training_environments(run)
    env = env if run.recipe is None else RECIPES[run.recipe].wrap(env)
    if normalizer is not None:
        load_normalizer(env, Path(normalizer))
    elif normalizer_statistics(env) is not None:
        raise InvalidValueError(f"normalizer must be the file of what {config} normalises by, got None")
    return env


def environment_factory(config: RunConfig, render: bool = False) -> Callable[[], gym.Env]:
    """A function that makes one environment like those of the training, without a VecEnv around it.

    :param config: of the run.
    :param render: whether it shall render pictures.
    :return: a function; its environment counts raw rewards.
    """
    mode = {"render_mode": "rgb_array"} if render else {}
    return partial(make_environment, config.env, config.imports, config.env_kwargs | mode, config.env_wrapper)


def make_environment(
    env: str, imports: Sequence[str] = (), env_kwargs: Mapping[str, Any] | None = None, env_wrapper: Any = ()
) -> gym.Env:
    """One environment, also in a process that has imported nothing yet.

    :param env: id of a registered environment.
    :param imports: packages to import first.
    :param env_kwargs: its arguments.
    :param env_wrapper: see :func:`.values.wrap_function`.
    :return: the environment; under its wrappers raw rewards are counted.
    """
    import_packages(imports)
    made, wrap = Monitor(gym.make(env, **env_kwargs or {})), wrap_function(list(env_wrapper))
    return made if wrap is None else wrap(made)


def make_environments(
    env: str,
    n_envs: int,
    seed: int,
    imports: Sequence[str] = (),
    env_kwargs: Mapping[str, Any] | None = None,
    env_wrapper: Any = (),
    **options: Any,
) -> VecEnv:
    """Several environments as SB3's ``make_vec_env`` makes them, seeded with ``seed`` and the numbers after it.

    :param env: as the rest, see :func:`make_environment`.
    :param n_envs: how many.
    :param seed: of the first.
    :param imports: packages to import first.
    :param env_kwargs: arguments of each environment.
    :param env_wrapper: see :func:`.values.wrap_function`.
    :param options: of ``make_vec_env``.
    :return: the environments.
    """
    import_packages(imports)
    wrap = wrap_function(list(env_wrapper))
    return make_vec_env(env, n_envs, seed, wrapper_class=wrap, env_kwargs=dict(env_kwargs or {}), **options)


def check_environment(
    env: str,
    env_kwargs: Mapping[str, Any] | None = None,
    env_wrapper: Any = (),
    render: bool = False,
    imports: Sequence[str] = (),
) -> spaces.Space[Any]:
    """Refuse an environment that does not exist, or needs what is not installed.

    :param env: id of a registered environment.
    :param env_kwargs: its arguments.
    :param env_wrapper: see :func:`.values.wrap_function`.
    :param render: whether it will have to render.
    :param imports: packages to import first.
    :return: the space of its observations, behind the wrappers.
    :raises ValueError: in one line that says what to do.
    """
    import_packages(imports)
    kwargs = dict(env_kwargs or {})
    wrap = wrap_function(list(env_wrapper) if isinstance(env_wrapper, tuple) else env_wrapper)
    if is_atari(env) and importlib.util.find_spec("ale_py") is not None:
        gym.register_envs(importlib.import_module("ale_py"))
    elif is_atari(env):
        raise InvalidValueError(needs(env, "gymnasium[atari]"))
    if "atari_wrappers" in str(env_wrapper) and importlib.util.find_spec("cv2") is None:
        raise InvalidValueError(needs(env, "opencv-python"))
    try:
        plain = gym.make(env, **kwargs)
        made = make_env(plain if wrap is None else wrap(plain), verbose=0)
        made.close()
        if render:
            _check_rendering(env, kwargs)
    except gym.error.DependencyNotInstalled as error:
        package = re.search(r"gymnasium\[[\w-]+\]", str(error))
        if package is None:
            raise
        raise InvalidValueError(needs(env, package.group())) from error
    except UNKNOWN:
        make_env(env, verbose=0)  # refuses it with a suggestion
        raise
    except TypeError as error:
        if not kwargs or not is_wrong_call(error):
            raise
        raise InvalidValueError(
            f"env_kwargs must be arguments of {env}, got {kwargs} ({error.__cause__ or error})"
        ) from error
    space: spaces.Space[Any] = made.observation_space
    return space


def _check_rendering(env: str, kwargs: dict[str, Any]) -> None:
    """Draw one picture. Renderers have errors of many kinds, and some come with the first picture only."""
    made = gym.make(env, **kwargs | {"render_mode": "rgb_array"})
    made.reset()
    try:
        made.render()
    except gym.error.DependencyNotInstalled:
        raise
    except Exception as error:
        if "mujoco" not in type(error).__module__:
            raise
        raise InvalidValueError(
            f"env {env!r} cannot be rendered here: {' '.join(str(error).split())} "
            "(without a display MuJoCo wants MUJOCO_GL=egl or osmesa)"
        ) from error
    made.close()


def needs(env: str, package: str) -> str:
    """The one line about a package that is missing.

    :param env: which environment needs it.
    :param package: as pip knows it.
    :return: what to do.
    """
    return f"env {env!r} needs a package that is not installed: pip install {package!r}"


def suggest_policy(space: spaces.Space[Any]) -> str:
    """The policy that fits observations.

    :param space: of the observations.
    :return: its name.

    >>> suggest_policy(spaces.Box(0.0, 1.0, (4,)))
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
