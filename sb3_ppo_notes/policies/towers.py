"""The two networks of an ``MlpPolicy`` without autograd: forward and backward as plain matrix products.

Autograd records a graph of some thirty nodes for them and walks it back, minibatch after minibatch, although it never
changes; for small networks that costs more than the arithmetic. Here are the same operations in the same order, so the
gradients are autograd's, bit for bit. What lies between the networks' outputs and the loss, autograd still does: that
is where rules and distributions differ.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch as th
from gymnasium import spaces
from stable_baselines3.common.distributions import StateDependentNoiseDistribution
from stable_baselines3.common.policies import ActorCriticPolicy
from stable_baselines3.common.preprocessing import preprocess_obs
from stable_baselines3.common.torch_layers import FlattenExtractor, MlpExtractor
from torch import nn
from torch.nn.functional import linear

from sb3_ppo_notes.policies.actor_critic import Latents, formulas_of, keeps_sb3_method
from sb3_ppo_notes.policies.hooks import has_hooks, is_watched
from sb3_ppo_notes.policies.recurrent import NotesRecurrentPolicy

#: (weight, bias) of one network's layers from input to output; the activation follows all but the last.
Layers = list[tuple[nn.Parameter, nn.Parameter]]

#: Methods of SB3's that the stacks stand in for.
STACKED = ("evaluate_actions", "extract_features", "predict_values")


class Outputs(NamedTuple):
    """What the networks say of a minibatch.

    :param action: ``[N, k]``, the action layer's output.
    :param values: ``[N, 1]``, V(s); reward units.
    """

    action: th.Tensor
    values: th.Tensor


class Towers:
    """Actor and critic as two stacks of linear layers.

    :param actor: the actor's layers, the action layer last.
    :param critic: the critic's layers, the value layer last.
    :param activation: ``nn.Tanh`` or ``nn.ReLU``, between the layers.
    :param policy: whose layers they are.
    """

    def __init__(self, actor: Layers, critic: Layers, activation: type[nn.Module], policy: ActorCriticPolicy):
        self.actor = actor
        self.critic = critic
        self.activation = activation
        self.activate = th.tanh if activation is nn.Tanh else th.relu
        self.policy = policy
        #: The ids of all their weights.
        self.inside = {id(weight) for layer in (*actor, *critic) for weight in layer}
        space = policy.observation_space
        # Vectors go in as they are; everything else is scaled, one-hot coded or flattened first.
        self.is_vector = isinstance(space, spaces.Box) and len(space.shape) == 1

    def forward(self, observations: Any, recurrence: Any = None) -> "TowerPass":
        """Run both networks.

        :param observations: ``[N, ...]``, not yet preprocessed.
        :param recurrence: how the rows lie in sequences; ``None`` for a policy without memory.
        :return: the outputs, and what is needed to go back.
        """
        ground = self.ground(observations, recurrence)
        with th.no_grad():
            actor, critic = self._up(self.actor, ground.pi.detach()), self._up(self.critic, ground.vf.detach())
        outputs = Outputs(actor.pop().requires_grad_(), critic.pop().requires_grad_())
        return TowerPass(self, outputs, actor, critic, ground)

    def ground(self, observations: Any, recurrence: Any = None) -> Latents:
        """What the networks stand on: the observations themselves, or what a memory makes of them, with its graph.

        :param observations: ``[N, ...]``, not yet preprocessed.
        :param recurrence: how the rows lie in sequences; ``None`` for a policy without memory.
        :return: ``[N, k]`` for the actor and for the critic, and a recurrent policy's next states.
        """
        policy: Any = self.policy
        if recurrence is not None:
            return Latents(*policy.remember(policy.extract_features(observations), recurrence))
        features = observations
        if not self.is_vector or observations.dtype != th.float32:
            features = preprocess_obs(observations, policy.observation_space, policy.normalize_images).flatten(1)  # type: ignore[union-attr]
        return Latents(features, features, None)

    def action_output(self, features: th.Tensor) -> th.Tensor:
        """What the action layer says, without a graph.

        :param features: ``[N, k]``.
        :return: ``[N, k']``.
        """
        return self._top(self.actor, features)

    def values(self, features: th.Tensor) -> th.Tensor:
        """V(s), without a graph.

        :param features: ``[N, k]``.
        :return: ``[N, 1]``; reward units.
        """
        return self._top(self.critic, features)

    def _top(self, layers: Layers, features: th.Tensor) -> th.Tensor:
        for weight, bias in layers[:-1]:
            features = self.activate(linear(features, weight, bias))
        return linear(features, *layers[-1])

    def _up(self, layers: Layers, features: th.Tensor) -> list[th.Tensor]:
        """The input of every layer, then the last one's output."""
        steps = [features]
        for weight, bias in layers[:-1]:
            steps.append(self.activate(linear(steps[-1], weight, bias)))
        steps.append(linear(steps[-1], *layers[-1]))
        return steps

    def down(
        self, layers: Layers, inputs: list[th.Tensor], gradient: th.Tensor, ground: th.Tensor
    ) -> tuple[dict[int, th.Tensor], th.Tensor | None]:
        """From the gradient at the output to those of all weights, and of what the network stands on.

            ∂W = ∂yᵀ·x          ∂b = Σ ∂y          ∂x = ∂y·W

        :param layers: of one network.
        :param inputs: ``[N, k]`` of each layer.
        :param gradient: ``[N, k]`` at the last layer's output.
        :param ground: ``[N, k]``, the first input with its graph, if it has one.
        :return: by the ``id`` of the weight; ``[N, k]`` at the ground, ``None`` if nothing there is trained.
        """
        gradients = {}
        for index in range(len(layers) - 1, -1, -1):
            weight, bias = layers[index]
            gradients[id(weight)] = gradient.t().mm(inputs[index])
            gradients[id(bias)] = gradient.sum(0)
            if index:
                gradient = self._through_activation(gradient.mm(weight), inputs[index])
        return gradients, gradient.mm(layers[0][0]) if ground.requires_grad else None

    def _through_activation(self, gradient: th.Tensor, output: th.Tensor) -> th.Tensor:
        if self.activation is nn.Tanh:
            return th.ops.aten.tanh_backward(gradient, output)  # type: ignore[no-any-return]
        return th.ops.aten.threshold_backward(gradient, output, 0)  # type: ignore[no-any-return]


class TowerPass:
    """One minibatch on its way through the networks and back.

    :param towers: the networks.
    :param outputs: of the networks; leaves of the graph.
    :param actor_inputs: ``[N, k]`` of each of the actor's layers.
    :param critic_inputs: ``[N, k]`` of each of the critic's layers.
    :param ground: what the networks stand on.
    """

    def __init__(
        self,
        towers: Towers,
        outputs: Outputs,
        actor_inputs: list[th.Tensor],
        critic_inputs: list[th.Tensor],
        ground: Latents,
    ):
        self.towers = towers
        self.outputs = outputs
        self.actor_inputs = actor_inputs
        self.critic_inputs = critic_inputs
        self.ground = ground

    def gradients(self, loss: th.Tensor, parameters: Sequence[th.Tensor]) -> list[th.Tensor | None]:
        """Of a loss that depends on the weights only through the outputs, or directly on weights outside the networks
        (a Gaussian's deviation).

        :param loss: scalar, with its graph.
        :param parameters: whose gradients are wanted.
        :return: in their order; ``None`` for one that has no part in the loss.
        """
        towers, ground = self.towers, self.ground
        outside = [parameter for parameter in parameters if id(parameter) not in towers.inside]
        at_action, at_values, *others = th.autograd.grad(loss, [*self.outputs, *outside], allow_unused=True)
        found: dict[int, Any] = {id(parameter): other for parameter, other in zip(outside, others, strict=True)}
        tops, bottoms = [], []
        with th.no_grad():
            for layers, inputs, gradient, top in (
                (towers.actor, self.actor_inputs, at_action, ground.pi),
                (towers.critic, self.critic_inputs, at_values, ground.vf),
            ):
                if gradient is None:
                    continue
                own, bottom = towers.down(layers, inputs, gradient, top)
                found |= own
                if bottom is not None:
                    tops.append(top)
                    bottoms.append(bottom)
        if tops:
            below = th.autograd.grad(tops, outside, bottoms, allow_unused=True)
            found |= {id(weight): part for weight, part in zip(outside, below, strict=True) if part is not None}
        return [found.get(id(parameter)) for parameter in parameters]


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
