"""One step of many shards: each differentiates the loss of its own rows, and all step down the gradient of the whole.

Everything that anybody decides about a step is decided on sums that are the same, to the bit, in every process: the KL
limit, the clip of the norm, whether a number is finite. So all take the step or none does, and nobody waits for ever.
"""

from typing import Any

import torch as th

from sb3_ppo_notes.engine.descent import Descent, Trains
from sb3_ppo_notes.engine.step import EagerStepper, Part, Step, StepNotFinite, StepSettings, kl_beyond_limit
from sb3_ppo_notes.engine.vectors import FlatVector
from sb3_ppo_notes.formulas.checks import NonFiniteError
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
            norms = self.descent.take_sum(whole.loss, whole.gradients, place)
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
        """All that the others are told of a shard's rows: gradient and losses by their share of the whole, which
        weights have a gradient, the log-ratios. A shard whose rows have run out adds nothing.
        """
        vector = self.layout.vector
        n_longest = max(whole.sizes)
        if minibatch is None:
            return vector.new_zeros(self._n_sums + n_longest)
        part = self.inner.part(minibatch, trains)
        losses = vector.new_zeros(len(LOSSES)) if part.losses is None else part.losses
        n_rows = len(minibatch.returns)
        log_ratio = vector.new_zeros(n_rows) if part.log_ratio is None else part.log_ratio
        scaled = (self._joined(part), losses, vector.new_zeros(len(LOSSES) - len(losses)), part.loss.reshape(1))
        present = vector.new_tensor([float(each is not None) for each in part.gradients])
        share = n_rows / sum(whole.sizes)
        return th.cat((th.cat(scaled) * share, present, log_ratio, vector.new_zeros(n_longest - n_rows)))

    @property
    def _n_sums(self) -> int:
        return len(self.layout.vector) + len(LOSSES) + 1 + len(self.layout.shapes)

    def _joined(self, part: Part) -> th.Tensor:
        if part.vector is not None:
            return part.vector
        pairs = zip(part.gradients, self.layout.parts, strict=True)
        return self.layout.joined([zero if gradient is None else gradient for gradient, zero in pairs])

    def _sum(self, parts: th.Tensor, minibatch: ShardedMinibatch, trains: Trains) -> Part:
        """The whole minibatch's loss and gradient, from what all shards have told."""
        n_sums, n_weights = self._n_sums, len(self.layout.vector)
        sums = sum_in_order(parts[:, :n_sums])
        losses, (loss, *present) = sums[n_weights:][: len(LOSSES)], sums[n_weights + len(LOSSES) :]
        pairs = zip(self.layout.split(sums[:n_weights]), th.stack(present).tolist(), strict=True)
        gradients = [gradient if is_present else None for gradient, is_present in pairs]
        if trains == "critic":
            return Part(None, None, loss, gradients)
        n_losses = len(LOSSES) if self.settings.rule.needs_exact_kl else len(LOSSES) - 1
        rows = [each[n_sums : n_sums + size] for each, size in zip(parts, minibatch.sizes, strict=True)]
        return Part(losses[:n_losses], th.cat(rows), loss, gradients)

    def _culprits(self, parts: th.Tensor) -> str:
        is_finite = parts.isfinite().all(1).tolist()
        bad = [str(number) for number, each in enumerate(is_finite) if not each]
        return f"from shard {' and '.join(bad) or 'no one alone'} of {len(is_finite)}"
