"""Whether a callback may reach into the model at every step."""

from typing import Any

from stable_baselines3.common.callbacks import BaseCallback

from sb3_ppo_notes.policies.shipped import has_shipped_methods, is_library_class

#: What of a callback is called while a rollout goes on.
CALLED = ("on_step", "_on_step", "update_locals", "update_child_locals")


def runs_own_code(callback: Any) -> bool:
    """Whether somebody's own code is called along with a callback; SB3's and ours leave the model as it is.

    :param callback: what ``learn`` was given, as SB3 has wrapped it; ``None`` for nothing.
    :return: ``True`` for a function, a class that is no library's, and whatever has one of them inside.
    """
    if callback is None:
        return False
    if not isinstance(callback, BaseCallback) or not is_library_class(type(callback)):
        return True
    if not has_shipped_methods(type(callback), *CALLED):
        return True
    inside = [callback, *vars(callback).values()]
    if any(callable(value) and not isinstance(value, BaseCallback | type) for value in inside[1:]):
        return True
    children = [value for value in vars(callback).values() if isinstance(value, BaseCallback)]
    children += getattr(callback, "callbacks", None) or []
    return any(map(runs_own_code, (child for child in children if child is not callback.parent)))
