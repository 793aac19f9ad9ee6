"""The update: for each epoch, for each minibatch, evaluate, compute the loss, look at the KL, step, record."""

import dataclasses
import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch as th
from stable_baselines3.common.utils import obs_as_tensor, update_learning_rate

from sb3_ppo_notes.algorithms.learner import Learner
from sb3_ppo_notes.algorithms.loss import LossCoefficients, LossTerms, mean_kl, minibatch_loss, policy_part, value_part
from sb3_ppo_notes.algorithms.nonfinite import Safeguard, UpdateAbandoned
from sb3_ppo_notes.algorithms.optimizers import Phase
from sb3_ppo_notes.algorithms.probe import Probe
from sb3_ppo_notes.algorithms.record import UpdateRecord, Window
from sb3_ppo_notes.algorithms.report import Scale, UpdateReport, explained_variance_of
from sb3_ppo_notes.algorithms.scripted_steps import Known
from sb3_ppo_notes.algorithms.takers import compiled_steps, scripted_steps, steps_of
from sb3_ppo_notes.formulas.checks import NonFiniteError
from sb3_ppo_notes.policies.actor_critic import formulas_of, parameters_of
from sb3_ppo_notes.policies.fingerprint import Fingerprint
from sb3_ppo_notes.policies.modes import set_training_mode
from sb3_ppo_notes.policies.towers import TowerPass
from sb3_ppo_notes.rollouts.buffers import NotesRolloutBuffer
from sb3_ppo_notes.rules import EarlyStop, KLPenalty, UpdateRule


class Update:
    """One update in progress: learn from the rollout that was just gathered.

    :param learner: the algorithm; its policy's weights, ``_n_updates`` and ``rule_state`` change.
    :param rule: the choices, with every schedule resolved.
    :param coefficients: ent_coef, vf_coef and β.
    :param batch_size: samples in a minibatch, ``None`` for all in one.
    """

    def __init__(self, learner: Learner, rule: UpdateRule, coefficients: LossCoefficients, batch_size: int | None):
        self.learner = learner
        self.rule = rule
        self.coefficients = coefficients
        self.batch_size = batch_size
        self.record = UpdateRecord(getattr(rule.policy_objective, "clip_range", math.inf))
        self.safeguard = Safeguard(learner)

    def run(self, phases: Sequence[Phase]) -> UpdateReport:
        """Do it.

        :param phases: one for actor and critic together, or first one for the actor and then one for the critic.
        :return: what happened, in numbers.
        :raises NonFiniteError: if a loss, a gradient or a weight is not finite; the step is not taken, or undone.
        """
        if isinstance(self.learner.rollout_buffer, NotesRolloutBuffer):
            # A callback may have changed an argument since the rollout began.
            self.learner.rollout_buffer.rule = self.rule
            self.learner.rollout_buffer.lays_end_to_end = getattr(self.learner.policy, "can_forget", False)
        self.watchers = self.learner.watchers
        self.watchers.begin_update()
        is_probed = self.watchers.need_exact_kl
        self.probe = Probe.of(self.learner.policy, self.learner.rollout_buffer) if is_probed else None
        if self.rule.needs_exact_kl:
            self._remember_old_parameters()
        for self._place, phase in enumerate(phases):
            self._look(phase)
            try:
                self._run_phase(phase)
                self.safeguard.end()
            except UpdateAbandoned:
                self.record.forget()
                break
            finally:
                self.steps.finish()
            if self.record.update_is_stopped:
                break
        self.safeguard.conclude(len(self.record.norms))
        if not self.safeguard.is_undone:
            self._adapt_penalty()
        return self._update_report(phases[0])

    def _look(self, phase: Phase) -> None:
        """Look how policy and optimiser are made now, and decide how the steps are taken."""
        fingerprint = Fingerprint.of_policy(self.learner.policy)
        self.steps = steps_of(self.learner, phase, fingerprint)
        # Before anybody remembers what to go back to: compiled steps do when they begin.
        self.safeguard.begin(self.steps)
        self.compiled = compiled_steps(self.learner, self.steps, self.rule, self.coefficients, fingerprint)
        self.towers = self.steps.towers if self.compiled is None else None
        self.scripted = scripted_steps(self.learner, self.steps, self.towers, self.rule, self.coefficients)
        self.record.begin_phase(self.steps.owned, phase.max_grad_norm)

    def _tell(self, hook: str, report: UpdateReport) -> None:
        """Tell those who watch. They may change anything; what they have left alone goes on as if nobody had asked."""
        learner = self.learner
        self.steps.finish()
        self.watchers.tell(hook, report)
        set_training_mode(learner.policy, True)
        phase = learner._phases(self.rule)[self._place]
        if not self.steps.belongs_to(phase, Fingerprint.of_policy(learner.policy)):
            self._look(phase)
            return
        self.steps.begin(phase)
        if self.compiled is not None:
            self.compiled.resume()
        self.scripted = scripted_steps(learner, self.steps, self.towers, self.rule, self.coefficients)

    def _run_phase(self, phase: Phase) -> None:
        for epoch in range(phase.n_epochs):
            self.record.begin("epoch")
            if epoch > 0 and self.rule.computed == "every_epoch":
                self._recompute_advantages()
            goes_on = True
            if phase.trains == "critic":
                self._critic_epoch(phase, epoch)
            else:
                goes_on = self._epoch(phase, epoch)
            # SB3 counts epochs here, not optimiser steps, the one that was cut short included.
            self.learner._n_updates += 1
            self._show_epoch(phase, epoch)
            if not goes_on or self.record.update_is_stopped:
                break
            if phase.trains == "both" and self.record.policy_is_stopped:
                phase = dataclasses.replace(phase, trains="critic")

    def _epoch(self, phase: Phase, epoch: int) -> bool:
        """Go once through the rollout; whether another epoch may follow."""
        early_stop = self.rule.early_stop
        goes_on = True
        for number, minibatch in enumerate(self.learner.rollout_buffer.get(self.batch_size)):
            self.record.begin("minibatch")
            is_too_far = self._learn(minibatch, phase, epoch, number)
            self._show_minibatch(phase, epoch, number)
            if is_too_far:
                # The actor's own phase is over; any other scope is seen to by the record, or by the next epoch.
                goes_on = early_stop is None or early_stop.scope != "policy"
                break
        self.record.end_epoch(self._statistic_names())
        self._adapt_learning_rate(phase)
        if early_stop is None or early_stop.decided == "minibatch":
            return goes_on
        if self._is_too_far(early_stop, self.record.mean_kl(early_stop.estimator), epoch):
            goes_on = early_stop.scope != "policy" or phase.trains == "both"
        return goes_on

    def _learn(self, minibatch: Any, phase: Phase, epoch: int, number: int) -> bool:
        """Take a step; ``True`` if the KL has gone too far for one, and this epoch is over."""
        early_stop = self.rule.early_stop
        if self.record.policy_is_stopped:
            self._step(self._value_loss(minibatch), epoch, number)
            return False
        row = None if self.compiled is None else self.compiled.take(minibatch)
        if row is not None:
            self.record.add_row(row)
            return False
        # Eager, or compiled and not taken: whatever the reason was, it shows again here.
        known = None if self.scripted is None else self.scripted.run(minibatch)
        towers = None
        if known is not None:
            terms = known.terms
        else:
            if self.towers is not None:
                towers = self.towers.forward(minibatch.observations, getattr(minibatch, "recurrence", None))
            outputs = None if towers is None else towers.outputs
            terms = minibatch_loss(self.learner.policy, minibatch, self.rule, self.coefficients, outputs)
        self.record.add_minibatch(terms, None if known is None else known.statistics)
        if (
            early_stop
            and early_stop.decided == "minibatch"
            and self._is_too_far(early_stop, mean_kl(early_stop.estimator, terms), epoch)
        ):
            if early_stop.scope == "policy" and phase.trains == "both":
                self._step(self._value_loss(minibatch), epoch, number)
                return False
            return True
        loss = terms.loss if phase.trains == "both" else policy_part(terms, self.coefficients)
        self._step(loss, epoch, number, towers, terms, known)
        return False

    def _critic_epoch(self, phase: Phase, epoch: int) -> None:
        for number, minibatch in enumerate(self.learner.rollout_buffer.get(self.batch_size)):
            self.record.begin("minibatch")
            self._step(self._value_loss(minibatch), epoch, number)
            self._show_minibatch(phase, epoch, number)
        self.record.end_epoch()

    def _statistic_names(self) -> Sequence[str]:
        return () if self.compiled is None else self.compiled.statistic_names

    def _value_loss(self, minibatch: Any) -> th.Tensor:
        return value_part(self.learner.policy, minibatch, self.rule, self.coefficients)

    def _step(
        self,
        loss: th.Tensor,
        epoch: int,
        number: int,
        towers: TowerPass | None = None,
        terms: LossTerms | None = None,
        known: Known | None = None,
    ) -> None:
        place = f"in epoch {epoch}, minibatch {number} of the update at step {self.learner.num_timesteps}"
        try:
            steps = self.steps
            norm = steps.take(loss, place, towers) if known is None else steps.take_shown(*known[1:4], place)
            self.record.add_gradient(norm)
        except NonFiniteError as error:
            self.safeguard.meet(error, loss, terms)
            if terms is not None:
                self.record.drop_minibatch()

    # -- what is reported ----------------------------------------------------------------------------------------

    def _report(self, window: Window, phase: Phase, **known: Any) -> UpdateReport:
        learner = self.learner
        return self.record.report(
            window,
            n_updates=learner._n_updates,
            num_timesteps=learner.num_timesteps,
            learning_rate=phase.optimizer.param_groups[0]["lr"],
            **{"explained_variance": math.nan} | known,
        )

    def _show_minibatch(self, phase: Phase, epoch: int, number: int) -> None:
        if self.watchers.want("on_minibatch"):
            self.record.end_minibatch(self._statistic_names())
            self._tell("on_minibatch", self._report("minibatch", phase, epoch=epoch, minibatch=number))

    def _show_epoch(self, phase: Phase, epoch: int) -> None:
        if self.probe is not None and phase.trains != "critic":
            self.record.kl_after.append(self.probe.kl())
        if self.watchers.want("on_epoch"):
            self._tell("on_epoch", self._report("epoch", phase, epoch=epoch))

    def _update_report(self, phase: Phase) -> UpdateReport:
        buffer = self.learner.rollout_buffer
        scales = {}
        if self.watchers.want("on_update"):
            scales = {name: Scale.of(getattr(buffer, name)) for name in ("advantages", "values", "returns")}
        return self._report("update", phase, explained_variance=explained_variance_of(buffer), **scales)

    # -- KL control -------------------------------------------------------------------------------------------

    def _is_too_far(self, early_stop: EarlyStop, kl: np.float32, epoch: int) -> bool:
        if not early_stop.is_exceeded_by(kl):
            return False
        self.record.stopped_in_epoch = epoch
        limit = early_stop.factor * early_stop.target
        self.record.stop_reason = f"KL {kl:.3g} > {limit:.3g} nats ({early_stop.estimator}) in epoch {epoch}"
        self.record.policy_is_stopped = early_stop.scope == "policy"
        self.record.update_is_stopped = early_stop.scope == "update"
        if self.learner.verbose >= 1:
            print(f"Early stopping at step {epoch} due to reaching max kl: {kl:.2f}")
        return True

    def _adapt_learning_rate(self, phase: Phase) -> None:
        control = self.rule.adaptive_learning_rate
        if control is None:
            return
        kl = float(self.record.mean_kl(control.estimator))
        optimizer = self.steps.phase.optimizer
        learning_rate = control.next_learning_rate(optimizer.param_groups[0]["lr"], kl)
        update_learning_rate(optimizer, learning_rate)
        self.learner.rule_state = dataclasses.replace(self.learner.rule_state, learning_rate=learning_rate)

    def _adapt_penalty(self) -> None:
        """batch-ppo and the paper measure the KL after the last step, over the whole rollout."""
        objective, buffer = self.rule.policy_objective, self.learner.rollout_buffer
        if not isinstance(objective, KLPenalty) or not isinstance(buffer, NotesRolloutBuffer):
            return
        formulas = formulas_of(self.learner.policy)
        divergences = formulas.kl(buffer.old_parameters, self._parameters_of_rollout())  # type: ignore[union-attr, arg-type]
        coefficient = objective.next_coefficient(self.coefficients.kl_coef, divergences.mean().item())
        self.learner.rule_state = dataclasses.replace(self.learner.rule_state, kl_coef=coefficient)

    # -- the whole rollout ------------------------------------------------------------------------------------

    def _remember_old_parameters(self) -> None:
        """Nothing has been stepped yet: what the policy says now is what it said while the rollout was gathered."""
        self.learner.rollout_buffer.old_parameters = self._parameters_of_rollout()  # type: ignore[attr-defined]

    def _parameters_of_rollout(self) -> tuple[th.Tensor, ...]:
        """Of every state in the rollout, in flat order, and as while it was gathered: without dropout."""
        policy, buffer = self.learner.policy, self.learner.rollout_buffer
        policy.set_training_mode(False)
        portions = list(buffer.portions(self.batch_size or 4096))  # type: ignore[attr-defined]
        chunks = [parameters_of(policy, part.observations, part.action_masks, part.recurrence) for part in portions]
        policy.set_training_mode(True)
        back = th.argsort(th.cat([part.rows for part in portions]))
        return tuple(th.cat(parts)[back] for parts in zip(*chunks, strict=True))

    def _recompute_advantages(self) -> None:
        policy = self.learner.policy

        def value_of(observations: Any) -> np.ndarray:
            with th.no_grad():
                values: np.ndarray = (
                    policy.predict_values(obs_as_tensor(observations, self.learner.device)).cpu().numpy()
                )
            return values.reshape(-1)

        policy.set_training_mode(False)
        self.learner.rollout_buffer.recompute(value_of)  # type: ignore[attr-defined]
        policy.set_training_mode(True)
