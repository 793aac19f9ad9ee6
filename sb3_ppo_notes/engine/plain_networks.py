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
from stable_baselines3.common.policies import ActorCriticPolicy
from stable_baselines3.common.preprocessing import preprocess_obs
from stable_baselines3.common.torch_layers import FlattenExtractor
from torch import nn
from torch.nn.functional import linear

from sb3_ppo_notes.kernels import lstm
from sb3_ppo_notes.kernels.dense import Stack
from sb3_ppo_notes.policies.actor_critic import Latents

#: (weight, bias) of one network's layers from input to output; the activation follows all but the last.
Layers = list[tuple[nn.Parameter, nn.Parameter]]


class Outputs(NamedTuple):
    """What the networks say of a minibatch.

    :param action: ``[N, k]``, the action layer's output.
    :param values: ``[N, 1]``, V(s); reward units.
    :param latent_pi: ``[N, k']``, the layer before the action layer, where gSDE needs it.
    """

    action: th.Tensor
    values: th.Tensor
    latent_pi: th.Tensor | None = None


class Towers:
    """Actor and critic as two stacks of linear layers.

    :param actor: the actor's layers, the action layer last.
    :param critic: the critic's layers, the value layer last.
    :param activation: ``nn.Tanh`` or ``nn.ReLU``, between the layers.
    :param policy: whose layers they are.
    """

    def __init__(self, actor: Layers, critic: Layers, activation: type[nn.Module], policy: ActorCriticPolicy):
        #: What a recurrent policy's networks have below their last layers: it is run along with the memory.
        self.stacks = _stacks_of(actor, critic, activation, policy)
        self.actor = actor[-1:] if self.stacks else actor
        self.critic = critic[-1:] if self.stacks else critic
        self.activation = activation
        self.activate = th.tanh if activation is nn.Tanh else th.relu
        self.policy = policy
        #: The ids of all their weights.
        self.inside = {id(weight) for layer in (*self.actor, *self.critic) for weight in layer}
        space = policy.observation_space
        # Vectors go in as they are; everything else is scaled, one-hot coded or flattened first.
        self.is_vector = isinstance(space, spaces.Box) and len(space.shape) == 1
        #: Whether a recurrent policy's features are the observations themselves.
        self.is_untouched = (
            self.is_vector and is_flattening(policy.features_extractor) and policy.share_features_extractor
        )

    def forward(self, observations: Any, recurrence: Any = None) -> "TowerPass":
        """Run both networks.

        :param observations: ``[N, ...]``, not yet preprocessed.
        :param recurrence: how the rows lie in sequences; ``None`` for a policy without memory.
        :return: the outputs, and what is needed to go back.
        """
        return self.stand_on(self.ground(observations, recurrence))

    def stand_on(self, ground: Latents, goes_below: tuple[bool, bool] | None = None) -> "TowerPass":
        """Run both networks.

        :param ground: what they stand on.
        :param goes_below: whether actor's and critic's gradient is wanted there, too; ``None``: where there is a graph.
        :return: the outputs, and what is needed to go back.
        """
        with th.no_grad():
            actor, critic = self._up(self.actor, ground.pi.detach()), self._up(self.critic, ground.vf.detach())
        outputs = Outputs(actor.pop().requires_grad_(), critic.pop().requires_grad_())
        below = goes_below or (ground.pi.requires_grad, ground.vf.requires_grad)
        return TowerPass(self, outputs, actor, critic, ground, below)

    def ground(self, observations: Any, recurrence: Any = None) -> Latents:
        """What the networks stand on: the observations themselves, or what a memory makes of them, with its graph.

        :param observations: ``[N, ...]``, not yet preprocessed.
        :param recurrence: how the rows lie in sequences; ``None`` for a policy without memory.
        :return: ``[N, k]`` for the actor and for the critic, and a recurrent policy's next states.
        """
        policy: Any = self.policy
        if recurrence is not None:
            is_ready = self.is_untouched and observations.dtype == th.float32
            features = observations if is_ready else policy.extract_features(observations)
            stacks = (self.stacks,) if self.stacks else ()
            return Latents(*policy.remember(features, recurrence, *stacks))
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
        self, layers: Layers, inputs: list[th.Tensor], gradient: th.Tensor, goes_below: bool
    ) -> tuple[dict[int, th.Tensor], th.Tensor | None]:
        """From the gradient at the output to those of all weights, and of what the network stands on.

            ∂W = ∂yᵀ·x          ∂b = Σ ∂y          ∂x = ∂y·W

        :param layers: of one network.
        :param inputs: ``[N, k]`` of each layer.
        :param gradient: ``[N, k]`` at the last layer's output.
        :param goes_below: whether the gradient at what the network stands on is wanted.
        :return: by the ``id`` of the weight; ``[N, k]`` at the ground, or ``None``.
        """
        gradients = {}
        for index in range(len(layers) - 1, -1, -1):
            weight, bias = layers[index]
            gradients[id(weight)] = gradient.t().mm(inputs[index])
            gradients[id(bias)] = gradient.sum(0)
            if index:
                gradient = self._through_activation(gradient.mm(weight), inputs[index])
        return gradients, gradient.mm(layers[0][0]) if goes_below else None

    def outside(self, parameters: Sequence[th.Tensor]) -> list[th.Tensor]:
        """Those weights that are none of the networks'.

        :param parameters: any.
        :return: in their order.
        """
        return [parameter for parameter in parameters if id(parameter) not in self.inside]

    def whole(
        self,
        found: dict[int, Any],
        bottoms: Sequence[tuple[Any, th.Tensor | None]],
        parameters: Sequence[th.Tensor],
    ) -> list[th.Tensor | None]:
        """The gradient of everything: of the networks, and of what they stand on, where autograd goes on.

        :param found: of :meth:`TowerPass.above`.
        :param bottoms: what the networks stand on, with its graph, and the gradient there, ``None`` for none.
        :param parameters: whose gradients are wanted.
        :return: in their order; ``None`` for one that has no part in the loss.
        """
        ends = [(top, bottom) for top, bottom in bottoms if bottom is not None]
        if ends:
            outside = self.outside(parameters)
            tops, slopes = zip(*ends, strict=True)
            below = th.autograd.grad(tops, outside, slopes, allow_unused=True)
            found |= {id(weight): part for weight, part in zip(outside, below, strict=True) if part is not None}
        return [found.get(id(parameter)) for parameter in parameters]

    def _through_activation(self, gradient: th.Tensor, output: th.Tensor) -> th.Tensor:
        if self.activation is nn.Tanh:
            return th.ops.aten.tanh_backward(gradient, output)  # type: ignore[no-any-return]
        return th.ops.aten.threshold_backward(gradient, output, 0)  # type: ignore[no-any-return]


def is_flattening(extractor: Any) -> bool:
    """Whether an extractor of features lays the observations out in rows and does nothing else.

    :param extractor: of a policy.
    :return: ``True`` for SB3's ``FlattenExtractor`` as SB3 makes it.
    """
    if type(extractor) is not FlattenExtractor:
        return False
    flatten = extractor.flatten
    return type(flatten) is nn.Flatten and (flatten.start_dim, flatten.end_dim) == (1, -1)


def _stacks_of(actor: Layers, critic: Layers, activation: type[nn.Module], policy: Any) -> list[Stack]:
    """All but the last layers, if our own code can run them on top of a memory each."""
    if getattr(policy, "lstm_critic", None) is None or not isinstance(policy.lstm_actor, nn.LSTM):
        return []
    stacks = [Stack(layers[:-1], activation is nn.Tanh) for layers in (actor, critic)]
    return (
        stacks
        if lstm.LIBRARY is not None and all(stack.can_run(policy.lstm_actor.hidden_size) for stack in stacks)
        else []
    )


class TowerPass:
    """One minibatch on its way through the networks and back.

    :param towers: the networks.
    :param outputs: of the networks; leaves of the graph.
    :param actor_inputs: ``[N, k]`` of each of the actor's layers.
    :param critic_inputs: ``[N, k]`` of each of the critic's layers.
    :param ground: what the networks stand on.
    :param goes_below: whether actor's and critic's gradient is wanted there, too.
    """

    def __init__(
        self,
        towers: Towers,
        outputs: Outputs,
        actor_inputs: list[th.Tensor],
        critic_inputs: list[th.Tensor],
        ground: Latents,
        goes_below: tuple[bool, bool],
    ):
        self.towers = towers
        self.outputs = outputs
        self.actor_inputs = actor_inputs
        self.critic_inputs = critic_inputs
        self.ground = ground
        self.goes_below = goes_below

    def gradients(self, loss: th.Tensor, parameters: Sequence[th.Tensor]) -> list[th.Tensor | None]:
        """Of a loss that depends on the weights only through the outputs, or directly on weights outside the networks
        (a Gaussian's deviation).

        :param loss: scalar, with its graph.
        :param parameters: whose gradients are wanted.
        :return: in their order; ``None`` for one that has no part in the loss.
        """
        found, bottoms = self.above(loss, parameters)
        return self.towers.whole(found, list(zip(self.ground, bottoms, strict=False)), parameters)

    def above(
        self, loss: th.Tensor, parameters: Sequence[th.Tensor]
    ) -> tuple[dict[int, Any], tuple[th.Tensor | None, th.Tensor | None]]:
        """The same, down to what the networks stand on.

        :param loss: scalar, with its graph.
        :param parameters: whose gradients are wanted.
        :return: by the ``id`` of the weight; ``[N, k]`` at the actor's ground and at the critic's, ``None`` where it is
            not wanted or has no part in the loss.
        """
        towers = self.towers
        outside = towers.outside(parameters)
        leaves = [self.outputs.action, self.outputs.values, *outside]
        at_action, at_values, *others = th.autograd.grad(loss, leaves, allow_unused=True)
        found: dict[int, Any] = {id(parameter): other for parameter, other in zip(outside, others, strict=True)}
        bottoms: list[th.Tensor | None] = [None, None]
        with th.no_grad():
            for index, (layers, inputs, gradient) in enumerate(
                ((towers.actor, self.actor_inputs, at_action), (towers.critic, self.critic_inputs, at_values))
            ):
                if gradient is not None:
                    own, bottoms[index] = towers.down(layers, inputs, gradient, self.goes_below[index])
                    found |= own
        return found, (bottoms[0], bottoms[1])
