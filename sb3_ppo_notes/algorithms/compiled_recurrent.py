"""The step of one minibatch of a recurrent policy: its memory runs as it is, all else is compiled.

TorchInductor takes no LSTM, and would not make one faster; nor would it an optimiser whose half a million weights have
to be read and written in any case. Compiled is what lies between: from what is remembered to the loss, and back.
"""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch as th
from stable_baselines3.common.policies import ActorCriticPolicy
from torch.func import functional_call, grad_and_value

from sb3_ppo_notes.algorithms.compiled_steps import CompiledSteps
from sb3_ppo_notes.algorithms.loss import LossCoefficients, LossTerms, minibatch_loss
from sb3_ppo_notes.algorithms.norms import norms_by_owner
from sb3_ppo_notes.algorithms.program import Form, Program, rule_with_numbers, tensors_of
from sb3_ppo_notes.formulas.checks import NonFiniteError
from sb3_ppo_notes.policies.precision import mixed_precision
from sb3_ppo_notes.policies.towers import Outputs
from sb3_ppo_notes.rules import UpdateRule

#: Parts of a policy that stand on its memory.
HEADS = ("mlp_extractor.", "action_net.", "value_net.", "log_std")


class RecurrentProgram(Program):
    """What is compiled for a recurrent policy. The arguments are those of :class:`Program`."""

    def __init__(self, *args: Any):
        super().__init__(*args)
        names = [name for name in tensors_of(self.policy) if name.startswith(HEADS)]
        #: Of the heads' tensors those that are trained, then the others.
        self.head_names = [name for name in self.names if name in names]
        self.fixed_names = [name for name in names if name not in self.names]

    def slopes(self, form: Form) -> Callable[..., Any]:
        """From what is remembered to the loss, and back.

        :param form: of the minibatch, its observations replaced by what the actor remembers.
        :return: (*heads' tensors, numbers, critic's latents, *minibatch) -> (is_fine, statistics, *slopes of the
            trained heads, of the actor's latents, of the critic's).
        """
        n_trained, n_fixed = len(self.head_names), len(self.fixed_names)
        wrapped = _HeadLoss(self.policy)

        def function(*arguments: th.Tensor) -> tuple[th.Tensor, ...]:
            trained, rest = arguments[:n_trained], arguments[n_trained:]
            fixed, (numbers, latent_vf), tensors = rest[:n_fixed], rest[n_fixed : n_fixed + 2], rest[n_fixed + 2 :]
            minibatch = form.minibatch(tensors)
            rule, coefficients = rule_with_numbers(self.rule, numbers, self.has_bonus)

            def loss(*parts: th.Tensor) -> tuple[th.Tensor, tuple[th.Tensor, ...]]:
                *weights, pi, vf = parts
                lent = dict(zip((*self.head_names, *self.fixed_names), (*weights, *fixed), strict=True))
                named = {f"policy.{name}": tensor for name, tensor in lent.items()}
                given = (pi, vf, minibatch, rule, coefficients)
                terms = functional_call(wrapped, named, given, tie_weights=False)
                return terms.loss, tuple(term for term in terms if term is not None)

            points = (*trained, minibatch.observations, latent_vf)
            slopes, (_, found) = grad_and_value(loss, argnums=tuple(range(len(points))), has_aux=True)(*points)
            terms = LossTerms(*found, *([] if self.rule.needs_exact_kl else [None]))
            statistics = self.statistics(terms, numbers)
            is_fine = th.isfinite(terms.loss)
            if self.early_stop is not None:
                is_fine = is_fine & ~(statistics[self.early_stop.estimator] > numbers[-1])
            return is_fine, th.stack(list(statistics.values())), *slopes

        return function


class _HeadLoss(th.nn.Module):
    """The loss from what is remembered on, as a module that ``functional_call`` can lend other weights."""

    def __init__(self, policy: ActorCriticPolicy):
        super().__init__()
        self.policy = policy

    def forward(
        self, pi: th.Tensor, vf: th.Tensor, minibatch: Any, rule: UpdateRule, coefficients: LossCoefficients
    ) -> LossTerms:
        policy, extractor = self.policy, self.policy.mlp_extractor
        with mixed_precision(policy):
            latent_pi = extractor.forward_actor(pi)
            action = policy.action_net(latent_pi).float()
            values = policy.value_net(extractor.forward_critic(vf)).float()
        return minibatch_loss(policy, minibatch, rule, coefficients, Outputs(action, values, latent_pi))


class CompiledRecurrentSteps(CompiledSteps):
    """Takes the steps of a recurrent policy. The arguments are those of :class:`CompiledSteps`."""

    program_class = RecurrentProgram

    def begin(self, rule: UpdateRule, coefficients: LossCoefficients) -> None:
        """Begin an update.

        :param rule: the choices, with every schedule resolved.
        :param coefficients: ent_coef, vf_coef and β.
        """
        super().begin(rule, coefficients)
        tensors, program = tensors_of(self.compiler.policy), self.program
        self._heads = [tensors[name] for name in (*program.head_names, *program.fixed_names)]
        self._head_places = [program.names.index(name) for name in program.head_names]
        self._back: Any = None

    def adopt(self) -> None:
        """Nothing yet: as in eager code, the first gradient shows whether all weights have one."""

    def take(self, minibatch: Any) -> th.Tensor | None:
        """One step, unless the KL has gone too far or something is not finite.

        :param minibatch: of a buffer of ours.
        :return: ``[M]``, its statistics; ``None`` if no step was taken and the eager one is to see to this minibatch.
        """
        # One row alone has another shape than any number of rows.
        if len(minibatch.returns) < 2 or self.compiler.reason is not None:
            return None
        policy: Any = self.compiler.policy
        with mixed_precision(policy):
            pi, vf, _ = policy.remember(policy.extract_features(minibatch.observations), minibatch.recurrence)
        found = self._there_and_back(minibatch._replace(observations=pi.detach(), recurrence=None), vf.detach())
        if found is None:
            return None
        statistics, *heads, d_pi, d_vf = found
        try:
            norm = self.steps.descend(self._whole(heads, [(pi, d_pi), (vf, d_vf)]), "")
        except NonFiniteError:
            return None
        by_owner = norms_by_owner(norm.parts.cpu().numpy(), self.steps.owned)
        return th.cat((statistics, th.tensor([norm.total, *by_owner.tolist()], device=statistics.device)))

    def _there_and_back(self, seen: Any, latent_vf: th.Tensor) -> list[th.Tensor] | None:
        """From what is remembered to the loss and back: statistics and slopes; ``None`` if no step is to follow."""
        # Where they lie now: the first step may move them into a vector.
        given = [*(tensor.detach() for tensor in self._heads), self.numbers]
        arguments = [*given, latent_vf, *Form.leaves(seen)]
        if self._back is None:
            form = Form.of(seen, 0)
            build = partial(self.program.slopes, form)
            varying = range(len(given), len(arguments))
            self._back = self.compiler.function(("slopes", self.program.key(None), form), build, arguments, varying)
        if self._back is None:
            return None
        is_fine, *found = self._back(*arguments)
        return found if is_fine.item() else None

    def _whole(self, heads: Sequence[th.Tensor], tops: Sequence[tuple[th.Tensor, th.Tensor]]) -> list[th.Tensor | None]:
        """The whole gradient: the heads', and what the memory makes of its own."""
        parameters = self.steps.parameters
        tops = [(top, slope) for top, slope in tops if top.requires_grad]
        found: list[th.Tensor | None] = [None] * len(parameters)
        if tops:
            outputs, slopes = zip(*tops, strict=True)
            found = list(th.autograd.grad(outputs, parameters, slopes, allow_unused=True))
        for place, slope in zip(self._head_places, heads, strict=True):
            own = found[place]
            found[place] = slope if own is None else own + slope
        return found
