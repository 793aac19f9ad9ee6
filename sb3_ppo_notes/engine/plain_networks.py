"""The two networks of an ``MlpPolicy`` as plain matrix products, for acting: calling some ten modules at every step
costs more than their arithmetic. The same operations in the same order give the same bits.
"""

from typing import Any

import torch as th
from gymnasium import spaces
from stable_baselines3.common.distributions import StateDependentNoiseDistribution
from stable_baselines3.common.torch_layers import FlattenExtractor, MlpExtractor
from torch import nn
from torch.nn.functional import linear

from sb3_ppo_notes.policies.actor_critic import Latents, formulas_of
from sb3_ppo_notes.policies.shipped import keeps_sb3_method, own_code_of

#: Weight and bias of a linear layer, or an activation.
Layer = Any
ACTIVATIONS = {nn.Tanh: th.tanh, nn.ReLU: th.relu}
#: Methods of SB3's that the plain networks stand in for.
REPLACED = ("forward", "evaluate_actions", "extract_features", "predict_values")


class PlainNetworks:
    """Actor and critic from features to outputs, action layer and value layer included."""

    def __init__(self, policy: Any, actor: list[Layer], critic: list[Layer]):
        self.policy = policy
        self.actor = actor
        self.critic = critic
        space = policy.observation_space
        extractors = (policy.features_extractor, policy.pi_features_extractor, policy.vf_features_extractor)
        is_vector = isinstance(space, spaces.Box) and len(space.shape) == 1
        self._features_are_observations = is_vector and all(map(_is_flattening, extractors))

    def features(self, observations: Any, recurrence: Any = None) -> Latents:
        """The inputs of actor and critic, ``[N, k]`` each, and a recurrent policy's next states."""
        features = observations
        if not self._features_are_observations or observations.dtype != th.float32:
            features = self.policy.extract_features(observations)
        if recurrence is not None:
            return Latents(*self.policy.remember(features, recurrence))
        pi, vf = (features, features) if isinstance(features, th.Tensor) else features
        return Latents(pi, vf, None)

    def action_output(self, features: th.Tensor) -> th.Tensor:
        """Output of the action layer, ``[N, k']``."""
        return _run(self.actor, features)

    def values(self, features: th.Tensor) -> th.Tensor:
        """V(s), ``[N, 1]``."""
        return _run(self.critic, features)


def plain_networks_of(policy: Any) -> PlainNetworks | None:
    """``None`` for any policy whose modules must be called: gSDE, other layers or activations, half precision, hooks, a
    class or a method of the user's own.
    """
    if not keeps_sb3_method(policy, *REPLACED) or formulas_of(policy) is None or own_code_of(policy) is not None:
        return None
    extractor = policy.mlp_extractor
    is_other = isinstance(policy.action_dist, StateDependentNoiseDistribution) or type(extractor) is not MlpExtractor
    if is_other or getattr(policy, "precision", "float32") != "float32":
        return None
    actor = _layers(extractor.policy_net, policy.action_net)
    critic = _layers(extractor.value_net, policy.value_net)
    return PlainNetworks(policy, actor, critic) if actor and critic else None


def _layers(network: nn.Module, head: nn.Module) -> list[Layer] | None:
    layers: list[Layer] = []
    for module in (*network, head) if type(network) is nn.Sequential else (network,):
        if type(module) is nn.Linear:
            layers.append((module.weight, module.bias))
        elif type(module) in ACTIVATIONS:
            layers.append(ACTIVATIONS[type(module)])
        else:
            return None
    return layers


def _run(layers: list[Layer], features: th.Tensor) -> th.Tensor:
    for layer in layers:
        features = linear(features, *layer) if type(layer) is tuple else layer(features)
    return features


def _is_flattening(extractor: Any) -> bool:
    """``True`` for an extractor that lays observations out in rows and does nothing else."""
    if type(extractor) is not FlattenExtractor:
        return False
    flatten = extractor.flatten
    return type(flatten) is nn.Flatten and (flatten.start_dim, flatten.end_dim) == (1, -1)
