"""Numbers that say whether the networks can still learn, from what their layers say in a batch of states."""

import torch as th


def dormant_share(activations: th.Tensor, threshold: float = 0.025) -> th.Tensor:
    """Share of a layer's units that hardly ever say anything.

        share(sᵢ ≤ τ) ,   sᵢ = E|hᵢ| / (1/k·Σⱼ E|hⱼ|)

    A unit is measured against its own layer, so the share is the same for ``h`` and ``2h``. 0: all take part. 1 is
    impossible unless every unit is silent. What is dormant gets next to no gradient and stays so.

    Source: Sokar et al. 2023 (arXiv:2302.12902), definition 3.1 (τ = 0.025 in its experiments, 0.1 elsewhere).

    :param activations: ``[N, k]``, h, after the activation function.
    :param threshold: τ >= 0; dimensionless.
    :return: 0-dimensional, in [0, 1].

    >>> dormant_share(th.tensor([[1.0, 0.0], [-1.0, 0.0]])).item()
    0.5
    """
    strength = activations.abs().mean(0)
    mean = strength.mean()
    scores = th.where(mean > 0, strength / mean, th.zeros_like(strength))
    return (scores <= threshold).float().mean()


def saturated_share(activations: th.Tensor, threshold: float = 0.99) -> th.Tensor:
    """Share of a tanh layer's outputs that are as good as −1 or 1.

        share(|hᵢ| > τ)

    There the slope is below 1 − 0.99² = 0.02: the gradient of everything before is multiplied by next to nothing.

    Source: Glorot & Bengio 2010, section 3.

    :param activations: ``[N, k]``, h, in [−1, 1].
    :param threshold: τ in (0, 1).
    :return: 0-dimensional, in [0, 1].

    >>> saturated_share(th.tensor([[0.5, -1.0]])).item()
    0.5
    """
    return (activations.abs() > threshold).float().mean()


def approximate_rank(features: th.Tensor, share: float = 0.99) -> int:
    """Directions that a layer's outputs really use.

        min { r : Σᵢ≤ᵣ σᵢ² ≥ 0.99·Σᵢ σᵢ² },  σ₁ ≥ σ₂ ≥ … the singular values of the [N, k] matrix

    k: all of them count. 1: every state looks the same up to a factor. In PPO its fall, together with growing
    pre-activations, comes before the collapse of the policy.

    Source: Moalla et al. 2024 (arXiv:2405.00662), section 3, "approximate rank" with δ = 0.01.

    :param features: ``[N, k]``, a layer's outputs in N states.
    :param share: of the squared length that has to be accounted for; in (0, 1].
    :return: between 0 (all outputs are 0) and min(N, k).

    >>> approximate_rank(th.tensor([[1.0, 0.0], [0.0, 1.0]])), approximate_rank(th.tensor([[1.0, 1.0], [2.0, 2.0]]))
    (2, 1)
    """
    # k × k in place of N × k: its eigenvalues are the squares, and there are fewer of them.
    squares = th.linalg.eigvalsh(features.double().T @ features.double()).flip(0).clamp(min=0.0)
    total = squares.sum()
    if total == 0:
        return 0
    # Rounding may leave the sum of all a hair below the total.
    return int((squares.cumsum(0) < share * total * (1 - 1e-12)).sum()) + 1


def relative_change(before: th.Tensor, after: th.Tensor) -> th.Tensor:
    """How far weights have gone, in units of their own length.

        ‖θ' − θ‖ / ‖θ‖

    About 10⁻³ for one step of a healthy network; after a whole update the many steps have partly cancelled.

    Source: Karpathy, CS231n notes on "ratio of weights:updates".

    :param before: ``[P]``, θ, not all 0.
    :param after: ``[P]``, θ'.
    :return: 0-dimensional, >= 0.

    >>> relative_change(th.tensor([3.0, 4.0]), th.tensor([3.0, 4.5])).item()
    0.10000000149011612
    """
    change: th.Tensor = th.linalg.vector_norm(after - before) / th.linalg.vector_norm(before)
    return change
