"""Owners of the weights: the actor, the critic, or both; and an optimiser for each."""

from collections.abc import Iterator, Sequence
from typing import Any

import torch as th
from stable_baselines3.common.policies import ActorCriticPolicy

from sb3_ppo_notes.formulas.checks import InvalidValueError
from sb3_ppo_notes.rules import Schedule, SeparateOptimizers
from sb3_ppo_notes.rules.schedules import value_at

#: Modules that only one of the two uses, under SB3's names, sb3-contrib's and ours.
ACTOR = ("action_net", "mlp_extractor.policy_net", "pi_features_extractor", "lstm_actor")
CRITIC = ("value_net", "mlp_extractor.value_net", "vf_features_extractor", "lstm_critic", "critic")


def owners_of(policy: Any, parameters: Sequence[th.nn.Parameter]) -> list[str]:
    """The owner of each weight.

    :param policy: any actor-critic policy.
    :param parameters: some of its weights.
    :return: ``"actor"``, ``"critic"`` or ``"shared"`` for each; shared is also what lies in none of the modules that
        SB3's policies are made of, a deviation or exploration weights aside: those are the actor's.
    """
    actor, critic = ({id(weight) for name in names for weight in _weights(policy, name)} for names in (ACTOR, CRITIC))
    actor.add(id(getattr(policy, "log_std", None)))

    def owner(parameter: th.nn.Parameter) -> str:
        is_actors, is_critics = id(parameter) in actor, id(parameter) in critic
        return "shared" if is_actors == is_critics else "actor" if is_actors else "critic"

    return [owner(parameter) for parameter in parameters]


def _weights(policy: Any, name: str) -> Iterator[th.nn.Parameter]:
    module = policy
    for part in name.split("."):
        module = getattr(module, part, None)
    return module.parameters() if isinstance(module, th.nn.Module) else iter(())


def split_parameters(policy: ActorCriticPolicy) -> tuple[list[th.nn.Parameter], list[th.nn.Parameter]]:
    """The weights of actor and critic.

    :param policy: an SB3 policy with separate networks.
    :return: the actor's and the critic's.
    :raises ValueError: if they share weights.
    """
    critic_modules = [policy.value_net, policy.mlp_extractor.value_net]
    actor_modules = [policy.action_net, policy.mlp_extractor.policy_net]
    if policy.share_features_extractor:
        shared = list(policy.features_extractor.parameters())
    else:
        shared = []
        critic_modules.append(policy.vf_features_extractor)
        actor_modules.append(policy.pi_features_extractor)
    critic = [parameter for module in critic_modules for parameter in module.parameters()]
    critic_ids = {id(parameter) for parameter in critic}
    overlap = [
        parameter for module in actor_modules for parameter in module.parameters() if id(parameter) in critic_ids
    ]
    if shared or overlap:
        raise InvalidValueError(
            "rule must not ask for separate optimizers when actor and critic share weights, got a shared features "
            "extractor (share_features_extractor=False makes two)"
        )
    # Whatever is not the critic's is the actor's: log_std belongs to no module.
    return [parameter for parameter in policy.parameters() if id(parameter) not in critic_ids], critic


def separate_optimizers(
    policy: ActorCriticPolicy, settings: SeparateOptimizers
) -> tuple[th.optim.Optimizer, th.optim.Optimizer]:
    """One optimiser each for actor and critic, of the policy's class and with its options.

    :param policy: an SB3 policy with separate networks.
    :param settings: the learning rates.
    :return: the actor's and the critic's.
    :raises ValueError: if they share weights.
    """
    actor, critic = split_parameters(policy)

    def build(parameters: list[th.nn.Parameter], learning_rate: float | Schedule) -> th.optim.Optimizer:
        rate = value_at("learning_rate", learning_rate, 1.0)
        return policy.optimizer_class(parameters, lr=rate, **policy.optimizer_kwargs)  # type: ignore[call-arg]

    return build(actor, settings.actor.learning_rate), build(critic, settings.critic.learning_rate)
