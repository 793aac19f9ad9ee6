"""Leaving a rollout between two of its steps, and taking it up again."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from copy import copy
from typing import Any, NamedTuple

from stable_baselines3.common.buffers import RolloutBuffer
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.vec_env import VecEnv

from sb3_ppo_notes.processes.shards import STEPS_BETWEEN_QUESTIONS

#: Each says whether the process was asked to stop: of every ``persistence.GracefulStop`` whose block is running.
STOP_REQUESTS: list[Callable[[], bool]] = []
#: Attributes of a model that a step changes, beside its counter, which counts it before the callbacks see it.
CHANGED_BY_A_STEP = (
    *("_last_obs", "_last_episode_starts", "_last_states", "ep_info_buffer", "ep_success_buffer"),
    "_episodes",
)


class UnfinishedStep(NamedTuple):
    """The step at which a callback ended the run: the environments have made it, and as in SB3 no rollout holds it.

    SB3 would begin its next rollout with the observation *before* this step, in environments that are one step further.
    A model that learns on does the same; a checkpoint holds the rollout with the step in it (:func:`with_last_step`).

    :param env: the environments that made it.
    :param n_steps: steps of the rollout before it.
    :param store: puts it into the rollout, and the model behind it.
    """

    env: VecEnv
    n_steps: int
    store: Callable[[], None]


@contextmanager
def with_last_step(model: Any) -> Iterator[None]:
    """Within it the step at which a callback ended the run is made: the model is between two steps.

    :param model: not learning.
    :return: a context; after it model and rollout are again as the callback left them.
    """
    unfinished: UnfinishedStep | None = model._unfinished_step
    if unfinished is None or unfinished.env is not model.env:
        yield
        return
    buffer = model.rollout_buffer
    of_model = {name: getattr(model, name, None) for name in CHANGED_BY_A_STEP}
    of_buffer = {name: copy(value) if isinstance(value, list) else value for name, value in vars(buffer).items()}
    model.ep_info_buffer, model.ep_success_buffer = copy(model.ep_info_buffer), copy(model.ep_success_buffer)
    model._episodes = None if model._episodes is None else model._episodes.copy()
    try:
        unfinished.store()
        model._paused_at = unfinished.n_steps + 1
        yield
    finally:
        model._paused_at = None
        for one, before in ((model, of_model), (buffer, of_buffer)):
            for name, value in before.items():
                setattr(one, name, value)


def start_or_resume_rollout(model: Any, env: VecEnv, callback: BaseCallback, rollout_buffer: RolloutBuffer) -> int:
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
        reset_noise(model, env)
    callback.on_rollout_start()
    return 0


def reset_noise(model: Any, env: VecEnv) -> None:
    """Draw gSDE's weights again, on several processes from the shard's own generator.

    :param model: the algorithm.
    :param env: the training environments.
    """
    shards = getattr(model, "_shards", None)
    with nullcontext() if shards is None else shards.generators[0].drawing():
        model.policy.reset_noise(env.num_envs)


def run_step_hooks(model: Any, n_steps: int) -> bool:
    """Call the hooks between two steps.

    Here, and nowhere else within a rollout, model, buffer and environments are all at the same step and every callback
    has seen it: a run that is left or saved here can be taken up as if nothing had happened. Of several processes the
    hooks are called at every 64th step, and all stop together.

    :param model: the algorithm.
    :param n_steps: steps in the buffer.
    :return: ``False`` if one of them asked to stop; the next rollout then goes on where this one was left.
    """
    hooks = getattr(model, "between_steps", ())
    shards = getattr(model, "_shards", None)
    if not hooks if shards is None else n_steps % STEPS_BETWEEN_QUESTIONS:
        return True
    model._paused_at = n_steps
    # All are asked, also after one that wants to stop: it may be the other that saves.
    is_to_go_on = all([hook() for hook in hooks])
    if not is_to_go_on if shards is None else shards.any(not is_to_go_on):
        return False
    model._paused_at = None
    return True


def is_stopping() -> bool:
    """``True`` if the process was asked to stop: for everything that takes long without a step of the training.

    :return: ``False`` as well where nobody listens to signals.
    """
    return any(is_requested() for is_requested in STOP_REQUESTS)
