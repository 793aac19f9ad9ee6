"""Whether rollout and minibatches fit together."""

import warnings

from sb3_ppo_notes.formulas.checks import InvalidValueError
from sb3_ppo_notes.rules import UpdateRule


def check_sizes(n_steps: int, n_envs: int, batch_size: int | None, rule: UpdateRule) -> None:
    """Refuse a rollout too small for what the rule does with it; warn, as SB3 does, of a smaller minibatch.

    :param n_steps: steps of each environment.
    :param n_envs: number of environments.
    :param batch_size: samples in a minibatch, ``None`` for all.
    :param rule: whether it normalises, which takes two samples, and drops a smaller last minibatch.
    :raises ValueError: if the sizes do not fit.
    """
    normalizes = rule.advantage_normalization.scope != "none"
    if normalizes and batch_size is not None and n_steps * n_envs < 2:
        raise InvalidValueError(
            f"n_steps * n_envs must be >= 2 when normalize_advantage=True, got n_steps={n_steps} and n_envs={n_envs}"
        )
    check_something_is_left(n_steps, n_envs, batch_size, rule)
    if not rule.optimization.drop_last:
        _warn_of_truncated_minibatch(n_steps, n_envs, batch_size)


def check_something_is_left(n_steps: int, n_envs: int, batch_size: int | None, rule: UpdateRule) -> None:
    """Refuse to drop the one minibatch there is.

    :param n_steps: steps of each environment.
    :param n_envs: number of environments.
    :param batch_size: samples in a minibatch, ``None`` for all.
    :param rule: whether a last minibatch that is smaller than the others is left out.
    :raises ValueError: if nothing would be learned from.
    """
    if rule.optimization.drop_last and batch_size is not None and batch_size > n_steps * n_envs:
        raise InvalidValueError(
            f"batch_size must be at most n_steps * n_envs = {n_steps * n_envs} when the rule drops a smaller last "
            f"minibatch, got {batch_size} (n_steps={n_steps}, n_envs={n_envs})"
        )


def _warn_of_truncated_minibatch(n_steps: int, n_envs: int, batch_size: int | None) -> None:
    size = n_steps * n_envs
    if batch_size is None or size % batch_size == 0:
        return
    sizes = f"n_steps * n_envs = {size} (n_steps={n_steps}, n_envs={n_envs})"
    if batch_size > size:
        words = f"is larger than {sizes}: every epoch will be one truncated mini-batch of size {size}"
    else:
        end = f"at the end of every epoch there will be a truncated mini-batch of size {size % batch_size}"
        words = f"does not divide {sizes}: {end}"
    warnings.warn(f"batch_size={batch_size} {words}", stacklevel=2)
