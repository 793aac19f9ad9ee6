"""Resets at the end of an episode, by a Gymnasium vector environment itself or from outside, when SB3 needs them.

SB3 knows one way: the step that ends an episode returns the *first* observation of the next one, and the last one
travels in the info. Gymnasium has three (``metadata["autoreset_mode"]``):

- ``SAME_STEP`` is SB3's;
- ``DISABLED`` leaves the reset to the caller, who names the finished environments in ``options["reset_mask"]``;
- ``NEXT_STEP``, the default, resets at the step *after* the end, which ignores the action and pays nothing. That
  step is no transition of the environment. SB3 would learn from it, and cannot be told to leave it out: the other
  environments make a true step at the same time. It never happens if the finished environments are reset by mask in
  between, which is possible wherever ``reset`` understands a mask.
"""

from functools import partial
from typing import Any

import numpy as np
from gymnasium.envs.classic_control.cartpole import CartPoleVectorEnv
from gymnasium.vector import AsyncVectorEnv, SyncVectorEnv, VectorEnv, VectorWrapper

from sb3_ppo_notes.formulas.checks import InvalidValueError

# By value and not by Gymnasium's enum, so that this module can be imported beside a Gymnasium that has none yet.
SAME_STEP, NEXT_STEP, DISABLED = "SameStep", "NextStep", "Disabled"


def resets_by_mask(env: VectorEnv, reset_mask: bool) -> bool:
    """``True`` if finished environments are to be reset by mask, ``False`` if they reset themselves in the same step.

    ``CartPoleVectorEnv`` is taught to understand a mask; ``reset_mask`` is the caller's word that a ``NEXT_STEP``
    environment does.

    :raises ValueError: if there is no right way; the message says how to build the environment instead.
    """
    mode = autoreset_mode(env)
    name = type(env.unwrapped).__name__
    if mode == SAME_STEP:
        if reset_mask:
            raise InvalidValueError(
                f"reset_mask must be False for an environment that resets itself in the same step, got True for {name}"
            )
        return False
    _refuse_statistics(env)
    if mode == NEXT_STEP and not (reset_mask or _understands_mask(env.unwrapped)):
        raise InvalidValueError(
            f"env must begin an episode in the step that ended the last one, got {name}, which does so one step later "
            "(AutoresetMode.NEXT_STEP) and would give SB3 a transition that never happened: build it with "
            "autoreset_mode=AutoresetMode.SAME_STEP, or pass reset_mask=True if its reset(options={'reset_mask': mask})"
            " restarts just the environments of the mask"
        )
    return True


def autoreset_mode(env: VectorEnv) -> str:
    """The mode that an environment states: ``"SameStep"``, ``"NextStep"`` or ``"Disabled"``."""
    # AtariVectorEnv writes its mode into the dictionary of the class VectorEnv, where every environment without
    # metadata of its own would find it.
    metadata = {} if env.metadata is VectorEnv.metadata else env.metadata
    stated = metadata.get("autoreset_mode", getattr(env.unwrapped, "autoreset_mode", None))
    mode: Any = getattr(stated, "value", stated)
    if mode not in (SAME_STEP, NEXT_STEP, DISABLED):
        raise InvalidValueError(
            "env must state how it resets, in metadata['autoreset_mode'] by one of gymnasium.vector.AutoresetMode, got "
            f"{stated!r} from {type(env.unwrapped).__name__}"
        )
    return str(mode)


def is_envpool(env: VectorEnv) -> bool:
    """``True`` for an environment of EnvPool's, told by its attributes: the classes are made anew for each game."""
    return hasattr(env, "all_env_ids") and hasattr(env, "send")


def is_atari(env: VectorEnv) -> bool:
    """``True`` for ale-py's ``AtariVectorEnv`` (without wrappers), told without importing ale-py."""
    return any(cls.__module__ == "ale_py.vector_env" for cls in type(env).__mro__)


def check_answers_for_all(env: VectorEnv) -> None:
    """Refuse an environment whose step returns some environments only, or one row a player."""
    config: dict[str, Any] = env.config if is_envpool(env) else {"batch_size": getattr(env, "batch_size", 0)}  # type: ignore[attr-defined]
    batch_size, players = config.get("batch_size", 0), config.get("max_num_players", 1)
    if batch_size not in (0, env.num_envs):
        raise InvalidValueError(
            f"env must answer for all its {env.num_envs} environments at every step, got batch_size={batch_size}: "
            "leave batch_size out"
        )
    if players > 1:
        raise InvalidValueError(f"env must have one player an environment, got max_num_players={players}")


def _understands_mask(base: VectorEnv) -> bool:
    if type(base) is CartPoleVectorEnv:
        base.reset = partial(_reset_cart_poles, base, base.reset)  # type: ignore[method-assign]
        return True
    if isinstance(base, AsyncVectorEnv):
        # Without shared memory its workers do not notice a reset by mask, and reset a second time at the next step.
        return base.shared_memory and base.worker is None
    return isinstance(base, SyncVectorEnv) or is_envpool(base) or is_atari(base)


def _reset_cart_poles(
    base: Any, reset_all: Any, *, seed: int | None = None, options: dict[str, Any] | None = None
) -> tuple[np.ndarray, dict[str, Any]]:
    """``CartPoleVectorEnv.reset`` with a mask: what its own ``step`` would do one step later, from the same random
    numbers.
    """
    mask = None if options is None else options.get("reset_mask")
    if mask is None:
        everything: tuple[np.ndarray, dict[str, Any]] = reset_all(seed=seed, options=options)
        return everything
    base.state[:, mask] = base.np_random.uniform(low=base.low, high=base.high, size=(4, mask.sum()))
    base.steps[mask] = 0
    base.prev_done[mask] = False
    return base.state.T.astype(np.float32), {}


def _refuse_statistics(env: VectorEnv) -> None:
    """Gymnasium's running statistics would take the observations of a reset by mask in twice, and skip a reward."""
    wrapper = env
    while isinstance(wrapper, VectorWrapper):
        name = type(wrapper).__name__
        if name in ("NormalizeObservation", "NormalizeReward"):
            raise InvalidValueError(
                f"env must keep no running statistics where finished environments are reset by mask, got {name}: use "
                "SB3's VecNormalize around GymnasiumVecEnv"
            )
        wrapper = wrapper.env


def info_of(infos: dict[str, Any], row: int) -> dict[str, Any]:
    """One environment's info, a dictionary of its own with arrays copied, out of Gymnasium's infos of all of them.

    These hold an array ``[B]`` a key (or a dictionary of such), and under ``_key`` which environments have it; a key
    without such a mask belongs to all.

    >>> import numpy as np
    >>> infos = {"lives": np.array([3, 0]), "_lives": np.array([True, False]), "level": np.array([1, 2])}
    >>> info_of(infos, 0), info_of(infos, 1)
    ({'lives': 3, 'level': 1}, {'level': 2})
    """
    info: dict[str, Any] = {}
    for key, value in infos.items():
        is_mask = key.startswith("_") and key[1:] in infos
        present = infos.get(f"_{key}")
        if is_mask or (present is not None and not present[row]):
            continue
        info[key] = info_of(value, row) if isinstance(value, dict) else _entry(value[row])
    return info


def _entry(value: Any) -> Any:
    if isinstance(value, np.ndarray):
        return value.copy()
    return value.item() if isinstance(value, np.generic) else value
