"""One step of many shards: each differentiates the loss of its own rows, and all step down the gradient of the whole.

Everything that anybody decides about a step is decided on sums that are the same, to the bit, in every process: the KL
limit, the clip of the norm, whether a number is finite. So all take the step or none does, and nobody waits for ever.
"""

from typing import Any

import torch as th

from sb3_ppo_notes.engine.descent import Descent, Trains
from sb3_ppo_notes.engine.step import EagerStepper, Part, Step, StepNotFinite, StepSettings, kl_beyond_limit
from sb3_ppo_notes.engine.vectors import FlatVector
from sb3_ppo_notes.formulas.checks import InvalidValueError, NonFiniteError
from sb3_ppo_notes.processes.shards import Shards, sum_in_order
from sb3_ppo_notes.rollouts.sharding import ShardedMinibatch
from sb3_ppo_notes.rules.loss import LOSSES


class ReducedStepper:
    """Any stepper, on minibatches that are spread over shards.

    :param inner: differentiates and steps.
    """

    def __init__(self, inner: EagerStepper, shards: Shards):
        self.inner = inner
        self.shards = shards
        self.layout = FlatVector(inner.descent.parameters)
        self.n_present = len(self.layout.shapes)
        #: Numbers of a part that are summed: the gradient, the losses, the differentiated loss, and which weights have
        #: a gradient at all.
        self.n_sums = self.layout.vector.shape[0] + len(LOSSES) + 1 + self.n_present
        self._zeros = self.layout.vector.new_zeros(len(LOSSES))
        self._ones = self.layout.vector.new_ones(self.n_present)

    @property
    def descent(self) -> Descent:
        """Takes the steps."""
        return self.inner.descent

    def begin(self, settings: StepSettings) -> None:
        """Begin an update."""
        self.settings = settings
        self.inner.begin(settings)

    def resume(self, settings: StepSettings) -> None:
        """Go on with an update after somebody else may have changed weights and optimiser."""
        self.settings = settings
        self.inner.resume(settings)

    def step(self, minibatch: ShardedMinibatch, trains: Trains, place: str) -> Step:
        """Learn from one minibatch of all shards: the step of one process that has all the rows, to rounding."""
        if not isinstance(minibatch, ShardedMinibatch):
            raise InvalidValueError(
                "rollout_buffer must be a NotesRolloutBuffer whose samples nobody has changed, with several processes, "
                f"got minibatches of {type(minibatch).__name__}"
            )
        before, flat = self._gradient_before(), self.descent.flat
        packed = []
        for part, generator in zip(minibatch.parts, self.shards.generators, strict=True):
            with generator.drawing():  # dropout
                packed.append(self._packed(part, minibatch, trains))
        parts = self.shards.gather_vectors(packed)
        whole = self._sum(parts, minibatch, trains)
        if whole.losses is not None:
            exact = whole.losses[4] if self.settings.rule.needs_exact_kl else None
            kl = kl_beyond_limit(self.settings.kl_limit, whole.log_ratio, exact)
            if kl is not None:
                if before is not None and self.descent.flat is flat:
                    flat.gradient.vector.copy_(before)  # type: ignore[union-attr]
                return Step(whole.losses, whole.log_ratio, None, "kl", kl)
        try:
            norms = self.inner.take_sum(whole, place)
        except NonFiniteError as error:
            raise StepNotFinite(f"{error}, {self._culprits(parts)}", whole.loss, whole.losses) from None
        return Step(whole.losses, whole.log_ratio, norms)

    def end(self) -> bool:
        """End the phase."""
        return self.inner.end()

    def _gradient_before(self) -> th.Tensor | None:
        """Where no step is taken, the gradient of the last one that was is left, as by SB3."""
        flat = self.descent.flat
        return None if self.settings.kl_limit is None or flat is None else flat.gradient.vector.clone()

    def _packed(self, minibatch: Any, whole: ShardedMinibatch, trains: Trains) -> th.Tensor:
        """What a shard sends to all others, in one vector: its gradient and losses times its share of the rows, which
        weights have a gradient, and its log-ratios. Zeros from a shard that has no rows left.
        """
        n_longest = max(whole.sizes)
        if minibatch is None:
            return self.layout.vector.new_zeros(self.n_sums + n_longest)
        part, n_rows = self.inner.part(minibatch, trains), minibatch.returns.shape[0]
        losses = self._zeros if part.losses is None else part.losses
        vector = self._joined(part) if part.vector is None else part.vector
        scaled = th.cat((vector, losses, self._zeros[: len(LOSSES) - losses.shape[0]], part.loss.reshape(1)))
        scaled *= n_rows / sum(whole.sizes)
        log_ratio = vector.new_zeros(n_rows) if part.log_ratio is None else part.log_ratio
        rows = (scaled, self._present(part), log_ratio)
        return th.cat(rows if n_rows == n_longest else (*rows, vector.new_zeros(n_longest - n_rows)))

    def _joined(self, part: Part) -> th.Tensor:
        pairs = zip(part.gradients or (), self.layout.parts, strict=True)
        return self.layout.joined([zero if gradient is None else gradient for gradient, zero in pairs])

    def _present(self, part: Part) -> th.Tensor:
        if part.gradients is None:
            return self._ones
        return self._ones.new_tensor([float(gradient is not None) for gradient in part.gradients])

    def _sum(self, parts: th.Tensor, minibatch: ShardedMinibatch, trains: Trains) -> Part:
        """Loss and gradient of the whole minibatch, from the vectors of all shards."""
        sums = sum_in_order(parts[:, : self.n_sums])
        n_weights = self.layout.vector.shape[0]
        vector, losses, loss = sums[:n_weights], sums[n_weights : n_weights + len(LOSSES)], sums[-self.n_present - 1]
        present = sums[-self.n_present :].tolist()
        gradients: list[th.Tensor | None] | None = None
        if not all(present):
            pairs = zip(self.layout.split(vector), present, strict=True)
            gradients = [gradient if each else None for gradient, each in pairs]
        together = None if gradients else vector
        if trains == "critic":
            return Part(None, None, loss, gradients, together)
        n_losses = len(LOSSES) if self.settings.rule.needs_exact_kl else len(LOSSES) - 1
        log_ratios = parts[:, self.n_sums :]
        if len(set(minibatch.sizes)) > 1:
            log_ratio = th.cat([each[:size] for each, size in zip(log_ratios, minibatch.sizes, strict=True)])
        else:
            log_ratio = log_ratios.flatten().clone()  # the others' memory is written to again
        return Part(losses[:n_losses], log_ratio, loss, gradients, together)

    def _culprits(self, parts: th.Tensor) -> str:
        is_finite = parts.isfinite().all(1).tolist()
        bad = [str(number) for number, each in enumerate(is_finite) if not each]
        return f"from shard {' and '.join(bad) or 'no one alone'} of {len(is_finite)}"
