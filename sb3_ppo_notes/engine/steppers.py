"""Faster ways to the step of :class:`~sb3_ppo_notes.engine.step.EagerStepper`."""

from typing import Any

import torch as th

from sb3_ppo_notes.engine.compiled_steps import CompiledSteps
from sb3_ppo_notes.engine.descent import Descent, Trains, check_loss
from sb3_ppo_notes.engine.plain_networks import TowerPass, Towers
from sb3_ppo_notes.engine.recorded import Recorder
from sb3_ppo_notes.engine.step import EagerStepper, Step, StepNotFinite, StepSettings, kl_beyond_limit, policy_loss
from sb3_ppo_notes.formulas.checks import NonFiniteError
from sb3_ppo_notes.rules.loss import LossTerms


class PlainNetworksStepper(EagerStepper):
    """The same bits where both networks are plain stacks of layers: forward and backward without autograd.

    :param networks: the policy's.
    :param descent: clips the gradient and steps the optimiser.
    """

    def __init__(self, networks: Towers, descent: Descent):
        super().__init__(networks.policy, descent)
        self.networks = networks
        self._forward: TowerPass | None = None

    def evaluate(self, minibatch: Any) -> LossTerms:
        """The loss of a minibatch.

        :param minibatch: of the rollout.
        :return: with its graph down to the networks' outputs.
        """
        self._forward = self.networks.forward(minibatch.observations, getattr(minibatch, "recurrence", None))
        return policy_loss(self.policy, minibatch, *self.settings, self._forward.outputs)

    def descend(self, loss: th.Tensor, terms: LossTerms | None, place: str) -> th.Tensor:
        """One step down the gradient of a loss.

        :param loss: scalar, with its graph.
        :param terms: what it is made of; ``None`` for the critic's alone.
        :param place: where in the training this is, for errors.
        :return: ``[3]``, norms of the gradient.
        """
        if terms is None or self._forward is None:
            return super().descend(loss, terms, place)
        try:
            check_loss(loss, place)
            return self.descent.follow(self._forward.gradients(loss, self.descent.parameters), place)
        except NonFiniteError as error:
            raise StepNotFinite(str(error), loss, terms) from None


class RecordedStepper(PlainNetworksStepper):
    """The same bits from recorded operations, without Python between them.

    :param networks: the policy's.
    :param descent: clips the gradient and steps the optimiser.
    """

    def __init__(self, networks: Towers, descent: Descent):
        super().__init__(networks, descent)
        self.recorder = Recorder(descent, networks)
        #: Our functions, as they were when learning began; set by the engine.
        self.source: tuple[Any, ...] = ()
        self._n_eager = self._n_recorded = 0

    @property
    def name(self) -> str:  # type: ignore[override]
        """How most minibatches of this update were carried out."""
        return "recorded" if self._n_recorded > self._n_eager else "eager"

    def begin(self, settings: StepSettings) -> None:
        """Begin an update.

        :param settings: of all its steps.
        """
        super().begin(settings)
        self.recorder.begin(settings, self.source)
        self._n_eager = self._n_recorded = 0

    def step(self, minibatch: Any, trains: Trains, place: str) -> Step:
        """Learn from one minibatch.

        :param minibatch: of the rollout.
        :param trains: what the step trains.
        :param place: where in the training this is, for errors.
        :return: what it gave.
        """
        # Where no step is taken, the gradient of the last one that was is left, as by SB3.
        limit, flat = self.settings.kl_limit, self.descent.flat
        before = None if limit is None or flat is None else flat.gradient.vector.clone()
        recorded = None if trains == "critic" else self.recorder.differentiate(minibatch)
        if recorded is None:
            self._n_eager += trains != "critic"
            return super().step(minibatch, trains, place)
        self._n_recorded += 1
        terms, loss, norms = recorded
        kl = kl_beyond_limit(limit, terms)
        if kl is not None:
            if before is not None and self.descent.flat is flat:
                flat.gradient.vector.copy_(before)  # type: ignore[union-attr]
            return Step(terms, None, "kl", kl)
        try:
            check_loss(loss, place)
            return Step(terms, self.descent.step_from_buffer(norms, place))
        except NonFiniteError as error:
            raise StepNotFinite(str(error), loss, terms) from None


class CompiledStepper(EagerStepper):
    """Evaluation, loss, gradient, clip and optimiser as one compiled function: the same to rounding.

    What it does not take is taken eagerly: a ragged last minibatch, and one that must be refused, where the eager step
    says why.

    :param compiled: the compiled steps.
    """

    def __init__(self, compiled: CompiledSteps):
        super().__init__(compiled.compiler.policy, compiled.steps)
        self.compiled = compiled

    def begin(self, settings: StepSettings) -> None:
        """Begin an update.

        :param settings: of all its steps.
        """
        super().begin(settings)
        self.compiled.begin(*settings)

    def resume(self, settings: StepSettings) -> None:
        """Go on with an update: a minibatch smaller than its first one stays eager.

        :param settings: as before.
        """
        self.compiled.resume()

    def step(self, minibatch: Any, trains: Trains, place: str) -> Step:
        """Learn from one minibatch.

        :param minibatch: of the rollout.
        :param trains: what the step trains.
        :param place: where in the training this is, for errors.
        :return: what it gave.
        """
        taken = None if trains == "critic" else self.compiled.take(minibatch)
        if taken is None:
            self.name = "eager" if self.compiled.compiler.reason else self.name
            return super().step(minibatch, trains, place)
        self.name = "compiled"
        return Step(*taken)
