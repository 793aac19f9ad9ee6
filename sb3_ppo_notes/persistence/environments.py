"""The memory of environments: physics, episode counters, random generators, normalisers."""

import json
from typing import Any

import gymnasium as gym
from gymnasium.vector import AsyncVectorEnv
from stable_baselines3.common.vec_env import SubprocVecEnv, VecEnv, VecEnvWrapper

from sb3_ppo_notes.formulas.checks import InvalidValueError
from sb3_ppo_notes.persistence.revival import UNCHANGED, Revival
from sb3_ppo_notes.persistence.snapshot import Snapshot, class_name, is_of_class
from sb3_ppo_notes.rollouts import GymnasiumVecEnv, SupervisedVecEnv

#: Said by :class:`Restorable` in another process: its state is all there is to that environment.
WHOLE = "holds_everything"


class Restorable(gym.Wrapper[Any, Any, Any, Any]):
    """Lets a checkpoint reach an environment in another process: put it around everything else, in the worker.

    ``make_vec_env(id, n_envs, vec_env_cls=SubprocVecEnv, wrapper_class=Restorable)``. Nothing else changes. In this
    process it is not needed.

    :param env: the environment with its wrappers.
    """

    holds_everything = True

    def get_state(self) -> dict[str, Any]:
        """The memory of the environment and its wrappers.

        :return: plain text, arrays, and what could not be told.
        """
        snapshot = Snapshot()
        node = snapshot.add(self.env, "environment")
        return {"document": json.dumps(node), "arrays": snapshot.arrays, "problems": _describe(snapshot.problems)}

    def set_state(self, state: dict[str, Any]) -> None:
        """Remember something else.

        :param state: of :meth:`get_state`.
        :raises ValueError: if this is another environment.
        """
        revival = Revival(state["arrays"])
        revival.read(json.loads(state["document"]), self.env, "environment")
        if revival.problems:
            raise InvalidValueError(f"state must be of this environment: {_describe(revival.problems)[0]}")


def layers_of(env: VecEnv) -> list[VecEnv]:
    """A vector environment's wrappers from the outermost in, and what they are around."""
    layers = [env]
    while isinstance(layers[-1], VecEnvWrapper):
        layers.append(layers[-1].venv)
    return layers


def capture_environments(env: VecEnv, snapshot: Snapshot) -> dict[str, Any]:
    """Plain values for :func:`restore_environments`; ``problems`` is empty if that will be exact."""
    *wrappers, base = layers_of(env)
    captured: dict[str, Any] = {"classes": [class_name(layer) for layer in (*wrappers, base)], "n_envs": env.num_envs}
    before = len(snapshot.problems)
    captured["wrappers"] = [snapshot.add(layer, type(layer).__name__) for layer in wrappers]
    if is_in_this_process(base):
        captured["base"] = snapshot.add(base, "environments")
    else:
        captured["states"], problems = _states_of_workers(base)
        snapshot.problems += [("environments", problem) for problem in problems]
        captured["states"] = snapshot.add(captured["states"], "environments")
    captured["problems"] = _describe(snapshot.problems[before:])
    # They are told of here; the model's own are told of by others.
    del snapshot.problems[before:]
    return captured


def is_in_this_process(base: VecEnv) -> bool:
    """``False`` for workers in other processes, whose environments cannot be looked at."""
    inner = base.env.unwrapped if isinstance(base, GymnasiumVecEnv) else base
    return not isinstance(inner, AsyncVectorEnv | SubprocVecEnv | SupervisedVecEnv) and not hasattr(inner, "processes")


def _states_of_workers(base: VecEnv) -> tuple[list[Any] | None, list[str]]:
    name = type(base).__name__
    advice = "wrap them in sb3_ppo_notes.persistence.Restorable"
    if isinstance(base, GymnasiumVecEnv) or not (base.has_attr("get_state") and base.has_attr("set_state")):
        return None, [f"they live in other processes ({name}) and have no get_state and set_state: {advice}"]
    states = base.env_method("get_state")
    if not base.has_attr(WHOLE):
        return states, [f"get_state in other processes ({name}) leaves out what wrappers count: {advice}"]
    return states, [problem for state in states for problem in state.pop("problems")]


def check_environments(env: VecEnv, captured: dict[str, Any]) -> None:
    """Refuse environments that cannot be those of the run: more or fewer, or wrapped in another way."""
    if env.num_envs != captured["n_envs"]:
        raise InvalidValueError(
            f"n_envs must be {captured['n_envs']} as in the checkpoint to resume, got {env.num_envs}"
        )
    layers, classes = layers_of(env), captured["classes"]
    if len(layers) != len(classes) or not all(map(is_of_class, layers, classes)):
        raise InvalidValueError(
            f"env must be built as in the checkpoint to resume, {_nested(classes)}, got "
            f"{_nested([class_name(layer) for layer in layers])}"
        )


def restore_environments(env: VecEnv, captured: dict[str, Any], revival: Revival, seed: int | None) -> list[str]:
    """Give environments that were reset at least once their memory; many make their objects at a reset.

    Returned is why it could not be done, empty if it was: new episodes have then to begin, from ``seed`` on.
    """
    *wrappers, base = layers_of(env)
    problems = list(captured["problems"])
    problems += _read_layers(wrappers, captured["wrappers"], revival)
    if not problems:
        problems += _restore_base(base, captured, revival)
    if problems and seed is not None:
        env.seed(seed)
    return problems


def _read_layers(layers: list[VecEnv], nodes: list[Any], revival: Revival) -> list[str]:
    before = len(revival.problems)
    for layer, node in zip(layers, nodes, strict=True):
        revival.read(node, layer, type(layer).__name__)
    problems = _describe(revival.problems[before:])
    del revival.problems[before:]
    return problems


def _restore_base(base: VecEnv, captured: dict[str, Any], revival: Revival) -> list[str]:
    if "base" in captured:
        return _read_layers([base], [captured["base"]], revival)
    states = revival.read(captured["states"], None, "environments")
    if states is None or states is UNCHANGED:
        return ["the environments gave no state"]
    for index, state in enumerate(states):
        try:
            base.env_method("set_state", state, indices=[index])
        except Exception as error:
            return [f"set_state of environment {index} raised {type(error).__name__}: {error}"]
    return []


def _describe(problems: list[tuple[str, str]], most: int = 5) -> list[str]:
    lines = [f"{place}: {what}" for place, what in problems[:most]]
    return lines + ([f"and {len(problems) - most} more"] if len(problems) > most else [])


def _nested(classes: list[str]) -> str:
    names = [name.rsplit(".", 1)[-1] for name in classes]
    return "(".join(names) + ")" * (len(names) - 1)
