"""Leaving a rollout between two of its steps, and taking it up again."""

from typing import Any

from stable_baselines3.common.buffers import RolloutBuffer
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.vec_env import VecEnv


def begun(model: Any, env: VecEnv, callback: BaseCallback, rollout_buffer: RolloutBuffer) -> int:
    """Begin a rollout, or take up the one that was left.

    :param model: the algorithm.
    :param env: the training environments.
    :param callback: told of a rollout that begins.
    :param rollout_buffer: emptied for a rollout that begins.
    :return: the first step to make.
    """
    paused_at: int | None = getattr(model, "_paused_at", None)
    if paused_at is not None and paused_at == rollout_buffer.pos:
        model._paused_at = None
        return paused_at
    rollout_buffer.reset()
    if model.use_sde:
        model.policy.reset_noise(env.num_envs)
    callback.on_rollout_start()
    return 0


def goes_on(model: Any, n_steps: int) -> bool:
    """Ask those who want to be asked between two steps.

    Here, and nowhere else within a rollout, model, buffer and environments are all at the same step and every callback
    has seen it: a run that is left or saved here can be taken up as if nothing had happened.

    :param model: the algorithm.
    :param n_steps: steps in the buffer.
    :return: ``False`` if one of them asked to stop; the next rollout then goes on where this one was left.
    """
    hooks = getattr(model, "between_steps", ())
    if not hooks:
        return True
    model._paused_at = n_steps
    # All are asked, also after one that wants to stop: it may be the other that saves.
    answers = [hook() for hook in hooks]
    if not all(answers):
        return False
    model._paused_at = None
    return True
