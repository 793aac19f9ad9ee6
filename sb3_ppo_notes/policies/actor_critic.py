"""Reading an SB3 policy as formulas: its networks give distribution parameters and values, the rest is
``formulas.distributions``.

SB3's own ``forward`` and ``evaluate_actions`` build a ``torch.distributions`` object on every call and validate it. The
functions here run the same modules and the same arithmetic without it. A policy whose class (or instance) overrides one
of those methods keeps its say: it is called as SB3 would call it.
"""

from typing import Any, NamedTuple

import torch as th
from gymnasium import spaces
from stable_baselines3.common.distributions import (
    BernoulliDistribution,
    CategoricalDistribution,
    DiagGaussianDistribution,
    MultiCategoricalDistribution,
    StateDependentNoiseDistribution,
)
from stable_baselines3.common.policies import ActorCriticPolicy

from sb3_ppo_notes.formulas.distributions import (
    BERNOULLI,
    CATEGORICAL,
    GAUSSIAN,
    MULTI_CATEGORICAL,
    TANH_GAUSSIAN,
    DistributionFormulas,
    Parameters,
)
from sb3_ppo_notes.formulas.distributions.bernoulli import masked_log_odds
from sb3_ppo_notes.formulas.distributions.categorical import log_probabilities, masked_logits
from sb3_ppo_notes.formulas.distributions.gaussian import (
    broadcast_std,
    exploration_weight_std,
    state_dependent_noise,
    state_dependent_std,
)
from sb3_ppo_notes.policies.distribution import FormulaDistribution
from sb3_ppo_notes.policies.memory import Steps, remember_step_by_step
from sb3_ppo_notes.policies.precision import mixed_precision
from sb3_ppo_notes.policies.shipped import keeps_distribution, keeps_sb3_method
from sb3_ppo_notes.rules.loss import Evaluation

SB3_DISTRIBUTIONS: dict[type, DistributionFormulas] = {
    CategoricalDistribution: CATEGORICAL,
    MultiCategoricalDistribution: MULTI_CATEGORICAL,
    BernoulliDistribution: BERNOULLI,
    DiagGaussianDistribution: GAUSSIAN,
}


def formulas_of(policy: ActorCriticPolicy) -> DistributionFormulas | None:
    """The formulas of the policy's action distribution.

    :param policy: an SB3 policy.
    :return: ``None`` for a class that is neither SB3's nor ours, or in which somebody has replaced a method.
    """
    distribution = policy.action_dist
    if not keeps_distribution(distribution):
        return None
    if type(distribution) is FormulaDistribution:
        return distribution.formulas
    if type(distribution) is StateDependentNoiseDistribution:
        return GAUSSIAN if distribution.bijector is None else TANH_GAUSSIAN
    return SB3_DISTRIBUTIONS.get(type(distribution))


class Latents(NamedTuple):
    """The last hidden layers of actor ``[N, k]`` and critic ``[N, k']``, and a recurrent policy's next states."""

    pi: th.Tensor
    vf: th.Tensor
    states: tuple[th.Tensor, ...] | None


class Action(NamedTuple):
    """A policy's actions in a batch of observations.

    :param actions: ``[B, ...]``, as sampled.
    :param values: ``[B, 1]``, V(s); reward units.
    :param log_probs: ``[B]``; nats.
    :param states: a recurrent policy's next states, else ``None``.
    """

    actions: th.Tensor
    values: th.Tensor
    log_probs: th.Tensor
    states: tuple[th.Tensor, ...] | None = None


def latents(policy: Any, observations: Any, recurrence: Any = None) -> Latents:
    """The last hidden layers of actor and critic.

    :param policy: an SB3 policy, or a recurrent one of ours.
    :param observations: ``[N, ...]`` tensor or dict of tensors, not yet preprocessed.
    :param recurrence: how the rows lie in sequences; ``None`` for a policy without memory.
    :return: of both networks.
    """
    features = policy.extract_features(observations)
    states = None
    if recurrence is not None:
        if isinstance(recurrence, Steps):
            pi_features, vf_features, states = remember_step_by_step(policy, features, recurrence)
        else:
            pi_features, vf_features, states = policy.remember(features, recurrence)
        states = tuple(state.float() for state in states)
    elif policy.share_features_extractor:
        latent_pi, latent_vf = policy.mlp_extractor(features)
        return Latents(latent_pi, latent_vf, None)
    else:
        pi_features, vf_features = features
    extractor = policy.mlp_extractor
    return Latents(extractor.forward_actor(pi_features), extractor.forward_critic(vf_features), states)


def distribution_parameters(policy: Any, latent_pi: th.Tensor, action_masks: th.Tensor | None = None) -> Parameters:
    """The parameters of π(·|s), as ``formulas.distributions`` wants them.

    :param policy: an SB3 policy with a distribution of SB3's or ours.
    :param latent_pi: ``[N, k]``, the actor's last hidden layer.
    :param action_masks: ``[N, n]``, ``True`` where an action is allowed; ``None`` for no masks.
    :return: a tuple of tensors ``[N, ...]``.
    """
    return parameters_from_output(policy, policy.action_net(latent_pi), action_masks, latent_pi)


def parameters_from_output(
    policy: Any, output: th.Tensor, action_masks: th.Tensor | None = None, latent_pi: th.Tensor | None = None
) -> Parameters:
    """The parameters of π(·|s), from the action layer's output.

    :param policy: an SB3 policy with a distribution of SB3's or ours.
    :param output: ``[N, k]``, of the action layer.
    :param action_masks: ``[N, n]``, ``True`` where an action is allowed; ``None`` for no masks.
    :param latent_pi: ``[N, k']``, the layer before it; only gSDE needs it.
    :return: a tuple of tensors ``[N, ...]``.
    """
    distribution = policy.action_dist
    if isinstance(distribution, FormulaDistribution):
        return distribution.parameters_from(output, policy.log_std)
    if isinstance(distribution, BernoulliDistribution):
        return (output if action_masks is None else masked_log_odds(output, action_masks),)
    if isinstance(distribution, CategoricalDistribution | MultiCategoricalDistribution):
        logits = output if action_masks is None else masked_logits(output, action_masks)
        as_sb3 = getattr(policy, "equals_stock", True)
        if isinstance(distribution, CategoricalDistribution):
            return (log_probabilities(logits, as_sb3),)
        parts = th.split(logits, list(distribution.action_dims), dim=1)
        return tuple(log_probabilities(part, as_sb3) for part in parts)
    if isinstance(distribution, StateDependentNoiseDistribution):
        assert latent_pi is not None, "gSDE's deviation is made of the actor's last hidden layer"
        weight_std = exploration_weight_std(
            policy.log_std, distribution.action_dim, distribution.use_expln, distribution.epsilon
        )
        # The noise must not train the features, only its own weights: hence the detach.
        latent_sde = (latent_pi if distribution.learn_features else latent_pi.detach()).float()
        return output, state_dependent_std(latent_sde, weight_std, distribution.epsilon)
    return output, broadcast_std(output, policy.log_std)


def act(
    policy: Any,
    observations: Any,
    action_masks: th.Tensor | None = None,
    recurrence: Any = None,
    deterministic: bool = False,
) -> Action:
    """Choose actions.

    :param policy: any actor-critic policy; one that overrides ``forward`` is simply called.
    :param observations: ``[B, ...]`` tensor or dict of tensors.
    :param action_masks: ``[B, n]``, ``True`` where an action is allowed; ``None`` for no masks.
    :param recurrence: one step of a recurrent policy; ``None`` for a policy without memory.
    :param deterministic: the mode and not a sample.
    :return: actions, values and log-probabilities.
    """
    formulas = formulas_of(policy) if keeps_sb3_method(policy, "forward") else None
    if formulas is None:
        return Action(*policy(observations))
    with mixed_precision(policy):
        latent = latents(policy, observations, recurrence)
        values = policy.value_net(latent.vf).float()
        output = policy.action_net(latent.pi).float()
    parameters = parameters_from_output(policy, output, action_masks, latent.pi)
    if deterministic:
        actions = formulas.mode(parameters)
    elif policy.use_sde:
        # gSDE draws its weights once in a while, not an action at each step: the sample is the mean plus today's noise.
        source: StateDependentNoiseDistribution = policy.action_dist
        actions = parameters[0] + state_dependent_noise(
            latent.pi.float(), source.exploration_mat, source.exploration_matrices
        )
        actions = actions if formulas is GAUSSIAN else th.tanh(actions)
    else:
        actions = formulas.sample(parameters)
    log_probs = formulas.log_prob(parameters, actions)
    return Action(actions.reshape((-1, *policy.action_space.shape)), values, log_probs, latent.states)


def evaluate(
    policy: Any,
    observations: Any,
    actions: th.Tensor,
    action_masks: th.Tensor | None = None,
    recurrence: Any = None,
    entropy_gradient: bool = True,
) -> Evaluation:
    """Values, log-probabilities and entropy for actions that were taken, with gradients.

    :param policy: any actor-critic policy; one that overrides ``evaluate_actions`` is asked instead.
    :param observations: ``[N, ...]`` tensor or dict of tensors.
    :param actions: ``[N]`` (Discrete) or ``[N, d]``.
    :param action_masks: ``[N, n]``, ``True`` where an action was allowed; ``None`` for no masks.
    :param recurrence: how the rows lie in sequences; ``None`` for a policy without memory.
    :param entropy_gradient: whether the entropy is differentiated; what is only logged needs no graph.
    :return: what the policy says of them.
    """
    formulas = formulas_of(policy) if keeps_sb3_method(policy, "evaluate_actions") else None
    if formulas is None:
        values, log_probs, entropy = policy.evaluate_actions(observations, actions)
        return Evaluation(values.flatten(), log_probs, entropy, parameters=None)
    with mixed_precision(policy):
        latent = latents(policy, observations, recurrence)
        output = policy.action_net(latent.pi).float()
        values = policy.value_net(latent.vf).float().flatten()
    parameters = parameters_from_output(policy, output, action_masks, latent.pi)
    log_probs = formulas.log_prob(parameters, actions)
    with th.set_grad_enabled(entropy_gradient and th.is_grad_enabled()):
        entropy = formulas.entropy and formulas.entropy(parameters)
    return Evaluation(values, log_probs, entropy, parameters)


def evaluate_minibatch(
    policy: Any, minibatch: Any, entropy_gradient: bool = True, needs_kl: bool = False
) -> Evaluation:
    """Values, log-probabilities and entropy of a minibatch of a rollout, and the KL where it is asked for.

    :param policy: any actor-critic policy.
    :param minibatch: observations, actions, masks and sequences; for the exact KL the old distribution's parameters.
    :param entropy_gradient: whether the entropy is differentiated.
    :param needs_kl: whether the exact KL is asked for; the policy's distribution is then known.
    :return: values, log-probabilities, entropy and KL, ``[N]`` each, with their graph.
    """
    actions = minibatch.actions
    if isinstance(policy.action_space, spaces.Discrete) and actions.dtype != th.int64:
        actions = actions.long().flatten()
    masks, recurrence = getattr(minibatch, "action_masks", None), getattr(minibatch, "recurrence", None)
    evaluation = evaluate(policy, minibatch.observations, actions, masks, recurrence, entropy_gradient)
    if not needs_kl:
        return evaluation
    kl = formulas_of(policy).kl(minibatch.old_parameters, evaluation.parameters)  # type: ignore[union-attr, arg-type]
    return evaluation._replace(kl=kl)


def values_of(policy: Any, observations: Any, recurrence: Any = None) -> th.Tensor:
    """V(s).

    :param policy: any actor-critic policy.
    :param observations: ``[N, ...]`` tensor or dict of tensors.
    :param recurrence: how the rows lie in sequences; ``None`` for a policy without memory.
    :return: ``[N, 1]``; reward units.
    """
    with mixed_precision(policy):
        if recurrence is None:
            return policy.predict_values(observations).float()  # type: ignore[no-any-return]
        return policy.value_net(latents(policy, observations, recurrence).vf).float()  # type: ignore[no-any-return]


def parameters_of(
    policy: Any, observations: Any, action_masks: th.Tensor | None = None, recurrence: Any = None
) -> Parameters:
    """The parameters of π(·|s), without gradients.

    :param policy: an SB3 policy with a distribution of SB3's or ours.
    :param observations: ``[N, ...]`` tensor or dict of tensors.
    :param action_masks: ``[N, n]``, ``True`` where an action was allowed; ``None`` for no masks.
    :param recurrence: how the rows lie in sequences; ``None`` for a policy without memory.
    :return: a tuple of tensors ``[N, ...]``.
    """
    with th.no_grad(), mixed_precision(policy):
        latent_pi = latents(policy, observations, recurrence).pi
        output = policy.action_net(latent_pi).float()
    with th.no_grad():
        return parameters_from_output(policy, output, action_masks, latent_pi)


def has_known_distribution(policy: Any) -> bool:
    """``True`` if the parameters of the policy's distribution can be read, and so an exact KL be computed.

    :param policy: any policy.
    :return: ``False`` for a policy that evaluates actions by itself.
    """
    return keeps_sb3_method(policy, "evaluate_actions") and formulas_of(policy) is not None
