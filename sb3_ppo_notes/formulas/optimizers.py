"""How an optimiser turns a gradient into a step. Element by element: all weights may lie in one vector.

A step is three or four operations on a vector, whoever's weights lie in it. One optimiser step per tensor, as
``torch.optim`` takes it on a CPU, costs as many operations for each of a small policy's dozen tensors.
"""

from typing import Any

import torch as th


def adam_moments(
    gradient: th.Tensor, exp_avg: th.Tensor, exp_avg_sq: th.Tensor, betas: tuple[float, float]
) -> tuple[th.Tensor, th.Tensor]:
    """Running means of the gradient and of its square.

        m ← m + (1−β₁)·(g−m)          v ← β₂·v + (1−β₂)·g²

    Both start at zero and so are too small at first: :func:`adam_step` divides that out.

    Source: Kingma & Ba 2015 (arXiv:1412.6980), algorithm 1; operations and order of ``torch.optim.Adam``.

    :param gradient: ``[P]``, g.
    :param exp_avg: ``[P]``, m.
    :param exp_avg_sq: ``[P]``, v, >= 0.
    :param betas: β₁ and β₂ in [0, 1).
    :return: the new m and v, ``[P]`` each.

    >>> [moment.tolist() for moment in adam_moments(th.ones(1), th.zeros(1), th.zeros(1), betas=(0.5, 0.75))]
    [[0.5], [0.25]]
    """
    beta1, beta2 = betas
    return exp_avg.lerp(gradient, 1 - beta1), (exp_avg_sq * beta2).addcmul(gradient, gradient, value=1 - beta2)


def adam_corrections(step: int, learning_rate: float, betas: tuple[float, float]) -> tuple[float, float]:
    """The two numbers of an Adam step that depend on how many were taken: by what to scale it.

        −α/(1−β₁ᵗ)          √(1−β₂ᵗ)

    They undo the moments' start at zero. After the first step m/(1−β₁) = g and v/(1−β₂) = g², so the very first step is
    ±α for every weight, however small its gradient.

    Source: Kingma & Ba 2015 (arXiv:1412.6980), section 3.

    :param step: t, steps taken with this one; at least 1.
    :param learning_rate: α > 0.
    :param betas: β₁ and β₂ in [0, 1).
    :return: the scale of the step and that of √v, scalars.

    >>> adam_corrections(1, learning_rate=0.1, betas=(0.5, 0.75))
    (-0.2, 0.5)
    """
    beta1, beta2 = betas
    # float64, as torch computes them: rounded to float32 only where they meet the weights.
    return -(learning_rate / (1 - beta1**step)), (1 - beta2**step) ** 0.5


def adam_step(
    weights: th.Tensor, exp_avg: th.Tensor, exp_avg_sq: th.Tensor, corrections: tuple[Any, Any], eps: float
) -> th.Tensor:
    """Weights after a step of Adam.

        θ ← θ − α/(1−β₁ᵗ) · m / (√v/√(1−β₂ᵗ) + ε)

    The length of the gradient cancels: what counts is its sign and how steady it is. ε decides how small a gradient may
    be before its noise is no longer blown up to a full step.

    Source: Kingma & Ba 2015 (arXiv:1412.6980), algorithm 1; operations and order of ``torch.optim.Adam``.

    :param weights: ``[P]``, θ.
    :param exp_avg: ``[P]``, m, this gradient included.
    :param exp_avg_sq: ``[P]``, v, this gradient included.
    :param corrections: of :func:`adam_corrections`; numbers, or 0-dimensional tensors.
    :param eps: ε > 0.
    :return: ``[P]``, new weights.

    >>> adam_step(th.zeros(1), th.ones(1), th.ones(1), corrections=(-0.5, 1.0), eps=0.0).tolist()
    [-0.5]
    """
    negative_step_size, scale = corrections
    denominators = exp_avg_sq.sqrt() / scale + eps
    step: th.Tensor = (exp_avg * negative_step_size) / denominators
    return weights + step


def rmsprop_square(gradient: th.Tensor, square_avg: th.Tensor, alpha: float) -> th.Tensor:
    """Running mean of the gradient's square.

        v ← α·v + (1−α)·g²

    Source: Hinton 2012, lecture 6e; operations and order of ``torch.optim.RMSprop``.

    :param gradient: ``[P]``, g.
    :param square_avg: ``[P]``, v, >= 0.
    :param alpha: α in [0, 1).
    :return: ``[P]``, the new v.

    >>> rmsprop_square(th.ones(1), th.zeros(1), alpha=0.75).tolist()
    [0.25]
    """
    return (square_avg * alpha).addcmul(gradient, gradient, value=1 - alpha)


def rmsprop_step(
    weights: th.Tensor, gradient: th.Tensor, square_avg: th.Tensor, negative_learning_rate: Any, eps: float
) -> th.Tensor:
    """Weights after a step of RMSprop.

        θ ← θ − α · g / (√v + ε)

    Adam without the running mean of the gradient and without corrections: v starts at zero, so the first steps are up
    to 1/√(1−α) times too long.

    Source: Hinton 2012, lecture 6e; operations and order of ``torch.optim.RMSprop``.
    Deviation: TensorFlow has ε under the root and starts v at one: :func:`rmsprop_tf_step`.

    :param weights: ``[P]``, θ.
    :param gradient: ``[P]``, g.
    :param square_avg: ``[P]``, v, this gradient included.
    :param negative_learning_rate: −α; a number, or a 0-dimensional tensor.
    :param eps: ε > 0.
    :return: ``[P]``, new weights.

    >>> rmsprop_step(th.zeros(1), th.ones(1), th.tensor([0.25]), negative_learning_rate=-0.5, eps=0.0).tolist()
    [-1.0]
    """
    step: th.Tensor = (gradient * negative_learning_rate) / (square_avg.sqrt() + eps)
    return weights + step


def rmsprop_tf_step(
    weights: th.Tensor, gradient: th.Tensor, square_avg: th.Tensor, negative_learning_rate: Any, eps: float
) -> th.Tensor:
    """Weights after a step of TensorFlow's RMSprop.

        θ ← θ − α · g / √(v + ε)

    ε under the root bounds the step by α·g/√ε: with ε = 10⁻⁵ and small gradients that is a quite different optimiser.

    Source: TensorFlow 1's ``RMSPropOptimizer``; ``RMSpropTFLike`` of Stable-Baselines3, in its order of operations.

    :param weights: ``[P]``, θ.
    :param gradient: ``[P]``, g.
    :param square_avg: ``[P]``, v, this gradient included.
    :param negative_learning_rate: −α; a number, or a 0-dimensional tensor.
    :param eps: ε > 0.
    :return: ``[P]``, new weights.

    >>> rmsprop_tf_step(th.zeros(1), th.ones(1), th.tensor([0.25]), negative_learning_rate=-0.5, eps=0.0).tolist()
    [-1.0]
    """
    step: th.Tensor = (gradient * negative_learning_rate) / (square_avg + eps).sqrt()
    return weights + step
