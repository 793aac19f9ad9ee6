"""The function that is compiled, one step of one minibatch: policy, distribution, rule, gradient, norm clip, optimiser.

It is the very loss of ``rules.loss`` and the very optimiser of ``formulas.optimizers``, executed otherwise. Sums are
taken in another order than in eager code, so the weights agree to rounding and not to the bit.
"""

import copy
import math
from collections.abc import Callable, Sequence
from typing import Any

import torch as th
from stable_baselines3.common.policies import ActorCriticPolicy
from torch.func import functional_call

from sb3_ppo_notes.engine.descent import Phase, clip_coefficient
from sb3_ppo_notes.engine.gradient import MinibatchLayout, loss_and_gradient
from sb3_ppo_notes.engine.optimizers import Elementwise
from sb3_ppo_notes.engine.step import evaluate_loss
from sb3_ppo_notes.engine.vectors import FlatVector
from sb3_ppo_notes.policies.parameters import owners_of
from sb3_ppo_notes.rules import UpdateRule
from sb3_ppo_notes.rules.kl_control import SAMPLE_ESTIMATORS
from sb3_ppo_notes.rules.loss import LossCoefficients, LossTerms

#: Numbers of a rule that a schedule may change: arguments of the compiled function, everything else is fixed in it.
SCHEDULED = ("clip_range", "clip_range_vf")


class FusedStep:
    """Loss, gradient, clip and optimiser as a function of tensors."""

    def __init__(self, policy: ActorCriticPolicy, phase: Phase, rule: UpdateRule, coefficients: LossCoefficients):
        self.policy = policy
        self.phase = phase
        self.rule = rule
        self.has_bonus = coefficients.has_bonus
        trained = [parameter for parameter in phase.parameters if parameter.requires_grad]
        # Laid out here: the first weight would be recorded as a constant.
        self.layout = FlatVector(trained)
        names = {id(parameter): name for name, parameter in policy.named_parameters()}
        self.names = [names[id(parameter)] for parameter in trained]
        self.other_names = [name for name in tensors_of(policy) if name not in self.names]
        self.early_stop = rule.early_stop if rule.early_stop and rule.early_stop.decided == "minibatch" else None

    def key(self, optimizer: tuple[Elementwise, Any] | None) -> Any:
        """Everything that the code depends on, the shapes aside.

        :param optimizer: how the weights are stepped, ``None`` if the code stops at the gradient.
        """
        rule = self.rule
        options = () if optimizer is None else tuple(_fixed(optimizer[1]))
        stop = None if self.early_stop is None else self.early_stop.estimator
        objectives = tuple(_without_numbers(choice) for choice in (rule.policy_objective, rule.value_objective))
        normalization = rule.advantage_normalization
        phase = self.phase.trains, self.phase.max_grad_norm, tuple(self.names)
        return optimizer and optimizer[0].step, options, stop, objectives, normalization, phase, self.has_bonus

    def function(
        self, optimizer: tuple[Elementwise, Any] | None, layout: MinibatchLayout, n_others: int
    ) -> Callable[..., Any]:
        """The function to compile: (weights, gradient, *state, scalars, numbers, owners, *others, *minibatch) ->
        (is_taken, norms, log-ratio, losses). It writes to the weights, the gradient and the state.
        """
        n_state = 0 if optimizer is None else len(optimizer[0].names)

        def step(weights: th.Tensor, gradient: th.Tensor, *rest: th.Tensor) -> tuple[th.Tensor, ...]:
            state, (scalars, numbers, owners), rest = rest[:n_state], rest[n_state : n_state + 3], rest[n_state + 3 :]
            others, tensors = rest[:n_others], rest[n_others:]
            terms, _, whole = self._differentiate(weights, others, layout.minibatch(tensors), numbers)
            norm = th.linalg.vector_norm(whole)
            # One reduction for both: kernels cost compile time.
            norms = th.cat((norm.reshape(1), th.sqrt((whole**2 * owners).sum(1))))
            is_taken = th.isfinite(terms.loss) & th.isfinite(norm)
            if self.early_stop is not None:
                is_taken = is_taken & ~(self._mean_kl(terms) > numbers[-1])
            if self.phase.max_grad_norm is not None:
                whole = whole * clip_coefficient(norm, self.phase.max_grad_norm)
            # A step that is not taken leaves nothing behind.
            gradient.copy_(th.where(is_taken, whole, gradient))
            if optimizer is not None:
                rule, options = optimizer
                after, state_after = rule.step(weights, whole, state, scalars.unbind(), options)
                for old, new in zip((weights, *state), (after, *state_after), strict=True):
                    old.copy_(th.where(is_taken, new, old))
            return is_taken, norms, terms.log_ratio, terms.losses

        return step

    def gradient(self, layout: MinibatchLayout, n_others: int) -> Callable[..., Any]:
        """The function up to the gradient, for a part of a minibatch: (weights, numbers, *others, *minibatch) ->
        (gradient, loss, log-ratio, losses).
        """

        def differentiate(weights: th.Tensor, numbers: th.Tensor, *rest: th.Tensor) -> tuple[th.Tensor, ...]:
            minibatch = layout.minibatch(rest[n_others:])
            terms, loss, whole = self._differentiate(weights, rest[:n_others], minibatch, numbers)
            return whole, loss, terms.log_ratio, terms.losses

        return differentiate

    def _mean_kl(self, terms: LossTerms) -> th.Tensor:
        estimator = self.early_stop.estimator  # type: ignore[union-attr]
        if estimator == "exact":
            return terms.exact_kl  # type: ignore[return-value]
        return SAMPLE_ESTIMATORS[estimator](terms.log_ratio).mean()

    def _differentiate(
        self, weights: th.Tensor, others: Sequence[th.Tensor], minibatch: Any, numbers: th.Tensor
    ) -> tuple[LossTerms, th.Tensor, th.Tensor]:
        """The loss, what of it is differentiated, and the gradient as a vector laid out like the weights."""
        rule, coefficients = rule_with_numbers(self.rule, numbers, self.has_bonus)
        parts = [part.detach().requires_grad_() for part in self.layout.split(weights)]
        tensors = dict(zip((*self.other_names, *self.names), (*others, *parts), strict=True))
        named = {f"policy.{name}": tensor for name, tensor in tensors.items()}

        def evaluate() -> LossTerms:
            # Untied: SB3 holds one extractor under three names, and putting weights back three times goes wrong.
            return functional_call(_Loss(self.policy), named, (minibatch, rule, coefficients), tie_weights=False)  # type: ignore[no-any-return]

        with th.enable_grad():
            terms, loss, gradients = loss_and_gradient(evaluate, coefficients, self.phase.trains, parts)
        pairs = zip(gradients, parts, strict=True)
        joined = self.layout.joined([th.zeros_like(part) if each is None else each for each, part in pairs])
        bare = LossTerms(*(None if term is None else term.detach() for term in terms))  # type: ignore[arg-type]
        return bare, loss.detach(), joined


class _Loss(th.nn.Module):
    """The loss as a module, so that ``functional_call`` can lend the policy other weights."""

    def __init__(self, policy: ActorCriticPolicy):
        super().__init__()
        self.policy = policy

    def forward(self, minibatch: Any, rule: UpdateRule, coefficients: LossCoefficients) -> LossTerms:
        return evaluate_loss(self.policy, minibatch, rule, coefficients)


def tensors_of(policy: ActorCriticPolicy) -> dict[str, th.Tensor]:
    """Everything that a policy computes with: its weights, then its buffers, by name."""
    return dict(policy.named_parameters()) | dict(policy.named_buffers())


def owner_masks(policy: ActorCriticPolicy, parameters: Sequence[th.nn.Parameter]) -> th.Tensor:
    """``[2, P]``, 1 for the elements of a flat vector that are the actor's own, and those that are the critic's."""
    masks = []
    for owner in ("actor", "critic"):
        mask = FlatVector(parameters)
        for part, whose in zip(mask.parts, owners_of(policy, parameters), strict=True):
            part.fill_(whose == owner)
        masks.append(mask.vector)
    return th.stack(masks)


def numbers_of(rule: UpdateRule, coefficients: LossCoefficients) -> th.Tensor:
    """All that schedules and KL control may change, ``[6]``: ε of the policy, ε of the critic, the three coefficients,
    the KL limit.
    """
    clips = (getattr(rule.policy_objective, SCHEDULED[0], 0.0), getattr(rule.value_objective, SCHEDULED[1], 0.0))
    stop = rule.early_stop
    limit = math.inf if stop is None else stop.factor * stop.target
    return th.tensor([*clips, *coefficients, limit], dtype=th.float32)


def rule_with_numbers(rule: UpdateRule, numbers: th.Tensor, has_bonus: bool) -> tuple[UpdateRule, LossCoefficients]:
    """The rule and the coefficients with tensors of :func:`numbers_of` in the place of their numbers, for tracing."""
    changed = copy.copy(rule)
    for slot, name, number in (
        ("policy_objective", SCHEDULED[0], numbers[0]),
        ("value_objective", SCHEDULED[1], numbers[1]),
    ):
        choice = copy.copy(getattr(rule, slot))
        if hasattr(choice, name):
            # Frozen, and its constructor would refuse a tensor: rightly, outside of here.
            object.__setattr__(choice, name, number)
        object.__setattr__(changed, slot, choice)
    ent_coef, vf_coef, kl_coef = numbers[2:5].unbind()
    return changed, LossCoefficients(ent_coef if has_bonus else 0.0, vf_coef, kl_coef)  # type: ignore[arg-type]


def _without_numbers(choice: Any) -> Any:
    bare = copy.copy(choice)
    for name in SCHEDULED:
        if hasattr(bare, name):
            object.__setattr__(bare, name, 0.0)
    return bare


def _fixed(options: dict[str, Any]) -> list[tuple[str, Any]]:
    return [(name, value) for name, value in options.items() if name not in ("params", "lr", "initial_lr")]
