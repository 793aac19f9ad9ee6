"""Who takes the steps of a phase: kept from one update to the next, as long as weights and optimiser are the same."""

import torch as th

from sb3_ppo_notes.algorithms.compiled_steps import CompiledSteps
from sb3_ppo_notes.algorithms.learner import Learner
from sb3_ppo_notes.algorithms.loss import LossCoefficients
from sb3_ppo_notes.algorithms.optimizers import Phase
from sb3_ppo_notes.algorithms.scripted_recurrent import ScriptedRecurrentSteps
from sb3_ppo_notes.algorithms.scripted_steps import ScriptedSteps, own_choice_of
from sb3_ppo_notes.algorithms.stepping import GradientSteps
from sb3_ppo_notes.policies.fingerprint import Fingerprint
from sb3_ppo_notes.policies.recurrent import NotesRecurrentPolicy
from sb3_ppo_notes.policies.towers import Towers
from sb3_ppo_notes.rollouts.buffers import NotesRolloutBuffer
from sb3_ppo_notes.rules import UpdateRule


def steps_of(learner: Learner, phase: Phase, fingerprint: Fingerprint) -> GradientSteps:
    """The eager steps of a phase, begun: those of before, if nothing of policy and optimiser has been changed since.

    :param learner: the algorithm, which keeps them.
    :param phase: of the update about to begin.
    :param fingerprint: of the policy now.
    :return: ready for the first step.
    """
    kept = learner.gradient_steps.get(phase.trains)
    if kept is None or not kept.belongs_to(phase, fingerprint):
        scaler = None if kept is None else kept.scaler
        policy = learner.policy
        kept = GradientSteps(phase, getattr(policy, "equals_stock", True), policy, fingerprint)
        learner.gradient_steps[phase.trains] = kept
        if learner.precision == "float16":
            kept.scaler = scaler or th.amp.GradScaler(learner.device.type)
    kept.begin(phase)
    return kept


def compiled_steps(
    learner: Learner,
    steps: GradientSteps,
    rule: UpdateRule,
    coefficients: LossCoefficients,
    fingerprint: Fingerprint,
) -> CompiledSteps | None:
    """The compiled steps of the same phase.

    :param learner: the algorithm.
    :param steps: the eager ones.
    :param rule: the choices, with every schedule resolved.
    :param coefficients: ent_coef, vf_coef and β.
    :param fingerprint: of the policy now.
    :return: ``None`` if there are none.
    """
    compiler, is_ours = learner.compiler, isinstance(learner.rollout_buffer, NotesRolloutBuffer)
    if compiler is None or steps.phase.trains == "critic" or not is_ours or compiler.policy is not learner.policy:
        return None
    compiler.look(fingerprint)
    reason = steps.reason or own_choice_of(rule)
    if compiler.reason is None and reason is not None:
        compiler.give_up(reason)
    if compiler.reason is not None:
        return None
    found = compiler.steps_of(steps)
    found.begin(rule, coefficients)
    return found


def scripted_steps(
    learner: Learner, steps: GradientSteps, towers: Towers | None, rule: UpdateRule, coefficients: LossCoefficients
) -> ScriptedSteps | None:
    """Losses and gradients of the same phase without Python.

    :param learner: the algorithm.
    :param steps: the eager ones, which keep them.
    :param towers: the policy's networks, ``None`` if they are not two plain stacks, or are compiled.
    :param rule: the choices, with every schedule resolved.
    :param coefficients: ent_coef, vf_coef and β.
    :return: ``None`` if there are none.
    """
    if towers is None or steps.phase.trains == "critic" or not isinstance(learner.rollout_buffer, NotesRolloutBuffer):
        return None
    if steps.scripted is None:
        is_recurrent = isinstance(learner.policy, NotesRecurrentPolicy)
        steps.scripted = (ScriptedRecurrentSteps if is_recurrent else ScriptedSteps)(steps)
    found: ScriptedSteps = steps.scripted
    found.begin(towers, rule, coefficients, learner.sources)
    return found
