"""One step down a gradient: clipped, taken by the optimiser, refused if it is not finite."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch as th

from sb3_ppo_notes.engine.fingerprint import Fingerprint, listening_mode
from sb3_ppo_notes.engine.optimizers import FlatOptimizer, Undo, clears_gradients, elementwise_of
from sb3_ppo_notes.formulas.checks import NonFiniteError
from sb3_ppo_notes.policies.parameters import owners_of
from sb3_ppo_notes.policies.shipped import own_code_of

#: What a step trains: both networks by one loss, or one of them.
Trains = Literal["both", "policy", "critic"]


@dataclass(frozen=True)
class Phase:
    """A part of an update: some weights, their optimiser, and how often the rollout is gone through.

    :param optimizer: steps the weights.
    :param parameters: all that the gradient's norm is taken over.
    :param max_grad_norm: longest gradient, ``None`` for no limit.
    :param n_epochs: passes over the rollout.
    :param trains: actor and critic together, or one of them.
    """

    optimizer: th.optim.Optimizer
    parameters: list[th.nn.Parameter]
    max_grad_norm: float | None
    n_epochs: int
    trains: Trains


class Descent:
    """Takes the steps of one phase of an update, in SB3's order of operations.

    Where the optimiser treats every weight alike, all weights are stepped as one vector: the same numbers, bit for bit,
    in a tenth of the operations. Where it does not, or where somebody's own code may do anything on the way, autograd
    and optimiser are called as SB3 would call them.

    :param is_exact: whether there is a stock SB3 to be equal to; sb3-contrib's recurrent PPO is equalled to rounding.
    :param policy: owner of the weights; ``None`` if nobody asks which are the actor's.
    :param fingerprint: of the policy; these steps are good for no other.
    """

    def __init__(self, phase: Phase, is_exact: bool = True, policy: Any = None, fingerprint: Fingerprint | None = None):
        self.phase = phase
        self.is_exact = is_exact
        self.policy = policy
        self._fingerprint = fingerprint
        self._optimizer_fingerprint = Fingerprint.of_optimizer(phase.optimizer)
        #: Scales the loss of a policy in float16.
        self.scaler: th.amp.GradScaler | None = None
        self.parameters = [parameter for parameter in phase.parameters if parameter.requires_grad]
        #: What is unusual around the policy, and no part of it.
        self._obstacle = listening_mode() or unusual_memory(self.parameters)
        #: Why autograd and optimiser are called as SB3 calls them; ``None`` if that need not be.
        self.reason = None if policy is None else self._obstacle or self._reason()
        owners = owners_of(policy, self.parameters)
        device = self.parameters[0].device if self.parameters else None
        #: ``[2, P]``: which weight tensors are the actor's own and which the critic's.
        self.owned = th.tensor(
            [[float(owner == name) for owner in owners] for name in ("actor", "critic")], device=device
        )
        self._flat: FlatOptimizer | None = None
        #: The vectors of the update before: taken up again if nobody has touched what they show.
        self._kept: FlatOptimizer | None = None
        #: Whether it is known if this update's steps are taken in vectors.
        self.is_decided = False
        #: What to go back to if this update's steps turn out to have spoilt the weights; ``None`` before the first.
        self.undo: Undo | None = None
        #: Steps left out because float16 was too small for them.
        self.overflows = 0

    def _reason(self) -> str | None:
        stepped = {id(weight) for group in self.phase.optimizer.param_groups for weight in group["params"]}
        if not self.parameters:
            return "no weight is trained"
        if any(id(weight) not in stepped for weight in self.parameters):
            # SB3 never clears their gradients, and clips by the norm of all.
            return "the optimiser does not have all the weights"
        if not clears_gradients(self.phase.optimizer):
            return "the optimiser has a zero_grad of its own"
        return own_code_of(self.policy)

    def begin(self, phase: Phase) -> None:
        """Begin another update of the same weights and optimiser, or go on with one that was interrupted."""
        self.phase = phase
        self.is_decided = False

    def remember(self) -> None:
        """Keep what to go back to, once in an update, before its first step."""
        self.undo = self.undo or Undo(self.phase.optimizer, self._flat)

    def belongs_to(self, phase: Phase, fingerprint: Fingerprint) -> bool:
        """``False`` for a phase of another policy or optimiser, or one in which something was changed."""
        is_same = phase.trains == self.phase.trains and fingerprint.is_same(self._fingerprint)
        if not is_same or (listening_mode() or unusual_memory(self.parameters)) != self._obstacle:
            return False
        return Fingerprint.of_optimizer(phase.optimizer).is_same(self._optimizer_fingerprint)

    def take(self, loss: th.Tensor, place: str) -> th.Tensor:
        """One step down the gradient of a loss; norms of the gradient before it was clipped, see :meth:`norms`.

        The norm is the one of the whole gradient, actor and critic together: a large value error takes length away from
        the policy's step. It has nothing to do with the clip of the objective: that one removes the incentive to move
        ρ further, this one limits a gradient's length.

        :raises NonFiniteError: if loss or gradient is not finite; the weights are then as before.
        """
        check_loss(loss, place)
        return self._take(loss, place)

    def gradients_of(self, loss: th.Tensor) -> Sequence[th.Tensor | None]:
        """The gradient that :meth:`take` would follow, and no step; float16's is that of the scaled loss."""
        if self.scaler is not None:
            loss = self.scaler.scale(loss)
        if self.reason is None:
            return th.autograd.grad(loss, self.parameters, allow_unused=True)
        self.phase.optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        return [parameter.grad for parameter in self.parameters]

    def take_sum(self, loss: th.Tensor, gradients: Sequence[th.Tensor | None], place: str) -> th.Tensor:
        """One step down a gradient that several processes have found together, see :meth:`take`."""
        check_loss(loss, place)
        return self._take(gradients, place)

    def _take(self, source: th.Tensor | Sequence[th.Tensor | None], place: str) -> th.Tensor:
        if self.scaler is not None:
            return self._scaled_step(source, self.scaler, place)
        if self.reason is not None:
            return self._call_optimizer(source, place)
        if isinstance(source, th.Tensor):
            source = th.autograd.grad(source, self.parameters, allow_unused=True)
        return self.follow(source, place)

    def follow(self, gradients: Sequence[th.Tensor | None], place: str) -> th.Tensor:
        """One step down a gradient, ``None`` for a weight that has no part in the loss; norms of the gradient.

        :raises NonFiniteError: if the gradient is not finite; the weights are then as before.
        """
        if not self.is_decided:
            self._adopt(gradients)
        present = [gradient for gradient in gradients if gradient is not None]
        if self._flat is None or len(present) < len(self.parameters):
            return self._call_optimizer(gradients, place)
        with th.no_grad():
            return self.step_from_buffer(self.write_gradient(present), place)

    def write_gradient(self, gradients: list[th.Tensor]) -> th.Tensor:
        """Put a gradient into the vector that is stepped down; its norms."""
        flat: Any = self._flat
        th._foreach_copy_(flat.gradient.parts, gradients)
        return self.norms(*norms_of(flat.gradient.parts))

    def norms(self, parts: th.Tensor, norm: th.Tensor) -> th.Tensor:
        """Norms of a gradient by owner, ``[3]``: of all weights, of the actor's own, of the critic's own.

        :param parts: ``[P]``, norms of each weight tensor's gradient.
        :param norm: of all.
        """
        return th.cat((norm.reshape(1), th.sqrt(th.mv(self.owned, parts * parts))))

    def step_from_buffer(self, norms: th.Tensor, place: str) -> th.Tensor:
        """One step down the gradient that lies in the vector, without autograd; the same norms.

        :raises NonFiniteError: if the gradient is not finite; the weights are then as before.
        """
        flat: Any = self._flat
        length = _checked(norms[0], place)
        self.remember()
        if self.phase.max_grad_norm is not None:
            coefficient = clip_number(length, self.phase.max_grad_norm)
            if coefficient < 1.0:
                flat.gradient.vector.mul_(coefficient)
        flat.step()
        return norms

    @property
    def flat(self) -> FlatOptimizer | None:
        """The vectors, while there are any."""
        return self._flat

    def adopt_all(self) -> None:
        """Take weights and optimiser state into vectors before the first step, if the optimiser allows it."""
        self.is_decided = True
        self._take_over()

    def finish(self) -> None:
        """Bring the torch optimiser up to date: nobody else needs to know that its state was elsewhere."""
        if self._flat is not None:
            self._flat.give_back()
            self._flat, self._kept = None, self._flat

    def _adopt(self, gradients: Sequence[th.Tensor | None]) -> None:
        """Decide at the first step, when it is known which weights have a gradient at all."""
        self.is_decided = True
        if all(gradient is not None for gradient in gradients):
            self._take_over()

    def _take_over(self) -> None:
        optimizer = self.phase.optimizer
        if self._kept is not None and self._kept.is_current(optimizer, self.parameters):
            self._flat = self._kept
            self._show_gradients(self._kept)
            return
        rule = elementwise_of(optimizer, self.parameters)
        if rule is None:
            return
        self._flat = FlatOptimizer(optimizer, rule, self.parameters, self.is_exact)
        # Weights that are not trained any more have no gradient any more.
        optimizer.zero_grad()
        self._show_gradients(self._flat)

    def _show_gradients(self, flat: FlatOptimizer) -> None:
        for parameter, part in zip(self.parameters, flat.gradient.parts, strict=True):
            if parameter.grad is not part:
                parameter.grad = part

    def _scaled_step(self, source: Any, scaler: th.amp.GradScaler, place: str) -> th.Tensor:
        """Scale, backward, unscale, clip, step, update: the clip is on the true gradient, and an overflow skips the
        step and halves the scale. What is not finite without any scale is no overflow.
        """
        self.remember()
        optimizer = self.phase.optimizer
        self._fill_gradients(scaler.scale(source) if isinstance(source, th.Tensor) else source)
        scaler.unscale_(optimizer)
        parts = self._norms_of_all()
        norm = th.linalg.vector_norm(parts)
        if scaler.get_scale() <= 1.0 and not th.isfinite(norm):
            # Halved again and again, the scale would end at 0.
            scaler.update(1.0)
            raise NonFiniteError(f"gradient must be finite, got norm {norm.item()} {place}")
        if self.phase.max_grad_norm is not None:
            th.nn.utils.clip_grads_with_norm_(self.parameters, self.phase.max_grad_norm, norm)
        scaler.step(optimizer)
        scaler.update()
        if th.isfinite(norm):
            return self.norms(parts, norm)
        self.overflows += 1
        return parts.new_zeros(3)

    def _norms_of_all(self) -> th.Tensor:
        gradients = [parameter.grad for parameter in self.parameters]
        norms = iter(th._foreach_norm([gradient for gradient in gradients if gradient is not None]))
        nothing = th.zeros((), device=self.parameters[0].device)
        return th.stack([nothing if gradient is None else next(norms) for gradient in gradients])

    def _fill_gradients(self, source: Any) -> None:
        self.phase.optimizer.zero_grad()
        if isinstance(source, th.Tensor):
            source.backward()  # type: ignore[no-untyped-call]
            return
        for parameter, gradient in zip(self.parameters, source, strict=True):
            parameter.grad = gradient

    def _call_optimizer(self, source: Any, place: str) -> th.Tensor:
        """Step through the torch optimiser itself, from a loss or from gradients."""
        self.finish()
        self.remember()
        self._fill_gradients(source)
        # As SB3 does: whatever has a gradient, be it an old one of a weight that is not trained any more.
        having = [parameter for parameter in self.phase.parameters if parameter.grad is not None]
        parts, norm = norms_of([parameter.grad for parameter in having])  # type: ignore[misc]
        _checked(norm, place)
        if list(map(id, having)) != list(map(id, self.parameters)):
            parts = self._norms_of_all()
        if self.phase.max_grad_norm is not None:
            th.nn.utils.clip_grads_with_norm_(having, self.phase.max_grad_norm, norm)
        self.phase.optimizer.step()
        return self.norms(parts, norm)


def unusual_memory(parameters: Sequence[th.nn.Parameter]) -> str | None:
    """A reason to leave weights where they lie in memory, half a sentence: in a vector they would lie elsewhere, row by
    row.
    """
    for parameter in parameters:
        if not parameter.is_contiguous():
            return "a weight does not lie in memory row by row, and products of another layout round differently"
        if parameter.is_cpu and parameter.is_shared():  # type: ignore[no-untyped-call]
            return "weights are shared with other processes, which look at them where they lie"
    return None


def check_loss(loss: th.Tensor, place: str) -> None:
    """Refuse a loss that is not finite: a :class:`NonFiniteError` names value and place."""
    value = loss.item()
    if not math.isfinite(value):
        raise NonFiniteError(f"loss must be finite, got {value} {place}")


def _checked(norm: th.Tensor, place: str) -> float:
    length = norm.item()
    if not math.isfinite(length):
        raise NonFiniteError(f"gradient must be finite, got norm {length} {place}")
    return length


def clip_coefficient(norm: th.Tensor, max_grad_norm: float) -> th.Tensor:
    """Factor, at most 1, by which a gradient of this norm is shortened to the allowed length; 0-dimensional."""
    return th.clamp(max_grad_norm / (norm + 1e-6), max=1.0)


def clip_number(norm: float, max_grad_norm: float) -> float:
    """The same number as :func:`clip_coefficient`'s, without four operations on tensors of one element.

    In float32, and by way of the reciprocal: that is how torch divides a number by a tensor.
    """
    reciprocal = np.float32(1.0) / (np.float32(norm) + np.float32(1e-6))
    return min(float(reciprocal * np.float32(max_grad_norm)), 1.0)


def norms_of(gradients: list[th.Tensor]) -> tuple[th.Tensor, th.Tensor]:
    """Norm of each weight tensor's gradient, ``[P]``, and of all: the norm of the norms, the order of summation of
    ``torch.nn.utils.clip_grad_norm_``.
    """
    parts = th.stack(th._foreach_norm(gradients))
    return parts, th.linalg.vector_norm(parts)
