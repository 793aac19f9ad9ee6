"""n independent yes-or-no choices (MultiBinary)."""

import torch as th
from torch.nn.functional import binary_cross_entropy_with_logits, softplus


def masked_log_odds(logits: th.Tensor, masks: th.Tensor) -> th.Tensor:
    """Log-odds in which a bit that has no choice is certain.

        +10⁴ if only 1 is allowed, −10⁴ if only 0 is, zᵢ if both are

    10⁴ and not more: the cross-entropy multiplies it, and probabilities are exactly 0 or 1 long before.

    Source: sb3-contrib's convention for MultiBinary masks: two entries a bit, first "0 is allowed", then "1 is
    allowed".

    :param logits: ``[N, n]``, z, log-odds of a 1.
    :param masks: ``[N, 2·n]`` bool.
    :return: ``[N, n]``.

    >>> masks = th.tensor([[True, False, True, True]])
    >>> masked_log_odds(th.ones(1, 2), masks).tolist()
    [[-10000.0, 1.0]]
    """
    allows = masks.reshape(masks.shape[0], -1, 2)
    only_one = th.where(allows[..., 0], logits, 1e4)
    return th.where(allows[..., 1], only_one, -1e4)


def bernoulli_log_prob(logits: th.Tensor, actions: th.Tensor) -> th.Tensor:
    """Log-probability of n independent bits.

        log π(a|s) = Σᵢ [aᵢ·log pᵢ + (1−aᵢ)·log(1−pᵢ)] ,   p = sigmoid(z)

    Source: ``torch.distributions.Bernoulli.log_prob`` (minus the binary cross-entropy).

    :param logits: ``[N, n]``, z, log-odds of a 1.
    :param actions: ``[N, n]`` float, a: 0 or 1.
    :return: ``[N]``, <= 0; nats.

    >>> bernoulli_log_prob(th.zeros(1, 2), th.ones(1, 2)).item()  # 2·log ½
    -1.3862943649291992
    """
    return -binary_cross_entropy_with_logits(logits, actions, reduction="none").sum(dim=1)


def bernoulli_entropy(logits: th.Tensor) -> th.Tensor:
    """Entropy of n independent bits.

        H = −Σᵢ [pᵢ·log pᵢ + (1−pᵢ)·log(1−pᵢ)] ,   p = sigmoid(z)

    At most n·log 2, when every bit is a fair coin.

    Source: ``torch.distributions.Bernoulli.entropy``.

    :param logits: ``[N, n]``, z, log-odds of a 1.
    :return: ``[N]`` in [0, n·log 2]; nats.

    >>> bernoulli_entropy(th.zeros(1, 1)).item()
    0.6931471824645996
    """
    return binary_cross_entropy_with_logits(logits, th.sigmoid(logits), reduction="none").sum(dim=1)


def bernoulli_kl(old_logits: th.Tensor, new_logits: th.Tensor) -> th.Tensor:
    """Exact KL(old ‖ new) of n independent bits.

        KL = Σᵢ [p_old,ᵢ·log(p_old,ᵢ/p_new,ᵢ) + (1−p_old,ᵢ)·log((1−p_old,ᵢ)/(1−p_new,ᵢ))]

    From log-odds: log p = −softplus(−z) and log(1−p) = −softplus(z), which neither over- nor underflow.

    Source: Kullback & Leibler 1951.

    :param old_logits: ``[N, n]``, log-odds of p_old, the policy the actions were drawn from.
    :param new_logits: ``[N, n]``, log-odds of p_new, the policy being trained.
    :return: ``[N]``, >= 0; nats.

    >>> bernoulli_kl(th.zeros(1, 1), th.zeros(1, 1)).item()
    0.0
    """
    old_probabilities = th.sigmoid(old_logits)
    of_ones = softplus(-new_logits) - softplus(-old_logits)
    of_zeros = softplus(new_logits) - softplus(old_logits)
    return (old_probabilities * of_ones + (1 - old_probabilities) * of_zeros).sum(dim=1)


def bernoulli_sample(logits: th.Tensor) -> th.Tensor:
    """Random bits, each 1 with its probability.

    Source: ``torch.bernoulli`` on torch's global generator.

    :param logits: ``[N, n]``, z, log-odds of a 1.
    :return: ``[N, n]`` float, 0 or 1.

    >>> bernoulli_sample(th.tensor([[100.0, -100.0]])).tolist()
    [[1.0, 0.0]]
    """
    return th.bernoulli(th.sigmoid(logits))


def bernoulli_mode(logits: th.Tensor) -> th.Tensor:
    """The likeliest bits: 1 where p > ½.

    :param logits: ``[N, n]``, z, log-odds of a 1.
    :return: ``[N, n]`` float, 0 or 1.

    >>> bernoulli_mode(th.tensor([[1.0, -1.0]])).tolist()
    [[1.0, 0.0]]
    """
    return th.round(th.sigmoid(logits))
