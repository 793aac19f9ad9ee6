"""A rollout to look at, from which nothing has been learned yet."""

from typing import Any


def gather(model: Any) -> Any:
    """Fill a model's rollout buffer.

    :param model: NotesPPO or NotesA2C; its weights stay as they are.
    :return: all samples of the rollout as one minibatch, in a random order.
    """
    _, callback = model._setup_learn(model.n_steps * model.n_envs, None)
    callback.on_training_start({}, {})
    model.collect_rollouts(model.env, callback, model.rollout_buffer, n_rollout_steps=model.n_steps)
    return next(model.rollout_buffer.get())
