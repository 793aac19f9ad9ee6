"""What is compiled: the step of one minibatch as a function of nothing but tensors."""

import copy
import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch as th
from stable_baselines3.common.policies import ActorCriticPolicy
from torch.func import functional_call, grad_and_value

from sb3_ppo_notes.engine.descent import Phase
from sb3_ppo_notes.engine.norms import clip_coefficient
from sb3_ppo_notes.engine.optimizers import Elementwise
from sb3_ppo_notes.engine.step import policy_loss
from sb3_ppo_notes.engine.vectors import FlatVector
from sb3_ppo_notes.policies.parameters import owners_of
from sb3_ppo_notes.rollouts.minibatches import Minibatch
from sb3_ppo_notes.rules import UpdateRule
from sb3_ppo_notes.rules.kl_control import SAMPLE_ESTIMATORS
from sb3_ppo_notes.rules.loss import LossCoefficients, LossTerms, policy_part

#: Numbers of a rule that a schedule may change: arguments of the compiled function, everything else is fixed in it.
SCHEDULED = ("clip_range", "clip_range_vf")


class Form(NamedTuple):
    """How the arguments of a compiled function make up a minibatch.

    :param n_others: tensors between the numbers and the minibatch.
    :param keys: of Dict observations, ``None`` for others.
    :param n_old_parameters: of the old distribution.
    :param is_masked: whether there are action masks.
    """

    n_others: int
    keys: tuple[str, ...] | None
    n_old_parameters: int
    is_masked: bool

    @classmethod
    def of(cls, minibatch: Any, n_others: int) -> "Form":
        """The form of a minibatch.

        :param minibatch: of a buffer of ours.
        :param n_others: tensors that precede it.
        :return: the same for all minibatches of a rollout.
        """
        observations, old = minibatch.observations, minibatch.old_parameters
        keys = tuple(observations) if isinstance(observations, dict) else None
        return cls(n_others, keys, len(old or ()), minibatch.action_masks is not None)

    @staticmethod
    def leaves(minibatch: Any) -> list[th.Tensor]:
        """The tensors of a minibatch.

        :param minibatch: of a buffer of ours.
        :return: in the order in which :meth:`minibatch` takes them.
        """
        observations, masks = minibatch.observations, minibatch.action_masks
        seen = observations.values() if isinstance(observations, dict) else (observations,)
        return [*seen, *minibatch[1:6], *(minibatch.old_parameters or ()), *(() if masks is None else (masks,))]

    @staticmethod
    def dtypes(leaves: Sequence[th.Tensor]) -> tuple[th.dtype, ...] | None:
        """The dtypes of a minibatch: code that was made for one set of them is good for no other.

        :param leaves: of :meth:`leaves`.
        :return: ``None`` if somebody has put float64 among them, which stays eager.
        """
        dtypes = tuple(leaf.dtype for leaf in leaves)
        return None if th.float64 in dtypes else dtypes

    def minibatch(self, tensors: Sequence[th.Tensor]) -> Minibatch:
        """The minibatch again.

        :param tensors: of :meth:`leaves`.
        :return: as the loss wants it.
        """
        given = iter(tensors)
        observations = next(given) if self.keys is None else {key: next(given) for key in self.keys}
        columns = [next(given) for _ in range(5)]
        old = tuple(next(given) for _ in range(self.n_old_parameters)) or None
        masks = next(given) if self.is_masked else None
        return Minibatch(observations, *columns, old, masks)  # type: ignore[call-arg, arg-type]


class Program:
    """What is compiled: loss, gradient, clip and step as a function of tensors.

    :param policy: the policy.
    :param phase: whose weights are trained, and what for.
    :param rule: the choices, with every schedule resolved.
    :param coefficients: ent_coef, vf_coef and β.
    """

    def __init__(self, policy: ActorCriticPolicy, phase: Phase, rule: UpdateRule, coefficients: LossCoefficients):
        self.policy = policy
        self.phase = phase
        self.rule = rule
        self.has_bonus = coefficients.has_bonus
        self.trained = [parameter for parameter in phase.parameters if parameter.requires_grad]
        # Made out here: the first weight would be written down as a constant.
        self.layout = FlatVector(self.trained)
        known = {id(parameter): name for name, parameter in policy.named_parameters()}
        self.names = [known[id(parameter)] for parameter in self.trained]
        self.other_names = [name for name in tensors_of(policy) if name not in self.names]
        self.early_stop = rule.early_stop if rule.early_stop and rule.early_stop.decided == "minibatch" else None

    def key(self, optimizer: tuple[Elementwise, Any] | None) -> Any:
        """What the code depends on, the shapes aside.

        :param optimizer: how the weights are stepped, ``None`` if the code stops at the gradient.
        :return: a hashable value.
        """
        rule = self.rule
        options = () if optimizer is None else tuple(_fixed(optimizer[1]))
        stop = None if self.early_stop is None else self.early_stop.estimator
        objectives = tuple(_without_numbers(choice) for choice in (rule.policy_objective, rule.value_objective))
        normalization = rule.advantage_normalization
        phase = self.phase.trains, self.phase.max_grad_norm, tuple(self.names)
        return optimizer and optimizer[0].step, options, stop, objectives, normalization, phase, self.has_bonus

    def function(self, optimizer: tuple[Elementwise, Any] | None, form: Form) -> Callable[..., Any]:
        """The function to compile.

        :param optimizer: how the weights are stepped, ``None`` if the code stops at the gradient.
        :param form: of the minibatch.
        :return: (weights, gradient, *state, scalars, numbers, owners, *others, *minibatch) -> (is_taken, norms,
            log-ratio, the loss's other terms). It writes to the weights, the gradient and the state.
        """
        n_state = 0 if optimizer is None else len(optimizer[0].names)

        def step(weights: th.Tensor, gradient: th.Tensor, *rest: th.Tensor) -> tuple[th.Tensor, ...]:
            state, (scalars, numbers, owners), rest = rest[:n_state], rest[n_state : n_state + 3], rest[n_state + 3 :]
            others, tensors = rest[: form.n_others], rest[form.n_others :]
            terms, slope = self._differentiated(weights, others, form.minibatch(tensors), numbers)
            norm = th.linalg.vector_norm(slope)
            # One reduction for both: kernels cost compile time.
            norms = th.cat((norm.reshape(1), th.sqrt((slope**2 * owners).sum(1))))
            is_taken = th.isfinite(terms.loss) & th.isfinite(norm)
            if self.early_stop is not None:
                is_taken = is_taken & ~(self._mean_kl(terms) > numbers[-1])
            if self.phase.max_grad_norm is not None:
                slope = slope * clip_coefficient(norm, self.phase.max_grad_norm)
            # Of a step that is not taken nothing is left behind.
            gradient.copy_(th.where(is_taken, slope, gradient))
            if optimizer is not None:
                rule, options = optimizer
                after, state_after = rule.step(weights, slope, state, scalars.unbind(), options)
                for old, new in zip((weights, *state), (after, *state_after), strict=True):
                    old.copy_(th.where(is_taken, new, old))
            scalars_of_loss = [term for term in terms if term is not None and term is not terms.log_ratio]
            return is_taken, norms, terms.log_ratio, th.stack(scalars_of_loss)

        return step

    def _mean_kl(self, terms: LossTerms) -> th.Tensor:
        estimator = self.early_stop.estimator  # type: ignore[union-attr]
        if estimator == "exact":
            return terms.exact_kl  # type: ignore[return-value]
        return SAMPLE_ESTIMATORS[estimator](terms.log_ratio).mean()

    def terms(self, log_ratio: th.Tensor, scalars: th.Tensor) -> LossTerms:
        """The terms of a loss.

        :param log_ratio: as the function gives it.
        :param scalars: the others.
        :return: with ``None`` for an exact KL that the rule does not ask for.
        """
        loss, policy, value, entropy, *exact_kl = scalars.unbind()
        return LossTerms(loss, policy, value, entropy, log_ratio, exact_kl[0] if exact_kl else None)

    def _differentiated(
        self, weights: th.Tensor, others: Sequence[th.Tensor], minibatch: Any, numbers: th.Tensor
    ) -> tuple[LossTerms, th.Tensor]:
        """The loss and its gradient, as a vector laid out like the weights."""
        rule, coefficients = rule_with_numbers(self.rule, numbers, self.has_bonus)
        wrapped = _Loss(self.policy)
        fixed = dict(zip(self.other_names, others, strict=True))

        def loss(*parts: th.Tensor) -> tuple[th.Tensor, tuple[th.Tensor, ...]]:
            tensors = fixed | dict(zip(self.names, parts, strict=True))
            named = {f"policy.{name}": tensor for name, tensor in tensors.items()}
            # Untied: SB3 holds one extractor under three names, and putting weights back three times goes wrong.
            terms = functional_call(wrapped, named, (minibatch, rule, coefficients), tie_weights=False)
            value = terms.loss if self.phase.trains == "both" else policy_part(terms, coefficients)
            return value, tuple(terms.pack())

        parts = self.layout.split(weights)
        slopes, (_, found) = grad_and_value(loss, argnums=tuple(range(len(parts))), has_aux=True)(*parts)
        return LossTerms.unpack(found), self.layout.joined(slopes)


class _Loss(th.nn.Module):
    """The loss as a module, so that ``functional_call`` can lend the policy other weights."""

    def __init__(self, policy: ActorCriticPolicy):
        super().__init__()
        self.policy = policy

    def forward(self, minibatch: Any, rule: UpdateRule, coefficients: LossCoefficients) -> LossTerms:
        return policy_loss(self.policy, minibatch, rule, coefficients)


def tensors_of(policy: ActorCriticPolicy) -> dict[str, th.Tensor]:
    """Everything that a policy computes with.

    :param policy: the policy.
    :return: its weights, then its buffers, by name.
    """
    return dict(policy.named_parameters()) | dict(policy.named_buffers())


def owner_masks(policy: ActorCriticPolicy, parameters: Sequence[th.nn.Parameter]) -> th.Tensor:
    """Which elements of a flat vector are the actor's own and which the critic's.

    :param policy: the policy.
    :param parameters: in the vector's order.
    :return: ``[2, P]``, 1 or 0.
    """
    masks = []
    for owner in ("actor", "critic"):
        mask = FlatVector(parameters)
        for part, whose in zip(mask.parts, owners_of(policy, parameters), strict=True):
            part.fill_(whose == owner)
        masks.append(mask.vector)
    return th.stack(masks)


def numbers_of(rule: UpdateRule, coefficients: LossCoefficients) -> th.Tensor:
    """All that schedules and KL control may change, in one tensor.

    :param rule: the choices, with every schedule resolved.
    :param coefficients: ent_coef, vf_coef and β.
    :return: ``[6]``: ε of the policy, ε of the critic, the three coefficients, the KL limit.
    """
    clips = (getattr(rule.policy_objective, SCHEDULED[0], 0.0), getattr(rule.value_objective, SCHEDULED[1], 0.0))
    stop = rule.early_stop
    limit = math.inf if stop is None else stop.factor * stop.target
    return th.tensor([*clips, *coefficients, limit], dtype=th.float32)


def rule_with_numbers(rule: UpdateRule, numbers: th.Tensor, has_bonus: bool) -> tuple[UpdateRule, LossCoefficients]:
    """The rule and the coefficients with tensors in the place of their numbers.

    :param rule: the choices.
    :param numbers: of :func:`numbers_of`.
    :param has_bonus: whether there is an entropy bonus.
    :return: for the loss, while it is traced.
    """
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
