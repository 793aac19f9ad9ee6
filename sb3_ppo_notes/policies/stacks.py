"""Which policies are two plain stacks of layers."""

from typing import Any

from stable_baselines3.common.distributions import StateDependentNoiseDistribution
from stable_baselines3.common.torch_layers import FlattenExtractor, MlpExtractor
from torch import nn

from sb3_ppo_notes.policies.actor_critic import formulas_of, keeps_sb3_method
from sb3_ppo_notes.policies.hooks import has_hooks, is_watched
from sb3_ppo_notes.policies.recurrent import NotesRecurrentPolicy
from sb3_ppo_notes.policies.towers import Towers

#: Methods of SB3's that the stacks stand in for.
STACKED = ("evaluate_actions", "extract_features", "predict_values")


def towers_of(policy: Any) -> Towers | None:
    """The networks of a policy, if they are two plain stacks.

    :param policy: any policy.
    :return: ``None`` if anything about them is out of the ordinary: another extractor (unless a memory lies between) or
        activation, a layer frozen, shared, hooked or without bias, gSDE, a method of the user's own.
    """
    if getattr(policy, "precision", "float32") != "float32":
        return None
    if formulas_of(policy) is None or not keeps_sb3_method(policy, *STACKED):
        return None
    extractor = policy.mlp_extractor
    # Below a memory anything may lie: autograd goes down there.
    is_recurrent = isinstance(policy, NotesRecurrentPolicy)
    ordinary = (
        (is_recurrent or type(policy.features_extractor) is FlattenExtractor)
        and type(extractor) is MlpExtractor
        and not isinstance(policy.action_dist, StateDependentNoiseDistribution)
    )
    if not ordinary:
        return None
    # The children by hand: walking over policy.modules() would take longer than a short update.
    nets = [list(net._modules.values()) for net in (extractor.policy_net, extractor.value_net)]
    stacks: list[list[Any]] = [
        [*net[0::2], head] for net, head in zip(nets, (policy.action_net, policy.value_net), strict=True)
    ]
    layers = [layer for stack in stacks for layer in stack]
    between = [module for net in nets for module in net[1::2]]
    activations = {type(module) for module in between}
    if not activations <= {nn.Tanh, nn.ReLU} or len(activations) > 1:
        return None
    if not all(type(layer) is nn.Linear and layer.bias is not None for layer in layers):
        return None
    below = [] if is_recurrent else [policy.features_extractor]
    holders = [*below, extractor, extractor.policy_net, extractor.value_net]
    if any(map(has_hooks, [*holders, *layers, *between])):
        return None
    actor, critic = ([(layer.weight, layer.bias) for layer in stack] for stack in stacks)
    own = [weight for layer in (*actor, *critic) for weight in layer]
    log_std = getattr(policy, "log_std", None)
    if not all(map(_is_plain, own if log_std is None else [*own, log_std])):
        return None
    # A weight that occurs twice has two gradients to add up; below a memory, autograd gives them without any hooks.
    others = _below(policy) if is_recurrent else []
    ids = {id(weight) for weight in own}
    if len(ids) < len(own) or any(id(weight) in ids or is_watched(weight) for weight in others):
        return None
    return Towers(actor, critic, next(iter(activations), nn.Tanh), policy)


def _is_plain(weight: Any) -> bool:
    """Whether a weight is trained and nobody has hooks on its gradient."""
    return weight.requires_grad and not is_watched(weight)


def _below(policy: Any) -> list[nn.Parameter]:
    """The weights of all but the two stacks."""
    stacks = ("mlp_extractor", "action_net", "value_net")
    return [weight for name, module in policy.named_children() if name not in stacks for weight in module.parameters()]
