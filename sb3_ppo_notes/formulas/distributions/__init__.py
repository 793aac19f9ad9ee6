"""Action distributions as pure functions of their parameters: log-probability, entropy, exact KL, sample, mode.

No ``torch.distributions`` objects are built: constructing and validating one costs more than the arithmetic inside it,
and an object that stores tensors cannot be traced by a compiler. Operations, their order and their use of random
numbers are those of the distributions that SB3 builds, so that results are equal bit for bit.

**Parameters** are a tuple of tensors, whatever the network's head needs to become a distribution being already done:

=====================  =======================================  ==========================================
distribution           parameters                               action space
=====================  =======================================  ==========================================
``CATEGORICAL``        (log-probabilities ``[N, n]``,)          Discrete(n)
``MULTI_CATEGORICAL``  one ``[N, nᵢ]`` per component            MultiDiscrete([n₁, n₂, …])
``BERNOULLI``          (logits ``[N, n]``,)                     MultiBinary(n)
``GAUSSIAN``           (mean ``[N, d]``, std ``[N, d]``)        Box(d), also gSDE
``TANH_GAUSSIAN``      (mean, std) before the tanh              Box(d), gSDE with ``squash_output=True``
``SQUASHED_GAUSSIAN``  (mean, std) before the tanh              Box(d)
``BETA``               (α ``[N, d]``, β ``[N, d]``)             Box(d)
=====================  =======================================  ==========================================
"""

from collections.abc import Callable
from typing import NamedTuple

import torch as th

from sb3_ppo_notes.formulas.distributions import bernoulli, beta, categorical, gaussian, squashed

Parameters = tuple[th.Tensor, ...]


class DistributionFormulas(NamedTuple):
    """The five formulas of one distribution, each taking the tuple of parameters first.

    ``entropy`` is ``None`` where there is no closed form.
    """

    log_prob: Callable[[Parameters, th.Tensor], th.Tensor]
    entropy: Callable[[Parameters], th.Tensor] | None
    kl: Callable[[Parameters, Parameters], th.Tensor]
    sample: Callable[[Parameters], th.Tensor]
    mode: Callable[[Parameters], th.Tensor]


CATEGORICAL = DistributionFormulas(
    log_prob=lambda parameters, actions: categorical.categorical_log_prob(parameters[0], actions),
    entropy=lambda parameters: categorical.categorical_entropy(*parameters),
    kl=lambda old, new: categorical.categorical_kl(*old, *new),
    sample=lambda parameters: categorical.categorical_sample(*parameters),
    mode=lambda parameters: categorical.categorical_mode(*parameters),
)
MULTI_CATEGORICAL = DistributionFormulas(
    log_prob=categorical.multi_categorical_log_prob,
    entropy=categorical.multi_categorical_entropy,
    kl=categorical.multi_categorical_kl,
    sample=categorical.multi_categorical_sample,
    mode=categorical.multi_categorical_mode,
)
BERNOULLI = DistributionFormulas(
    log_prob=lambda parameters, actions: bernoulli.bernoulli_log_prob(parameters[0], actions),
    entropy=lambda parameters: bernoulli.bernoulli_entropy(*parameters),
    kl=lambda old, new: bernoulli.bernoulli_kl(*old, *new),
    sample=lambda parameters: bernoulli.bernoulli_sample(*parameters),
    mode=lambda parameters: bernoulli.bernoulli_mode(*parameters),
)
GAUSSIAN = DistributionFormulas(
    log_prob=lambda parameters, actions: gaussian.gaussian_log_prob(parameters[0], parameters[1], actions),
    entropy=lambda parameters: gaussian.gaussian_entropy(parameters[1]),
    kl=lambda old, new: gaussian.gaussian_kl(*old, *new),
    sample=lambda parameters: gaussian.gaussian_sample(*parameters),
    mode=lambda parameters: parameters[0],
)
TANH_GAUSSIAN = DistributionFormulas(
    log_prob=lambda parameters, actions: squashed.tanh_gaussian_log_prob(parameters[0], parameters[1], actions),
    entropy=None,
    kl=lambda old, new: gaussian.gaussian_kl(*old, *new),
    sample=lambda parameters: th.tanh(gaussian.gaussian_sample(*parameters)),
    mode=lambda parameters: th.tanh(parameters[0]),
)
SQUASHED_GAUSSIAN = TANH_GAUSSIAN._replace(
    log_prob=lambda parameters, actions: squashed.squashed_gaussian_log_prob(parameters[0], parameters[1], actions),
    entropy=lambda parameters: squashed.squashed_gaussian_entropy(*parameters),
)
BETA = DistributionFormulas(
    log_prob=lambda parameters, actions: beta.beta_log_prob(parameters[0], parameters[1], actions),
    entropy=lambda parameters: beta.beta_entropy(*parameters),
    kl=lambda old, new: beta.beta_kl(*old, *new),
    sample=lambda parameters: beta.beta_sample(*parameters),
    mode=lambda parameters: beta.beta_mean(*parameters),
)
