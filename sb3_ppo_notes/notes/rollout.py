"""A rollout to look at, from which nothing has been learned yet."""

from typing import Any

from sb3_ppo_notes.rollouts import minibatches_of
from sb3_ppo_notes.rules import UpdateRule


def gather(model: Any, rule: UpdateRule) -> Any:
    """Fill a model's rollout buffer.

    :param model: NotesPPO or NotesA2C; its weights stay as they are.
    :param rule: how advantages are normalised.
    :return: all samples of the rollout as one minibatch, in a random order.
    """
    _, callback = model._setup_learn(model.n_steps * model.n_envs, None)
    callback.on_training_start({}, {})
    model.collect_rollouts(model.env, callback, model.rollout_buffer, n_rollout_steps=model.n_steps)
    model.rollout_buffer.prepare(rule)
    return next(minibatches_of(model.rollout_buffer, rule, None).epoch())
