"""One update of PPO or A2C: from a rollout to a better policy."""

import dataclasses
import math
from collections.abc import Sequence
from typing import Any

from stable_baselines3.common.utils import update_learning_rate

from sb3_ppo_notes.algorithms.kl_control import KLControl
from sb3_ppo_notes.algorithms.metrics import Metrics, Window
from sb3_ppo_notes.algorithms.probe import Probe
from sb3_ppo_notes.algorithms.report import UpdateReport, rollout_measures
from sb3_ppo_notes.engine import Phase, Stepper, StepSettings
from sb3_ppo_notes.rollouts import minibatches_of, reevaluation
from sb3_ppo_notes.rules import KLPenalty, UpdateRule
from sb3_ppo_notes.rules.loss import LossCoefficients


class Update:
    """Learns from the rollout that was just gathered (arXiv:1707.06347, algorithm 1, from "Optimize surrogate L").

    :param model: NotesPPO or NotesA2C; its policy's weights, ``_n_updates`` and ``rule_state`` change.
    :param rule: the choices, with every schedule resolved.
    :param coefficients: ent_coef, vf_coef and β (``kl_coef``).
    :param batch_size: samples in a minibatch, ``None`` for all in one.
    """

    def __init__(self, model: Any, rule: UpdateRule, coefficients: LossCoefficients, batch_size: int | None):
        self.model, self.policy, self.rollout = model, model.policy, model.rollout_buffer
        self.rule, self.coefficients, self.batch_size = rule, coefficients, batch_size
        self.metrics = Metrics(getattr(rule.policy_objective, "clip_range", math.inf))
        self.minibatches = minibatches_of(self.rollout, rule, batch_size)
        self.control = KLControl(rule, model.verbose)
        self.rule_state = model.rule_state  # adapted β and learning rate; the model's only once the update stands
        self.probe = Probe.of(self.policy, self.rollout) if model.watchers.need_exact_kl else None

    def run(self, phases: Sequence[Phase]) -> UpdateReport:
        """Learn.

        :param phases: one for actor and critic together, or first one for the actor and then one for the critic.
        :return: what happened, in numbers.
        :raises NonFiniteError: by the engine, if a loss, a gradient or a weight is not finite and is not to be skipped.
        """
        if self.rule.needs_exact_kl:
            reevaluation.store_old_distribution(self.rollout, self.policy, self.batch_size)  # π_old, before it moves
        self.model.engine.begin_update()
        for phase in phases:
            self.phase = phase
            stepper = self.model.engine.stepper(self.phase)
            stepper.begin(StepSettings(self.rule, self.coefficients))
            self.metrics.begin_phase(self.phase.max_grad_norm)
            self._optimize(stepper)
            if not stepper.end():  # NaN, and rolled back: the weights are as before, nothing of this update counts
                self.metrics.abandon()
                return self._update_report(phases[0])
            if self.control.update_is_over:
                break
        self._adapt_kl_coef()
        self.model.rule_state = self.rule_state
        return self._update_report(phases[0])

    def _optimize(self, stepper: Stepper) -> None:
        for epoch in range(self.phase.n_epochs):
            self.metrics.begin_epoch()
            if epoch > 0 and self.rule.computed == "every_epoch":
                reevaluation.recompute_advantages(self.rollout, self.policy)
            part = self.control.part_to_train(self.phase.trains)  # as the epoch begins; a stop within it may change it
            if not self._learn_epoch(stepper, epoch):
                return
            self.metrics.end_epoch()
            if part != "critic":
                self._adapt_learning_rate()
                self._stop_after(epoch)
            # SB3 counts epochs here, not optimiser steps, the one that was cut short included.
            self.model._n_updates += 1
            self._report_epoch(epoch, part)
            if self.control.phase_is_over(self.phase.trains):
                break

    def _learn_epoch(self, stepper: Stepper, epoch: int) -> bool:
        """Go once through the rollout; ``False`` if the update was rolled back."""
        for number, minibatch in enumerate(self.minibatches.epoch()):
            place = f"in epoch {epoch}, minibatch {number} of the update at step {self.model.num_timesteps}"
            # Evaluate, PPO eq. 9 with min(ρ·Â, clip(ρ)·Â), KL limit, gradient, its norm clipped: engine/step.py
            step = stepper.step(minibatch, self.control.part_to_train(self.phase.trains), place)
            self.metrics.add(step)
            if step.refused == "rolled back":
                return False
            epoch_is_over = False
            if step.refused == "kl":  # the policy has gone too far, and no step was taken
                self.control.note_stop(step.kl, epoch)
                epoch_is_over = self.control.part_to_train(self.phase.trains) != "critic"
                if not epoch_is_over:  # the policy rests, the critic learns on
                    self.metrics.add(stepper.step(minibatch, "critic", place))
            self._report_minibatch(epoch, number)
            if epoch_is_over:
                break
        return True

    def _adapt_learning_rate(self) -> None:
        adaptive = self.rule.adaptive_learning_rate
        if adaptive is not None:
            kl = float(self.metrics.mean_kl(adaptive.estimator))
            learning_rate = adaptive.next_learning_rate(self.phase.optimizer.param_groups[0]["lr"], kl)
            update_learning_rate(self.phase.optimizer, learning_rate)
            self.rule_state = dataclasses.replace(self.rule_state, learning_rate=learning_rate)

    def _stop_after(self, epoch: int) -> None:
        stop = self.rule.early_stop
        if stop is not None and stop.decided == "epoch" and stop.is_exceeded_by(self.metrics.mean_kl(stop.estimator)):
            self.control.note_stop(self.metrics.mean_kl(stop.estimator), epoch)

    def _adapt_kl_coef(self) -> None:
        objective = self.rule.policy_objective
        if isinstance(objective, KLPenalty):
            kl = reevaluation.mean_kl_from_old(self.rollout, self.policy, self.batch_size)
            kl_coef = objective.next_coefficient(self.coefficients.kl_coef, kl)
            self.rule_state = dataclasses.replace(self.rule_state, kl_coef=kl_coef)

    def _report(self, window: Window, **others: Any) -> UpdateReport:
        return self.metrics.report(
            window,
            n_updates=self.model._n_updates,
            num_timesteps=self.model.num_timesteps,
            stopped_in_epoch=self.control.stopped_in_epoch,
            stop_reason=self.control.reason,
            **{"explained_variance": math.nan, "learning_rate": self.phase.optimizer.param_groups[0]["lr"]} | others,
        )

    def _report_minibatch(self, epoch: int, number: int) -> None:
        if self.model.watchers.want("on_minibatch"):
            self.metrics.read()
            self._tell("on_minibatch", self._report("minibatch", epoch=epoch, minibatch=number))

    def _report_epoch(self, epoch: int, part: str) -> None:
        if self.probe is not None and part != "critic":
            self.metrics.kl_after.append(self.probe.kl())
        if self.model.watchers.want("on_epoch"):
            self._tell("on_epoch", self._report("epoch", epoch=epoch))

    def _tell(self, hook: str, report: UpdateReport) -> None:
        self.phase = self.model.tell(hook, report, self.phase)

    def _update_report(self, phase: Phase) -> UpdateReport:
        measures = rollout_measures(self.rollout, with_scales=self.model.watchers.want("on_update"))
        return self._report("update", learning_rate=phase.optimizer.param_groups[0]["lr"], **measures)
