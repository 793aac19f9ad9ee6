"""Whether a model can learn: what its constructor makes sure of, asked again when learning begins."""

from typing import Any

from sb3_ppo_notes.algorithms.arguments import CHECKS, check_arguments
from sb3_ppo_notes.algorithms.rule_arguments import plain
from sb3_ppo_notes.algorithms.sizes import check_something_is_left
from sb3_ppo_notes.envs.spaces import check_spaces
from sb3_ppo_notes.formulas.checks import InvalidValueError, check_integer
from sb3_ppo_notes.policies.masks import check_masking


def check_that_it_can_learn(model: Any) -> None:
    """Refuse what the constructor refuses, before anything has changed.

    A file, or an attribute set since, may say otherwise than the constructor was told; such a model can only predict.
    Environments are asked for masks here, because a model that predicts need not have any.

    :param model: a NotesPPO or NotesA2C.
    :raises ValueError: naming the argument, its value and the allowed range; likewise ``TypeError``.
    """
    if model.env is None:
        raise InvalidValueError("env is required to learn, got None (pass one to load, or call set_env)")
    attributes = {name: plain(vars(model)[name]) for name in CHECKS if name in vars(model) and name != "device"}
    check_arguments(attributes | {"stats_window_size": model._stats_window_size})
    batch_size = model._batch_size()
    if batch_size is not None:
        check_integer("batch_size", batch_size, minimum=1)
    check_something_is_left(model.n_steps, model.n_envs, batch_size, model.rule)
    check_spaces(model.observation_space, model.action_space)
    if model.action_masking:
        check_masking(model.env)
