"""Policies with a memory: an LSTM or a GRU between the features and the heads."""

from typing import Any, Literal, NamedTuple

import numpy as np
import torch as th
from gymnasium import spaces
from stable_baselines3.common.torch_layers import MlpExtractor
from torch import nn

from sb3_ppo_notes.formulas.checks import InvalidValueError, check_choice, check_integer
from sb3_ppo_notes.policies.hooks import has_hooks
from sb3_ppo_notes.policies.networks import NotesActorCriticCnnPolicy, NotesActorCriticPolicy, NotesMultiInputPolicy

States = tuple[th.Tensor, ...]


class Recurrence(NamedTuple):
    """How the rows of a batch lie in sequences. Sequences never mix environments and never cross an episode's start.

    :param positions: ``[N]``, place of each row in the ``[L·S]`` grid (step · S + lane).
    :param length: L, steps of a lane: of the longest sequence.
    :param n_lanes: S.
    :param states: of every recurrent layer at each lane's first step, ``[layers, S, H]`` each.
    :param breaks: ``[R]``, places in the grid between two sequences of a lane, where everything is forgotten; ``None``
        if each sequence has a lane of its own.
    """

    positions: th.Tensor
    length: int
    n_lanes: int
    states: States
    breaks: th.Tensor | None = None


class NotesRecurrentPolicy(NotesActorCriticPolicy):
    """An actor-critic policy with memory. Its arguments are those of sb3-contrib's ``RecurrentActorCriticPolicy``.

    :param observation_space: of one observation.
    :param action_space: of one action.
    :param lr_schedule: learning rate as a function of the remaining progress.
    :param args: as :class:`NotesActorCriticPolicy`.
    :param lstm_hidden_size: H, units of a recurrent layer.
    :param n_lstm_layers: recurrent layers on top of each other.
    :param shared_lstm: the critic reads the actor's memory (without training it).
    :param enable_critic_lstm: the critic has a memory of its own.
    :param lstm_kwargs: further arguments of ``nn.LSTM`` or ``nn.GRU``.
    :param rnn: ``"lstm"`` or ``"gru"``.
    :param sequence_length: steps over which a gradient goes back at most (truncated backpropagation through time,
        Williams & Peng 1990). A longer sequence is cut, and each piece begins with what was remembered there while the
        rollout was gathered. ``None``: as many as a minibatch holds, as in sb3-contrib. Fewer are faster, because
        pieces are computed side by side; what is to be remembered for longer than that is hard to learn.
    :param kwargs: as :class:`NotesActorCriticPolicy`.
    :raises ValueError: if the critic is to have its own memory and the actor's.
    """

    def __init__(
        self,
        observation_space: spaces.Space[Any],
        action_space: spaces.Space[Any],
        lr_schedule: Any,
        *args: Any,
        lstm_hidden_size: int = 256,
        n_lstm_layers: int = 1,
        shared_lstm: bool = False,
        enable_critic_lstm: bool = True,
        lstm_kwargs: dict[str, Any] | None = None,
        rnn: Literal["lstm", "gru"] = "lstm",
        sequence_length: int | None = None,
        **kwargs: Any,
    ):
        check_integer("lstm_hidden_size", lstm_hidden_size, minimum=1)
        check_integer("n_lstm_layers", n_lstm_layers, minimum=1)
        check_choice("rnn", rnn, ("lstm", "gru"))
        if sequence_length is not None:
            check_integer("sequence_length", sequence_length, minimum=1)
        if shared_lstm and enable_critic_lstm:
            raise InvalidValueError("enable_critic_lstm must be False when shared_lstm=True, got True")
        for name in ("batch_first", "bidirectional", "proj_size"):
            if (lstm_kwargs or {}).get(name):
                raise InvalidValueError(
                    f"lstm_kwargs must not contain {name!r}, which changes shapes; got {lstm_kwargs!r}"
                )
        self.recurrent_arguments = {
            "lstm_hidden_size": lstm_hidden_size,
            "n_lstm_layers": n_lstm_layers,
            "shared_lstm": shared_lstm,
            "enable_critic_lstm": enable_critic_lstm,
            "lstm_kwargs": lstm_kwargs,
            "rnn": rnn,
            "sequence_length": sequence_length,
        }
        self.sequence_length = sequence_length
        self.lstm_hidden_size = lstm_hidden_size
        super().__init__(observation_space, action_space, lr_schedule, *args, **kwargs)
        build = {"lstm": nn.LSTM, "gru": nn.GRU}[rnn]
        sizes = (self.features_dim, lstm_hidden_size, n_lstm_layers)
        self.lstm_actor = build(*sizes, **(lstm_kwargs or {}))
        self.lstm_critic = build(*sizes, **(lstm_kwargs or {})) if enable_critic_lstm else None
        self.critic = None if shared_lstm or enable_critic_lstm else nn.Linear(self.features_dim, lstm_hidden_size)
        # SB3 has built its optimiser before the recurrent layers were there.
        self.optimizer = self.optimizer_class(self.parameters(), lr=lr_schedule(1), **self.optimizer_kwargs)  # type: ignore[call-arg]

    def _build_mlp_extractor(self) -> None:
        self.mlp_extractor = MlpExtractor(
            self.lstm_hidden_size, net_arch=self.net_arch, activation_fn=self.activation_fn, device=self.device
        )

    def _get_constructor_parameters(self) -> dict[str, Any]:
        return super()._get_constructor_parameters() | self.recurrent_arguments

    @property
    def can_forget(self) -> bool:
        """Whether the memory can be wiped in the middle of a lane, so that sequences may lie end to end.

        On a GPU not: weights that are put together for a call are copied once more there. And who runs the memory in
        a way of their own knows nothing of lanes.
        """
        memories = (self.lstm_actor,) if self.lstm_critic is None else (self.lstm_actor, self.lstm_critic)
        is_own = type(self).remember is not NotesRecurrentPolicy.remember or "remember" in vars(self)
        return self.device.type == "cpu" and not is_own and all(map(_is_plain_lstm, memories))

    def initial_states(self, n: int) -> States:
        """The state before anything was seen: zeros.

        :param n: number of environments.
        :return: the actor's states, then the critic's if it has its own; ``[layers, n, H]`` each.
        """
        shape = (self.lstm_actor.num_layers, n, self.lstm_hidden_size)
        per_module = 2 if isinstance(self.lstm_actor, nn.LSTM) else 1
        n_states = per_module * (2 if self.lstm_critic is not None else 1)
        return tuple(th.zeros(shape, device=self.device) for _ in range(n_states))

    def one_step(self, states: States, episode_starts: th.Tensor) -> Recurrence:
        """A batch of one step in every environment.

        :param states: ``[layers, B, H]`` each.
        :param episode_starts: ``[B]``, 1 where an episode has just begun and the past must be forgotten.
        :return: for :meth:`remember`.
        """
        n = len(episode_starts)
        kept = (1.0 - episode_starts.float()).reshape(1, n, 1)
        return Recurrence(th.arange(n, device=self.device), 1, n, tuple(state * kept for state in states))

    def remember(self, features: Any, recurrence: Recurrence) -> tuple[th.Tensor, th.Tensor, States]:
        """What actor and critic know after each row: features of now and of before.

        :param features: ``[N, k]``, or one such tensor each for actor and critic.
        :param recurrence: how the rows lie in sequences.
        :return: ``[N, H]`` of the actor, ``[N, H]`` of the critic, and the states after the last step.
        """
        pi_features, vf_features = (features, features) if isinstance(features, th.Tensor) else features
        half = len(recurrence.states) // (2 if self.lstm_critic is not None else 1)
        grid = _grid(pi_features, recurrence)
        latent_pi, states = _run(self.lstm_actor, grid, recurrence, recurrence.states[:half])
        if self.lstm_critic is not None:
            critic_grid = grid if vf_features is pi_features else _grid(vf_features, recurrence)
            latent_vf, critic_states = _run(self.lstm_critic, critic_grid, recurrence, recurrence.states[half:])
            return latent_pi, latent_vf, states + critic_states
        # Shared: the critic reads the actor's memory, but only the actor trains it.
        latent_vf = latent_pi.detach() if self.critic is None else self.critic(vf_features)
        return latent_pi, latent_vf, states

    def predict(
        self,
        observation: Any,
        state: tuple[np.ndarray, ...] | None = None,
        episode_start: np.ndarray | None = None,
        deterministic: bool = False,
        action_masks: Any = None,
    ) -> tuple[np.ndarray, tuple[np.ndarray, ...] | None]:
        """Actions for observations, and what is to be remembered.

        :param observation: one, or a batch.
        :param state: what the last call returned, ``None`` at the beginning.
        :param episode_start: ``[N]``, where an episode has just begun; ``None`` for nowhere (the beginning aside).
        :param deterministic: the mode and not a sample.
        :param action_masks: ``[n]`` or ``[N, n]``, ``True`` where an action is allowed; ``None`` for no masks.
        :return: actions within the action space, and the next state.
        :raises ValueError: if a mask has the wrong shape or allows nothing.
        """
        from sb3_ppo_notes.policies.actor_critic import act
        from sb3_ppo_notes.policies.masks import checked_masks

        self.set_training_mode(False)
        tensor, is_batch = self.obs_to_tensor(observation)
        n = len(next(iter(tensor.values()))) if isinstance(tensor, dict) else len(tensor)
        states = self.initial_states(n)
        if state is not None:
            states = tuple(th.as_tensor(part, dtype=th.float32, device=self.device) for part in state)
        starts = th.zeros(n) if episode_start is None else th.as_tensor(np.asarray(episode_start)).float()
        masks = None if action_masks is None else checked_masks(action_masks, self.action_space, n, self.device)
        with th.no_grad():
            action = act(self, tensor, masks, self.one_step(states, starts.to(self.device)), deterministic)
        chosen = action.actions.cpu().numpy()
        if isinstance(self.action_space, spaces.Box):
            low, high = self.action_space.low, self.action_space.high
            chosen = self.unscale_action(chosen) if self.squash_output else np.clip(chosen, low, high)
        memory = tuple(part.cpu().numpy() for part in action.states or ())
        return (chosen if is_batch else chosen.squeeze(axis=0)), memory


class NotesCnnRecurrentPolicy(NotesActorCriticCnnPolicy, NotesRecurrentPolicy):
    """The same for images: the first base chooses the extractor, the second remembers."""


class NotesMultiInputRecurrentPolicy(NotesMultiInputPolicy, NotesRecurrentPolicy):
    """The same for Dict observations: the first base chooses the extractor, the second remembers."""


#: Added to a gate to shut it: exp(10,000) is infinite in every precision, so the sigmoid is 0.
SHUT = -1e4


def _is_plain_lstm(module: Any) -> bool:
    """One layer that nobody listens to."""
    is_plain = type(module) is nn.LSTM and module.num_layers == 1 and "forward" not in vars(module)
    return is_plain and not has_hooks(module)


def _grid(features: th.Tensor, recurrence: Recurrence) -> th.Tensor:
    """Rows laid out in lanes, ``[L, S, k]``; zeros where there is none.

    With breaks there is one feature more, ``[L, S, k + 1]``: 1 at a break.
    """
    size = recurrence.length * recurrence.n_lanes
    shape = (recurrence.length, recurrence.n_lanes, -1)
    if recurrence.breaks is None:
        return features.new_zeros(size, features.shape[1]).index_copy(0, recurrence.positions, features).reshape(shape)
    grid = features.new_zeros(size, features.shape[1] + 1)
    grid[recurrence.breaks, -1] = 1.0
    return grid.index_copy(0, recurrence.positions, th.nn.functional.pad(features, (0, 1))).reshape(shape)


def _run(module: Any, grid: th.Tensor, recurrence: Recurrence, states: States) -> tuple[th.Tensor, States]:
    """One call of the recurrent module on all sequences at once; what is no row never comes out.

    :param module: ``nn.LSTM`` or ``nn.GRU``.
    :param grid: of :func:`_grid`.
    :param recurrence: how the rows lie.
    :param states: at each lane's first step.
    :return: ``[N, H]``, and the states after the last step.
    """
    device = grid.device.type
    if recurrence.length == 1 and device == "cpu" and not th.is_autocast_enabled(device) and _is_plain_lstm(module):
        # One step of acting: the cell alone takes half the time. In bfloat16 it would not round as the whole LSTM does.
        hidden, cell = th.lstm_cell(grid[0], tuple(state[0] for state in states), *_weights(module))
        return hidden[recurrence.positions], (hidden.unsqueeze(0), cell.unsqueeze(0))
    if isinstance(module, nn.LSTM):
        call = module if grid.shape[2] == module.input_size else _forgetting(module)
        outputs, final = call(grid, states)
    else:
        outputs, *final = module(grid, states[0])
    return outputs.flatten(0, 1)[recurrence.positions], tuple(final)


def _weights(module: nn.LSTM) -> list[th.Tensor]:
    """Of the first layer, in torch's order."""
    names = ("weight_ih_l0", "weight_hh_l0", *(("bias_ih_l0", "bias_hh_l0") if module.bias else ()))
    return [getattr(module, name) for name in names]


def _forgetting(module: nn.LSTM) -> Any:
    """The same LSTM with one more input, which wipes its memory.

        i, f, o = σ(… − 10⁴·break)  →  c = f·c_before + i·g = 0,  h = o·tanh(c) = 0

    At a break all three gates are shut, so nothing is remembered and nothing is let out; and with a shut gate no
    gradient goes through either, neither to the steps before nor to the weights. One call serves sequences that follow
    each other, where padding each to the longest would compute half as much again for nothing.

    Source of the gates: Gers, Schmidhuber & Cummins 2000, in PyTorch's order (``nn.LSTM``). Shutting them from outside
    is our own; the oracle is each sequence run alone.
    """
    inputs, *others = _weights(module)
    column = inputs.new_full((4, module.hidden_size, 1), SHUT)
    column[2] = 0.0  # i, f, g, o: the candidate g is no gate
    weights = [th.cat((inputs, column.reshape(-1, 1)), dim=1), *others]

    def call(grid: th.Tensor, states: States) -> tuple[th.Tensor, States]:
        outputs, *final = th.lstm(grid, states, weights, module.bias, 1, 0.0, module.training, False, False)
        return outputs, tuple(final)

    return call
