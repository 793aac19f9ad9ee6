"""Reading an SB3 policy as formulas: its networks give distribution parameters and values, the rest is
``formulas.distributions``.

SB3's own ``forward`` and ``evaluate_actions`` build a ``torch.distributions`` object on every call and validate it. The
functions here run the same modules and the same arithmetic without it. A policy whose class (or instance) overrides one
of those methods keeps its say: it is called as SB3 would call it.
"""

from typing import Any, NamedTuple

import torch as th
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
from sb3_ppo_notes.formulas.distributions.categorical import log_probabilities
from sb3_ppo_notes.formulas.distributions.gaussian import (
    broadcast_std,
    exploration_weight_std,
    state_dependent_noise,
    state_dependent_std,
)


class Evaluation(NamedTuple):
    """What a policy says of actions that were taken.

    :param values: ``[N]``, V(s); reward units.
    :param log_probs: ``[N]``, log π(a|s); nats.
    :param entropy: ``[N]``; nats. ``None`` where the distribution has no closed form.
    :param parameters: the distribution's parameters, ``None`` if the policy computes its log-probabilities itself.
    """

    values: th.Tensor
    log_probs: th.Tensor
    entropy: th.Tensor | None
    parameters: Parameters | None


def keeps_sb3_method(policy: Any, *names: str) -> bool:
    """Whether a policy still has SB3's own version of these methods, so that formulas may stand in for them.

    :param policy: the policy, of any class.
    :param names: method names of ``ActorCriticPolicy``.
    :return: ``False`` if its class or the instance itself overrides one, or if hooks expect the call.
    """
    if not isinstance(policy, ActorCriticPolicy) or policy._forward_hooks or policy._forward_pre_hooks:
        return False
    own = vars(policy)
    return all(
        name not in own and getattr(type(policy), name) is getattr(ActorCriticPolicy, name)
        for name in (*names, "_get_action_dist_from_latent")
    )


def formulas_of(policy: ActorCriticPolicy) -> DistributionFormulas | None:
    """The formulas of the policy's action distribution.

    :param policy: an SB3 policy.
    :return: ``None`` for a distribution class that is not SB3's.
    """
    distribution = policy.action_dist
    if type(distribution) is StateDependentNoiseDistribution:
        return GAUSSIAN if distribution.bijector is None else TANH_GAUSSIAN
    return {
        CategoricalDistribution: CATEGORICAL,
        MultiCategoricalDistribution: MULTI_CATEGORICAL,
        BernoulliDistribution: BERNOULLI,
        DiagGaussianDistribution: GAUSSIAN,
    }.get(type(distribution))


def latents(policy: ActorCriticPolicy, observations: Any) -> tuple[th.Tensor, th.Tensor]:
    """The last hidden layers of actor and critic.

    :param policy: an SB3 policy.
    :param observations: ``[N, ...]`` tensor or dict of tensors, not yet preprocessed.
    :return: ``[N, k]`` of the actor and ``[N, k']`` of the critic.
    """
    features = policy.extract_features(observations)
    if policy.share_features_extractor:
        latent_pi, latent_vf = policy.mlp_extractor(features)
        return latent_pi, latent_vf
    pi_features, vf_features = features
    return policy.mlp_extractor.forward_actor(pi_features), policy.mlp_extractor.forward_critic(vf_features)


def distribution_parameters(policy: ActorCriticPolicy, latent_pi: th.Tensor) -> Parameters:
    """The parameters of π(·|s), as ``formulas.distributions`` wants them.

    :param policy: an SB3 policy with a distribution of SB3's.
    :param latent_pi: ``[N, k]``, the actor's last hidden layer.
    :return: a tuple of tensors ``[N, ...]``.
    """
    output = policy.action_net(latent_pi)
    distribution = policy.action_dist
    if isinstance(distribution, CategoricalDistribution):
        return (log_probabilities(output),)
    if isinstance(distribution, MultiCategoricalDistribution):
        return tuple(log_probabilities(part) for part in th.split(output, list(distribution.action_dims), dim=1))
    if isinstance(distribution, BernoulliDistribution):
        return (output,)
    if isinstance(distribution, StateDependentNoiseDistribution):
        weight_std = exploration_weight_std(
            policy.log_std, distribution.action_dim, distribution.use_expln, distribution.epsilon
        )
        # The noise must not train the features, only its own weights: hence the detach.
        latent_sde = latent_pi if distribution.learn_features else latent_pi.detach()
        return output, state_dependent_std(latent_sde, weight_std, distribution.epsilon)
    return output, broadcast_std(output, policy.log_std)


def act(policy: ActorCriticPolicy, observations: Any) -> tuple[th.Tensor, th.Tensor, th.Tensor]:
    """Sample actions for a rollout.

    :param policy: any actor-critic policy; one that overrides ``forward`` is simply called.
    :param observations: ``[B, ...]`` tensor or dict of tensors.
    :return: actions ``[B, ...]``, values ``[B, 1]`` and log-probabilities ``[B]``, as SB3's ``forward`` returns them.
    """
    formulas = formulas_of(policy) if keeps_sb3_method(policy, "forward") else None
    if formulas is None:
        return policy(observations)  # type: ignore[no-any-return]
    latent_pi, latent_vf = latents(policy, observations)
    values = policy.value_net(latent_vf)
    parameters = distribution_parameters(policy, latent_pi)
    if policy.use_sde:
        # gSDE draws its weights once in a while, not an action at each step: the sample is the mean plus today's noise.
        noise_source: StateDependentNoiseDistribution = policy.action_dist  # type: ignore[assignment]
        noise = state_dependent_noise(latent_pi, noise_source.exploration_mat, noise_source.exploration_matrices)
        actions = parameters[0] + noise
        actions = actions if formulas is GAUSSIAN else th.tanh(actions)
    else:
        actions = formulas.sample(parameters)
    log_probs = formulas.log_prob(parameters, actions)
    return actions.reshape((-1, *policy.action_space.shape)), values, log_probs  # type: ignore[misc]


def evaluate(policy: ActorCriticPolicy, observations: Any, actions: th.Tensor) -> Evaluation:
    """Values, log-probabilities and entropy for actions that were taken, with gradients.

    :param policy: any actor-critic policy; one that overrides ``evaluate_actions`` is asked instead.
    :param observations: ``[N, ...]`` tensor or dict of tensors.
    :param actions: ``[N]`` (Discrete) or ``[N, d]``.
    :return: what the policy says of them.
    """
    formulas = formulas_of(policy) if keeps_sb3_method(policy, "evaluate_actions") else None
    if formulas is None:
        values, log_probs, entropy = policy.evaluate_actions(observations, actions)
        return Evaluation(values.flatten(), log_probs, entropy, parameters=None)
    latent_pi, latent_vf = latents(policy, observations)
    parameters = distribution_parameters(policy, latent_pi)
    log_probs = formulas.log_prob(parameters, actions)
    values = policy.value_net(latent_vf).flatten()
    return Evaluation(values, log_probs, formulas.entropy and formulas.entropy(parameters), parameters)


def parameters_of(policy: ActorCriticPolicy, observations: Any) -> Parameters:
    """The parameters of π(·|s), without gradients.

    :param policy: an SB3 policy with a distribution of SB3's.
    :param observations: ``[N, ...]`` tensor or dict of tensors.
    :return: a tuple of tensors ``[N, ...]``.
    """
    with th.no_grad():
        return distribution_parameters(policy, latents(policy, observations)[0])


def has_known_distribution(policy: Any) -> bool:
    """Whether the parameters of the policy's distribution can be read, and so an exact KL be computed.

    :param policy: any policy.
    :return: ``False`` for a policy that evaluates actions by itself.
    """
    return keeps_sb3_method(policy, "evaluate_actions") and formulas_of(policy) is not None
