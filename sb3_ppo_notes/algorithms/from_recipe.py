"""Building a model from a row of the table of recipes."""

from typing import Any

from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.on_policy_algorithm import OnPolicyAlgorithm
from stable_baselines3.common.vec_env import VecEnv

from sb3_ppo_notes.envs.make import make_env
from sb3_ppo_notes.formulas.checks import InvalidValueError, check_integer
from sb3_ppo_notes.recipes import RECIPES, Recipe


def found_recipe(name: str, algorithm: str) -> Recipe:
    """A recipe by its name.

    :param name: a key of ``RECIPES``.
    :param algorithm: ``"ppo"`` or ``"a2c"``, what the caller builds.
    :return: the recipe.
    :raises ValueError: if there is none of that name, or it is of the other algorithm.
    """
    recipe = RECIPES.get(name)
    if recipe is None:
        raise InvalidValueError(f"name must be one of {', '.join(RECIPES)}, got {name!r}")
    if recipe.algorithm != algorithm:
        other = {"ppo": "NotesPPO", "a2c": "NotesA2C"}[recipe.algorithm]
        raise InvalidValueError(f"name must be a recipe of {algorithm.upper()}, got {name!r} (use {other}.from_recipe)")
    return recipe


def recipe_environment(recipe: Recipe, env: Any, n_envs: int | None, seed: int | None) -> VecEnv:
    """The environments as the recipe wants them.

    :param recipe: for its number of environments and its wrappers.
    :param env: an id, one environment, or a VecEnv (whose number of environments then counts).
    :param n_envs: another number of environments than the recipe's; only with an id.
    :param seed: of the environments.
    :return: wrapped environments.
    :raises ValueError: if ``n_envs`` is given for environments that exist already.
    """
    if isinstance(env, str):
        make_env(env, verbose=0).close()
        if n_envs is not None:
            check_integer("n_envs", n_envs, minimum=1)
        return recipe.wrap(make_vec_env(env, n_envs=n_envs or recipe.n_envs, seed=seed))
    if n_envs is not None:
        raise InvalidValueError(f"n_envs must be left out when env is an environment already, got {n_envs}")
    # As SB3 does it: an environment of its own gets a Monitor, so that its episodes are counted.
    return recipe.wrap(OnPolicyAlgorithm._wrap_env(make_env(env, verbose=0)))


def recipe_arguments(recipe: Recipe, env: VecEnv, overrides: dict[str, Any]) -> dict[str, Any]:
    """Constructor arguments of a recipe on these environments.

    :param recipe: the recipe.
    :param env: its wrapped environments.
    :param overrides: constructor arguments that take precedence; ``policy_kwargs`` are merged.
    :return: arguments by name.
    """
    arguments = {"policy": "MlpPolicy", "rule": recipe.rule, **recipe.hyperparameters} | overrides
    arguments["policy_kwargs"] = recipe.hyperparameters["policy_kwargs"] | (overrides.get("policy_kwargs") or {})
    size = arguments["n_steps"] * env.num_envs
    if "batch_size" in recipe.hyperparameters and "batch_size" not in overrides:
        # The recipe's batch is a share of its own rollout: keep the share when the number of environments or steps is
        # another.
        own = recipe.hyperparameters["n_steps"] * recipe.n_envs
        arguments["batch_size"] = max(size * recipe.hyperparameters["batch_size"] // own, 1)
    return arguments
