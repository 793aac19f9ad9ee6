"""Loss and gradient of a minibatch as a function of tensors: what is recorded, and what is compiled."""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch as th
from torch.overrides import TorchFunctionMode

from sb3_ppo_notes.engine.descent import Trains
from sb3_ppo_notes.rollouts.minibatches import Minibatch
from sb3_ppo_notes.rules.loss import LossCoefficients, LossTerms, actor_loss


class MinibatchLayout(NamedTuple):
    """The order in which a list of tensors makes up a minibatch; the same for all minibatches of a rollout."""

    keys: tuple[str, ...] | None  # of Dict observations
    n_old_parameters: int
    is_masked: bool

    @classmethod
    def of(cls, minibatch: Minibatch) -> "MinibatchLayout":
        """The layout of a minibatch."""
        observations, old = minibatch.observations, minibatch.old_parameters
        keys = tuple(observations) if isinstance(observations, dict) else None
        return cls(keys, len(old or ()), minibatch.action_masks is not None)

    @staticmethod
    def tensors(minibatch: Minibatch) -> list[th.Tensor]:
        """The tensors of a minibatch, in the order in which :meth:`minibatch` takes them."""
        observations, masks = minibatch.observations, minibatch.action_masks
        seen = observations.values() if isinstance(observations, dict) else (observations,)
        return [*seen, *minibatch[1:6], *(minibatch.old_parameters or ()), *(() if masks is None else (masks,))]

    def minibatch(self, tensors: Sequence[th.Tensor]) -> Minibatch:
        """The minibatch that :meth:`tensors` took apart."""
        rest = iter(tensors)
        observations = next(rest) if self.keys is None else {key: next(rest) for key in self.keys}
        columns = [next(rest) for _ in range(5)]
        old = tuple(next(rest) for _ in range(self.n_old_parameters)) or None
        masks = next(rest) if self.is_masked else None
        return Minibatch(observations, *columns, old, masks)  # type: ignore[call-arg, arg-type]


class LossAndGradient(NamedTuple):
    """``loss`` is what was differentiated; a gradient is ``None`` for a weight that has no part in it."""

    terms: LossTerms
    loss: th.Tensor
    gradients: tuple[th.Tensor | None, ...]


def loss_and_gradient(
    evaluate: Callable[[], LossTerms], coefficients: LossCoefficients, trains: Trains, parameters: Sequence[th.Tensor]
) -> LossAndGradient:
    """Autograd's gradient of the loss that ``evaluate`` gives, for actor and critic together or for the actor alone."""
    terms = evaluate()
    loss = terms.loss if trains == "both" else actor_loss(terms, coefficients)
    return LossAndGradient(terms, loss, th.autograd.grad(loss, parameters, allow_unused=True))


class Traceable(TorchFunctionMode):
    """Lends tracing an ``F.one_hot`` that does not look at the numbers: PyTorch's checks them one by one."""

    def __torch_function__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if function is not th.nn.functional.one_hot:
            return function(*args, **(kwargs or {}))

        def one_hot(tensor: th.Tensor, num_classes: int) -> th.Tensor:
            return (tensor.unsqueeze(-1) == th.arange(num_classes, device=tensor.device)).long()

        return one_hot(*args, **(kwargs or {}))
