"""One body for actor and critic: networks in which the two share their first layers."""

from typing import Any

import torch as th
from gymnasium import spaces
from stable_baselines3.common.preprocessing import get_flattened_obs_dim
from stable_baselines3.common.torch_layers import BaseFeaturesExtractor
from torch import nn


class SharedTrunk(BaseFeaturesExtractor):
    """Fully connected layers that actor and critic share, for ``features_extractor_class``.

    SB3's ``net_arch=[256]`` makes two separate networks of 256 units. This one, with ``net_arch=[]``, makes one, and
    its two heads sit directly on it. The gradients of policy and value loss then add up in the trunk, and ``vf_coef``
    says who is heard.

    :param observation_space: a space that flattens.
    :param layers: units of each layer.
    :param activation_fn: after each layer.
    """

    def __init__(
        self, observation_space: spaces.Space[Any], layers: list[int], activation_fn: type[nn.Module] = nn.ReLU
    ) -> None:
        super().__init__(observation_space, features_dim=layers[-1])
        modules: list[nn.Module] = [nn.Flatten()]
        size = get_flattened_obs_dim(observation_space)
        for units in layers:
            modules += [nn.Linear(size, units), activation_fn()]
            size = units
        self.layers = nn.Sequential(*modules)

    def forward(self, observations: th.Tensor) -> th.Tensor:
        """The last shared layer.

        :param observations: ``[N, ...]``.
        :return: ``[N, features_dim]``.
        """
        features: th.Tensor = self.layers(observations)
        return features


def shared_trunk(layers: list[int], activation_fn: type[nn.Module] = nn.ReLU) -> dict[str, Any]:
    """The ``policy_kwargs`` of a network with one shared body and two linear heads.

    :param layers: units of each shared layer.
    :param activation_fn: after each layer.
    :return: keyword arguments for an SB3 actor-critic policy.
    """
    return {
        "net_arch": [],
        "features_extractor_class": SharedTrunk,
        "features_extractor_kwargs": {"layers": layers, "activation_fn": activation_fn},
        "activation_fn": activation_fn,
    }
