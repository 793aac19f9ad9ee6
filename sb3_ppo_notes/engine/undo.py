"""Going back to the weights and the optimiser state from before an update."""

import math
from typing import Any

import torch as th

from sb3_ppo_notes.engine.optimizers import FlatOptimizer


class Undo:
    """Weights and optimiser state as they were, to go back to.

    :param optimizer: whose weights and state.
    :param flat: the vectors that hold them, where there are some: three copies instead of forty.
    """

    def __init__(self, optimizer: th.optim.Optimizer, flat: FlatOptimizer | None):
        self.optimizer = optimizer
        self.flat = flat
        #: Somebody's own optimiser need not have any.
        self._state: Any = getattr(optimizer, "state", {})
        self._kept = None if flat is None else flat.remembered()
        if flat is None:
            self._pairs = [(tensor, tensor.clone()) for tensor in self._tensors()]
            self._plain = {weight: _numbers(state) for weight, state in self._state.items()}

    def _tensors(self) -> list[th.Tensor]:
        if self.flat is not None:
            return [self.flat.weights.vector, *self.flat.state]
        weights = [weight.detach() for group in self.optimizer.param_groups for weight in group["params"]]
        states = [value for state in self._state.values() for value in state.values()]
        return weights + [value for value in states if isinstance(value, th.Tensor) and value.is_floating_point()]

    def is_needed(self) -> bool:
        """Whether something is not finite now."""
        tensors = self._tensors()
        # A sum is finite if all its terms are, unless it overflows.
        with th.no_grad():
            return not all(math.isfinite(tensor.sum().item()) or bool(tensor.isfinite().all()) for tensor in tensors)

    def restore(self) -> None:
        """Go back."""
        with th.no_grad():
            if self.flat is not None and self._kept is not None:
                self.flat.restore(self._kept)
                return
            for tensor, kept in self._pairs:
                tensor.copy_(kept)
            for weight in list(self._state):
                if weight in self._plain:
                    self._state[weight].update(self._plain[weight])
                else:
                    # It came into being in the update that is undone.
                    del self._state[weight]


def _numbers(state: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in state.items() if not isinstance(value, th.Tensor)}
