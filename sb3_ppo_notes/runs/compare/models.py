"""Settings of an arm on a task, and the model that is made from them."""

import inspect
from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any

from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.vec_env import VecEnv, VecFrameStack, VecNormalize

from sb3_ppo_notes.configs.build import (
    check_environment,
    make_environments,
    make_model,
    normalizer_arguments,
    suggest_policy,
)
from sb3_ppo_notes.configs.tuned import is_atari, zoo_entry
from sb3_ppo_notes.envs.errors import environment_error
from sb3_ppo_notes.formulas.checks import InvalidTypeError, InvalidValueError, check_integer
from sb3_ppo_notes.policies.masks import METHOD
from sb3_ppo_notes.recipes import RECIPES
from sb3_ppo_notes.runs.compare.arms import Arm, arm_class, check_options, family_of

#: The zoo's keys that are no arguments of a constructor.
OF_A_TASK = ("n_envs", "n_timesteps", "normalize", "policy", "atari")


@dataclass(frozen=True)
class Settings:
    """Settings of an arm on a task: plain data, so that it goes into a file and is compared.

    :param source: of the values.
    :param arguments: of the constructor.
    :param normalize: arguments of ``VecNormalize``, ``None`` for none.
    :param atari: arguments of ``AtariWrapper``, ``None`` for none; four frames are stacked with it.
    :param environment: ``imports``, ``env_kwargs`` and ``env_wrapper``, the same for all arms.
    """

    source: str
    n_envs: int
    policy: str
    arguments: dict[str, Any]
    normalize: dict[str, Any] | None = None
    atari: dict[str, Any] | None = None
    environment: dict[str, Any] = field(default_factory=dict)


def settings_of(arm: Arm, env: str, environment: Mapping[str, Any] = MappingProxyType({})) -> Settings:
    """Settings of an arm on a task: rl_zoo3's tuned values, else SB3's defaults; a recipe's own.

    The arm's own options come on top; one that cannot be is refused.
    """
    source, tuned = _values_of(arm, env)
    parameters = inspect.signature(arm_class(arm).__init__).parameters
    missing = sorted(set(tuned) - set(parameters) - set(OF_A_TASK)) if "kwargs" not in parameters else []
    if missing:
        source += f", without {', '.join(missing)}, which it does not take"
    values = {name: value for name, value in tuned.items() if name not in missing} | arm.overrides
    if "policy_kwargs" in values:
        if not isinstance(values["policy_kwargs"], dict):
            raise InvalidTypeError(f"arms: policy_kwargs must be a dict, got {values['policy_kwargs']!r}")
        values["policy_kwargs"] = tuned.get("policy_kwargs", {}) | values["policy_kwargs"]
    n_envs, normalize = values.pop("n_envs", 1), values.pop("normalize", False)
    check_integer(f"arms: n_envs of {arm.name}", n_envs, minimum=1)
    # Stock SB3 takes what there is instead of a larger batch, and ours refuses it: the same for both.
    if {"batch_size", "n_steps"} <= tuned.keys() and "batch_size" not in arm.overrides:
        values["batch_size"] = min(values["batch_size"], values["n_steps"] * n_envs)
    atari, policy = values.pop("atari", {}), values.pop("policy", None) or _policy_for(env, family_of(arm), environment)
    values.pop("n_timesteps", None)
    return Settings(
        source=source,
        n_envs=n_envs,
        policy=policy,
        arguments=values,
        normalize=normalizer_arguments(normalize, values),
        atari=atari if is_atari(env) else None,
        environment=dict(environment),
    )


def _values_of(arm: Arm, env: str) -> tuple[str, dict[str, Any]]:
    if arm.recipe is not None:
        return f"recipe {arm.recipe}: its own", {"n_envs": RECIPES[arm.recipe].n_envs}
    family = family_of(arm)
    entry = None if family is None else zoo_entry(family, env)
    if entry is None:
        return f"SB3's defaults: rl_zoo3 has none for {env}", {}
    return f"rl_zoo3 2.9.2, {family}.yml, {entry[0]}", entry[1]


def _policy_for(env: str, family: str | None, environment: Mapping[str, Any]) -> str:
    policy = suggest_policy(check_environment(env, **environment))
    return policy.replace("Policy", "LstmPolicy") if family == "ppo_lstm" else policy


def describe_settings(arm: Arm, settings: Settings) -> dict[str, str]:
    """The settings as a reader wants to see them; what is not listed is the class's default."""
    values = dict(settings.arguments)
    if arm.recipe is not None:
        recipe = RECIPES[arm.recipe]
        values = {**recipe.hyperparameters, **values, "rule": str(recipe.rule)}
        values |= {"wrappers": ", ".join(str(wrapper) for wrapper in recipe.wrappers)} if recipe.wrappers else {}
    values = {"policy": settings.policy, "n_envs": settings.n_envs, **values}
    values["VecNormalize"] = "no" if settings.normalize is None else settings.normalize or "yes"
    return {"class": arm.target, **{name: str(value) for name, value in values.items()}}


def environments(env: str, settings: Settings, n_envs: int, seed: int) -> VecEnv:
    """Fresh environments, not normalised; the first has the seed, the others count on."""
    own = settings.environment
    if settings.atari is None:
        return make_environments(env, n_envs, seed, **own)
    check_environment(env, **own)
    # The v5 names skip frames and repeat actions by themselves; the wrappers do so in the zoo.
    plain = dict(frameskip=1, repeat_action_probability=0.0) if env.startswith("ALE/") else {}
    wrapper = [*own.get("env_wrapper", ()), {"stable_baselines3.common.atari_wrappers.AtariWrapper": settings.atari}]
    atari = {**own, "env_kwargs": plain | own.get("env_kwargs", {}), "env_wrapper": wrapper}
    return VecFrameStack(make_environments(env, n_envs, seed, **atari), 4)


def build(arm: Arm, env: str, settings: Settings, seed: int) -> BaseAlgorithm:
    """A model that is ready to learn, with its environments."""
    vec_env = environments(env, settings, settings.n_envs, seed)
    if settings.normalize is not None and arm.recipe is None:
        vec_env = VecNormalize(vec_env, **settings.normalize)
    arguments = {**settings.arguments, "seed": seed, "device": "cpu"}
    model: BaseAlgorithm = make_model(arm_class(arm), settings.policy, vec_env, arguments, arm.recipe)
    return model


def check_buildable(arm: Arm, env: str, environment: Mapping[str, Any] = MappingProxyType({})) -> Settings:
    """The arm's settings on a task, with which its model was built once: a mistake shows before anything is trained.

    :raises ValueError: if it cannot be trained there, in the class's own words.
    """
    check_options(arm)
    settings = settings_of(arm, env, environment)
    try:
        model = build(arm, env, settings, seed=0)
        vec_env: Any = model.env
        has_masks = vec_env.has_attr(METHOD)
        vec_env.close()
    # Whatever a constructor raises: TypeError, ValueError, AssertionError, …
    except Exception as error:
        if environment_error(error) is not None:
            raise
        because = str(error).partition("\n")[0] or type(error).__name__
        raise InvalidValueError(f"arms: {arm.name} cannot be trained on {env}: {because}") from error
    if always_masks(model) and not has_masks:
        raise InvalidValueError(f"arms: {arm.name} needs environments with a method {METHOD}(), {env} has none")
    return settings


def always_masks(model: BaseAlgorithm) -> bool:
    """True for a model that asks for allowed actions: sb3-contrib's ``MaskablePPO``, ours with ``action_masking``."""
    is_contrib = "MaskablePPO" in {base.__name__ for base in type(model).__mro__}
    return is_contrib or bool(getattr(model, "action_masking", False))
