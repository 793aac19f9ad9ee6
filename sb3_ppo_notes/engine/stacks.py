"""Which policies are two plain stacks of layers."""

from typing import Any

from stable_baselines3.common.distributions import StateDependentNoiseDistribution
from stable_baselines3.common.torch_layers import MlpExtractor
from torch import nn

from sb3_ppo_notes.engine.plain_networks import Towers, is_flattening
from sb3_ppo_notes.policies.actor_critic import formulas_of
from sb3_ppo_notes.policies.recurrent import NotesRecurrentPolicy
from sb3_ppo_notes.policies.shipped import keeps_sb3_method, own_code_of

#: Methods of SB3's that the stacks stand in for.
STACKED = ("evaluate_actions", "extract_features", "predict_values")


def towers_of(policy: Any) -> Towers | None:
    """The networks of a policy, if they are two plain stacks.

    :param policy: any policy.
    :return: ``None`` if anything about them is out of the ordinary: another extractor (unless a memory lies between) or
        activation, a layer frozen, shared or without bias, gSDE, hooks, a class or a method of somebody's own.
    """
    if getattr(policy, "precision", "float32") != "float32":
        return None
    if not keeps_sb3_method(policy, *STACKED) or formulas_of(policy) is None or own_code_of(policy) is not None:
        return None
    extractor = policy.mlp_extractor
    # The last two are asked for values and for distributions alone.
    extractors = (policy.features_extractor, policy.pi_features_extractor, policy.vf_features_extractor)
    # Below a memory anything may lie: autograd goes down there.
    is_recurrent = isinstance(policy, NotesRecurrentPolicy)
    ordinary = (
        (is_recurrent or all(map(is_flattening, extractors)))
        and type(extractor) is MlpExtractor
        and not isinstance(policy.action_dist, StateDependentNoiseDistribution)
    )
    if not ordinary:
        return None
    nets = [list(net) for net in (extractor.policy_net, extractor.value_net) if type(net) is nn.Sequential]
    # Without an activation after its last layer a network is something else.
    if len(nets) < 2 or any(len(net) % 2 for net in nets):
        return None
    stacks = [[*net[0::2], head] for net, head in zip(nets, (policy.action_net, policy.value_net), strict=True)]
    layers = [layer for stack in stacks for layer in stack]
    activations = {type(module) for net in nets for module in net[1::2]}
    if not activations <= {nn.Tanh, nn.ReLU} or len(activations) > 1:
        return None
    if not all(type(layer) is nn.Linear and layer.bias is not None for layer in layers):
        return None
    actor, critic = ([(layer.weight, layer.bias) for layer in stack] for stack in stacks)
    own = [weight for layer in (*actor, *critic) for weight in layer]
    log_std = getattr(policy, "log_std", None)
    if not all(weight.requires_grad for weight in (own if log_std is None else [*own, log_std])):
        return None
    # A weight that occurs twice has two gradients to add up.
    others = _below(policy) if is_recurrent else []
    ids = {id(weight) for weight in own}
    if len(ids) < len(own) or any(id(weight) in ids for weight in others):
        return None
    return Towers(actor, critic, next(iter(activations), nn.Tanh), policy)


def _below(policy: Any) -> list[nn.Parameter]:
    """The weights of all but the two stacks."""
    stacks = ("mlp_extractor", "action_net", "value_net")
    return [weight for name, module in policy.named_children() if name not in stacks for weight in module.parameters()]
