"""What the update maximises and minimises: policy objectives, value errors, advantage normalisation. Torch,
element-wise ``[N]``.

An *objective* is larger when better (the policy ascends it), an *error* is smaller when better (the critic descends
it). The total loss of PPO (arXiv:1707.06347 eq. 9, sign flipped) is −mean(objective) + vf_coef·mean(error) −
ent_coef·mean(entropy). One loss for two networks is no coupling: the gradient of a sum is the sum of the gradients, and
where actor and critic share no weights each gets only its own. (A *global* gradient-norm clip does couple them: a large
value error then shrinks the policy's step.)
"""

import torch as th
from torch.nn import functional as F

from sb3_ppo_notes.formulas.checks import check_shapes


def policy_gradient(log_probs: th.Tensor, advantages: th.Tensor) -> th.Tensor:
    """The score-function objective whose gradient is the policy gradient.

        Jᵢ = Âᵢ·log π(aᵢ|sᵢ)            ∇J = Â·∇log π

    log π(a|s) is the log-probability (log-density for continuous actions) of the action that was *taken*. Ascending J
    makes actions with Â > 0 likelier. Its value means nothing (it is no performance measure), only its gradient does,
    and Â must be a constant in it: a gradient through Â would train the critic to please the actor.

    Source: Williams 1992 (REINFORCE); Mnih et al. 2016 (arXiv:1602.01783) section 4.2.

    :param log_probs: ``[N]``, log π(aᵢ|sᵢ) under the policy being trained; nats.
    :param advantages: ``[N]``, Â, without gradient; reward units, or standard deviations once normalised.
    :return: ``[N]``, to be maximised.
    :raises ValueError: if the shapes differ.

    >>> policy_gradient(th.tensor([-0.5]), th.tensor([2.0])).item()
    -1.0
    """
    check_shapes(log_probs=log_probs, advantages=advantages)
    return advantages * log_probs


def probability_ratio(log_probs: th.Tensor, old_log_probs: th.Tensor) -> th.Tensor:
    """How much likelier the new policy makes the action than the old one did.

        ρ = π(a|s) / π_old(a|s) = exp(log π − log π_old)

    Exactly 1 at the first minibatch of an update, before anything has changed. It is an importance weight: it corrects
    for the action having been drawn from π_old, not for the *states* having been visited by π_old, hence the trust
    region around 1.

    Source: PPO (arXiv:1707.06347) section 2.2 (there rₜ(θ); not the reward).

    :param log_probs: ``[N]``, log π(a|s); nats.
    :param old_log_probs: ``[N]``, log π_old(a|s) as stored with the rollout; nats.
    :return: ``[N]``, positive; dimensionless.
    :raises ValueError: if the shapes differ.

    >>> probability_ratio(th.tensor([0.0]), th.tensor([0.0])).item()
    1.0
    """
    check_shapes(log_probs=log_probs, old_log_probs=old_log_probs)
    return th.exp(log_probs - old_log_probs)


def surrogate(ratio: th.Tensor, advantages: th.Tensor) -> th.Tensor:
    """The unclipped surrogate objective of conservative policy iteration.

        L = ρ·Â

    At ρ = 1 its gradient is the policy gradient Â·∇log π. Away from 1 nothing bounds it, so it needs a penalty or a
    clip.

    Source: PPO (arXiv:1707.06347) eq. 6; Kakade & Langford 2002.

    :param ratio: ``[N]``, ρ; dimensionless.
    :param advantages: ``[N]``, Â, without gradient.
    :return: ``[N]``, to be maximised; units of the advantages.
    :raises ValueError: if the shapes differ.

    >>> surrogate(th.tensor([1.5]), th.tensor([2.0])).item()
    3.0
    """
    check_shapes(ratio=ratio, advantages=advantages)
    return advantages * ratio


def clipped_surrogate(ratio: th.Tensor, advantages: th.Tensor, clip_range: float) -> th.Tensor:
    """PPO's objective: the surrogate, with no reward for moving the ratio out of [1−ε, 1+ε].

        L = min(ρ·Â, clip(ρ, 1−ε, 1+ε)·Â)

    The clip removes the *incentive* to go further; it neither limits the step nor undoes it, and the ratio may well end
    outside. There the minimum keeps the gradient only where the step went the *wrong* way (Â > 0 and ρ < 1−ε, Â < 0 and
    ρ > 1+ε): with the clip alone both would have gradient zero and could never be repaired. It also makes L a lower
    bound of the unclipped surrogate.

        ========  ===========  ==============  ===========
        dL/dρ     ρ < 1−ε      inside          ρ > 1+ε
        ========  ===========  ==============  ===========
        Â > 0     Â            Â               0
        Â < 0     0            Â               Â
        ========  ===========  ==============  ===========

    Source: PPO (arXiv:1707.06347) eq. 7.
    Deviation: Spinning Up writes it as min(ρ·Â, g(ε, Â)); the numbers are the same.

    :param ratio: ``[N]``, ρ; dimensionless.
    :param advantages: ``[N]``, Â, without gradient.
    :param clip_range: ε > 0; dimensionless.
    :return: ``[N]``, to be maximised; units of the advantages.
    :raises ValueError: if the shapes differ.

    >>> ratio, advantages = th.tensor([0.5, 1.5, 0.5, 1.5]), th.tensor([1.0, 1.0, -1.0, -1.0])
    >>> clipped_surrogate(ratio, advantages, clip_range=0.25).tolist()
    [0.5, 1.25, -0.75, -1.5]
    """
    check_shapes(ratio=ratio, advantages=advantages)
    unclipped = advantages * ratio
    clipped = advantages * th.clamp(ratio, 1 - clip_range, 1 + clip_range)
    # Inside the range both arguments are equal, and torch.min then gives each half the gradient: the halves add up to
    # one whole.
    return th.min(unclipped, clipped)


def squared_value_error(values: th.Tensor, returns: th.Tensor) -> th.Tensor:
    """Squared distance of the critic's estimate from its target.

        e = (V(s) − Ĝ)²

    No factor ½: SB3's vf_coef = 0.5 is the coefficient 1 of those who write ½(V − Ĝ)² (CleanRL, OpenAI baselines).

    Source: PPO (arXiv:1707.06347) eq. 9, L^VF.

    :param values: ``[N]``, V(s) of the critic being trained; reward units.
    :param returns: ``[N]``, Ĝ: targets without gradient; reward units.
    :return: ``[N]``, to be minimised; reward units squared.
    :raises ValueError: if the shapes differ.

    >>> squared_value_error(th.tensor([1.0]), th.tensor([3.0])).item()
    4.0
    """
    check_shapes(values=values, returns=returns)
    return F.mse_loss(returns, values, reduction="none")


def mean_squared_error(values: th.Tensor, returns: th.Tensor) -> th.Tensor:
    """The mean of :func:`squared_value_error`, by torch's fused kernel.

        mean((V(s) − Ĝ)²)

    The one formula that reduces: the gradient of the fused mean is rounded in another order than the gradient of
    ``squared_value_error(...).mean()`` (they differ in the last bit whenever vf_coef is no power of two), and SB3 uses
    the fused one.

    Source: as :func:`squared_value_error`.

    :param values: ``[N]``, V(s), or a clipped prediction of it; reward units.
    :param returns: ``[N]``, Ĝ: targets without gradient; reward units.
    :return: scalar; reward units squared.
    :raises ValueError: if the shapes differ.

    >>> mean_squared_error(th.tensor([1.0, 2.0]), th.tensor([3.0, 2.0])).item()
    2.0
    """
    check_shapes(values=values, returns=returns)
    return F.mse_loss(returns, values)


def clipped_values(values: th.Tensor, old_values: th.Tensor, clip_range_vf: float) -> th.Tensor:
    """The critic's estimate, held within ±ε of what it said when the rollout was gathered.

        V_clip = V_old + clip(V − V_old, −ε, +ε)

    Used *instead* of V in the squared error, as SB3 and skrl do, it has gradient zero outside the band, also when V
    moved away from its target: such a value cannot come back (see :func:`pessimistic_value_error`). ε is in reward
    units: it has to be chosen anew for every reward scale.

    Source: OpenAI baselines PPO2; not in the PPO paper.
    Deviation: baselines takes the maximum of both errors, SB3 only the clipped one (SB3 issue #1986).

    :param values: ``[N]``, V(s) being trained; reward units.
    :param old_values: ``[N]``, V_old(s) stored with the rollout; reward units.
    :param clip_range_vf: ε > 0; reward units.
    :return: ``[N]``; reward units.
    :raises ValueError: if the shapes differ.

    >>> clipped_values(th.tensor([1.0, -0.25]), th.tensor([0.0, 0.0]), clip_range_vf=0.5).tolist()
    [0.5, -0.25]
    """
    check_shapes(values=values, old_values=old_values)
    return old_values + th.clamp(values - old_values, -clip_range_vf, clip_range_vf)


def pessimistic_value_error(
    values: th.Tensor, old_values: th.Tensor, returns: th.Tensor, clip_range_vf: float
) -> th.Tensor:
    """The larger of the plain and the clipped squared error.

        e = max((V − Ĝ)², (V_clip − Ĝ)²)

    The counterpart of PPO's minimum: a value that moved *away* from its target keeps its gradient, one that moved
    towards it by more than ε loses it.

    Source: OpenAI baselines PPO2; the form CleanRL, Tianshou and Brax use.

    :param values: ``[N]``, V(s) being trained; reward units.
    :param old_values: ``[N]``, V_old(s) stored with the rollout; reward units.
    :param returns: ``[N]``, Ĝ: targets without gradient; reward units.
    :param clip_range_vf: ε > 0; reward units.
    :return: ``[N]``, to be minimised; reward units squared.
    :raises ValueError: if the shapes differ.

    >>> zero, one = th.tensor([0.0]), th.tensor([1.0])
    >>> pessimistic_value_error(th.tensor([-0.5]), zero, one, clip_range_vf=0.25).item()  # max(1.5 ** 2, 1.25 ** 2)
    2.25
    """
    clipped = clipped_values(values, old_values, clip_range_vf)
    return th.max(squared_value_error(values, returns), squared_value_error(clipped, returns))


def huber_value_error(values: th.Tensor, returns: th.Tensor, beta: float = 1.0) -> th.Tensor:
    """Squared near the target, linear far from it ("smooth L1").

        e = ½·d²/β if |d| < β else |d| − ½·β ,   d = V − Ĝ

    The gradient is d/β inside and ±1 outside: one outlier cannot dominate. Near the target it is
    1/(2β) times the squared error.

    Source: Huber 1964; minimalRL's ``smooth_l1_loss``.

    :param values: ``[N]``, V(s) being trained; reward units.
    :param returns: ``[N]``, Ĝ: targets without gradient; reward units.
    :param beta: β > 0, where the line begins; reward units.
    :return: ``[N]``, to be minimised; reward units.
    :raises ValueError: if the shapes differ.

    >>> huber_value_error(th.tensor([0.5, 3.0]), th.zeros(2)).tolist()
    [0.125, 2.5]
    """
    check_shapes(values=values, returns=returns)
    return F.smooth_l1_loss(values, returns, reduction="none", beta=beta)


def normalize_advantages(advantages: th.Tensor, eps: float = 1e-8, ddof: int = 1) -> th.Tensor:
    """Advantages with mean 0 and standard deviation 1, over the samples of each row.

        Â ← (Â − mean(Â)) / (std + eps) ,   std = √(Σᵢ (Âᵢ − mean(Â))² / (N − ddof))

    The policy's step then does not depend on the reward scale. Subtracting the mean of N independent samples shortens
    the expected gradient by exactly 1 − 1/N and turns it nowhere; dividing by their deviation bends it a little. Over a
    *minibatch* both can turn the sign of a sample that the whole rollout would have left alone. One sample has no
    deviation (ddof 1 divides by zero): it is returned as it is.

    Source: not in the PPO paper; OpenAI baselines PPO2 (per minibatch), Spinning Up (per rollout, ddof 0, no eps).

    :param advantages: ``[..., N]``, Â; reward units. Each row is a group of samples by itself.
    :param eps: added to the standard deviation, so that constant advantages become 0 and not NaN.
    :param ddof: 1 divides the variance by N−1 (torch, SB3, skrl), 0 by N (NumPy, Spinning Up, batch-ppo).
    :return: ``[..., N]``; standard deviations.

    >>> normalize_advantages(th.tensor([1.0, 3.0]), eps=0.0, ddof=0).tolist()
    [-1.0, 1.0]
    """
    if advantages.shape[-1] <= 1:
        return advantages
    deviations = _deviations(advantages, ddof)
    return (advantages - advantages.mean(-1, keepdim=True)) / (deviations + eps)


def _deviations(advantages: th.Tensor, ddof: int) -> th.Tensor:
    """Standard deviation of each row ``[..., 1]``, to the bit that of the row alone."""
    if advantages.dim() == 1 or advantages.device.type != "cpu":
        return advantages.std(-1, keepdim=True, correction=ddof)
    # PyTorch sums the squares of a lone vector in float64 around its float32 mean, and those of rows in another way:
    # where advantages are nearly alike (a constant reward) the last bits differ, and are divided by next to nothing.
    squares = (advantages.double() - advantages.mean(-1, keepdim=True).double()).square()
    return (squares.sum(-1, keepdim=True) / (advantages.shape[-1] - ddof)).sqrt().to(advantages.dtype)
