"""Rewards as environments pay them, checked one by one."""

from typing import Any


def check_reward(reward: Any, index: int | None = None) -> None:
    """Refuse what NumPy would turn into a number, or into a NaN, though it is none: ``"1"``, ``None``."""
    if type(reward) is not float and (reward is None or isinstance(reward, str | bytes)):
        whose = "" if index is None else f" from environment {index}"
        raise TypeError(f"reward must be a number, got {type(reward).__name__} {reward!r}{whose}")
