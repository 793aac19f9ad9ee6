"""A rollout to look at, from which nothing has been learned yet."""

from typing import Any

from sb3_ppo_notes.rollouts.buffers import minibatches_of
from sb3_ppo_notes.rollouts.minibatches import Minibatch


def gather(model: Any) -> Minibatch:
    """Fill a model's rollout buffer.

    :param model: NotesPPO or NotesA2C; its weights stay as they are.
    :return: all samples of the rollout as one minibatch, as an update would see it: in a random order, and with
        advantages that are normalised if the model's rule says so.
    """
    _, callback = model._setup_learn(model.n_steps * model.n_envs, None)
    callback.on_training_start({}, {})
    model.collect_rollouts(model.env, callback, model.rollout_buffer, n_rollout_steps=model.n_steps)
    samples: Minibatch = next(iter(minibatches_of(model.rollout_buffer, model.rule, None).epoch()))
    return samples
