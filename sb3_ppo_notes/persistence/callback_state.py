"""The memory of callbacks: the best score so far, the number of calls."""

import inspect
from collections.abc import Iterator
from typing import Any

from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.vec_env import VecEnv

from sb3_ppo_notes.persistence.environments import capture_environments, restore_environments
from sb3_ppo_notes.persistence.revival import UNCHANGED, Revival
from sb3_ppo_notes.persistence.snapshot import Snapshot, class_name, has_own_state, is_of_class, is_simple, is_stateless

#: Attributes that SB3 gives every callback, and that the next run gives anew.
WIRING = frozenset({"model", "parent", "locals", "globals", "logger", "training_env", "callback", "callbacks"})
#: Callbacks without a memory worth keeping.
FORGETFUL = frozenset(
    {"CallbackList", "ConvertCallback", "ProgressBarCallback", "StopOnSignal", "ExactCheckpoint"}
    # Its films are in files, and when to film again follows from the steps made.
    | {"VideoCallback"}
)


def family_of(callback: BaseCallback) -> Iterator[BaseCallback]:
    """A callback and those inside it, from the outside in."""
    yield callback
    for value in vars(callback).values():
        for child in value if isinstance(value, list | tuple) else [value]:
            if isinstance(child, BaseCallback) and child is not callback.parent:
                yield from family_of(child)


def capture_callbacks(callback: BaseCallback, snapshot: Snapshot) -> list[dict[str, Any]]:
    """One entry a callback: its memory.

    An attribute that has the name of a constructor's argument is a setting, which the next run gives; every other one
    that can be written is memory, also of an object with ``get_state`` and ``set_state``. Environments (of an
    ``EvalCallback``) are captured like those of the training.
    """
    entries = []
    for each in family_of(callback):
        name = type(each).__name__
        if name in FORGETFUL:
            continue
        entry: dict[str, Any] = {"class": class_name(each), "memory": {}, "environments": {}}
        settings = settings_of(each)
        for attribute, value in vars(each).items():
            if isinstance(value, VecEnv):
                entry["environments"][attribute] = capture_environments(value, snapshot)
            elif attribute in settings or isinstance(value, BaseCallback) or is_stateless(value):
                continue
            elif has_own_state(value) or is_simple(value):
                state = value.get_state() if has_own_state(value) else value
                entry["memory"][attribute] = snapshot.add(state, f"{name}.{attribute}")
            else:
                snapshot.problems.append((f"{name}.{attribute}", class_name(value)))
        entries.append(entry)
    return entries


def settings_of(callback: BaseCallback) -> set[str]:
    """Names of a callback's attributes that are not its memory."""
    names = set(WIRING)
    for base in type(callback).__mro__:
        names |= set(inspect.signature(base.__init__).parameters)  # type: ignore[misc]
    return names


def restore_callbacks(callback: BaseCallback, entries: list[dict[str, Any]], revival: Revival) -> list[str]:
    """Give callbacks their memory, the first of a class that of the first of that class; return what was lost."""
    waiting = list(entries)
    lost = []
    for each in family_of(callback):
        entry = next((entry for entry in waiting if is_of_class(each, entry["class"])), None)
        if entry is None:
            continue
        waiting.remove(entry)
        before = len(revival.problems)
        for attribute, node in entry["memory"].items():
            present: Any = vars(each).get(attribute)
            value = revival.read(node, present, f"{type(each).__name__}.{attribute}")
            if has_own_state(present):
                present.set_state(value)
            elif value is not UNCHANGED:
                vars(each)[attribute] = value
        lost += [f"{place}: {why}" for place, why in revival.problems[before:]]
        lost += _restore_environments(each, entry["environments"], revival)
    counts = {"n_calls", "num_timesteps"}
    missing = [entry["class"].rsplit(".", 1)[-1] for entry in waiting if set(entry["memory"]) - counts]
    return lost + [f"{name}: there is no such callback now" for name in missing]


def _restore_environments(callback: BaseCallback, captured: dict[str, Any], revival: Revival) -> list[str]:
    lost = []
    for attribute, environments in captured.items():
        env = getattr(callback, attribute, None)
        place = f"{type(callback).__name__}.{attribute}"
        if not isinstance(env, VecEnv) or env.num_envs != environments["n_envs"]:
            lost.append(f"{place}: other environments")
            continue
        env.reset()
        lost += [f"{place}: {problem}" for problem in restore_environments(env, environments, revival, None)]
    return lost
