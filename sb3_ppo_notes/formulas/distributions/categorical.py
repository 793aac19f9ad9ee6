"""One choice out of n (Discrete) and several independent choices (MultiDiscrete)."""

from collections.abc import Sequence

import torch as th
from torch.nn import functional as F

from sb3_ppo_notes.formulas.checks import check_shapes

#: The logit of a forbidden action.
FORBIDDEN = -1e8


def log_probabilities(logits: th.Tensor, as_sb3: bool = True) -> th.Tensor:
    """Log-probabilities of the n actions, from the network's unnormalised scores.

        log pᵢ = zᵢ − log Σⱼ exp zⱼ

    Adding one number to all logits changes nothing. Normalise once and hand the result to every formula below: doing it
    in each would add the gradients up in another order than SB3 does.

    Source: softmax; ``torch.distributions.Categorical``.

    :param logits: ``[N, n]``, z, any real numbers.
    :param as_sb3: in the very operations of SB3, to the bit; else in one operation, to rounding.
    :return: ``[N, n]``, <= 0, whose exponentials sum to 1 in each row; nats.

    >>> log_probabilities(th.zeros(1, 2)).exp().tolist()
    [[0.5, 0.5]]
    """
    return logits - logits.logsumexp(dim=-1, keepdim=True) if as_sb3 else F.log_softmax(logits, dim=-1)


def masked_logits(logits: th.Tensor, masks: th.Tensor) -> th.Tensor:
    """Logits in which forbidden actions have next to no chance.

        zᵢ if mᵢ = 1 else −10⁸

    A large number and not −∞: differences of two infinities would be NaN. exp(−10⁸) is exactly 0, so a forbidden action
    is never drawn, adds nothing to the entropy and gets no gradient. With every action allowed nothing changes, not a
    bit.

    Source: Huang & Ontañón 2020 (arXiv:2006.14171); sb3-contrib's ``MaskableCategorical``.

    :param logits: ``[N, n]``, z.
    :param masks: ``[N, n]`` bool, m: ``True`` where an action is allowed.
    :return: ``[N, n]``.
    :raises ValueError: if the shapes differ.

    >>> masked_logits(th.zeros(1, 2), th.tensor([[True, False]])).tolist()
    [[0.0, -100000000.0]]
    """
    check_shapes(logits=logits, action_masks=masks)
    return th.where(masks, logits, FORBIDDEN)


def probabilities(log_probs: th.Tensor) -> th.Tensor:
    """Probabilities of the n actions.

        pᵢ ← pᵢ / Σⱼ pⱼ

    As a softmax of the logarithms, so that each row sums to 1 to the last bit.

    Source: ``torch.distributions.Categorical.probs``.

    :param log_probs: ``[N, n]``, log p; nats.
    :return: ``[N, n]`` in [0, 1].

    >>> probabilities(th.tensor([[0.0, 0.0]])).tolist()
    [[0.5, 0.5]]
    """
    return F.softmax(log_probs, dim=-1)


def categorical_log_prob(log_probs: th.Tensor, actions: th.Tensor) -> th.Tensor:
    """Log-probability of the actions taken: the entry of each row that the action names.

        log π(a|s) = log pₐ          ∂/∂z = onehot(a) − p

    The derivative is autograd's affair; log π itself is the logarithm of a probability, not a derivative.

    Source: ``torch.distributions.Categorical.log_prob``.

    :param log_probs: ``[N, n]``, log p; nats.
    :param actions: ``[N]``, a, integers 0 … n−1 (any dtype).
    :return: ``[N]``, <= 0; nats.

    >>> categorical_log_prob(th.tensor([[-0.5, -1.0]]), th.tensor([1])).tolist()
    [-1.0]
    """
    return log_probs.gather(-1, actions.long().unsqueeze(-1)).squeeze(-1)


def categorical_entropy(log_probs: th.Tensor) -> th.Tensor:
    """How undecided the policy is.

        H = −Σᵢ pᵢ·log pᵢ

    0 for a certain action, at most log n, reached when all n are equally likely (H is concave). Mind the minus: without
    it the uniform policy would be the minimum.

    Source: Shannon 1948; Mnih et al. 2016 (arXiv:1602.01783) section 4.2 for its use as a bonus.

    :param log_probs: ``[N, n]``, log p; nats.
    :return: ``[N]`` in [0, log n]; nats.

    >>> categorical_entropy(log_probabilities(th.zeros(1, 2))).item()  # log 2
    0.6931471824645996
    """
    # A masked action has log p = −inf and p = 0: the clamp makes the product 0 instead of NaN.
    bounded = th.clamp(log_probs, min=th.finfo(log_probs.dtype).min)
    return -(bounded * probabilities(log_probs)).sum(-1)


def categorical_kl(old_log_probs: th.Tensor, new_log_probs: th.Tensor) -> th.Tensor:
    """Exact KL(old ‖ new): what the samples of ``formulas.divergences`` estimate.

        KL = Σᵢ p_old,ᵢ·(log p_old,ᵢ − log p_new,ᵢ)

    0 only if both are equal; infinite if the new policy excludes what the old one did.

    Source: Kullback & Leibler 1951.

    :param old_log_probs: ``[N, n]``, log p_old of the policy the actions were drawn from; nats.
    :param new_log_probs: ``[N, n]``, log p_new of the policy being trained; nats.
    :return: ``[N]``, >= 0; nats.

    >>> same = log_probabilities(th.zeros(1, 3))
    >>> categorical_kl(same, same).item()
    0.0
    """
    old_probabilities = probabilities(old_log_probs)
    # 0·(−inf − −inf) would be NaN: what had probability 0 contributes nothing.
    differences = th.where(old_probabilities > 0, old_log_probs - new_log_probs, 0.0)
    return (old_probabilities * differences).sum(-1)


def categorical_sample(log_probs: th.Tensor) -> th.Tensor:
    """Actions drawn at random, each with its probability (not the likeliest one: that is the mode).

        a = argmaxᵢ pᵢ/Eᵢ ,  Eᵢ ~ Exp(1)

    A race: of n clocks that ring at rates pᵢ, clock i is the first with probability pᵢ. What is impossible never rings.

    Source: ``torch.multinomial`` for one draw a row: the same race with the same random numbers of torch's global
    generator, without its checks.

    :param log_probs: ``[N, n]``, log p; nats.
    :return: ``[N]`` int64.

    >>> categorical_sample(th.tensor([[0.0, -th.inf]])).tolist()
    [0]
    """
    rates = probabilities(log_probs)
    return (rates / th.empty_like(rates).exponential_(1)).argmax(-1)


def categorical_mode(log_probs: th.Tensor) -> th.Tensor:
    """The likeliest action, for evaluation.

        a = argmaxᵢ pᵢ

    :param log_probs: ``[N, n]``, log p; nats.
    :return: ``[N]`` int64.

    >>> categorical_mode(th.tensor([[-2.0, -0.1]])).tolist()
    [1]
    """
    return th.argmax(probabilities(log_probs), dim=1)


def multi_categorical_log_prob(components: Sequence[th.Tensor], actions: th.Tensor) -> th.Tensor:
    """Log-probability of a tuple of independent choices: the sum over the components.

        log π(a|s) = Σⱼ log πⱼ(aⱼ|s)

    Source: ``MultiCategoricalDistribution`` of Stable-Baselines3.

    :param components: for each component its ``[N, nⱼ]`` log-probabilities; nats.
    :param actions: ``[N, J]``, a.
    :return: ``[N]``; nats.

    >>> multi_categorical_log_prob((th.tensor([[-1.0]]), th.tensor([[-2.0]])), th.tensor([[0, 0]])).item()
    -3.0
    """
    pairs = zip(components, th.unbind(actions, dim=1), strict=True)
    return th.stack([categorical_log_prob(log_probs, chosen) for log_probs, chosen in pairs], dim=1).sum(dim=1)


def multi_categorical_entropy(components: Sequence[th.Tensor]) -> th.Tensor:
    """Entropy of independent choices: the sum of theirs.

        H = Σⱼ Hⱼ

    :param components: for each component its ``[N, nⱼ]`` log-probabilities; nats.
    :return: ``[N]`` in [0, Σ log nⱼ]; nats.

    >>> multi_categorical_entropy((th.tensor([[0.0]]), th.tensor([[0.0]]))).item()
    0.0
    """
    return th.stack([categorical_entropy(log_probs) for log_probs in components], dim=1).sum(dim=1)


def multi_categorical_kl(old: Sequence[th.Tensor], new: Sequence[th.Tensor]) -> th.Tensor:
    """Exact KL(old ‖ new) of independent choices: the sum of theirs.

        KL = Σⱼ KLⱼ

    :param old: for each component its ``[N, nⱼ]`` log-probabilities under the old policy; nats.
    :param new: the same under the policy being trained; nats.
    :return: ``[N]``, >= 0; nats.

    >>> multi_categorical_kl((th.tensor([[0.0]]),), (th.tensor([[0.0]]),)).item()
    0.0
    """
    pairs = zip(old, new, strict=True)
    return th.stack(
        [categorical_kl(old_log_probs, new_log_probs) for old_log_probs, new_log_probs in pairs], dim=1
    ).sum(dim=1)


def multi_categorical_sample(components: Sequence[th.Tensor]) -> th.Tensor:
    """One random choice in each component, drawn in their order.

    :param components: for each component its ``[N, nⱼ]`` log-probabilities; nats.
    :return: ``[N, J]`` int64.

    >>> multi_categorical_sample((th.tensor([[0.0]]), th.tensor([[0.0]]))).tolist()
    [[0, 0]]
    """
    return th.stack([categorical_sample(log_probs) for log_probs in components], dim=1)


def multi_categorical_mode(components: Sequence[th.Tensor]) -> th.Tensor:
    """The likeliest choice in each component.

    :param components: for each component its ``[N, nⱼ]`` log-probabilities; nats.
    :return: ``[N, J]`` int64.

    >>> multi_categorical_mode((th.tensor([[-2.0, -0.1]]), th.tensor([[0.0]]))).tolist()
    [[1, 0]]
    """
    return th.stack([categorical_mode(log_probs) for log_probs in components], dim=1)
