"""What the environments remember: their physics, their episode counters, their random generators, the normaliser."""

import json
from typing import Any

import gymnasium as gym
from gymnasium.vector import AsyncVectorEnv
from stable_baselines3.common.vec_env import VecEnv, VecEnvWrapper

from sb3_ppo_notes.formulas.checks import InvalidValueError
from sb3_ppo_notes.persistence.revival import KEPT, Revival
from sb3_ppo_notes.persistence.snapshot import Snapshot, class_name
from sb3_ppo_notes.rollouts import GymnasiumVecEnv

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
        """All that environment and wrappers remember.

        :return: plain text, arrays, and what could not be told.
        """
        snapshot = Snapshot()
        node = snapshot.add(self.env, "environment")
        return {"document": json.dumps(node), "arrays": snapshot.arrays, "problems": _described(snapshot.problems)}

    def set_state(self, state: dict[str, Any]) -> None:
        """Remember something else.

        :param state: of :meth:`get_state`.
        :raises ValueError: if this is another environment.
        """
        revival = Revival(state["arrays"])
        revival.read(json.loads(state["document"]), self.env, "environment")
        if revival.problems:
            raise InvalidValueError(f"state must be of this environment: {_described(revival.problems)[0]}")


def layers_of(env: VecEnv) -> list[VecEnv]:
    """A vector environment's wrappers from the outermost in, and what they are around.

    :param env: any.
    :return: at least one.
    """
    layers = [env]
    while isinstance(layers[-1], VecEnvWrapper):
        layers.append(layers[-1].venv)
    return layers


def held_environments(env: VecEnv, snapshot: Snapshot) -> dict[str, Any]:
    """Write what the environments remember.

    :param env: the training environments.
    :param snapshot: takes it.
    :return: plain values for :func:`put_back_environments`; ``problems`` is empty if that will be exact.
    """
    *wrappers, base = layers_of(env)
    held: dict[str, Any] = {"classes": [class_name(layer) for layer in (*wrappers, base)], "n_envs": env.num_envs}
    before = len(snapshot.problems)
    held["wrappers"] = [snapshot.add(layer, type(layer).__name__) for layer in wrappers]
    if is_in_this_process(base):
        held["base"] = snapshot.add(base, "environments")
    else:
        held["states"], problems = _states_of_workers(base)
        snapshot.problems += [("environments", problem) for problem in problems]
        held["states"] = snapshot.add(held["states"], "environments")
    held["problems"] = _described(snapshot.problems[before:])
    # They are told of here; the model's own are told of by others.
    del snapshot.problems[before:]
    return held


def is_in_this_process(base: VecEnv) -> bool:
    """Whether the environments are objects that can be looked at.

    :param base: a vector environment without wrappers.
    :return: ``False`` for workers in other processes.
    """
    inner = base.env.unwrapped if isinstance(base, GymnasiumVecEnv) else base
    return not isinstance(inner, AsyncVectorEnv) and not hasattr(inner, "processes") and not hasattr(inner, "remotes")


def _states_of_workers(base: VecEnv) -> tuple[list[Any] | None, list[str]]:
    name = type(base).__name__
    advice = "wrap them in sb3_ppo_notes.persistence.Restorable"
    if isinstance(base, GymnasiumVecEnv) or not (base.has_attr("get_state") and base.has_attr("set_state")):
        return None, [f"they live in other processes ({name}) and have no get_state and set_state: {advice}"]
    states = base.env_method("get_state")
    if not base.has_attr(WHOLE):
        return states, [f"get_state in other processes ({name}) leaves out what wrappers count: {advice}"]
    return states, [problem for state in states for problem in state.pop("problems")]


def check_environments(env: VecEnv, held: dict[str, Any]) -> None:
    """Refuse environments that cannot be those of the run.

    :param env: the ones to go on with.
    :param held: of :func:`held_environments`.
    :raises ValueError: if there are more or fewer, or they are wrapped in another way.
    """
    if env.num_envs != held["n_envs"]:
        raise InvalidValueError(f"n_envs must be {held['n_envs']} as in the checkpoint to resume, got {env.num_envs}")
    classes = [class_name(layer) for layer in layers_of(env)]
    if classes != held["classes"]:
        raise InvalidValueError(
            f"env must be built as in the checkpoint to resume, {_in_words(held['classes'])}, got {_in_words(classes)}"
        )


def put_back_environments(env: VecEnv, held: dict[str, Any], revival: Revival, seed: int | None) -> list[str]:
    """Let the environments remember what they did.

    :param env: the ones to go on with, reset at least once: many make their objects then.
    :param held: of :func:`held_environments`.
    :param revival: of the same snapshot.
    :param seed: of the episodes that begin where it cannot be done.
    :return: why it could not be done; new episodes have then to begin. Empty if it was.
    """
    *wrappers, base = layers_of(env)
    problems = list(held["problems"])
    problems += _read_layers(wrappers, held["wrappers"], revival)
    if not problems:
        problems += _put_back_base(base, held, revival)
    if problems and seed is not None:
        env.seed(seed)
    return problems


def _read_layers(layers: list[VecEnv], nodes: list[Any], revival: Revival) -> list[str]:
    before = len(revival.problems)
    for layer, node in zip(layers, nodes, strict=True):
        revival.read(node, layer, type(layer).__name__)
    problems = _described(revival.problems[before:])
    del revival.problems[before:]
    return problems


def _put_back_base(base: VecEnv, held: dict[str, Any], revival: Revival) -> list[str]:
    if "base" in held:
        return _read_layers([base], [held["base"]], revival)
    states = revival.read(held["states"], None, "environments")
    if states is None or states is KEPT:
        return ["the environments gave no state"]
    for index, state in enumerate(states):
        try:
            base.env_method("set_state", state, indices=[index])
        except Exception as error:
            return [f"set_state of environment {index} raised {type(error).__name__}: {error}"]
    return []


def _described(problems: list[tuple[str, str]], most: int = 5) -> list[str]:
    lines = [f"{place}: {what}" for place, what in problems[:most]]
    return lines + ([f"and {len(problems) - most} more"] if len(problems) > most else [])


def _in_words(classes: list[str]) -> str:
    names = [name.rsplit(".", 1)[-1] for name in classes]
    return "(".join(names) + ")" * (len(names) - 1)
